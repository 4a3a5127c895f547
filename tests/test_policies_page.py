"""The page on policies: its files are what it says, its commands run, its policies keep faith."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SHELL = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
COMMANDS = [line for line in SHELL if " own" in line]  # the others, tests/test_docs.py looks at
SHIPPED = (
    "router",
    "decode_router",
    "local_prefill",
    "admission",
    "flow_control",
    "queue",
    "flipping",
    "rebalancing",
    "rate_matcher",
    "autoscaler",
    "quota",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of the page, each block's first line naming its own."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    for kind, block in BLOCKS:
        if kind != "sh":
            name = block.partition("\n")[0].removeprefix("# ")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(block, encoding="utf-8")
    return folder


def test_the_page_shows_what_it_promises() -> None:
    """Three modules, two choices, four commands; the classes take 20 lines at most."""
    kinds = [kind for kind, _ in BLOCKS]
    assert (kinds.count("python"), kinds.count("yaml"), len(COMMANDS)) == (3, 2, 4)
    for kind, block in BLOCKS:
        if kind == "python":
            assert len(block.partition("\nclass ")[2].splitlines()) <= 20


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command: str, folder: Path) -> None:
    """As they are written, with this interpreter."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=folder,
        env={**os.environ, "DISAGGSIM_PYTHON": sys.executable, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("group", SHIPPED)
def test_the_table_has_what_is_shipped(group: str) -> None:
    """Each group's row names every choice, or refers to a row that does."""
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{group}` |"))
    named = re.findall(r"`(\w+)`", row.rsplit("|", 2)[1])
    choices = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    if "the same" in row:
        assert choices == sorted(path.stem for path in (ROOT / "conf" / "router").glob("*.yaml"))
    else:
        assert named == choices

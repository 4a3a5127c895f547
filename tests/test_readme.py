"""The README's commands do what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in ``folder`` as a newcomer would in the repository, with this interpreter."""
    (folder / "scripts").symlink_to(ROOT / "scripts")
    return subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "DISAGGSIM_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.parametrize("block", blocks("sh"))
def test_the_commands_run(block: str, tmp_path: Path) -> None:
    """Every shell block runs to its end, and each ``scripts/run`` in it leaves a complete run."""
    ended = run(["sh", "-euc", block], tmp_path)
    assert ended.returncode == 0, ended.stderr
    runs = sum(line.startswith("scripts/run") for line in block.splitlines())
    assert len(list(tmp_path.rglob("summary.json"))) >= runs > 0


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_runs(block: str, tmp_path: Path) -> None:
    """Every Python block runs as a program of its own and prints something."""
    ended = run([sys.executable, "-c", block], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


def test_the_commands_are_there() -> None:
    """The two commands a newcomer needs are shown, exist and can be executed."""
    for name in ("scripts/run", "scripts/test"):
        assert any(name in block for block in blocks("sh") + blocks("text"))
        assert os.access(ROOT / name, os.X_OK)


def test_links_lead_somewhere() -> None:
    """Every relative link and picture is a file of the repository."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_settings_in_the_text_exist(tmp_path: Path) -> None:
    """The sweep block really makes one run per value."""
    (block,) = (each for each in blocks("sh") if "-m " in each)
    assert run(["sh", "-euc", block], tmp_path).returncode == 0
    assert len(list(tmp_path.glob("multirun/*/summary.json"))) == 3

"""The guide is true: its links lead somewhere, and its commands and programs are understood."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from simulator.cli import compose_any

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
CALLS = ("scripts/run", "disaggsim")


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks of these languages, lines that go on joined."""
    found = re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", text, re.M | re.S)
    return [block.replace("\\\n", " ") for block in found]


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every call of the command line a page shows.

    Those with choices of the reader's own are run by the page's own tests, with its files.
    """
    lines = [line for block in blocks(text, "sh", "text") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith(CALLS)]
    return [arguments[1:] for arguments in words if "own" not in arguments]


def settings(arguments: list[str]) -> list[str]:
    """Return the first value of every setting, flags and places to be filled in left out."""
    chosen = [each for each in arguments if "=" in each and not each.startswith(("-", "hydra"))]
    names = [each for each in chosen if not re.search(r"[=/\[][A-Z]{2,}|…|=calibrated", each)]
    return [each if re.search(r"=[\[{']", each) else each.split(",")[0] for each in names]


def slug(head: str) -> str:
    """Return the place in a page that a heading makes."""
    return re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-")


CASES = {
    f"{name}-{at}": each for name, text in TEXTS.items() for at, each in enumerate(commands(text))
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_commands_are_understood(arguments: list[str]) -> None:
    """Every setting a page shows exists and takes the value shown."""
    told = settings(arguments)
    if any(each.startswith("workload=trace") for each in told):
        told.append("workload.path=requests.jsonl")
    compose_any([each for each in told if not each.startswith(("runs=", "task="))])


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link and picture is there, and so is the place in a page it leads to."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", TEXTS[name]):
        page = ROOT / "docs" / target if target else ROOT / "docs" / name
        assert page.is_file(), f"{name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, heads), f"{name}: {target}#{anchor}"


def test_every_page_is_in_the_guide() -> None:
    """A page nobody is led to is lost."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": ([\w_-]+\.md)$", nav, re.M)
    assert sorted(listed) == sorted(TEXTS)
    assert yaml.safe_load(nav)["strict"]


def test_the_first_programs_run(tmp_path: Path) -> None:
    """The programs of the page on sweeps run as they stand."""
    for block in blocks(TEXTS["sweeps.md"], "python"):
        ended = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.splitlines()) == 3

"""The comparison with AIConfigurator: skipped where it is not installed, run where it is."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "compare_aiconfigurator"
INSTALLED = importlib.util.find_spec("aiconfigurator_core") is not None


def run() -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(INSTALLED, reason="aiconfigurator-core is installed here")
def test_without_the_package_it_is_skipped_in_a_sentence() -> None:
    """One line on stderr says what is missing and how to get it, and that is no failure."""
    done = run()
    assert done.returncode == 0
    assert not done.stdout
    assert "skipped: the package aiconfigurator-core is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not INSTALLED, reason="aiconfigurator-core is not installed here")
def test_both_sides_are_measured_and_choose() -> None:
    """Each model has two rows of speeds and two of choices, within the limits by their own side."""
    done = run()
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| Qwen", "| DeepSeek"))]
    assert len(rows) == 8
    assert sum("nothing meets the limits" in row for row in rows) == 0


def test_the_page_has_a_place_for_it() -> None:
    """The generated section stands between its two marks."""
    page = (ROOT / "docs" / "explore.md").read_text("utf-8")
    begin, end = (f"<!-- compare_aiconfigurator: {word} -->" for word in ("begin", "end"))
    assert page.count(begin) == page.count(end) == 1
    assert page.index(begin) < page.index(end)

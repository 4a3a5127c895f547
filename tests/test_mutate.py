"""The script that breaks the engine on purpose, on a toy project: what it finds and says."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_scripts import imported

ROOT = Path(__file__).parent.parent
TOY = '''"""Doubles."""


def larger(a: int, b: int) -> int:
    """Return the larger of two numbers, doubled."""
    if a > b:
        return a * 2
    return b * 2
'''
TEST = """from simulator.cluster.toy import larger


def test_larger() -> None:
    assert larger(3, 1) == 6
    assert larger(1, 5) == 10
"""
LISTED = """
faults:
  - file: simulator/cluster/toy.py
    source: return b * 2
    fault: return a * 2
    breaks: the second may be the larger
survivors:
  - file: simulator/cluster/toy.py
    source: a > b
    fault: (a >= b)
    reason: equal numbers are equally large
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Return a project of one function, its test and a copy of the script."""
    files = {
        "simulator/__init__.py": "",
        "simulator/cluster/__init__.py": "",
        "simulator/cluster/toy.py": TOY,
        "tests/simulator/cluster/test_toy.py": TEST,
        "tests/simulator/cluster/test_reference.py": TEST,
        "tests/faults.yaml": LISTED,
        "pyproject.toml": "",
        "docs/kept": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "mutate", tmp_path / "scripts" / "mutate")
    return tmp_path


def mutate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a project."""
    command = [sys.executable, folder / "scripts" / "mutate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_faults_are_noticed_or_told(toy: Path) -> None:
    """What a test notices is killed; what none does stands on the page, with why.

    Neither is tried again, but for what survived when a test has changed.
    """
    done = mutate(toy, "--sample", "all", "--write")
    assert done.returncode == 0, done.stderr
    assert "listed: 1 of 1 killed (100.0 %)" in done.stdout
    survived = [line for line in done.stdout.splitlines() if "SURVIVED" in line]
    assert len(survived) == 1
    assert "a > b → (a >= b)" in survived[0]
    page = (toy / "docs" / "reliability.md").read_text("utf-8")
    assert "`a > b` → `(a >= b)`: equal numbers are equally large." in page
    assert "| the second may be the larger |" in page
    assert (toy / "simulator" / "cluster" / "toy.py").read_text("utf-8") == TOY
    assert " s simulator" not in mutate(toy, "--sample", "all").stdout  # all is known
    with (toy / "tests" / "simulator" / "cluster" / "test_toy.py").open("a") as tests:
        tests.write("\n\n# another test might notice what survived\n")
    again = [line for line in mutate(toy, "--sample", "all").stdout.splitlines() if " s " in line]
    assert len(again) == 1
    assert "SURVIVED" in again[0]


def test_a_fault_that_no_longer_applies_is_told(toy: Path) -> None:
    """A listed fault whose source has changed ends the run with the fault and where it belongs."""
    (toy / "simulator" / "cluster" / "toy.py").write_text(TOY.replace("b * 2", "2 * b"))
    done = mutate(toy, "--check")
    assert done.returncode == 1
    told = "'return b * 2' must be in simulator/cluster/toy.py exactly once"
    assert told in done.stderr
    assert "the second may be the larger" in done.stderr


def test_tests_that_fail_without_a_fault_are_told(toy: Path) -> None:
    """Where the tests are red to begin with, nothing is tried."""
    (toy / "tests" / "simulator" / "cluster" / "test_reference.py").write_text("assert False\n")
    done = mutate(toy)
    assert done.returncode == 1
    assert "the tests fail without any fault" in done.stderr


def test_every_generated_fault_is_python_and_another_program() -> None:
    """A fault parses, and its syntax tree is not the one it came from."""
    script = imported("mutate")
    assert len(script.files("")) > 15
    for path in (*script.files("cluster/links"), *script.files("cluster/telemetry")):
        data = path.read_bytes()
        whole = ast.dump(ast.parse(data))
        for fault in script.generated(path):
            broken = data[: fault.start] + fault.fault.encode() + data[fault.end :]
            assert ast.dump(ast.parse(broken)) != whole, fault.key()


def test_every_listed_fault_has_its_place_in_today_s_source() -> None:
    """Who changes what a fault is listed for writes the fault anew."""
    done = mutate(ROOT, "--check")
    assert done.returncode == 0, done.stderr

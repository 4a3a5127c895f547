"""The Python door: ``from simulator.explore import …``, without Hydra."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import simulator.explore as package
from simulator.explore import Exploration, Lengths, Limits, Options, Platform, explore

PAGE = Path(__file__).parents[3] / "docs" / "explore.md"


def test_a_few_lines_explore(dense: Platform) -> None:
    """Objects in, the answer and its tables out."""
    done = explore(
        Exploration(
            platforms=(dense, dense),
            lengths=Lengths.constant(1024, 128),
            limits=Limits(tpot_s=0.03),
            options=Options(worker_gpus=1, max_batch=64),
        )
    )
    assert done.advice.ranked["tpot_s"].max() <= 0.03
    assert done.advice.sentence.startswith(("Disaggregate", "Stay co-located"))
    assert set(done.fronts["series"]) > {"disaggregated", "co-located"}


def test_the_packages_names_are_its_modules_own() -> None:
    """Each name the package offers is the very object that one of its modules defines."""
    for name in package.__all__:
        found = getattr(package, name)
        module = inspect.getmodule(found)
        assert module is not None
        assert module.__name__.startswith("simulator.explore.")
        assert getattr(importlib.import_module(module.__name__), name) is found


def test_the_pages_program_runs_without_hydra() -> None:
    """The program in docs/explore.md answers, and nothing in it imports Hydra."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    more = "import sys\nassert 'hydra' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", program + more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Disaggregate" in done.stdout or "Stay co-located" in done.stdout

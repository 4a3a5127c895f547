"""The floors of docs/design.md: imports go only downward, and each library stays in its place."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hardware", "workloads", "simulator")

FLOORS = {
    "hardware": 1,
    "workloads": 1,
    "simulator.errors": 2,
    "simulator.plugins": 2,
    "simulator.files": 2,
    "simulator.record": 2,
    "simulator.joined": 2,
    "simulator.scaling": 2,
    "simulator.dropped": 2,
    "simulator.measured": 2,
    "simulator.turns": 2,
    "simulator.memory": 2,
    "simulator.nearest": 2,
    "simulator.intervals": 2,
    "simulator.labels": 2,
    "simulator.aggregates": 2,
    "simulator.model": 2,
    "simulator.huggingface": 2,
    "simulator.layout": 2,
    "simulator.latency": 2,
    "simulator.policies": 3,
    "simulator.deployment": 3,
    "simulator.yaml_text": 2,
    "simulator.wire": 3,
    "simulator.elastic": 3,
    "simulator.clients": 3,
    "simulator.cache_tiers": 3,
    "simulator.trials": 3,
    "simulator.cluster": 4,
    "simulator.explore": 4,
    "simulator.results": 5,
    "simulator.lateness": 5,
    "simulator.report": 6,
    "simulator.exports": 7,
    "simulator.experiment": 7,
    "simulator.services": 7,
    "simulator.advice_page": 7,
    "simulator.counterpart": 7,
    "simulator.bound": 7,
    "simulator.planner_study": 7,
    "simulator.correction": 7,
    "simulator.goodput": 7,
    "simulator.configuration": 7,
    "simulator.settings": 7,
    "simulator.prefix_study": 7,
    "simulator.runs": 7,
    "simulator.testing": 7,
    "simulator.validation": 7,
    "simulator.tracing": 7,
    "simulator.calibration": 7,
    "simulator": 7,
    "simulator.front": 7,
    "simulator.repetition": 7,
    "simulator.compare": 8,
    "simulator.cli": 9,
    "simulator.__main__": 10,
}
"""The floor of every package and module; the longest matching name counts."""

BESIDE = {
    "simulator.results": {1, 2},
    "simulator.lateness": {1, 2, 5},
    "simulator.report": {1, 2, 5},
}
"""Floors below that may be used, where not all of them."""

SHARED = {2, 3, 7}
"""Floors whose modules may use each other; on the others neighbours know nothing of each other."""

ROOMS = (
    ("clock", "ledger", "delays"),
    *(("links",), ("workers",), ("pools",), ("traffic",), ("moves",), ("fleet",)),
    ("simulation", "audit", "telemetry"),
    ("together",),
)
"""The rooms of :mod:`simulator.cluster`, lowest first; a room uses itself and those before it."""

HOMES = {
    "simpy": ("simulator.cluster",),
    "hydra": ("simulator.cli",),
    "omegaconf": ("simulator.cli",),
    "plotly": (
        *("simulator.report", "simulator.advice_page", "simulator.compare"),
        *("simulator.goodput", "simulator.tracing"),
    ),
    "rich": ("simulator.report", "simulator.runs", "simulator.validation", "simulator.cli"),
}
"""The only modules that may import these libraries."""

LIBRARIES = {"hardware": set(), "workloads": {"numpy", "scipy", "polars"}}
"""What the ground floor may import beside the standard library and itself."""


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module's dotted name and file."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a module imports, at any depth of its code."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def home(imported: str) -> str:
    """Return the longest name in :data:`FLOORS` that contains ``imported``."""
    parts = imported.split(".")
    names = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next(name for name in names if name in FLOORS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    """A module imports only from floors below, its own package, or its own floor's neighbours."""
    here = home(name)
    below = BESIDE.get(here, set(range(1, FLOORS[here])))
    for line, imported in imports(name):
        if imported.split(".")[0] not in PACKAGES:
            continue
        there = home(imported)
        neighbour = FLOORS[there] == FLOORS[here] in SHARED
        allowed = there == here or FLOORS[there] in below or neighbour
        assert allowed, f"{name}:{line} on floor {FLOORS[here]} imports {imported}"


def room(name: str) -> int:
    """Return which of :data:`ROOMS` a module of the cluster is in."""
    first = name.split(".")[2]
    return next(number for number, names in enumerate(ROOMS) if first in names)


INDOORS = [name for name in MODULES if name.startswith("simulator.cluster.")]


@pytest.mark.parametrize("name", INDOORS)
def test_rooms_of_the_cluster_go_down(name: str) -> None:
    """A module of the event engine imports only from its own room and the ones before it."""
    for line, imported in imports(name):
        if imported.startswith("simulator.cluster."):
            assert room(imported) <= room(name), (
                f"{name}:{line} imports {imported} from a later room"
            )


@pytest.mark.parametrize("name", MODULES)
def test_libraries_stay_at_home(name: str) -> None:
    """Simpy, hydra and the like are imported where they belong and nowhere else."""
    for line, imported in imports(name):
        homes = HOMES.get(imported.split(".")[0])
        if homes is not None:
            inside = any(name == each or name.startswith(f"{each}.") for each in homes)
            assert inside, f"{name}:{line} imports {imported}, which belongs to {', '.join(homes)}"


@pytest.mark.parametrize("name", [name for name in MODULES if FLOORS[home(name)] == 1])
def test_the_ground_floor_needs_little(name: str) -> None:
    """Hardware imports only the standard library; workloads also numpy, scipy and polars."""
    package = name.split(".")[0]
    known = sys.stdlib_module_names | LIBRARIES[package] | {package}
    for line, imported in imports(name):
        assert imported.split(".")[0] in known, f"{name}:{line} imports {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "simulator"])
def test_packages_do_not_use_their_own_door(name: str) -> None:
    """``from simulator import x`` is for users: inside, a module is imported from where it is."""
    for line, imported in imports(name):
        doors = ("simulator.Experiment", "simulator.simulate")
        assert imported not in doors, f"{name}:{line} imports {imported}"
        module = imported.removeprefix("simulator.")
        whole = imported.startswith("simulator.") and "." not in module
        assert not whole, f"{name}:{line} imports {imported}: name what is used of it"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "simulator.cli"])
def test_the_library_does_not_print(name: str) -> None:
    """Results go to files and talk to logging; only the command line prints."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"{name}:{node.lineno}"


def test_every_module_has_a_floor() -> None:
    """No module of ours is placed only by the catch-all name ``simulator``."""
    for name in MODULES:
        assert name == "simulator" or home(name) != "simulator", f"{name} has no floor"

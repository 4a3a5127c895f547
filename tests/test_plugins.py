"""Classes of the user's own: found beside their settings, part of a run's identity, and told of.

A folder of the user's that goes by the name of one of ours changes nothing.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml
from command import TINY, Command

from simulator.plugins import fault, plug_ins, source_digest, sources

ROUTER = """
class Always:
    def __init__(self, worker: int = 1) -> None:
        self.worker = worker

    def choose(self, request, pool):
        return self.worker
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test see the modules another one has imported."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if "pytest-of-" in path:
            del sys.modules[name]


def own_choice(folder: Path, group: str, name: str, **settings: object) -> None:
    """Write a choice of the user's into ``folder``/own."""
    (folder / "own" / group).mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(settings)
    (folder / "own" / group / f"{name}.yaml").write_text(text, encoding="utf-8")


def run(folder: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("place", "launcher"), [("mine.py", "joblib"), ("own/mine.py", "basic")])
def test_a_module_beside_the_settings_is_found(
    place: str, launcher: str, command_path: Path, tmp_path: Path
) -> None:
    """A class in or beside ``--config-dir`` needs no PYTHONPATH, in worker processes either."""
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="joblib launcher")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(ROUTER, encoding="utf-8")
    own_choice(tmp_path, "router", "always", _target_="mine.Always", worker=2)
    choice = ("--config-dir", "own", "router=always", f"hydra/launcher={launcher}", *TINY)
    done = run(tmp_path, command_path, "-m", "seed=1,2", *choice)
    assert done.returncode == 0, done.stderr
    for requests in tmp_path.rglob("requests.parquet"):
        assert pl.read_parquet(requests)["prefill_worker"].unique().to_list() == [2]


@pytest.mark.parametrize(
    ("module", "environment"),
    [(False, {"PYTHONPATH": "."}), (True, {})],
    ids=["command", "module"],
)
def test_folders_of_our_names_change_nothing(
    module: bool, environment: dict[str, str], command_path: Path, tmp_path: Path
) -> None:
    """Packages and plain folders called as ours, in the working directory, are left alone."""
    for name in ("conf", "hardware", "workloads"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    (tmp_path / "conf" / "config.yaml").write_text("seed: 77\n", encoding="utf-8")
    (tmp_path / "simulator").mkdir()
    command = (sys.executable, "-m", "simulator") if module else (command_path,)
    done = run(tmp_path, *command, *TINY, **environment)
    assert done.returncode == 0, done.stderr
    (config,) = tmp_path.rglob("outputs/*/*/config.yaml")
    assert yaml.safe_load(config.read_text(encoding="utf-8"))["seed"] == 0


def test_a_changed_plug_in_makes_finished_jobs_stale(command_path: Path, tmp_path: Path) -> None:
    """A sweep skips what is done until the class, or a module beside it that it uses, changes."""
    (tmp_path / "helper.py").write_text("WORKER = 1\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text(f"import helper\n{ROUTER}", encoding="utf-8")
    own_choice(tmp_path, "router", "always", _target_="mine.Always")
    sweep = (command_path, "-m", "--config-dir", "own", "seed=1", "router=always", *TINY)
    assert "already done" not in run(tmp_path, *sweep).stdout
    assert "already done" in run(tmp_path, *sweep).stdout
    with (tmp_path / "helper.py").open("a", encoding="utf-8") as file:
        file.write("# another thought\n")
    assert "already done" not in run(tmp_path, *sweep).stdout
    (config,) = tmp_path.rglob("multirun/*/config.yaml")
    assert "# router: mine.Always sha256 " in config.read_text(encoding="utf-8")


def test_sources_follow_imports_from_beside_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package counts with what it imports from its folder, in either way; numpy does not."""
    package = tmp_path / "kit"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "deep" / "__init__.py").write_text("from ..far import far\n", encoding="utf-8")
    (package / "far.py").write_text("import numpy\nfrom beside import x\n", encoding="utf-8")
    (package / "unused.py").write_text("", encoding="utf-8")
    (tmp_path / "beside.py").write_text("x = 1\n", encoding="utf-8")
    (package / "main.py").write_text("import kit.deep\nclass Main: ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in sources("kit.main.Main")}
    assert names >= {"kit/main.py", "kit/__init__.py", "kit/deep/__init__.py", "kit/far.py"}
    assert "beside.py" in names
    assert "kit/unused.py" not in names
    assert source_digest("nowhere.Main") == "unknown"


def test_plug_ins_are_named_by_their_keys() -> None:
    """Only targets outside this program's packages count, wherever they stand."""
    plain = {
        "router": {"_target_": "mine.Router"},
        "latency": {"_target_": "simulator.latency.table.Table"},
        "workload": {"arrivals": [{"_target_": "yours.Gaps"}], "name": "x"},
    }
    assert list(plug_ins(plain)) == [
        ("router", "mine.Router"),
        ("workload.arrivals[0]", "yours.Gaps"),
    ]
    assert fault(KeyError("x"), plain) is None


CHOOSE = "class Mine:\n    def choose(self, request, pool):\n        {}\n"
LATENCY = """
from simulator.latency.base import Piece
class Steps:
    stages = {stages}
    def decode_pieces(self, batch):
        return {pieces}
    def step_seconds(self, {takes}):
        return {seconds}
class Mine:
    def bind(self, worker):
        return {bound}
"""
STEP = "tokens, pairs, past, prompts, batch, context, busiest=None"
PIECES = "[Piece(float('inf'), 0.01, 0.0, 0.0)]"


def latency(**changes: str) -> str:
    """Return a latency model's source with ``changes``."""
    sound = {"stages": "1", "pieces": PIECES, "seconds": "0.01", "bound": "Steps()", "takes": STEP}
    return LATENCY.format(**{**sound, **changes})


ARRIVALS = "class Mine:\n    def times(self, rng, *, n=None, horizon_s=None):\n        {}\n"
LENGTHS = "class Mine:\n    def quantile(self, u):\n        {}\n"
MATCH = "class Mine:\n    def match(self, prefill, decode):\n        {}\n"
EXPLORE = ("task=explore", "latency=roofline")

MISTAKES = {
    "a router that returns text": ("router", CHOOSE.format("return 'first'"), "'first'"),
    "a router that returns nothing": ("router", CHOOSE.format("pass"), "None"),
    "a router that returns half": ("router", CHOOSE.format("return 0.5"), "0.5"),
    "a router that answers yes": ("router", CHOOSE.format("return True"), "worker True"),
    "a router that writes": (
        "router",
        CHOOSE.format("pool.tokens[0] = 9; return 0"),
        "router: {module}.Mine raised TypeError",
    ),
    "a router out of range": ("router", CHOOSE.format("return 99"), "workers 0 to 2"),
    "a router below range": ("decode_router", CHOOSE.format("return -1"), "workers 0 to 1"),
    "a router that raises": (
        "router",
        CHOOSE.format("return {}['x']"),
        "router: {module}.Mine raised KeyError: 'x' ({module}.py, line 3, in choose)",
    ),
    "a router that exits": ("router", CHOOSE.format("raise SystemExit(0)"), "SystemExit"),
    "a router that asks for less": (
        "router",
        "class Mine:\n    def choose(self, request):\n        return 0\n",
        "choose must take (request, pool) but takes (request)",
    ),
    "a router whose method is none": ("router", "class Mine:\n    choose = 3\n", "(request, pool)"),
    "a router without its method": ("router", "class Mine: ...\n", "RoutingPolicy"),
    "a router that cannot be made": (
        "router",
        "class Mine:\n    choose = print\n    def __init__(self):\n        1 / 0\n",
        "ZeroDivisionError",
    ),
    "a module that raises": ("router", "1 / 0\n", "raised ZeroDivisionError"),
    "a module that is no Python": ("router", "class Mine(:\n", "SyntaxError"),
    "annotations of nothing": (
        "router",
        "class Mine:\n    def __init__(self, a: 'Nope' = 1): ...\n    choose = print\n",
        "annotations",
    ),
    "a latency that raises": ("latency", latency(seconds="[][0]"), "latency: {module}.Mine raised"),
    "a latency of text": ("latency", latency(seconds="'fast'"), "'fast'"),
    "a latency below zero": ("latency", latency(seconds="-1.0"), "step_seconds"),
    "a latency of no number": ("latency", latency(seconds="float('nan')"), "nan"),
    "a latency of no pieces": ("latency", latency(pieces="[]"), "decode_pieces"),
    "a latency of broken pieces": ("latency", latency(pieces="[(1.0, 2.0)]"), "decode_pieces"),
    "a latency without end": ("latency", latency(pieces="[Piece(9.0, 1, 0, 0)]"), "decode_pieces"),
    "a latency of no stages": ("latency", latency(stages="0"), "stages"),
    "a latency that takes less": ("latency", latency(takes="tokens"), "step_seconds must take"),
    "a latency that binds nothing": ("latency", latency(bound="None"), "bind"),
    "arrivals of nothing": ("workload.arrivals", ARRIVALS.format("return None"), "times"),
    "arrivals of text": ("workload.arrivals", ARRIVALS.format("return ['a'] * n"), "times"),
    "arrivals backwards": (
        "workload.arrivals",
        ARRIVALS.format("return [float(n - i) for i in range(n)]"),
        "arrival_s",
    ),
    "arrivals that raise": ("workload.arrivals", ARRIVALS.format("n.x"), "AttributeError"),
    "arrivals by another name": (
        "workload.arrivals",
        "class Mine:\n    def times(self, rng, count):\n        return []\n",
        "(rng, n=…, horizon_s=…)",
    ),
    "lengths of another size": ("workload.input_lengths", LENGTHS.format("return [1, 2]"), "(2,)"),
    "lengths of zero": (
        "workload.input_lengths",
        LENGTHS.format("return (0 * u).astype(int)"),
        "input_tokens",
    ),
    "lengths of halves": (
        "workload.input_lengths",
        LENGTHS.format("return u + 1.5"),
        "whole numbers",
    ),
    "a workload of nothing": (
        "workload",
        "class Mine:\n    concurrency = None\n    def trace(self, a, b):\n        return 3\n",
        "must return a Trace but got 3",
    ),
    "a rule that raises": ("explore.rate_matching", MATCH.format("1 / 0"), "ZeroDivisionError"),
    "a rule that says nothing": (
        "explore.rate_matching",
        MATCH.format("pass"),
        "match must return",
    ),
    "a rule of one number": (
        "explore.rate_matching",
        MATCH.format("return (1, 1, 2, 1.0)"),
        "prefill_workers",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_plug_ins_mistake_is_one_sentence(kind: str, disaggsim: Command, tmp_path: Path) -> None:
    """Whatever a class of the user's does wrong, one line names it, with exit code 2."""
    key, source, told = MISTAKES[kind]
    module = f"plug_in_{list(MISTAKES).index(kind)}"
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    group, _, inner = key.partition(".")
    choice = {"_target_": f"{module}.Mine"}
    base: tuple[str, ...] = TINY
    if inner:
        for part in reversed(inner.split(".")):
            choice = {part: choice}
    if group == "workload" and inner:
        choice = {**SYNTHETIC, **choice}
        base = ("latency=polynomial", "report=none")
    if group == "workload" and not inner:
        base = ("latency=polynomial", "report=none")
    if group == "latency":
        base = ("workload.requests=20", "report=none")
    own_choice(tmp_path, group, "own", **choice)
    more = EXPLORE if group == "explore" else ()
    ended = disaggsim("--config-dir", "own", *base, f"{group}=own", *more)
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
    assert told.format(module=module) in ended.err
    assert not list(tmp_path.rglob("summary.json"))


SYNTHETIC = {
    "_target_": "workloads.workload.SyntheticWorkload",
    "requests": 20,
    "arrivals": {"_target_": "workloads.arrivals.Poisson", "rate": 8.0},
    "input_lengths": {"_target_": "workloads.lengths.Constant", "tokens": 100},
    "output_lengths": {"_target_": "workloads.lengths.Constant", "tokens": 10},
}

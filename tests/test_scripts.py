"""The scripts that fit the shipped data: what they write, and one sentence for bad input."""

import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from simulator.cli import compose
from simulator.configuration import build
from simulator.latency.engine import Engine

ROOT = Path(__file__).parent.parent
RUNS = ROOT.parent / "shared" / "data" / "vllm_runs"
SERVED = ROOT.parent / "shared" / "data" / "measured_e2e.csv"
GOOD = "t,gen_throughput,running,waiting\n1.0,100,9,0\n"
Script = Callable[..., int]


def imported(name: str) -> ModuleType:
    """Return one of the scripts as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Return a function that runs a script with arguments and returns its exit code."""
    names: list[str] = []

    def call(name: str, *arguments: str, **replaced: object) -> int:
        names.append(name)
        module = imported(name)
        for each, value in replaced.items():
            setattr(module, each, value)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        code: int = module.main()
        return code

    yield call
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.skipif(not RUNS.is_dir(), reason=f"measured runs of vLLM are not at {RUNS}")
def test_the_engine_is_fitted_to_runs(
    run: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is fitted is an engine profile: the shipped one but for the host's own numbers."""
    out = tmp_path / "vllm.yaml"
    assert run("calibrate_engine", "--vllm", str(RUNS), "--out", str(out)) == 0
    assert "seconds of" in capsys.readouterr().out
    written = yaml.safe_load(out.read_text("utf-8"))
    shipped = yaml.safe_load((ROOT / "conf/engine/vllm.yaml").read_text("utf-8"))
    fitted = ("step_s", "sequence_s", "prompt_s", "rank_wait")
    assert {**shipped, **{name: written[name] for name in fitted}} == written
    assert min(written[name] for name in fitted) >= 0
    assert written["step_s"] + written["prompt_s"] > 0
    build({**written, "name": "vllm"}, Engine, "engine")


@pytest.mark.skipif(not SERVED.is_file(), reason=f"measured serving runs are not at {SERVED}")
def test_the_first_tokens_waits_are_fitted_to_runs(run: Script, tmp_path: Path) -> None:
    """Shipped waits are what the script makes again, and the rest of a profile stays as it is."""
    names = ("gateway_s", "handover_s", "recomputes", "first_token_source")
    shipped = {name: ROOT / f"conf/engine/{name}.yaml" for name in ("sglang", "trtllm", "vllm")}
    for engine, path in shipped.items():
        (tmp_path / path.name).write_text(path.read_text("utf-8"), encoding="utf-8")
        if engine == "trtllm":  # as if never fitted; the others are fitted again
            bare = {
                k: v for k, v in yaml.safe_load(path.read_text("utf-8")).items() if k not in names
            }
            (tmp_path / path.name).write_text(yaml.safe_dump(bare), encoding="utf-8")
    assert run("calibrate_engine", "--first-token", str(SERVED), "--profiles", str(tmp_path)) == 0
    for engine, path in shipped.items():
        written = yaml.safe_load((tmp_path / path.name).read_text("utf-8"))
        assert written == yaml.safe_load(path.read_text("utf-8"))
        build({**written, "name": engine}, Engine, "engine")


def test_no_first_tokens_are_one_sentence(
    run: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that is not there is told, and no profile is touched."""
    absent = tmp_path / "absent.csv"
    out = str(tmp_path)
    assert run("calibrate_engine", "--first-token", str(absent), "--profiles", out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--first-token: there is no file {absent}" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gauges", "told"),
    [
        (None, "there is no file"),
        ("", "is empty"),
        (GOOD.replace("gen_throughput", "tokens"), "has no column gen_throughput"),
        (GOOD + "soon,100,9,0\n", "row 2: t must be a number but is 'soon'"),
        (GOOD + "2.0,,9,0\n", "row 2: gen_throughput must be a number but is empty"),
        (GOOD + "2.0,inf,9,0\n", "row 2: gen_throughput must be a number but is 'inf'"),
    ],
)
def test_broken_gauges_are_one_sentence(
    run: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gauges: str | None,
    told: str,
) -> None:
    """Exit code 2 and a line with the file, row, column and value; nothing is written."""
    (tmp_path / "a__meta.json").write_text(json.dumps({"engine_kwargs": {}}), encoding="utf-8")
    if gauges is not None:
        (tmp_path / "a__timeseries.csv").write_text(gauges, encoding="utf-8")
    out = tmp_path / "vllm.yaml"
    assert run("calibrate_engine", "--vllm", str(tmp_path), "--out", str(out)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a__timeseries.csv" in line
    assert told in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("absent/out.csv",), "there is no folder absent"),
        (("out.csv", "--jobs", "0"), "--jobs must be at least 1 but is 0"),
        ((".",), "is a folder"),
    ],
)
def test_steps_are_not_composed_in_vain(
    run: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    """What stands in the way of writing them is told first."""
    monkeypatch.chdir(tmp_path)
    assert run("compose_steps", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_no_steps_are_no_table(
    run: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the package can answer nothing, no file is written and the exit code says so."""
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", ModuleType("aiconfigurator_core"))
    out = tmp_path / "out.csv"
    assert run("compose_steps", str(out), "--jobs", "1", tasks=lambda: iter(())) == 1
    assert "no layout has steps" in capsys.readouterr().err
    assert not out.exists()


def test_every_ranked_configuration_can_be_composed() -> None:
    """And is as its name says: no two are the same run."""
    rankings = imported("rank_policies")
    for ranking in rankings.RANKINGS.values():
        texts = []
        for name in ranking.configurations:
            told = [each for each in ranking.overrides(name) if each not in rankings.REPEATED]
            texts.append(repr(compose([each for each in told if each != "regret=true"]).deployment))
        assert len(set(texts)) == len(texts)
    del sys.modules["rank_policies"]


def test_a_ranking_is_of_finished_runs(
    run: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs, a comparison and a table, the best first."""
    rankings = imported("rank_policies")
    small = rankings.Ranking(
        title="Two routers",
        words="Hardly any requests.",
        base="workload.requests=20",
        configurations=rankings.choices("router", "random", "least_tokens"),
    )
    keep = str(tmp_path / "kept")
    rankings.REPEATED = ("seeds=2", "report=none", "counterpart=false")
    code = run("rank_policies", "--keep", keep, RANKINGS={"few": small})
    assert not code
    told = capsys.readouterr().out
    assert "## Two routers" in told
    assert "| random | " in told
    assert "Over 2 seeds" in told
    assert (tmp_path / "kept" / "few" / "compare.html").is_file()
    with pytest.raises(SystemExit):
        run("rank_policies", "--only", "nonsense")

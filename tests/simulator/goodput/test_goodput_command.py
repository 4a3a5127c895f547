"""``task=goodput``: what it leaves, that its answer is a plain run's, and what it refuses."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command import Command

from simulator.__main__ import main
from simulator.experiment import simulate
from simulator.goodput import trials
from simulator.goodput.trials import COLUMNS

SMALL = ("latency=polynomial", "workload=poisson", "workload.requests=300")
TASK = ("task=goodput", *SMALL, "goodput.seeds=2", "goodput.precision=0.1")
TRACE = "arrival_s,input_tokens,output_tokens\n" + "".join(
    f"{at * at / 300},{400 + at},{20 + at % 30}\n" for at in range(200)
)


def summary(folder: Path) -> dict[str, Any]:
    """Return a folder's summary."""
    told: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return told


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Return the path of a trace, and write it."""
    (tmp_path / "trace.csv").write_text(TRACE, encoding="utf-8")
    return "workload.path=trace.csv"


def test_a_search_leaves_its_folder(disaggsim: Command, tmp_path: Path) -> None:
    """The folder has the trials, a page and a summary that says what the terminal says."""
    done = disaggsim(*TASK, "hydra.run.dir=a", "goodput.map=true")
    assert (done.code, done.err) == (0, "")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        *("config.yaml", "goodput.parquet", "report.html", "summary.json")
    }
    told, table = summary(tmp_path / "a"), pl.read_parquet(tmp_path / "a/goodput.parquet")
    found = told["goodput"]
    assert dict(table.schema) == COLUMNS
    assert len(table) == found["trials"]
    assert {"search", "check", "curve", "map"} <= set(table["why"])
    assert f"{found['rate']:,.4g} requests/s" in done.out
    assert told["slo_attainment"] == found["attainment_own_draw"] >= 0.9
    assert found["attainment_fresh_draws"] >= 0.9
    low, high = found["interval_95"]
    assert low < found["rate"] < high
    page = (tmp_path / "a/report.html").read_text(encoding="utf-8")
    for anchor in ("plot-attainment", "plot-latencies", "plot-goodput", "plot-map"):
        assert f'id="{anchor}"' in page


def test_the_answer_is_a_run_of_those_settings(disaggsim: Command, tmp_path: Path) -> None:
    """Run as the answer says, the workload holds the targets as often as the search says."""
    assert disaggsim(*TASK, "hydra.run.dir=a").code == 0
    told = summary(tmp_path / "a")
    rate = told["goodput"]["rate"]
    assert disaggsim(*SMALL, f"workload.arrivals.rate={rate:g}", "hydra.run.dir=b").code == 0
    run = summary(tmp_path / "b")
    for name in ("slo_attainment", "goodput_rps", "ttft_s", "tpot_s", "duration_s"):
        assert run[name] == told[name]


def test_a_trace_has_one_draw(disaggsim: Command, tmp_path: Path, trace: str) -> None:
    """A trace is searched once, at scaled arrivals, and its answer is that replay's own."""
    given = ("latency=polynomial", "workload=trace", trace, "slo.ttft_s=0.3")
    done = disaggsim("task=goodput", *given, "hydra.run.dir=a")
    assert done.code == 0, done.err
    told = summary(tmp_path / "a")
    assert told["goodput"]["one_draw_only"]
    assert pl.read_parquet(tmp_path / "a/goodput.parquet")["seed"].unique().to_list() == [0]
    rate = f"workload.replay.target_rate={told['goodput']['rate']:g}"
    assert rate in done.out
    assert disaggsim(*given, rate, "hydra.run.dir=b").code == 0
    assert summary(tmp_path / "b")["slo_attainment"] == told["slo_attainment"] >= 0.9


def test_the_fewest_gpus(disaggsim: Command, tmp_path: Path) -> None:
    """Workers are counted in the pools' ratio, and with ratio=free never more are needed."""
    asked = (*TASK, "goodput.find=gpus", "goodput.rate=30")
    assert disaggsim(*asked, "hydra.run.dir=a").code == 0
    assert disaggsim(*asked, "goodput.ratio=free", "hydra.run.dir=b").code == 0
    kept, free = (summary(tmp_path / name)["goodput"] for name in "ab")
    assert kept["workers"]["prefill"] * 2 == kept["workers"]["decode"] * 3
    assert free["gpus"] <= kept["gpus"]
    assert kept["attainment_fresh_draws"] >= 0.9 <= free["attainment_fresh_draws"]


def test_the_cheapest_mix(disaggsim: Command, tmp_path: Path) -> None:
    """Where decode GPUs cost a hundred times as much, a cheaper mix has no more of them."""
    asked = (
        *(*TASK, "goodput.find=gpus", "goodput.rate=30", "goodput.ratio=free"),
        *("+hardware@pools.decode.gpu=h200_sxm", "pools.decode.gpu.usd_per_hour=200"),
    )
    for name, by in (("a", "gpus"), ("b", "usd")):
        done = disaggsim(*asked, f"goodput.by={by}", f"hydra.run.dir={name}")
        assert done.code == 0, done.err
        assert "USD an hour" in done.out
    few, cheap = (summary(tmp_path / name)["goodput"] for name in "ab")
    assert cheap["usd_per_hour"] <= few["usd_per_hour"]
    assert cheap["workers"]["decode"] <= few["workers"]["decode"]
    assert cheap["usd_per_hour"] > 4 * 200 * cheap["workers"]["decode"]


def test_the_page_runs_its_program(tmp_path: Path) -> None:
    """The program in docs/goodput.md runs as it stands."""
    text = (Path(__file__).parents[3] / "docs/goodput.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout.split()[0]) > 0


def test_an_interrupt_keeps_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves the trials so far, and nothing that looks complete."""
    begun = 0

    def interrupted(*given: Any, **more: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun > 4:
            raise KeyboardInterrupt
        return simulate(*given, **more)

    monkeypatch.setattr(trials, "simulate", interrupted)
    monkeypatch.setattr(sys, "argv", ["disaggsim", *TASK, "hydra.run.dir=a"])
    monkeypatch.chdir(tmp_path)
    assert main() == 130
    assert len(pl.read_parquet(tmp_path / "a/goodput.parquet")) == 4
    assert not (tmp_path / "a/summary.json").exists()


def test_a_sweep_of_searches(disaggsim: Command, tmp_path: Path) -> None:
    """Searches can be swept, and what is done is not done again."""
    asked = ("-m", *TASK, "pools.prefill.workers=2,3", "hydra.sweep.dir=s")
    done = disaggsim(*asked)
    assert done.code == 0, done.err
    rates = [json.loads(p.read_text())["goodput"]["rate"] for p in tmp_path.rglob("summary.json")]
    assert len(rates) == 2
    assert disaggsim(*asked).out.count("already done") == 2


def test_few_bursts_are_told(disaggsim: Command, tmp_path: Path) -> None:
    """Where a draw's requests come at another rate than asked for, the answer says at which."""
    burst = ("workload=bursty", "workload.arrivals.calm_s=200", "workload.arrivals.burst_s=60")
    told = disaggsim(*TASK, *burst, "hydra.run.dir=a")
    assert told.code == 0, told.err
    table = pl.read_parquet(tmp_path / "a/goodput.parquet").filter(seed=0)
    rate = summary(tmp_path / "a")["goodput"]["rate"]
    came = table.filter(pl.col("rate") == rate)["offered_rps"][0]
    assert abs(came / rate - 1) > 0.05, "the case must have few bursts"
    assert f"come at {came:,.4g} a second" in " ".join(told.out.split())


def test_nothing_holds(disaggsim: Command, tmp_path: Path) -> None:
    """Where no rate holds, the answer says so with what the lowest one came to."""
    done = disaggsim(*TASK, "slo.tpot_s=0.0001", "goodput.low=1", "hydra.run.dir=a")
    assert done.code == 0
    assert "No rate looked at holds the targets" in done.out
    told = summary(tmp_path / "a")["goodput"]
    assert told["rate"] is told["gpus"] is told["interval_95"] is None
    few = disaggsim(*TASK, "slo.ttft_s=0.001", "goodput.find=gpus", "goodput.max_gpus=40")
    assert "No deployment looked at holds the targets" in few.out


def test_everything_holds(disaggsim: Command) -> None:
    """Where the highest rate looked at holds, the answer is no more than that."""
    done = disaggsim(*TASK, "goodput.high=9")
    assert "up to at least" in done.out
    assert "do not show where it ends" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("goodput.attainment=1",), "attainment must lie between 0 and 1"),
        (("goodput.attainment=-0.5",), "attainment must lie between 0 and 1"),
        (("goodput.seeds=0",), "seeds must lie in 1..100"),
        (("goodput.precision=0",), "precision must lie in"),
        (("goodput.low=9", "goodput.high=3"), "low must be below high"),
        (("goodput.low=-1",), "low must be above 0"),
        (("goodput.find=slo",), "find must be one of rate, gpus"),
        (("goodput.ratio=free",), "ratio=free goes with find=gpus"),
        (("goodput.by=usd",), "by=usd goes with ratio=free"),
        (("goodput.find=gpus", "goodput.ratio=free", "goodput.by=tokens"), "by must be one of"),
        (
            (
                *("goodput.find=gpus", "goodput.ratio=free", "goodput.by=usd"),
                "hardware.usd_per_hour=null",
            ),
            "needs the price of",
        ),
        (("goodput.rate=3",), "rate goes with find=gpus"),
        (("goodput.find=gpus", "goodput.low=3"), "low goes with find=rate"),
        (("goodput.find=gpus", "goodput.max_gpus=8"), "at least the 20 GPUs"),
        (("slo=none",), "needs a latency target"),
        (("workload=closed_loop",), "closed loop"),
        (("workload.requests=1",), "two instants"),
        (("goodput.find=gpus", "autoscaler=schedule", "autoscaler.steps=[[9,decode,3]]"), "stay"),
        (("goodput.rates=3",), "goodput.rates: no such setting"),
        (("goodput=rate",), "goodput"),
    ],
)
def test_bad_input(
    disaggsim: Command, tmp_path: Path, overrides: Sequence[str], words: str
) -> None:
    """What cannot be searched costs one sentence and exit code 2, and leaves no results."""
    done = disaggsim(*TASK, *overrides)
    assert done.code == 2, done.out
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("summary.json"))


def test_a_trace_of_one_request(disaggsim: Command, tmp_path: Path) -> None:
    """One request has no rate."""
    (tmp_path / "one.csv").write_text(
        "".join(TRACE.splitlines(keepends=True)[:2]), encoding="utf-8"
    )
    done = disaggsim(
        "task=goodput", "latency=polynomial", "workload=trace", "workload.path=one.csv"
    )
    assert done.code == 2
    assert "two instants" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_explore_promises_the_same(disaggsim: Command, tmp_path: Path) -> None:
    """Searched from half its rate on, an explored deployment holds what explore promises, ± 6 %.

    Explore looks in steps of 2 %, on other draws, and promises no more than the steady state.
    """
    explored = (
        *("task=explore", "model=llama_3_1_8b", "explore.isl=2048", "explore.osl=256"),
        *("slo.ttft_s=1", "slo.tpot_s=0.02", "explore.worker_gpus=1", "explore.total_gpus=4"),
        *("explore.max_batch=128", "explore.max_pp=1", "hydra.run.dir=e"),
    )
    assert disaggsim(*explored).code == 0
    for kind in ("disaggregated", "colocated"):
        promised = summary(tmp_path / "e")[kind]["requests_per_s"]
        found = disaggsim(
            *("--config-dir", "e", f"experiment={kind}", "task=goodput", "goodput.seeds=3"),
            *(f"workload.arrivals.rate={promised / 2:g}", f"hydra.run.dir={kind}"),
        )
        assert found.code == 0, found.err
        rate = summary(tmp_path / kind)["goodput"]["rate"]
        assert rate == pytest.approx(promised, rel=0.06)

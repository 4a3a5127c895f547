"""``task=compare`` and the end of a sweep, as they are called."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command import TINY, Command

from simulator import cli

THREE = ("comparison.parquet", "comparison.csv", "compare.html")


def test_a_sweep_ends_in_a_comparison(disaggsim: Command, tmp_path: Path) -> None:
    """Three files in its folder, the table on the terminal, and ``task=compare`` agrees."""
    done = disaggsim("-m", "router=round_robin,least_tokens", "seed=1,2", *TINY)
    assert done.code == 0, done.err
    assert "comparison: multirun/compare.html" in done.out
    assert "TTFT p50" in done.out
    assert all((tmp_path / "multirun" / name).is_file() for name in THREE)
    table = pl.read_parquet("multirun/comparison.parquet")
    assert table["point"].to_list() == [0, 0, 1, 1]
    assert table["seed"].to_list() == [1, 2, 1, 2]
    assert table["router._target_"].n_unique() == 2
    assert table["name"].unique(maintain_order=True).to_list() == [
        "router=round_robin",
        "router=least_tokens",
    ]
    again = disaggsim("task=compare", "runs=[multirun]", "hydra.run.dir=out")
    assert again.code == 0, again.err
    assert "report: out/compare.html" in again.out
    other = pl.read_parquet("out/comparison.parquet").sort("folder")
    numbers = ["folder", "ttft_s.p99", "goodput_rps", "usd"]
    assert other.select(numbers).equals(table.sort("folder").select(numbers))


def test_a_failed_job_loses_no_comparison(disaggsim: Command) -> None:
    """What finished is compared; the exit code is the failed job's."""
    done = disaggsim("-m", "pools.prefill.workers=1,0,2", *TINY)
    assert done.code == 2
    table = pl.read_parquet("multirun/comparison.parquet")
    assert table["pools.prefill.workers"].to_list() == [1, 2]


def test_an_interrupted_sweep_is_compared_so_far(
    disaggsim: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third job leaves a comparison of two."""
    count = iter(range(9))
    simulate = cli.simulate

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(count) == 2:
            raise KeyboardInterrupt
        return simulate(*arguments, **named)

    monkeypatch.setattr(cli, "simulate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disaggsim("-m", "seed=1,2,3,4", *TINY)
    assert len(pl.read_parquet("multirun/comparison.parquet")) == 2


def test_how_runs_are_judged_is_no_part_of_them(disaggsim: Command) -> None:
    """Another attainment compares anew what was simulated before."""
    assert disaggsim("-m", "seed=1,2", *TINY).code == 0
    again = disaggsim("-m", "seed=1,2", "compare.attainment=0.5", *TINY, "hydra.sweep.subdir=x")
    assert again.code == 0, again.err


BAD = {
    "nothing named": (["task=compare"], "needs runs"),
    "no such folder": (["task=compare", "runs=[nowhere]"], "nowhere: there is no such folder"),
    "no run in it": (["task=compare", "runs=[.]"], "holds no run"),
    "numbers": (["task=compare", "runs=[1]"], "runs"),
    "a sweep of it": (["-m", "task=compare", "runs=[a]"], "without -m"),
    "runs of a run": (["runs=[a]", *TINY], "runs is for task=compare"),
    "attainment": (["compare.attainment=2", *TINY], "compare.attainment must be"),
    "no seeds": (["seeds=0", *TINY], "seeds must be at least 1"),
    "half a seed": (["seeds=1.5", *TINY], "seeds"),
    "a band of nothing": (["band=[0]", *TINY], "band: factors must be above 0"),
    "a band of words": (["band=wide", *TINY], "band"),
    "too many": (["seeds=600", "band=[1,2]", *TINY], "more than 1,000"),
    "an interval of one": (
        ["-m", "router=random,round_robin", "compare.confidence=0.9", *TINY],
        "asks for intervals",
    ),
    "seeds of an exploration": (["task=explore", "seeds=2"], "task=explore takes neither"),
    "unknown": (["compare.attainement=0.5", *TINY], "compare.attainement: no such setting"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_costs_a_sentence(name: str, disaggsim: Command) -> None:
    """Exit code 2, one line, nothing left behind."""
    arguments, words = BAD[name]
    done = disaggsim(*arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert not list(Path().rglob("compare.html"))


def test_seeds_and_a_band_repeat_every_run(disaggsim: Command, tmp_path: Path) -> None:
    """Each is run with every seed and factor, on the same traffic; more of them add to it."""
    sweep = ("-m", "router=round_robin,least_tokens", *TINY)
    first = disaggsim(*sweep, "seeds=2", "band=[0.9,1,1.1]")
    assert first.code == 0, first.err
    table = pl.read_parquet("multirun/comparison.parquet")
    assert len(table) == 12
    cells = table.select("point", "seed", "latency.scale").unique()
    assert len(cells) == 12
    assert sorted(table["latency.scale"].unique()) == [0.9, 1.0, 1.1]
    slow = table.filter(point=0, seed=0).sort("latency.scale")["e2e_s.p50"].to_list()
    assert slow == sorted(slow)
    assert slow[0] < slow[2]
    assert "every repetition" in first.out or "Not certain" in first.out
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    assert len(done) == 12
    more = disaggsim(*sweep, "seeds=3", "band=[0.9,1,1.1]")
    assert more.code == 0, more.err
    assert len(pl.read_parquet("multirun/comparison.parquet")) == 18
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())


def test_one_run_with_seeds_tells_its_intervals(disaggsim: Command) -> None:
    """A single configuration has its own comparison, and each repetition is a run like any."""
    done = disaggsim("seeds=3", "hydra.run.dir=here", *TINY)
    assert done.code == 0, done.err
    assert "3 seeds" in done.out
    assert "comparison: here/compare.html" in done.out
    assert len(pl.read_parquet("here/comparison.parquet")) == 3
    alone = disaggsim("seed=2", "hydra.run.dir=alone", *TINY)
    assert alone.code == 0
    again = Path("here/replications/seed=2,latency.scale=1")
    for name in ("requests.parquet", "config.yaml"):
        assert (again / name).read_bytes() == (Path("alone") / name).read_bytes()
    other = disaggsim("seeds=2", "hydra.run.dir=here", "workload.arrivals.rate=3", *TINY)
    assert other.code == 0, other.err
    assert len(pl.read_parquet("here/comparison.parquet")) == 2


def test_an_interrupt_keeps_the_repetitions_that_are_done(
    disaggsim: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third leaves two whole runs, compared."""
    count = iter(range(9))
    simulate = cli.simulate

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(count) == 2:
            raise KeyboardInterrupt
        return simulate(*arguments, **named)

    monkeypatch.setattr(cli, "simulate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disaggsim("seeds=4", "hydra.run.dir=here", *TINY)
    assert len(list(Path().rglob("summary.json"))) == 2
    assert len(pl.read_parquet("here/comparison.parquet")) == 2

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

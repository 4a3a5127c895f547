"""Comparisons without the starts and ends of runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command import TINY, Command
from folders import Made, write_run

from simulator.compare import Options, compare, find
from simulator.compare.comparison import Comparison
from simulator.compare.metrics import METRICS, at
from simulator.compare.statistics import difference
from simulator.errors import ConfigError
from simulator.record import RunRecord
from tests.fakes import FakeRun, fake_record

WARM, COOL = 8.0, 5.0


def compared(folder: Path, **options: float) -> Comparison:
    """Return the comparison of the runs in ``folder``."""
    return compare(find([str(folder)]).runs, Options(**options))  # type: ignore[arg-type]


def test_numbers_are_of_what_arrived_in_between(tmp_path: Path) -> None:
    """Every number is that of the requests themselves, picked by hand."""
    write_run(tmp_path)
    found = compared(tmp_path, warm_up_s=WARM, cool_down_s=COOL).table
    requests = pl.read_parquet(tmp_path / "requests.parquet")
    low, high = requests["arrival_s"].min() + WARM, requests["arrival_s"].max() - COOL  # type: ignore[operator]
    inside = requests.filter((pl.col("arrival_s") >= low) & (pl.col("arrival_s") <= high))
    assert 0 < len(inside) < len(requests)
    done = inside.filter(pl.col("status") == "completed")
    good = done.filter((pl.col("ttft_s") <= 0.5) & (pl.col("tpot_s").fill_null(0.0) <= 0.05))
    assert found["requests.arrived"][0] == len(inside)
    assert found["requests.completed"][0] == len(done)
    assert found["slo_attainment"][0] == pytest.approx(len(good) / len(inside))
    assert found["goodput_rps"][0] == pytest.approx(len(good) / (high - low))
    for name in ("ttft_s", "tpot_s", "e2e_s", "ttst_s"):
        values = inside[name].drop_nulls().to_numpy()
        assert found[f"{name}.mean"][0] == pytest.approx(values.mean())
        assert found[f"{name}.p90"][0] == pytest.approx(np.percentile(values, 90))
    gpus = pl.read_parquet(tmp_path / "lives.parquet")["gpus"].sum()
    assert found["gpus"][0] == pytest.approx(gpus)
    assert found["gpu_hours.total"][0] == pytest.approx(gpus * (high - low) / 3600)
    assert found["usd"][0] == pytest.approx(2.0 * gpus * (high - low) / 3600)
    tokens = done["output_tokens"].sum() / (high - low) / gpus
    assert found["output_tokens_per_s_per_gpu"][0] == pytest.approx(tokens)
    assert found["itl_s.p50"].null_count() == 1


def test_a_cut_of_nothing_is_no_cut(tmp_path: Path) -> None:
    """Cutting less than a moment leaves what the whole run's summary says of its requests."""
    write_run(tmp_path)
    (run,) = find([str(tmp_path)]).runs
    almost = compared(tmp_path, warm_up_s=1e-300).table
    over_time = ("duration_s", "goodput_rps", "gpu", "usd", "itl_s", "output_t", "input_t")
    for metric in METRICS:
        if not metric.path.startswith(over_time):
            value = at(run.summary, metric.path)
            assert almost[metric.path][0] == (None if value is None else pytest.approx(value))


def test_lives_count_as_far_as_they_reach(tmp_path: Path) -> None:
    """GPU time before, after and across the window's ends is left out."""
    record = fake_record(FakeRun(requests=300, prefill=3, decode=1))
    first, last = np.nanmin(record.requests["arrival_s"]), np.nanmax(record.requests["arrival_s"])
    low, high = first + WARM, last - COOL
    spans = [(0.0, low - 1.0), (low - 3.0, low + 2.0), (high - 4.0, high + 4.0)]
    lives = tuple(
        replace(each, granted_s=begun, ready_s=begun, ended_s=ended)
        for each, (begun, ended) in zip(record.workers[:3], spans, strict=True)
    )
    write_run(tmp_path, Made(record=replace(record, workers=(*lives, record.workers[3]))))
    found = compared(tmp_path, warm_up_s=WARM, cool_down_s=COOL).table
    gpus = record.workers[0].gpus
    assert found["gpu_hours.prefill"][0] == pytest.approx(gpus * (2.0 + 4.0) / 3600)


def later(record: RunRecord, until_s: float) -> RunRecord:
    """Return the record with first tokens of what arrived before ``until_s`` a second later."""
    columns = dict(record.requests)
    moved = np.where(columns["arrival_s"] < until_s, 1.0, 0.0)
    stamps = [name for name in columns if name.endswith("_s") and name != "arrival_s"]
    columns |= {name: columns[name] + moved for name in stamps}
    return replace(record, requests=columns)


def test_pairs_are_cut_too(tmp_path: Path) -> None:
    """What differs in the warm-up alone does not differ."""
    record = fake_record(FakeRun(requests=300))
    begun = float(np.nanmin(record.requests["arrival_s"])) + WARM
    made = {"a": Made(record=record), "b": Made(settings={"x": 1}, record=later(record, begun))}
    for name, each in made.items():
        write_run(tmp_path / name, each)
    whole = difference(compared(tmp_path), 0, 1, "ttft_s")
    left = difference(compared(tmp_path, warm_up_s=WARM), 0, 1, "ttft_s")
    assert whole is not None
    assert left is not None
    assert whole.change.mean > 0.01
    assert left.change.mean == pytest.approx(0.0, abs=1e-12)
    assert left.pairs < whole.pairs


def test_a_sweep_says_what_it_cut(disaggsim: Command, tmp_path: Path) -> None:
    """The page tells it, and other cuts do not run anything again."""
    sweep = ("-m", "pools.decode.workers=1,2", *TINY)
    assert disaggsim(*sweep).code == 0
    whole = pl.read_parquet(tmp_path / "multirun" / "comparison.parquet")
    again = disaggsim(*sweep, "compare.warm_up_s=1")
    assert again.code == 0, again.err
    assert again.out.count("already done") == 2
    left = pl.read_parquet(tmp_path / "multirun" / "comparison.parquet")
    assert (left["requests.arrived"] < whole["requests.arrived"]).all()
    page = (tmp_path / "multirun" / "compare.html").read_text(encoding="utf-8")
    assert "arrived at least 1 s after" in page
    assert "of what is left of the run" in page


def test_nothing_left_is_told(tmp_path: Path) -> None:
    """A cut longer than the run costs a sentence with the run's own arrivals."""
    write_run(tmp_path)
    span = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["duration_s"]
    with pytest.raises(ConfigError, match="leave nothing of arrivals from"):
        compared(tmp_path, warm_up_s=span / 2, cool_down_s=span)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_cuts_are_checked(bad: float) -> None:
    """Seconds are at least 0."""
    with pytest.raises(ConfigError, match="cool_down_s must be at least 0 s"):
        Options(cool_down_s=bad)

"""What holds for intervals, pairs of requests and orders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from simulator.compare import Comparison, Options, compare, find, prose, write
from simulator.compare.metrics import METRIC
from simulator.compare.statistics import (
    against,
    difference,
    independent,
    intervals,
    orders,
    paired,
)
from simulator.errors import ConfigError
from simulator.intervals import batch_means, t_interval
from simulator.record import STATUSES, RunRecord
from tests.fakes import FakeRun, fake_record
from tests.simulator.compare.folders import Made, write_run


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_hold_as_often_as_they_say(confidence: float) -> None:
    """Of many intervals of normal draws about the said share contains the mean."""
    rng = np.random.default_rng(1)
    found = [t_interval(rng.normal(3.0, 2.0, 6), confidence) for _ in range(4000)]
    share = np.mean([each.low <= 3.0 <= each.high for each in found])
    assert share == pytest.approx(confidence, abs=4 * np.sqrt(confidence * (1 - confidence) / 4000))


def test_an_interval_is_students() -> None:
    """It is scipy's; one value has none, and unknown ones do not count."""
    values = np.array([1.0, 2.0, np.nan, 4.0])
    known = values[np.isfinite(values)]
    low, high = stats.t.interval(0.9, 2, known.mean(), stats.sem(known))
    found = t_interval(values, 0.9)
    assert (found.low, found.high, found.count) == (pytest.approx(low), pytest.approx(high), 3)
    assert np.isnan(t_interval(values[:1]).low)
    assert t_interval(values[2:3]).count == 0


def test_batches_tell_dependent_requests_from_independent_ones() -> None:
    """Independent values pass, a slow drift does not; batches cover the last requests whole."""
    rng = np.random.default_rng(2)
    noise = rng.normal(size=2003)
    assert independent(batch_means(noise))
    assert not independent(batch_means(noise + np.linspace(0, 5, 2003)))
    means = batch_means(np.arange(2003.0))
    assert len(means) == 20
    assert means[-1] == np.arange(1903.0, 2003.0).mean()


def slower(record: RunRecord, seconds: float) -> RunRecord:
    """Return the same requests, each with all after its prefill so much later."""
    late = {name: column + seconds * (name in LATER) for name, column in record.requests.items()}
    return replace(record, requests=late, end_s=record.end_s + seconds)


LATER = (
    *("transfer_start_s", "transfer_end_s", "decode_queue_enter_s", "decode_join_s"),
    *("first_token_s", "second_token_s", "finish_s", "transfer_queue_enter_s", "prefill_end_s"),
)


def swept(folder: Path, seeds: int, extra: tuple[float, ...] = (0.0, 0.25)) -> Comparison:
    """Return points whose requests have everything later by ``extra`` seconds, on several seeds."""
    for seed in range(seeds):
        record = fake_record(FakeRun(requests=300, seed=seed))
        for more in extra:
            made = Made(
                settings={"transfer": {"handover_s": more}},
                record=slower(record, more),
                seed=seed,
            )
            write_run(folder / f"{seed}-{more}", made)
    return compare(find([str(folder)]).runs, Options())


@pytest.mark.parametrize("seeds", [1, 4])
def test_pairs_of_requests_differ_by_what_was_changed(seeds: int, tmp_path: Path) -> None:
    """Each request 0.25 s later: the mean difference is 0.25 s, all later, the interval a point."""
    done = swept(tmp_path, seeds)
    told = difference(done, 0, 1, "ttft_s")
    assert told is not None
    assert told.change.mean == pytest.approx(0.25)
    assert told.change.half == pytest.approx(0, abs=1e-9)
    assert (told.earlier, told.later, told.seeds) == (0.0, 1.0, seeds)
    assert told.pairs == 300 * seeds
    same = difference(done, 0, 1, "tpot_s")
    assert same is not None
    assert same.change.mean == pytest.approx(0, abs=1e-9)


def test_other_traffic_is_not_paired(tmp_path: Path) -> None:
    """Requests of another seed, or with other lengths, are no pairs."""
    write_run(tmp_path / "a", Made(seed=0))
    other = fake_record(FakeRun(requests=300, seed=1))
    write_run(tmp_path / "b", Made(seed=0, record=other, settings={"drain": 1}))
    runs = find([str(tmp_path)]).runs
    assert paired(runs[0], runs[1], "ttft_s") is None
    assert difference(compare(runs), 0, 1, "ttft_s") is None


def repeated(folder: Path, costs: dict[str, list[float]]) -> Comparison:
    """Return points all within the SLO, of these costs (GPU-hours) in their repetitions."""
    record = fake_record(FakeRun(requests=100))
    for name, values in costs.items():
        for at, cost in enumerate(values):
            seed, scale = divmod(at, 2)
            workers = tuple(
                replace(worker, allocated_s=cost * 3600 / 4 / worker.gpus)
                for worker in record.workers
            )
            settings: dict[str, Any] = {"which": name, "latency": {"scale": 1.0 + 0.5 * scale}}
            made = Made(settings=settings, seed=seed, record=replace(record, workers=workers))
            write_run(folder / f"{name}-{at}", made)
    return compare(find([str(folder)]).runs, Options(attainment=0.01))


COSTS = {
    "cheap": [1.0, 1.1, 1.2, 1.3, 1.2, 1.1],
    "dear": [2.0, 2.0, 2.1, 2.2, 2.0, 2.0],
    "near": [1.1, 1.0, 1.3, 1.4, 1.2, 1.3],
}
"""``near`` is dearer than ``cheap`` in 4 repetitions, cheaper in one and equal in one."""


def test_orders_count_repetitions(tmp_path: Path) -> None:
    """How often one beats another is as counted by hand, and the answer says what is not stable."""
    done = repeated(tmp_path, COSTS)
    names = [point.name for point in done.points]
    cheap, dear, near = (names.index(next(n for n in names if w in n)) for w in COSTS)
    found = orders(done, (cheap, dear, near))
    assert found.of(0, 1) == (6, 6)
    assert found.of(1, 0) == (0, 6)
    assert found.of(0, 2) == (4, 6)
    assert found.of(2, 0) == (1, 6)
    told = {each.other: (each.ahead, each.cells) for each in against(done, cheap)}
    assert told == {dear: (6, 6), near: (4, 6)}
    said = prose.certainty(done)
    assert "before 1 of 2 others in every repetition (3 seeds × 2 latencies: 1, 1.5)" in said
    assert f"Not certain is its order with {names[near]} (ahead in 4 of 6)" in said
    assert "Over 3 seeds its attainment lies between" in said
    write(done, tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "orders.parquet")
    row = table.filter(point=near, than=cheap).row(0, named=True)
    assert (row["ahead"], row["repetitions"]) == (1, 6)


def test_hardly_dearer_ones_are_named(tmp_path: Path) -> None:
    """Who costs less than one percent more is told beside the cheapest, who costs more is not."""
    costs = {"cheap": [1.0, 1.0], "near": [1.009, 1.009], "dear": [1.02, 1.02]}
    done = repeated(tmp_path, costs)
    said = prose.answer(done)
    near = next(point.name for point in done.points if "near" in point.name)
    assert f"As cheap to within 1 %: {near} (" in said
    assert "dear" not in said


def test_intervals_are_over_seeds_alone(tmp_path: Path) -> None:
    """Latencies made longer do not widen them; they are of the table's own numbers."""
    done = repeated(tmp_path, {"cheap": COSTS["cheap"]})
    row = intervals(done).filter(metric="gpu_hours.total").row(0, named=True)
    wanted = t_interval(np.array([1.0, 1.2, 1.2]))
    assert (row["mean"], row["low"], row["seeds"]) == (
        pytest.approx(wanted.mean),
        pytest.approx(wanted.low),
        3,
    )


def test_a_single_run_is_no_verdict(tmp_path: Path) -> None:
    """Without repetitions the page says that nothing is known, and an interval cannot be had."""
    done = swept(tmp_path, 1)
    assert "nothing here says whether this order outlasts" in prose.certainty(done)
    with pytest.raises(ConfigError, match=r"confidence=0.9 asks for intervals, but .* one seed"):
        compare(done.runs, Options(confidence=0.9))


def test_requests_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A broken file of requests costs a sentence with its path."""
    done = swept(tmp_path, 1)
    (tmp_path / "0-0.0" / "requests.parquet").write_bytes(b"PAR1 is all there is")
    with pytest.raises(ConfigError, match=r"requests\.parquet"):
        write(done, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_percentiles_among_unfinished_requests_are_worse_than_any(tmp_path: Path) -> None:
    """A mean over seeds does not pass over the overloaded one; it is told and sorted as more."""
    for seed, cut in ((0, False), (1, True)):
        record = fake_record(FakeRun(requests=300, seed=seed))
        if cut:
            end = float(np.nanmedian(record.requests["finish_s"])) / 8
            record = stopped(record, end)
        for name in "ab":
            made = Made(settings={"label": name}, seed=seed, record=record)
            write_run(tmp_path / f"{name}{seed}", made)
    done = compare(find([str(tmp_path)]).runs)
    assert np.isinf(done.means("e2e_s.p99")).all()
    assert np.isfinite(done.means("requests.completed")).all()
    assert all(words.startswith("> ") for words in done.told(METRIC["e2e_s.p99"]))
    low = intervals(done).filter(metric="e2e_s.p99")
    assert low["low"].null_count() == 2
    write(done, tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "comparison.parquet")
    assert table["e2e_s.p99"].null_count() == 2
    assert table["e2e_s.p99.at_least"].null_count() == 2


def stopped(record: RunRecord, end_s: float) -> RunRecord:
    """Return the record of a run that ended early: what was to come after is unknown."""
    columns = {
        name: np.where(column > end_s, np.nan, column) if name.endswith("_s") else column.copy()
        for name, column in record.requests.items()
    }
    columns["arrival_s"] = record.requests["arrival_s"] * 0 + np.minimum(
        record.requests["arrival_s"], end_s
    )
    columns["status"][np.isnan(columns["finish_s"])] = STATUSES.index("incomplete")
    return replace(record, requests=columns, end_s=end_s)

"""What holds for metrics, frames and the folder of a run."""

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import simulate
from simulator.cli import compose
from simulator.errors import ConfigError
from simulator.record import GAUGES, REASONS, STATUSES, GapHistogram, RunRecord, WorkerInfo
from simulator.results import (
    DURATIONS,
    SLO,
    STAGES,
    SUMMARIZED,
    Results,
    config_digest,
    counted,
    distribution,
    gap_bin_width,
    gap_distribution,
    gap_quantiles,
    mean_gpus,
    owing,
    prefix_cache,
    turnover,
)
from tests.fakes import EDGES, FakeRun, empty_columns, fake_record

CONTEXT = {"config": "seed: 3\n", "seed": 3, "wall_s": 2.0}
KEYS = {
    *("requests", "duration_s", *SUMMARIZED, "itl_s", "goodput_rps", "slo_attainment"),
    *("output_tokens_per_s", "output_tokens_per_s_per_gpu", "input_tokens_per_s_per_gpu"),
    *("gpu_hours", "kv_utilization", "preemptions", "recomputed_tokens", "seed", "config_digest"),
    *("wall_s", "requests_per_wall_s", "workers", "retries", "retried_requests"),
    *("resends", "resent_requests"),
    "failed_reasons",
}
STATISTICS = {"mean", "p50", "p75", "p90", "p95", "p99", "max", "std", "count"}


def results_of(record: RunRecord, slo: SLO | None = None) -> Results:
    """Return the results of ``record`` under ``slo`` (default targets)."""
    return Results.from_record(record, slo=slo or SLO(), context=CONTEXT)


def tiny(**changes: dict[int, float]) -> RunRecord:
    """Return three hand-made requests: disaggregated, mixed, and rejected.

    0: arrives 1.0, prefill 1.25–1.75, KV on the wire 1.5 (layer-wise) – 2.0, joins 2.25,
    finishes 6.25 with 5 tokens. 1: arrives 2.0, one token, on mixed worker 2, 2.5–3.0.
    2: arrives 3.0 and is rejected. ``changes`` set ``column={request: value}``.
    """
    columns = empty_columns(3)
    columns["arrival_s"][:] = [1.0, 2.0, 3.0]
    columns["prefill_queue_enter_s"][:2] = [1.0, 2.0]
    columns["prefill_start_s"][:2] = [1.25, 2.5]
    columns["prefill_end_s"][:2] = columns["first_token_s"][:2] = [1.75, 3.0]
    columns["transfer_queue_enter_s"][0] = 1.5
    columns["transfer_start_s"][0], columns["transfer_end_s"][0] = 1.5, 2.0
    columns["decode_join_s"][0], columns["second_token_s"][0] = 2.25, 2.75
    columns["finish_s"][:2] = [6.25, 3.0]
    columns["input_tokens"][:] = [100, 50, 10_000]
    columns["output_tokens"][:] = [5, 1, 7]
    columns["prefill_worker"][:2], columns["decode_worker"][:2] = [0, 2], [1, 2]
    columns["status"][:], columns["reason"][:] = [1, 1, 2], [0, 0, 1]
    for name, cells in changes.items():
        for request, value in cells.items():
            columns[name][request] = value
    counts = np.histogram([1.0, 3.5 / 3, 3.5 / 3, 3.5 / 3], EDGES)[0]
    return RunRecord(
        requests=columns,
        timeline=_gauges(np.array([2.0, 4.0]), workers=3),
        workers=tuple(_worker(index, pool) for index, pool in enumerate(POOLS)),
        events=((0.0, "ready", 0, ""), (5.0, "note", -1, "all")),
        gaps=GapHistogram(edges=EDGES, counts=counts, min_s=1.0, max_s=3.5 / 3),
        end_s=10.0,
        first_token="prefill",  # noqa: S106 - a place, not a secret
    )


POOLS = ("prefill", "decode", "mixed")


def _gauges(time: np.ndarray, workers: int) -> dict[str, np.ndarray]:
    grown = np.outer(time, np.arange(1, workers + 1))
    return {"time_s": time, **{name: grown.copy() for name in GAUGES}}


def _worker(index: int, pool: str) -> WorkerInfo:
    return WorkerInfo(
        worker=index,
        pool=pool,
        gpus=2 * (index + 1),
        gpu="H100 SXM",
        kv_blocks=100,
        block_size=16,
        max_transfer_bandwidth=1e9,
        busy_s=5.0,
        steps=10,
        prefill_tokens=100,
        decode_tokens=10,
        kv_block_seconds=100.0 * (index + 1),
        allocated_s=10.0,
    )


def column(results: Results, name: str) -> list[float | None]:
    """Return one column of the requests as a list, None where null."""
    return results.requests[name].to_list()


def test_each_duration_follows_its_definition() -> None:
    """A layer-wise hand-off, a mixed worker and a rejection give the stages worked out by hand."""
    results = results_of(tiny())
    expected: dict[str, list[float | None]] = {
        "ttft_s": [0.75, 1.0, None],
        "tpot_s": [1.125, None, None],
        "ttst_s": [1.0, None, None],
        "e2e_s": [5.25, 1.0, None],
        "gateway_s": [0.0, 0.0, None],
        "prefill_queue_s": [0.25, 0.5, None],
        "prefill_s": [0.5, 0.5, None],
        "handover_s": [0.0, None, None],
        "transfer_queue_s": [0.0, None, None],
        "transfer_s": [0.25, None, None],
        "decode_queue_s": [0.25, None, None],
        "first_step_s": [0.0, None, None],
        "decode_s": [4.0, None, None],
    }
    assert {name: column(results, name) for name in expected} == expected


def test_a_late_transfer_waits_in_its_queue() -> None:
    """A transfer that starts after prefill has queued since prefill's end; all of it is exposed."""
    results = results_of(tiny(transfer_start_s={0: 1.875}))
    assert column(results, "transfer_queue_s")[0] == 0.125
    assert column(results, "transfer_s")[0] == 0.125


def test_a_hand_over_is_a_stage_wherever_it_happens() -> None:
    """The decode side acts 0.1 s after the prompt, or 0.125 s after the KV it got meanwhile."""
    late = tiny(transfer_queue_enter_s={0: 1.85}, transfer_start_s={0: 1.875})
    assert column(results_of(late), "handover_s")[0] == pytest.approx(0.1)
    assert column(results_of(late), "transfer_queue_s")[0] == pytest.approx(0.025)
    waits = results_of(tiny(decode_queue_enter_s={0: 2.125}))
    assert column(waits, "handover_s")[0] == 0.125
    assert column(waits, "decode_queue_s")[0] == 0.125


def test_a_first_token_computed_on_the_decode_side_has_its_stage() -> None:
    """What passes in the batch before the first token is seen is no part of the decoding after."""
    seen = results_of(tiny(first_token_s={0: 2.5}, second_token_s={0: 3.0}))
    assert column(seen, "first_step_s")[0] == 0.25
    assert column(seen, "decode_s")[0] == 3.75
    assert column(seen, "ttst_s")[0] == 0.5


def test_a_mixed_worker_queues_for_decode_since_its_prefill_ended() -> None:
    """Without a transfer the decode queue counts from the end of prefill."""
    results = results_of(tiny(output_tokens={1: 3}, decode_join_s={1: 3.125}, finish_s={1: 4.0}))
    assert column(results, "decode_queue_s")[1] == 0.125
    assert column(results, "transfer_s")[1] is None
    assert column(results, "decode_s")[1] == 0.875


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("first_token", ["prefill", "decode"])
def test_stages_add_up_to_the_whole(layerwise: bool, first_token: str) -> None:
    """For every finished request the stages it passed sum to its end-to-end latency."""
    run = FakeRun(mixed=1, rejected=0.1, layerwise=layerwise, first_token=first_token)
    frame = results_of(fake_record(run)).requests.filter(pl.col("status") == "completed")
    error = frame.select((pl.sum_horizontal(*STAGES) - pl.col("e2e_s")).abs().max()).item()
    assert error < 1e-9
    assert frame.select(pl.min_horizontal(*STAGES).min()).item() > -1e-9


def test_moments_nobody_reached_are_null_and_types_are_narrow() -> None:
    """NaN and -1 become null, status and reason are Enums, counts are Int32, nothing is NaN."""
    frame = results_of(tiny()).requests
    assert frame["prefill_worker"].to_list() == [0, 2, None]
    assert frame["status"].to_list() == ["completed", "completed", "rejected"]
    assert frame["reason"].to_list() == [None, None, "exceeds_kv_capacity"]
    assert frame.schema["status"] == pl.Enum(STATUSES)
    assert frame.schema["preemptions"] == frame.schema["decode_worker"] == pl.Int32
    assert not any(frame[m.name].is_nan().any() for m in DURATIONS)
    assert frame["transfer_start_s"].null_count() == 2


def test_totals_of_a_hand_made_run() -> None:
    """Duration, rates, GPU-hours, utilisation and rejections match the arithmetic."""
    summary = results_of(tiny(), SLO(ttft_s=0.8, tpot_s=2.0)).summary
    assert summary["requests"] == {
        "arrived": 3,
        "incomplete": 0,
        "completed": 2,
        "rejected": 1,
        "failed": 0,
    }
    assert summary["rejected_reasons"] == {"exceeds_kv_capacity": 1}
    assert summary["duration_s"] == 5.25
    assert summary["goodput_rps"] == 1 / 5.25
    assert summary["slo_attainment"] == 1 / 3
    assert summary["output_tokens_per_s"] == 6 / 5.25
    assert summary["output_tokens_per_s_per_gpu"] == pytest.approx(6 / 5.25 / 12)
    assert summary["input_tokens_per_s_per_gpu"] == pytest.approx(150 / 5.25 / 12)
    hours = {"prefill": 20 / 3600, "decode": 40 / 3600, "mixed": 60 / 3600, "total": 120 / 3600}
    assert summary["gpu_hours"] == pytest.approx(hours)
    assert summary["kv_utilization"] == {"prefill": 0.1, "decode": 0.2, "mixed": 0.3}
    assert summary["itl_s"]["mean"] == 4.5 / 4
    assert summary["itl_s"]["count"] == 4
    assert (summary["seed"], summary["wall_s"], summary["requests_per_wall_s"]) == (3, 2.0, 1.5)


def test_classes_are_judged_by_their_own_targets() -> None:
    """Of the three hand-made requests one is prompt enough for its class, and one was rejected."""
    names = pl.Series("class", ["gold", "other", "gold"], pl.Enum(["other", "gold"]))
    own = tiny()
    whole = results_of(own, SLO(ttft_s=100.0, tpot_s=None)).requests
    first = float(whole["ttft_s"][0])
    context = {
        **CONTEXT,
        "classes": {
            "other": {"ttft_s": 100.0, "tpot_s": None},
            "gold": {"ttft_s": first / 2, "tpot_s": None},
        },
    }
    results = Results.from_record(
        own, slo=SLO(ttft_s=100.0, tpot_s=None), context=context, identity=names.to_frame()
    )
    told = results.summary["classes"]
    assert {name: each["requests"]["arrived"] for name, each in told.items()} == {
        "other": 1,
        "gold": 2,
    }
    assert told["gold"]["requests"]["rejected"] == 1
    assert told["gold"]["targets"]["ttft_s"] == first / 2
    assert (told["other"]["slo_attainment"], told["gold"]["slo_attainment"]) == (1.0, 0.0)
    assert told["gold"]["ttft_s"]["p50"] == first
    assert results.summary["slo_attainment"] == 2 / 3  # by the run's targets
    assert results_of(own).summary["classes"] == {}


def test_lost_requests_and_changing_workers_are_counted() -> None:
    """Retries, failures by reason, and each pool's comings and goings match the hand-made run."""
    record = tiny(
        retries={0: 2, 2: 3},
        resends={1: 4},
        status={2: STATUSES.index("failed")},
        reason={2: 4},
    )
    summary = results_of(record).summary
    assert (summary["retries"], summary["retried_requests"]) == (5, 2)
    assert (summary["resends"], summary["resent_requests"]) == (4, 1)
    assert summary["failed_reasons"] == {"worker_lost": 1}
    assert summary["rejected_reasons"] == {}
    unmoved = {"started": 0, "stopped": 0, "failed": 0, "draining": 0, "unplaced": 0}
    assert summary["workers"] == {pool: {"initial": 1, **unmoved} for pool in POOLS}
    calm = results_of(tiny()).summary
    assert (calm["retries"], calm["retried_requests"], calm["failed_reasons"]) == (0, 0, {})


def test_workers_are_counted_by_what_became_of_them() -> None:
    """Who never got GPUs neither started nor stopped; who serves to the end has not stopped."""
    first, late = _worker(0, "decode"), {"why": "planned", "asked_s": 1.0}
    lives = [
        *(first, replace(first, state="failed"), replace(first, state="draining")),
        replace(first, **late, granted_s=2.0),
        replace(first, **late, granted_s=2.0, ready_s=np.nan, state="stopped"),
        replace(first, **late, granted_s=np.nan, ready_s=np.nan, state="stopped"),
        replace(first, **late, granted_s=np.nan, ready_s=np.nan, state="pending"),
    ]
    assert turnover(lives)["decode"] == {
        "initial": 3,
        "started": 2,
        "stopped": 1,
        "failed": 1,
        "draining": 1,
        "unplaced": 2,
    }
    assert not any(turnover(lives)["prefill"].values())


def test_what_caches_spared_is_summed_over_the_workers_that_have_any() -> None:
    """Hits are a share of the prompt tokens that were due anywhere; no cache tells nothing."""
    bare = _worker(0, "prefill")
    caches = [
        replace(bare, prefix_cache=True, found_tokens=200, spared_s=0.5, evicted_blocks=3),
        replace(bare, prefix_cache=True, found_tokens=100, spared_s=0.25, kept_tokens=64),
    ]
    assert prefix_cache([*caches, bare]) == {
        "hit_tokens": 300,
        "hit_share": 300 / (300 + 3 * 100),
        "spared_prefill_s": 0.75,
        "kept_tokens": 64,
        "evicted_blocks": 3,
    }
    assert prefix_cache([bare]) == {}
    idle = replace(bare, prefix_cache=True, prefill_tokens=0)
    assert prefix_cache([idle])["hit_share"] == 0


def test_a_pool_that_scaled_counts_its_allocated_share() -> None:
    """Rates per GPU divide by the time-mean of allocated GPUs: half the time, half a worker."""
    whole, part = _worker(1, "decode"), replace(_worker(0, "prefill"), allocated_s=5.0)
    assert mean_gpus([whole, part], end_s=10.0) == 4 + 2 / 2
    assert mean_gpus([whole, part], end_s=0.0) == 6


def test_summary_has_the_promised_keys_and_is_json() -> None:
    """Every promised key and statistic is there, and nothing is NaN or infinite."""
    summary = results_of(fake_record(FakeRun(requests=50))).summary
    assert set(summary) >= KEYS
    assert all(set(summary[name]) >= STATISTICS for name in (*SUMMARIZED, "itl_s"))
    assert set(summary["gpu_hours"]) >= {"prefill", "decode", "total"}
    assert set(summary["kv_utilization"]) >= {"prefill", "decode"}
    json.dumps(summary, allow_nan=False)


def test_every_distribution_is_that_of_its_column() -> None:
    """A statistic of the summary is the same statistic of the requests' column."""
    results = results_of(fake_record(FakeRun(requests=300, mixed=1, rejected=0.2)))
    frame = results.requests
    for name in SUMMARIZED:
        known, told = frame[name].drop_nulls(), results.summary[name]
        assert told["count"] == len(known)
        assert told["mean"] == pytest.approx(known.mean(), rel=1e-12)
        assert told["p90"] == pytest.approx(known.quantile(0.9, interpolation="linear"), rel=1e-12)
        assert told["max"] == known.max()


@pytest.mark.parametrize(
    ("record", "arrived"),
    [
        (fake_record(FakeRun(requests=20, rejected=1.0)), 20),
        (fake_record(FakeRun(requests=0)), 0),
    ],
)
def test_without_a_finished_request_numbers_are_null_not_nan(
    record: RunRecord, arrived: int
) -> None:
    """An all-rejected and an empty run summarise to zeros and nulls."""
    summary = results_of(record).summary
    assert summary["requests"]["arrived"] == arrived
    assert summary["duration_s"] is None
    assert summary["goodput_rps"] == 0.0
    assert summary["ttft_s"]["count"] == summary["itl_s"]["count"] == 0
    assert summary["ttft_s"]["p50"] is summary["itl_s"]["p99"] is None
    json.dumps(summary, allow_nan=False)


def test_slo_holds_at_its_bound_and_skips_undefined_tpot() -> None:
    """A metric equal to its target holds; TPOT of a one-token request does not count against it."""
    at_bound = SLO(ttft_s=1.0, tpot_s=1.125, e2e_s=5.25)
    assert results_of(tiny(), at_bound).summary["slo_attainment"] == 2 / 3
    assert results_of(tiny(), SLO(ttft_s=1.0, tpot_s=1.0)).summary["slo_attainment"] == 1 / 3


def test_slo_fails_what_is_missing_and_what_did_not_complete() -> None:
    """A missing metric fails, and so does a request that is not completed, even without targets."""
    unfinished = tiny(status={0: 0}, first_token_s={1: np.nan})
    assert results_of(unfinished, SLO(ttft_s=9.0, tpot_s=None)).summary["slo_attainment"] == 0.0
    no_target = SLO(ttft_s=None, tpot_s=None)
    assert results_of(unfinished, no_target).summary["slo_attainment"] == 1 / 3


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), "fast", True])
def test_slo_refuses_what_is_no_target(bad: object) -> None:
    """A target that is not a positive number is named with its value."""
    with pytest.raises(ConfigError, match=f"slo: tpot_s must be a positive .* but got {bad!r}"):
        SLO(tpot_s=bad)  # type: ignore[arg-type]


def test_a_missed_target_names_its_stage_by_hand() -> None:
    """Of TTFT 0.75 and 1.0 s with the same prefill, the queue made the second miss 0.8 s.

    TPOT counts what comes after the first token, per token: 4 s of decode over four gaps.
    """
    missed = results_of(tiny(), SLO(ttft_s=0.8, tpot_s=1.0)).summary["missed"]
    counts = {"requests": 2, "measured": 1}
    queue = {"stage": "prefill_queue_s", "spent_s": 0.5, "held_s": 0.25}
    decode = {"stage": "decode_s", "spent_s": 1.0, "held_s": None}
    assert missed == {"ttft_s": {**counts, **queue}, "tpot_s": {**counts, **decode}}


@pytest.mark.parametrize("first_token", ["prefill", "decode"])
@pytest.mark.parametrize("metric", ["ttft_s", "tpot_s", "ttst_s", "e2e_s"])
def test_what_counts_towards_a_metric_adds_up_to_it(metric: str, first_token: str) -> None:
    """The stages' seconds that count towards a metric are the whole of it, for every request."""
    run = FakeRun(requests=300, mixed=1, layerwise=True, first_token=first_token)
    scan = results_of(fake_record(run)).scan
    parts = pl.sum_horizontal(counted(metric, at) for at in range(len(STAGES)))
    told = scan.select(parts.alias("sum"), metric).filter(pl.col(metric).is_not_null()).collect()
    np.testing.assert_allclose(told["sum"], told[metric], rtol=1e-9)


@given(
    ttft=st.floats(0.01, 2.0),
    looser=st.floats(1.0, 3.0),
    rejected=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_goodput_is_at_most_throughput_and_grows_with_the_target(
    ttft: float, looser: float, rejected: float
) -> None:
    """Goodput never exceeds completed requests per second, and a looser target never loses any."""
    record = fake_record(FakeRun(requests=60, rejected=rejected, samples=5))
    tight = results_of(record, SLO(ttft_s=ttft)).summary
    loose = results_of(record, SLO(ttft_s=ttft * looser)).summary
    completed = tight["requests"]["completed"]
    if completed:
        assert tight["goodput_rps"] <= loose["goodput_rps"] <= completed / tight["duration_s"]
    assert tight["slo_attainment"] <= loose["slo_attainment"] <= completed / 60


def test_a_late_second_token_misses_its_target() -> None:
    """TTST is a target like the others, and an answer of one token has none to miss."""
    for target, good in ((0.9, 1), (1.0, 2)):
        slo = SLO(ttft_s=None, tpot_s=None, ttst_s=target)
        assert results_of(tiny(), slo).summary["slo_attainment"] == good / 3


def test_percentiles_interpolate_linearly() -> None:
    """Between two order statistics the percentile lies on the straight line."""
    told = distribution(np.array([4.0, np.nan, 1.0, 3.0, 2.0]))
    assert [told[name] for name in ("p50", "p75", "p90")] == pytest.approx([2.5, 3.25, 3.7])
    assert (told["mean"], told["min"], told["max"], told["count"]) == (2.5, 1.0, 4.0, 4)
    assert told["std"] == pytest.approx(np.sqrt(1.25))


def test_a_percentile_among_the_unfinished_is_no_number() -> None:
    """Who is not there yet counts as slower than all who are; how much at least is told."""
    values = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 5.0, 6.0, np.nan])
    told = owing(values, np.array([0.5, 7.0, np.inf, np.inf]))
    assert told["p50"] == 5.5
    assert told["p75"] is told["p90"] is told["p99"] is None
    assert told["at_least"] == {"p75": 6.0, "p90": None, "p95": None, "p99": None}
    assert (told["count"], told["unfinished"], told["max"]) == (6, 4, 6.0)
    whole = owing(values, np.array([]))
    assert whole == {**distribution(values), "unfinished": 0, "at_least": {}}


def test_requests_that_failed_are_in_no_survivor_s_percentile() -> None:
    """A request that timed out never has its answer; one taken back is not waited for."""
    failed, timeout = STATUSES.index("failed"), REASONS.index("timeout")
    late = {"status": {2: failed}, "reason": {2: timeout}}
    told = results_of(tiny(**late)).summary["e2e_s"]
    assert (told["count"], told["unfinished"], told["p99"]) == (2, 1, None)
    assert told["at_least"]["p99"] == told["max"] == 5.25
    back = {"status": {2: failed}, "reason": {2: REASONS.index("cancelled")}}
    assert results_of(tiny(**back)).summary["e2e_s"]["unfinished"] == 0


@given(st.lists(st.floats(0.0, 1e6), min_size=1))
def test_percentiles_are_ordered_and_inside(values: list[float]) -> None:
    """Min, percentiles and max never decrease, and all come from within the values."""
    told = distribution(np.array(values))
    ranks = [told[name] for name in ("min", "p50", "p75", "p90", "p95", "p99", "max")]
    numbers = [rank for rank in ranks if rank is not None]
    assert len(numbers) == len(ranks)
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (min(values), max(values))


def pooled(gaps: list[float]) -> GapHistogram:
    """Return the histogram of these gaps."""
    counts = np.histogram(gaps, EDGES)[0]
    return GapHistogram(edges=EDGES, counts=counts, min_s=min(gaps), max_s=max(gaps))


@given(st.lists(st.sampled_from([0.0, 3e-9, 4e-7, 1e-6, 0.02, 3e5, 2e7]), min_size=1))
def test_pooled_gaps_lie_between_their_ends(gaps: list[float]) -> None:
    """Also of gaps below and above all decades, mean and percentiles lie within min and max."""
    told = gap_distribution(pooled(gaps), float(np.mean(gaps)))
    assert (told["min"], told["max"]) == (min(gaps), max(gaps))
    ranks = [told[name] for name in ("min", "p50", "p75", "p90", "p95", "p99", "max")]
    assert ranks == sorted(ranks)  # type: ignore[type-var]
    assert min(gaps) <= told["mean"] <= max(gaps)  # type: ignore[operator]


@given(st.lists(st.floats(1e-5, 1e3), min_size=1, max_size=50))
def test_gap_quantiles_are_exact_to_one_bin(gaps: list[float]) -> None:
    """A quantile off the histogram is within one bin's width of an order statistic around it."""
    histogram = pooled(gaps)
    assert gap_bin_width(histogram) == pytest.approx(10**0.001 - 1)
    exact, slack = np.sort(gaps), 1 + 1.01 * gap_bin_width(histogram)
    for share in (0.0, 0.5, 0.9, 1.0):
        low = exact[max(int(np.ceil(share * len(gaps))) - 1, 0)]
        assert low / slack <= gap_quantiles(histogram, [share])[0] <= low * slack
    told = gap_distribution(histogram, float(np.mean(gaps)))
    assert told["max"] == max(gaps)
    assert told["std"] == pytest.approx(np.std(gaps), abs=max(gaps) * 0.005)


def test_itl_mean_is_exact_where_the_histogram_is_not() -> None:
    """The pooled mean comes from the requests' columns and agrees with the gaps' own."""
    record = fake_record(FakeRun(requests=200))
    told = results_of(record).summary["itl_s"]
    edges = np.clip(record.gaps.edges, record.gaps.min_s, record.gaps.max_s)
    middles = (edges[1:] + edges[:-1]) / 2
    assert told["mean"] == pytest.approx(np.average(middles, weights=record.gaps.counts), rel=3e-3)


def test_timeline_turns_totals_into_rates_per_interval() -> None:
    """Cumulative gauges become their growth per second of the interval, the first since zero."""
    frame = results_of(tiny()).timeline
    assert frame["time_s"].to_list() == [2.0] * 3 + [4.0] * 3
    assert frame["worker"].to_list() == [0, 1, 2] * 2
    assert frame["pool"].to_list() == [*POOLS, *POOLS]
    assert frame["busy_fraction"].to_list() == [1.0, 2.0, 3.0] * 2
    assert frame["sent_bytes_per_s"].to_list() == [1.0, 2.0, 3.0] * 2
    assert frame["kv_utilization"].to_list() == [0.02, 0.04, 0.06, 0.04, 0.08, 0.12]


def test_timeline_rates_add_up_to_the_totals() -> None:
    """Rates times intervals give back all bytes sent, which is what the requests' KV weighs."""
    record = fake_record(FakeRun(requests=100))
    frame = results_of(record).timeline
    sent = frame.filter(pl.col("worker") == 0)
    span = np.diff(sent["time_s"].to_numpy(), prepend=0.0)
    total = float(np.sum(sent["sent_bytes_per_s"].to_numpy() * span))
    assert total == pytest.approx(record.timeline["sent_bytes"][-1, 0], rel=1e-9)


def test_an_interval_without_time_has_no_rate() -> None:
    """A gauge sampled at 0 s, or twice at one instant, has a null rate, not an infinite one."""
    record = tiny()
    gauges = _gauges(np.array([0.0, 2.0, 2.0]), workers=3)
    record = replace(record, timeline=gauges)
    rates = results_of(record).timeline["busy_fraction"].to_list()
    assert [rate is None for rate in rates] == [True] * 3 + [False] * 3 + [True] * 3


def test_events_name_the_worker_and_its_pool() -> None:
    """Events keep their order; one without a worker has neither worker nor pool."""
    rows = results_of(tiny()).events.rows()
    assert rows == [(0.0, "ready", 0, "prefill", ""), (5.0, "note", None, None, "all")]


def test_equal_runs_write_identical_bytes(tmp_path: Path) -> None:
    """Two results of the same inputs give byte-identical parquet files, which read back equal."""
    record = fake_record(FakeRun(requests=70_000, samples=20))
    for name in ("a", "b"):
        results_of(record).write(tmp_path / name, report=None)
    for name in ("requests", "timeline", "events", "lives", "decisions"):
        first, second = ((tmp_path / x / f"{name}.parquet").read_bytes() for x in ("a", "b"))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    assert pl.read_parquet(tmp_path / "a" / "requests.parquet").equals(results_of(record).requests)


def test_folder_is_complete_and_summary_matches(tmp_path: Path) -> None:
    """Every file is there, the configuration as given, and the summary as computed."""
    results = results_of(tiny())
    results.write(tmp_path / "run", report=lambda _, path: Path(path).touch())
    names = {path.name for path in (tmp_path / "run").iterdir()}
    data = {f"{name}.parquet" for name in ("requests", "timeline", "events", "lives", "decisions")}
    assert names == data | {"config.yaml", "summary.json", "report.html"}
    assert (tmp_path / "run" / "config.yaml").read_text() == CONTEXT["config"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == results.summary


def test_a_failed_report_leaves_no_summary(tmp_path: Path) -> None:
    """A folder whose report could not be written does not look complete, whatever it held."""

    def broken(results: Results, path: Path) -> None:
        raise OSError(errno.ENOSPC, f"no room for {len(results.workers)} workers", str(path))

    results_of(tiny()).write(tmp_path, report=None)
    assert (tmp_path / "summary.json").exists()
    with pytest.raises(OSError, match=r"No space left on device.*/report\.html'"):
        results_of(tiny()).write(tmp_path, report=broken)
    assert not list(tmp_path.glob("*summary.json*"))


def test_config_digest_tells_texts_apart() -> None:
    """Equal texts have equal digests and a changed character another one."""
    assert config_digest("a: 1") == config_digest("a: 1") != config_digest("a: 2")
    assert len(config_digest("")) == 12


def test_identity_comes_first_and_ends_with_the_arrivals() -> None:
    """Columns of the workload stand beside what was measured, without requests that never came."""
    identity = pl.DataFrame({"request_id": [0, 1, 2, 3], "tenant": ["a", "b", None, "d"]})
    results = Results.from_record(tiny(), slo=SLO(), context=CONTEXT, identity=identity)
    assert results.requests.columns[:2] == ["request_id", "tenant"]
    assert column(results, "tenant") == ["a", "b", None]
    assert results.requests.drop("request_id", "tenant").equals(results_of(tiny()).requests)


def test_warnings_of_the_trace_and_of_what_was_lost_are_in_the_summary() -> None:
    """What reading warned of comes first, then what was not served."""
    context = {**CONTEXT, "accounting": {"warnings": ["look"]}, "max_context": 64}
    results = Results.from_record(tiny(), slo=SLO(), context=context)
    first, second = results.summary["warnings"]
    assert first == "look"
    assert second.startswith(f"{10_007 / 10_163:.1%} of the tokens")
    assert results.summary["dropped"]["requests"] == {"exceeds_kv_capacity": 1}


def test_a_pool_that_lost_its_last_worker_is_told() -> None:
    """Only where somebody was still waiting, and only of a pool all of whose workers are gone."""
    changes = "changes=[{at_s: 5, pool: decode, flip: 2, to: prefill}]"
    waiting = simulate(compose(["workload.requests=60", changes]))
    (told,) = [each for each in waiting.summary["warnings"] if "no worker any more" in each]
    left = waiting.summary["requests"]["incomplete"]
    assert told.startswith(f"{left:,} requests had no complete answer")
    assert "the decode pool" in told
    fewer = simulate(compose(["workload.requests=60", changes.replace("flip: 2", "flip: 1")]))
    assert not any("no worker any more" in each for each in fewer.summary["warnings"])

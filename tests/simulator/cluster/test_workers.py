"""Prefill, decode and mixed workers, against timelines worked out by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from builders import (
    INSTANT_LINKS,
    LinearLatency,
    colocated,
    disaggregated,
    poisson_traffic,
    traffic,
)

from simulator.cluster.simulation import RunOptions, Simulation, run
from simulator.deployment import Batching, Deployment, Pool, Transfer
from simulator.errors import ConfigError
from simulator.latency.engine import Engine
from simulator.latency.roofline import Roofline
from simulator.record import REASONS, STATUSES

PER_TOKEN = LinearLatency(base=0.0, per_seq=0.0, per_context=0.0, per_token=1e-3, per_pair=0.0)
FLAT = LinearLatency(base=0.1, per_seq=0.0, per_context=0.0, per_token=0.0, per_pair=0.0)


def test_prefill_batches_up_to_the_token_budget() -> None:
    """Prompts of 60, 60 and 60 tokens under a budget of 100: the second is cut after 40."""
    deployment = disaggregated(
        1, 1, latency=PER_TOKEN, batching=Batching(max_num_batched_tokens=100, max_num_seqs=8)
    )
    columns = run(deployment, traffic([0.0] * 3, 60, 1), RunOptions()).requests
    # Steps: 60 + 40, then 20 + 60.
    assert columns["prefill_start_s"] == pytest.approx([0.0, 0.0, 0.1])
    assert columns["prefill_end_s"] == pytest.approx([0.1, 0.18, 0.18])


def test_without_chunking_a_prompt_is_computed_whole() -> None:
    """Unchunked, 60 + 60 do not share a budget of 100, and 150 still runs, alone."""
    batching = Batching(max_num_batched_tokens=100, max_num_seqs=8, chunked_prefill=False)
    deployment = disaggregated(1, 1, latency=PER_TOKEN, batching=batching)
    columns = run(deployment, traffic([0.0] * 3, [60, 60, 150], 1), RunOptions()).requests
    assert columns["prefill_end_s"] == pytest.approx([0.06, 0.12, 0.27])


@pytest.mark.parametrize(
    ("answer", "seats", "released"),
    [
        (5, 8, [0.3, 0.3, 0.3]),  # when there is no prompt left
        (2, 8, [0.2, 0.3, 0.3]),  # the first has its second token from the second's step
        (1, 8, [0.1, 0.2, 0.3]),  # an answer of one token waits for nothing
        (5, 2, [0.2, 0.3, 0.3]),  # without a seat for the third, the first ends in no time
    ],
)
def test_an_idle_release_holds_prompts_back(answer: int, seats: int, released: list[float]) -> None:
    """Each prompt of 100 ms leaves when its worker is idle, or with the last of its tokens."""
    deployment = disaggregated(
        1,
        1,
        latency=PER_TOKEN,
        batching=Batching(max_num_seqs=seats),
        transfer=Transfer(release="idle"),
    )
    columns = run(deployment, traffic([0.0, 0.05, 0.15], 100, answer), RunOptions()).requests
    assert columns["prefill_end_s"] == pytest.approx([0.1, 0.2, 0.3])
    assert columns["transfer_queue_enter_s"] == pytest.approx(released)


def test_a_kept_prompt_takes_a_token_of_each_step() -> None:
    """Beside one that is kept, a budget of 101 tokens has 100 for the next prompt of 101."""
    deployment = disaggregated(
        1,
        1,
        latency=PER_TOKEN,
        batching=Batching(max_num_batched_tokens=101, max_num_seqs=8),
        transfer=Transfer(release="idle"),
    )
    columns = run(deployment, traffic([0.0, 0.05], 101, 9), RunOptions()).requests
    assert columns["prefill_end_s"] == pytest.approx([0.101, 0.202])
    assert columns["transfer_queue_enter_s"] == pytest.approx([0.202, 0.202])
    steps = run(deployment, traffic([0.0, 0.05], 101, 9), RunOptions()).workers[0].steps
    assert steps == 3, "the second prompt's last token needs a step of its own"


def test_an_idle_release_of_layers_on_their_way_is_refused() -> None:
    """What leaves while it is computed cannot wait until its worker is idle."""
    with pytest.raises(ConfigError, match="release must be prompt where mode is push_layerwise"):
        Transfer(mode="push_layerwise", release="idle")


def test_simultaneous_arrivals_share_the_first_step() -> None:
    """Requests of one instant find an idle worker together, whatever their order."""
    columns = run(
        disaggregated(1, 1, latency=FLAT), traffic([1.0] * 5, 10, 1), RunOptions()
    ).requests
    assert columns["prefill_end_s"] == pytest.approx([1.1] * 5)


def test_chunk_pipeline_overlaps_the_chunks_of_a_prompt() -> None:
    """With 4 stages, 8 chunks of 1 s take 8/4 + 3/4 s: (chunks + stages − 1) stage times."""
    latency = replace(PER_TOKEN, stages=4)
    batching = Batching(max_num_batched_tokens=1000, max_num_seqs=8)
    deployment = disaggregated(1, 1, latency=latency, batching=batching)
    record = run(deployment, traffic([0.0], 8000, 1), RunOptions())
    assert record.requests["prefill_end_s"] == pytest.approx([(8 + 4 - 1) / 4])
    assert record.workers[0].busy_s == pytest.approx((8 + 4 - 1) / 4)


def test_pipeline_serves_prompts_at_its_stage_pace() -> None:
    """With 4 stages, prompts that come together leave one stage time apart, in order."""
    latency = replace(PER_TOKEN, stages=4)
    batching = Batching(max_num_batched_tokens=1000, max_num_seqs=1)
    deployment = disaggregated(1, 1, latency=latency, batching=batching)
    record = run(deployment, traffic([0.0] * 6, 1000, 1), RunOptions())
    assert record.requests["prefill_end_s"] == pytest.approx(1 + np.arange(6) / 4)


def test_decode_joins_at_the_next_iteration() -> None:
    """A request whose KV arrives during an iteration starts with the next one."""
    deployment = disaggregated(2, 1, latency=FLAT, transfer=Transfer(mode="push"))
    columns = run(deployment, traffic([0.0, 0.05], 10, [5, 3]), RunOptions()).requests
    first, second = columns["decode_join_s"]
    assert second - first == pytest.approx(0.1)
    assert columns["second_token_s"] - columns["decode_join_s"] == pytest.approx([0.1, 0.1])
    assert columns["finish_s"] - columns["decode_join_s"] == pytest.approx([0.4, 0.2])


def test_mixed_worker_puts_prompt_chunks_beside_decodes() -> None:
    """A prompt arriving during decode lengthens the iterations its chunks ride on."""
    batching = Batching(max_num_batched_tokens=101, max_num_seqs=8)
    latency = replace(FLAT, per_token=1e-3)
    deployment = colocated(1, latency=latency, batching=batching)
    columns = run(deployment, traffic([0.0, 0.15], [100, 200], [5, 1]), RunOptions()).requests
    # 0–0.2 prompt 0; 0.2–0.4 and 0.4–0.6 decode beside 100 tokens; 0.6–0.7, 0.7–0.8 decode alone.
    assert columns["prefill_end_s"] == pytest.approx([0.2, 0.6])
    assert columns["finish_s"] == pytest.approx([0.8, 0.6])


def stalling(**changes: object) -> Deployment:
    """Return a mixed worker of 0.1 s a step and 1 ms a prompt token that stalls its decodes."""
    settings = {"max_num_batched_tokens": 100, "max_num_seqs": 8, "piggyback": False, **changes}
    latency = replace(FLAT, per_token=1e-3, per_seq=0.01)
    return colocated(1, latency=latency, batching=Batching(**settings))  # type: ignore[arg-type]


def test_without_piggybacking_prompts_stall_the_decodes() -> None:
    """A prompt arriving during decode is computed next, alone; the batch's next token waits."""
    record = run(stalling(), traffic([0.0, 0.25], [100, 50], [4, 2]), RunOptions())
    columns = record.requests
    # 0–0.2 prompt 0; 0.2–0.31 decode; 0.31–0.46 prompt 1 alone; 0.46–0.58 both; 0.58–0.69.
    assert columns["prefill_start_s"] == pytest.approx([0.0, 0.31])
    assert columns["prefill_end_s"] == pytest.approx([0.2, 0.46])
    assert columns["decode_join_s"] == pytest.approx([0.2, 0.46])
    assert columns["finish_s"] == pytest.approx([0.69, 0.58])
    assert record.workers[0].steps == 5
    assert record.gaps.max_s == pytest.approx(0.58 - 0.31)
    assert record.gaps.counts.sum() == 4


def test_stalls_follow_each_other_while_prompts_wait() -> None:
    """Three whole prompts, two in a budget: two stalls in a row, then a step of all four."""
    load = traffic([0.0, 0.25, 0.25, 0.25], [100, 50, 50, 150], [3, 2, 2, 2])
    record = run(stalling(chunked_prefill=False), load, RunOptions())
    columns = record.requests
    # 0.31–0.51 prompts 1 and 2; 0.51–0.76 prompt 3; 0.76–0.90 all four decode.
    assert columns["prefill_end_s"] == pytest.approx([0.2, 0.51, 0.51, 0.76])
    assert columns["finish_s"] == pytest.approx([0.9] * 4)
    edges, counts = record.gaps.edges, record.gaps.counts
    bins = np.repeat(edges[:-1], counts)
    assert bins == pytest.approx([0.11, 0.14, 0.39, 0.39, 0.59], rel=3e-3)


def test_without_piggybacking_chunks_stall_too() -> None:
    """With chunked prefill a long prompt stalls the decodes chunk after chunk, to its end."""
    columns = run(stalling(), traffic([0.0, 0.25], [100, 150], [3, 1]), RunOptions()).requests
    # 0.31–0.51 the first 100 tokens, 0.51–0.66 the rest, 0.66–0.77 the last decode.
    assert columns["prefill_end_s"] == pytest.approx([0.2, 0.66])
    assert columns["finish_s"] == pytest.approx([0.77, 0.66])


def test_stalls_end_when_no_prompt_can_be_admitted() -> None:
    """A prompt without a seat, or without blocks, waits for a decode to end: no stall."""
    load = traffic([0.0, 0.0], 50, [3, 2])
    for limit in ({"max_num_seqs": 1}, {"kv_blocks": 5}):
        columns = run(stalling(**limit), load, RunOptions()).requests
        assert columns["prefill_start_s"] == pytest.approx([0.0, 0.37])


def test_seats_bound_the_batch() -> None:
    """At most max_num_seqs sequences decode at once; the others wait in order."""
    deployment = disaggregated(
        1, 1, latency=FLAT, batching=Batching(max_num_seqs=2, max_num_batched_tokens=8192)
    )
    record = run(deployment, traffic([0.0] * 6, 10, 11), RunOptions(sample_interval_s=0.05))
    assert record.timeline["running"][:, 1].max() == 2
    joins = record.requests["decode_join_s"]
    assert (np.diff(joins) >= 0).all()


def test_full_reserve_never_preempts() -> None:
    """Setting whole sequences aside (no-evict) leaves nothing to preempt."""
    batching = Batching(kv_blocks=60, max_num_seqs=16, reserve="full")
    record = run(colocated(1, batching=batching), poisson_traffic(200, 20, 100, 50), RunOptions())
    assert record.requests["preemptions"].sum() == 0
    assert (record.requests["status"] == STATUSES.index("completed")).sum() > 150


def test_preempted_requests_are_recomputed_and_finish() -> None:
    """Under memory pressure sequences are preempted, recomputed and still complete."""
    batching = Batching(kv_blocks=30, max_num_seqs=16)
    record = run(colocated(1, batching=batching), traffic([0.0] * 8, 50, 80), RunOptions())
    columns = record.requests
    assert columns["preemptions"].sum() > 0
    assert (columns["recomputed_tokens"] > 0).sum() == (columns["preemptions"] > 0).sum()
    assert (columns["status"] == STATUSES.index("completed")).all()


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (999_990, 11, "exceeds_context"),
        (18_000, 10, "exceeds_prefill_kv_capacity"),
        (100, 20_000, "exceeds_kv_capacity"),
    ],
)
def test_what_can_never_be_served_is_rejected(inputs: int, outputs: int, reason: str) -> None:
    """An impossible request is turned away with its reason, and the others are served."""
    small = Batching(kv_blocks=1000)
    base = disaggregated(1, 1)
    pools = (
        Pool(role="prefill", workers=1, batching=small),
        Pool(role="decode", workers=1, batching=replace(small, kv_blocks=1250)),
    )
    load = traffic([0.0, 0.1, 0.2], [100, inputs, 100], [5, outputs, 5])
    columns = run(replace(base, pools=pools), load, RunOptions()).requests
    assert [STATUSES[status] for status in columns["status"]] == [
        "completed",
        "rejected",
        "completed",
    ]
    assert REASONS[columns["reason"][1]] == reason


def test_first_token_at_decode_includes_the_hand_over() -> None:
    """A client sees its first token when the decode worker takes over, were it the only one."""
    deployment = disaggregated(1, 1, latency=FLAT)
    columns = run(deployment, traffic([0.0, 0.0], 10, [5, 1]), RunOptions()).requests
    assert (columns["first_token_s"] == columns["decode_join_s"]).all()
    assert (columns["transfer_end_s"] > columns["prefill_end_s"]).all()
    assert columns["finish_s"][1] == columns["first_token_s"][1]
    assert columns["finish_s"] - columns["first_token_s"] == pytest.approx([0.4, 0.0])


def test_first_token_at_prefill_spares_short_answers_the_hand_over() -> None:
    """`first_token=prefill`: it is there when the prompt is, and an answer of one token ends."""
    deployment = replace(disaggregated(1, 1, latency=FLAT), first_token="prefill")  # noqa: S106
    columns = run(deployment, traffic([0.0, 0.0], 10, [5, 1]), RunOptions()).requests
    assert (columns["first_token_s"] == columns["prefill_end_s"]).all()
    assert columns["finish_s"][1] == columns["prefill_end_s"][1]
    assert np.isnan(columns["transfer_start_s"][1])


def handed_over(mode: str, **settings: object) -> Deployment:
    """Return one prefill and one decode worker of 0.1 s a step, with this hand-over."""
    transfer = Transfer(mode=mode, **settings)  # type: ignore[arg-type]
    return disaggregated(1, 1, latency=FLAT, transfer=transfer, **INSTANT_LINKS)


@pytest.mark.parametrize("mode", ["pull", "push", "push_layerwise"])
def test_the_decode_side_acts_after_the_hand_over(mode: str) -> None:
    """It is asked 0.25 s after the prompt is done, or has its KV but begins no sooner than then."""
    columns = run(handed_over(mode, handover_s=0.25), traffic([0.0], 10, 3), RunOptions()).requests
    asked = 0.0 if mode == "push_layerwise" else 0.35
    assert columns["transfer_queue_enter_s"] == pytest.approx([asked])
    assert columns["decode_queue_enter_s"] == pytest.approx([0.35])
    assert columns["first_token_s"] == pytest.approx([0.35])
    assert columns["finish_s"] == pytest.approx([0.55])


def test_a_recomputed_first_token_costs_an_iteration() -> None:
    """The decode worker computes the first token itself: one more step, also for one token."""
    record = run(handed_over("pull", recomputes=True), traffic([0.0], 10, 3), RunOptions())
    columns = record.requests
    assert columns["decode_join_s"] == pytest.approx([0.1])
    assert columns["first_token_s"] == pytest.approx([0.2])
    assert columns["second_token_s"] == pytest.approx([0.3])
    assert columns["finish_s"] == pytest.approx([0.4])
    assert record.workers[1].decode_tokens == 3
    assert record.gaps.counts.sum() == 2
    alone = run(handed_over("pull", recomputes=True), traffic([0.0], 10, 1), RunOptions())
    assert alone.requests["finish_s"] == pytest.approx([0.2])
    early = replace(handed_over("pull", recomputes=True), first_token="prefill")  # noqa: S106
    columns = run(early, traffic([0.0], 10, 3), RunOptions()).requests
    assert columns["finish_s"] == pytest.approx([0.3]), "what was shown is not computed again"


@pytest.mark.parametrize("build", [disaggregated, colocated])
def test_the_gateway_delays_every_request(build: Callable[..., Deployment]) -> None:
    """A request stands in a worker's queue after the front end's seconds, whatever serves it."""
    deployment = replace(build(1, latency=FLAT), gateway_s=0.05)
    if build is disaggregated:
        deployment = replace(disaggregated(1, 1, latency=FLAT), gateway_s=0.05)
    columns = run(deployment, traffic([0.0, 1.0], 10, 2), RunOptions()).requests
    assert columns["prefill_queue_enter_s"] == pytest.approx([0.05, 1.05])
    assert columns["prefill_end_s"] == pytest.approx([0.15, 1.15])


def test_an_engine_tells_how_it_hands_over() -> None:
    """What the deployment does not say is the engine's; a model without one adds nothing."""
    engine = Engine(name="mine", gateway_s=0.03, handover_s=0.2, recomputes=True)
    told = disaggregated(1, 1, latency=Roofline(engine=engine))
    assert (told.entry_s, told.handover_s, told.recomputes) == (0.03, 0.2, True)
    own = replace(told, gateway_s=0.0, transfer=Transfer(handover_s=0.1, recomputes=False))
    assert (own.entry_s, own.handover_s, own.recomputes) == (0.0, 0.1, False)
    assert not replace(told, first_token="prefill").recomputes  # noqa: S106 - a place
    assert (disaggregated(1, 1).entry_s, disaggregated(1, 1).handover_s) == (0.0, 0.0)


def test_an_answer_of_one_token_frees_its_blocks_for_who_waits() -> None:
    """With blocks for one prompt at the decode worker, answers of one token follow each other."""
    deployment = disaggregated(1, 1, latency=FLAT, batching=Batching(kv_blocks=4))
    columns = run(deployment, traffic([0.0] * 3, 60, 1), RunOptions()).requests
    assert (columns["status"] == STATUSES.index("completed")).all()
    assert len(set(columns["finish_s"])) == 3


def test_the_second_token_follows_the_first_by_an_iteration() -> None:
    """Handed over or not, the second token comes with the first iteration after the first."""
    load = traffic([0.0, 0.0], 10, [5, 2])
    for deployment in (disaggregated(1, 1, latency=FLAT), colocated(1, latency=FLAT)):
        columns = run(deployment, load, RunOptions()).requests
        assert columns["second_token_s"] - columns["first_token_s"] == pytest.approx(0.1)
        assert columns["second_token_s"][1] == columns["finish_s"][1]


def test_a_stall_delays_the_second_token() -> None:
    """Prompts computed alone after the first token come before the second."""
    columns = run(stalling(), traffic([0.0, 0.15], [100, 50], [4, 2]), RunOptions()).requests
    # 0–0.2 prompt 0; 0.2–0.35 prompt 1 alone; 0.35–0.47 both.
    assert columns["second_token_s"] == pytest.approx([0.47, 0.47])


def three_pools() -> Deployment:
    """Return one worker of each role."""
    base = disaggregated(1, 1)
    return replace(base, pools=(*base.pools, Pool(role="mixed", workers=1)))


def test_mixed_and_disaggregated_pools_serve_side_by_side() -> None:
    """With all three pools, arrivals go to prefill and mixed workers alike and all complete."""
    record = run(three_pools(), poisson_traffic(300, 50, 200, 30), RunOptions())
    columns = record.requests
    pools = {worker.worker: worker.pool for worker in record.workers}
    entered = {pools[worker] for worker in columns["prefill_worker"]}
    assert entered == {"prefill", "mixed"}
    assert (columns["status"] == STATUSES.index("completed")).all()
    stayed = columns["prefill_worker"] == columns["decode_worker"]
    assert np.isnan(columns["transfer_end_s"][stayed]).all()


def test_stopping_early_leaves_the_rest_incomplete() -> None:
    """`until_s` ends the run there; what has not finished is incomplete, not lost."""
    load = traffic([0.0, 1.0, 50.0], 10, [5, 10_000, 5])
    record = run(disaggregated(1, 1), load, RunOptions(until_s=20.0))
    assert record.end_s == 20.0
    assert [STATUSES[status] for status in record.requests["status"]] == ["completed", "incomplete"]


def test_a_long_pause_costs_few_samples() -> None:
    """Gauges thin themselves out, so a trace with a year's gap stays small and fast."""
    load = traffic([0.0, 3e7], 10, 5)
    record = run(disaggregated(1, 1), load, RunOptions(sample_interval_s=0.01))
    assert len(record.timeline["time_s"]) <= 4096
    assert (np.diff(record.timeline["time_s"]) > 0).all()


def test_busy_seconds_are_the_steps() -> None:
    """A worker's busy time is the sum of its steps, and never more than the run."""
    record = run(disaggregated(2, 2), poisson_traffic(300, 50, 200, 30), RunOptions())
    for worker in record.workers:
        assert 0 < worker.busy_s <= record.end_s
    simulation = Simulation(disaggregated(1, 1, latency=FLAT), traffic([0.0], 10, 6), RunOptions())
    assert simulation.run().workers[1].busy_s == pytest.approx(0.5)

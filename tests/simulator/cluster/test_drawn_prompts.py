"""What generators say of the prompts they draw, a prefix cache finds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import colocated

from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.cluster.workers.prompts import blocks_of
from simulator.deployment import Batching
from simulator.record import STATUSES
from workloads.arrivals import Poisson
from workloads.conversations import Conversations, Subagents
from workloads.lengths import Constant, Geometric, LogNormal
from workloads.prefixes import Prefixes
from workloads.sessions import Turns
from workloads.shared import SharedPrefixes
from workloads.trace import Trace

ENDLESS = Batching(kv_blocks=10**7, max_num_seqs=64, max_num_batched_tokens=10**6, block_size=16)
SHARED = SharedPrefixes(
    arrivals=Poisson(rate=1.0),
    requests=150,
    input_lengths=LogNormal(median=900, sigma=0.9, max=20_000),
    output_lengths=Constant(tokens=3),
    branches=(1, 4, 5),
    zipf=1.0,
    hit_rate=0.5,
)
CHATS = Conversations(
    sessions=60,
    arrivals=Poisson(rate=1.0),
    turns_per_session=Geometric(mean=3.0),
    prefixes=Prefixes(root_tokens=100, groups=4, zipf=1.0, tokens=Constant(tokens=300)),
    new_tokens=LogNormal(median=150, sigma=1.0),
    output_tokens=LogNormal(median=30, sigma=0.5),
    subagents=Subagents(probability=0.1),
    reset_probability=0.05,
)


def drawn(workload: Any) -> Trace:
    """Return a workload's requests."""
    rngs = (np.random.default_rng([5, stream]) for stream in range(2))
    trace: Trace = workload.trace(*rngs)
    return trace


def found(trace: Trace, order: list[int]) -> int:
    """Return the prompt tokens that requests in this order find if nothing is ever forgotten.

    At least a token of a prompt is computed.
    """
    seen: set[int] = set()
    hits = 0
    runs, tokens = trace.frame["block_runs"].to_list(), trace.column("input_tokens")
    for at in order:
        ids = [each for run in runs[at] for each in range(run["first"], run["first"] + run["n"])]
        leading = next((place for place, each in enumerate(ids) if each not in seen), len(ids))
        hits += 16 * min(leading, (int(tokens[at]) - 1) // 16)
        seen.update(ids)
    return hits


@pytest.mark.parametrize("workload", [SHARED, CHATS], ids=["shared", "chats"])
def test_an_endless_cache_finds_what_is_shared(workload: Any) -> None:
    """One at a time on one worker, requests find exactly the tokens their block ids say.

    Answers are left without ids here, as the count has none of them.
    """
    trace = drawn(workload)
    following = Turns().follow(trace, clients=True)
    traffic = Traffic(
        arrival_s=trace.column("arrival_s"),
        input_tokens=trace.column("input_tokens"),
        output_tokens=trace.column("output_tokens"),
        concurrency=1,
        following=following,
        blocks=replace(blocks_of(trace), follower=None),
    )
    if following is not None:  # helpers run side by side otherwise
        traffic = replace(traffic, following=None, arrival_s=np.zeros(len(trace)))
    columns = run(colocated(1, batching=ENDLESS), traffic, RunOptions()).requests
    assert (columns["status"] == STATUSES.index("completed")).all()
    order = np.argsort(columns["arrival_s"], kind="stable").tolist()
    cached = int(columns["cached_tokens"].sum())
    assert cached == found(trace, order) > 0.2 * columns["input_tokens"].sum()
    if workload is SHARED:
        told = trace.meta.transforms[-1].counts["hit_rate"]
        assert cached / columns["input_tokens"].sum() == pytest.approx(told, abs=0.001)


def test_later_turns_find_what_was_said() -> None:
    """In a chat every later turn finds the whole blocks of the prompt and answer before it.

    The KV of an answer's last token is never computed.
    """
    chat = replace(CHATS, subagents=Subagents(), reset_probability=0.0)
    trace = drawn(chat)
    traffic = Traffic(
        arrival_s=trace.column("arrival_s"),
        input_tokens=trace.column("input_tokens"),
        output_tokens=trace.column("output_tokens"),
        following=Turns().follow(trace),
        blocks=blocks_of(trace),
    )
    columns = run(colocated(1, batching=ENDLESS), traffic, RunOptions()).requests
    parent = trace.frame["parent_id"].fill_null(0).to_numpy()
    later = trace.frame["parent_id"].is_not_null().to_numpy()
    said = (columns["input_tokens"] + columns["output_tokens"])[parent] - 1
    np.testing.assert_array_equal(columns["cached_tokens"][later], (said // 16 * 16)[later])

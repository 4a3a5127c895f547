"""Drawn conversations are what was asked for: turns, contexts, waits, prefixes, helpers.

Statistical tests have fixed seeds and bounds that a fresh one would break with probability 1e-6.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from workloads.arrivals import MMPP, Poisson
from workloads.conversations import Conversations, Subagents
from workloads.errors import TraceError
from workloads.lengths import Constant, Geometric, LogNormal, Uniform
from workloads.offered import at_rate, own_rate, rate_setting
from workloads.prefixes import Prefixes
from workloads.sessions import following
from workloads.trace import Trace
from workloads.varying import Daily
from workloads.waits import ConstantWait, LogNormalWaits

ERROR = 1e-6
Z = float(stats.norm.isf(ERROR / 2))

CHAT = Conversations(
    sessions=800,
    arrivals=Poisson(rate=2.0),
    turns_per_session=Geometric(mean=3.0),
    prefixes=Prefixes(root_tokens=100, groups=6, zipf=1.0, tokens=Uniform(low=40, high=300)),
    new_tokens=LogNormal(median=150, sigma=1.0),
    output_tokens=LogNormal(median=100, sigma=0.7, max=2000),
    wait=LogNormalWaits(medians_s=(8.0, 150.0), sigmas=(0.6, 1.3), weights=(0.73, 0.27)),
    max_context=20_000,
)
AGENTS = replace(
    CHAT,
    sessions=150,
    turns_per_session=LogNormal(median=12, sigma=1.0, max=200),
    first_tokens=Constant(tokens=700),
    reset_probability=0.05,
    subagents=Subagents(
        probability=0.15, calls=Geometric(mean=4.0), first_tokens=Constant(tokens=333)
    ),
    max_context=9_000,
)


def drawn(workload: Conversations, seed: int = 3) -> Trace:
    """Return a workload's requests."""
    return workload.trace(np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1]))


def ids(trace: Trace) -> list[list[int]]:
    """Return the block ids of each prompt, one by one."""
    return [
        [each for run in runs for each in range(run["first"], run["first"] + run["n"])]
        for runs in trace.frame["block_runs"].to_list()
    ]


def shared(one: list[int], other: list[int]) -> int:
    """Return how many leading ids two prompts have in common."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@pytest.mark.parametrize("workload", [CHAT, AGENTS], ids=["chat", "agents"])
def test_a_turn_has_all_that_was_said(workload: Conversations) -> None:
    """A prompt is the one before, its answer and something new, or a fresh start; ids tell it."""
    trace = drawn(workload)
    rows = trace.frame.to_dicts()
    blocks = ids(trace)
    size, fresh = workload.block_size, 0
    for row, own in zip(rows, blocks, strict=True):
        assert row["input_tokens"] + row["output_tokens"] <= workload.max_context
        assert len(own) == row["input_tokens"] // size
        if row["parent_id"] is None or (row["turn"] is None and row["delay_s"] == 0):
            continue
        before = row["parent_id"]
        said = rows[before]["input_tokens"] + rows[before]["output_tokens"]
        if row["input_tokens"] > said and shared(blocks[before], own) == len(blocks[before]):
            continue
        fresh += 1
        assert shared(blocks[before], own) <= 400 // size  # the prefix
    went_on = sum(row["parent_id"] is not None for row in rows)
    if workload is CHAT:
        assert fresh < 0.02 * went_on  # where the context is full
    else:
        assert 0.03 < fresh / went_on < 0.5


def test_contexts_begin_anew_as_often_as_asked() -> None:
    """With room for everything, a turn drops the context with the stated probability."""
    roomy = replace(AGENTS, sessions=600, max_context=10**7, subagents=Subagents())
    trace = drawn(roomy)
    frame = trace.frame.with_columns(
        said=(pl.col("input_tokens") + pl.col("output_tokens")).shift().over("session_id")
    ).filter(pl.col("turn") > 0)
    dropped = int((frame["input_tokens"] < frame["said"]).sum())
    low, high = stats.binom.interval(1 - ERROR, frame.height, 0.05)
    # a short context may be followed by a fresh start that is longer: few are
    assert low * 0.9 <= dropped <= high


def test_sessions_share_their_prefixes_and_no_more() -> None:
    """First prompts of a group share its prefix in whole blocks, others the root, and no more."""
    trace = drawn(CHAT)
    firsts = trace.frame.filter(pl.col("turn") == 0)
    blocks = [ids(trace)[row] for row in firsts["request_id"]]
    tenants = firsts["tenant"].cast(pl.String).to_list()
    most: dict[str, int] = {}
    for at in range(200):
        for other in range(at):
            common = shared(blocks[at], blocks[other])
            if tenants[at] != tenants[other]:
                assert common == 100 // 16
            else:
                assert 100 // 16 < common <= 400 // 16
                assert most.setdefault(tenants[at], common) == common
    assert len(most) == 6


def test_groups_are_as_popular_as_asked() -> None:
    """Sessions per group follow 1/k, by a chi-square test."""
    trace = drawn(replace(CHAT, sessions=5000))
    tenants = trace.frame.filter(pl.col("turn") == 0)["tenant"].cast(pl.String)
    counts = np.array([(tenants == f"group-{k}").sum() for k in range(6)])
    weights = 1 / np.arange(1, 7)
    assert stats.chisquare(counts, 5000 * weights / weights.sum()).pvalue > ERROR


def test_turns_and_waits_are_drawn_as_asked() -> None:
    """Turns have the stated mean and law, waits pass a Kolmogorov–Smirnov test of the mixture."""
    trace = drawn(replace(CHAT, sessions=4000))
    turns = trace.frame.group_by("session_id").len()["len"].to_numpy()
    assert abs(turns.mean() - 3.0) < Z * turns.std(ddof=1) / np.sqrt(turns.size)
    assert abs((turns == 1).mean() - 1 / 3) < Z * np.sqrt(2 / 9 / turns.size)
    waits = trace.frame["delay_s"].drop_nulls().to_numpy()
    assert waits.size == len(trace) - 4000

    def cdf(seconds: Any) -> Any:
        parts = ((8.0, 0.6, 0.73), (150.0, 1.3, 0.27))
        return sum(w * stats.lognorm(s=s, scale=m).cdf(seconds) for m, s, w in parts)

    capped = waits[waits < 3600]
    assert stats.kstest(capped, lambda s: cdf(s) / cdf(3600.0)).pvalue > ERROR
    assert abs((waits == 3600).mean() - (1 - cdf(3600.0))) < Z * np.sqrt(0.01 / waits.size)


def test_who_spawned_helpers_waits_for_all_of_them() -> None:
    """Helpers begin as their agent's call ends, go on one by one, and its next turn joins them."""
    trace = drawn(AGENTS)
    rows = trace.frame.to_dicts()
    children: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["parent_id"] is not None:
            assert row["session_id"] == rows[row["parent_id"]]["session_id"]
            children.setdefault(row["parent_id"], []).append(row)
    spawned = joined = 0
    for row in rows:
        mine = children.get(row["request_id"], [])
        helpers = [each for each in mine if each["turn"] is None]
        if row["turn"] is None:
            assert len(mine) <= 1
            continue
        (after,) = [each for each in mine if each["turn"] is not None] or [None]
        if not helpers:
            assert after is None or after["joins"] is None
            continue
        assert after is not None
        assert after["turn"] == row["turn"] + 1
        ends = []
        for helper in helpers:
            assert helper["delay_s"] == 0
            assert helper["input_tokens"] - 333 in range(140, 401)
            while step := children.get(helper["request_id"]):
                (helper,) = step
            ends.append(helper["request_id"])
        assert [each["parent_id"] for each in after["joins"]] == ends
        spawned, joined = spawned + len(helpers), joined + 1
    assert joined > 30
    assert spawned > joined
    found = following(trace)
    assert len(found.parent) == len(trace) - 150 + spawned
    assert np.unique(found.sessions()).size == 150


def test_requests_per_session_are_as_said() -> None:
    """The mean number of requests of a session, helpers included, is the stated one."""
    workload = replace(AGENTS, sessions=4000)
    counts = drawn(workload).frame.group_by("session_id").len()["len"].to_numpy()
    bound = Z * counts.std(ddof=1) / np.sqrt(counts.size)
    assert abs(counts.mean() - workload.requests_per_session) < bound


def test_a_rate_is_one_of_requests() -> None:
    """Sessions come so often that requests come at ``request_rate``; draws are the same ones."""
    fast = at_rate(CHAT, 30.0)
    assert isinstance(fast, Conversations)
    assert rate_setting(CHAT) == "workload.request_rate"
    assert own_rate(CHAT, drawn(CHAT)) == pytest.approx(2.0 * 3.0, rel=1e-3)
    one, other = drawn(CHAT), drawn(fast)
    assert own_rate(fast, other) == 30.0
    assert one.frame.drop("arrival_s").equals(other.frame.drop("arrival_s"))
    np.testing.assert_allclose(
        other.frame["arrival_s"].drop_nulls(), one.frame["arrival_s"].drop_nulls() / 5, rtol=1e-3
    )
    days = replace(CHAT, arrivals=Daily(low=1.0, high=3.0, period_s=60.0), request_rate=12.0)
    assert days._paced().mean_rate == pytest.approx(4.0, rel=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("workload", [CHAT, AGENTS], ids=["chat", "agents"])
def test_the_same_seed_draws_the_same(workload: Conversations) -> None:
    """Twice the same; another seed, another trace; and a longer one begins like a shorter one."""
    assert drawn(workload).equals(drawn(workload))
    assert not drawn(workload).frame.equals(drawn(workload, seed=4).frame)
    few = drawn(replace(workload, sessions=50)).frame.drop("block_runs", "tenant")
    assert few.equals(drawn(workload).frame.drop("block_runs", "tenant").head(few.height))


def test_so_many_at_a_time_need_no_arrivals() -> None:
    """With clients, sessions have no time of their own; a duration bounds arrivals otherwise."""
    clients = drawn(replace(CHAT, arrivals=None, concurrency=4))
    assert clients.frame["arrival_s"].drop_nulls().unique().to_list() == [0.0]
    timed = drawn(replace(CHAT, sessions=None, duration_s=20.0))
    starts = timed.frame["arrival_s"].drop_nulls()
    assert starts.max() < 20  # type: ignore[operator]
    assert timed.meta.loop == "closed"
    single = drawn(replace(CHAT, turns_per_session=Constant(tokens=1)))
    assert single.meta.loop == "open"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: replace(CHAT, sessions=None), "give sessions, or duration_s of arrivals"),
        (lambda: replace(CHAT, sessions=0), "sessions must be a whole number of at least 1"),
        (lambda: replace(CHAT, sessions=10**8), "100000000 sessions, expected at most"),
        (lambda: replace(CHAT, arrivals=None), "give arrivals, or concurrency"),
        (lambda: replace(CHAT, concurrency=0), "concurrency must be a whole number of at least 1"),
        (lambda: replace(CHAT, duration_s=-1.0), "duration_s must be above 0 s but got -1"),
        (lambda: replace(CHAT, request_rate=0), "request_rate must be above 0 requests/s"),
        (
            lambda: replace(
                CHAT, request_rate=1.0, arrivals=MMPP(rates=(1, 2), mean_dwell_s=(1, 1))
            ),
            "request_rate cannot be set, as MMPP has no rate",
        ),
        (lambda: replace(CHAT, reset_probability=2), r"reset_probability must lie in 0\.\.1"),
        (lambda: replace(CHAT, block_size=0), "block_size must be a whole number of at least 1"),
        (
            lambda: drawn(replace(CHAT, max_context=300)),
            "leaves no room for a prompt and an answer",
        ),
        (lambda: drawn(replace(CHAT, sessions=None, duration_s=1e-9)), "no session begins within"),
        (
            lambda: drawn(replace(CHAT, turns_per_session=Constant(tokens=10**6))),
            "800000000 turns, expected at most",
        ),
        (lambda: Subagents(probability=-1), r"probability must lie in 0\.\.1 but got -1"),
        (lambda: Prefixes(groups=0), "groups must be a whole number of at least 1 but got 0"),
        (lambda: Prefixes(groups=10**7), "groups must be at most 1000000"),
        (lambda: Prefixes(zipf=-1), "zipf must be at least 0 but got -1"),
        (lambda: ConstantWait(seconds=-1), "seconds must be at least 0 s but got -1"),
        (lambda: LogNormalWaits(medians_s=(0.0,), sigmas=(1.0,)), "medians_s must be above 0 s"),
        (lambda: LogNormalWaits(medians_s=(1.0,), sigmas=()), "sigmas must be a list of numbers"),
        (lambda: LogNormalWaits(medians_s=(1.0, 2.0), sigmas=(1.0, 1.0)), "must be equally many"),
        (lambda: Geometric(mean=0.5), "mean must be at least 1 but got 0.5"),
    ],
)
def test_impossible_conversations_are_refused(make: Callable[[], object], expected: str) -> None:
    """Each setting that cannot be has its sentence."""
    with pytest.raises(TraceError, match=expected):
        make()

"""The paper's prefix figure (revision, figure 15): routing by caches as prompts share more.

20 groups of prompts of 14,000 tokens, the first 0.2 to 0.8 of which are the group's, and answers of
200. The facts at hand do not say which model, GPUs, rate or memory that was on, nor whether the
length of prompts stays as their shared part grows; here it does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import polars as pl

from simulator.experiment import Experiment, simulate
from simulator.explore.paper.claims import Claim, Figure

STABLE = 1.5
"""TTFT whose largest mean is at most so many times its smallest counts as stable."""
BY_CACHES, IN_TURN = "kv_aware", "round_robin"
ROUTERS = (BY_CACHES, "prefix_affinity", "cache_aware", "estimated_ttft", "least_tokens", IN_TURN)
"""Routers drawn; two of them are judged."""
SHARES = (0.2, 0.4, 0.6, 0.8)
"""Parts of a prompt that its group has in common."""
TITLE = "TTFT as prompts share more of their tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run: by which ``series`` (router), with what ``share`` of prompts in common."""

    series: str
    share: float
    ttft_s: float
    ttft_p99_s: float
    hit_share: float


def study(runs: Mapping[tuple[str, float], Experiment]) -> Figure:
    """Return the figure with its claims judged; runs of one share meet the same traffic."""
    trials = [_trial(router, share, each) for (router, share), each in runs.items()]
    return Figure(
        id="P15",
        title=TITLE,
        curves=pl.DataFrame([asdict(trial) for trial in trials]),
        x="share",
        y="ttft_s",
        claims=tuple(_claims(trials)),
    )


def _trial(router: str, share: float, experiment: Experiment) -> Trial:
    summary = simulate(experiment, config="").summary
    return Trial(
        series=router,
        share=share,
        ttft_s=summary["ttft_s"]["mean"],
        ttft_p99_s=summary["ttft_s"]["p99"],
        hit_share=summary["prefix_cache"]["hit_share"],
    )


def _claims(trials: list[Trial]) -> Iterator[Claim]:
    """Yield what the paper says of routing by caches, judged against taking turns."""
    ours, turns = (
        sorted((each for each in trials if each.series == name), key=lambda each: each.share)
        for name in (BY_CACHES, IN_TURN)
    )
    mine, theirs = [each.ttft_s for each in ours], [each.ttft_s for each in turns]
    numbers: dict[str, float | str | list[float]] = {
        "shares": [each.share for each in ours],
        "ttft by caches": mine,
        "ttft in turn": theirs,
        "p99 by caches": [each.ttft_p99_s for each in ours],
        "p99 in turn": [each.ttft_p99_s for each in turns],
        "found by caches": [each.hit_share for each in ours],
        "found in turn": [each.hit_share for each in turns],
    }
    yield Claim(
        id="P15a",
        claim="KV-aware routing has a shorter mean TTFT than round robin at every shared part",
        held=all(one < other for one, other in zip(mine, theirs, strict=True)),
        numbers=numbers,
        note="Settled after a first look at other routers too",
    )
    yield Claim(
        id="P15b",
        claim=f"KV-aware routing keeps TTFT stable as prefixes are shared (within {STABLE:g} "
        "times), where round robin's rises",
        held=max(mine) <= STABLE * min(mine) and theirs[-1] > theirs[0],
        numbers={"times": max(mine) / min(mine), "in turn, last to first": theirs[-1] / theirs[0]},
        reason="with prompts of one length, the more is shared the less there is to compute "
        "under either router, so both fall; what grows with the shared part in the paper, and how "
        "much memory caches have there, is not told",
        note="Its bound was settled after a first look too",
    )

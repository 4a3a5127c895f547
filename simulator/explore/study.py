"""One traffic on one platform, explored whole: every point, and the fronts that matter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from simulator.explore.bandwidth import with_bandwidth
from simulator.explore.colocated import colocated_points
from simulator.explore.costs import Costs
from simulator.explore.evaluate import OnProgress, collect, decode_points, gathered, prefill_points
from simulator.explore.headroom import Headroom
from simulator.explore.match import (
    CLUSTER,
    FTL_CUTOFF_S,
    choose_prefill,
    colocated,
    disaggregated,
    fast,
    given,
    paced,
    prefill_front,
    within,
)
from simulator.explore.pareto import pareto
from simulator.explore.space import Platform, Space
from simulator.policies.rate_matching import Balanced, RateMatcher, WithinBudget, bounded

COLOCATED = ("whole", "piggybacked", "chunked")
"""The co-located fronts of a study, beside the best of all."""


class Promise(NamedTuple):
    """What a study's deployments promise: a share of the steady rate, below a TPOT in seconds."""

    headroom: Headroom | None = None
    tpot_s: float | None = None


OnStudy = Callable[[int, int, int], None]
"""Called as parts of the work are done: with how many are, of how many, and points so far."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study:
    """What came of a space: prefill, all decode points, and co-located fronts.

    ``prefill`` is the chosen point, ``prefills`` those that no other beats in GPUs, rate and TTFT.
    The co-located fronts: ``whole`` without piggybacking, ``piggybacked`` with it, of which
    ``chunked`` only with chunks shorter than a prompt, and ``mixed`` with the best of all.
    ``platforms`` are prefill's and decode's; ``points`` counts the design points evaluated.
    Without ``headroom`` rates are those of the steady state, else what can be promised of it.
    ``allowed`` is the co-located front of those points alone whose TPOT is within the limit.
    """

    space: Space
    platforms: tuple[Platform, Platform]
    prefill: pl.DataFrame
    prefills: pl.DataFrame
    decode: pl.DataFrame
    mixed: pl.DataFrame
    whole: pl.DataFrame
    piggybacked: pl.DataFrame
    chunked: pl.DataFrame
    points: int
    headroom: Headroom | None = None
    allowed: pl.DataFrame | None = None

    def deployments(self, rule: RateMatcher | None = None) -> pl.DataFrame:
        """Return the chosen prefill with every decode point, by rate matching or another rule.

        Within a budget of GPUs the best rate per GPU may not fit: there all prefill points count.
        """
        both, lengths, total = self.platforms, self.space.lengths, self.space.total_gpus
        rule = bounded(rule or Balanced(), total)
        budgeted = total is not None or isinstance(rule, WithinBudget)
        prefill = self.prefills if budgeted else self.prefill
        every = disaggregated(prefill, self.decode, both, lengths, rule, self.headroom)
        return with_bandwidth(given(every, total), both, lengths)

    def split(self, rule: RateMatcher | None = None) -> pl.DataFrame:
        """Return the disaggregated front, whatever KV bandwidth it needs."""
        return pareto(self.deployments(rule), y=CLUSTER)


def study(
    space: Space,
    cutoff_s: float = FTL_CUTOFF_S,
    progress: OnStudy | None = None,
    prefill_space: Space | None = None,
    promise: Promise | None = None,
) -> Study:
    """Explore ``space``; points whose TTFT exceeds the cutoff are dropped, co-located ones too.

    ``promise`` says what of the steady state's rates is promised (``None``: all of it), and under
    which TPOT.

    Prefill is looked for in ``prefill_space`` where its GPUs are others. Co-located points are
    reduced to their fronts part by part, so memory stays bounded.

    Raises:
        ConfigError: no prefill point fits and meets the cutoff.
    """
    platform, lengths, costs = space.platform, space.lengths, Costs(space.platform)
    headroom, tpot_s = promise or Promise()
    prompts = prefill_space or space
    shared = costs if prompts.platform == platform else Costs(prompts.platform)
    tell = _Tally(progress, len(prompts.layouts) + 2 * len(space.layouts))
    prefill = collect(prefill_points(prompts, shared, tell.next()))
    decode = collect(decode_points(space, costs, tell.next()))
    count = len(prefill) + len(decode)
    if headroom is not None:
        prefill = fast(prefill, cutoff_s)
        prefill, decode = (
            paced(each, lengths, headroom, space.total_gpus) for each in (prefill, decode)
        )
    fronts: dict[str, list[pl.DataFrame]] = {name: [] for name in (*COLOCATED, "allowed")}
    for frame in gathered(colocated_points(space, costs, tell.next())):
        count += len(frame)
        every = colocated(frame, platform, lengths, space.total_gpus, headroom)
        judged = within(every, ttft_s=cutoff_s)
        chunk = pl.col("mixed_chunk")
        for name, where in (
            ("whole", chunk == 0),
            ("piggybacked", chunk > 0),
            ("chunked", (chunk > 0) & (chunk < lengths.mean_isl)),
        ):
            fronts[name].append(pareto(judged.filter(where), y=CLUSTER))
        fronts["allowed"].append(pareto(within(judged, tpot_s=tpot_s), y=CLUSTER))
    best = {name: pareto(collect(kept), y=CLUSTER) for name, kept in fronts.items()}
    return Study(
        space=space,
        platforms=(prompts.platform, platform),
        prefill=choose_prefill(prefill, cutoff_s),
        prefills=prefill_front(prefill, cutoff_s),
        decode=decode,
        mixed=pareto(collect([best["whole"], best["piggybacked"]]), y=CLUSTER),
        **best,
        points=count,
        headroom=headroom,
    )


@dataclass(slots=True)
class _Tally:
    """Adds up the layouts and points of successive enumerations for one listener."""

    listener: OnStudy | None
    total: int
    done: int = 0
    points: int = 0

    def next(self) -> OnProgress | None:
        """Return what the next enumeration is to call after each layout."""
        listener, before, counted = self.listener, self.done, self.points
        if listener is None:
            return None

        def tell(done: int, _layouts: int, points: int) -> None:
            self.done, self.points = before + done, counted + points
            listener(self.done, self.total, self.points)

        return tell

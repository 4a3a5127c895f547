"""Prefill GPUs per decode GPU: along the front (figure F9), and held fixed (figure F10)."""

from typing import NamedTuple

import numpy as np
import polars as pl

from simulator.explore.paper.claims import Numbers, Sheet, Statement, Verdict
from simulator.explore.paper.curves import common_grid, ratio_on, series, spanned_grid
from simulator.explore.paper.laboratory import MODELS, NAMES, R1, SMALL, K, Laboratory
from simulator.explore.space import Floats
from simulator.policies.rate_matching import FixedRatio

# --- F9 ---------------------------------------------------------------------------------------

ByModel = dict[str, pl.DataFrame]
"""The disaggregated front of each model."""


class Ratios(NamedTuple):
    """A front's GPU ratio: mean over its loosest and tightest tenth."""

    loose: float
    tight: float

    @property
    def swing(self) -> float:
        """How far it falls from the loose to the tight end."""
        return self.loose - self.tight


def ratios_along(curve: pl.DataFrame) -> Ratios:
    """Return the ratios along a disaggregated front."""
    ratio = curve["gpu_ratio"].to_numpy()
    tenth = max(1, len(ratio) // 10)
    return Ratios(float(ratio[:tenth].mean()), float(ratio[-tenth:].mean()))


def _fronts(lab: Laboratory) -> ByModel:
    return {NAMES[model]: lab.pools(model, 16 * K, 2 * K).split() for model in MODELS}


def _swings(found: dict[str, Ratios]) -> Numbers:
    return {f"swing {name}": each.swing for name, each in found.items()}


def _ratio_falls(fronts: ByModel) -> Verdict:
    found = {name: ratios_along(curve) for name, curve in fronts.items()}
    loose: Numbers = {f"{name} loose": each.loose for name, each in found.items()}
    tight: Numbers = {f"{name} tight": each.tight for name, each in found.items()}
    return Verdict(all(each.swing > 0 for each in found.values()), loose | tight)


def _flat_for_the_small(fronts: ByModel) -> Verdict:
    found = {name: ratios_along(curve) for name, curve in fronts.items()}
    flat, least = found[NAMES[SMALL]], min(each.swing for each in found.values())
    small, axis = fronts[NAMES[SMALL]], spanned_grid(*fronts.values())
    thirds = _by_third(small, axis)
    held = all(0.2 <= each <= 0.8 for each in thirds) and flat.swing == least
    own = {"mean_by_third_of_its_own_front": _by_third(small, spanned_grid(small))}
    span = [float(axis[0]), float(axis[-1])]
    return Verdict(held, {"mean_by_third": thirds, "of": span, **own, **_swings(found)})


def _by_third(curve: pl.DataFrame, axis: Floats) -> list[float]:
    """Return a front's mean ratio in each third of evenly spaced interactivities."""
    at, ratio = curve["interactivity"].to_numpy(), curve["gpu_ratio"].to_numpy()
    even = np.interp(axis, at, ratio)
    return [float(part.mean()) for part in np.array_split(even, 3)]


def _steep_for_experts(fronts: ByModel) -> Verdict:
    found = {name: ratios_along(curve) for name, curve in fronts.items()}
    steep, most = found[NAMES[R1]], max(each.swing for each in found.values())
    held = steep.swing == most and 2.0 <= steep.loose <= 6.0 and steep.tight < 1.0
    return Verdict(held, {"loose": steep.loose, "tight": steep.tight, **_swings(found)})


F9 = Sheet(
    id="F9",
    title="16k/2k: prefill GPUs per decode GPU along the front",
    gather=_fronts,
    curves=lambda fronts: series(**fronts),
    y="gpu_ratio",
    log_y=False,
    statements=(
        Statement(
            id="F9a",
            claim="16k/2k: the best ctx:gen GPU ratio falls as interactivity rises, for every "
            "model",
            judge=_ratio_falls,
        ),
        Statement(
            id="F9b",
            claim="Nearly flat around 0.4 for Llama-8B (its mean in each third of the "
            "interactivities that all four models' fronts span is within 0.2 … 0.8, and its swing "
            "the smallest)",
            judge=_flat_for_the_small,
            reason="its level is lower than the paper's, as DeepSeek-R1's is (F9c)",
            note="the axis was settled after a first look. The paper draws the four models on one, "
            "where Llama-405B's line reaches 0.84 of its length (read off in "
            "github.com/wendadawen/dojo, wiki/beyond-buzz-disaggregation/research/review-5.md), so "
            "a small model's tight end lies far outside it. Over all of its own front, judged "
            "before, it falls as decode's throughput does",
        ),
        Statement(
            id="F9c",
            claim="The swing is largest for DeepSeek-R1: about 3.6 at the loose end (2 … 6), below "
            "1 at the tight end",
            judge=_steep_for_experts,
            reason="the order of the models is the paper's, the loose end is not. Which pool "
            "differs depends on the bytes of the paper's KV, which it does not tell. In 8 bits, as "
            "here, its decode takes in as much KV as ours within a tenth (F12) and its prompts "
            "would take twice as long, as which the ratio comes out; yet deployments compute "
            "prompts sooner than this model, not later (below), and so does the paper where it "
            "tells seconds, of 256k tokens (F5). In 4 bits its prompts would be as fast as ours "
            "(KV would leave at 0.37 GB/s per GPU, and the least of its figure 12 is 0.38), its "
            "decode at the loose end twice as fast. Experts spread over 8 GPUs, KV in FP4 or "
            "attention in 16 bits alone make the ratio about 2, experts spread over 16 and "
            "exchanged by plain collectives about 3",
        ),
    ),
)


# --- F10 --------------------------------------------------------------------------------------


class Fixed(NamedTuple):
    """Fronts with rates matched point by point, with two fixed ratios, and with its ``own``.

    That is the matched front's at its loose end.
    """

    matched: pl.DataFrame
    by_ratio: dict[float, pl.DataFrame]
    own: float
    mine: pl.DataFrame

    def share(self, curve: pl.DataFrame) -> Floats:
        """Return a front's share of the matched one over the interactivities that all reach."""
        grid = common_grid(self.matched, self.mine, *self.by_ratio.values())
        return ratio_on(grid, curve, self.matched)


def _fixed(lab: Laboratory) -> Fixed:
    done = lab.pools(R1, 16 * K, 2 * K)
    matched = done.split()
    own = ratios_along(matched).loose
    fixed = {ratio: done.split(FixedRatio(ratio=ratio)) for ratio in (3.5, 0.5)}
    return Fixed(matched, fixed, own, done.split(FixedRatio(ratio=own)))


def _ratio_curves(found: Fixed) -> pl.DataFrame:
    fixed = {f"ratio {ratio}": curve for ratio, curve in found.by_ratio.items()}
    curves = {"rates matched": found.matched, **fixed, f"ratio {found.own:.2g}": found.mine}
    return series(**curves)


def _loose_and_tight(share: Floats) -> tuple[Floats, Floats]:
    """Return the lowest and the highest third of the interactivities."""
    third = len(share) // 3
    return share[:third], share[-third:]


def _prefill_heavy_only_loose(found: Fixed) -> Verdict:
    loose, tight = _loose_and_tight(found.share(found.by_ratio[3.5]))
    own_loose, own_tight = _loose_and_tight(found.share(found.mine))
    return Verdict(
        float(loose.max()) >= 0.85 and float(tight.mean()) < 0.7,
        {
            "own_ratio": found.own,
            "own_best_loose": float(own_loose.max()),
            "own_mean_tight": float(own_tight.mean()),
            "best_loose": float(loose.max()),
            "mean_loose": float(loose.mean()),
            "mean_tight": float(tight.mean()),
        },
    )


def _decode_heavy_only_tight(found: Fixed) -> Verdict:
    loose, tight = _loose_and_tight(found.share(found.by_ratio[0.5]))
    return Verdict(
        float(tight.max()) >= 0.85 and float(loose.mean()) < 0.7,
        {
            "best_tight": float(tight.max()),
            "mean_loose": float(loose.mean()),
            "mean_tight": float(tight.mean()),
        },
    )


def _matching_wins(found: Fixed) -> Verdict:
    most = max(float(found.share(curve).max()) for curve in found.by_ratio.values())
    return Verdict(most <= 1.03, {"most_a_fixed_ratio_reaches": most})


F10 = Sheet(
    id="F10",
    title="DeepSeek-R1, 16k/2k: fixed ratios against matched rates",
    gather=_fixed,
    curves=_ratio_curves,
    statements=(
        Statement(
            id="F10a",
            claim="A fixed ratio of 3.5 is near-optimal only at loose latency (≥ 85 % of the "
            "matched front somewhere in its lowest third, less than 70 % on average in its "
            "highest)",
            judge=_prefill_heavy_only_loose,
            reason="the matched front's own ratio at the loose end is lower than 3.5 here (F9c); "
            "that one, fixed, is near-optimal only there, and so is 3.5 where prompts take twice "
            "as long",
        ),
        Statement(
            id="F10b",
            claim="A fixed ratio of 0.5 is near-optimal only at tight latency (≥ 85 % somewhere in "
            "the highest third, less than 70 % on average in the lowest)",
            judge=_decode_heavy_only_tight,
        ),
        Statement(
            id="F10c",
            claim="Rate matching per point wins everywhere (no fixed ratio beats it by more than "
            "the 3 % the pools may differ by)",
            judge=_matching_wins,
        ),
    ),
)

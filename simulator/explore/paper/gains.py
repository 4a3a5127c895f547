"""What disaggregation gains, by traffic and by model (figures F1, F7 and F8)."""

from collections.abc import Callable

import polars as pl

from simulator.explore.paper.claims import Numbers, Sheet, Statement, Verdict
from simulator.explore.paper.curves import common_grid, common_ratio, ratio_on, series
from simulator.explore.paper.laboratory import HUGE, LARGE, NAMES, R1, SMALL, Fronts, K, Laboratory

Cases = dict[str, Fronts]
"""Fronts by what tells them apart."""


def _curves(cases: Cases) -> pl.DataFrame:
    return _series(cases, "co-located, no piggybacking", lambda fronts: fronts.whole)


def _series(cases: Cases, third: str, front: Callable[[Fronts], pl.DataFrame]) -> pl.DataFrame:
    return series(
        **{
            f"{name} {kind}": curve
            for name, fronts in cases.items()
            for kind, curve in (
                ("disaggregated", fronts.split),
                ("co-located", fronts.mixed),
                (third, front(fronts)),
            )
        }
    )


def _by_traffic(lab: Laboratory, **thousands: tuple[int, int]) -> Cases:
    return {name: lab.fronts(R1, isl * K, osl * K) for name, (isl, osl) in thousands.items()}


def _mean_gains(cases: Cases) -> Numbers:
    return {f"mean_gain {name}": fronts.gain for name, fronts in cases.items()}


# --- F1 ---------------------------------------------------------------------------------------


def _prompt_heavy_gains(cases: Cases) -> Verdict:
    heavy = cases["16k/2k"]
    least = float(common_ratio(heavy.split, heavy.mixed).min())
    held = heavy.gain >= 1.2 and least >= 1.0
    return Verdict(held, {"mean_gain": heavy.gain, "least_gain": least})


def _generation_heavy_hardly_does(cases: Cases) -> Verdict:
    heavy, light = (fronts.gain for fronts in cases.values())
    held = light - 1.0 <= 0.25 * (heavy - 1.0)
    return Verdict(held, {"mean_gain_16k_2k": heavy, "mean_gain_1k_32k": light})


F1 = Sheet(
    id="F1",
    title="DeepSeek-R1: what disaggregation gains",
    gather=lambda lab: _by_traffic(lab, **{"16k/2k": (16, 2), "1k/32k": (1, 32)}),
    curves=_curves,
    statements=(
        Statement(
            id="F1a",
            claim="DeepSeek-R1, 16k/2k: the disaggregated front lies clearly above the co-located "
            "one (mean gain ≥ 1.2, nowhere below 1)",
            judge=_prompt_heavy_gains,
        ),
        Statement(
            id="F1b",
            claim="At 1k/32k the gap is much smaller (excess gain at most a quarter of that at "
            "16k/2k)",
            judge=_generation_heavy_hardly_does,
        ),
    ),
)


# --- F7 ---------------------------------------------------------------------------------------


def _by_model(lab: Laboratory) -> Cases:
    return {NAMES[model]: lab.fronts(model, 4 * K, 256) for model in (SMALL, LARGE, HUGE)}


def _grows_with_the_model(cases: Cases) -> Verdict:
    small, large, huge = (fronts.gain for fronts in cases.values())
    return Verdict(small < large < huge, _mean_gains(cases))


F7 = Sheet(
    id="F7",
    title="4k/256: the gain by model size",
    gather=_by_model,
    curves=_curves,
    statements=(
        Statement(
            id="F7",
            claim="4k/256: the gain of disaggregation grows from Llama-8B to 70B to 405B",
            judge=_grows_with_the_model,
        ),
    ),
)


# --- F8 ---------------------------------------------------------------------------------------


def _orders_traffic(cases: Cases) -> Verdict:
    gains = {name: fronts.gain for name, fronts in cases.items()}
    most, least = max(gains.values()), min(gains.values())
    return Verdict(gains["16k/2k"] == most and gains["2k/16k"] == least, _mean_gains(cases))


def _riding_on_steps(lab: Laboratory) -> Cases:
    traffic = {"16k/2k": (16, 2), "16k/16k": (16, 16), "2k/2k": (2, 2), "2k/16k": (2, 16)}
    return {
        name: lab.fronts_and_steady(R1, isl * K, osl * K) for name, (isl, osl) in traffic.items()
    }


def _piggybacking_promises_most(cases: Cases) -> Verdict:
    shares = {name: _loose_share(each, each.steady) for name, each in cases.items()}
    others = {name: _loose_share(each, each.piggybacked) for name, each in cases.items()}
    numbers: Numbers = {
        **{f"piggybacked over disaggregated {n}": x for n, x in shares.items()},
        **{f"by any mix {n}": x for n, x in others.items()},
    }
    return Verdict(shares["2k/16k"] == max(shares.values()), numbers)


def _loose_share(fronts: Fronts, piggybacked: pl.DataFrame) -> float:
    """Return piggybacking's share of the disaggregated throughput at loose latencies."""
    grid = common_grid(piggybacked, fronts.split, high=0.2)
    return float(ratio_on(grid, piggybacked, fronts.split).mean())


F8 = Sheet(
    id="F8",
    title="DeepSeek-R1: the gain by traffic",
    gather=_riding_on_steps,
    curves=lambda cases: _series(cases, "piggybacked", lambda fronts: fronts.steady),
    statements=(
        Statement(
            id="F8a",
            claim="DeepSeek-R1: the gain is largest for 16k/2k and smallest for 2k/16k",
            judge=_orders_traffic,
        ),
        Statement(
            id="F8b",
            claim="Piggybacking is most promising on generation-heavy traffic at loose latency "
            "(in the lowest fifth of interactivities it comes closest to disaggregation at 2k/16k)",
            judge=_piggybacking_promises_most,
            reason="where prefill is a small part of the work, how it is mixed in hardly matters "
            "in this model",
            note="piggybacked with a chunk beside every decode step, settled after a first look "
            "(F6a)",
        ),
    ),
)

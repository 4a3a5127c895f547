"""What was found, in words: the answer, how sure it is, and what to be careful about."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from simulator.goodput.study import CURVE, Found
from simulator.report.prose import LABELS
from simulator.report.theme import number, seconds, share
from workloads.offered import rate_setting

UNEVEN = 0.05
"""Relative difference of a draw's mean rate from the one it is drawn at that is worth telling."""

HEADS = (
    *("requests/s", "holds", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99"),
    *("good requests/s", "tokens/s/GPU"),
)


def figure_of(rate: float) -> str:
    """Return a rate with four digits: 3 % apart must not look the same."""
    return f"{rate:,.4g}" if rate < 10_000 else f"{rate:,.0f}"


def targets(found: Found) -> str:
    """Return the targets in words."""
    return ", ".join(
        f"{LABELS[name]} ≤ {seconds(target)}"
        for name, target in found.experiment.slo.targets().items()
    )


def answer(found: Found) -> str:
    """Return the answer in one sentence."""
    asked = f"at least {share(found.options.attainment)} of the requests ({targets(found)})"
    if found.rate is None:
        return _nothing(found, asked)
    if found.options.find == "gpus":
        price = found.usd_per_hour
        usd = "" if price is None else f", {figure_of(price)} USD an hour"
        return (
            f"{figure_of(found.rate)} requests/s take {number(found.gpus)} GPUs{usd}: "
            f"{found.pools} hold the targets for {asked}."
        )
    least = "at least " if found.capped else ""
    per = found.rate / found.gpus if found.gpus else math.nan
    return (
        f"{found.pools} ({number(found.gpus)} GPUs) hold the targets for {asked} up to {least}"
        f"{figure_of(found.rate)} requests/s, {figure_of(per)} per GPU."
    )


def _nothing(found: Found, asked: str) -> str:
    held, own = share(found.own["attainment"]), found.own
    if found.options.find == "gpus":
        return (
            f"No deployment looked at holds the targets for {asked} at {figure_of(own['rate'])} "
            f"requests/s: with {number(own['gpus'])} GPUs it is {held}."
        )
    return (
        f"No rate looked at holds the targets for {asked}: at {figure_of(own['rate'])} requests/s, "
        f"the lowest, it is {held}, with a TTFT of {seconds(own['ttft_s'])} and a TPOT of "
        f"{seconds(own['tpot_s'])} for that share of them."
    )


def certainty(found: Found) -> list[str]:
    """Return how sure the answer is, a sentence each."""
    if found.rate is None:
        return []
    return [*_spread(found), _checked(found), *_cautions(found)]


def _spread(found: Found) -> list[str]:
    draws = len(found.each)
    if found.interval is None:
        why = (
            "its parts are too few to say" if found.alike else "one draw cannot say (goodput.seeds)"
        )
        return [f"How sure that is, {why}."] if found.options.find == "rate" else []
    low, high = (figure_of(end) for end in found.interval)
    if found.options.find == "gpus":
        some = low if low == high else f"{low} to {high}"
        kept = " in the pools' own ratio" if found.options.ratio == "free" else ""
        return [f"On {draws} draws of the workload, each alone, it is {some} GPUs{kept}."]
    if found.alike:
        return [
            f"By the spread between parts of this trace, surely {low} and surely not {high} "
            "requests/s (95 %)."
        ]
    return [f"Over {draws} draws of the workload the rate is {low} to {high} (95 % interval)."]


def _checked(found: Found) -> str:
    checked = found.checked
    sure = "" if math.isnan(checked.half) else f" ± {100 * checked.half:.1f}"
    held = f"{share(checked.mean).removesuffix(' %')}{sure} %"
    if found.alike:
        return f"Simulated on the very requests at this rate: {held} hold them."
    fresh = len(found.check)
    draws = "draw" if fresh == 1 else "draws"
    return (
        f"Simulated at this rate on {fresh} other {draws}: {held} hold them; on the workload as "
        f"its seed draws it, {share(found.own['attainment'])}."
    )


def _cautions(found: Found) -> list[str]:
    cautions = []
    own, asked = found.own, found.options.attainment
    late, half = own["late_attainment"], own["late_half"]
    if late is not None and half is not None and late + half < asked:
        cautions.append(
            f"Of its last third only {share(late)} hold them: queues still grow at this rate, and "
            "more requests of the kind would hold less."
        )
    if found.capped:
        cautions.append(
            f"That is the highest rate looked at: {number(own['requests'])} requests, or the bound "
            "goodput.high, do not show where it ends."
        )
    came = own["offered_rps"]
    if came is not None and abs(came / own["rate"] - 1) > UNEVEN:
        cautions.append(
            f"As its seed draws it, the workload's requests come at {figure_of(came)} a second on "
            f"average, not at the {figure_of(own['rate'])} they are drawn at: it is short for its "
            "bursts, and draws differ."
        )
    setting = rate_setting(found.experiment.workload)
    if setting is not None:
        cautions.append(f"To run it: {setting}={found.rate:g}{_counts(found)}.")
    return cautions


def _counts(found: Found) -> str:
    if found.options.find == "rate" or found.counts is None:
        return ""
    pools = zip(found.experiment.deployment.pools, found.counts, strict=True)
    return "".join(f" pools.{pool.role}.workers={count}" for pool, count in pools)


def curve(found: Found) -> pl.DataFrame:
    """Return the trials of the workload's own draw on the answer's workers, by rising rate."""
    counts = dict.fromkeys(("prefill", "decode", "mixed"), 0)
    chosen = found.counts or tuple(pool.workers for pool in found.experiment.deployment.pools)
    pools = zip(found.experiment.deployment.pools, chosen, strict=True)
    counts |= {pool.role: count for pool, count in pools}
    own = found.table.filter(**counts, seed=found.experiment.seed)
    return own.unique("rate", keep="first").sort("rate")


def rows(found: Found) -> list[Sequence[str]]:
    """Return a row of numbers per rate around the answer, under :data:`HEADS`."""
    tried = curve(found)
    if found.rate is not None:
        wanted = [share * found.rate for share in CURVE]
        nearest = {
            min(tried["rate"], key=lambda rate, at=at: abs(rate - at))  # type: ignore[misc]
            for at in wanted
        }
        tried = tried.filter(pl.col("rate").is_in(list(nearest)))
    return [row_of(row) for row in tried.iter_rows(named=True)]


def row_of(row: Mapping[str, Any]) -> Sequence[str]:
    """Return a trial's numbers under :data:`HEADS`."""
    latencies = [
        seconds(row[f"{metric}_{rank}_s"]) for metric in ("ttft", "tpot") for rank in ("p50", "p99")
    ]
    return (
        figure_of(row["rate"]),
        share(row["attainment"]),
        *latencies,
        number(row["good_rps"]),
        number(row["throughput"]),
    )


def best_split(found: Found) -> str:
    """Return which way of dealing out the workers holds the highest rate of the map, in words."""
    tried = found.table.filter(pl.col("seed") == found.experiment.seed)
    held = tried.filter(
        pl.col("attainment") >= found.options.attainment, pl.col("gpus") <= (found.gpus or 0)
    )
    mapped = held.filter(pl.col("why") == "map")
    if not len(mapped):
        return ""
    best = mapped.sort("rate", "attainment", descending=True).row(0, named=True)
    return (
        f"Of the splits on the map, {best['prefill']} prefill and {best['decode']} decode workers "
        f"hold the highest of its rates: {figure_of(best['rate'])} requests/s, on one draw."
    )

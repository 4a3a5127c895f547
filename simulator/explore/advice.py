"""The answer to "should I disaggregate?": a sentence, its numbers, and the best configurations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from simulator.explore.bandwidth import carried
from simulator.explore.match import CLUSTER, within
from simulator.explore.pareto import LESS_IS_BETTER, best_at, pareto
from simulator.explore.study import Study

WORTH = 1.05
"""A gain below this is not worth two pools."""

UNITS = {
    "throughput": "tokens/s/GPU",
    CLUSTER: "tokens/s/GPU",
    "usd_per_mtok": "USD per million tokens",
    "joules_per_token": "J/token",
}
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a user must get, in seconds; ``None`` where anything will do."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    def __str__(self) -> str:
        named = (("TTFT", self.ttft_s), ("TPOT", self.tpot_s))
        words = [f"{name} ≤ {value * 1e3:g} ms" for name, value in named if value is not None]
        return " and ".join(words) or "any latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Whether to disaggregate, why, and with what.

    ``gain`` is the best disaggregated deployment's aim over the best co-located one's (the other
    way round where less is better); ``nan`` where one of them is missing. ``regime`` is the range
    of interactivities (tokens/s per user) in which two pools give at least 5 % more throughput.
    ``ranked`` has the best deployments of both kinds within the limits.
    """

    sentence: str
    gain: float
    regime: tuple[float, float] | None
    split: Row | None
    mixed: Row | None
    ranked: pl.DataFrame


def advise(
    done: Study, limits: Limits, aim: str = "throughput", matched: pl.DataFrame | None = None
) -> Advice:
    """Return the advice for a study under ``limits``, judged by the column ``aim``.

    Throughput is judged per GPU there is: within a budget those left idle count.

    ``matched`` are its disaggregated deployments (``None``: those of rate matching), of which
    only those whose KV the fabric carries are considered.
    """
    aim = CLUSTER if aim == "throughput" else aim
    matched = done.deployments() if matched is None else matched
    deployments = carried(matched)
    split = _best(within(deployments, limits.ttft_s, limits.tpot_s), aim)
    mixed = _best(within(done.mixed, limits.ttft_s, limits.tpot_s), aim)
    gain = _gain(split, mixed, aim)
    regime = paying_regime(pareto(deployments, y=CLUSTER), done.mixed)
    every = pl.concat([deployments, done.mixed], how="diagonal")
    starved = _best(within(matched, limits.ttft_s, limits.tpot_s), aim)
    return Advice(
        sentence=_sentence((split, mixed), gain, regime, (limits, aim))
        + _used((split, mixed), done.space.total_gpus)
        + _steady(mixed, done.space.longest_gap)
        + _hungry(starved, split),
        gain=gain,
        regime=regime,
        split=split,
        mixed=mixed,
        ranked=top(within(every, limits.ttft_s, limits.tpot_s), aim),
    )


def top(deployments: pl.DataFrame, aim: str = "throughput", count: int = 10) -> pl.DataFrame:
    """Return the best deployments by ``aim``, of equals the most interactive.

    Each pair of layouts is there once.
    """
    if not len(deployments):
        return deployments
    layouts = [name for name in deployments.columns if name.endswith(("_tp", "_pp", "_ep", "_dp"))]
    more_is_better = [aim not in LESS_IS_BETTER, True]
    ranked = deployments.sort([aim, "interactivity"], descending=more_is_better, nulls_last=True)
    return ranked.unique(["kind", *layouts], keep="first", maintain_order=True).head(count)


def paying_regime(split: pl.DataFrame, mixed: pl.DataFrame) -> tuple[float, float] | None:
    """Return the first and last interactivity at which ``split`` is worth it, if any is."""
    if not len(split):
        return None
    grid = split["interactivity"].to_numpy()
    best = (best_at(curve, grid, CLUSTER) for curve in (split, mixed))
    pays = grid[next(best) >= WORTH * next(best)]
    return (float(np.min(pays)), float(np.max(pays))) if len(pays) else None


def words(row: Row, pool: str) -> str:
    """Return a pool's worker in words: its layout, what it has in flight, and its drafts if any."""
    degrees = (("tp", "tp"), ("pp", "pp"), ("ep", "ep"), ("attention_dp", "dp"))
    spread = [(short, row[f"{pool}_{name}"]) for name, short in degrees]
    kept = " ".join(f"{short}{degree}" for short, degree in spread if degree > 1)
    drafts = row.get(f"{pool}_draft_tokens")
    drafted = f", {drafts} draft{'s' * (drafts > 1)}" if drafts else ""
    return f"{kept or 'tp1'}, batch {row[f'{pool}_batch']}{drafted}"


def _best(deployments: pl.DataFrame, aim: str) -> Row | None:
    best = top(deployments, aim, 1)
    return best.row(0, named=True) if len(best) else None


def _gain(split: Row | None, mixed: Row | None, aim: str) -> float:
    if split is None or mixed is None or not split[aim] or not mixed[aim]:
        return float("nan")
    ratio = float(split[aim] / mixed[aim])
    return 1.0 / ratio if aim in LESS_IS_BETTER else ratio


def _sentence(
    best: tuple[Row | None, Row | None],
    gain: float,
    regime: tuple[float, float] | None,
    asked: tuple[Limits, str],
) -> str:
    (split, mixed), (limits, aim) = best, asked
    if split is None and mixed is None:
        return f"Nothing meets {limits} on these GPUs."
    pays = "It pays nowhere (never 5 % more)."
    if regime is not None:
        pays = f"It pays (5 % or more) from {regime[0]:.3g} to {regime[1]:.3g} tokens/s per user."
    if split is None:
        return f"Stay co-located: no disaggregated deployment meets {limits}. {pays}"
    pools = (
        f"{split['prefill_workers']} prefill × ({words(split, 'prefill')}) and "
        f"{split['decode_workers']} decode × ({words(split, 'decode')})"
    )
    if mixed is None:
        return f"Disaggregate: only that meets {limits}, with {pools}. {pays}"
    numbers = f"{_shown(split[aim])} against {_shown(mixed[aim])} {UNITS.get(aim, aim)}"
    if gain >= WORTH:
        return f"Disaggregate: {gain:.2f}× under {limits} ({numbers}), with {pools}. {pays}"
    return f"Stay co-located: two pools give {gain:.3f}× under {limits} ({numbers}). {pays}"


def _used(best: tuple[Row | None, Row | None], total_gpus: int | None) -> str:
    """Return how many of the GPUs given the best deployments use."""
    if total_gpus is None or best == (None, None):
        return ""
    named = zip(("disaggregated", "co-located"), best, strict=True)
    used = " and ".join(f"{row['gpus']} {kind}" for kind, row in named if row is not None)
    return f" Of {total_gpus} GPUs it uses {used}."


def _steady(mixed: Row | None, longest_gap: float | None) -> str:
    """Return how long the decodes of the best co-located deployment wait for prompts."""
    if mixed is None:
        return ""
    judged = "any is" if longest_gap is None else f"{longest_gap:g} TPOTs are"
    return f" Co-located, tokens come up to {mixed['gap_s'] * 1e3:.3g} ms apart ({judged} allowed)."


def _hungry(starved: Row | None, split: Row | None) -> str:
    """Return what KV bandwidth the best deployment needs, if it is one the fabric cannot feed."""
    if starved is None or starved["kv_covered"] or (split and split["rate"] == starved["rate"]):
        return ""
    needed = max(starved["kv_egress"], starved["kv_ingress"])
    return (
        f" A better one ({_shown(starved['throughput'])} tokens/s/GPU) needs "
        f"{needed / 1e9:.3g} GB/s per GPU for KV, more than the fabric has."
    )


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g}"

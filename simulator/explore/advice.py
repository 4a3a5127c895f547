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
class Terms:
    """What deployments are judged by: limits held by the share ``attainment``, and a column.

    ``total_gpus`` are those there are for a deployment, if that is bounded.
    """

    limits: Limits
    attainment: float
    aim: str
    total_gpus: int | None
    longest_gap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Whether to disaggregate, why, and with what.

    ``split`` and ``mixed`` are the best deployment of either kind within the limits, ``splits``
    and ``mixeds`` the best few of each, ``ranked`` those of both. ``regime`` is the range of
    interactivities (tokens/s per user) in which two pools give at least 5 % more throughput.
    ``note`` is what must be told with the answer.
    """

    terms: Terms
    regime: tuple[float, float] | None
    split: Row | None
    mixed: Row | None
    splits: pl.DataFrame
    mixeds: pl.DataFrame
    ranked: pl.DataFrame
    note: str = ""

    @property
    def gain(self) -> float:
        """The best disaggregated deployment's aim over the best co-located one's.

        The other way round where less is better; ``nan`` where one of them is missing.
        """
        return _gain(self.split, self.mixed, self.terms.aim)

    @property
    def best(self) -> Row | None:
        """The deployment of the kind that is advised."""
        stays = self.split is None or (self.mixed is not None and self.gain < WORTH)
        return self.mixed if stays else self.split

    @property
    def sentence(self) -> str:
        """The answer."""
        return f"{_sentence(self)}{_steady(self.mixed, self.terms.longest_gap)}{self.note}"

    @property
    def answer(self) -> str:
        """The sentence, and both kinds' best in a line each."""
        return "\n".join([self.sentence, *self.sides])

    @property
    def sides(self) -> list[str]:
        """Both kinds' best, in a line each: layouts, GPUs, what is promised beside the limits."""
        named = (("Disaggregated", self.split), ("Co-located", self.mixed))
        return [f"{kind}: {described(row, self.terms)}" for kind, row in named if row is not None]


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
    splits = top(within(deployments, limits.ttft_s, limits.tpot_s), aim)
    mixed = done.mixed if done.allowed is None else done.allowed
    mixeds = top(within(mixed, limits.ttft_s, limits.tpot_s), aim)
    split = _first(splits)
    starved = _first(top(within(matched, limits.ttft_s, limits.tpot_s), aim, 1))
    return Advice(
        terms=Terms(
            limits=limits,
            attainment=done.space.attainment,
            aim=aim,
            total_gpus=done.space.total_gpus,
            longest_gap=done.space.longest_gap,
        ),
        regime=paying_regime(pareto(deployments, y=CLUSTER), done.mixed),
        split=split,
        mixed=_first(mixeds),
        splits=splits,
        mixeds=mixeds,
        ranked=top(pl.concat([splits, mixeds], how="diagonal"), aim),
        note=_hungry(starved, split),
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
    """Return a pool's worker in words: its layout, what it has in flight, its chunks and drafts."""
    degrees = (("tp", "tp"), ("pp", "pp"), ("ep", "ep"), ("attention_dp", "dp"))
    spread = [(short, row[f"{pool}_{name}"]) for name, short in degrees]
    kept = " ".join(f"{short}{degree}" for short, degree in spread if degree > 1)
    chunk, drafts = (row.get(f"{pool}_{name}") for name in ("chunk", "draft_tokens"))
    chunked = f", chunks of {chunk}" if chunk else ""
    drafted = f", {drafts} draft{'s' * (drafts > 1)}" if drafts else ""
    return f"{kept or 'tp1'}, batch {row[f'{pool}_batch']}{chunked}{drafted}"


def workers(row: Row) -> str:
    """Return a deployment's workers in words."""
    pools = ("prefill", "decode") if row["kind"] == "disaggregated" else ("mixed",)
    named = {"mixed": "co-located"}
    return " and ".join(
        f"{row[f'{pool}_workers']} {named.get(pool, pool)} × ({words(row, pool)})" for pool in pools
    )


def described(row: Row, terms: Terms) -> str:
    """Return a deployment in words: workers, GPUs, rate, and TTFT and TPOT beside their limits."""
    limits, share = terms.limits, f"p{100 * terms.attainment:g}"
    given = "" if terms.total_gpus is None else f" of {terms.total_gpus}"
    reached = (
        f"{share} {name} {row[column] * 1e3:.4g}{_of(limit)} ms"
        for name, column, limit in (
            ("TTFT", "ttft_s", limits.ttft_s),
            ("TPOT", "tpot_tail_s", limits.tpot_s),
        )
    )
    load = row.get("load")
    kept = "" if load is None else f" ({load:.0%} of {_shown(full(row))} without headroom)"
    return (
        f"{workers(row)} on {row['gpus']}{given} GPUs: {_shown(row['rate'])} requests/s, "
        f"{_shown(row['throughput'])} tokens/s/GPU{kept}; {', '.join(reached)}."
    )


def full(row: Row) -> float:
    """Return the output tokens/s/GPU of a deployment whose workers are never idle."""
    return float(row["throughput"] / row.get("load", 1.0))


def figures(row: Row, terms: Terms) -> dict[str, Any]:
    """Return the same as numbers, for a summary: times in seconds beside their limits."""
    pools = ("prefill", "decode") if row["kind"] == "disaggregated" else ("mixed",)
    names = ("workers", "tp", "pp", "ep", "attention_dp", "batch", "chunk", "draft_tokens")
    return {
        "kind": row["kind"],
        "workers": workers(row),
        "gpus": row["gpus"],
        "total_gpus": terms.total_gpus,
        "requests_per_s": row["rate"],
        "output_tokens_per_s_per_gpu": row["throughput"],
        "load": row.get("load"),
        "full_output_tokens_per_s_per_gpu": full(row),
        "ttft_s": row["ttft_s"],
        "ttft_limit_s": terms.limits.ttft_s,
        "tpot_s": row["tpot_tail_s"],
        "tpot_limit_s": terms.limits.tpot_s,
        "slo_attainment": row.get("attainment"),
        "pools": {
            pool: {name: row[f"{pool}_{name}"] for name in names if f"{pool}_{name}" in row}
            for pool in pools
        },
    }


def _of(limit_s: float | None) -> str:
    return "" if limit_s is None else f" of {limit_s * 1e3:g}"


def _first(deployments: pl.DataFrame) -> Row | None:
    return deployments.row(0, named=True) if len(deployments) else None


def _gain(split: Row | None, mixed: Row | None, aim: str) -> float:
    if split is None or mixed is None or not split[aim] or not mixed[aim]:
        return float("nan")
    ratio = float(split[aim] / mixed[aim])
    return 1.0 / ratio if aim in LESS_IS_BETTER else ratio


def _sentence(advice: Advice) -> str:
    split, mixed, terms = advice.split, advice.mixed, advice.terms
    limits, aim, regime = terms.limits, terms.aim, advice.regime
    if split is None and mixed is None:
        return f"Nothing meets {limits} on these GPUs."
    pays = "It pays nowhere (never 5 % more)."
    if regime is not None:
        pays = f"It pays (5 % or more) from {regime[0]:.3g} to {regime[1]:.3g} tokens/s per user."
    if split is None:
        return f"Stay co-located: no disaggregated deployment meets {limits}. {pays}"
    if mixed is None:
        return f"Disaggregate: only that meets {limits}. {pays}"
    numbers = f"{_shown(split[aim])} against {_shown(mixed[aim])} {UNITS.get(aim, aim)}"
    if advice.gain >= WORTH:
        return f"Disaggregate: {advice.gain:.2f}× under {limits} ({numbers}). {pays}"
    return f"Stay co-located: two pools give {advice.gain:.3f}× under {limits} ({numbers}). {pays}"


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

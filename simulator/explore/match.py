"""From workers to deployments: prefill choice, rate matching, and what a deployment amounts to."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.explore.bandwidth import Platforms
from simulator.explore.headroom import Headroom, Queue
from simulator.explore.pareto import front
from simulator.explore.space import Floats, Lengths, Platform
from simulator.policies.rate_matching import Balanced, Engine, Match, RateMatcher, matched

FTL_CUTOFF_S = 10.0
"""Prefill slower than this is never chosen (arXiv 2506.05508)."""

GPUS = 64
"""GPUs of a deployment where none are given and its workers are not counted yet."""

LAYOUT = ("tp", "pp", "ep", "attention_dp", "batch")
PREFILL = (*LAYOUT, "chunk", "kv_gpus")
DECODE = (*LAYOUT, "draft_tokens", "kv_gpus")
CLUSTER = "cluster_throughput"
MIXED = ("workers", *LAYOUT, "chunk", "prompts", "draft_tokens", "kv_gpus")
"""Columns of each pool's worker that a deployment keeps, with the pool's name before them."""


def choose_prefill(points: pl.DataFrame, cutoff_s: float = FTL_CUTOFF_S) -> pl.DataFrame:
    """Return the one prefill point of the highest rate per GPU whose TTFT is below the cutoff.

    Of equals the faster, then the smaller.

    Raises:
        ConfigError: no point is that fast, or there is none at all.
    """
    per_gpu = pl.col("rate") / pl.col("gpus")
    return fast(points, cutoff_s).sort(-per_gpu, pl.col("ttft_s"), pl.col("gpus")).head(1)


def prefill_front(points: pl.DataFrame, cutoff_s: float = FTL_CUTOFF_S) -> pl.DataFrame:
    """Return the prefill points below the cutoff that no other beats in GPUs, rate and TTFT.

    Sorted by GPUs, then rate; so is then TTFT, of those with as many GPUs.

    Raises:
        ConfigError: no point is that fast, or there is none at all.
    """
    below = fast(points, cutoff_s).sort(
        "gpus", descending=True
    )  # of equals the front keeps the last
    kept = []
    for gpus in below["gpus"].unique().sort():
        smaller = below.filter(pl.col("gpus") <= gpus)
        best = smaller[front(smaller["rate"].to_numpy(), -smaller["ttft_s"].to_numpy())]
        kept.append(best.filter(gpus=gpus))
    return pl.concat(kept)


def fast(points: pl.DataFrame, cutoff_s: float) -> pl.DataFrame:
    """Return the prefill points below the cutoff.

    Raises:
        ConfigError: no point is that fast, or there is none at all.
    """
    if not len(points):
        raise ConfigError("explore: no prefill layout fits the memory of its GPUs")
    kept = points.filter(pl.col("ttft_s") < cutoff_s)
    if not len(kept):
        raise ConfigError(
            f"explore: no prefill point has a TTFT below {cutoff_s:g} s; the fastest takes "
            f"{min(points['ttft_s']):.3g} s"
        )
    return kept


def paced(
    points: pl.DataFrame, lengths: Lengths, headroom: Headroom, total_gpus: int | None = None
) -> pl.DataFrame:
    """Return prefill or decode points at the ``rate`` that can be promised of them.

    ``full_rate`` is the steady state's, of workers that are never idle. What can be promised of a
    worker depends on how many share the queue; here as many as fill half of the GPUs there are, or
    of :data:`GPUS`. Points of which nothing can be promised are left out.
    """
    if not len(points):
        return points
    gpus, rate = points["gpus"].to_numpy(), points["rate"].to_numpy()
    workers = np.maximum((total_gpus or GPUS) // (2 * gpus), 1).astype(np.float64)
    if "tpot_s" in points.columns:
        load = headroom.seats_load(points["batch"].to_numpy() * workers)
    else:
        queue = _queue(points, lengths, workers)
        own = points["ttft_s"].to_numpy() + headroom.handover.gateway_s
        load = headroom.prompts_load(queue, own)
    promised = points.with_columns(
        pl.Series("full_rate", rate, pl.Float64), pl.Series("rate", rate * load, pl.Float64)
    )
    return promised.filter(pl.col("rate") > 0)


def _queue(points: pl.DataFrame, lengths: Lengths, workers: Floats) -> Queue:
    """Return the queue before so many prefill workers of each point."""
    ranks = points["attention_dp"].to_numpy()  # a prompt lies on one of them
    full = points["full_rate" if "full_rate" in points.columns else "rate"].to_numpy()
    return Queue(rate=full / ranks, servers=workers * ranks, variation=lengths.variation)


def disaggregated(
    prefill: pl.DataFrame,
    decode: pl.DataFrame,
    platforms: tuple[Platform, Platform],
    lengths: Lengths,
    rule: RateMatcher | None = None,
    headroom: Headroom | None = None,
) -> pl.DataFrame:
    """Return the deployments of each decode point with a prefill point, rates matched.

    ``prefill`` is the point :func:`choose_prefill` finds, or the many of :func:`prefill_front`:
    then each decode point gets that of the highest rate, of the fewest GPUs, of the lowest TTFT.
    ``platforms`` are prefill's and decode's, which may differ. Pairs the rule cannot match are
    left out.

    With ``headroom`` the points are those of :func:`paced`, and ``rate`` is what can be promised of
    the workers there are, ``load`` its share of the steady state's and ``ttft_s`` what prompts
    take with their wait.
    """
    if not len(decode) or not len(prefill):
        return pl.DataFrame()
    match, rows = _best_pairs(prefill, decode, rule or Balanced())
    chosen = prefill[rows]
    prefill_gpus = match.prefill_workers * chosen["gpus"].to_numpy()
    frame = decode.select(
        pl.lit("disaggregated").alias("kind"),
        chosen["ttft_s"],
        "tpot_s",
        "tpot_tail_s",
        "gap_s",
        "pace_s",
        pl.Series("prefill_workers", match.prefill_workers),
        pl.Series("decode_workers", match.decode_workers),
        pl.Series("gpus", match.gpus),
        pl.Series("rate", match.rate),
        pl.Series("prefill_gpus", prefill_gpus),
        pl.Series("decode_gpus", match.gpus - prefill_gpus),
        chosen["full_rate" if "full_rate" in chosen.columns else "rate"].alias("prefill_rate"),
        *(chosen[name].alias(f"prefill_{name}") for name in PREFILL),
        *(pl.col(name).alias(f"decode_{name}") for name in DECODE),
    )
    if headroom is not None:
        frame = _promise(frame, (chosen, decode), (platforms, lengths), headroom)
    served = pl.col("gpus") > 0, pl.col("rate") > 0
    return with_aims(frame.filter(*served), platforms, lengths)


def _promise(
    frame: pl.DataFrame,
    points: tuple[pl.DataFrame, pl.DataFrame],
    traffic: tuple[Platforms, Lengths],
    headroom: Headroom,
) -> pl.DataFrame:
    """Return deployments with the rate, load and TTFT that can be promised, from their points."""
    (prefill, decode), (platforms, lengths) = points, traffic
    n_p, n_d = (
        np.maximum(frame[f"{pool}_workers"].to_numpy(), 1) for pool in ("prefill", "decode")
    )
    prompts, tokens = (
        count * each["full_rate"].to_numpy() for count, each in zip((n_p, n_d), points, strict=True)
    )
    queue = _queue(prefill, lengths, n_p.astype(np.float64))
    handover = headroom.handover.seconds(platforms, lengths.prompt(headroom.attainment))
    before = headroom.handover.gateway_s
    own = frame.select(pl.col("ttft_s") + handover + before)["ttft_s"].to_numpy()
    rate = frame["rate"].to_numpy()
    if headroom.share is None:
        kept = headroom.prompts_load(queue, own) * prompts
        seated = headroom.seats_load(n_d * decode["batch"].to_numpy()) * tokens
        rate = np.minimum(kept, seated)
    ttft = own + headroom.wait_s(queue, rate / prompts)
    columns = {"rate": rate, "load": rate / np.minimum(prompts, tokens), "ttft_s": ttft}
    return frame.with_columns(
        pl.Series(name, column, pl.Float64) for name, column in columns.items()
    )


class _Best(NamedTuple):
    """What is best so far for each decode point: its match, with which prefill row."""

    match: Match
    row: NDArray[np.int64]
    ttft: NDArray[np.float64]

    def beaten_by(self, other: "_Best") -> NDArray[np.bool_]:
        """Return where the other serves more, or as much on fewer GPUs, or so and sooner."""
        mine, theirs = self.match, other.match
        sooner = (theirs.gpus == mine.gpus) & (other.ttft < self.ttft)
        equal = (theirs.rate == mine.rate) & ((theirs.gpus < mine.gpus) | sooner)
        beaten: NDArray[np.bool_] = (theirs.rate > mine.rate) | equal
        return beaten

    def improved(self, other: "_Best") -> "_Best":
        """Return the better of both for each decode point."""
        where = self.beaten_by(other)
        pairs = zip(other.match, self.match, strict=True)
        match = Match(*(np.where(where, new, old) for new, old in pairs))
        row, ttft = (
            np.where(where, new, old) for new, old in zip(other[1:], self[1:], strict=True)
        )
        return _Best(match, row, ttft)


def _best_pairs(
    prefill: pl.DataFrame, decode: pl.DataFrame, rule: RateMatcher
) -> tuple[Match, NDArray[np.int64]]:
    """Return the match of each decode point with the best of the prefill rows, and that row."""
    tokens = Engine(decode["rate"].to_numpy(), decode["gpus"].to_numpy())
    found = [_matched(prefill, rows, tokens, rule) for rows in _by_gpus(prefill)]
    best = found[0]
    for other in found[1:]:
        best = best.improved(other)
    return best.match, best.row


def _by_gpus(prefill: pl.DataFrame) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of workers of as many GPUs, by rising rate."""
    gpus, rate = prefill["gpus"].to_numpy(), prefill["rate"].to_numpy()
    for each in np.unique(gpus):
        (rows,) = np.nonzero(gpus == each)
        yield rows[np.argsort(rate[rows], kind="stable")]


def _matched(
    prefill: pl.DataFrame, rows: NDArray[np.int64], tokens: Engine, rule: RateMatcher
) -> _Best:
    """Return the matches with the fastest worker of these rows, or a sooner one that will do.

    More prefill than the deployment serves is worth nothing, a lower TTFT is.
    """
    rate, ttft = (prefill[name].to_numpy()[rows] for name in ("rate", "ttft_s"))
    match = matched(rule, Engine(rate[-1], int(prefill["gpus"][int(rows[-1])])), tokens)
    needed = match.rate / np.maximum(match.prefill_workers, 1)
    at = np.minimum(np.searchsorted(rate, needed), len(rows) - 1)
    return _Best(match, rows[at], ttft[at])


def colocated(
    points: pl.DataFrame,
    platform: Platform,
    lengths: Lengths,
    total_gpus: int | None = None,
    headroom: Headroom | None = None,
) -> pl.DataFrame:
    """Return the deployments of co-located points in the same columns.

    As many workers as ``total_gpus`` have room for, one where it is ``None``; larger workers are
    left out. With ``headroom`` what can be promised of them, as of two pools; where there is no
    budget, of as many as fill :data:`GPUS`.
    """
    if not len(points):
        return pl.DataFrame()
    piggybacks = pl.col("chunk") > 0
    workers = pl.lit(1, dtype=pl.Int64) if total_gpus is None else total_gpus // pl.col("gpus")
    counted = points.with_columns(workers.alias("workers")).filter(pl.col("workers") > 0)
    if headroom is not None:
        if not lengths.varied:  # below saturation prompts do not gather to share a step
            counted = counted.filter(pl.col("chunk") <= lengths.mean_isl)
        count = np.maximum((total_gpus or GPUS) // counted["gpus"].to_numpy(), 1)
        counted = _promised(counted, lengths, headroom, count)
    replicated = (pl.col(name) * pl.col("workers") for name in ("gpus", "rate"))
    frame = counted.with_columns(replicated).select(
        pl.when(piggybacks)
        .then(pl.lit("piggybacked"))
        .otherwise(pl.lit("colocated"))
        .alias("kind"),
        "ttft_s",
        "tpot_s",
        "tpot_tail_s",
        "gap_s",
        "pace_s",
        "gpus",
        "rate",
        *(["load"] if headroom is not None else []),
        pl.lit(0, dtype=pl.Int64).alias("prefill_gpus"),
        pl.col("gpus").alias("decode_gpus"),
        *(pl.col(name).alias(f"mixed_{name}") for name in MIXED),
    )
    return given(with_aims(frame, (platform, platform), lengths), total_gpus)


def _promised(
    points: pl.DataFrame, lengths: Lengths, headroom: Headroom, workers: NDArray[np.int64]
) -> pl.DataFrame:
    """Return co-located points at the rate that can be promised of each of so many workers."""
    rate, ranks, own, busy, batch = (
        points[name].to_numpy() for name in ("rate", "attention_dp", "ttft_s", "busy", "batch")
    )
    own = own + headroom.handover.gateway_s
    queue = Queue(
        rate=rate / ranks, servers=workers * ranks, variation=lengths.variation, busy=busy
    )
    load = np.minimum(headroom.prompts_load(queue, own), headroom.seats_load(workers * batch))
    promised = points.with_columns(
        pl.Series("rate", load * rate, pl.Float64),
        pl.Series("load", load, pl.Float64),
        pl.Series("ttft_s", own + headroom.wait_s(queue, load), pl.Float64),
    )
    return promised.filter(pl.col("load") > 0)


def replicated(row: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Return a co-located deployment with so many workers instead of its own."""
    times = workers / row["mixed_workers"]
    more = {name: round(times * row[name]) for name in ("gpus", "decode_gpus")}
    return {**row, **more, "mixed_workers": workers, "rate": times * row["rate"]}


def at_load(row: Mapping[str, Any], times: float) -> dict[str, Any]:
    """Return a deployment that is promised so many times its rate, with what follows of that."""
    rising = ("rate", "load", "throughput", CLUSTER)
    falling = ("usd_per_mtok", "joules_per_token")
    known = {name: row[name] for name in (*rising, *falling) if row.get(name) is not None}
    return {**row} | {
        name: value * times if name in rising else value / times for name, value in known.items()
    }


def given(deployments: pl.DataFrame, total_gpus: int | None) -> pl.DataFrame:
    """Return deployments with their ``cluster_throughput``: tokens/s per GPU there is for them.

    Those left idle count too; without a budget none are, and it is ``throughput``.
    """
    used = pl.lit(1.0) if total_gpus is None else pl.col("gpus") / total_gpus
    return deployments.with_columns((pl.col("throughput") * used).alias(CLUSTER))


def with_aims(
    deployments: pl.DataFrame, platforms: tuple[Platform, Platform], lengths: Lengths
) -> pl.DataFrame:
    """Return the deployments with what they are judged by.

    ``interactivity`` tokens/s per user (by ``pace_s``: long gaps count, not only their mean),
    ``throughput`` output tokens/s per GPU, ``gpu_ratio`` prefill over decode GPUs,
    ``usd_per_mtok`` per million output tokens at the GPUs' hourly price, and ``joules_per_token``
    of output with every GPU at its TDP, an upper bound (both null where a data sheet has none).
    """
    tokens = pl.col("rate") * lengths.mean_osl
    parts = list(zip(("prefill_gpus", "decode_gpus"), platforms, strict=True))
    return deployments.with_columns(
        (1.0 / pl.col("pace_s")).alias("interactivity"),
        (tokens / pl.col("gpus")).alias("throughput"),
        (pl.col("prefill_gpus") / pl.col("decode_gpus")).alias("gpu_ratio"),
        (_total(parts, "usd_per_hour") / 3600.0 / tokens * 1e6).alias("usd_per_mtok"),
        (_total(parts, "tdp_w") / tokens).alias("joules_per_token"),
    )


def within(
    deployments: pl.DataFrame, ttft_s: float | None = None, tpot_s: float | None = None
) -> pl.DataFrame:
    """Return the deployments whose TTFT and TPOT stay within the limits given.

    Both are those of the slowest requests that count (``Space.attainment``), not means; no gap
    between tokens may be longer than ``Space.longest_gap`` times the TPOT's limit.
    """
    limits = (("ttft_s", ttft_s), ("tpot_tail_s", tpot_s), ("pace_s", tpot_s))
    for name, limit in limits:
        if limit is not None and len(deployments):
            deployments = deployments.filter(pl.col(name) <= limit)
    return deployments


def _total(parts: list[tuple[str, Platform]], name: str) -> pl.Expr:
    """Return the sum of a GPU's figure over both pools; null where one is not known."""
    total = pl.lit(0.0)
    for column, platform in parts:
        value = getattr(platform.gpu, name)
        total = total + pl.col(column) * pl.lit(value, dtype=pl.Float64)
    return total

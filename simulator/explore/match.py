"""From workers to deployments: prefill choice, rate matching, and what a deployment amounts to."""

import polars as pl

from simulator.errors import ConfigError
from simulator.explore.space import Lengths, Platform
from simulator.policies.rate_matching import Balanced, Engine, RateMatcher

FTL_CUTOFF_S = 10.0
"""Prefill slower than this is never chosen (arXiv 2506.05508)."""

LAYOUT = ("tp", "pp", "ep", "attention_dp", "batch")
PREFILL = (*LAYOUT, "chunk", "kv_gpus")
DECODE = (*LAYOUT, "draft_tokens", "kv_gpus")
MIXED = (*LAYOUT, "chunk", "draft_tokens", "kv_gpus")
"""Columns of each pool's worker that a deployment keeps, with the pool's name before them."""


def choose_prefill(points: pl.DataFrame, cutoff_s: float = FTL_CUTOFF_S) -> pl.DataFrame:
    """Return the one prefill point of the highest rate per GPU whose TTFT is below the cutoff.

    Of equals the faster, then the smaller.

    Raises:
        ConfigError: no point is that fast, or there is none at all.
    """
    if not len(points):
        raise ConfigError("explore: no prefill layout fits the memory of its GPUs")
    fast = points.filter(pl.col("ttft_s") < cutoff_s)
    if not len(fast):
        raise ConfigError(
            f"explore: no prefill point has a TTFT below {cutoff_s:g} s; the fastest takes "
            f"{min(points['ttft_s']):.3g} s"
        )
    per_gpu = pl.col("rate") / pl.col("gpus")
    return fast.sort(-per_gpu, pl.col("ttft_s"), pl.col("gpus")).head(1)


def disaggregated(
    prefill: pl.DataFrame,
    decode: pl.DataFrame,
    platforms: tuple[Platform, Platform],
    lengths: Lengths,
    rule: RateMatcher | None = None,
) -> pl.DataFrame:
    """Return the deployments of one prefill point with each decode point, rates matched.

    ``platforms`` are prefill's and decode's, which may differ. Pairs the rule cannot match are
    left out.
    """
    chosen = prefill.row(0, named=True)
    if not len(decode):
        return pl.DataFrame()
    match = (rule or Balanced()).match(
        Engine(chosen["rate"], chosen["gpus"]),
        Engine(decode["rate"].to_numpy(), decode["gpus"].to_numpy()),
    )
    prefill_gpus = match.prefill_workers * chosen["gpus"]
    named = {f"prefill_{name}": pl.lit(chosen[name]) for name in PREFILL}
    frame = decode.select(
        pl.lit("disaggregated").alias("kind"),
        pl.lit(chosen["ttft_s"]).alias("ttft_s"),
        "tpot_s",
        pl.Series("prefill_workers", match.prefill_workers),
        pl.Series("decode_workers", match.decode_workers),
        pl.Series("gpus", match.gpus),
        pl.Series("rate", match.rate),
        pl.Series("prefill_gpus", prefill_gpus),
        pl.Series("decode_gpus", match.gpus - prefill_gpus),
        *(column.alias(name) for name, column in named.items()),
        *(pl.col(name).alias(f"decode_{name}") for name in DECODE),
    ).filter(pl.col("gpus") > 0)
    return with_aims(frame, platforms, lengths)


def colocated(points: pl.DataFrame, platform: Platform, lengths: Lengths) -> pl.DataFrame:
    """Return the deployments of co-located points, one worker each, in the same columns."""
    if not len(points):
        return pl.DataFrame()
    piggybacks = pl.col("chunk") > 0
    frame = points.select(
        pl.when(piggybacks)
        .then(pl.lit("piggybacked"))
        .otherwise(pl.lit("colocated"))
        .alias("kind"),
        "ttft_s",
        "tpot_s",
        "gpus",
        "rate",
        pl.lit(0, dtype=pl.Int64).alias("prefill_gpus"),
        pl.col("gpus").alias("decode_gpus"),
        *(pl.col(name).alias(f"mixed_{name}") for name in MIXED),
    )
    return with_aims(frame, (platform, platform), lengths)


def with_aims(
    deployments: pl.DataFrame, platforms: tuple[Platform, Platform], lengths: Lengths
) -> pl.DataFrame:
    """Return the deployments with what they are judged by.

    ``interactivity`` tokens/s per user, ``throughput`` output tokens/s per GPU, ``gpu_ratio``
    prefill over decode GPUs, ``usd_per_mtok`` per million output tokens at the GPUs' hourly
    price, and ``joules_per_token`` of output with every GPU at its TDP, an upper bound (both null
    where a data sheet has none).
    """
    tokens = pl.col("rate") * lengths.mean_osl
    parts = list(zip(("prefill_gpus", "decode_gpus"), platforms, strict=True))
    return deployments.with_columns(
        (1.0 / pl.col("tpot_s")).alias("interactivity"),
        (tokens / pl.col("gpus")).alias("throughput"),
        (pl.col("prefill_gpus") / pl.col("decode_gpus")).alias("gpu_ratio"),
        (_total(parts, "usd_per_hour") / 3600.0 / tokens * 1e6).alias("usd_per_mtok"),
        (_total(parts, "tdp_w") / tokens).alias("joules_per_token"),
    )


def within(
    deployments: pl.DataFrame, ttft_s: float | None = None, tpot_s: float | None = None
) -> pl.DataFrame:
    """Return the deployments whose TTFT and TPOT stay within the limits given."""
    limits = (("ttft_s", ttft_s), ("tpot_s", tpot_s))
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

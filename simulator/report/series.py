"""Small arrays for figures, whatever the size of the run: quantiles, bins and sampled gauges."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CDF_SHARES: Floats = np.unique(
    np.concatenate([np.linspace(0, 1, 201), 1 - np.logspace(-2, -4, 41), np.linspace(0.9, 1, 51)])
)
CDF_SHARES.flags.writeable = False
MAX_BINS = 120
MAX_SAMPLES = 300
PER_BIN = 20


def cdf(values: Floats) -> Floats:
    """Return the quantiles of the non-NaN ``values`` at :data:`CDF_SHARES` (empty if none)."""
    known = values[~np.isnan(values)]
    if not len(known):
        return known
    quantiles: Floats = np.quantile(known, CDF_SHARES, overwrite_input=True)
    return quantiles


def time_edges(arrivals: Floats, most: int = MAX_BINS) -> Floats:
    """Return edges of equal time bins over the arrivals, for about :data:`PER_BIN` or more each.

    There are at most ``most`` bins and at least one; no edges without an arrival.
    """
    known = arrivals[~np.isnan(arrivals)]
    if not len(known):
        return np.empty(0)
    low, high = float(known.min()), float(known.max())
    bins = int(np.clip(len(known) // PER_BIN, 1, most))
    return np.linspace(low, max(high, low + 1e-3), bins + 1)


def bin_of(values: Floats, edges: Floats) -> NDArray[np.int64]:
    """Return the bin of each value: 0 … len(edges) − 2, or −1 where NaN or outside."""
    bins = np.searchsorted(edges, values, side="right") - 1
    bins = np.where(values == edges[-1], len(edges) - 2, bins)
    return np.where(np.isnan(values) | (bins > len(edges) - 2), -1, bins)


def binned_percentiles(
    bins: NDArray[np.int64], values: Floats, count: int, percentiles: tuple[float, ...]
) -> Floats:
    """Return percentiles (linear) of ``values`` per bin, shape (len(percentiles), count).

    NaN in a bin without values.
    """
    known = (bins >= 0) & ~np.isnan(values)
    order = np.argsort(bins[known], kind="stable")
    sorted_values = values[known][order]
    ends = np.cumsum(np.bincount(bins[known], minlength=count))
    table = np.full((len(percentiles), count), np.nan)
    for index, part in enumerate(np.split(sorted_values, ends[:-1])):
        if len(part):
            table[:, index] = np.percentile(part, percentiles)
    return table


def binned_share(
    bins: NDArray[np.int64], flags: NDArray[np.bool_], count: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the share of true ``flags`` per bin (NaN where empty) and each bin's size."""
    chosen = bins >= 0
    total = np.bincount(bins[chosen], minlength=count)
    true = np.bincount(bins[chosen & flags], minlength=count).astype(np.float64)
    return np.divide(true, total, out=np.full(count, np.nan), where=total > 0), total


def length_edges(lengths: Floats, most: int = 10) -> Floats:
    """Return rising edges that cut ``lengths`` into about equally many requests per bin."""
    known = lengths[~np.isnan(lengths)]
    if not len(known):
        return np.empty(0)
    bins = int(np.clip(len(known) // PER_BIN, 1, most))
    edges = np.unique(np.round(np.quantile(known, np.linspace(0, 1, bins + 1))))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1])


def sampled(timeline: pl.DataFrame) -> pl.DataFrame:
    """Return ``timeline`` averaged over runs of samples, at most :data:`MAX_SAMPLES` per worker.

    Columns: ``time_s`` (middle of the run of samples), worker, pool and the mean of each gauge.
    """
    workers = timeline["worker"].n_unique()
    samples = len(timeline) // max(workers, 1)
    stride = max(1, -(-samples // MAX_SAMPLES))
    gauges = ("waiting", "running", "kv_utilization", "busy_fraction")
    rates = ("sent_bytes_per_s", "received_bytes_per_s")
    return (
        timeline.lazy()
        .with_columns((pl.int_range(pl.len()) // max(workers * stride, 1)).alias("bin"))
        .group_by("bin", "worker", "pool")
        .agg(pl.col("time_s", *gauges, *rates).mean())
        .sort("bin", "worker")
        .collect()
    )


def over_workers(samples: pl.DataFrame, pool: str, gauge: str) -> pl.DataFrame:
    """Return ``time_s`` and the ``sum``, ``mean`` and ``max`` of a gauge over a pool's workers."""
    return (
        samples.lazy()
        .filter(pl.col("pool") == pool)
        .group_by("bin")
        .agg(
            pl.col("time_s").first(),
            pl.col(gauge).sum().alias("sum"),
            pl.col(gauge).mean().alias("mean"),
            pl.col(gauge).max().alias("max"),
        )
        .sort("bin")
        .collect()
    )

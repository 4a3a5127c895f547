"""Small arrays for figures, whatever the size of the run: quantiles, bins and sampled gauges."""

from collections.abc import Mapping
from dataclasses import dataclass

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
    return _ratio(true, total), total


def length_edges(lengths: Floats, most: int = 10) -> Floats:
    """Return rising edges that cut ``lengths`` into about equally many requests per bin."""
    known = lengths[~np.isnan(lengths)]
    if not len(known):
        return np.empty(0)
    bins = int(np.clip(len(known) // PER_BIN, 1, most))
    edges = np.unique(np.round(np.quantile(known, np.linspace(0, 1, bins + 1))))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Gauges averaged over runs of samples: ``time_s`` (bins,), each gauge (bins, workers).

    NaN where a gauge is unknown; ``pools`` names each worker's pool, in the gauges' order.
    """

    time_s: Floats
    pools: tuple[str, ...]
    gauges: Mapping[str, Floats]

    def of(self, pool: str, gauge: str) -> Floats:
        """Return a gauge of the workers of one pool, shape (bins, workers of the pool)."""
        chosen = [worker for worker, name in enumerate(self.pools) if name == pool]
        return self.gauges[gauge][:, chosen]


def sampled(timeline: pl.DataFrame, pools: tuple[str, ...]) -> Samples:
    """Return ``timeline`` averaged to at most :data:`MAX_SAMPLES` bins of equally many samples.

    The timeline has a row per sample and worker that was ready then; ``pools`` names the pool of
    every worker there has been, by number.
    """
    names = ("waiting", "running", "kv_utilization", "busy_fraction")
    rates = ("sent_bytes_per_s", "received_bytes_per_s")
    time, at = np.unique(timeline["time_s"].to_numpy(), return_inverse=True)
    stride = max(1, -(-len(time) // MAX_SAMPLES))
    worker = timeline["worker"].to_numpy()
    gauges = {}
    kept = ("kv_cached",) if "kv_cached" in timeline.columns else ()
    for name in (*names, *kept, *rates):
        table = np.full((len(time), len(pools)), np.nan)
        table[at, worker] = timeline[name].cast(pl.Float64).to_numpy()
        gauges[name] = _mean_of_runs(table, stride)
    times = _mean_of_runs(time[:, None], stride)[:, 0]
    return Samples(time_s=times, pools=pools, gauges=gauges)


def _mean_of_runs(values: Floats, stride: int) -> Floats:
    """Return the means of the non-NaN ``values`` (T, workers) over runs of ``stride`` rows."""
    starts = np.arange(0, len(values), stride)
    if not len(starts):
        return values
    known = ~np.isnan(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    count = np.add.reduceat(known.astype(np.int64), starts, axis=0)
    return _ratio(total, count)


def mean_over_workers(gauge: Floats) -> Floats:
    """Return the mean over workers of a gauge (bins, workers), NaN where none is known."""
    known = ~np.isnan(gauge)
    total, count = np.where(known, gauge, 0.0).sum(axis=1), known.sum(axis=1)
    return _ratio(total, count)


def sum_over_workers(gauge: Floats) -> Floats:
    """Return the sum over the workers for which a gauge (bins, workers) is known, NaN where none.

    Workers that are not ready have no gauges: they hold nothing.
    """
    known = ~np.isnan(gauge)
    total: Floats = np.where(known, gauge, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total, np.nan)


def max_over_workers(gauge: Floats) -> Floats:
    """Return the greatest of the workers of a gauge (bins, workers), NaN where none is known."""
    highest: Floats = np.fmax.reduce(gauge, axis=1, initial=np.nan)
    return highest


def _ratio(total: Floats, count: NDArray[np.int64]) -> Floats:
    """Return ``total`` / ``count``, NaN where the count is 0."""
    known: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return known

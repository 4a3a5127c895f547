"""Traffic as the sum of clients: few send most of it, each in bursts and lengths of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads import checks
from workloads.arrivals import MAX_ARRIVALS, Gamma, check_rate
from workloads.errors import TraceError
from workloads.trace import (
    MAX_TOKENS,
    SYNTHETIC,
    Trace,
    TraceMeta,
    Transform,
    canonical_frame,
    token_sum,
)

Floats = NDArray[np.float64]

MAX_CLIENTS = 100_000
LEAST_CV, MOST_CV = 0.1, 30.0
"""Bounds of a client's burstiness: beyond, gaps are none or all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLengths:
    """Lengths that differ from client to client more than within one.

    A client's median is lognormal around ``median`` tokens with sigma ``between``, its requests are
    lognormal around that with sigma ``within``.
    """

    median: float
    between: float
    within: float
    max: int = 131_072

    def __post_init__(self) -> None:
        owner = "client lengths"
        checks.positive(owner, "median", self.median, "tokens")
        checks.at_least(owner, "between", self.between, 0)
        checks.at_least(owner, "within", self.within, 0)
        checks.whole(owner, "max", self.max, 1)
        if self.max > MAX_TOKENS:
            raise TraceError(f"{owner}: max must be at most {MAX_TOKENS} but got {self.max!r}")

    def draw(self, clients: int, of: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        """Return the lengths of requests, whose clients ``of`` names."""
        whose, which = rng.spawn(2)
        centre = np.log(self.median) + self.between * whose.standard_normal(clients)
        logs = centre[of] + self.within * which.standard_normal(of.size)
        lengths = np.exp(np.minimum(logs, np.log(self.max) + 1))
        return np.asarray(np.clip(np.rint(lengths), 1, self.max))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMix:
    """Requests of ``clients``, of which the k-th largest has a rate as 1/k^``zipf``.

    Each sends with gamma gaps whose coefficient of variation is lognormal around ``cv_median`` with
    sigma ``cv_sigma``, and has lengths of its own. It has been sending for long when the workload
    begins. Together they send ``request_rate`` requests/s on average; ``requests`` or
    ``duration_s`` (or both, whichever ends first) bound them. A request's ``tenant`` is its client.
    """

    request_rate: float
    requests: int | None = None
    duration_s: float | None = None
    clients: int = 50
    zipf: float = 1.2
    cv_median: float = 1.2
    cv_sigma: float = 1.0
    input_lengths: ClientLengths
    output_lengths: ClientLengths
    name: str = "clients"

    def __post_init__(self) -> None:
        owner = "client mix"
        check_rate(owner, "request_rate", self.request_rate)
        if self.requests is None and self.duration_s is None:
            raise TraceError(f"{owner}: give requests or duration_s")
        if self.requests is not None:
            checks.whole(owner, "requests", self.requests, 1)
        if self.duration_s is not None:
            checks.positive(owner, "duration_s", self.duration_s, "s")
        expected = self.requests or self.request_rate * (self.duration_s or 0.0)
        if expected > MAX_ARRIVALS:
            raise TraceError(f"{owner}: {expected:.0f} requests, expected at most {MAX_ARRIVALS}")
        checks.whole(owner, "clients", self.clients, 1)
        if self.clients > MAX_CLIENTS:
            raise TraceError(
                f"{owner}: clients must be at most {MAX_CLIENTS} but got {self.clients!r}"
            )
        checks.at_least(owner, "zipf", self.zipf, 0)
        checks.positive(owner, "cv_median", self.cv_median)
        checks.at_least(owner, "cv_sigma", self.cv_sigma, 0)

    @property
    def concurrency(self) -> int | None:
        """Clients here do not wait for their answers."""
        return None

    @property
    def mean_rate(self) -> float:
        """Mean requests/s of all clients together."""
        return self.request_rate

    def rates(self) -> Floats:
        """Return each client's mean requests/s, the largest first."""
        weights = np.arange(1, self.clients + 1, dtype=np.float64) ** -self.zipf
        return np.asarray(self.request_rate * weights / weights.sum())

    def trace(self, rng_arrivals: np.random.Generator, rng_lengths: np.random.Generator) -> Trace:
        """Return the drawn requests; raise ``TraceError`` if the duration holds none."""
        times, of = self._arrivals(rng_arrivals)
        if not times.size:
            raise TraceError(f"client mix: no request arrives within {self.duration_s!r} s")
        streams = rng_lengths.spawn(2)
        inputs, outputs = (
            lengths.draw(self.clients, of, stream)
            for lengths, stream in zip(
                (self.input_lengths, self.output_lengths), streams, strict=True
            )
        )
        columns: Mapping[str, Any] = {
            "arrival_s": times,
            "input_tokens": inputs,
            "output_tokens": outputs,
            "tenant": self._names()[of],
        }
        frame = canonical_frame(pl.DataFrame(columns))
        counts = {"requests": times.size, "clients": self.clients}
        meta = TraceMeta(
            name=self.name,
            format=SYNTHETIC,
            rows_read=times.size,
            rows_kept=times.size,
            tokens_read=token_sum(frame),
            transforms=(Transform(name="drawn", counts=counts),),
        )
        return Trace(frame, meta)

    def _names(self) -> pl.Series:
        names = pl.Series([f"client-{each}" for each in range(self.clients)])
        return names.cast(pl.Categorical)

    def _arrivals(self, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
        """Return all arrivals in order, and whose they are.

        Where a number is asked for, the time looked at is doubled until it holds so many.
        """
        seeds = np.random.SeedSequence(int(rng.integers(1 << 62))).spawn(self.clients + 1)
        cvs = self.cv_median * np.exp(
            self.cv_sigma * np.random.default_rng(seeds[0]).standard_normal(self.clients)
        )
        horizon = self.duration_s or 1.5 * (self.requests or 0) / self.request_rate
        cvs = np.clip(cvs, LEAST_CV, MOST_CV)
        while True:
            parts = [
                _under_way(float(rate), float(cv), horizon, np.random.default_rng(seed))
                for rate, cv, seed in zip(self.rates(), cvs, seeds[1:], strict=True)
            ]
            times = np.concatenate(parts)
            of = np.repeat(np.arange(self.clients), [part.size for part in parts])
            if self.duration_s is not None or times.size >= (self.requests or 0):
                break
            horizon *= 2
        order = np.lexsort((of, times))[: self.requests]
        return times[order], of[order]


def _under_way(rate: float, cv: float, horizon_s: float, rng: np.random.Generator) -> Floats:
    """Return arrivals within the horizon of a client that began long before.

    How long since its last request is then nearly independent of when it began: the memory of a
    renewal process fades over some (1 + cv²) gaps.
    """
    before = (20 + 2 * cv**2) / rate
    times = Gamma(rate=rate, cv=cv).times(rng, horizon_s=before + horizon_s)
    return np.asarray(times[times >= before] - before)

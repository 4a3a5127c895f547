"""What a simulation is fed: a replayed trace or a synthetic workload, in an open or closed loop."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import polars as pl

from workloads import checks
from workloads.arrivals import MAX_ARRIVALS, Arrivals
from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.lengths import IndependentPairs, LengthPairs, Lengths
from workloads.readers import read_trace
from workloads.readers.hints import Hints
from workloads.replay import Replay
from workloads.sessions import Turns
from workloads.trace import (
    SYNTHETIC,
    Trace,
    TraceMeta,
    Transform,
    canonical_frame,
    token_sum,
)


class Workload(Protocol):
    """Requests to simulate."""

    @property
    def concurrency(self) -> int | None:
        """Clients of a closed loop, each with one request at a time; ``None``: an open loop.

        In a closed loop arrival times are ignored: the next row is sent when a request ends.
        """
        ...

    def trace(self, rng_arrivals: np.random.Generator, rng_lengths: np.random.Generator) -> Trace:
        """Return the requests; arrival times and lengths draw from their own streams."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceWorkload:
    """The requests of a trace file as ``replay`` alters them.

    ``format`` is that of :func:`workloads.readers.read_trace`; ``time_unit``, ``block_size``,
    ``context`` and ``columns`` are those of :class:`workloads.readers.hints.Hints`;
    ``zero_output``, ``over_context`` and ``max_context`` those of
    :class:`workloads.cleaning.Policy`. ``turns`` says when the later turns of sessions are sent.
    """

    path: str
    format: str = "auto"
    time_unit: str = "auto"
    block_size: int | None = None
    context: str = "auto"
    columns: Mapping[str, str] | None = None
    zero_output: str = "drop"
    over_context: str = "drop"
    max_context: int | None = None
    replay: Replay = field(default_factory=Replay)
    turns: Turns = field(default_factory=Turns)
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise TraceError(f"trace workload: path must name a file but got {self.path!r}")
        self._hints()
        self._policy()
        _check_concurrency(self.concurrency)

    def _hints(self) -> dict[str, Any]:
        told = {each.name: getattr(self, each.name) for each in fields(Hints)}
        Hints(**told)
        return told

    def _policy(self) -> Policy:
        return Policy(
            zero_output=self.zero_output,
            over_context=self.over_context,
            max_context=self.max_context,
        )

    def trace(
        self,
        rng_arrivals: np.random.Generator,
        rng_lengths: np.random.Generator,  # noqa: ARG002 - lengths are in the file
    ) -> Trace:
        """Return the replayed trace; raise ``TraceError`` for a file that cannot be used."""
        return self.replay.apply(self.read(), rng_arrivals)

    def read(self) -> Trace:
        """Return what the file holds; raise ``TraceError`` for one that cannot be used."""
        return read_trace(self.path, format=self.format, policy=self._policy(), **self._hints())


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticWorkload:
    """Requests drawn from an arrival process and length distributions.

    ``requests`` or ``duration_s`` (or both, whichever ends first) bound the workload, unless its
    arrivals end of themselves (``end_s``). Lengths come
    from ``input_lengths`` and ``output_lengths``, tied by ``correlation``, or together from
    ``pairs``. With ``concurrency`` clients in a closed loop, ``arrivals`` may be left out.
    """

    arrivals: Arrivals | None = None
    input_lengths: Lengths | None = None
    output_lengths: Lengths | None = None
    correlation: float = 0.0
    pairs: LengthPairs | None = None
    requests: int | None = None
    duration_s: float | None = None
    concurrency: int | None = None
    name: str = "synthetic"

    def __post_init__(self) -> None:
        _check_concurrency(self.concurrency)
        self._check_extent()
        separate = (self.input_lengths, self.output_lengths)
        if self.pairs is None and None in separate:
            raise TraceError(
                "synthetic workload: give input_lengths and output_lengths, or pairs of both"
            )
        if self.pairs is not None and (separate != (None, None) or self.correlation):
            raise TraceError(
                "synthetic workload: pairs excludes input_lengths, output_lengths and correlation"
            )
        self._length_pairs()

    def _check_extent(self) -> None:
        endless = getattr(self.arrivals, "end_s", None) is None
        if self.requests is None and self.duration_s is None and endless:
            raise TraceError("synthetic workload: give requests or duration_s")
        if self.requests is not None:
            checks.whole("synthetic workload", "requests", self.requests, 1)
            _check_most("synthetic workload", "requests", self.requests)
        if self.duration_s is not None:
            checks.positive("synthetic workload", "duration_s", self.duration_s, "s")
        if self.arrivals is None and self.concurrency is None:
            raise TraceError("synthetic workload: give arrivals, or concurrency for a closed loop")
        if self.concurrency is not None and self.requests is None:
            raise TraceError("synthetic workload: a closed loop (concurrency) needs requests")

    def _length_pairs(self) -> LengthPairs:
        if self.pairs is not None:
            return self.pairs
        assert self.input_lengths is not None  # noqa: S101 - checked in __post_init__
        assert self.output_lengths is not None  # noqa: S101 - checked in __post_init__
        return IndependentPairs(
            input=self.input_lengths, output=self.output_lengths, correlation=self.correlation
        )

    def trace(self, rng_arrivals: np.random.Generator, rng_lengths: np.random.Generator) -> Trace:
        """Return the drawn requests; raise ``TraceError`` if the duration holds none."""
        times = checks.numbers(_owner(self.arrivals), "times", self._times(rng_arrivals))
        if not times.size:
            end_s = self.duration_s or getattr(self.arrivals, "end_s", None)
            raise TraceError(f"synthetic workload: no request arrives within {end_s!r} s")
        columns = {"arrival_s": times, **self._lengths(times.size, rng_lengths)}
        frame = canonical_frame(pl.DataFrame(columns))
        drawn = Transform(name="drawn", counts={"requests": times.size})
        meta = TraceMeta(
            name=self.name,
            format=SYNTHETIC,
            rows_read=times.size,
            rows_kept=times.size,
            tokens_read=token_sum(frame),
            transforms=(drawn,),
        )
        return Trace(frame, meta)

    def _lengths(self, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the input and output tokens of ``count`` requests."""
        pairs = self._length_pairs()
        drawn = checks.pair(_owner(pairs), "sample", pairs.sample(count, rng))
        return {
            f"{name}_tokens": checks.numbers(_owner(pairs), name, tokens, count=count, kinds="iu")
            for name, tokens in zip(("input", "output"), drawn, strict=True)
        }

    def _times(self, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        if self.concurrency is not None or self.arrivals is None:
            return np.zeros(self.requests or 0)
        return self.arrivals.times(rng, n=self.requests, horizon_s=self.duration_s)


def _owner(part: object) -> str:
    """Return what a part of the workload is called in a sentence about it."""
    return f"synthetic workload: {type(part).__name__}"


def _check_concurrency(concurrency: int | None) -> None:
    if concurrency is not None:
        checks.whole("workload", "concurrency", concurrency, 1)
        _check_most("workload", "concurrency", concurrency)


def _check_most(owner: str, name: str, count: int) -> None:
    if count > MAX_ARRIVALS:
        raise TraceError(f"{owner}: {name} must be at most {MAX_ARRIVALS} but got {count!r}")

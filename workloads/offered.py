"""A workload at another rate: the same draws, or the same trace, faster or slower."""

from dataclasses import dataclass, field, fields, is_dataclass, replace

import numpy as np

from workloads.arrivals import mean_rate, rate_field
from workloads.errors import TraceError
from workloads.replay import Replay
from workloads.sessions import Turns
from workloads.trace import Trace
from workloads.workload import TraceWorkload, Workload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadWorkload:
    """The requests of a file that has been read, as ``replay`` alters them."""

    source: Trace
    replay: Replay = field(default_factory=Replay)
    turns: Turns = field(default_factory=Turns)
    concurrency: int | None = None

    def trace(
        self,
        rng_arrivals: np.random.Generator,
        rng_lengths: np.random.Generator,  # noqa: ARG002 - lengths are in the file
    ) -> Trace:
        """Return the replayed trace."""
        return self.replay.apply(self.source, rng_arrivals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocked:
    """Another workload's requests on a clock that makes ``rate`` requests/s of them."""

    workload: Workload
    rate: float

    @property
    def concurrency(self) -> int | None:
        """Clients of a closed loop: there are none."""
        return None

    @property
    def turns(self) -> Turns:
        """When the other workload's later turns are sent."""
        turns = getattr(self.workload, "turns", Turns())
        return turns if isinstance(turns, Turns) else Turns()

    def trace(self, rng_arrivals: np.random.Generator, rng_lengths: np.random.Generator) -> Trace:
        """Return the workload's requests, their gaps stretched or compressed."""
        drawn = self.workload.trace(rng_arrivals, rng_lengths)
        return Replay(target_rate=self.rate).apply(drawn, rng_arrivals)


def read_once(workload: Workload) -> Workload:
    """Return a workload whose file is read now and not again.

    Raises:
        TraceError: the file cannot be used.
    """
    if not isinstance(workload, TraceWorkload):
        return workload
    return ReadWorkload(
        source=workload.read(),
        replay=workload.replay,
        turns=workload.turns,
        concurrency=workload.concurrency,
    )


def at_rate(workload: Workload, rate: float) -> Workload:
    """Return ``workload`` at ``rate`` requests/s on average, by its own setting where it has one.

    A trace is replayed at that ``target_rate``; arrivals with a ``rate`` are drawn at another, from
    the same random numbers; a workload with a ``request_rate`` has that set; of any other workload
    the clock is turned.

    Raises:
        TraceError: a closed loop, which has no rate of its own.
    """
    if workload.concurrency is not None:
        raise TraceError(
            "workload: a closed loop (concurrency) sends as fast as it is answered: it has no rate "
            "that could be changed"
        )
    if isinstance(workload, TraceWorkload | ReadWorkload):
        replay = replace(workload.replay, rate_scale=1.0, target_rate=rate)
        return replace(workload, replay=replay)
    if _has_rate(workload):
        return replace(workload, request_rate=rate)  # type: ignore[type-var]
    name = _rate_field(workload)
    if name is not None:
        arrivals = replace(workload.arrivals, **{name: rate})  # type: ignore[attr-defined]
        return replace(workload, arrivals=arrivals)  # type: ignore[type-var]
    return Clocked(workload=workload, rate=rate)


def rate_setting(workload: Workload) -> str | None:
    """Return the setting that :func:`at_rate` changes; ``None`` where it turns the clock itself."""
    if isinstance(workload, TraceWorkload | ReadWorkload):
        return "workload.replay.target_rate"
    if _has_rate(workload):
        return "workload.request_rate"
    name = _rate_field(workload)
    return None if name is None else f"workload.arrivals.{name}"


def own_rate(workload: Workload, trace: Trace) -> float:
    """Return the mean requests/s of a workload: its setting, or those of its ``trace``.

    Raises:
        TraceError: all requests arrive at once, or there is but one.
    """
    if trace.duration_s <= 0:
        raise TraceError(
            f"trace {trace.meta.name!r}: has no rate, which needs arrivals at two instants at "
            f"least, but its {len(trace)} request(s) arrive at one"
        )
    if _has_rate(workload):
        known: float | None = getattr(workload, "mean_rate", None)
    else:
        known = mean_rate(getattr(workload, "arrivals", None))
    return float(trace.mean_rate) if known is None else known


def _has_rate(workload: Workload) -> bool:
    """Tell whether a workload has a ``request_rate`` of its own; it then tells a ``mean_rate``."""
    return is_dataclass(workload) and "request_rate" in {each.name for each in fields(workload)}


def _rate_field(workload: Workload) -> str | None:
    """Return the setting of a workload's arrivals that is their mean rate, if they have one."""
    if not is_dataclass(workload):
        return None
    return rate_field(getattr(workload, "arrivals", None))

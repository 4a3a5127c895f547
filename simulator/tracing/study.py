"""What task=trace does with a workload's requests before anything is simulated."""

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.errors import ConfigError
from simulator.experiment import Experiment
from workloads.combining import mix, splice
from workloads.errors import TraceError
from workloads.fitting import Fitted, fit
from workloads.inspection import Inspection, inspect
from workloads.readers import read_trace
from workloads.trace import Trace
from workloads.writing import KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """What else to do with a trace than to look at it.

    ``convert`` to canonical ``parquet``, ``mooncake`` rows or ``aiperf`` turns. Files to ``splice``
    follow the workload's requests, each ``gap_s`` after the last arrival before it; files to
    ``mix`` run beside them. ``fit`` a generator to what comes out.
    """

    convert: str | None = None
    splice: tuple[str, ...] = ()
    mix: tuple[str, ...] = ()
    gap_s: float = 0.0
    fit: bool = True

    def __post_init__(self) -> None:
        if self.convert is not None and self.convert not in KINDS:
            raise ConfigError(
                f"trace: convert must be null or one of {', '.join(KINDS)} but got {self.convert!r}"
            )
        if not 0 <= self.gap_s < float("inf"):
            raise ConfigError(f"trace: gap_s must be at least 0 s but got {self.gap_s!r}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Studied:
    """A trace, what it is like, and the generators fitted to it; ``unfitted`` says why none is."""

    trace: Trace
    told: Inspection
    fitted: Fitted | None
    unfitted: str | None = None


def study(experiment: Experiment, options: TraceOptions) -> Studied:
    """Return what there is to say of the experiment's requests, with those to splice and mix.

    Raises:
        TraceError: a file cannot be used, or traces cannot be combined.
    """
    trace = experiment.trace()
    if options.splice:
        trace = splice([trace, *_read(options.splice)], options.gap_s)
    if options.mix:
        trace = mix([trace, *_read(options.mix)])
    told = inspect(trace)
    if not options.fit:
        return Studied(trace=trace, told=told, fitted=None)
    try:
        return Studied(trace=trace, told=told, fitted=fit(trace))
    except TraceError as error:
        return Studied(trace=trace, told=told, fitted=None, unfitted=str(error))


def _read(paths: Sequence[str]) -> list[Trace]:
    return [read_trace(path) for path in paths]

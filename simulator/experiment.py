"""An experiment and its simulation: the Python door.

::

    from simulator import Experiment, simulate

    results = simulate(Experiment(deployment=deployment, workload=workload, seed=1))
    print(results.summary["goodput_rps"])
"""

import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from simulator.aggregates import Aggregates
from simulator.clients import Clients
from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.cluster.workers.prompts import blocks_of
from simulator.deployment import Deployment, Pool
from simulator.errors import ConfigError
from simulator.plugins import plug_ins, source_digest
from simulator.policies.classes import Classes, ServiceClass, classed
from simulator.results import SLO, Results
from workloads.errors import TraceError
from workloads.sessions import Turns, told
from workloads.trace import Trace, TraceMeta
from workloads.workload import Workload

OnProgress = Callable[[float, int, int], None]
"""Called now and then with simulated seconds, requests finished and requests in the trace."""

NO_CLASS = "other"
"""The class of requests that belong to none that is named."""

FILE_KEYS = ("path", "config_json", "calibration")
"""Settings, or their endings, that name an input: its content is part of a run's identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One simulation: ``workload`` on ``deployment``, judged by ``slo``.

    ``seed`` is the root of every random stream. Gauges are sampled every ``sample_interval_s``
    simulated seconds (``None``: by the arrivals' span and the requests). The clock stops at
    ``until_s`` simulated seconds, or with ``None`` when the last request is done. ``clients`` say
    how long those who sent the requests wait for them, ``classes`` what service tenants, by name,
    are due; ``measured`` are statistics of a run of such traffic to put results beside.

    Raises:
        ConfigError: a negative seed, an interval or stop that is not positive, or a class that is
            called as those of none are.
    """

    deployment: Deployment
    workload: Workload
    slo: SLO = field(default_factory=SLO)
    seed: int = 0
    sample_interval_s: float | None = None
    until_s: float | None = None
    clients: Clients = field(default_factory=Clients)
    classes: Mapping[str, ServiceClass] = field(default_factory=dict)
    measured: Aggregates = field(default_factory=Aggregates)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0 but got {self.seed!r}")
        interval = self.sample_interval_s
        if interval is not None and not 0 < interval < float("inf"):
            raise ConfigError(f"sample_interval_s must be above 0 s or null but got {interval!r}")
        if NO_CLASS in self.classes:
            raise ConfigError(
                f"classes.{NO_CLASS}: that is what requests of no class are called; choose another"
            )
        if self.until_s is not None and not self.until_s > 0:
            raise ConfigError(f"until_s must be above 0 s or null but got {self.until_s!r}")

    def trace(self) -> Trace:
        """Return the requests the workload draws from this experiment's seed, or its file holds.

        Arrivals and lengths have a stream each, so changing one does not shift the other.
        """
        arrivals, lengths = (
            np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream,)))
            for stream in range(2)
        )
        trace = self.workload.trace(arrivals, lengths)
        if not isinstance(trace, Trace):
            owner = type(self.workload).__name__
            raise TraceError(f"workload {owner}: trace must return a Trace but got {trace!r}")
        return trace


def simulate(
    experiment: Experiment,
    *,
    config: str | None = None,
    progress: OnProgress | None = None,
    trace: Trace | None = None,
) -> Results:
    """Run ``experiment`` to its end and return what happened.

    ``config`` is the text kept as the run's ``config.yaml`` and digested (:func:`config_text`);
    ``None`` describes the experiment itself. ``trace`` are requests to serve in place of those of
    :meth:`Experiment.trace`.

    Raises:
        TraceError: the workload's file or settings cannot be used.
        ConfigError: the deployment cannot run: a layout that does not divide, or does not fit.
    """
    started = time.perf_counter()
    text = config_text(_plain(experiment)) if config is None else config
    measured = experiment.measured.read()
    fed = feed(experiment, experiment.trace() if trace is None else trace)
    del trace  # of many requests its other columns take more memory than the run
    record = run(experiment.deployment, fed.traffic, options_of(experiment, fed, progress))
    context = {
        "config": text,
        "seed": experiment.seed,
        "title": title(experiment.deployment),
        "model": experiment.deployment.model.name,
        "workload": fed.meta.name,
        "accounting": dataclasses.asdict(fed.meta),
        "turns": fed.turns,
        "measured": measured,
        "classes": {
            name: {"ttft_s": kind.ttft_s, "tpot_s": kind.tpot_s}
            for name, kind in zip(_class_names(experiment), fed.traffic.classes.kinds, strict=False)
        },
        "max_context": experiment.deployment.model.max_context,
        "prices": prices_of(experiment.deployment),
        "wall_s": time.perf_counter() - started,
    }
    return Results.from_record(record, slo=experiment.slo, context=context, identity=fed.identity)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fed:
    """What a run is fed: the ``traffic``, and which request is which.

    ``meta`` is the account of the trace, ``turns`` what is told of its sessions.
    """

    traffic: Traffic
    identity: pl.DataFrame
    meta: TraceMeta
    turns: Mapping[str, Any]


def feed(experiment: Experiment, trace: Trace) -> Fed:
    """Return what ``trace`` is to the experiment; raise as :func:`simulate`."""
    classes = _classes(experiment, trace)
    traffic = replace(
        traffic_of(experiment.workload, trace), clients=experiment.clients, classes=classes
    )
    return Fed(
        traffic=traffic,
        identity=_with_classes(trace.identity(), experiment, classes),
        meta=trace.meta,
        turns=told(_turns(experiment.workload), trace, traffic.following),
    )


def options_of(experiment: Experiment, fed: Fed, progress: OnProgress | None) -> RunOptions:
    """Return how the experiment is run."""
    requests = len(fed.traffic.arrival_s)
    return RunOptions(
        seed=experiment.seed,
        sample_interval_s=experiment.sample_interval_s,
        until_s=experiment.until_s,
        progress=None if progress is None else lambda now, done: progress(now, done, requests),
    )


def _classes(experiment: Experiment, trace: Trace) -> Classes:
    """Return what service each request of the trace is due."""
    named, slo = experiment.classes, experiment.slo
    rest = ServiceClass(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s)
    column = trace.frame["tenant"]
    tenants = None
    if named and column.null_count() < len(trace):
        tenants = column.cast(pl.String).to_list()
    sequence = np.random.SeedSequence(experiment.seed, spawn_key=(6,))
    draws = np.random.default_rng(sequence).random(len(trace) if named else 0)
    return classed(named, tenants, draws, rest)


def _class_names(experiment: Experiment) -> tuple[str, ...]:
    """Return the names of a run's classes, first that of who belongs to none; none without any."""
    return (NO_CLASS, *experiment.classes) if experiment.classes else ()


def _with_classes(identity: pl.DataFrame, experiment: Experiment, classes: Classes) -> pl.DataFrame:
    """Return the requests with the name of each one's class, where there are some."""
    names = _class_names(experiment)
    if not names:
        return identity
    codes = pl.Series("class", np.frombuffer(classes.of, np.uint8))
    return identity.with_columns(
        codes.cast(pl.UInt32).replace_strict(dict(enumerate(names)), return_dtype=pl.Enum(names))
    )


def prices_of(deployment: Deployment) -> dict[str, float | None]:
    """Return what an hour of each of the deployment's GPUs costs in USD, by its name.

    ``None`` where there is no price, or more than one.
    """
    asked: dict[str, set[float | None]] = {}
    for pool in deployment.pools:
        gpu = pool.gpu or deployment.gpu
        asked.setdefault(gpu.name, set()).add(gpu.usd_per_hour)
    return {name: prices.pop() if len(prices) == 1 else None for name, prices in asked.items()}


def title(deployment: Deployment) -> str:
    """Return one line of words: the model, the GPU and the pools."""
    return f"{deployment.model.name} on {deployment.gpu.name}: {pools_text(deployment)}"


def pools_text(deployment: Deployment) -> str:
    """Return the pools in a few words: ``3 prefill × tp4 + 2 decode × tp4``."""
    return " + ".join(_pool_words(pool) for pool in deployment.pools)


def config_text(plain: Mapping[str, Any]) -> str:
    """Return the YAML of a run's settings, headed by what else decides its outcome.

    That is the version of this program, and the SHA-256 of every input file and of the source of
    every plug-in that the settings name: the same settings over changed ones are another run.
    """
    files = [f"# {key}: sha256 {digest}" for key, digest in _file_digests(plain, "")]
    files += [f"# {key}: {name} sha256 {source_digest(name)}" for key, name in plug_ins(plain)]
    head = "\n".join([f"# disaggsim {version('disaggsim')}", *files])
    return f"{head}\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)}"


def traffic_of(workload: Workload, trace: Trace) -> Traffic:
    """Return what the engine is fed: the trace's columns, who waits for whom, and the clients.

    Raises:
        ConfigError: a closed-loop trace that says nothing of when to send.
        TraceError: its turns cannot be sent as the workload says.
    """
    clients = workload.concurrency is not None
    following = _turns(workload).follow(trace, clients=clients)
    if trace.meta.loop == "closed" and following is None and not clients:
        raise ConfigError(
            f"trace {trace.meta.name!r} has no arrival times of its own: give workload.concurrency"
        )
    return Traffic(
        arrival_s=trace.column("arrival_s"),
        input_tokens=trace.column("input_tokens"),
        output_tokens=trace.column("output_tokens"),
        concurrency=workload.concurrency,
        following=following,
        blocks=blocks_of(trace),
        sessions=_sessions_of(trace),
    )


def _sessions_of(trace: Trace) -> NDArray[np.int32] | None:
    """Return the number of each request's session, -1 for none; ``None`` where there are none."""
    column = trace.frame["session_id"]
    if column.null_count() == len(trace):
        return None
    return column.cast(pl.Int32).fill_null(-1).to_numpy()


def _turns(workload: Workload) -> Turns:
    """Return when a workload's later turns are sent; one of anybody's need not say."""
    turns = getattr(workload, "turns", Turns())
    return turns if isinstance(turns, Turns) else Turns()


def _pool_words(pool: Pool) -> str:
    degrees = {name: getattr(pool.layout, name) for name in ("tp", "pp", "ep", "attention_dp")}
    words = " ".join(f"{name}{degree}" for name, degree in degrees.items() if degree > 1)
    return f"{pool.workers} {pool.role} × {words or 'tp1'}"


def _plain(value: object) -> Any:
    """Return ``value`` as YAML can hold it, objects with the ``_target_`` that builds them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = [each.name for each in dataclasses.fields(value) if each.init]
        named = {name: getattr(value, name) for name in given}
        return {"_target_": _dotted(type(value)), **_plain(named)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, pl.DataFrame):
        return {"rows": value.height, "sha256": _frame_digest(value)}
    return {"_target_": _dotted(type(value)), **_plain(getattr(value, "__dict__", {}))}


def _frame_digest(frame: pl.DataFrame) -> str:
    """Return the digest of a table's names, types and values."""
    head = repr(list(frame.schema.items())).encode()
    whole = io.BytesIO()
    frame.rechunk().write_ipc(whole)
    return hashlib.sha256(head + whole.getbuffer()).hexdigest()


def _dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _file_digests(plain: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and content digest of every input file that ``plain`` names, in order."""
    nested: Sequence[tuple[object, object]] = ()
    if isinstance(plain, Mapping):
        nested = list(plain.items())
    elif isinstance(plain, list):
        nested = list(enumerate(plain))
    for name, value in nested:
        inner = f"{key}.{name}" if key else str(name)
        if isinstance(value, str) and str(name).endswith(FILE_KEYS) and Path(value).exists():
            yield inner, _content_digest(Path(value))
        yield from _file_digests(value, inner)


def absolute_files(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that name the same input files from any folder they are used in."""
    return {name: _absolute(str(name), value) for name, value in plain.items()}


def _absolute(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return absolute_files(value)
    if isinstance(value, str) and name.endswith(FILE_KEYS) and Path(value).exists():
        return str(Path(value).absolute())
    return value


def _content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the YAML files of a folder with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [f"{each.name} {_content_digest(each)}\n" for each in sorted(path.glob("*.yaml"))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()

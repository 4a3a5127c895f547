"""The settings of a run, as ``config.yaml`` lists them, turned into an experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from hardware.gpu import GPU
from simulator.configuration import TARGET, build, check_keys
from simulator.deployment import ROLES, Deployment, Pool
from simulator.errors import ConfigError
from simulator.experiment import Experiment
from simulator.explore.advice import Limits
from simulator.explore.exploration import Exploration, Options
from simulator.explore.space import Lengths, Platform
from simulator.explore.start import Start, read_starts
from simulator.latency.roofline import Roofline
from simulator.model import Model
from simulator.results import SLO
from workloads.trace import Trace
from workloads.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What a run writes beside its data: ``html``, the report page."""

    html: bool = True


TASKS = ("simulate", "explore")
"""What the command line can do with the settings."""

_DEPLOYMENT = ("fabric", "latency", "router", "decode_router", "transfer", "first_token")
_RUN = ("seed", "sample_interval_s", "until_s")
_TASK = ("task", "explore")
KEYS = ("model", "hardware", "pools", "workload", "slo", "report", *_DEPLOYMENT, *_RUN, *_TASK)
"""Every top-level setting."""


def build_experiment(settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment that ``settings`` describe.

    Raises:
        ConfigError, SpecError, TraceError: a setting is unknown, missing, of another type or out
            of range; the text names it.
    """
    check_keys(settings, KEYS, ("model", "hardware", "pools", "workload", *_DEPLOYMENT[:2]), "")
    hints = get_type_hints(Experiment)
    return Experiment(
        deployment=_deployment(settings),
        workload=build(settings["workload"], Workload, "workload"),
        slo=build(settings.get("slo", {}), SLO, "slo"),
        **{name: build(settings[name], hints[name], name) for name in _RUN if name in settings},
    )


def build_task(settings: Mapping[str, Any]) -> str:
    """Return what to do, one of :data:`TASKS`; raise ``ConfigError`` for anything else."""
    task: str = build(settings.get("task", TASKS[0]), Literal[TASKS], "task")
    return task


def build_exploration(settings: Mapping[str, Any]) -> Exploration:
    """Return the exploration that ``settings`` describe.

    The pools' GPUs and precisions, the SLO's TTFT and TPOT, and, where ``explore`` has no lengths
    of its own, those of its starting points, or else a sample of the workload's.

    Raises:
        ConfigError, SpecError, TraceError: as :func:`build_experiment`.
    """
    experiment = build_experiment(settings)
    options: Options = build(settings.get("explore", {}), Options, "explore")
    deployment, slo = experiment.deployment, experiment.slo
    starts = [] if options.start is None else read_starts(Path(options.start), deployment.model)
    lengths, traffic = _lengths(experiment, options, starts)
    return Exploration(
        platforms=(_platform(deployment, "prefill"), _platform(deployment, "decode")),
        lengths=lengths,
        traffic=traffic,
        limits=Limits(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s),
        options=options,
        starts=tuple(starts),
    )


def build_report_options(settings: Mapping[str, Any]) -> ReportOptions:
    """Return what the settings ask to be written beside the data; raise ``ConfigError``."""
    options: ReportOptions = build(settings.get("report", {}), ReportOptions, "report")
    return options


def _platform(deployment: Deployment, role: str) -> Platform:
    """Return what the pool of ``role`` (or the mixed one in its place) runs on."""
    pools = {pool.role: pool for pool in deployment.pools}
    pool = pools.get(role) or pools["mixed"]
    if not isinstance(deployment.latency, Roofline):
        raise ConfigError(
            "task=explore needs latency=roofline, whose steps can be costed as arrays, but got "
            f"{type(deployment.latency).__name__}"
        )
    return Platform(
        model=deployment.model,
        gpu=pool.gpu or deployment.gpu,
        fabric=deployment.fabric,
        precision=pool.precision,
        latency=deployment.latency,
        memory_utilization=pool.batching.memory_utilization,
        block_size=pool.batching.block_size,
    )


def _lengths(
    experiment: Experiment, options: Options, starts: Sequence[Start]
) -> tuple[Lengths, str]:
    """Return the lengths to explore, and in words where they are from."""
    isl, osl = options.isl, options.osl
    if starts:
        isl, osl = isl or starts[0].isl, osl or starts[0].osl
    if isl is not None and osl is not None:
        return Lengths.constant(isl, osl), ""
    trace = experiment.trace()
    prompts, answers = (
        trace.column(name).astype(np.int64) if fixed is None else np.full(len(trace), fixed)
        for name, fixed in (("input_tokens", isl), ("output_tokens", osl))
    )
    model = experiment.deployment.model
    (short,) = np.nonzero(prompts + answers <= model.max_context)
    if not len(short):
        raise ConfigError(
            f"explore: every request of workload {trace.meta.name!r} has more tokens than the "
            f"max_context {model.max_context} of {model.name}"
        )
    drawn = _sample(short, options.sample, experiment.seed)
    lengths = Lengths(isl=tuple(prompts[drawn].tolist()), osl=tuple(answers[drawn].tolist()))
    return lengths, _traffic(trace, lengths, len(trace) - len(short))


def _sample(rows: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``size`` of the rows, drawn without replacement, in their order."""
    if len(rows) <= size:
        return rows
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    return np.sort(rng.choice(rows, size, replace=False))


def _traffic(trace: Trace, lengths: Lengths, beyond: int) -> str:
    """Return what was drawn from a workload, and what was not, in words."""
    left = f", without {beyond:,} that exceed the model's context" if beyond else ""
    return (
        f"Lengths of {len(lengths.isl):,} of the {len(trace):,} requests of {trace.meta.name}"
        f"{left}: {lengths.mean_isl:,.0f} prompt and {lengths.mean_osl:,.0f} output tokens on "
        "average."
    )


def _deployment(settings: Mapping[str, Any]) -> Deployment:
    hints = get_type_hints(Deployment)
    return Deployment(
        model=_model(settings["model"]),
        gpu=build(settings["hardware"], GPU, "hardware"),
        pools=_pools(settings["pools"]),
        **{
            name: build(settings[name], hints[name], name)
            for name in _DEPLOYMENT
            if name in settings
        },
    )


def _model(node: object) -> Model:
    """Return the shipped model, or the one ``config_json`` points to in its place."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"model must be a group of settings but got {node!r}")
    path = build(node.get("config_json"), str | None, "model.config_json")
    if path is not None:
        return Model.from_config_json(path)
    shape = {name: value for name, value in node.items() if name != "config_json"}
    model: Model = build(shape, Model, "model")
    return model


def _pools(node: object) -> tuple[Pool, ...]:
    """Return the pools in the order a request meets them; a pool set to null is left out."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"pools must be a group of settings but got {node!r}")
    check_keys(node, ROLES, (), "pools")
    return tuple(_pool(role, node[role]) for role in ROLES if node.get(role) is not None)


def _pool(role: str, node: object) -> Pool:
    key = f"pools.{role}"
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key} must be a group of settings but got {node!r}")
    own = [each.name for each in fields(Pool) if each.name != "role"]
    check_keys({name: None for name in node if name != TARGET}, own, (), key)
    pool: Pool = build({**node, "role": role}, Pool, key)
    return pool

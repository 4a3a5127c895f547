"""The settings of a run, as ``config.yaml`` lists them, turned into an experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np

from hardware.gpu import GPU
from simulator.configuration import TARGET, build, check_keys
from simulator.deployment import ROLES, Deployment, Pool
from simulator.errors import ConfigError
from simulator.experiment import Experiment
from simulator.explore.advice import Limits
from simulator.explore.exploration import Exploration, Options, power_of_two
from simulator.explore.space import Lengths, Platform
from simulator.explore.start import Start, read_starts
from simulator.latency.roofline import Roofline
from simulator.model import Model
from simulator.results import SLO
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
    of its own, those of its starting points, or else the workload's medians.

    Raises:
        ConfigError, SpecError, TraceError: as :func:`build_experiment`.
    """
    experiment = build_experiment(settings)
    options: Options = build(settings.get("explore", {}), Options, "explore")
    deployment, slo = experiment.deployment, experiment.slo
    starts = [] if options.start is None else read_starts(Path(options.start), deployment.model)
    return Exploration(
        platforms=(_platform(deployment, "prefill"), _platform(deployment, "decode")),
        lengths=_lengths(experiment, options, starts),
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


def _lengths(experiment: Experiment, options: Options, starts: Sequence[Start]) -> Lengths:
    """Return the constant lengths to explore."""
    isl, osl = options.isl, options.osl
    if starts:
        isl, osl = isl or starts[0].isl, osl or starts[0].osl
    if isl is None or osl is None:
        trace = experiment.trace()
        isl = isl or power_of_two(float(np.median(trace.column("input_tokens"))))
        osl = osl or max(2, power_of_two(float(np.median(trace.column("output_tokens")))))
    return Lengths.constant(isl, osl)


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

"""The settings of a run, as ``config.yaml`` lists them, turned into an experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from hardware.gpu import GPU
from simulator.configuration import TARGET, build, check_keys
from simulator.deployment import ROLES, Deployment, Pool
from simulator.errors import ConfigError
from simulator.experiment import Experiment
from simulator.model import Model
from simulator.results import SLO
from workloads.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What a run writes beside its data: ``html``, the report page."""

    html: bool = True


_DEPLOYMENT = ("fabric", "latency", "router", "decode_router", "transfer", "first_token")
_RUN = ("seed", "sample_interval_s", "until_s")
KEYS = ("model", "hardware", "pools", "workload", "slo", "report", *_DEPLOYMENT, *_RUN)
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


def build_report_options(settings: Mapping[str, Any]) -> ReportOptions:
    """Return what the settings ask to be written beside the data; raise ``ConfigError``."""
    options: ReportOptions = build(settings.get("report", {}), ReportOptions, "report")
    return options


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

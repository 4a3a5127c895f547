"""The settings of a run, as ``config.yaml`` lists them, turned into an experiment."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from hardware.gpu import GPU
from simulator.configuration import UnknownSettingError, build, check_keys, looking_up
from simulator.deployment import ROLES, Deployment, Pool
from simulator.dropped import Arrived, Refused, dropped, warning
from simulator.elastic import Elastic
from simulator.errors import USER_ERRORS, ConfigError
from simulator.experiment import Experiment
from simulator.explore.advice import Limits
from simulator.explore.bandwidth import Handover
from simulator.explore.exploration import Exploration, Options
from simulator.explore.space import Lengths, Platform
from simulator.explore.start import Start, read_starts
from simulator.exports import EXPORTS
from simulator.goodput.options import Options as Goodput
from simulator.huggingface import Checkpoint, read_checkpoint
from simulator.latency.roofline import Roofline
from simulator.layout import TENSOR_DTYPE, Precision
from simulator.model import Model
from simulator.plugins import TARGET
from simulator.policies.autoscaling import Control, Schedule, Static
from simulator.policies.matching import Matcher, RateMatched, Unmatched
from simulator.policies.quota import FirstCome
from simulator.policies.ticks import LEAST_INTERVAL_S
from simulator.results import SLO
from simulator.services import Services
from simulator.tracing.study import TraceOptions
from workloads.trace import Trace
from workloads.workload import Workload

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What a run writes beside its data.

    ``html`` is the report page, ``exports`` names forms that other tools read
    (:data:`simulator.exports.EXPORTS`).
    """

    html: bool = True
    exports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.exports:
            if name not in EXPORTS:
                raise ConfigError(
                    f"report: exports must be among {', '.join(EXPORTS)} but got {name!r}"
                )


TASKS = ("simulate", "explore", "goodput", "calibrate", "trace", "compare", "list")
"""What the command line can do with the settings."""

_DEPLOYMENT = (
    "fabric",
    "latency",
    "router",
    "decode_router",
    "local_prefill",
    "admission",
    "flow_control",
    "queue",
    "flipping",
    "rebalancing",
    "transfer",
    "cache_tiers",
    "first_token",
    "gateway_s",
    "router_queue_threshold",
    "router_refresh_s",
)
_ELASTIC = ("elastic", "startup", "drain", "changes", "control", "autoscaler", "rate_matcher")
_RUN = ("seed", "sample_interval_s", "until_s", "clients", "classes", "measured")
_TASK = ("task", "explore", "counterpart", "regret", "goodput", "trace")
_SHARED = ("services", "quota")
LOOKING = ("runs", "compare", "seeds", "band", "name", "tags", "objective")
"""Settings of how often to run, how to look at runs and to find them: no part of any run's own."""
KEYS = (
    "model",
    "hardware",
    "pools",
    "workload",
    "slo",
    "report",
    *_DEPLOYMENT,
    *_ELASTIC,
    *_RUN,
    *_SHARED,
    *_TASK,
    *LOOKING,
)
"""Every top-level setting."""
SERVICE_KEYS = (
    *("model", "hardware", "pools", "workload", "slo", "clients", "classes"),
    *(name for name in _DEPLOYMENT if name not in ("fabric", "first_token")),
    *_ELASTIC,
)
"""Settings that a service may have of its own."""


def build_experiment(settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment that ``settings`` describe.

    Raises:
        ConfigError, SpecError, TraceError: a setting is unknown, missing, of another type or out
            of range; the text names it.
    """
    check_keys(settings, KEYS, ("model", "hardware", "pools", "workload", *_DEPLOYMENT[:2]), "")
    if settings.get("services"):
        raise ConfigError("services: several are simulated together, and nothing else; leave one")
    _check_quota(settings.get("quota"))
    settings = resolve(settings)
    hints = get_type_hints(Experiment)
    with looking_up(KEYS, ""):
        return Experiment(
            deployment=_deployment(settings),
            workload=build(settings["workload"], Workload, "workload"),
            slo=build(settings.get("slo", {}), SLO, "slo"),
            **{name: build(settings[name], hints[name], name) for name in _RUN if name in settings},
        )


def build_any(settings: Mapping[str, Any]) -> Experiment | Services:
    """Return the services that ``settings`` describe, or the one experiment.

    Raises:
        ConfigError, SpecError, TraceError: as :func:`build_experiment`.
    """
    return build_services(settings) if settings.get("services") else build_experiment(settings)


def _check_quota(node: object) -> None:
    """Refuse a rule for services where there are none; the default one changes nothing."""
    rule = build(node, get_type_hints(Services)["quota"], "quota") if node else FirstCome()
    if type(rule) is not FirstCome:
        raise ConfigError(
            f"quota {type(rule).__name__}: it is for services that share GPUs, but there are none"
        )


def build_services(settings: Mapping[str, Any]) -> Services:
    """Return the services that ``settings`` describe: each its own settings, laid over the run's.

    A group that is chosen (it has a ``_target_``) takes the place of the run's, of all else what is
    given. The first one's seed is the run's, others' are drawn from it.

    Raises:
        ConfigError, SpecError, TraceError: as :func:`build_experiment`, naming the service.
    """
    check_keys(settings, KEYS, (), "")
    for name in ("counterpart", "regret"):
        if build(settings.get(name), bool | None, name):
            raise ConfigError(f"{name}: it is of one service; leave it out beside services")
    given = settings["services"]
    if not isinstance(given, Mapping):
        raise ConfigError(f"services must be a group of settings but got {given!r}")
    rest = {name: value for name, value in settings.items() if name not in _SHARED}
    hints = get_type_hints(Services)
    shared = {**spelled_out(settings), "quota": settings.get("quota", {})}
    return Services(
        services={
            str(name): _service(str(name), own, rest, at)
            for at, (name, own) in enumerate(given.items())
        },
        **{
            name: build(shared[name], hints[name], name)
            for name in ("quota", "measured")
            if shared.get(name)
        },
    )


def _service(name: str, own: object, rest: Mapping[str, Any], at: int) -> Experiment:
    key = f"services.{name}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"{key}: a service's name is of letters, digits, - _ and . alone")
    if not isinstance(own, Mapping):
        raise ConfigError(f"{key} must be a group of settings but got {own!r}")
    check_keys(own, SERVICE_KEYS, (), key)
    if "quota_gpus" in (own.get("elastic") or {}):
        raise ConfigError(f"{key}.elastic.quota_gpus: services share one, elastic.quota_gpus")
    seed = build(rest.get("seed", 0), int, "seed")
    if at:
        seed = int(np.random.SeedSequence(seed, spawn_key=(7, at)).generate_state(1)[0])
    laid = {**laid_over(rest, own), "seed": seed, "measured": {}}
    try:
        return build_experiment(laid)
    except UnknownSettingError as error:
        raise ConfigError(f"{key}: {error}") from error
    except USER_ERRORS as error:
        raise type(error)(f"{key}: {error}") from error


def laid_over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with what ``own`` has in its place; groups without a target key by key."""
    whole = dict(base)
    for name, value in own.items():
        before = base.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and TARGET not in value:
            value = laid_over(before, value)
        whole[name] = value
    return whole


def resolve(settings: Mapping[str, Any], *, tell: bool = False) -> dict[str, Any]:
    """Return ``settings`` with the precision of every pool said, and spelled out.

    What a pool leaves open (``null``) is what ``model.config_json`` says its checkpoint is stored
    in, or bf16. A pool that sets ``weights`` sets aside the file's activations and groups with
    its weights. Where a GPU cannot compute what a file multiplies with, engines unpack the
    weights and multiply in 16 bits, and so does the pool. ``tell`` logs what reading the file
    assumed or left aside.

    Raises:
        ConfigError: the file cannot be used, or a precision's setting is unknown.
    """
    settings = spelled_out(settings)
    model, pools = settings.get("model"), settings.get("pools")
    if not isinstance(pools, Mapping):
        return settings
    path = model.get("config_json") if isinstance(model, Mapping) else None
    checkpoint = None
    if path is not None:
        checkpoint = read_checkpoint(build(path, str, "model.config_json"))
    for note in checkpoint.notes if checkpoint and tell else ():
        log.warning("%s: %s", path, note)
    if checkpoint and tell:
        _tell_unpacked(settings, checkpoint.precision)
    own = {
        role: _precise(role, pool, settings, checkpoint) if isinstance(pool, Mapping) else pool
        for role, pool in pools.items()
    }
    return {**settings, "pools": own}


def spelled_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with ``measured=FILE`` as what it is short for, ``measured.path``."""
    given = settings.get("measured")
    return {**settings, "measured": {"path": given}} if isinstance(given, str) else dict(settings)


def _precise(
    role: str, pool: Mapping[str, Any], settings: Mapping[str, Any], checkpoint: Checkpoint | None
) -> dict[str, Any]:
    key, names = f"pools.{role}.precision", [each.name for each in fields(Precision)]
    node = pool.get("precision") or {}
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key} must be a group of settings but got {node!r}")
    check_keys({name: None for name in node if name != TARGET}, names, (), key)
    given = {name: value for name, value in node.items() if value is not None}
    stored = Precision() if checkpoint is None else checkpoint.precision
    if checkpoint is not None:
        gpu: GPU = build(pool.get("gpu") or settings["hardware"], GPU, "hardware")
        stored = _computable(stored, gpu)
    published = {name: getattr(stored, name) for name in names}
    if "weights" in given:
        published |= {"activations": "bf16", "attention_activations": None, "group_size": None}
    return {**pool, "precision": published | given}


def _tell_unpacked(settings: Mapping[str, Any], stored: Precision) -> None:
    """Log which of the deployment's GPUs lack what a file's products are computed in."""
    nodes = [settings["hardware"], *(p.get("gpu") for p in settings["pools"].values() if p)]
    gpus = [build(node, GPU, "hardware") for node in nodes if node is not None]
    for gpu in {each.name: each for each in gpus}.values():
        if _computable(stored, gpu) != stored:
            log.warning(
                "%s has no tensor cores for %s: weights are unpacked and multiplied in 16 bits",
                gpu.name,
                stored.activations,
            )


def _computable(stored: Precision, gpu: GPU) -> Precision:
    """Return a file's precision with the activations that ``gpu`` has tensor cores for."""
    wide: dict[str, Any] = {
        name: "bf16"
        for name in ("activations", "attention_activations")
        if (dtype := getattr(stored, name)) and TENSOR_DTYPE[dtype] not in gpu.peak_flops
    }
    return replace(stored, **wide)


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
    lengths, traffic, replays = _lengths(experiment, options, starts)
    return Exploration(
        platforms=(_platform(deployment, "prefill"), _platform(deployment, "decode")),
        lengths=lengths,
        traffic=traffic,
        replays=replays,
        handover=Handover(
            mode=deployment.transfer.mode,
            setup_s=deployment.transfer.setup_s,
            first_token=deployment.first_token,
            gateway_s=deployment.entry_s,
            handover_s=deployment.handover_s,
            recomputes=deployment.recomputes,
        ),
        limits=Limits(ttft_s=slo.ttft_s, tpot_s=slo.tpot_s),
        options=options,
        starts=tuple(starts),
    )


def build_goodput(settings: Mapping[str, Any]) -> Goodput:
    """Return what to look for as the goodput; raise ``ConfigError``."""
    options: Goodput = build(settings.get("goodput", {}), Goodput, "goodput")
    return options


def build_trace_options(settings: Mapping[str, Any]) -> TraceOptions:
    """Return what to do with a trace; raise ``ConfigError``."""
    options: TraceOptions = build(settings.get("trace", {}), TraceOptions, "trace")
    return options


def build_counterpart(settings: Mapping[str, Any]) -> bool | None:
    """Return whether to simulate the counterpart too (``None``: where that is quick)."""
    asked: bool | None = build(settings.get("counterpart"), bool | None, "counterpart")
    return asked


def build_regret(settings: Mapping[str, Any]) -> bool:
    """Return whether to tell what a clairvoyant would have needed; raise ``ConfigError``."""
    asked: bool = build(settings.get("regret", False), bool, "regret")
    return asked


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
        transfer=deployment.transfer,
    )


def _lengths(
    experiment: Experiment, options: Options, starts: Sequence[Start]
) -> tuple[Lengths, str, bool]:
    """Return the lengths to explore, in words where they are from, and whether they are replayed.

    They are where both are the workload's own and it says when requests arrive.
    """
    isl, osl = options.isl, options.osl
    if starts:
        isl, osl = isl or starts[0].isl, osl or starts[0].osl
    if isl is not None and osl is not None:
        return Lengths.constant(isl, osl), "", False
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
    open_loop = trace.meta.loop == "open" and experiment.workload.concurrency is None
    replays = isl is None and osl is None and open_loop and trace.duration_s > 0
    told = _traffic(trace, lengths, len(trace) - len(short))
    return lengths, told + _not_explored(trace, prompts + answers, model), replays


def _not_explored(trace: Trace, tokens: NDArray[np.int64], model: Model) -> str:
    """Return a warning where much of the trace was dropped or exceeds the context, else nothing."""
    over = tokens[tokens > model.max_context]
    refused: dict[str, Refused] = {}
    if len(over):
        longest, total = int(over.max()), int(over.sum())
        refused["exceeds_context"] = Refused(requests=len(over), tokens=total, longest=longest)
    arrived = Arrived(requests=len(trace), tokens=int(tokens.sum()), refused=refused)
    text = warning(dropped(asdict(trace.meta), arrived), refused, model.max_context)
    return f"\nWarning: {text}." if text else ""


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
        elastic=_elastic(settings),
        control=_control(settings),
        **{
            name: build(settings[name], hints[name], name)
            for name in _DEPLOYMENT
            if name in settings
        },
    )


def _elastic(settings: Mapping[str, Any]) -> Elastic:
    """Return what a change of the pools takes, from the groups that say it."""
    own = _fields(settings, "elastic", ("quota_gpus", "flip_s", "max_retries"), Elastic)
    hints = get_type_hints(Elastic)
    groups = [name for name in ("startup", "drain", "changes") if name in settings]
    return Elastic(**own, **{name: build(settings[name], hints[name], name) for name in groups})


def _control(settings: Mapping[str, Any]) -> Control:
    """Return the controller, its policy from a group of its own."""
    policy: object = None
    if "autoscaler" in settings:
        hint = get_type_hints(Control)["policy"]
        policy = build(settings["autoscaler"], hint, "autoscaler")
        _check_schedule(policy)
    policy = _matched(settings, policy)
    own = _fields(_seeing(settings, policy), "control", _CONTROL, Control)
    if policy is not None:
        own["policy"] = policy
    if isinstance(policy, RateMatched):
        own["interval_s"] = None  # each has its own, that of the autoscaler being this one
    try:
        return Control(**own)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_schedule(policy: object) -> None:
    if isinstance(policy, Schedule) and not policy.steps:
        raise ConfigError(
            "autoscaler.steps: a schedule without steps changes nothing; give some, as "
            "autoscaler.steps=[[60,decode,3]], or autoscaler=static"
        )


def _matched(settings: Mapping[str, Any], autoscaler: Any) -> Any:
    """Return the autoscaler, together with a rate matcher where there is one."""
    matcher = build(settings.get("rate_matcher"), Matcher | Unmatched | None, "rate_matcher")
    if matcher is None or isinstance(matcher, Unmatched):
        return autoscaler
    control = settings.get("control", {})
    every = control.get("interval_s") if isinstance(control, Mapping) else None
    every = build(every, float | None, "control.interval_s")
    if every is not None and not every >= LEAST_INTERVAL_S:
        raise ConfigError(
            f"control: interval_s must be at least {LEAST_INTERVAL_S:g} s but got {every!r}"
        )
    return RateMatched(matcher=matcher, autoscaler=autoscaler or Static(), scaler_s=every)


_CONTROL = ("interval_s", "observing", "bounds")


def _seeing(settings: Mapping[str, Any], policy: object) -> Mapping[str, Any]:
    """Return the settings with what ``control.observing`` leaves open as the policy would have it.

    A policy says so by ``sees``, a mapping of these settings; else their defaults hold.
    """
    control = settings.get("control", {})
    observing = control.get("observing") if isinstance(control, Mapping) else None
    if not isinstance(observing, Mapping):
        return settings
    given = {name: value for name, value in observing.items() if value is not None}
    sees = getattr(policy, "sees", {})
    return {**settings, "control": {**control, "observing": {**sees, **given}}}


def _fields(
    settings: Mapping[str, Any], key: str, known: Sequence[str], kind: type
) -> dict[str, Any]:
    """Return the ``known`` fields of ``kind`` that the settings at ``key`` give, built."""
    node = settings.get(key, {})
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key} must be a group of settings but got {node!r}")
    check_keys(node, known, (), key)
    hints = get_type_hints(kind)
    return {name: build(value, hints[name], f"{key}.{name}") for name, value in node.items()}


def _model(node: object) -> Model:
    """Return the shipped model, or the one ``config_json`` points to in its place."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"model must be a group of settings but got {node!r}")
    path = build(node.get("config_json"), str | None, "model.config_json")
    if path is not None:
        return read_checkpoint(path).model
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
    check_keys({name: each for name, each in node.items() if name != TARGET}, own, (), key)
    pool: Pool = build({**node, "role": role}, Pool, key)
    return pool

"""What is simulated: pools of workers on a fabric, and how they batch, route and hand KV over."""

from dataclasses import dataclass, field

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.cache_tiers import CacheTiers
from simulator.elastic import MAX_WORKERS, Elastic
from simulator.errors import ConfigError
from simulator.latency.base import LatencyModel
from simulator.latency.engine import serving_of
from simulator.layout import Layout, Precision
from simulator.model import Model
from simulator.policies.admission import Admission, AdmitAll
from simulator.policies.autoscaling import Control
from simulator.policies.flipping import Flipping, NeverFlip
from simulator.policies.flow_control import FlowControl, NeverHolds
from simulator.policies.local_prefill import LocalPlacing, LocalPrefill, NeverLocal
from simulator.policies.queueing import Fcfs, QueueOrder
from simulator.policies.rebalancing import NeverRebalance, Rebalancing
from simulator.policies.routing import LeastKV, LeastTokens, RoutingPolicy

ROLES = ("prefill", "decode", "mixed")


def _at_least(owner: str, name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigError(f"{owner}: {name} must be at least {least:g} but got {value!r}")


def _one_of(owner: str, name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{owner}: {name} must be one of {', '.join(known)} but got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How one worker forms its steps.

    ``max_num_batched_tokens`` is the token budget of a step (decodes first, then prompt chunks),
    ``max_num_seqs`` bounds the sequences in it, ``block_size`` is tokens per KV block. Limits and
    ``kv_blocks`` are the worker's, over all its attention-DP ranks: each rank has an even share of
    the tokens, rounded up, to fill with prompts of its own. (vLLM and TensorRT-LLM are told one
    rank's: multiply by the ranks. SGLang is told the worker's.)
    ``piggyback`` lets prompts ride on decode steps (vLLM V1, TensorRT-LLM); without it a step
    computes prompts alone as long as any can be admitted, and the decodes wait (vLLM V0, SGLang).
    ``reserve`` says what admission sets aside: ``prompt`` (the prompt's blocks; growth may preempt
    the youngest sequence, which is recomputed: vLLM) or ``full`` (the whole sequence up to its
    last token, so nothing is ever preempted: TensorRT-LLM's GUARANTEED_NO_EVICT).
    ``kv_blocks`` overrides the number of blocks the memory model would give, per worker.
    ``prefix_cache`` keeps the KV of prompts whose blocks have ids in the blocks that no request
    needs, until one does (vLLM, SGLang and TensorRT-LLM: on).
    ``scheduler_recv_interval``: a worker that decodes looks for new prompts only before every so
    many-th step (SGLang's, whose public recipes set 10 or 30); after a step with prompts, and idle,
    it looks at once. ``schedules_ahead``: a step is formed when the one before begins (overlap
    scheduling), so that prompts that come meanwhile take part in the step after it at the
    earliest. ``batch_wait_timeout_iters`` and ``batch_wait_max_tokens_ratio``: beside
    decodes, prompts wait until a step would have that share of ``max_num_batched_tokens``, or for
    so many steps (TensorRT-LLM's, without attention-DP). ``attention_dp_timeout_iters``: they wait
    until there is one for every rank, or for every so many-th step (its ``attention_dp_config``
    with ``enable_balance``; 0: they do not). A step here is a token of each sequence:
    with speculative decoding an engine's holds several.
    """

    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    block_size: int = 16
    chunked_prefill: bool = True
    piggyback: bool = True
    reserve: str = "prompt"
    memory_utilization: float = 0.9
    kv_blocks: int | None = None
    prefix_cache: bool = True
    scheduler_recv_interval: int = 1
    schedules_ahead: bool = False
    batch_wait_timeout_iters: int = 0
    batch_wait_max_tokens_ratio: float = 0.0
    attention_dp_timeout_iters: int = 0

    def __post_init__(self) -> None:
        _at_least("batching", "max_num_batched_tokens", self.max_num_batched_tokens, 1)
        _at_least("batching", "max_num_seqs", self.max_num_seqs, 1)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"batching: max_num_batched_tokens {self.max_num_batched_tokens} must be at least "
                f"max_num_seqs {self.max_num_seqs}, as each sequence computes a token per step"
            )
        _at_least("batching", "block_size", self.block_size, 1)
        _one_of("batching", "reserve", self.reserve, ("prompt", "full"))
        if not 0 < self.memory_utilization <= 1:
            raise ConfigError(
                "batching: memory_utilization must lie in (0, 1] but got "
                f"{self.memory_utilization!r}"
            )
        if self.kv_blocks is not None:
            _at_least("batching", "kv_blocks", self.kv_blocks, 1)
        _at_least("batching", "scheduler_recv_interval", self.scheduler_recv_interval, 1)
        _at_least("batching", "attention_dp_timeout_iters", self.attention_dp_timeout_iters, 0)
        self._check_batch_wait()

    def _check_batch_wait(self) -> None:
        """Refuse what would never let a prompt wait, or ask for more than a step holds."""
        iters, ratio = self.batch_wait_timeout_iters, self.batch_wait_max_tokens_ratio
        _at_least("batching", "batch_wait_timeout_iters", iters, 0)
        if not 0 <= ratio <= 1:
            raise ConfigError(
                f"batching: batch_wait_max_tokens_ratio must lie in [0, 1] but got {ratio!r}"
            )
        if bool(iters) != bool(ratio):
            raise ConfigError(
                "batching: batch_wait_timeout_iters and batch_wait_max_tokens_ratio go together, "
                f"both 0 or neither, but got {iters!r} and {ratio!r}"
            )

    def rank_tokens(self, ranks: int) -> int:
        """Return the token budget of each of ``ranks`` attention-DP ranks."""
        return -(-self.max_num_batched_tokens // ranks)

    def rank_seqs(self, ranks: int) -> int:
        """Return the sequences each of ``ranks`` attention-DP ranks makes room for."""
        return -(-self.max_num_seqs // ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``workers`` identical workers of one ``role``; ``gpu`` ``None`` takes the deployment's."""

    role: str
    workers: int
    layout: Layout = field(default_factory=Layout)
    precision: Precision = field(default_factory=Precision)
    batching: Batching = field(default_factory=Batching)
    gpu: GPU | None = None

    def __post_init__(self) -> None:
        _one_of("pool", "role", self.role, ROLES)
        _at_least(f"{self.role} pool", "workers", self.workers, 1)
        if self.workers > MAX_WORKERS:
            raise ConfigError(
                f"{self.role} pool: workers must be at most {MAX_WORKERS} but got {self.workers!r}"
            )
        if self.batching.batch_wait_timeout_iters and self.layout.attention_dp > 1:
            raise ConfigError(
                f"{self.role} pool: batch_wait_timeout_iters needs attention_dp=1, as engines only "
                f"wait without attention-DP, but got {self.layout.attention_dp!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How a prompt's KV goes from prefill to decode worker.

    ``mode``: ``pull`` (the decode worker reads after prefill, when it has reserved the blocks; one
    control round trip is paid before the first byte), ``push`` (the prefill worker writes after
    prefill) or ``push_layerwise`` (each layer leaves as soon as it is computed).
    ``sharing`` of a port among simultaneous transfers: ``max_min`` (exact max-min fairness over
    both ends, as queue pairs share a NIC), ``processor_sharing`` (each port splits evenly, and what
    a transfer cannot use is lost) or ``fifo`` (one after the other: convoys form).
    ``messages``: a transfer is posted as one message per ``block_layer`` (each KV block of each
    layer, as caches with a tensor per layer need), per ``block`` (all its layers in one piece) or
    per ``request`` (gathered into one buffer before). ``replicas``: where several GPUs of the
    decode worker hold the same KV heads or latents, ``each`` reads its own copy, or one does and
    hands it on inside, ``once`` over the wire. ``nics``: a worker uses its GPUs' ``own``, or all
    of its ``box`` together with the other workers there.
    ``setup_s`` is the fixed time of a transfer beside the path's latency and set-up.
    ``handover_s`` passes from the end of a prompt until the decode side acts on it (``None``: the
    engine's): it is asked for blocks then, or, where layers are pushed meanwhile, may begin then.
    ``recomputes``: the decode worker computes the first token itself (``None``: as the engine).
    ``release`` says when a prefill worker lets a computed prompt go: with the step that ends it
    (``prompt``, as engines do), or ``idle``, when it has no other prompt left to compute. Until
    then each step gives the prompt one more token, for which it keeps a seat and a token of the
    budget, and it leaves when its answer is whole, however busy the worker; steps without prompts
    take no time. So do the prefill workers of Dynamo's mocker in an offline replay (1.4.2).
    """

    mode: str = "pull"
    sharing: str = "max_min"
    messages: str = "block_layer"
    replicas: str = "each"
    nics: str = "own"
    setup_s: float = 0.0
    handover_s: float | None = None
    recomputes: bool | None = None
    release: str = "prompt"

    def __post_init__(self) -> None:
        _one_of("transfer", "mode", self.mode, ("pull", "push", "push_layerwise"))
        _one_of("transfer", "sharing", self.sharing, ("max_min", "processor_sharing", "fifo"))
        _one_of("transfer", "messages", self.messages, ("block_layer", "block", "request"))
        _one_of("transfer", "replicas", self.replicas, ("each", "once"))
        _one_of("transfer", "nics", self.nics, ("own", "box"))
        _one_of("transfer", "release", self.release, ("prompt", "idle"))
        if self.release == "idle" and self.mode == "push_layerwise":
            raise ConfigError(
                "transfer: release must be prompt where mode is push_layerwise, which hands a "
                f"prompt over while it is computed, but got {self.release!r}"
            )
        _at_least("transfer", "setup_s", self.setup_s, 0)
        if self.handover_s is not None:
            _at_least("transfer", "handover_s", self.handover_s, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model served by pools on one kind of GPU and fabric.

    Either prefill and decode pools (both), or mixed ones, or all three: then arrivals are routed
    over prefill and mixed workers alike. ``router`` places arrivals, ``decode_router`` places
    prefilled requests, ``local_prefill`` may have decode workers compute prompts themselves,
    ``admission`` may turn an arrival away, ``queue`` orders the prompts that wait at a worker,
    ``flipping`` may let workers change their roles, and ``rebalancing`` sequences move between
    decode workers. ``cache_tiers`` are memories beneath the workers' prefix caches.
    ``first_token`` says where a client sees it: when the ``decode`` worker has
    taken the request over, through which every answer then goes, even one of a single token; or
    at the end of ``prefill``, where such an answer ends. ``gateway_s`` passes from a request's
    arrival until it stands in a worker's queue (``None``: the engine's). ``elastic`` says how the
    pools change, by plan or as ``control`` decides. With a ``router_queue_threshold`` prompts wait
    at the router while more prompt tokens wait at every worker than so many of its steps hold, with
    ``flow_control`` while workers' metrics say that they are full.
    Routers read loads every ``router_refresh_s``, as they ask; at 0 they keep count as they go.
    """

    model: Model
    gpu: GPU
    fabric: Fabric
    latency: LatencyModel
    pools: tuple[Pool, ...]
    router: RoutingPolicy = field(default_factory=LeastTokens)
    decode_router: RoutingPolicy = field(default_factory=LeastKV)
    local_prefill: LocalPrefill | LocalPlacing = field(default_factory=NeverLocal)
    admission: Admission = field(default_factory=AdmitAll)
    flow_control: FlowControl | NeverHolds = field(default_factory=NeverHolds)
    queue: QueueOrder = field(default_factory=Fcfs)
    flipping: Flipping = field(default_factory=NeverFlip)
    rebalancing: Rebalancing = field(default_factory=NeverRebalance)
    transfer: Transfer = field(default_factory=Transfer)
    cache_tiers: CacheTiers = field(default_factory=CacheTiers)
    first_token: str = "decode"  # noqa: S105 - a place, not a secret
    gateway_s: float | None = None
    router_queue_threshold: float | None = None
    router_refresh_s: float = 0.0
    elastic: Elastic = field(default_factory=Elastic)
    control: Control = field(default_factory=Control)

    def __post_init__(self) -> None:
        _one_of("deployment", "first_token", self.first_token, ("prefill", "decode"))
        if self.gateway_s is not None:
            _at_least("deployment", "gateway_s", self.gateway_s, 0)
        _at_least("deployment", "router_refresh_s", self.router_refresh_s, 0)
        if self.router_refresh_s and self.router_queue_threshold is not None:
            raise ConfigError(
                "deployment: router_queue_threshold needs a router that keeps count of loads, "
                f"router_refresh_s=0, but got {self.router_refresh_s!r}"
            )
        self._check_router_queue()
        roles = [pool.role for pool in self.pools]
        for role in ROLES:
            if roles.count(role) > 1:
                raise ConfigError(
                    f"deployment: at most one {role} pool, but got {roles.count(role)}"
                )
        if ("prefill" in roles) != ("decode" in roles):
            raise ConfigError(
                "deployment: a prefill pool needs a decode pool and the other way round, but got "
                f"only {', '.join(roles)}"
            )
        if not roles:
            raise ConfigError(
                "deployment: no workers; give prefill and decode pools or a mixed one"
            )
        gpus = {pool.role: pool.layout.gpus for pool in self.pools}
        refused = self.control.refused(gpus, self.elastic.quota_gpus)
        if refused:
            raise ConfigError(refused)

    def _check_router_queue(self) -> None:
        """Refuse what does not go with a queue at the router."""
        threshold, control = self.router_queue_threshold, type(self.flow_control).__name__
        if threshold is not None:
            _at_least("deployment", "router_queue_threshold", threshold, 0)
        if self.computes_locally and (threshold is not None or self.controls_flow):
            name = "flow_control" if self.controls_flow else "router_queue_threshold"
            raise ConfigError(
                f"deployment: {name} needs local_prefill=none, as decode workers take no prompts "
                f"from the router's queue, but got {control if self.controls_flow else threshold}"
            )
        if threshold is not None and self.controls_flow:
            raise ConfigError(
                "deployment: router_queue_threshold needs flow_control=none, as there is one queue "
                f"at the router, but got {threshold!r} and {control}"
            )

    @property
    def controls_flow(self) -> bool:
        """Whether prompts may have to wait at the router for what workers' metrics say."""
        return not isinstance(self.flow_control, NeverHolds)

    @property
    def moves_sequences(self) -> bool:
        """Whether sequences may move between decode workers."""
        return self.elastic.drain.mode == "migrate" or self.rebalancing.interval_s is not None

    @property
    def computes_locally(self) -> bool:
        """Whether decode workers may compute prompts."""
        return not isinstance(self.local_prefill, NeverLocal)

    @property
    def entry_s(self) -> float:
        """Seconds from a request's arrival until it stands in a worker's queue."""
        engine = serving_of(self.latency)
        return engine.gateway_s if self.gateway_s is None else self.gateway_s

    @property
    def handover_s(self) -> float:
        """Seconds from the end of a prompt until the decode side acts on it."""
        told = self.transfer.handover_s
        return serving_of(self.latency).handover_s if told is None else told

    @property
    def recomputes(self) -> bool:
        """Whether decode workers compute the first token themselves: not where it was shown."""
        told = self.transfer.recomputes
        told = serving_of(self.latency).recomputes if told is None else told
        return told and self.first_token == "decode"  # noqa: S105 - a place, not a secret

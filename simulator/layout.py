"""How one worker spreads a model over its GPUs, and what memory that leaves for KV."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from types import MappingProxyType

from hardware.gpu import GPU
from simulator.errors import CapacityError, ConfigError, LayoutError
from simulator.memory import MemoryRule
from simulator.model import Model

MAX_DEGREE = 4096
"""A wider layout is taken for a mistake: every rank of a worker has ports and a budget."""

DTYPE_BYTES: Mapping[str, float] = MappingProxyType(
    {
        "fp32": 4.0,
        "bf16": 2.0,
        "fp16": 2.0,
        "fp8": 1.0,
        "int8": 1.0,
        "fp8_block": 1.0 + 4 / 128**2,  # an fp32 scale per 128 × 128 block (DeepSeek-V3)
        "mxfp8": 1.0 + 1 / 32,  # an 8-bit shared exponent per 32 elements (OCP MX)
        "nvfp4": 0.5 + 1 / 16,  # an fp8 scale per 16 elements
        "mxfp4": 0.5 + 1 / 32,  # an 8-bit shared exponent per 32 elements (OCP MX)
        "int4": 0.5 + 2 / 128,  # an fp16 scale per group of 128 (AWQ, GPTQ)
    }
)
"""Bytes of one stored element, its share of scales included."""

GROUPED_BITS: Mapping[str, int] = MappingProxyType({"int4": 4, "int8": 8})
"""Integer dtypes whose weights may share one fp16 scale per group of ``Precision.group_size``."""

SCALE_BLOCK: Mapping[str, int] = MappingProxyType(
    {"fp8_block": 128, "mxfp8": 32, "nvfp4": 16, "mxfp4": 32, "int4": 128}
)
"""Elements in a row that share a scale, where they are fewer than a whole row."""

TENSOR_DTYPE: Mapping[str, str] = MappingProxyType(
    {
        "bf16": "bf16",
        "fp16": "bf16",
        "fp8": "fp8",
        "fp8_block": "fp8",
        "mxfp8": "fp8",
        "int8": "int8",
        "nvfp4": "fp4",
        "mxfp4": "fp4",
    }
)
"""The peak of :meth:`hardware.gpu.GPU.peak` that activations of a dtype compute at."""

KV_DTYPES = ("bf16", "fp16", "fp8", "int8", "nvfp4")

PARTS = (
    *("attention", "attention_out", "linear_attention"),
    *("dense_ffn", "shared_experts", "lm_head"),
)
"""Parts of a model that may be stored in another dtype than its ``weights``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The dtypes a worker computes and stores in, by the names of :data:`DTYPE_BYTES`.

    ``weights`` are those of the routed experts, or of the FFNs of a dense model: the largest part.
    What a quantised checkpoint keeps in another dtype has its own: ``attention`` (the projections
    of softmax attention and its indexer; ``None`` = ``weights``), ``attention_out`` (its output
    projection) and ``linear_attention`` (``None`` = ``attention``), ``dense_ffn`` and
    ``shared_experts`` of a mixture of experts (``None`` = ``weights``) and ``lm_head`` (``None`` =
    16 bits). Embedding and routers stay in 16 bits.
    ``activations`` are what enters a matrix product, of attention ``attention_activations``
    (``None`` = ``activations``). ``group_size`` integer weights share a scale (``None``: 128 of
    ``int4``, a whole channel of ``int8``).

    Raises:
        ConfigError: a dtype is unknown or cannot be used in its place.

    """

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"
    attention: str | None = None
    attention_out: str | None = None
    linear_attention: str | None = None
    dense_ffn: str | None = None
    shared_experts: str | None = None
    lm_head: str | None = None
    attention_activations: str | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        _one_of("precision: weights", self.weights, DTYPE_BYTES)
        _one_of("precision: activations", self.activations, TENSOR_DTYPE)
        _one_of("precision: kv", self.kv, KV_DTYPES)
        for name in PARTS:
            if getattr(self, name) is not None:
                _one_of(f"precision: {name}", getattr(self, name), DTYPE_BYTES)
        if self.attention_activations is not None:
            _one_of("precision: attention_activations", self.attention_activations, TENSOR_DTYPE)
        size = self.group_size
        if size is not None and (type(size) is not int or size < 1):
            raise ConfigError(
                f"precision: group_size must be a whole number ≥ 1 or null but got {size!r}"
            )
        if self.activation_bytes < min(2.0, 0.9 * self.weight_bytes):  # 0.9: scales aside
            raise ConfigError(
                f"precision: activations {self.activations} cannot be narrower than weights "
                f"{self.weights}"
            )

    def stored(self, part: str) -> str:
        """Return the dtype of ``part``: one of :data:`PARTS`, ``weights`` or ``router``."""
        given: str | None = getattr(self, part, None)
        if given is not None:
            return given
        if part in ("lm_head", "router"):
            return "bf16" if self.weight_bytes <= 2.0 else self.weights
        follows = part in ("attention_out", "linear_attention")
        return self.stored("attention") if follows else self.weights

    def stored_bytes(self, part: str) -> float:
        """Return the bytes per parameter of ``part``, named as for :meth:`stored`."""
        return self.bytes_of(self.stored(part))

    def bytes_of(self, dtype: str) -> float:
        """Return the bytes of one weight in ``dtype``, its share of a group's scale included."""
        bits = GROUPED_BITS.get(dtype)
        if bits is None or self.group_size is None:
            return DTYPE_BYTES[dtype]
        return bits / 8 + 2 / self.group_size

    def scale_block(self, part: str) -> int:
        """Return the elements in a row of ``part`` that share a scale: a shard has whole ones."""
        dtype = self.stored(part)
        grouped = self.group_size if dtype in GROUPED_BITS else None
        return grouped or SCALE_BLOCK.get(dtype, 1)

    @property
    def weight_bytes(self) -> float:
        """Bytes per parameter of FFNs and experts."""
        return self.bytes_of(self.weights)

    @property
    def attention_bytes(self) -> float:
        """Bytes per parameter of the attention projections."""
        return self.stored_bytes("attention")

    @property
    def embedding_bytes(self) -> float:
        """Bytes per parameter of embedding and routers: never below 16 bits."""
        return max(2.0, self.weight_bytes)

    @property
    def activation_bytes(self) -> float:
        """Bytes per element of an activation as it enters a matrix product."""
        return DTYPE_BYTES[self.activations]

    @property
    def kv_bytes(self) -> float:
        """Bytes per element of the KV cache."""
        return DTYPE_BYTES[self.kv]

    @property
    def tensor_dtype(self) -> str:
        """The dtype whose tensor peak FFNs and experts compute at (``GPU.peak``)."""
        return TENSOR_DTYPE[self.activations]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One worker's parallelism; ``gpus`` = ``tp`` × ``attention_dp`` × ``pp``.

    ``tp`` shards attention heads, ``attention_dp`` replicates attention over disjoint requests,
    ``pp`` cuts the layers into stages. Experts are sharded over ``ep`` ranks of the
    ``tp`` × ``attention_dp`` group; the rest of that group, ``expert_tp``, shards each expert's
    FFN. Ranks that experts do not fill evenly hold further copies of some of them.
    TEP is ``tp = ep = G``; DEP is ``attention_dp = ep = G``. Dense FFNs, shared experts and the
    LM head are sharded over ``tp`` and replicated over ``attention_dp``. ``chunked_pipeline``
    lets the chunks of one prompt fill the stages (no effect where ``pp`` is 1).

    Raises:
        LayoutError: a degree is not a whole number ≥ 1, or ``ep`` does not divide the group.

    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1
    chunked_pipeline: bool = False

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "ep", "attention_dp"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise LayoutError(f"layout: {name} must be a whole number ≥ 1 but got {value!r}")
            if value > MAX_DEGREE:
                raise LayoutError(f"layout: {name} must be at most {MAX_DEGREE} but got {value!r}")
        if self.expert_group % self.ep:
            raise LayoutError(
                f"layout: ep {self.ep} must divide tp * attention_dp = {self.tp} * "
                f"{self.attention_dp} = {self.expert_group}"
            )

    @property
    def gpus(self) -> int:
        """GPUs one worker of this layout occupies."""
        return self.tp * self.attention_dp * self.pp

    @property
    def expert_group(self) -> int:
        """GPUs of one pipeline stage, over which its experts are spread."""
        return self.tp * self.attention_dp

    @property
    def expert_tp(self) -> int:
        """GPUs that share each expert's FFN."""
        return self.expert_group // self.ep

    def expert_slots(self, model: Model) -> int:
        """Return the experts an EP rank has room for: its share, rounded up.

        What that leaves over is filled with copies of the busiest (redundant experts: DeepSeek-V3
        report, arXiv 2412.19437, section 3.4; TensorRT-LLM's ``num_slots``).
        """
        return -(-model.experts // self.ep)

    def __str__(self) -> str:
        named = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name[-1] == "p"]
        return " ".join(f"{name}={value}" for name, value in named if value > 1) or "tp=1"

    def kv_heads_per_gpu(self, model: Model, *, windowed: bool = False) -> int:
        """Return the KV heads one GPU holds: at least one, replicated where ``tp`` has more."""
        return max(1, model.heads_of(windowed=windowed).kv_heads // self.tp)

    def stage_layers(self, layers: int) -> tuple[range, ...]:
        """Return each pipeline stage's layers; left-over ones go to stages away from the ends.

        The first stage also holds the embedding and the last the LM head, so the remainder is
        dealt out from the last but one stage backwards.
        """
        base, rest = divmod(layers, self.pp)
        order = sorted(range(self.pp), key=lambda stage: (stage == self.pp - 1, -stage))
        sizes = [base + (order.index(stage) < rest) for stage in range(self.pp)]
        starts = [sum(sizes[:stage]) for stage in range(self.pp)]
        return tuple(range(at, at + size) for at, size in zip(starts, sizes, strict=True))

    def validate(self, model: Model) -> None:
        """Check that this layout divides ``model``.

        Raises:
            LayoutError: naming the degree, the model's number it must divide, and both values.

        """
        for windowed in (False, True) if model.window_layers else (False,):
            heads, kind = model.heads_of(windowed=windowed), "window_" if windowed else ""
            _divides("tp", self.tp, f"{kind}heads", heads.heads, model)
            held = heads.kv_heads
            if held % self.tp and self.tp % held and model.attention == "gqa":
                raise LayoutError(
                    f"layout: tp {self.tp} must divide the {held} {kind}kv_heads of {model.name}, "
                    "or be a multiple of them (KV heads are then replicated)"
                )
        if model.linear_layers:
            _divides("tp", self.tp, "linear_key_heads", model.linear_key_heads, model)
        if self.pp > model.layers:
            raise LayoutError(
                f"layout: pp {self.pp} must be at most the {model.layers} layers of {model.name}"
            )
        if model.ffn_dense_layers:
            _divides("tp", self.tp, "dense_intermediate", model.dense_intermediate, model)
        self._validate_experts(model)

    def _validate_experts(self, model: Model) -> None:
        if model.is_moe:
            if self.ep > model.experts:
                raise LayoutError(
                    f"layout: ep {self.ep} must be at most the {model.experts} experts of "
                    f"{model.name}"
                )
            _divides(
                "tp * attention_dp / ep =",
                self.expert_tp,
                "moe_intermediate",
                model.moe_intermediate,
                model,
            )
            return
        if self.ep > 1:
            raise LayoutError(
                f"layout: ep {self.ep} needs a mixture of experts, but {model.name} is dense; use "
                "tp, pp, attention_dp or more workers"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one worker's GPUs hold.

    ``weights_bytes_per_gpu``, ``reserve_bytes_per_gpu`` (activations, CUDA graphs, NCCL) and
    ``kv_bytes_per_gpu`` are bytes on the fullest GPU; ``kv_blocks`` counts the worker's blocks
    of ``block_size`` tokens over all its attention-DP ranks. ``kv_bytes_per_token`` is what one
    token's KV weighs in a transfer (each distinct shard once), and ``kv_shards`` the number of
    GPUs that hold distinct shards of one request's KV, hence send in parallel.
    """

    weights_bytes_per_gpu: float
    reserve_bytes_per_gpu: float
    kv_bytes_per_gpu: float
    kv_bytes_per_token: float
    kv_blocks: int
    block_size: int
    kv_shards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """What a worker may use of its GPUs' memory, and the largest step it must have room for.

    ``role`` decides that step: a prefill or mixed worker computes up to
    ``max_num_batched_tokens`` tokens at once, a decode worker one per sequence; both limits are
    those of one attention-DP rank. ``kv_blocks``, of the whole worker, is what an engine was seen
    to have: it then stands in place of the count computed here, and nothing is refused. ``rule``
    is how the engine divides memory, and what ``memory_utilization`` is a share of.

    Raises:
        ConfigError: a value is out of range.

    """

    block_size: int = 16
    memory_utilization: float = 0.9
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    role: str = "mixed"
    kv_blocks: int | None = None
    rule: MemoryRule = field(default_factory=MemoryRule)

    def __post_init__(self) -> None:
        if self.kv_blocks is not None and self.kv_blocks < 1:
            raise ConfigError(f"memory: kv_blocks must be at least 1 but got {self.kv_blocks!r}")
        for name in ("block_size", "max_num_batched_tokens", "max_num_seqs"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"memory: {name} must be a whole number ≥ 1 but got {value!r}")
        if not 0 < self.memory_utilization <= 1:
            raise ConfigError(
                f"memory: memory_utilization must lie in (0, 1] but got {self.memory_utilization!r}"
            )
        _one_of("memory: role", self.role, ("prefill", "decode", "mixed"))

    @property
    def step_tokens(self) -> int:
        """Tokens of the largest step."""
        return self.max_num_seqs if self.role == "decode" else self.max_num_batched_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Bytes of one pipeline stage on each of its GPUs.

    Weights, what the engine's ``processes`` hold before computing, the largest ``step``, the
    ``states`` of sequences' linear layers, and the KV of one token.
    """

    weights: float
    processes: float
    step: float
    states: float
    kv_per_token: float

    @property
    def reserve(self) -> float:
        """Bytes that are neither weights nor KV."""
        return self.processes + self.step + self.states

    def kv_room(self, memory: float, budget: MemoryBudget) -> float:
        """Return the bytes left for KV on a GPU with ``memory`` bytes; below 0 if none are."""
        rule, share = budget.rule, budget.memory_utilization
        offered = memory - rule.hidden_bytes
        if rule.share_of == "total":
            return share * offered - self.weights - self.reserve
        if rule.share_of == "unloaded":
            return share * (offered - self.processes) - self.weights - self.states
        return share * (offered - self.processes - self.weights - self.step) - self.states

    def tokens(self, memory: float, budget: MemoryBudget) -> float:
        """Return the tokens whose KV fits on a GPU; endless where this stage writes none."""
        room = self.kv_room(memory, budget)
        if room < 0:
            return 0.0
        return room / self.kv_per_token if self.kv_per_token else float(2**62)


def plan_memory(
    model: Model,
    layout: Layout,
    precision: Precision,
    gpu: GPU,
    budget: MemoryBudget | None = None,
) -> Memory:
    """Return what one worker's GPUs hold, and the KV blocks that leaves.

    KV counts every layer that writes it (``Model.kv_bytes_per_token``): windowed layers as if
    they kept the whole context, an upper bound that engines without a per-window cache pay.

    Raises:
        LayoutError: the layout does not divide the model.
        CapacityError: weights and reserve leave no room for one KV block; it says by how much,
            and which layout would fit.

    """
    budget = budget or MemoryBudget()
    found = find_memory(model, layout, precision, gpu, budget)
    if found is None:
        raise CapacityError(_does_not_fit(model, layout, precision, gpu, budget))
    return found


def find_memory(
    model: Model, layout: Layout, precision: Precision, gpu: GPU, budget: MemoryBudget
) -> Memory | None:
    """Return the same as :func:`plan_memory`, ``None`` where there is no room for one KV block.

    Raises:
        LayoutError: the layout does not divide the model.

    """
    layout.validate(model)
    stages = _stages(model, layout, precision, budget)
    room = min(stage.tokens(gpu.memory_bytes, budget) for stage in stages)
    blocks = int(room // budget.block_size)
    if budget.kv_blocks is not None:
        blocks = -(-budget.kv_blocks // layout.attention_dp)
    elif blocks < 1:
        return None
    tokens = blocks * budget.block_size
    latent = model.attention == "mla"
    return Memory(
        weights_bytes_per_gpu=max(stage.weights for stage in stages),
        reserve_bytes_per_gpu=max(stage.reserve for stage in stages),
        kv_bytes_per_gpu=max(tokens * stage.kv_per_token for stage in stages),
        kv_bytes_per_token=model.kv_bytes_per_token(precision.kv_bytes)
        + model.index_bytes_per_token,
        kv_blocks=budget.kv_blocks or blocks * layout.attention_dp,
        block_size=budget.block_size,
        kv_shards=(1 if latent else min(layout.tp, model.kv_heads)) * layout.pp,
    )


def weights_bytes(model: Model, precision: Precision) -> float:
    """Return the bytes of one copy of all of a model's weights."""
    return sum(stage.weights for stage in _stages(model, Layout(), precision, MemoryBudget()))


# --- one stage ------------------------------------------------------------------------------


def _stages(
    model: Model, layout: Layout, precision: Precision, budget: MemoryBudget
) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            weights=weights,
            processes=budget.rule.processes(layout.gpus),
            step=_stage_step(model, layout, budget, span),
            states=_stage_states(model, layout, budget, span),
            kv_per_token=kv_per_token,
        )
        for span, weights, kv_per_token in _loaded(model, layout, precision, budget.rule)
    )


@lru_cache(maxsize=16)
def _loaded(
    model: Model, layout: Layout, precision: Precision, rule: MemoryRule
) -> tuple[tuple[range, float, float], ...]:
    """Return each stage's layers, weights and KV of a token: the same whatever steps it makes."""
    return tuple(
        (
            span,
            _stage_weights(model, layout, precision, span, rule),
            _stage_kv_per_token(model, layout, precision, span),
        )
        for span in layout.stage_layers(model.layers)
    )


def _stage_weights(
    model: Model, layout: Layout, precision: Precision, span: range, rule: MemoryRule
) -> float:
    alike: dict[tuple[bool, bool, bool], list[int]] = {}
    for layer in span:
        kind = model.is_moe_layer(layer), model.is_growing_layer(layer), model.is_index_layer(layer)
        alike.setdefault(kind, []).append(layer)
    layers = sum(
        len(each) * _layer_weights(model, layout, precision, each[0]) for each in alike.values()
    )
    sparse = sum(map(model.is_moe_layer, span)) if precision.weights == "mxfp4" else 0
    if sparse:
        layers += sparse * _padding(model, layout, rule) * precision.weight_bytes
    table = model.embedding_params / layout.tp
    first, last = span.start == 0, span.stop == model.layers
    # A tied head is the embedding itself where both are on the same GPU, else a second copy.
    if first and last and model.tie_embeddings:
        return layers + table * precision.embedding_bytes
    head = "lm_head" if not model.tie_embeddings else None
    head_bytes = precision.stored_bytes(head) if head else precision.embedding_bytes
    return layers + table * (first * precision.embedding_bytes + last * head_bytes)


def _layer_weights(model: Model, layout: Layout, precision: Precision, layer: int) -> float:
    ffn = _ffn_weights(model, layout, precision, layer)
    if model.linear_layers and not model.is_growing_layer(layer):
        part = model.linear_params_per_layer / layout.tp
        return part * precision.stored_bytes("linear_attention") + ffn
    windowed = not model.is_growing_layer(layer)
    held = layout.kv_heads_per_gpu(model, windowed=windowed)
    kv_heads = model.heads_of(windowed=windowed).kv_heads
    attention = (
        (model.query_params(windowed=windowed) + model.gate_params_per_layer) / layout.tp
        + model.key_value_params(windowed=windowed) * held / kv_heads
        + model.latent_params
        + (model.index_params_per_layer if model.is_index_layer(layer) else 0)
    )
    heads = model.heads_of(windowed=windowed)
    width = model.heads * model.v_dim if model.attention == "mla" else heads.output_width
    out = width * model.hidden / layout.tp
    more = precision.stored_bytes("attention_out") - precision.attention_bytes
    return attention * precision.attention_bytes + out * more + ffn


def _ffn_weights(model: Model, layout: Layout, precision: Precision, layer: int) -> float:
    if not model.is_moe_layer(layer):
        return model.dense_ffn_params / layout.tp * precision.stored_bytes("dense_ffn")
    held = layout.expert_slots(model) * model.expert_params / layout.expert_tp
    routed = held * precision.weight_bytes
    shared = model.shared_expert_params / layout.tp * precision.stored_bytes("shared_experts")
    return routed + shared + model.router_params * precision.embedding_bytes


def _padding(model: Model, layout: Layout, rule: MemoryRule) -> float:
    """Return the parameters by which one layer's MXFP4 experts are padded on a GPU."""
    width = model.moe_intermediate // layout.expert_tp
    padded = _up(model.hidden, rule.mxfp4_hidden) * _up(width, rule.mxfp4_width)
    each = model.expert_params / layout.expert_tp
    return layout.expert_slots(model) * each * (padded / (model.hidden * width) - 1.0)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _stage_kv_per_token(model: Model, layout: Layout, precision: Precision, span: range) -> float:
    full = sum(map(model.is_growing_layer, span))
    elements = full * _elements_per_gpu(model, layout, windowed=False)
    if not model.linear_layers:
        elements += (len(span) - full) * _elements_per_gpu(model, layout, windowed=True)
    index = model.index_bytes_per_token / model.layers * len(span)
    return elements * precision.kv_bytes + index


def _elements_per_gpu(model: Model, layout: Layout, *, windowed: bool) -> float:
    """Return the KV elements one token leaves on a GPU in one layer of this kind."""
    elements = model.kv_elements_per_layer(windowed=windowed)
    if model.attention == "mla":
        return elements
    kv_heads = model.heads_of(windowed=windowed).kv_heads
    return elements / kv_heads * layout.kv_heads_per_gpu(model, windowed=windowed)


def _stage_step(model: Model, layout: Layout, budget: MemoryBudget, span: range) -> float:
    """Return the bytes of the largest step: activations, and in the last stage what samples."""
    logits = 0
    if span.stop == model.layers:
        logits = min(budget.step_tokens, budget.max_num_seqs) * model.vocab
    return budget.rule.step(_activation_bytes(model, layout, budget.step_tokens), logits)


def _stage_states(model: Model, layout: Layout, budget: MemoryBudget, span: range) -> float:
    """Return the bytes of every sequence's linear layers."""
    linear = sum(1 for layer in span if not model.is_growing_layer(layer))
    if not (model.linear_layers and linear):
        return 0.0
    state = model.linear_state_bytes() * linear / model.linear_layers / layout.tp
    return state * budget.max_num_seqs


def _activation_bytes(model: Model, layout: Layout, tokens: int) -> float:
    """Return the 16-bit activations of the widest layer: residual, norm, block input and output.

    An FFN holds its gate, up and product at once, an attention block its heads' q, k, v and
    output. A GPU of an expert group computes the (token, expert) pairs routed to it, on average
    ``tokens`` × ``attention_dp`` × ``top_k`` / ``ep`` of them.
    """
    head = model.nope_dim + model.rope_dim or model.head_dim
    attention = 4 * model.heads * head / layout.tp
    ffn = 3 * model.dense_intermediate / layout.tp if model.ffn_dense_layers else 0.0
    pairs = layout.attention_dp * model.top_k / layout.ep
    routed = pairs * (2 * model.hidden + 3 * model.moe_intermediate / layout.expert_tp)
    return tokens * 2.0 * (4 * model.hidden + max(attention, ffn, routed))


# --- refusing -------------------------------------------------------------------------------


def _fits(
    model: Model, layout: Layout, precision: Precision, memory: float, budget: MemoryBudget
) -> bool:
    stages = _stages(model, layout, precision, budget)
    return all(stage.tokens(memory, budget) >= budget.block_size for stage in stages)


def _wider(model: Model, layout: Layout) -> Iterator[Layout]:
    """Yield valid layouts of the same kind on ever more GPUs: more tp, then dp, then stages."""
    for factor in (2, 4, 8, 16, 32, 64):
        ep = layout.ep * factor if layout.ep > 1 else 1
        candidates = [replace(layout, tp=layout.tp * factor, ep=ep)]
        if layout.attention_dp > 1:
            candidates.append(replace(layout, attention_dp=layout.attention_dp * factor, ep=ep))
        candidates.append(replace(layout, pp=layout.pp * factor))
        yield from (wider for wider in candidates if _divides_all(model, wider))


def _divides_all(model: Model, layout: Layout) -> bool:
    try:
        layout.validate(model)
    except LayoutError:
        return False
    return True


def _does_not_fit(
    model: Model, layout: Layout, precision: Precision, gpu: GPU, budget: MemoryBudget
) -> str:
    memory = gpu.memory_bytes
    stages = _stages(model, layout, precision, budget)
    worst = min(stages, key=lambda stage: stage.tokens(memory, budget))
    fitting = next(
        (w for w in _wider(model, layout) if _fits(model, w, precision, memory, budget)), None
    )
    advice = f"{fitting} would fit" if fitting else "no wider layout fits: use a narrower dtype"
    return (
        f"{model.name} with {precision.weights} weights and {layout} does not fit {gpu.name}: "
        f"a GPU needs {worst.weights / 1e9:.1f} GB for weights and {worst.reserve / 1e9:.1f} GB "
        f"of reserve before any KV, but {_share(budget, memory)}; {advice}"
    )


def _share(budget: MemoryBudget, memory: float) -> str:
    """Say what of a GPU's memory the engine may use."""
    share, rule = budget.memory_utilization, budget.rule
    offered = memory - rule.hidden_bytes
    if rule.share_of == "total":
        return (
            f"memory_utilization {share:g} of {offered / 1e9:.1f} GB leaves "
            f"{share * offered / 1e9:.1f} GB"
        )
    whole = "is free before loading" if rule.share_of == "unloaded" else "they leave"
    return f"KV gets memory_utilization {share:g} of what {whole} of {offered / 1e9:.1f} GB"


# --- checks ---------------------------------------------------------------------------------


def _one_of(name: str, value: object, known: Mapping[str, object] | tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)} but got {value!r}")


def _divides(name: str, value: int, what: str, total: int, model: Model) -> None:
    if total % value:
        raise LayoutError(f"layout: {name} {value} must divide the {total} {what} of {model.name}")

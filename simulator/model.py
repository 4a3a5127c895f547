"""An LLM's architecture: from its shape to parameters and KV bytes per token."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from simulator.errors import ConfigError

_POSITIVE = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "max_context")
_MLA = ("q_lora", "kv_lora", "rope_dim", "nope_dim", "v_dim")
_LINEAR = ("linear_key_heads", "linear_value_heads", "linear_head_dim", "linear_conv")
_INDEX = ("index_top_k", "index_heads", "index_head_dim")
STATE_BYTES: Mapping[str, float] = MappingProxyType({"bf16": 2.0, "fp32": 4.0})
"""Bytes of one element of a linear layer's state; its convolution's tail has 16 bits."""
MAX_LAYERS = 10_000
"""More layers than this are a slip of the pen; plans walk over every one of them."""
MAX_DIMENSION = 10**9
INDEX_SCALE_BYTES = 4
"""Bytes of the fp32 scale beside one token's fp8 index key (DeepSeek-V3.2 stores one per key)."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of one softmax-attention layer: how many, and elements of a key and a value.

    With ``tied_values`` a value is made of the key's projection and has none of its own.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    tied_values: bool = False

    @property
    def query_width(self) -> int:
        """Elements of all heads' queries."""
        return self.heads * self.key_dim

    @property
    def output_width(self) -> int:
        """Elements of all heads' outputs."""
        return self.heads * self.value_dim

    @property
    def projected(self) -> int:
        """Elements that the projections of one KV head make."""
        return self.key_dim + (0 if self.tied_values else self.value_dim)

    @property
    def kv_elements(self) -> int:
        """Elements one token leaves in the layer's KV cache."""
        return self.kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One LLM's architecture. Counts are per model; dimensions are elements.

    ``attention`` is ``gqa`` (MHA and MQA are its ends) or ``mla``. ``layers`` counts all layers;
    ``dense_layers`` of them have a dense FFN of ``dense_intermediate``, the others (if
    ``experts`` > 0) a mixture of experts; the dense ones come first unless ``interleaved_ffn``.
    ``full_attention_layers`` (``None`` = all) see the whole context; the others see ``window``
    tokens or, when ``linear_value_heads`` > 0, are linear (gated delta) layers with a constant
    state, kept in ``linear_state`` (``bf16`` or ``fp32``), and no growing KV. ``index_top_k`` > 0
    marks sparse attention (DSA): at most that many
    tokens are attended, as the indexers of ``index_layers`` (``None`` = all) layers choose, which
    the others share. ``output_gate`` marks softmax attention with a further, gating projection
    (Qwen3-Next), ``norms_all_heads`` queries and keys that are normed over all heads at once
    (MiniMax-M2). Windowed layers may have ``window_heads``, ``window_kv_heads`` and
    ``window_head_dim`` of their own (0: as the others); values have ``v_dim`` elements (0:
    ``head_dim``), and with ``tied_values`` those of layers that see all are made of the keys'
    projection (Gemma 4). ``mtp_layers`` are not counted in any size: they load only to speculate.

    Raises:
        ConfigError: a dimension is not a whole number in range, or two contradict each other.

    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    attention: str = "gqa"
    q_lora: int = 0
    kv_lora: int = 0
    rope_dim: int = 0
    nope_dim: int = 0
    v_dim: int = 0
    dense_layers: int | None = None
    dense_intermediate: int = 0
    interleaved_ffn: bool = False
    gated_ffn: bool = True
    experts: int = 0
    top_k: int = 0
    moe_intermediate: int = 0
    shared_experts: int = 0
    shared_intermediate: int = 0
    window: int | None = None
    full_attention_layers: int | None = None
    window_heads: int = 0
    window_kv_heads: int = 0
    window_head_dim: int = 0
    tied_values: bool = False
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_head_dim: int = 0
    linear_conv: int = 0
    linear_state: str = "bf16"
    index_top_k: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_layers: int | None = None
    output_gate: bool = False
    norms_all_heads: bool = False
    tie_embeddings: bool = False
    mtp_layers: int = 0
    source: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_attention()
        self._check_layer_kinds()
        self._check_groups()
        self._check_ffn()

    # --- checks -----------------------------------------------------------------------------

    def _fail(self, problem: str) -> None:
        raise ConfigError(f"model {self.name}: {problem}")

    def _check_numbers(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"model: name must be a non-empty string but got {self.name!r}")
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type not in (int, int | None) or (value is None and each.type is not int):
                continue
            least = 1 if each.name in _POSITIVE else 0
            if type(value) is not int or value < least:
                self._fail(f"{each.name} must be a whole number ≥ {least} but got {value!r}")
            if value > (most := MAX_LAYERS if each.name == "layers" else MAX_DIMENSION):
                self._fail(f"{each.name} must be at most {most} but got {value}")

    def _check_attention(self) -> None:
        if self.attention not in ("gqa", "mla"):
            self._fail(f"attention must be gqa or mla but got {self.attention!r}")
        if self.heads % self.kv_heads:
            self._fail(f"kv_heads {self.kv_heads} must divide heads {self.heads}")
        windowed = self.heads_of(windowed=True)
        if windowed.heads % windowed.kv_heads:
            self._fail(
                f"window_kv_heads {windowed.kv_heads} must divide the {windowed.heads} heads of "
                "windowed layers"
            )
        if self.attention == "mla":
            # Without q_lora (DeepSeek-V2-Lite) the query is projected directly.
            for name in ("kv_lora", "rope_dim", "nope_dim", "v_dim"):
                if getattr(self, name) < 1:
                    self._fail(f"mla attention needs {name} ≥ 1 but got {getattr(self, name)}")
            return
        for name in _MLA:
            if getattr(self, name) and name != "v_dim":
                self._fail(f"{name} {getattr(self, name)} belongs to mla attention, not to gqa")

    def _check_layer_kinds(self) -> None:
        full = self.full_attention_layers
        if full is not None and full > self.layers:
            self._fail(f"full_attention_layers {full} must be at most layers {self.layers}")
        if self.window is not None and self.window < 1:
            self._fail(f"window must be at least 1 token but got {self.window}")
        partial = full is not None and full < self.layers
        if partial and not self.linear_value_heads and self.window is None:
            self._fail(f"{self.layers - (full or 0)} layers are not full attention: give a window")
        if self.linear_value_heads and self.window is not None:
            self._fail("layers beside full attention are either windowed or linear, not both")

    def _check_groups(self) -> None:
        if self.linear_state not in STATE_BYTES:
            self._fail(
                f"linear_state must be one of {', '.join(STATE_BYTES)} but got "
                f"{self.linear_state!r}"
            )
        for group, flag in ((_LINEAR, self.linear_value_heads), (_INDEX, self.index_top_k)):
            for name in group:
                if bool(getattr(self, name)) != bool(flag):
                    self._fail(
                        f"{', '.join(group)} go together but {name} is {getattr(self, name)}"
                    )

        if self.index_layers is None:
            return
        if not self.index_top_k or not 1 <= self.index_layers <= self.layers:
            self._fail(
                f"index_layers must lie in 1…{self.layers} layers of a model with an indexer but "
                f"got {self.index_layers}"
            )

    def _check_ffn(self) -> None:
        if self.dense_layers is not None and self.dense_layers > self.layers:
            self._fail(f"dense_layers {self.dense_layers} must be at most layers {self.layers}")
        if self.ffn_dense_layers and not self.dense_intermediate:
            self._fail(f"{self.ffn_dense_layers} dense layers need dense_intermediate ≥ 1")
        if not self.experts:
            if self.top_k or self.moe_intermediate or self.shared_experts:
                self._fail("top_k, moe_intermediate and shared_experts need experts ≥ 1")
            if self.dense_layers not in (None, self.layers):
                self._fail(f"dense_layers {self.dense_layers} without experts must be all layers")
            return
        if not 1 <= self.top_k <= self.experts:
            self._fail(f"top_k must lie in 1…{self.experts} experts but got {self.top_k}")
        if not self.moe_intermediate:
            self._fail("experts need moe_intermediate ≥ 1 but got 0")
        if not self.moe_layers:
            self._fail(f"{self.experts} experts but all {self.layers} layers are dense")

    # --- layers -----------------------------------------------------------------------------

    @property
    def is_moe(self) -> bool:
        """Whether some layers route tokens to experts."""
        return self.experts > 0

    @property
    def ffn_dense_layers(self) -> int:
        """Layers whose FFN is dense."""
        return self.layers if not self.experts else self.dense_layers or 0

    @property
    def moe_layers(self) -> int:
        """Layers whose FFN is a mixture of experts."""
        return self.layers - self.ffn_dense_layers

    @property
    def growing_layers(self) -> int:
        """Layers whose KV grows with the whole context."""
        full = self.full_attention_layers
        return self.layers if full is None else full

    @property
    def window_layers(self) -> int:
        """Layers that attend to the last ``window`` tokens only."""
        return 0 if self.linear_value_heads else self.layers - self.growing_layers

    @property
    def linear_layers(self) -> int:
        """Linear (gated delta) layers: a constant state per sequence, no KV per token."""
        return self.layers - self.growing_layers if self.linear_value_heads else 0

    @property
    def kv_layers(self) -> int:
        """Layers that write KV for every token, windowed ones included."""
        return self.layers - self.linear_layers

    def is_moe_layer(self, layer: int) -> bool:
        """Return whether layer ``layer`` (from 0) is a mixture of experts."""
        if not self.interleaved_ffn:
            return layer >= self.ffn_dense_layers
        return _spread(layer, self.moe_layers, self.layers)

    def is_growing_layer(self, layer: int) -> bool:
        """Return whether ``layer`` (from 0) sees all the context; such layers are spread evenly."""
        return _spread(layer, self.growing_layers, self.layers)

    @property
    def indexing_layers(self) -> int:
        """Layers with a sparse-attention indexer, and its keys, of their own."""
        if not self.index_top_k:
            return 0
        return self.layers if self.index_layers is None else self.index_layers

    def is_index_layer(self, layer: int) -> bool:
        """Return whether ``layer`` (from 0) has an indexer; such layers are spread evenly."""
        return _spread(layer, self.indexing_layers, self.layers)

    def heads_of(self, *, windowed: bool) -> Heads:
        """Return the heads of a windowed layer, or of one that sees the whole context."""
        if not windowed:
            value = self.v_dim or self.head_dim
            return Heads(self.heads, self.kv_heads, self.head_dim, value, self.tied_values)
        dim = self.window_head_dim or self.head_dim
        return Heads(
            self.window_heads or self.heads,
            self.window_kv_heads or self.kv_heads,
            dim,
            self.v_dim or dim,
        )

    # --- parameters -------------------------------------------------------------------------

    def query_params(self, *, windowed: bool = False) -> int:
        """Return the parameters of one layer that tensor parallelism always shards.

        Query and output projections, and latent attention's up projections.
        """
        if self.attention == "gqa":
            heads = self.heads_of(windowed=windowed)
            return self.hidden * (heads.query_width + heads.output_width)
        query = (self.q_lora or self.hidden) * self.heads * (self.nope_dim + self.rope_dim)
        up = self.kv_lora * self.heads * (self.nope_dim + self.v_dim)
        return query + up + self.heads * self.v_dim * self.hidden

    def key_value_params(self, *, windowed: bool = False) -> int:
        """Return one layer's key and value projections (GQA; sharded up to its KV heads)."""
        heads = self.heads_of(windowed=windowed)
        return 0 if self.attention == "mla" else self.hidden * heads.kv_heads * heads.projected

    @property
    def latent_params(self) -> int:
        """Parameters of one layer's MLA down projections (never sharded)."""
        if self.attention == "gqa":
            return 0
        return self.hidden * (self.q_lora + self.kv_lora + self.rope_dim)

    def attention_params(self, *, windowed: bool = False) -> int:
        """Return one softmax-attention layer's projections (no norms, biases or indexer)."""
        query = self.query_params(windowed=windowed)
        return query + self.key_value_params(windowed=windowed) + self.latent_params

    @property
    def gate_params_per_layer(self) -> int:
        """Parameters of one softmax-attention layer's output gate."""
        return self.hidden * self.heads * self.head_dim if self.output_gate else 0

    @property
    def index_params_per_layer(self) -> int:
        """Parameters of one layer's sparse-attention indexer (query, key and head weights)."""
        query = (self.q_lora or self.hidden) * self.index_heads * self.index_head_dim
        return query + self.hidden * (self.index_head_dim + self.index_heads)

    @property
    def linear_params_per_layer(self) -> int:
        """Parameters of one gated-delta layer: q, k, v, gates, convolution and output."""
        key = self.linear_key_heads * self.linear_head_dim
        value = self.linear_value_heads * self.linear_head_dim
        mix = self.hidden * (2 * key + 2 * value + 2 * self.linear_value_heads)
        return mix + (2 * key + value) * self.linear_conv + value * self.hidden

    @property
    def _ffn_matrices(self) -> int:
        return 3 if self.gated_ffn else 2

    @property
    def dense_ffn_params(self) -> int:
        """Parameters of one dense FFN."""
        return self._ffn_matrices * self.hidden * self.dense_intermediate

    @property
    def expert_params(self) -> int:
        """Parameters of one routed expert."""
        return self._ffn_matrices * self.hidden * self.moe_intermediate

    @property
    def shared_expert_params(self) -> int:
        """Parameters of all shared experts of one layer."""
        width = self.shared_intermediate or self.moe_intermediate
        return self.shared_experts * self._ffn_matrices * self.hidden * width

    @property
    def router_params(self) -> int:
        """Parameters of one layer's router."""
        return self.hidden * self.experts

    @property
    def embedding_params(self) -> int:
        """Parameters of the token embedding (the LM head has as many; tied models share them)."""
        return self.vocab * self.hidden

    @property
    def _embedding_and_head(self) -> int:
        return self.embedding_params * (1 if self.tie_embeddings else 2)

    @property
    def total_params(self) -> int:
        """Parameters, every layer counted as softmax attention: the figure usually quoted.

        Norms and biases are left out, and so are linear layers' own shapes, sparse indexers and
        output gates, which :attr:`stored_params` counts.
        """
        moe = self.experts * self.expert_params + self.shared_expert_params + self.router_params
        ffn = self.ffn_dense_layers * self.dense_ffn_params + self.moe_layers * moe
        full = (self.layers - self.window_layers) * self.attention_params()
        windowed = self.window_layers * self.attention_params(windowed=True)
        return full + windowed + ffn + self._embedding_and_head

    @property
    def stored_params(self) -> int:
        """Parameters a worker loads: linear layers as they are, indexers and gates included."""
        linear = self.linear_params_per_layer - self.attention_params()
        index = self.indexing_layers * self.index_params_per_layer
        gates = self.kv_layers * self.gate_params_per_layer
        return self.total_params + self.linear_layers * linear + index + gates

    @property
    def active_params(self) -> int:
        """Parameters one token passes through, routers left out (the quoted convention)."""
        idle = (self.experts - self.top_k) * self.expert_params + self.router_params
        return self.total_params - self.moe_layers * idle

    # --- KV ---------------------------------------------------------------------------------

    def kv_elements_per_layer(self, *, windowed: bool = False) -> int:
        """Return the elements one token leaves in one layer's KV cache.

        Of latent attention, the latent and the rotary key.
        """
        if self.attention == "mla":
            return self.kv_lora + self.rope_dim
        return self.heads_of(windowed=windowed).kv_elements

    def kv_bytes_per_token(self, kv_bytes: float) -> float:
        """Return the KV bytes of one token at ``kv_bytes`` per element, over all ``kv_layers``.

        An upper bound for windowed models, whose window layers drop tokens behind the window; the
        truth for a given context is :meth:`kv_bytes`. The sparse indexer's keys are apart, in
        :attr:`index_bytes_per_token`.
        """
        return self._growing_bytes(kv_bytes) + self._window_bytes(kv_bytes)

    def _growing_bytes(self, kv_bytes: float) -> float:
        return self.growing_layers * self.kv_elements_per_layer() * kv_bytes

    def _window_bytes(self, kv_bytes: float) -> float:
        return self.window_layers * self.kv_elements_per_layer(windowed=True) * kv_bytes

    def growing_kv_bytes_per_token(self, kv_bytes: float) -> float:
        """Return the bytes every further token of a long context adds, indexer keys included."""
        return self._growing_bytes(kv_bytes) + self.index_bytes_per_token

    def held(self, kv_bytes: float) -> "Held":
        """Return what a sequence holds at ``kv_bytes`` per element of its KV."""
        return Held(
            per_token=self.growing_kv_bytes_per_token(kv_bytes),
            per_window_token=self._window_bytes(kv_bytes),
            window=self.window or 0,
            state=self.linear_state_bytes(),
        )

    def kv_bytes(self, context: int, kv_bytes: float) -> float:
        """Return the bytes a sequence of ``context`` tokens holds, windows and states included."""
        return self.held(kv_bytes).bytes(context)

    @property
    def index_bytes_per_token(self) -> int:
        """Bytes of one token's index keys over all indexers: fp8 elements, an fp32 scale each."""
        return self.indexing_layers * (self.index_head_dim + INDEX_SCALE_BYTES)

    def linear_state_bytes(self) -> float:
        """Return the constant bytes of one sequence's linear layers: state and convolution tail."""
        state = self.linear_value_heads * self.linear_head_dim**2 * STATE_BYTES[self.linear_state]
        width = (2 * self.linear_key_heads + self.linear_value_heads) * self.linear_head_dim
        return self.linear_layers * (state + width * max(self.linear_conv - 1, 0) * 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The bytes that one sequence holds over all layers, by what they depend on.

    ``per_token`` of its context (sparse indexers' keys included), ``per_window_token`` of the last
    ``window`` tokens of it, and the ``state`` of linear layers, whatever its length.
    """

    per_token: float
    per_window_token: float
    window: int
    state: float

    def bytes(self, context: int) -> float:
        """Return all bytes of a sequence of ``context`` tokens."""
        windowed = self.per_window_token * min(context, self.window)
        return self.per_token * context + windowed + self.state


def _spread(layer: int, chosen: int, layers: int) -> bool:
    """Return whether ``layer`` is one of ``chosen`` spread evenly over ``layers``, last one in."""
    return (layer + 1) * chosen // layers > layer * chosen // layers

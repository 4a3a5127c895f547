"""What a forward pass is of, what it works on, and what an operator is."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from simulator.layout import DTYPE_BYTES, TENSOR_DTYPE, Layout, Precision
from simulator.model import Model

Number = float | NDArray[np.float64]

PEAK_OF: Mapping[str, str] = MappingProxyType(
    {
        **TENSOR_DTYPE,
        "fp32": "bf16",
        "int4": "bf16",  # storage: computed in 16 bits
        "w4a16": "bf16",
        "w4a8": "fp8",
        "w4a8_int": "int8",
    }
)
"""The tensor peak a dtype is computed at; ``w4a…`` unpack 4-bit weights first."""
UNPACKED: Mapping[str, str] = MappingProxyType({"bf16": "w4a16", "fp8": "w4a8", "int8": "w4a8_int"})
"""What products of 4-bit weights are called, by the peak of their wider activations."""

COMPANION = "companion"
"""Kind of small kernels that start in an engine's ``companion_s``."""
_WIDTHS = {"bf16": 2, "fp8": 1, "int8": 1, "fp4": 0}
SCALES = ("", "static", "dynamic")
RESIDUAL_BYTES = 2.0
"""Bytes of a hidden state: the residual stream, norms and all-reduces stay in 16 bits."""


class Load(NamedTuple):
    """What the busiest attention rank works on in one step; floats or arrays that broadcast.

    ``tokens`` new prompt tokens of ``prompts`` chunks, attending ``pairs`` and following ``past``
    earlier tokens, beside ``batch`` decodes over ``context`` KV tokens. ``occupied``: the prompt
    tokens that all ranks have on average, as a share of this one's; experts see those.
    """

    tokens: Number = 0.0
    pairs: Number = 0.0
    past: Number = 0.0
    prompts: Number = 0.0
    batch: Number = 0.0
    context: Number = 0.0
    occupied: Number = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSpec:
    """What is passed through: a model, spread and stored in a certain way.

    ``cache_upprojected_kv``: chunked MLA prefill keeps K and V of earlier chunks up-projected
    instead of redoing them. ``moe_skew``: load of the busiest of 32 expert ranks over the mean, by
    how popular their experts are (:func:`unevenness`). ``busiest_rank``: the rank that chance hits
    most is busier yet (a step ends when the last rank does).
    ``expert_exchange`` is how tokens of attention-DP ranks meet their experts: ``all_to_all``
    (dispatch and combine) or ``all_gather`` (every rank sees all tokens, then reduce-scatter;
    always so where GPUs share an expert, as dispatch kernels want whole ones).
    ``decode_width``: tokens each decoding sequence computes: 1, or the drafts it verifies too.
    ``shared_beside``: shared experts run on a second stream, beside the routed ones.
    ``fp8_scales``: how what enters products in FP8 (one scale a tensor) is quantised, one of
    :data:`SCALES`: ``""`` leaves it to the products' own curves; with ``static`` scales, known
    beforehand, what comes before does it or one kernel; ``dynamic`` ones are found first.
    ``gathers_quantized``: what an all-gather of tokens carries is quantised first where products
    take one scale per tensor or block of 16 (FP8, NVFP4); the reduce-scatter is in 16 bits.
    ``companions``: with the small kernels between products that only some models have.
    """

    model: Model
    layout: Layout
    precision: Precision
    cache_upprojected_kv: bool = False
    moe_skew: float = 1.0
    busiest_rank: bool = True
    expert_exchange: str = "all_to_all"
    decode_width: int = 1
    shared_beside: bool = False
    gathers_quantized: bool = False
    fp8_scales: str = ""
    companions: bool = False

    @property
    def gathered_bytes(self) -> float:
        """Bytes per element of a token that is gathered."""
        narrow = self.gathers_quantized and self.precision.activations in ("fp8", "nvfp4")
        return self.precision.activation_bytes if narrow else RESIDUAL_BYTES

    @property
    def dispatches(self) -> bool:
        """Whether tokens are sent to their experts and back by an all-to-all."""
        layout = self.layout
        spread = layout.attention_dp > 1 and layout.ep > 1 and layout.expert_tp == 1
        return self.model.is_moe and spread and self.expert_exchange == "all_to_all"

    @property
    def dtype(self) -> str:
        """The dtype FFNs and experts run in: the wider of weights and activations."""
        return self.computed("weights")

    @property
    def attention_dtype(self) -> str:
        """The dtype attention runs in: that of the KV cache.

        So does MLA: over 8-bit KV its kernels pass the 16-bit peak (B200: decode 1.04 of it,
        against 0.55 over 16-bit KV).
        """
        return "fp8" if PEAK_OF[self.precision.kv] != "bf16" else "bf16"

    def computed(self, part: str) -> str:
        """Return the dtype that products with the weights of ``part`` run in."""
        weights, wider = self.precision.stored(part), self.wider(part)
        unpacked = wider != weights and DTYPE_BYTES[weights] < 1.0
        return UNPACKED[PEAK_OF[wider]] if unpacked else wider

    def wider(self, part: str) -> str:
        """Return the wider of the dtypes of weights and activations: what a product reads."""
        weights, activations = self.precision.stored(part), self.activations(part)
        wider = _WIDTHS[PEAK_OF[activations]] > _WIDTHS[PEAK_OF[weights]]
        return activations if wider or weights == "int4" else weights

    def activations(self, part: str) -> str:
        """Return the dtype of what the weights of ``part`` are multiplied with."""
        precision = self.precision
        if part == "lm_head":
            return "bf16"  # hidden states enter it as they are
        own = precision.attention_activations if "attention" in part else None
        return own or precision.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kind of kernel or collective of a pass, summed over its ``calls``.

    ``flops`` and ``bytes`` (moved through HBM) are totals over the calls; ``ramp`` and
    ``narrow`` are the FLOPs one more row (of products; key, of attention) and one more column
    would add, ``thin`` the bytes one more column (or key of each decoding sequence) would, by
    which efficiency curves charge small shapes (of experts: values of all tokens that come to
    the rank). Collectives have ``ranks`` and a
    ``message``: bytes one rank holds, per call (of an all-to-all, what one rank sends in all,
    each token to the distinct ranks of its ``copies`` experts). What runs ``beside`` others has
    its floor hidden behind them. A ``bare`` product leaves quantising what it multiplies to others.
    """

    name: str
    kind: str
    dtype: str = "bf16"
    calls: Number = 1.0
    flops: Number = 0.0
    ramp: Number = 0.0
    narrow: Number = 0.0
    thin: Number = 0.0
    bytes: Number = 0.0
    message: Number = 0.0
    ranks: int = 1
    copies: int = 0
    beside: bool = False
    bare: bool = False

    @property
    def kernels(self) -> int:
        """Kernels that an engine launches per call, where no CUDA graph holds them.

        Attention comes with its rotary embedding and the write of new keys; experts' products with
        the sorting of tokens before and the activation or combination after; narrow dtypes
        quantise what they multiply first.
        """
        return 1 if self.bare else launched(self.kind, self.dtype)


def launched(kind: str, dtype: str) -> int:
    """Return how many kernels a call of this kind and dtype is (:attr:`Operator.kernels`)."""
    products = kind in ("gemm", "experts")
    quantised = products and PEAK_OF[dtype] != "bf16"
    grouped = kind == "experts" or "attention" in kind or "mla" in kind
    return (3 if grouped else 1) + quantised


def distinct(draws: int, places: int) -> float:
    """Return the expected number of distinct places that ``draws`` at random of them hit."""
    return places * (1.0 - (1.0 - 1.0 / places) ** draws)


REFERENCE_RANKS, REFERENCE_LOCAL = 32, 8
"""The ranks a skew is stated for, and experts on each: DeepSeek's 256."""
POPULARITIES = 16
"""Popularities that stand for all experts'."""


def unevenness(moe_skew: float) -> float:
    """Return the deviation of experts' popularity over its mean, of a skew of 32 ranks.

    Ranks of L experts each have loads that deviate by 1/√L of it, and the busiest of n exceeds the
    mean by the expected highest of n normal ones.
    """
    return (moe_skew - 1.0) * math.sqrt(REFERENCE_LOCAL) / highest_normal(REFERENCE_RANKS)


def popularity(spread: float) -> NDArray[np.float64]:
    """Return popularities of experts around a mean of 1, log-uniform over a range of e^spread.

    That is how public routing histograms lie (AIConfigurator's power law of exponent 1.01).
    """
    middle = (np.arange(POPULARITIES) + 0.5) / POPULARITIES
    weights: NDArray[np.float64] = np.exp(spread * middle)
    weights /= weights.mean()
    return weights


@functools.cache
def popularity_of(moe_skew: float) -> NDArray[np.float64]:
    """Return popularities that deviate as much as a skew says (at most as 16 of them can)."""
    wanted = unevenness(moe_skew)
    spreads = np.linspace(0.0, 40.0, 4001)
    deviations = [float(popularity(spread).std()) for spread in spreads]
    return popularity(float(np.interp(wanted, deviations, spreads)))


@functools.cache
def highest_normal(draws: int) -> float:
    """Return the expected highest of ``draws`` standard normal variables, 0 for one."""
    x = np.linspace(-8.0, 8.0, 3201)
    return float(np.trapezoid(x * np.gradient(ndtr(x) ** draws, x), x))

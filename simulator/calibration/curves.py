"""Efficiency curves as fits see them: seven logarithms, their starts and how far they may go."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from simulator.calibration.sources import Floats
from simulator.latency.efficiency import Curve


class Key(NamedTuple):
    """Which curve: kind of kernel, dtype, and engine where its kernels differ (else empty)."""

    kind: str
    dtype: str
    engine: str


PARAMETERS = ("compute", "memory", "floor_us", "ramp", "narrow", "overlap", "thin")
COUNT = len(PARAMETERS)
Prior = tuple[float, float, float, float, float, float, float]
THIN = ("gemm", "decode_attention", "decode_mla", "experts")
"""Kinds whose reads fall short of the bandwidth where there is little for each multiprocessor, and
experts, which move values of every token beside those of the experts'."""

PRIORS: Mapping[str, Prior] = MappingProxyType(
    {
        "gemm": (0.65, 0.75, 3.0, 30.0, 30.0, 0.2, 500.0),
        "experts": (0.5, 0.7, 6.0, 16.0, 300.0, 0.2, 5.0),
        "absorb": (0.5, 0.7, 3.0, 30.0, 1.0, 0.2, 1.0),
        "prefill_attention": (0.5, 0.7, 5.0, 500.0, 1.0, 0.2, 1.0),
        "prefill_mla": (0.6, 0.7, 5.0, 500.0, 1.0, 0.2, 1.0),
        "decode_attention": (0.5, 0.85, 8.0, 1.0, 1.0, 0.2, 100.0),
        "decode_mla": (0.6, 0.85, 8.0, 1.0, 1.0, 0.2, 100.0),
        "memory": (0.5, 0.8, 2.0, 1.0, 1.0, 0.2, 1.0),
        "prefill_recurrence": (0.05, 0.6, 10.0, 1.0, 10.0, 0.2, 1.0),
        "decode_recurrence": (0.3, 0.8, 2.0, 1.0, 1.0, 0.2, 1.0),
        "quantise": (0.5, 0.6, 2.0, 1.0, 1.0, 0.2, 1.0),
        "scaling": (0.5, 0.6, 7.0, 1.0, 1.0, 0.2, 1.0),
    }
)
"""Of each kind: compute, memory, floor (µs), ramp (rows or keys), narrow, overlap, thin."""
WEIGHTS: Prior = (0.3, 0.3, 1.0, 0.15, 0.3, 0.15, 0.15)
"""Of one prior, against one row's log error."""

LOW: Prior = (0.02, 0.02, 0.05, 0.01, 0.01, 1e-3, 0.1)
HIGH: Prior = (1.0, 1.0, 60.0, 5000.0, 5000.0, 1.0, 50000.0)
MOST: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "gemm": (0.95, 0.92),
        "experts": (0.85, 0.92),
        "absorb": (0.8, 0.92),
        "prefill_attention": (0.85, 0.92),
        "prefill_mla": (0.85, 0.92),
        "decode_attention": (0.85, 0.92),
        "decode_mla": (0.85, 0.92),
        "memory": (0.95, 0.92),
        "prefill_recurrence": (0.85, 0.92),
        "decode_recurrence": (0.85, 0.92),
        "quantise": (0.95, 0.92),
        "scaling": (0.95, 0.92),
    }
)
"""The most of peak and of HBM that public kernels of a kind reach on long shapes: dense products
0.95 of the data sheet (A100 bf16, vLLM), FlashAttention-3 0.75 on Hopper (arXiv 2407.08608) and
the best attention row of any GPU here 0.85, FlashMLA 0.67 of compute and 0.9 of HBM (H800), reads
of HBM 0.92 (STREAM-like copies). One table (A100, TensorRT-LLM decode attention) claims 1.3 × HBM;
nothing else passes this."""
NEAR = 0.985
"""Of a bound's logarithmic range: closer than this to it and a parameter lies on it."""


def bounds(kind: str) -> tuple[Floats, Floats]:
    """Return the logarithms of the least and the most each parameter of a kind may be."""
    high = np.array([*MOST[kind], *HIGH[2:]])
    return np.log(np.array(LOW)), np.log(high)


def started(kind: str) -> Floats:
    """Return the logarithms of a kind's priors, inside its bounds."""
    low, high = bounds(kind)
    start: Floats = np.clip(np.log(np.array(PRIORS[kind])), low + 1e-9, high - 1e-9)
    return start


def curve_of(kind: str, x: Floats) -> Curve:
    """Return the curve of a kind that seven logarithms stand for, in four digits."""
    compute, memory, floor, ramp, narrow, overlap, thin = (rounded(float(v)) for v in np.exp(x))
    return Curve(
        compute=min(compute, 1.0),
        memory=min(memory, 1.0),
        floor_s=floor * 1e-6,
        ramp=ramp,
        narrow=narrow,
        overlap=min(overlap, 1.0),
        thin=thin if kind in THIN else 0.0,
    )


def logs_of(curve: Curve) -> Floats:
    """Return the seven logarithms of a curve."""
    values = (
        *(curve.compute, curve.memory, curve.floor_s * 1e6),
        *(curve.ramp, curve.narrow, curve.overlap, curve.thin),
    )
    logs: Floats = np.log(np.maximum(np.array(values), 1e-9))
    return logs


def on_bound(kind: str, curve: Curve) -> list[str]:
    """Return the parameters of a curve that the bounds of its kind hold, not its rows."""
    low, high = bounds(kind)
    share = (logs_of(curve) - low) / (high - low)
    return [
        name
        for name, at in zip(PARAMETERS, share, strict=True)
        if (at > NEAR or at < 1.0 - NEAR) and (name != "thin" or kind in THIN)
    ]


def rounded(value: float, digits: int = 4) -> float:
    """Return ``value`` in so many significant digits."""
    return float(f"{value:.{digits}g}")

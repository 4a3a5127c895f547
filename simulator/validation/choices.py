"""Modelling choices judged on serving runs that had no say in them.

Each of :data:`CHOICES` names what the model would be otherwise. Runs are simulated both ways, and
for every source, engine, GPU and model the others' runs decide between the two, by their median
absolute error: what the choice is worth is what it comes to on the runs left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from simulator.latency.engine import Engine
from simulator.latency.roofline import Roofline
from simulator.validation.score import Scored

PREFIX = "otherwise_"
"""Before a choice's name and the name of a set predicted without it."""
SETS = ("e2e_disagg_tpot", "e2e_agg_tpot", "e2e_throughput")
LEFT_OUT = ("source", "engine", "gpu", "model")
"""What runs are left out by."""
ROWS = 400
"""About so many runs are simulated otherwise, spread over the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One choice: its ``title``, and the latency model without it.

    It touches mixtures of experts alone where ``sparse``, attention-DP alone where ``wide``, and
    weights in FP8 of one scale a tensor alone where ``fp8``.
    """

    title: str
    otherwise: Callable[[Roofline], Roofline]
    sparse: bool = False
    wide: bool = False
    fp8: bool = False


def _serving(change: Callable[[Engine], Engine]) -> Callable[[Roofline], Roofline]:
    """Return the change of a latency model that changes its serving engine so."""
    return lambda latency: replace(latency, engine=change(latency.profile))


CHOICES: Mapping[str, Choice] = MappingProxyType(
    {
        "companions": Choice(
            title="small kernels beside products and attention (1.7 µs), otherwise none",
            otherwise=_serving(lambda engine: replace(engine, companion_s=0.0)),
        ),
        "companions_double": Choice(
            title="small kernels of 1.7 µs, otherwise of 3.4 µs",
            otherwise=_serving(
                lambda engine: replace(engine, companion_s=2.0 * engine.companion_s)
            ),
        ),
        "shared_beside": Choice(
            title="shared experts beside the routed ones, otherwise after them",
            otherwise=_serving(lambda engine: replace(engine, shared_beside=False)),
            sparse=True,
        ),
        "even_experts": Choice(
            title="busiest of 32 ranks at 1.49 times the mean, otherwise equally popular experts",
            otherwise=lambda latency: replace(latency, moe_skew=1.0),
            sparse=True,
        ),
        "steep_experts": Choice(
            title="busiest of 32 ranks at 1.49 times the mean, otherwise at 2.2",
            otherwise=lambda latency: replace(latency, moe_skew=2.2),
            sparse=True,
        ),
        "host": Choice(
            title="vLLM's host after the GPU, otherwise beside it (asynchronous scheduling)",
            otherwise=_serving(lambda engine: replace(engine, overlap_scheduling=True)),
        ),
        "host_double": Choice(
            title="the host's time per sequence (9 to 15 µs), otherwise twice as long",
            otherwise=_serving(lambda engine: replace(engine, sequence_s=2.0 * engine.sequence_s)),
        ),
        "rank_wait": Choice(
            title="vLLM's data-parallel ranks wait for each other, otherwise not",
            otherwise=_serving(lambda engine: replace(engine, rank_wait=0.0)),
            wide=True,
        ),
        "moe_backend": Choice(
            title="experts by the backend that scripts name, otherwise the engine's own",
            otherwise=lambda latency: replace(latency, moe_backend=None),
            sparse=True,
        ),
        "fp8_scales": Choice(
            title="FP8 products by known scales, otherwise finding them in every call",
            otherwise=_serving(
                lambda engine: replace(engine, fp8_scales=engine.fp8_scales and "dynamic")
            ),
            fp8=True,
        ),
    }
)
"""The choices that serving runs can judge, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What the rest of the rows decides for each of ``groups`` left out.

    ``error`` is the median of what it decided, in percent, on the rows left out (``None`` of a
    single group: there is no rest), ``agree`` for how many groups it decided for the choice, and
    ``better`` in how many the choice is no worse.
    """

    groups: int
    error: float | None
    agree: int
    better: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a choice comes to on one set of ``rows``, in percent of absolute error.

    ``ours`` and ``other`` are the medians with and without it, ``left_out`` what comes of it by
    each of :data:`LEFT_OUT`.
    """

    name: str
    set: str
    rows: int
    ours: float
    other: float
    left_out: Mapping[str, LeftOut]


def touches(name: str, *, sparse: bool, wide: bool, fp8: bool) -> bool:
    """Tell whether a choice matters for a model, layouts and weights such as these."""
    choice = CHOICES[name]
    asked = ((sparse, choice.sparse), (wide, choice.wide), (fp8, choice.fp8))
    return all(has or not wanted for has, wanted in asked)


def without(latency: Roofline, name: str) -> Roofline | None:
    """Return the latency model without a choice; ``None`` where its engine never made it."""
    other = CHOICES[name].otherwise(latency)
    same = replace(other, engine=other.profile) == replace(latency, engine=latency.profile)
    return None if same else other


def judged(rows: Sequence[Scored]) -> Iterator[Judged]:
    """Yield every choice that ``rows`` have both ways, by set."""
    found = {(row.set, row.row): row for row in rows if row.error_pct is not None}
    for name in CHOICES:
        for kind in SETS:
            pairs = [
                (found[kind, number], row)
                for (of, number), row in found.items()
                if of == f"{PREFIX}{name}_{kind}" and (kind, number) in found
            ]
            if pairs:
                yield judge(name, kind, pairs)


def verdict(found: Sequence[Judged]) -> str:
    """Return what all that was found of one choice says of it, by the groups left out.

    It carries over where the rest decides for it, and it is no worse, in more than two of three;
    the other way is better where both are so in fewer than one of three; otherwise it is open.
    """
    told = [each for one in found for each in one.left_out.values() if each.error is not None]
    groups = sum(each.groups for each in told)
    agree, better = sum(each.agree for each in told), sum(each.better for each in told)
    if not groups:
        return "nothing could be left out"
    counts = f"decided for in {agree}, no worse in {better} of {groups}"
    if 3 * min(agree, better) > 2 * groups:
        return f"carries over ({counts})"
    if 3 * max(agree, better) < groups:
        return f"the other way does better ({counts})"
    return f"open ({counts})"


def judge(name: str, kind: str, pairs: Sequence[tuple[Scored, Scored]]) -> Judged:
    """Return what a choice comes to on the rows that are scored ``(with, without)`` it."""
    errors = np.array([[abs(each.error_pct or 0.0) for each in pair] for pair in pairs])
    left_out = {by: _left_out([getattr(ours, by) for ours, _ in pairs], errors) for by in LEFT_OUT}
    ours, other = _medians(errors)
    return Judged(
        name=name,
        set=kind,
        rows=len(pairs),
        ours=ours,
        other=other,
        left_out=left_out,
    )


def _left_out(labels: Sequence[str], errors: NDArray[np.float64]) -> LeftOut:
    """Return what the rest decides for every group of rows with one label, and what comes of it."""
    of = np.array(labels)
    names = np.unique(of)
    told = np.empty(len(errors))
    agree = better = 0
    for name in names if len(names) > 1 else ():
        there = of == name
        rest, here = _medians(errors[~there]), _medians(errors[there])
        told[there] = errors[there, 0 if rest[0] <= rest[1] else 1]
        agree += rest[0] <= rest[1]
        better += here[0] <= here[1]
    error = float(np.median(told)) if len(names) > 1 else None
    return LeftOut(groups=len(names), error=error, agree=agree, better=better)


def _medians(errors: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.median(errors[:, 0])), float(np.median(errors[:, 1]))

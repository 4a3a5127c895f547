"""Why claims do not hold: the same figures with one assumption changed at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.explore.paper import layouts, ratios
from simulator.explore.paper.claims import Claim, Numbers
from simulator.explore.paper.laboratory import FP4, Assumptions, Laboratory
from simulator.latency.collectives import MULTICAST
from simulator.latency.efficiency import Curve, Efficiency
from simulator.latency.machine import Machine
from simulator.latency.roofline import Roofline

START_RANKS = 16
"""The most GPUs whose all-reduces were measured."""


@dataclass(frozen=True, kw_only=True)
class Altered(Roofline):
    """The roofline of a machine that is changed in one way."""

    altered: Callable[[Machine], Machine] = field(default=lambda machine: machine)

    def machine(self, gpu: GPU, fabric: Fabric) -> Machine:
        """Return the changed machine."""
        changed: Machine = self.altered(super().machine(gpu, fabric))
        return changed


class Tried(NamedTuple):
    """What became of one claim with one assumption changed: ``what`` says which."""

    id: str
    what: str
    held: bool
    numbers: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One assumption changed, and what of which claims is told of it.

    ``shown`` are the numbers told of each claim, ``draw`` returns claims in a changed laboratory.
    """

    what: str
    assumed: Assumptions = field(default_factory=Assumptions)
    draw: Iterable[Callable[[Laboratory], Iterable[Claim]]]
    shown: Mapping[str, tuple[str, ...]]

    def tried(self, lab: Laboratory) -> Iterator[Tried]:
        """Yield what becomes of the claims."""
        changed = lab.assuming(self.assumed)
        for drawn in self.draw:
            for claim in drawn(changed):
                if claim.id in self.shown:
                    numbers = {name: claim.numbers[name] for name in self.shown[claim.id]}
                    yield Tried(claim.id, self.what, bool(claim.held), numbers)
        lab.points += changed.points


def without_floors(machine: Machine) -> Machine:
    """Return a machine whose kernels take no time beside what they compute and move."""

    def bare(curve: Curve) -> Curve:
        return replace(curve, floor_s=0.0)

    kernels = {
        kind: {dtype: bare(curve) for dtype, curve in curves.items()}
        for kind, curves in machine.efficiency.kernels.items()
    }
    return replace(machine, efficiency=replace(machine.efficiency, kernels=kernels), companion_s=0)


def equal_starts(machine: Machine) -> Machine:
    """Return a machine whose all-reduces over a rack all start as the widest measured one."""
    efficiency: Efficiency = machine.efficiency
    flat = {
        name: replace(
            curve,
            alpha_s=curve.alpha_s + (START_RANKS - 1) * curve.rank_alpha_s,
            rank_alpha_s=0.0,
        )
        for name, curve in efficiency.collectives.items()
        if name in MULTICAST
    }
    collectives = {**efficiency.collectives, **flat}
    return replace(machine, efficiency=replace(efficiency, collectives=collectives))


def _ratios(lab: Laboratory) -> Iterable[Claim]:
    return ratios.F9.draw(lab).claims


def _fixed(lab: Laboratory) -> Iterable[Claim]:
    return ratios.F10.draw(lab).claims


def _layouts(lab: Laboratory) -> Iterable[Claim]:
    return layouts.T.draw(lab).claims


IN_16_BITS = replace(FP4, attention="bf16", attention_activations="bf16")
"""DeepSeek-R1 as nvidia/DeepSeek-R1-0528-NVFP4 stores it: its hf_quant_config.json leaves all of
self_attn and the head in 16 bits, and has KV in FP8."""

CHANGES = (
    Change(
        what="prompts take twice as long",
        assumed=Assumptions(prefill_scale=2.0),
        draw=(_ratios, _fixed),
        shown=MappingProxyType({"F9c": ("loose", "tight"), "F10a": ("best_loose", "mean_tight")}),
    ),
    Change(
        what="prompts are computed with experts spread over at least 8 GPUs",
        assumed=Assumptions(prefill_ep=8),
        draw=(_ratios,),
        shown=MappingProxyType({"F9c": ("loose", "tight")}),
    ),
    Change(
        what="prompts are computed with experts spread over at least 16 GPUs, and all exchange by "
        "plain collectives, as TensorRT-LLM does without its all-to-all kernels",
        assumed=Assumptions(prefill_ep=16, latency=Roofline(expert_exchange="all_gather")),
        draw=(_ratios, _fixed),
        shown=MappingProxyType(
            {"F9c": ("loose", "tight"), "F10a": ("own_ratio", "best_loose", "mean_tight")}
        ),
    ),
    Change(
        what="attention's projections in BF16, as in NVIDIA's NVFP4 checkpoint of DeepSeek-R1",
        assumed=Assumptions(mla_precision=IN_16_BITS),
        draw=(_ratios,),
        shown=MappingProxyType({"F9c": ("loose", "tight")}),
    ),
    Change(
        what="KV in FP4",
        assumed=Assumptions(precision=replace(FP4, kv="nvfp4")),
        draw=(_ratios,),
        shown=MappingProxyType({"F9c": ("loose", "tight")}),
    ),
    Change(
        what="kernels without the least time that each takes",
        assumed=Assumptions(latency=Altered(altered=without_floors)),
        draw=(_layouts,),
        shown=MappingProxyType({"Td": ("tp_loose", "tp_tight")}),
    ),
    Change(
        what="all-reduces over more GPUs start no later than over 16",
        assumed=Assumptions(latency=Altered(altered=equal_starts)),
        draw=(_layouts,),
        shown=MappingProxyType({"Td": ("tp_loose", "tp_tight")}),
    ),
    Change(
        what="all experts equally popular, and every rank hit as often",
        assumed=Assumptions(latency=Roofline(moe_skew=1.0, busiest_rank=False)),
        draw=(_layouts,),
        shown=MappingProxyType({"Tc": ("share_with_ep",)}),
    ),
)
"""What is tried for the claims that do not hold."""


def tried(lab: Laboratory, ids: Iterable[str]) -> list[Tried]:
    """Return what becomes of these claims by each change, in the claims' order."""
    wanted = list(ids)
    changes = [each for each in CHANGES if set(each.shown) & set(wanted)]
    found = [one for each in changes for one in each.tried(lab) if one.id in wanted]
    return sorted(found, key=lambda one: wanted.index(one.id))

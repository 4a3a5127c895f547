"""What lies on the decode front as TTL tightens (T), and what NVLink domains add to it (F11)."""

from itertools import pairwise

import numpy as np
import polars as pl

from simulator.explore.paper.claims import Numbers, Sheet, Statement, Verdict
from simulator.explore.paper.curves import common_ratio, ratio_on, series, spanned_grid
from simulator.explore.paper.laboratory import LARGE, NAMES, R1, K, Laboratory, paper_space
from simulator.explore.space import Floats, Lengths

PROMPTS = Lengths.constant(16 * K, 2 * K)

# --- T ----------------------------------------------------------------------------------------

Curves = dict[str, pl.DataFrame]


def _decode_fronts(lab: Laboratory) -> Curves:
    return {
        NAMES[R1]: lab.decode_front(paper_space(lab.platform(R1), PROMPTS)),
        NAMES[LARGE]: lab.decode_front(paper_space(lab.platform(LARGE), PROMPTS)),
    }


def _at_ends(curve: pl.DataFrame, *columns: str) -> dict[str, int]:
    """Return columns at the loose and at the tight end of a front."""
    ends = {"loose": curve.row(0, named=True), "tight": curve.row(-1, named=True)}
    return {f"{name}_{end}": row[name] for end, row in ends.items() for name in columns}


def _batch_falls(fronts: Curves) -> Verdict:
    at = _at_ends(fronts[NAMES[R1]], "batch", "gpus")
    held = at["batch_loose"] / at["gpus_loose"] >= 100 and at["batch_tight"] <= 10
    return Verdict(held, {**at})


def _attention_moves(fronts: Curves) -> Verdict:
    at = _at_ends(fronts[NAMES[R1]], "attention_dp", "tp", "ep", "pp")
    held = at["attention_dp_loose"] > at["tp_loose"] and at["tp_tight"] > at["attention_dp_tight"]
    return Verdict(held, {**at})


def _experts_are_spread(fronts: Curves) -> Verdict:
    front = fronts[NAMES[R1]]
    without = front.filter(pl.col("ep") == 1)
    numbers: Numbers = {"share_with_ep": 1.0 - len(without) / len(front)}
    if len(without):
        numbers["largest_batch_without_ep"] = float(np.max(without["batch"].to_numpy()))
    return Verdict(not len(without), numbers)


def _tp_widens(fronts: Curves) -> Verdict:
    at = _at_ends(fronts[NAMES[LARGE]], "tp")
    return Verdict(at["tp_loose"] <= 4 and at["tp_tight"] >= 32, {**at})


T = Sheet(
    id="T",
    title="16k/2k: batch along the decode front",
    gather=_decode_fronts,
    curves=lambda fronts: series(**fronts),
    y="batch",
    statements=(
        Statement(
            id="Ta",
            claim="DeepSeek-R1: as TTL tightens the batch falls from hundreds (per GPU) to a few",
            judge=_batch_falls,
        ),
        Statement(
            id="Tb",
            claim="DeepSeek-R1: attention moves from data-parallel to tensor-parallel",
            judge=_attention_moves,
        ),
        Statement(
            id="Tc",
            claim="DeepSeek-R1: EP within the NVLink domain is always preferred (EP > 1 on every "
            "point of the front)",
            judge=_experts_are_spread,
            reason="it is on all points but the tightest, of small batches: a rank that more of "
            "few tokens' experts fall to reads more of them than a shard of each. Kernels were "
            "measured so: on GB200, for 4 and 8 tokens routed by a power law, 30 and 43 µs of an "
            "eighth of every expert, 42 and 59 of the busiest rank's 32 of 256 (AIConfigurator "
            "core 0.12.0, SGLang 0.5.14 in NVFP4). Were experts alike and every rank hit as often, "
            "it would be on all",
        ),
        Statement(
            id="Td",
            claim="Llama-70B: TP widens from 2 to 64 (from at most 4 to at least 32)",
            judge=_tp_widens,
            reason="TP 32 and 64 read weights sooner, but an all-reduce starts the later the more "
            "GPUs it joins: 0.08 µs later for each, measured among 8 and 16. The line through "
            "these meets NCCL's 6.3 µs among 32 (NVIDIA/nccl-tests issue 333), and NCCL's own fits "
            "for Blackwell have 0.103 µs a rank of a multicast gather, or 0.074 and 0.056 of the "
            "two halves where the switch reduces (NVIDIA/nccl, src/tuning/sym_model/lsa_a2a.cc). "
            "At less than about 0.06 TP 32 would be the tightest, and TP 64 if all started as "
            "those of 16 do. Messages this small among more than 32 GPUs were not found measured: "
            "engines' pull requests end at 16, logs of whole racks by CoreWeave and Oracle begin "
            "at 512 MiB and 512 KiB",
        ),
    ),
)


# --- F11 --------------------------------------------------------------------------------------

DOMAINS = (8, 16, 32, 72)
HELPS = 1.02
"""A gain above this counts."""
ByDomain = dict[str, list[pl.DataFrame]]
"""By model, the disaggregated front for each size of the NVLink domain."""

AFTERWARDS = (
    "the region was settled after a first look: it is the range of interactivities that the "
    "fronts span, and its thirds; a first definition over a wider range had failed"
)
"""What is said of claims whose region was not fixed before the curves were seen."""


def _by_domain(lab: Laboratory) -> ByDomain:
    return {
        NAMES[model]: [_front_of(lab, model, domain) for domain in DOMAINS] for model in (R1, LARGE)
    }


def _front_of(lab: Laboratory, model: str, domain: int) -> pl.DataFrame:
    platform = lab.platform(model, domain=domain)
    return lab.split_front(paper_space(platform, PROMPTS, across_domains=True))


def _domain_curves(found: ByDomain) -> pl.DataFrame:
    named = {
        f"{name}, {domain} GPUs": curve
        for name, fronts in found.items()
        for domain, curve in zip(DOMAINS, fronts, strict=True)
    }
    return series(**named)


def _place(fronts: list[pl.DataFrame]) -> tuple[Floats, Floats]:
    """Return interactivities, and what the largest domain gains over the smallest there."""
    grid = spanned_grid(fronts[-1], fronts[0])
    return grid, ratio_on(grid, fronts[-1], fronts[0])


def _thirds(fronts: list[pl.DataFrame]) -> tuple[list[float], Numbers]:
    """Return the mean gain in each third of the interactivities, and that in numbers."""
    grid, gain = _place(fronts)
    means = [float(part.mean()) for part in np.array_split(gain, 3)]
    return means, {
        "mean_gain_by_third": means,
        "most_at": float(grid[gain.argmax()]),
        "share_helped": _helped(grid, gain),
    }


def _helped(grid: Floats, gain: Floats) -> float:
    """Return the share of the interactivities at which a larger domain gains more than 2 %."""
    return float((gain > HELPS).sum() / len(grid))


def _by_step(fronts: list[pl.DataFrame]) -> list[float]:
    """Return the share of interactivities at which each next larger domain helps."""
    shares = []
    for smaller, larger in pairwise(fronts):
        grid = spanned_grid(larger, smaller)
        shares.append(_helped(grid, ratio_on(grid, larger, smaller)))
    return shares


def _larger_helps(found: ByDomain) -> Verdict:
    least = {
        name: float(common_ratio(fronts[-1], fronts[0]).min()) for name, fronts in found.items()
    }
    shares = {name: _helped(*_place(fronts)) for name, fronts in found.items()}
    numbers: Numbers = {}
    for name, fronts in found.items():
        numbers |= {
            f"least_ratio {name}": least[name],
            f"most_gain {name}": float(_place(fronts)[1].max()),
            f"share_helped {name}": shares[name],
            f"reach {name}": _reach(fronts[-1]) / _reach(fronts[0]),
            f"share_helped_by_step {name}": _by_step(fronts),
        }
    return Verdict(min(least.values()) >= 0.97 and min(shares.values()) > 0.0, numbers)


def _reach(front: pl.DataFrame) -> float:
    """Return the highest interactivity of a front."""
    return float(np.max(front["interactivity"].to_numpy()))


def _experts_gain_in_the_middle(found: ByDomain) -> Verdict:
    means, numbers = _thirds(found[NAMES[R1]])
    return Verdict(means[1] == max(means) > HELPS, numbers)


def _tp_gains_when_tight(found: ByDomain) -> Verdict:
    means, numbers = _thirds(found[NAMES[LARGE]])
    return Verdict(means[2] == max(means) > HELPS, numbers)


F11 = Sheet(
    id="F11",
    title="16k/2k: the disaggregated front by NVLink domain",
    gather=_by_domain,
    curves=_domain_curves,
    statements=(
        Statement(
            id="F11a",
            claim="A larger NVLink domain always helps the disaggregated front (one of 72 GPUs, "
            "against 8, is better by 2 % somewhere and worse nowhere by more than the matching's "
            "3 %)",
            judge=_larger_helps,
            reason="a domain of 72 adds nothing to what Llama-70B does with 8 GPUs",
            note="the paper's figure has these two sizes (so the reading of it in "
            "github.com/wendadawen/dojo, wiki/beyond-buzz-disaggregation/research/review-3.md), "
            "which was found after each of 8, 16, 32 and 72 had been asked to help over the one "
            "before (by step): DeepSeek-R1's do, and Llama-70B uses no TP beyond 16 (Td). What it "
            "gains is at few of the interactivities that both span, by reaching further. The "
            "region was settled after a first look too: the range that the fronts span",
        ),
        Statement(
            id="F11b",
            claim="DeepSeek-R1 gains most at medium latency, by wider EP (the middle third of the "
            "interactivities its fronts span, more than 2 % on average)",
            judge=_experts_gain_in_the_middle,
            note=AFTERWARDS,
        ),
        Statement(
            id="F11c",
            claim="Llama-70B gains most at low latency, by wider TP (the highest third, more than "
            "2 % on average)",
            judge=_tp_gains_when_tight,
            reason="this model hardly uses TP beyond 8 for it: starting a collective over more "
            "GPUs costs more than the narrower shards save",
            note=f"{AFTERWARDS}. All of the gain is at the end of what domains of 8 reach, at a "
            "twentieth of these interactivities, and what only larger ones reach is not counted",
        ),
    ),
)

"""Prompts in chunks: through a pipeline (figure F5), and beside decodes (figure F6)."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from simulator.explore.evaluate import collect, prefill_points
from simulator.explore.paper.claims import Sheet, Statement, Verdict, rounded
from simulator.explore.paper.curves import mean_gain, series
from simulator.explore.paper.laboratory import (
    LARGE,
    NAMES,
    R1,
    WORKER_GPUS,
    Fronts,
    K,
    Laboratory,
)
from simulator.explore.space import Floats, Lengths, Space
from simulator.layout import Layout

# --- F5 ---------------------------------------------------------------------------------------

STAGES = (1, 2, 4, 8, 16, 32)


def _pipelines(lab: Laboratory) -> pl.DataFrame:
    """Return the fastest prefill of 256k tokens on 64 GPUs for each number of stages."""
    isl = 256 * K
    platform = lab.platform(R1)
    longer = replace(platform.model, max_context=2 * isl)  # the paper goes past the model's own
    wide = tuple(_stages_of_experts(pp) for pp in STAGES)
    space = Space(
        platform=replace(platform, model=longer), lengths=Lengths.constant(isl, 2), layouts=wide
    )
    points = collect(prefill_points(space))
    lab.count("DeepSeek-R1 256k prefill", len(points))
    fastest = points.sort("ttft_s").group_by("pp", maintain_order=True).first().sort("pp")
    return fastest.with_columns(
        (pl.col("rate") * isl / pl.col("gpus")).alias("tokens_per_gpu"),
        pl.lit("EP × PP = 64").alias("series"),
    )


def _stages_of_experts(pp: int) -> Layout:
    ranks = WORKER_GPUS // pp
    return Layout(pp=pp, attention_dp=ranks, ep=ranks, chunked_pipeline=pp > 1)


def _latency_falls(curves: pl.DataFrame) -> Verdict:
    column = {name: curves[name].to_numpy() for name in ("pp", "ttft_s", "tokens_per_gpu", "chunk")}
    ftl = column["ttft_s"]
    falls = bool((np.diff(ftl) < 0).all()) and ftl[0] > 10 * ftl[-1]
    named = zip(("pp", "ftl_s", "tokens_per_gpu", "chunk"), column.values(), strict=True)
    return Verdict(
        len(ftl) == len(STAGES) and falls, {name: rounded(values) for name, values in named}
    )


def _throughput_stays(curves: pl.DataFrame) -> Verdict:
    tokens: Floats = curves["tokens_per_gpu"].to_numpy()
    share = tokens / tokens.mean()
    held = bool((np.abs(share - 1.0) <= 0.25).all())
    return Verdict(held, {"least_over_mean": share.min(), "most_over_mean": share.max()})


F5 = Sheet(
    id="F5",
    title="DeepSeek-R1: prefill of 256k tokens on 64 GPUs",
    gather=_pipelines,
    curves=lambda curves: curves,
    x="pp",
    y="ttft_s",
    statements=(
        Statement(
            id="F5a",
            claim="As PP grows from 1 to 32, FTL falls by more than an order of magnitude",
            judge=_latency_falls,
        ),
        Statement(
            id="F5b",
            claim="Tokens/s/GPU stays about the same (all within 25 % of their mean)",
            judge=_throughput_stays,
        ),
    ),
)


# --- F6 ---------------------------------------------------------------------------------------


class Piggybacking(NamedTuple):
    """Fronts at 16k/2k by model, and the share of time that 1k chunks add to a prompt."""

    fronts: dict[str, Fronts]
    added: dict[str, float]

    @property
    def loss(self) -> dict[str, float]:
        """Share of throughput lost to a chunk beside every step, against prompts computed whole."""
        return {
            name: 1.0 - mean_gain(each.steady, each.whole) for name, each in self.fronts.items()
        }

    @property
    def loss_by_any_mix(self) -> dict[str, float]:
        """What is lost where chunks may be larger, in some of the steps."""
        return {
            name: 1.0 - mean_gain(each.chunked, each.whole) for name, each in self.fronts.items()
        }


CASES = (
    ("DeepSeek-R1", R1, False),
    ("DeepSeek-R1, up-projection cached", R1, True),
    ("Llama-3.1-70B", LARGE, False),
)
"""What is compared: its name, the model, and whether it keeps what it has up-projected."""


def _piggybacking(lab: Laboratory) -> Piggybacking:
    fronts = {
        name: lab.fronts_and_steady(model, 16 * K, 2 * K, cached=cached)
        for name, model, cached in CASES
    }
    return Piggybacking(fronts, {name: _chunk_cost(lab, name, 16 * K, 1 * K) for name in fronts})


def _chunk_cost(lab: Laboratory, name: str, isl: int, chunk: int) -> float:
    """Return the share of time that chunks add to a prompt on one stage of 8 GPUs."""
    dense = name == NAMES[LARGE]
    space = Space(
        platform=lab.platform(LARGE if dense else R1, cached="cached" in name),
        lengths=Lengths.constant(isl, 2),
        prompt_batches=(1,),
        chunks=(chunk,),
        layouts=(Layout(tp=8) if dense else Layout(attention_dp=8, ep=8),),
    )
    points = collect(prefill_points(space)).sort("chunk")
    lab.count(name, len(points))
    return float(points["ttft_s"][1] / points["ttft_s"][0]) - 1.0


def _chunk_curves(found: Piggybacking) -> pl.DataFrame:
    steady = {f"{name}: chunks piggybacked": each.steady for name, each in found.fronts.items()}
    whole = {f"{name}: whole prompts": each.whole for name, each in found.fronts.items()}
    return series(**steady, **whole)


def _hurts_mla_most(found: Piggybacking) -> Verdict:
    loss = found.loss
    mla, _, gqa = loss.values()
    return Verdict(
        mla > 0.01 and mla >= 2.0 * max(gqa, 0.0),
        {
            **{f"loss {name}": share for name, share in loss.items()},
            **{f"loss by any mix {n}": share for n, share in found.loss_by_any_mix.items()},
            **{f"time 1k chunks add to prefill {n}": share for n, share in found.added.items()},
        },
    )


def _cache_mitigates(found: Piggybacking) -> Verdict:
    mla, cached, _ = found.loss.values()
    added, added_cached, _ = found.added.values()
    return Verdict(
        cached < mla and added_cached < added,
        {
            "loss": mla,
            "loss_cached": cached,
            "time_1k_chunks_add": added,
            "time_1k_chunks_add_cached": added_cached,
        },
    )


RIDING = (
    "what piggybacking may be was settled after a first look. In the paper's figure 6 its front "
    "lies far below the co-located one of DeepSeek-R1 and near that of Llama-70B (so the readings "
    "of it in github.com/wendadawen/dojo, wiki/beyond-buzz-disaggregation/research), which it "
    "could not where most steps may go without a chunk: chunks of 2,048 tokens and more in few of "
    "the steps are as good as prompts computed whole, and nothing is lost (by any mix). So it is a "
    "chunk beside every decode step, as small as keeps up"
)
"""What is said of claims about piggybacking."""

F6 = Sheet(
    id="F6",
    title="16k/2k: piggybacking under MLA and GQA",
    gather=_piggybacking,
    curves=_chunk_curves,
    statements=(
        Statement(
            id="F6a",
            claim="16k/2k: piggybacking chunks hurts DeepSeek-R1 far more than Llama-70B (with a "
            "chunk beside every decode step it loses at least 1 % of throughput, and at least "
            "twice as much of it)",
            judge=_hurts_mla_most,
            reason="chunks as small as keep up redo less of DeepSeek-R1's prompts here",
            note=RIDING,
        ),
        Statement(
            id="F6b",
            claim="Caching the up-projected KV mitigates the penalty (less throughput is lost, "
            "and chunks add less time to a prompt)",
            judge=_cache_mitigates,
            reason="what chunks cost here is not the up-projection (see F6a)",
        ),
    ),
)

"""Where the paper's experiments are made: its hardware and models, and what was explored so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import polars as pl

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.explore.colocated import colocated_points
from simulator.explore.costs import Costs
from simulator.explore.evaluate import collect, decode_points, prefill_points
from simulator.explore.match import (
    CLUSTER,
    FTL_CUTOFF_S,
    choose_prefill,
    colocated,
    prefill_front,
    within,
)
from simulator.explore.paper.curves import mean_gain
from simulator.explore.pareto import front, pareto
from simulator.explore.space import Lengths, Platform, Space
from simulator.explore.study import Study, study
from simulator.latency.roofline import Roofline
from simulator.layout import Layout, Precision
from simulator.model import Model

R1, SMALL, LARGE, HUGE = "deepseek_r1", "llama_3_1_8b", "llama_3_1_70b", "llama_3_1_405b"
MODELS = (R1, SMALL, LARGE, HUGE)
NAMES = {R1: "DeepSeek-R1", SMALL: "Llama-3.1-8B", LARGE: "Llama-3.1-70B", HUGE: "Llama-3.1-405B"}
FP4 = Precision(weights="nvfp4", activations="nvfp4", kv="fp8")
K = 1024
WORKER_GPUS = 64


class Fronts(NamedTuple):
    """The fronts of a study: disaggregated, and the co-located ones.

    ``steady``, where it is asked for, has a chunk beside every decode step; the others with
    piggybacking have any mix.
    """

    split: pl.DataFrame
    mixed: pl.DataFrame
    whole: pl.DataFrame
    piggybacked: pl.DataFrame
    chunked: pl.DataFrame
    steady: pl.DataFrame = pl.DataFrame()

    @property
    def gain(self) -> float:
        """Mean throughput of disaggregated over the best co-located deployments."""
        return mean_gain(self.split, self.mixed)


def paper_space(platform: Platform, lengths: Lengths, *, across_domains: bool = False) -> Space:
    """Return the paper's space: powers of two up to 64 GPUs, experts whole or as dense layers.

    What counts is the mean TPOT, as there.
    """
    every = Space(
        platform=platform,
        lengths=lengths,
        worker_gpus=WORKER_GPUS,
        across_domains=across_domains,
        attainment=0.5,  # means
        longest_gap=None,
    )
    return replace(every, layouts=tuple(each for each in every.layouts if _in_the_paper(each)))


def _in_the_paper(layout: Layout) -> bool:
    powers = layout.gpus & (layout.gpus - 1) == 0
    sharded = layout.ep == layout.attention_dp == 1
    return powers and (sharded or layout.expert_tp == 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What the paper's experiments assume here, to be changed one at a time.

    ``precision`` that models are stored and computed in, those of latent attention in
    ``mla_precision`` where it is given, the ``latency`` model, how many times as
    long prompts take (``prefill_scale``), and the least expert parallelism that they are computed
    with where there are experts (``prefill_ep``).
    """

    precision: Precision = FP4
    mla_precision: Precision | None = None
    latency: Roofline = field(default_factory=Roofline)
    prefill_scale: float = 1.0
    prefill_ep: int = 1

    def stored(self, model: Model) -> Precision:
        """Return the precision of a model."""
        latent = self.mla_precision if model.attention == "mla" else None
        return latent or self.precision

    def prefill(self, space: Space) -> Space:
        """Return the space that prefill is looked for in, where decode's is ``space``."""
        platform = space.platform
        latency = replace(platform.latency, scale=self.prefill_scale)
        least = self.prefill_ep if platform.model.is_moe else 1
        return replace(
            space,
            platform=replace(platform, latency=latency),
            layouts=tuple(each for each in space.layouts if each.ep >= least),
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Laboratory:
    """The paper's hardware and models, and the studies done so far: figures share them."""

    models: Mapping[str, Model]
    gpu: GPU
    fabric: Fabric
    assumed: Assumptions = field(default_factory=Assumptions)
    progress: Callable[[str, int], None] | None = None
    points: int = 0
    _studies: dict[tuple[object, ...], Study] = field(default_factory=dict)
    _fronts: dict[tuple[object, ...], Fronts] = field(default_factory=dict)
    _steady: dict[tuple[object, ...], pl.DataFrame] = field(default_factory=dict)

    def assuming(self, assumed: Assumptions) -> "Laboratory":
        """Return one of the same hardware and models where nothing has been studied yet."""
        return Laboratory(models=self.models, gpu=self.gpu, fabric=self.fabric, assumed=assumed)

    def platform(self, model: str, *, domain: int | None = None, cached: bool = False) -> Platform:
        """Return the model on the hardware, with NVLink domains of ``domain`` GPUs."""
        fabric = self.fabric if domain is None else replace(self.fabric, domain_gpus=domain)
        return Platform(
            model=self.models[model],
            gpu=self.gpu,
            fabric=fabric,
            precision=self.assumed.stored(self.models[model]),
            latency=replace(self.assumed.latency, cache_upprojected_kv=cached),
        )

    def study(self, model: str, isl: int, osl: int, *, cached: bool = False) -> Study:
        """Return the study of constant lengths on workers of up to 64 GPUs, done at most once."""
        key = (model, isl, osl, cached)
        if key not in self._studies:
            platform, lengths = self.platform(model, cached=cached), Lengths.constant(isl, osl)
            space = paper_space(platform, lengths)
            done = study(space, prefill_space=self.assumed.prefill(space))
            self.count(f"{platform.model.name} {isl}/{osl}", done.points)
            self._studies[key] = done
        return self._studies[key]

    def fronts(self, model: str, isl: int, osl: int, *, cached: bool = False) -> Fronts:
        """Return the fronts of that study."""
        key = (model, isl, osl, cached)
        if key not in self._fronts:
            done = self.study(model, isl, osl, cached=cached)
            self._fronts[key] = Fronts(
                done.split(), done.mixed, done.whole, done.piggybacked, done.chunked
            )
        return self._fronts[key]

    def fronts_and_steady(self, model: str, isl: int, osl: int, *, cached: bool = False) -> Fronts:
        """Return those with the front of :meth:`steady`."""
        steady = self.steady(model, isl, osl, cached=cached)
        return self.fronts(model, isl, osl, cached=cached)._replace(steady=steady)

    def steady(self, model: str, isl: int, osl: int, *, cached: bool = False) -> pl.DataFrame:
        """Return the co-located front with a chunk beside every decode step, as small as keeps up.

        That is the decode-maximal batching of arXiv 2308.16369, which piggybacking has its name
        from. Its points are among those of :meth:`study`, which counts them.
        """
        key = (model, isl, osl, cached)
        if key not in self._steady:
            platform, lengths = self.platform(model, cached=cached), Lengths.constant(isl, osl)
            points = collect(colocated_points(paper_space(platform, lengths)))
            deployed = colocated(_least_chunks(points, isl), platform, lengths)
            self._steady[key] = pareto(within(deployed, ttft_s=FTL_CUTOFF_S), y=CLUSTER)
        return self._steady[key]

    def pools(self, model: str, isl: int, osl: int) -> Study:
        """Return the study of :meth:`study`, or one of its disaggregated points alone."""
        key, alone = (model, isl, osl, False), (model, isl, osl, "pools")
        if key in self._studies:
            return self._studies[key]
        if alone not in self._studies:
            lengths = Lengths.constant(isl, osl)
            self._studies[alone] = self.split(paper_space(self.platform(model), lengths))
        return self._studies[alone]

    def split_front(self, space: Space, cutoff_s: float = FTL_CUTOFF_S) -> pl.DataFrame:
        """Return the disaggregated front of a space; prompts take less than ``cutoff_s``."""
        return self.split(space, cutoff_s).split()

    def split(self, space: Space, cutoff_s: float = FTL_CUTOFF_S) -> Study:
        """Return the study of a space without its co-located points."""
        costs, prompts = Costs(space.platform), self.assumed.prefill(space)
        prefill = collect(prefill_points(prompts))
        decode = collect(decode_points(space, costs))
        self.count(f"{space.platform.model.name} disaggregated", len(prefill) + len(decode))
        nothing = pl.DataFrame()
        return Study(
            space=space,
            platforms=(space.platform,) * 2,
            prefill=choose_prefill(prefill, cutoff_s),
            prefills=prefill_front(prefill, cutoff_s),
            decode=decode,
            mixed=nothing,
            whole=nothing,
            piggybacked=nothing,
            chunked=nothing,
            points=len(prefill) + len(decode),
        )

    def decode_front(self, space: Space) -> pl.DataFrame:
        """Return the front of the decode points alone, whatever prefill would ask."""
        points = collect(decode_points(space))
        self.count(f"{space.platform.model.name} decode", len(points))
        aims = points.with_columns(
            (1.0 / pl.col("tpot_s")).alias("interactivity"),
            (pl.col("batch") / pl.col("tpot_s") / pl.col("gpus")).alias("throughput"),
        )
        return aims[front(aims["interactivity"].to_numpy(), aims["throughput"].to_numpy())]

    def count(self, what: str, points: int) -> None:
        """Add up points evaluated, and tell the progress."""
        self.points += points
        if self.progress is not None:
            self.progress(what, self.points)


def _least_chunks(points: pl.DataFrame, isl: int) -> pl.DataFrame:
    """Return the co-located points with the smallest part of a prompt that keeps a batch full."""
    chunk, batch = pl.col("chunk"), ("tp", "pp", "ep", "attention_dp", "batch")
    beside = points.filter((chunk > 0) & (chunk < isl))
    return beside.filter(chunk == chunk.min().over(*batch))

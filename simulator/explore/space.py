"""What is explored: a model on a platform, the lengths of its traffic, and how far to look."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.deployment import Transfer
from simulator.errors import ConfigError, LayoutError
from simulator.explore.degrees import Degrees
from simulator.latency.roofline import Roofline
from simulator.latency.speculative import Speculative
from simulator.layout import Layout, Precision
from simulator.model import Model

Floats = NDArray[np.float64]

CHUNKS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
"""Tokens of a prompt chunk, per attention rank."""
LONGEST_GAP = 5.0
"""TPOTs between two tokens at most: Sarathi-Serve's strict target is five times an undisturbed
decode iteration (arXiv 2403.02310, section 5)."""
TRANSFER_MODE = "push_layerwise"
"""How deployments that are looked at hand KV over."""
STRATA = 64
"""Groups of like prompts whose seconds stand for those of a whole sample."""
STEP = 1.02
"""The factor between batches that are not listed one by one."""


class Pieces(NamedTuple):
    """Chunks of a sample's prompts: means of their number, of its square, and of earlier tokens.

    The earlier tokens are those before each chunk, summed over a prompt's.
    """

    mean: float
    square: float
    earlier: float


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Prompt and output tokens of the traffic: one request, or a sample of equally likely ones.

    What design points need of a sample are a few sums over it, taken once: a large sample costs
    no more points than a small one.
    """

    isl: tuple[int, ...]
    osl: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.isl or len(self.isl) != len(self.osl):
            raise ConfigError(
                "lengths: isl and osl must be as many, at least one, but got "
                f"{len(self.isl)} and {len(self.osl)}"
            )
        for name, values in (("isl", self.isl), ("osl", self.osl)):
            if min(values) < 1:
                raise ConfigError(f"lengths: {name} must be at least 1 token but got {min(values)}")
        if max(self.osl) < 2:
            raise ConfigError(
                f"lengths: osl must be at least 2 tokens (one decoded) but got {max(self.osl)}"
            )

    @staticmethod
    def constant(isl: int, osl: int) -> "Lengths":
        """Return the lengths of traffic whose requests are all alike."""
        return Lengths(isl=(isl,), osl=(osl,))

    @cached_property
    def _prompts(self) -> Floats:
        return np.sort(np.asarray(self.isl, np.float64))

    @cached_property
    def _stays(self) -> tuple[Floats, Floats]:
        """Prompt tokens and decode iterations of each request, in the sample's order."""
        return np.asarray(self.isl, np.float64), np.asarray(self.osl, np.float64) - 1.0

    @cached_property
    def varied(self) -> bool:
        """Whether prompts differ in length."""
        return min(self.isl) < max(self.isl)

    @cached_property
    def mean_isl(self) -> float:
        """Mean prompt tokens of a request."""
        return float(np.mean(self.isl))

    @cached_property
    def mean_osl(self) -> float:
        """Mean output tokens of a request."""
        return float(np.mean(self.osl))

    @property
    def steps(self) -> float:
        """Mean decode iterations of a request: the first token comes from prefill."""
        return self.mean_osl - 1.0

    @cached_property
    def variation(self) -> float:
        """Squared coefficient of variation of prompt tokens."""
        return float(self._prompts.var() / self._prompts.mean() ** 2)

    @cached_property
    def pairs(self) -> float:
        """Mean pairs of tokens a prompt's attention looks at, however it is cut."""
        return float(np.mean(self._prompts * (self._prompts + 1.0) / 2.0))

    @cached_property
    def context(self) -> float:
        """Mean KV tokens of a sequence in a decode batch, the one being written included.

        A request stays ``osl − 1`` iterations at ``isl + 1 … isl + osl − 1`` tokens, so longer
        answers weigh more.
        """
        isl, stay = self._stays
        return _weighted(isl + (stay + 1.0) / 2.0, stay)[0]

    @cached_property
    def context_spread(self) -> float:
        """Standard deviation, over the sequences of a decode batch, of their mean KV tokens."""
        isl, stay = self._stays
        return _weighted(isl + (stay + 1.0) / 2.0, stay)[1]

    @cached_property
    def held(self) -> int:
        """KV tokens to set aside for a sequence in a decode batch: all it will ever hold."""
        isl, stay = self._stays
        return math.ceil(_weighted(isl + stay, stay)[0])

    @cached_property
    def longest(self) -> int:
        """KV tokens of the request that holds the most."""
        return max(isl + osl - 1 for isl, osl in zip(self.isl, self.osl, strict=True))

    @cached_property
    def brevity(self) -> float:
        """Mean of one over the decode iterations, of the requests that decode: 1 / steps if alike.

        What befalls a few steps weighs the more in a request's TPOT the fewer it has.
        """
        stay = self._stays[1]
        return float(np.mean(1.0 / stay[stay > 0]))

    def blocks(self, size: int) -> tuple[float, float]:
        """Return mean and standard deviation of a batched sequence's KV blocks of ``size`` tokens.

        Those of all tokens it will ever hold; sequences that stay longer weigh more.
        """
        isl, stay = self._stays
        return _weighted(np.ceil((isl + stay) / size), stay)

    def prompt(self, share: float) -> int:
        """Return the prompt tokens that this share of the requests do not exceed."""
        return int(np.quantile(self._prompts, share, method="inverted_cdf"))

    def pieces(self, chunk: int) -> "Pieces":
        """Return what comes of prompts that are cut in chunks of ``chunk`` tokens each."""
        count = np.ceil(self._prompts / chunk)
        earlier = chunk * count * (count - 1.0) / 2.0
        return Pieces(float(count.mean()), float((count**2).mean()), float(earlier.mean()))

    def cuts(self, chunk: int) -> tuple[Floats, Floats]:
        """Return tokens and share of the chunks of prompts so cut: ends in groups, full ones."""
        full = np.ceil(self._prompts / chunk) - 1.0
        groups = np.array_split(np.sort(self._prompts - full * chunk), min(STRATA, len(full)))
        tokens = np.array([*(each.mean() for each in groups), chunk])
        count = np.array([*(len(each) for each in groups), full.sum()])
        return tokens, count / count.sum()

    @property
    def before(self) -> float:
        """Mean tokens of a prompt that lie before a cut, where a stream of prompts is cut anywhere.

        Long prompts are cut more often: ``E[isl²] / (2 · E[isl])``.
        """
        return float((self._prompts**2).mean() / (2.0 * self._prompts.mean()))

    @cached_property
    def strata(self) -> tuple[Floats, Floats, Floats]:
        """Prompts by length in at most :data:`STRATA` groups: mean tokens, mean pairs, and share.

        Means of the groups keep those of the sample, so what is affine in them is exact.
        """
        groups = np.array_split(self._prompts, min(STRATA, len(self._prompts)))
        tokens = np.array([each.mean() for each in groups])
        pairs = np.array([(each * (each + 1.0) / 2.0).mean() for each in groups])
        return tokens, pairs, np.array([len(each) for each in groups]) / len(self._prompts)


def _weighted(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return the weighted mean and standard deviation."""
    total = weights.sum()
    mean = float((weights * values).sum() / total)
    return mean, math.sqrt(max(0.0, float((weights * (values - mean) ** 2).sum() / total)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One kind of GPU on its fabric: how the model is stored and costed, and KV handed over."""

    model: Model
    gpu: GPU
    fabric: Fabric
    precision: Precision = field(default_factory=Precision)
    latency: Roofline = field(default_factory=Roofline)
    memory_utilization: float = 0.9
    block_size: int = 16
    transfer: Transfer = field(default_factory=lambda: Transfer(mode=TRANSFER_MODE))

    @property
    def drafts(self) -> int:
        """Tokens a decode step drafts per sequence, as the latency model says."""
        return self.latency.speculative.drafts if self.latency.speculative else 0

    def drafting(self, drafts: int) -> "Platform":
        """Return the platform with so many drafts per sequence and decode step.

        Raises:
            ConfigError: there cannot be so many, or their acceptance is not known.
        """
        speculative = replace(self.latency.speculative or Speculative(), draft_tokens=drafts)
        return replace(self, latency=replace(self.latency, speculative=speculative))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All design points to look at, for one pool's platform.

    ``worker_gpus`` bounds one worker and ``total_gpus`` all of a deployment (``None``: nothing
    does, deployments are as large as their pools' rates ask), ``max_batch`` the sequences of one
    attention rank (per pipeline microbatch), looked at one by one up to ``fine`` and 2 % apart
    from there on; ``prompt_batches`` are the prompts of a prefill step per attention rank.
    ``degrees`` limits the layouts.
    ``draft_tokens`` are the numbers of tokens to draft per sequence and decode step (none listed:
    what the platform's latency model drafts). ``across_domains`` also looks at stages that leave
    the scale-up domain. ``layouts`` overrides what :func:`layouts` lists. ``attainment`` is the
    share of requests whose TTFT and TPOT are judged: those of the slower rest may be any.
    ``longest_gap`` is how many TPOTs the steps of a co-located worker may take that compute prompts
    while others decode (``None``: any number, only the mean counts).
    """

    platform: Platform
    lengths: Lengths
    worker_gpus: int = 64
    total_gpus: int | None = None
    max_batch: int = 4096
    fine: int = 128
    prompt_batches: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    chunks: tuple[int, ...] = CHUNKS
    draft_tokens: tuple[int, ...] = ()
    across_domains: bool = False
    degrees: Degrees = field(default_factory=Degrees)
    layouts: tuple[Layout, ...] = ()
    attainment: float = 0.9
    longest_gap: float | None = LONGEST_GAP

    def __post_init__(self) -> None:
        for name in ("worker_gpus", "max_batch", "fine"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"explore: {name} must be a whole number ≥ 1 but got {value!r}")
        _check_total(self.total_gpus)
        for name in ("prompt_batches", "chunks"):
            values = getattr(self, name)
            if any(type(value) is not int or value < 1 for value in values):
                raise ConfigError(f"explore: {name} must be whole numbers ≥ 1 but got {values!r}")
        if not self.prompt_batches:
            raise ConfigError("explore: prompt_batches must list at least one batch but got none")
        self._check_traffic()
        for drafts in self.draft_tokens:
            self.platform.drafting(drafts)
        if not self.draft_tokens:
            object.__setattr__(self, "draft_tokens", (self.platform.drafts,))
        if not self.layouts:
            object.__setattr__(self, "layouts", tuple(self._every_layout()))
        if not self.layouts:
            limits = f" with {self.degrees}" if str(self.degrees) else ""
            raise ConfigError(
                f"explore: no layout of {self.platform.model.name} divides at most "
                f"{self.largest_worker} GPUs{limits}"
            )

    def _check_traffic(self) -> None:
        if not 0 < self.attainment < 1:
            raise ConfigError(
                f"explore: attainment must lie between 0 and 1 but got {self.attainment!r}"
            )
        if self.longest_gap is not None and not 1 <= self.longest_gap < math.inf:
            raise ConfigError(
                f"explore: longest_gap must be at least 1 TPOT or null but got {self.longest_gap!r}"
            )
        model = self.platform.model
        longest = max(map(sum, zip(self.lengths.isl, self.lengths.osl, strict=True)))
        if longest > model.max_context:
            raise ConfigError(
                f"explore: {longest} tokens of isl + osl exceed the max_context "
                f"{model.max_context} of {model.name}"
            )

    @property
    def largest_worker(self) -> int:
        """GPUs of one worker, at most."""
        return min(self.worker_gpus, self.total_gpus or self.worker_gpus)

    def _every_layout(self) -> Iterator[Layout]:
        platform, gpus = self.platform, self.largest_worker
        domain = platform.fabric.domain_size(platform.gpu)
        group = gpus if self.across_domains else min(gpus, domain)
        every = layouts(platform.model, (gpus, group, domain), self.degrees)
        return (each for each in every if whole_blocks(each, platform.model, platform.precision))

    @property
    def deviations(self) -> float:
        """Standard deviations above the mean that ``attainment`` of a normal variable lie below."""
        return NormalDist().inv_cdf(self.attainment)

    def batches(self, most: int) -> Floats:
        """Return the decode batches per attention rank to look at, up to ``most``."""
        return batches(min(most, self.max_batch), self.fine)


def layouts(
    model: Model, gpus: tuple[int, int, int], degrees: Degrees | None = None
) -> Iterator[Layout]:
    """Yield the layouts that divide ``model`` within the limits of ``degrees``.

    ``gpus`` are those of a worker and of a pipeline stage, at most, and of a scale-up domain. A
    stage has a power of two of GPUs, a divisor of the domain or whole domains; attention is spread
    over it by any ``tp`` × ``attention_dp``, experts by any ``ep`` × ``expert_tp``. Stages are
    powers of two, or as many as are listed.
    """
    most, group, domain = gpus
    degrees = degrees or Degrees()
    for stage in _stages(model, group, domain, degrees):
        for pp in degrees.listed("pp") or _powers(most // stage.expert_group):
            layout = replace(stage, pp=pp, chunked_pipeline=pp > 1)
            if layout.gpus <= most and degrees.allow(layout) and _divides(layout, model):
                yield layout


def whole_blocks(layout: Layout, model: Model, precision: Precision) -> bool:
    """Tell whether each GPU's shard of every FFN has whole blocks of the weights' scales.

    Engines refuse others: half a block has no scale of its own.
    """
    shards = []
    if model.ffn_dense_layers:
        shards.append(("dense_ffn", model.dense_intermediate, layout.tp))
    if model.is_moe:
        shards.append(("weights", model.moe_intermediate, layout.expert_tp))
    if model.shared_experts:
        each = model.shared_intermediate or model.moe_intermediate
        shards.append(("shared_experts", model.shared_experts * each, layout.tp))
    return all(width % (precision.scale_block(part) * over) == 0 for part, width, over in shards)


def batches(most: int, fine: int = 128) -> Floats:
    """Return whole batches from 1 to ``most``: each up to ``fine``, then ever wider apart."""
    first = np.arange(1, min(most, fine) + 1, dtype=np.float64)
    if most <= fine:
        return first
    count = math.ceil(math.log(most / fine) / math.log(STEP))
    coarse = np.unique(np.round(np.geomspace(fine, most, count + 1)))
    return np.concatenate([first, coarse[coarse > fine]])


def _check_total(gpus: int | None) -> None:
    if gpus is not None and (type(gpus) is not int or gpus < 1):
        raise ConfigError(
            f"explore: total_gpus must be a whole number ≥ 1 or null but got {gpus!r}"
        )


def _stages(model: Model, group: int, domain: int, degrees: Degrees) -> Iterator[Layout]:
    sizes = _sizes(group, domain)
    ranks = degrees.listed("attention_dp") or (sizes if model.is_moe else (1,))
    listed = degrees.listed("tp") or degrees.listed("attention_dp")
    for tp, dp in product(degrees.listed("tp") or sizes, ranks):
        size = tp * dp
        if size <= group and (listed or size in sizes):
            for ep in _divisors(size) if model.is_moe else (1,):
                yield Layout(tp=tp, attention_dp=dp, ep=ep)


def _sizes(most: int, domain: int) -> tuple[int, ...]:
    """Return powers of two, divisors and multiples of a domain, up to ``most``."""
    domains = range(domain, most + 1, domain)
    divisors = (each for each in _divisors(domain) if each <= most)
    return tuple(sorted({*_powers(most), *divisors, *domains}))


def _divisors(number: int) -> tuple[int, ...]:
    return tuple(each for each in range(1, number + 1) if number % each == 0)


def _powers(most: int) -> Iterator[int]:
    value = 1
    while value <= most:
        yield value
        value *= 2


def _divides(layout: Layout, model: Model) -> bool:
    try:
        layout.validate(model)
    except LayoutError:
        return False
    return True

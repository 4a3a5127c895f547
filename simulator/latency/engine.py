"""What a serving engine adds to its kernels: host work per step, padding, its kernel family.

One small file per engine under ``conf/engine``; :func:`load` reads one by name.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np

from simulator.errors import ConfigError
from simulator.latency.passes import SCALES, Number
from simulator.memory import MemoryRule
from simulator.yaml_text import parse

SHIPPED = "conf"
FOLDER = "engine"
DEFAULT = "generic"
SECONDS = (
    *("step_s", "sequence_s", "prompt_s", "launch_s", "companion_s"),
    *("gateway_s", "handover_s"),
)
"""What of an engine is seconds."""


ALL_REDUCES = ("", "custom")
"""``custom``: vLLM's first kernels, which SGLang had too until its pull request 24363; otherwise
the fastest measured, as fused ones and later versions are."""
EXCHANGES = ("all_to_all", "all_gather", "unless_boxed")
"""``unless_boxed``: all-to-all kernels in NVLink racks and over several boxes, gathers in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A serving engine in a few numbers.

    ``kernels`` is the family of measured kernels it runs (``engines`` of a calibration file;
    one that was not measured apart falls back to the generic curves), and every kernel takes
    ``kernel_factor`` times as long as that family's. The host works ``step_s + sequence_s ·
    sequences + prompt_s · prompts`` seconds per step (scheduling, sampling, detokenising; prompt
    chunks count as sequences too); with ``overlap_scheduling`` it does so while the GPU computes
    the step before, so a step takes the longer of the two, otherwise their sum. Up to the largest
    of ``graph_sizes`` the rows (tokens) of a step are padded to the next size captured as a CUDA
    graph; with ``graphs_prompts`` that holds for steps with prompt chunks too. Other steps are
    launched kernel by kernel, ``launch_s`` seconds each, by the same thread of the host, and take
    at least that. A product or an
    attention comes with small kernels (quantising, rotary embedding, writing keys) that its own
    measurement leaves out: ``companion_s`` seconds each, as take those that only some models have
    (gates, norms of heads, the sum of routed and shared experts). With ``shared_beside`` shared
    experts run on a second stream beside the routed ones: only what they compute and read is left
    of them. Without
    ``graph_sizes`` nothing is padded and every step is captured. Attention-DP ranks, whose batches
    differ, wait for each other a share ``rank_wait`` of the GPU's seconds. Microbatches of a
    pipeline take turns at the host, each over its own sequences or, with ``turns_see_all``, over
    those of all (its scheduler passes over what is in flight). ``memory`` is how the engine divides
    a GPU's memory. ``expert_exchange`` is how their tokens meet their experts where settings do not
    say, one of :data:`EXCHANGES`, ``all_reduce`` the kernels that sum inside a box, one of
    :data:`ALL_REDUCES`; what is gathered is quantised first with ``gathers_quantized``.
    ``fp8_scales`` says how what enters FP8 products is quantised
    (:class:`~simulator.latency.passes.PassSpec`).

    Beside its steps, a request takes ``gateway_s`` from its arrival until it stands in a worker's
    queue (HTTP, tokeniser, scheduler), and ``handover_s`` from the end of its prompt until the
    decode side acts on it. With ``recomputes`` the decode worker computes the first token itself,
    from the last token of the prompt; otherwise it passes on the prefill worker's.
    ``first_token_source`` says where these three come from.

    Raises:
        ConfigError: a value is out of range, or the sizes do not rise.

    """

    name: str
    kernels: str = ""
    kernel_factor: float = 1.0
    step_s: float = 0.0
    sequence_s: float = 0.0
    prompt_s: float = 0.0
    rank_wait: float = 0.0
    turns_see_all: bool = False
    overlap_scheduling: bool = False
    graph_sizes: tuple[int, ...] = ()
    graphs_prompts: bool = True
    launch_s: float = 0.0
    companion_s: float = 0.0
    shared_beside: bool = False
    all_reduce: str = ""
    expert_exchange: str = "all_to_all"
    gathers_quantized: bool = False
    fp8_scales: str = ""
    gateway_s: float = 0.0
    handover_s: float = 0.0
    recomputes: bool = False
    first_token_source: str = ""
    memory: MemoryRule = field(default_factory=MemoryRule)
    versions: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in SECONDS:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"engine: {name} must be at least 0 s but got {value!r}")
        if not 0 <= self.rank_wait <= 10.0:
            raise ConfigError(f"engine: rank_wait must lie in [0, 10] but got {self.rank_wait!r}")
        if not 0.1 <= self.kernel_factor <= 10.0:
            raise ConfigError(
                f"engine: kernel_factor must lie in [0.1, 10] but got {self.kernel_factor!r}"
            )
        self._check_choices()
        for size in self.graph_sizes:
            if type(size) is not int or size < 1:
                raise ConfigError(f"engine: graph_sizes must be whole numbers ≥ 1 but got {size!r}")
        for left, right in pairwise(self.graph_sizes):
            if left >= right:
                raise ConfigError(f"engine: graph_sizes must rise but {left} is before {right}")

    def _check_choices(self) -> None:
        if self.all_reduce not in ALL_REDUCES:
            raise ConfigError(
                f"engine: all_reduce must be one of {', '.join(map(repr, ALL_REDUCES))} but got "
                f"{self.all_reduce!r}"
            )
        if self.expert_exchange not in EXCHANGES:
            raise ConfigError(
                f"engine: expert_exchange must be one of {', '.join(EXCHANGES)} but got "
                f"{self.expert_exchange!r}"
            )
        if self.fp8_scales not in SCALES:
            raise ConfigError(
                f"engine: fp8_scales must be one of {', '.join(map(repr, SCALES))} but got "
                f"{self.fp8_scales!r}"
            )

    def exchange(self, *, boxed: bool) -> str:
        """Return ``all_to_all`` or ``all_gather``: how tokens meet experts, all in one box or not.

        A host of an NVLink rack is no box here.
        """
        if self.expert_exchange == "unless_boxed":
            return "all_gather" if boxed else "all_to_all"
        return self.expert_exchange

    @property
    def largest_graph(self) -> float:
        """Rows of the largest captured step."""
        return self.graph_sizes[-1] if self.graph_sizes else math.inf

    def padded(self, rows: int) -> int:
        """Return the rows a step of ``rows`` computes."""
        if rows > self.largest_graph or not self.graph_sizes:
            return rows
        return self.graph_sizes[bisect_left(self.graph_sizes, rows)]

    def computed(self, rows: int, decodes: int) -> int:
        """Return the rows a step with prompt chunks computes, ``decodes`` of them decoding.

        No fewer than its decodes alone would, padded to their graph.
        """
        return self.padded(rows) if self.graphs_prompts else max(rows, self.padded(decodes))

    def padded_rows(self, rows: Number) -> Number:
        """Return :meth:`padded` of an array of rows."""
        if not self.graph_sizes:
            return rows
        sizes = np.array(self.graph_sizes, dtype=np.float64)
        at = np.minimum(np.searchsorted(sizes, np.ceil(rows)), len(sizes) - 1)
        return np.where(np.asarray(rows) > sizes[-1], rows, sizes[at])

    def largest_step(self, prompts: bool) -> float:
        """Return the rows of the largest captured step, with prompt chunks in it or without."""
        captured = self.graphs_prompts or not prompts or not self.graph_sizes
        return self.largest_graph if captured else 0.0

    def host_seconds(self, decodes: Number, prompts: Number = 0.0) -> Number:
        """Return the host's seconds of a step of so many decodes and prompt chunks."""
        return self.step_s + self.sequence_s * (prompts + decodes) + self.prompt_s * prompts

    def turns_seconds(self, stages: int, decodes: Number, prompts: Number = 0.0) -> Number:
        """Return the host's seconds of ``stages`` microbatches, each of so many, one by one.

        A pipeline's iteration takes no less, whatever GPUs and host do at the same time.
        """
        seen = (prompts + decodes) * (stages if self.turns_see_all else 1)
        return stages * (self.step_s + self.sequence_s * seen + self.prompt_s * prompts)

    def with_host(self, gpu: Number, launches: Number, host: Number) -> Number:
        """Return seconds of a step that keeps the GPU busy for so long, and the host.

        The host's thread ``launches`` kernels, which the GPU waits for, beside its other work.
        """
        if self.overlap_scheduling:
            return np.maximum(gpu, launches + host)
        return np.maximum(gpu, launches) + host


def memory_rule(latency: object) -> MemoryRule:
    """Return how the engine whose steps ``latency`` models divides memory."""
    profile = getattr(latency, "profile", None)
    return profile.memory if isinstance(profile, Engine) else MemoryRule()


def serving_of(latency: object) -> Engine:
    """Return the engine whose steps ``latency`` models, or one that adds nothing to them."""
    profile = getattr(latency, "profile", None)
    if isinstance(profile, Engine):
        return profile
    named = getattr(latency, "engine", None)
    return load(named) if isinstance(named, str) and named in known() else Engine(name="none")


def load(name: str) -> Engine:
    """Return a shipped engine by name; ``ConfigError`` for another, naming those there are."""
    if name not in known():
        raise ConfigError(f"latency: engine must be one of {', '.join(known())} but got {name!r}")
    return _built(name, _raw(name))


def known() -> list[str]:
    """Return the names of the shipped engines."""
    root = resources.files(SHIPPED) / FOLDER
    names = (entry.name for entry in root.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _raw(name: str) -> dict[str, Any]:
    """Return a profile's settings; those of the one it is ``like`` where it has none of its own.

    Its memory may be ``like`` another profile's.
    """
    text = (resources.files(SHIPPED) / FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    own: dict[str, Any] = parse(text)
    memory: dict[str, Any] = own.get("memory", {})
    if (other := memory.pop("like", None)) is not None:
        own["memory"] = _raw(other)["memory"] | memory
    other = own.pop("like", None)
    return own if other is None else _raw(other) | own


def _built(name: str, raw: Mapping[str, Any]) -> Engine:
    wanted = {each.name for each in fields(Engine)}
    values = {key: raw[key] for key in raw}
    if unknown := set(values) - wanted:
        raise ConfigError(f"engine {name}.yaml: no such setting: {', '.join(sorted(unknown))}")
    values["graph_sizes"] = tuple(values.get("graph_sizes", ()))
    values["memory"] = MemoryRule(**values.get("memory", {}))
    return Engine(**{"name": name, **values})

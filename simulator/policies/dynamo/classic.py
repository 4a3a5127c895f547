"""Dynamo's SLA planner in its classic form, which corrects a profile by what it observes.

Source: ai-dynamo 0.9.1, ``dynamo/planner/utils/planner_core.py``, ``perf_interpolation.py`` and
``defaults.py``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from simulator.policies.autoscaling import Observation, Plan, TrafficSeen, needs_both
from simulator.policies.engines import Engine, check_targets
from simulator.policies.forecasting import Arima, Demand, Forecaster
from simulator.policies.ticks import check_interval

SHARES = 100
"""Shares of KV at which decode is looked at, from a full cache down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoClassic:
    """Dynamo's planner of 0.9.1: throughput per GPU from a profile, corrected by what is observed.

    Prefill: forecast prompt tokens/s, times min(1, observed TTFT / profiled), over tokens/s/GPU.
    Decode: forecast answer tokens/s over the tokens/s/GPU of the fullest KV whose profiled ITL is
    within ``tpot_s`` / (observed TPOT / profiled). Over the budget both shrink in proportion,
    prefill first. The profile is the workers' step times; a request's duration is taken to be its
    TTFT and TPOT over its answer. An interval without traffic or a latency is skipped.
    """

    sees: ClassVar[Mapping[str, object]] = MappingProxyType(
        {"window_s": 180.0, "demand": "completion"}
    )
    ttft_s: float | None = 0.5
    tpot_s: float | None = 0.05
    corrects: bool = True
    min_endpoint: int = 1
    max_gpu_budget: int = 8
    forecaster: Forecaster = field(default_factory=Arima)
    interval_s: float = 180.0

    def __post_init__(self) -> None:
        check_targets("dynamo_classic", "the planner sizes pools by it", self.ttft_s, self.tpot_s)
        if self.min_endpoint < 1:
            raise ValueError(
                f"dynamo_classic: min_endpoint must be at least 1 but got {self.min_endpoint!r}"
            )
        if self.max_gpu_budget < 1:
            raise ValueError(
                f"dynamo_classic: max_gpu_budget must be at least 1 GPU but got "
                f"{self.max_gpu_budget!r}"
            )
        check_interval("dynamo_classic", "interval_s", self.interval_s)

    def refused(self, gpus: Mapping[str, int]) -> str:
        """Return why it cannot plan for such pools, if so."""
        if missing := needs_both(gpus):
            return missing
        least = self.min_endpoint * (gpus["prefill"] + gpus["decode"])
        if least <= self.max_gpu_budget:
            return ""
        return (
            f"max_gpu_budget must be at least the {least} GPUs of min_endpoint "
            f"{self.min_endpoint} in each pool but got {self.max_gpu_budget!r}"
        )

    def initial(self) -> Demand:
        """Return nothing known."""
        return Demand()

    def decide(self, seen: Observation, state: Demand) -> tuple[Plan, Demand]:
        """Return both pools' workers for the next interval."""
        traffic = seen.traffic
        if "prefill" not in seen.pools or "decode" not in seen.pools:
            return Plan({}, "needs prefill and decode pools"), state
        if not traffic.requests or not traffic.ttft_s or not traffic.tpot_s:
            return Plan({}, "no traffic"), state
        engines = [seen.pools[role].engine for role in ("prefill", "decode")]
        prefill, decode = engines
        if prefill is None or decode is None:
            return Plan({}, "a worker's rate is not known"), state
        lengths = traffic.input_tokens, traffic.output_tokens
        known = state.told(self.forecaster, traffic.rate * self.interval_s, lengths)
        workers = max(1, seen.pools["decode"].ready)
        corrections = self._corrections(traffic, (prefill, decode), workers)
        counts = self._sized(known, (prefill, decode), corrections)
        fitted = self.within_budget(counts, (prefill.gpus, decode.gpus))
        why = f"corrections {corrections[0]:.2f} and {corrections[1]:.2f} ask for {counts[0]} and "
        return Plan(
            dict(zip(("prefill", "decode"), fitted, strict=True)), f"{why}{counts[1]}"
        ), known

    def _corrections(
        self, traffic: TrafficSeen, engines: tuple[Engine, Engine], workers: int
    ) -> tuple[float, float]:
        """Return observed over profiled TTFT and ITL."""
        if not self.corrects:
            return 1.0, 1.0
        prefill, decode = engines
        ttft, tpot = (sum(each) / len(each) for each in (traffic.ttft_s, traffic.tpot_s))
        answer = traffic.output_tokens
        context = traffic.input_tokens + answer / 2
        duration = ttft + tpot * answer
        batch = max(1, round(traffic.rate * duration / workers))
        batch = min(batch, max(1, int(decode.kv_tokens / context)))  # the profile's range
        profiled = decode.step_s(batch, max(1, round(batch * context)))
        alone = prefill.prompts_s(traffic.input_tokens, traffic.input_tokens)
        return ttft / alone if alone > 0 else 1.0, tpot / profiled if profiled > 0 else 1.0

    def _sized(
        self, known: Demand, engines: tuple[Engine, Engine], corrections: tuple[float, float]
    ) -> tuple[int, int]:
        """Return workers of both pools before the budget."""
        prefill, decode = engines
        requests, prompt, answer = known.ahead(self.forecaster)
        prompt, answer = max(1.0, prompt), max(1.0, answer)
        per_gpu = prompt / prefill.prompts_s(prompt, prompt) / prefill.gpus
        demand = requests * prompt / self.interval_s * min(1.0, corrections[0])
        target = (self.tpot_s or 0.0) / corrections[1] if corrections[1] > 0 else self.tpot_s or 0.0
        made = self.decode_per_gpu(decode, prompt + answer / 2, target)
        return (
            max(math.ceil(demand / per_gpu / prefill.gpus), self.min_endpoint),
            max(
                math.ceil(requests * answer / self.interval_s / made / decode.gpus),
                self.min_endpoint,
            ),
        )

    @staticmethod
    def decode_per_gpu(engine: Engine, context: float, target_s: float) -> float:
        """Return tokens/s/GPU at the fullest KV that keeps the target, else at the emptiest."""
        made = 0.0
        for share in range(SHARES, 0, -1):
            tokens = engine.kv_tokens * share / SHARES
            batch = max(1, int(tokens / context))
            seconds = engine.step_s(batch, max(1, round(batch * context)))
            made = batch / seconds / engine.gpus
            if seconds <= target_s:
                return made
        return made

    def within_budget(self, counts: tuple[int, int], gpus: tuple[int, int]) -> tuple[int, int]:
        """Return the workers left of the budget: prefill in proportion, decode the rest."""
        total = counts[0] * gpus[0] + counts[1] * gpus[1]
        if total <= self.max_gpu_budget:
            return counts
        prefill = max(self.min_endpoint, round(counts[0] * self.max_gpu_budget / total))
        left = self.max_gpu_budget - prefill * gpus[0]
        return prefill, max(self.min_endpoint, round(left / gpus[1]))

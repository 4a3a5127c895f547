"""Autoscalers that size prefill and decode together: at a fixed ratio, or by velocity.

Sources: HeteroScale (ByteDance, "Taming the Chaos") and TokenScale, both by their abstracts alone:
what these say of the rule is followed, thresholds are not published.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from simulator.policies.autoscaling import Observation, Plan, PoolSeen, needs_both
from simulator.policies.engines import Capacity, Shape, Targets, check_targets
from simulator.policies.windows import nearest_rank


class Ratio(NamedTuple):
    """Prefill workers for each decode worker."""

    prefill: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeteroScale:
    """Tokens/s of each decode worker held at a target, and prefill at a fixed ratio to decode.

    n_d = ceil(n_d · measured / ``tokens_per_s``) beyond ``tolerance``, n_p = round(``ratio``·n_d);
    where ``ratio`` is ``None`` it is that of the pools at the first look. Latencies only stop it
    from shrinking: while the p90 of TTFT or TPOT exceeds its limit, nobody goes.
    """

    sees: ClassVar[Mapping[str, object]] = MappingProxyType({"demand": "completion"})
    tokens_per_s: float
    ratio: float | None = None
    tolerance: float = 0.1
    ttft_s: float | None = None
    tpot_s: float | None = None
    least: int = 1
    most: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.tokens_per_s < math.inf:
            raise ValueError(
                f"heteroscale: tokens_per_s must be above 0 but got {self.tokens_per_s!r}"
            )
        if self.ratio is not None and not 0 < self.ratio < math.inf:
            raise ValueError(f"heteroscale: ratio must be above 0 but got {self.ratio!r}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(
                f"heteroscale: tolerance must lie in [0, 1) but got {self.tolerance!r}"
            )
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"heteroscale: least must lie in 1..most, {self.most!r}, but got {self.least!r}"
            )

    def refused(self, gpus: Mapping[str, int]) -> str:
        """Return that it needs two pools, where there are none."""
        return needs_both(gpus)

    def initial(self) -> Ratio:
        """Return the ratio, if it is given."""
        return Ratio(self.ratio)

    def decide(self, seen: Observation, state: Ratio) -> tuple[Plan, Ratio]:
        """Return both pools' workers."""
        if "prefill" not in seen.pools or "decode" not in seen.pools:
            return Plan({}, "needs prefill and decode pools"), state
        prefill, decode = seen.pools["prefill"], seen.pools["decode"]
        if not decode.ready or not decode.desired:
            return Plan({}, "no decode worker is ready"), state
        if state.prefill is None:
            state = Ratio(max(1, prefill.desired) / decode.desired)
        made = seen.traffic.rate * seen.traffic.output_tokens if seen.traffic.requests else 0.0
        wanted = self.wanted(decode.desired, made)
        if wanted < decode.desired and self._late(seen):
            return Plan({}, "latencies forbid fewer"), state
        beside = max(1, round((state.prefill or 0.0) * wanted))
        why = f"{made:.0f} tokens/s ask for {wanted} decode workers"
        return Plan({"prefill": beside, "decode": wanted}, why), state

    def wanted(self, workers: int, made: float) -> int:
        """Return the decode workers that ``made`` tokens/s ask for."""
        share = made / workers / self.tokens_per_s
        wanted = workers if abs(share - 1) <= self.tolerance else math.ceil(workers * share)
        return min(max(wanted, self.least), self.most)

    def _late(self, seen: Observation) -> bool:
        pairs = ((seen.traffic.ttft_s, self.ttft_s), (seen.traffic.tpot_s, self.tpot_s))
        return any(
            values and limit and nearest_rank(values, 0.9) > limit for values, limit in pairs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVelocity:
    """TokenScale's velocities: as many workers as tokens come, over the tokens one lets go of.

    A prefill worker's velocity is the prompt tokens/s it computes within ``ttft_s``; a decode
    worker's the tokens/s that its sequences release as they end, prompt and answer, at ``tpot_s``.
    The link's is not looked at, as no pool's worth of links can be added. Each pool, rounded up.
    """

    ttft_s: float | None = 0.5
    tpot_s: float | None = 0.05
    least: int = 1
    most: int = 32
    interval_s: float = 5.0
    sees: ClassVar[Mapping[str, object]] = MappingProxyType({"scrape_s": 5.0, "window_s": 10.0})

    def __post_init__(self) -> None:
        check_targets("token_velocity", "velocities are taken at it", self.ttft_s, self.tpot_s)
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"token_velocity: least must lie in 1..most, {self.most!r}, but got {self.least!r}"
            )

    def initial(self) -> None:
        """Return nothing to remember."""

    def decide(self, seen: Observation, state: None) -> tuple[Plan, None]:
        """Return each pool's workers."""
        traffic = seen.traffic
        if not traffic.requests:
            return Plan(dict.fromkeys(seen.pools, self.least), "nothing comes"), state
        shape = Shape(traffic.input_tokens, traffic.output_tokens, traffic.hit_rate)
        workers = {}
        for role, pool in seen.pools.items():
            found = self._sustained(role, pool, shape)
            if found is None or found.rate <= 0:
                return Plan({}, f"a {role} worker's velocity is not known"), state
            asked = math.ceil(traffic.rate / found.rate)
            workers[role] = min(max(asked, self.least), self.most)
        return Plan(workers, f"{traffic.rate:.3g} requests/s come"), state

    def _sustained(self, role: str, pool: PoolSeen, shape: Shape) -> Capacity | None:
        """Return a worker's velocity, in requests/s: tokens of both sides are those of requests."""
        targets = Targets(self.ttft_s or 0.0, self.tpot_s or 0.0)
        if pool.engine is None:
            return None
        return pool.engine.capacity(role, shape, targets)

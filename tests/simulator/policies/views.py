"""Pools and engines made up for tests of policies, whose step times are simple sums."""

from dataclasses import dataclass
from math import inf
from typing import Any

from simulator.latency.base import Busiest, Piece
from simulator.policies.autoscaling import Observation, PoolSeen, TrafficSeen
from simulator.policies.engines import Engine


@dataclass(frozen=True)
class Steps:
    """A step takes ``token`` a prompt token, and ``base`` + ``seq``·batch + ``kv``·context."""

    token: float = 1e-4
    base: float = 0.01
    seq: float = 0.0
    kv: float = 0.0
    stages: int = 1

    def decode_pieces(self, batch: int) -> tuple[Piece, ...]:
        """Return one line."""
        return (Piece(inf, self.base + self.seq * batch, self.kv, 0.0),)

    def step_seconds(
        self,
        tokens: int,
        pairs: int,  # noqa: ARG002 - a protocol's
        past: int,  # noqa: ARG002 - a protocol's
        prompts: int,  # noqa: ARG002 - a protocol's
        batch: int,
        context: int,
        busiest: Busiest | None = None,  # noqa: ARG002 - a protocol's
    ) -> float:
        """Return the sum."""
        decode = self.base + self.seq * batch + self.kv * context if batch else 0.0
        return self.token * tokens + decode


def engine(steps: Steps | None = None, **changes: Any) -> Engine:
    """Return a worker: 8192 tokens and 100 sequences a step, KV for 100,000, 10,000 of context."""
    fields: dict[str, Any] = {
        "steps": steps or Steps(),
        "gpus": 1,
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 100,
        "kv_tokens": 100_000,
        "max_context": 10_000,
    }
    return Engine(**(fields | changes))


def pool(ready: int, *, coming: int = 0, **gauges: Any) -> PoolSeen:
    """Return a pool of idle ready workers, ``coming`` more starting, with some gauges."""
    none = (0,) * ready
    fields: dict[str, Any] = {
        "desired": ready + coming,
        "pending": 0,
        "starting": coming,
        "ready": ready,
        "draining": 0,
        "gpus_per_worker": 1,
        "waiting": none,
        "running": none,
        "kv_utilization": (0.0,) * ready,
        "queued_tokens": none,
        "kv_tokens": none,
        "queued_kv_tokens": none,
        "scheduled_tokens": none,
        "scheduled_prompts": none,
        "engine": engine(),
    }
    return PoolSeen(**(fields | gauges))


def seen(now_s: float, traffic: TrafficSeen | None = None, **pools: PoolSeen) -> Observation:
    """Return a look at pools, without traffic unless it is given."""
    return Observation(
        now_s=now_s,
        seen_s=now_s,
        pools=pools,
        traffic=traffic or flow(0.0),
        free_gpus=None,
    )


def flow(rate: float, inputs: float = 1000.0, outputs: float = 100.0, **more: Any) -> TrafficSeen:
    """Return a minute's requests at a rate."""
    fields: dict[str, Any] = {
        "requests": round(60 * rate),
        "rate": rate,
        "input_tokens": inputs if rate else float("nan"),
        "output_tokens": outputs if rate else float("nan"),
        "ttft_s": (),
        "tpot_s": (),
    }
    return TrafficSeen(**(fields | more))

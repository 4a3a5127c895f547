"""What a controller gets to see: counters scraped now and then, windows over them, their age."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.fleet.lives import SERVING, Fleet, Pool
from simulator.cluster.ledger import Ledger
from simulator.cluster.moves.leavers import AT_ROUTER
from simulator.cluster.traffic.held import Held
from simulator.cluster.traffic.source import Source
from simulator.policies.autoscaling import Observation, Observing, PoolSeen, TrafficSeen, Truth

Numbers = NDArray[np.float64] | NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """Everything as it was at ``at_s``; the traffic columns are since the scrape before."""

    at_s: float
    pools: Mapping[str, PoolSeen]
    input_tokens: Numbers
    output_tokens: Numbers
    ttft_s: Numbers
    tpot_s: Numbers
    prompt_tokens: int
    cached_tokens: int
    free_gpus: int | None


class Observer:
    """Scrapes the fleet and the ledger, and tells what the latest old enough scrape shows."""

    def __init__(self, observing: Observing, fleet: Fleet, ledger: Ledger, source: Source) -> None:
        self._observing = observing
        self._fleet = fleet
        self._ledger = ledger
        self._source = source
        self._truth: Truth | None = None
        self.held: Held | None = None  # who waits at the router
        self.orphans: Mapping[int, int] = {}  # left behind, by worker
        self._scrapes: deque[Scrape] = deque()
        self._last_s = 0.0
        self._open = 0  # every request before this one had ended by the last scrape
        self._arrived = 0

    def reveal(self) -> None:
        """Tell from now on what will come, where that is known beforehand: in an open loop."""
        if self._source.foretold:
            columns = self._ledger.columns()
            names = ("arrival_s", "input_tokens", "output_tokens")
            self._truth = Truth(*(columns[name] for name in names))
            for column in (columns[name] for name in names):
                column.flags.writeable = False  # of this view alone

    def scrape(self, now: float) -> None:
        """Read every gauge and counter, and forget what is older than anybody asks for."""
        arrived = self._source.arrived
        rows = self._source.rows(self._open, arrived)
        columns = {n: c[rows] for n, c in self._ledger.columns().items()}
        first, finish = columns["first_token_s"], columns["finish_s"]
        fresh = (first > self._last_s) & (first <= now)
        ended = (finish > self._last_s) & (finish <= now)
        told = ended & (columns["output_tokens"] > 1)
        counted = ended
        if self._observing.demand == "arrival":
            counted = np.arange(self._open, arrived) >= self._arrived
        self._scrapes.append(
            Scrape(
                at_s=now,
                pools={role: self._pool(role, pool) for role, pool in self._fleet.pools.items()},
                input_tokens=columns["input_tokens"][counted],
                output_tokens=columns["output_tokens"][counted],
                ttft_s=(first - columns["arrival_s"])[fresh],
                tpot_s=((finish - first)[told] / (columns["output_tokens"][told] - 1)),
                prompt_tokens=int(columns["input_tokens"][fresh].sum()),
                cached_tokens=int(columns["cached_tokens"][fresh].sum()),
                free_gpus=self._fleet.free_gpus,
            )
        )
        over = columns["status"] != 0
        self._open += int(np.argmin(over)) if not over.all() else len(over)
        self._arrived, self._last_s = arrived, now
        kept = now - self._observing.age_s - self._observing.window_s - self._observing.scrape_s
        while len(self._scrapes) > 1 and self._scrapes[0].at_s < kept:
            self._scrapes.popleft()

    def observation(self, now: float) -> Observation | None:
        """Return what is known at ``now``, or ``None`` before the first scrape has come through."""
        known = [each for each in self._scrapes if each.at_s <= now - self._observing.age_s]
        if not known:
            return None
        latest = known[-1]
        window = [s for s in known if s.at_s > latest.at_s - self._observing.window_s]
        return Observation(
            now_s=now,
            seen_s=latest.at_s,
            pools=latest.pools,
            traffic=self._traffic(window),
            free_gpus=latest.free_gpus,
            truth=self._truth,
        )

    def _traffic(self, window: list[Scrape]) -> TrafficSeen:
        inputs = np.concatenate([each.input_tokens for each in window])
        outputs = np.concatenate([each.output_tokens for each in window])
        span = min(self._observing.window_s, window[-1].at_s) or self._observing.scrape_s
        return TrafficSeen(
            requests=len(inputs),
            rate=len(inputs) / span,
            input_tokens=float(inputs.mean()) if len(inputs) else float("nan"),
            output_tokens=float(outputs.mean()) if len(outputs) else float("nan"),
            ttft_s=tuple(np.concatenate([each.ttft_s for each in window]).tolist()),
            tpot_s=tuple(np.concatenate([each.tpot_s for each in window]).tolist()),
            hit_rate=sum(s.cached_tokens for s in window)
            / max(1, sum(s.prompt_tokens for s in window)),
        )

    def _pool(self, role: str, pool: Pool) -> PoolSeen:
        workers = [life.worker for life in pool.lives if life.state == SERVING and life.worker]
        gauges = [worker.observe() for worker in workers]
        steps = [worker.scheduled() for worker in workers]
        left = [self._left(f"{role}.waiting", worker.number) for worker in workers]
        sequences = [worker.sequence_tokens() for worker in workers]
        seen: dict[str, Any] = {
            "waiting": tuple(map(add, (waiting for waiting, _ in gauges), left)),
            "running": tuple(running for _, running in gauges),
            "kv_utilization": tuple(w.blocks_in_use() / w.capacity for w in workers),
            "queued_tokens": tuple(worker.queued_tokens for worker in workers),
            "kv_tokens": tuple(decoding for decoding, _ in sequences),
            "queued_kv_tokens": tuple(queued for _, queued in sequences),
            "scheduled_tokens": tuple(tokens for tokens, _ in steps),
            "scheduled_prompts": tuple(prompts for _, prompts in steps),
        }
        seen |= {name: None for name in seen if f"{role}.{name}" in self._observing.missing}
        return PoolSeen(
            role=role,
            held=None if self.held is None else len(self.held) + self._left("router", AT_ROUTER),
            gpus_per_worker=pool.crew.spec.layout.gpus,
            engine=pool.crew.engine,
            **(seen | dict(self._fleet.counts(role))),
        )

    def _left(self, queue: str, number: int) -> int:
        """Return how many a queue's metric counts although their clients have left."""
        return self.orphans.get(number, 0) if queue in self._observing.orphans else 0

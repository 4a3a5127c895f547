"""Asks, as prompts are placed, whether a worker should change its role, and has it done."""

from collections.abc import Callable

from simulator.cluster.clock import Clock
from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import AnyWorker
from simulator.policies.classes import Classes
from simulator.policies.flipping import Crowd, Flipping

PREFILL, DECODE = "prefill", "decode"
Flip = Callable[[int, str, str], None]
"""Lets a worker of that number drain and then serve in another pool, and says why."""


class Flipper:
    """Watches the two teams; looks at every decode worker for each prompt, as Arrow does."""

    def __init__(
        self,
        policy: Flipping,
        classes: Classes,
        clock: Clock,
        flip: Flip,
        routers: tuple[Router, Router],
    ) -> None:
        self._policy = policy
        self._classes = classes
        self._clock = clock
        self._flip = flip
        self._router, self._decode_router = routers
        self._looked_s = -float("inf")

    def placed(self, request: int, tokens: int, worker: AnyWorker) -> None:
        """Hear that a prompt was given to a worker."""
        now, decoders = self._clock.now, self._decode_router
        if now - self._looked_s >= self._policy.update_s:
            self._looked_s = now
            self._free_idle()
        if worker.role != PREFILL or not decoders.team.workers:
            return
        prefills = [w for w in self._router.team.workers if w.role == PREFILL]
        estimates, count = decoders.live.estimates, len(decoders.team.workers)
        pace, queued = self._router.paces[PREFILL], self._router.live.tokens
        crowd = Crowd(
            prefill=len(prefills),
            decode=count,
            backlog_s=sum(pace.backlog_s(queued[w.index]) for w in prefills) / len(prefills),
            tpot_s=min(estimates.tpot_s(at, tokens) for at in range(count)),
        )
        if len(prefills) > 1 and self._policy.to_decode(crowd, self._classes[request]):
            self._flip(worker.number, DECODE, "no decode worker holds the target")

    def _free_idle(self) -> None:
        """Let decode workers flip that the policy has no use for, all but the last."""
        team = self._decode_router.team
        idle = [
            worker
            for worker in team.workers
            if self._policy.to_prefill(team.load.requests[worker.index])
        ]
        for worker in idle[: len(team.workers) - 1]:
            self._flip(worker.number, PREFILL, "it has no request")

"""What an admission policy sees of the pools, and the asking of it."""

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.pools.router import Router
from simulator.cluster.pools.team import AnyWorker
from simulator.cluster.traffic.endings import Endings
from simulator.cluster.traffic.held import Held
from simulator.cluster.workers.pace import Pace
from simulator.errors import ConfigError
from simulator.policies.admission import ADMITTED, Admission, Arrival, fullness
from simulator.policies.classes import Classes
from simulator.record import REASONS, TURNED_AWAY


class Entrance:
    """Asks the policy about each request and shows it the pools as they are.

    Each request has a draw of its own, so that policies meet the same luck. A reading of
    the gauges costs what there are workers, once per refresh; all else O(log n) of them.
    """

    def __init__(
        self,
        policy: Admission,
        classes: Classes,
        endings: Endings,
        routers: tuple[Router, Router],
        draws: NDArray[np.float64],
    ) -> None:
        self._policy = policy
        self._classes = classes
        self._clock = endings.clock
        self._ledger = endings.ledger
        self._router, self._decode_router = routers
        self.paces: Mapping[str, Pace] = {}
        self.handover_s = 0.0
        self.held: Held | None = None  # prompts that wait at the router
        self._draws = draws
        self._worker: AnyWorker
        self._due: float | None = None
        self._request = 0
        self._read_s, self._full = -float("inf"), 0.0
        self._ahead = Ahead()

    def ask(self, request: int, worker: AnyWorker) -> int:
        """Return why a request bound for ``worker`` is refused, an index of REASONS, or 0."""
        ledger = self._ledger
        self._request, self._worker, self._due = request, worker, None
        tokens = ledger.input_tokens[request]
        arrival = Arrival(
            request=request,
            input_tokens=tokens,
            output_tokens=ledger.output_tokens[request],
            uncached_tokens=tokens - ledger.expected.get(request, 0),
            service=self._classes[request],
            draw=float(self._draws[request]),
        )
        answer = self._policy.decide(arrival, self)
        if answer == ADMITTED:
            if self._due is not None:
                self._ahead.add(self._due, tokens)
            return 0
        if answer not in TURNED_AWAY:
            raise ConfigError(
                f"admission {type(self._policy).__name__}: answered {answer!r} for request "
                f"{request}, but may say '' or {', '.join(TURNED_AWAY)}"
            )
        return REASONS.index(answer)

    # --- what the policy sees ------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """Ready workers that an arrival may go to."""
        return len(self._router.team.workers)

    @property
    def waiting(self) -> int:
        """Prompts in the chosen worker's queue, and its share of those at the router."""
        held = 0 if self.held is None else len(self.held)
        return self._worker.queued - (-held // self.workers)

    @property
    def tokens(self) -> int:
        """Prompt tokens placed and not computed yet, over all workers, and those at the router."""
        return self._router.live.total("tokens") + self._at_router

    @property
    def _at_router(self) -> int:
        """Tokens of the prompts that wait at the router."""
        return 0 if self.held is None else self.held.tokens

    def saturation(self, queue: float, kv: float, refresh_s: float) -> float:
        """Return the mean fullness of all ready workers, as last read."""
        now = self._clock.now
        if now - self._read_s >= refresh_s:
            self._read_s = now
            workers = [*self._router.team.workers, *self._decode_router.team.workers]
            self._full = sum(
                fullness(w.observe()[0], w.blocks_in_use() / w.capacity, queue, kv) for w in workers
            ) / len(workers)
        return self._full

    def ttft_s(self) -> float:
        """Return the least seconds from arrival to the end of this prompt."""
        return self._clock.now - self._ledger.arrival[self._request] + self._to_go_s()

    def _to_go_s(self) -> float:
        """Return the least seconds from now to the end of this prompt."""
        router = self._router
        at = router.live.least("tokens", "requests", draw=0.0)
        tokens = self._ledger.input_tokens[self._request]
        seconds = router.live.estimates.ttft_s(at, tokens)
        role = router.team.workers[at].role
        if self._at_router:  # of which each worker takes its share first
            seconds += self.paces[role].backlog_s(-(-self._at_router // self.workers))
        return seconds + (self.handover_s if role == "prefill" else 0.0)

    def tpot_s(self) -> float:
        """Return a step's seconds on the decode worker with the least KV, with this request."""
        tokens = self._ledger.input_tokens[self._request]
        if self._worker.role == "mixed":
            return self._router.live.estimates.tpot_s(self._worker.index, tokens)
        view = self._decode_router.live
        if not view.requests:
            return float("inf")
        return view.estimates.tpot_s(view.least("kv_blocks", "requests", draw=0.0), tokens)

    def tpot_ahead_s(self, decode_s: float) -> float:
        """Return that of an average decode worker when this prompt is due."""
        mixed = self._worker.role == "mixed"
        team = self._router.team if mixed else self._decode_router.team
        if not team.workers:
            return float("inf")
        ahead, now = self._ahead, self._clock.now
        ahead.forget(now - decode_s)
        self._due = due = now + self._to_go_s()
        there = ahead.between(due - decode_s, due) + 1
        batch = -(-there // len(team.workers))
        mean = ahead.mean_with(self._ledger.input_tokens[self._request])
        return self.paces["mixed" if mixed else "decode"].decode_s(batch, batch * mean)


class Ahead:
    """When the prompts of those let in are due, in order, with their tokens."""

    __slots__ = ("_due", "_tokens", "_total")

    def __init__(self) -> None:
        self._due: list[float] = []
        self._tokens: list[int] = []
        self._total = 0

    def add(self, due: float, tokens: int) -> None:
        """Note a prompt that is due then; it comes near the end, as a rule."""
        at = bisect_right(self._due, due)
        self._due.insert(at, due)
        self._tokens.insert(at, tokens)
        self._total += tokens

    def forget(self, until: float) -> None:
        """Forget what was due by then."""
        gone = bisect_right(self._due, until)
        if gone:
            self._total -= sum(self._tokens[:gone])
            del self._due[:gone], self._tokens[:gone]

    def between(self, after: float, until: float) -> int:
        """Return how many are due after one moment and by the other."""
        return bisect_right(self._due, until) - bisect_right(self._due, after)

    def mean_with(self, tokens: int) -> float:
        """Return the mean prompt of all noted and one more."""
        return (self._total + tokens) / (len(self._due) + 1)

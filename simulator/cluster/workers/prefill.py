"""The prefill worker: token-budget batches of prompt chunks, as many in flight as stages."""

from collections import deque
from collections.abc import Collection
from heapq import heappop, heappush
from math import isnan

from simulator.cluster.clock import ADMISSION, STEP_END, Clock
from simulator.cluster.ledger import Ledger
from simulator.cluster.workers.worker import Listener, Step, Worker, WorkerSettings


class PrefillWorker(Worker):
    """Computes prompts, first come first served, and holds their KV until it is handed over.

    With a pipeline of s stages a step may start when the one before has left the first stage,
    ``seconds / s`` after it began, so the chunks of one long prompt follow each other (CPP).

    Where it ``keeps`` computed prompts, each gets one more token from every step that closes and
    leaves with its last; steps that compute no prompt take no time, so that all leave at once when
    there is none left.
    """

    __slots__ = ("_closed", "_flight", "_going", "_kept", "_seconds", "_stage_free", "_stages")

    def __init__(
        self, clock: Clock, ledger: Ledger, listener: Listener, settings: WorkerSettings
    ) -> None:
        super().__init__(clock, ledger, listener, settings)
        self._flight: deque[Step] = deque()
        self._going: dict[int, Step] = {}  # their clients have gone; until which step they stay
        self._stage_free = 0.0
        self._seconds = settings.steps.step_seconds
        self._stages = settings.steps.stages
        self._closed = 0  # steps, those without prompts too
        self._kept: list[tuple[int, int]] = []  # heap: the last step they wait for, request

    def _joined(self, request: int) -> None:  # noqa: ARG002 - the batch worker's depends on it
        self._wake_when_free()

    def release(self, request: int) -> None:
        """Let go of a handed-over prompt's KV."""
        blocks = self.blocks(self._ledger.prompt_tokens[request])
        self._free(request, blocks)
        self.load.kv_blocks[self.index] -= blocks
        if self.prompts:
            self._wake_when_free()
        elif self.leaving is not None and self.empty:
            self.leaving()

    def leave(self, request: int) -> bool:
        """Part with a request whose client has gone, a begun one at the end of its last step."""
        ledger = self._ledger
        if not isnan(ledger.prefill_end[request]):
            self._kept = sorted(each for each in self._kept if each[1] != request)
            self.release(request)
            return False
        partial = self.partial.pop(request, None) if self._flight else None
        if partial is not None:
            self._ease(ledger.prompt_tokens[request] - partial.done)
            self._waste(request, partial)
            self._going[request] = self._flight[-1]
            return True
        for step in self._flight:
            if request in step.finishing:
                self._going[request] = step
                return True
        if request in self.loading or request in self.partial:
            self._unload(request, self.blocks(ledger.prompt_tokens[request]))
        else:
            self._unqueue(request)
        if self.prompts:
            self._wake_when_free()
        elif self.leaving is not None and self.empty:
            self.leaving()
        return False

    def _part(self, step: Step) -> None:
        """Free who stayed until the end of this step only; their prompts' tokens are for nobody."""
        ledger, load, index = self._ledger, self.load, self.index
        for request in [each for each, last in self._going.items() if last is step]:
            del self._going[request]
            blocks = self.blocks(ledger.prompt_tokens[request])
            self._free(request, blocks)
            load.requests[index] -= 1
            load.kv_blocks[index] -= blocks
            if request in step.finishing:
                step.finishing.remove(request)
                ledger.generated[request] += 1
            self._listener.vanished(request)

    def _resume(self) -> None:
        self._wake_when_free()

    def _wake_when_free(self) -> None:
        if self._stage_free <= self._clock.now:
            self.alarm.set(self._clock.now, ADMISSION)
        elif self._stage_free < self._flight[0].ends:
            self.alarm.set(self._stage_free, STEP_END)

    def wake(self, now: float) -> None:
        """Close the steps that are through, start the next if the first stage is free."""
        flight = self._flight
        while flight and flight[0].ends <= now:
            self._close(flight.popleft(), now)
        if self._stage_free <= now:
            step = self._next(now)
            if step is not None:
                self._start(step, now)
        self._arm(now)

    def _next(self, now: float) -> Step | None:
        """Form a step; as long as there is none to form, kept prompts end and make room."""
        while True:
            step = None
            if self.prompts or self.partial:
                step = self._form(now, decoding=len(self._kept))
            if step is not None or self._flight or not self._kept:
                return step
            self._closed = self._kept[0][0]
            self._let_go()

    def _arm(self, now: float) -> None:
        flight = self._flight
        if not flight:
            self._rest(now)
            return
        when = flight[0].ends
        if (self.prompts or self.partial) and now < self._stage_free < when:
            when = self._stage_free
        self.alarm.set(when, STEP_END)

    def _admit(self, request: int, now: float) -> bool:
        """Set the prompt's blocks aside, if there are as many."""
        tokens = self._ledger.prompt_tokens[request]
        if not self._set_aside(request, self.blocks(tokens), tokens):
            return False
        self._ledger.prefill_start[request] = now
        return True

    def _start(self, step: Step, now: float) -> None:
        if step.prompts == 1:
            seconds = self._alone(step.tokens, step.past)
        else:
            seconds = self._seconds(
                step.tokens, step.pairs, step.past, step.prompts, 0, 0, step.busiest
            )
        if self.slow_steps:
            seconds = self._slowed(seconds)
        pace = seconds / self._stages
        before = self._flight[-1].ends if self._flight else 0.0
        step.ends = max(now + seconds, before + pace)
        self._stage_free = now + pace
        self._flight.append(step)
        self._work(now)
        self.step_count += 1
        self.prefill_tokens += step.tokens
        for request in step.finishing:
            self._listener.prefilling(request, step.ends)

    def _close(self, step: Step, now: float) -> None:
        ledger, load = self._ledger, self.load
        index = self.index
        self._ease(step.placed)
        self.prompts_closed += len(step.finishing)
        if self._going:
            self._part(step)
        self._closed += 1
        self._let_go()
        for request in step.finishing:
            ledger.prefill_end[request] = now
            ledger.generated[request] += 1
            load.requests[index] -= 1
            left = ledger.output_tokens[request] - ledger.generated[request]
            if left and self.settings.keeps:
                heappush(self._kept, (self._closed + left, request))
            else:
                self._listener.prefilled(request)

    def _let_go(self) -> None:
        """Let go of the kept prompts whose answer the latest step made whole."""
        kept = self._kept
        while kept and kept[0][0] <= self._closed:
            self._listener.prefilled(heappop(kept)[1])

    def _placed(self, request: int) -> bool:  # noqa: ARG002 - the batch worker's depends on it
        """Return true: prompts come here from a router only."""
        return True

    def die(self) -> None:
        """Stop at once; the steps under way are in vain."""
        ledger = self._ledger
        for step in self._flight:
            for request in step.finishing:
                ledger.recomputed_tokens[request] += ledger.prompt_tokens[request]
        for request, step in self._going.items():
            if request in step.finishing:
                ledger.give_up(request)
            self._listener.vanished(request)
        self._flight.clear()
        self._kept.clear()
        self._going.clear()
        super().die()

    @property
    def under_way(self) -> set[int]:
        """The prompts being computed."""
        closing = (each for step in self._flight for each in step.finishing)
        return {*self.partial, *self.loading, *closing}

    @property
    def steps_under_way(self) -> Collection[Step]:
        """The steps of all its stages."""
        return self._flight

    def observe(self) -> tuple[int, int]:
        """Return how many requests wait and how many are being computed, now."""
        closing = sum(len(step.finishing) for step in self._flight)
        return self.waiting, closing + len(self.partial)

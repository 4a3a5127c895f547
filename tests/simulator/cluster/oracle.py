"""The slow, obvious batch worker: one iteration at a time, one object per sequence.

It shares no arithmetic with the leaping worker except the step model: blocks, contexts and tokens
are counted per sequence, in loops.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from simulator.cluster.batch import BatchWorker
from simulator.cluster.clock import STEP_END
from simulator.cluster.simulation import Simulation
from simulator.cluster.worker import Step


@dataclass
class Sequence:
    """One sequence of the batch: KV tokens in its next iteration, tokens to come, blocks held.

    ``stalled``: prompts were computed alone since its last token.
    """

    request: int
    length: int
    left: int
    held: int
    last_token: float | None
    stalled: bool = False


class SteppingWorker(BatchWorker):
    """Behaves as :class:`BatchWorker` says, without leaping."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batch: list[Sequence] = []
        self.coming: list[Sequence] = []
        self.landed: deque[int] = deque()
        self.wanting: deque[int] = deque()
        self.interrupted: dict[int, float] = {}
        self.partial = 0
        self.computing: Step | None = None
        self.stepping = False
        self.decoding: list[Sequence] = []
        self.held: dict[int, int] = {}

    def ceil(self, tokens: int) -> int:
        """Return the blocks that hold ``tokens``."""
        size = self.settings.batching.block_size
        return tokens // size + (1 if tokens % size else 0)

    def need(self, request: int, length: int) -> int:
        """Return the blocks to set aside for a sequence about to have ``length`` KV tokens."""
        whole = self._ledger.input_tokens[request] + self._ledger.output_tokens[request] - 1
        if self.settings.batching.reserve == "full":
            return self.ceil(whole)
        return self.ceil(min(length, whole))

    def enqueue(self, request: int) -> None:
        """Queue a whole request."""
        self.prompts.append(request)
        self.start_if_idle()

    def reserve(self, request: int) -> None:
        """Set blocks aside, now or later."""
        self.wanting.append(request)
        if not self.interrupted and len(self.wanting) == 1:
            self.grant()
        if self.wanting:
            self.start_if_idle()

    def join(self, request: int) -> None:
        """Queue a request whose KV is here."""
        self.landed.append(request)
        self.start_if_idle()

    def start_if_idle(self) -> None:
        """Begin a step at the end of this instant, if none is under way."""
        if not self.stepping:
            self._nudge()

    def grant(self) -> None:
        """Serve waiting reservations in order."""
        while self.wanting and not self.interrupted:
            request = self.wanting[0]
            need = self.need(request, self._ledger.input_tokens[request] + 1)
            if self.used + need > self.capacity:
                return
            self.wanting.popleft()
            self.held[request] = need
            self.used += need
            self._listener.reserved(request)

    def observe(self) -> tuple[int, int]:
        """Count who waits and who is served."""
        computing = self.computing.prompts if self.computing else 0
        waiting = len(self.prompts) - (1 if self.partial else 0)
        return waiting + len(self.landed) + len(self.wanting), len(self.batch) + computing

    def wake(self, now: float) -> None:
        """End the step under way and begin the next."""
        if self.stepping:
            self.stepping = False
            self.end_step(now)
        self.begin_step(now)

    def end_step(self, now: float) -> None:
        """Give who decodes their tokens, then close computed prompts, then finish sequences."""
        self.step_count += 1
        for sequence in self.decoding:
            self.decode_tokens += 1
            sequence.length += 1
            sequence.left -= 1
            if sequence.last_token is None:
                self._ledger.second_token[sequence.request] = now
            sequence.last_token = now
            sequence.stalled = False
        if self.computing is not None:
            self.close(self.computing, now)
            self.computing = None
        finished = sorted((s for s in self.batch if s.left == 0), key=lambda s: s.request)
        for sequence in finished:
            self.batch.remove(sequence)
            self.used -= sequence.held
            self._listener.finished(sequence.request)

    def close(self, step: Step, now: float) -> None:
        """Emit the token at the end of each computed prompt."""
        ledger = self._ledger
        self.settings.load.tokens[self.settings.index] -= step.placed
        for request in step.finishing:
            self.prompts_closed += 1
            ledger.generated[request] += 1
            if request in self.interrupted:
                self._gaps.gap(now - self.interrupted[request], 1)
            else:
                ledger.prefill_end[request] = ledger.first_token[request] = now
            left = ledger.output_tokens[request] - ledger.generated[request]
            if left == 0:
                self.interrupted.pop(request, None)
                self.used -= self.held[request]
                self._listener.finished(request)
            else:
                length = ledger.input_tokens[request] + ledger.generated[request]
                self.coming.append(Sequence(request, length, left, self.held[request], now))

    def begin_step(self, now: float) -> None:
        """Grow, preempt, admit, and start a step if there is anything to do."""
        preempted = self.make_room(now)
        for sequence in self.coming:
            if self.interrupted.pop(sequence.request, None) is None:
                self._ledger.decode_join[sequence.request] = now
                self._ledger.decode_queue_enter[sequence.request] = now
            self.batch.append(sequence)
        self.coming = []
        self.grant()
        while self.landed and len(self.batch) < self.settings.batching.max_num_seqs:
            self.take(self.landed.popleft(), now)
        if not (preempted and self.batch):
            self.computing = self.chunks(now)
        if self.computing is None and not self.batch:
            self._rest(now)
            return
        self.run_step(now)

    def take(self, request: int, now: float) -> None:
        """Let a transferred request join."""
        ledger = self._ledger
        ledger.decode_join[request] = now
        left, length = ledger.output_tokens[request] - 1, ledger.input_tokens[request] + 1
        self.batch.append(Sequence(request, length, left, self.held[request], None))

    def make_room(self, now: float) -> bool:
        """Take the blocks this iteration needs, preempting the youngest while they do not fit."""
        preempted = False
        if self.settings.batching.reserve == "full":
            return False
        while True:
            missing = sum(max(0, self.ceil(s.length) - s.held) for s in self.batch)
            if self.used + missing <= self.capacity:
                break
            preempted = True
            self.evict(now)
        for sequence in self.batch:
            self.used += max(0, self.ceil(sequence.length) - sequence.held)
            sequence.held = max(sequence.held, self.ceil(sequence.length))
        return preempted

    def evict(self, now: float) -> None:
        """Preempt the prompt in progress, else the youngest sequence."""
        ledger = self._ledger
        if self.partial:
            request = self.prompts[0]
            self.used -= self.held[request]
            ledger.preemptions[request] += 1
            ledger.recomputed_tokens[request] += self.partial
            if ledger.generated[request] == 0:
                self.settings.load.tokens[self.settings.index] += self.partial
            self.partial = 0
            return
        sequence = self.batch.pop()
        self.used -= sequence.held
        ledger.generated[sequence.request] = ledger.output_tokens[sequence.request] - sequence.left
        ledger.preemptions[sequence.request] += 1
        ledger.recomputed_tokens[sequence.request] += sequence.length - 1
        self.interrupted[sequence.request] = now
        self.prompts.appendleft(sequence.request)

    def chunks(self, now: float) -> Step | None:
        """Fill the rest of the token budget with prompt chunks."""
        ledger, batching, step = self._ledger, self.settings.batching, Step()
        budget = batching.max_num_batched_tokens
        if batching.piggyback:
            budget -= len(self.batch)
        while (
            self.prompts and budget > 0 and step.prompts + len(self.batch) < batching.max_num_seqs
        ):
            request = self.prompts[0]
            target = ledger.input_tokens[request] + ledger.generated[request]
            left = target - self.partial
            if not batching.chunked_prefill and left > budget and step.tokens:
                break
            if self.partial == 0:
                need = self.need(request, target + 1)
                if self.used + need > self.capacity:
                    break
                self.used += need
                self.held[request] = need
                if request not in self.interrupted:
                    ledger.prefill_start[request] = now
            chunk = min(left, budget) if batching.chunked_prefill else left
            step.add(chunk, self.partial)
            step.placed += chunk if ledger.generated[request] == 0 else 0
            budget -= chunk
            if chunk < left:
                self.partial += chunk
                break
            self.partial = 0
            step.finishing.append(self.prompts.popleft())
        return step if step.tokens else None

    def run_step(self, now: float) -> None:
        """Start one step: it ends when the step model says."""
        step = self.computing or Step()
        alone = step.tokens > 0 and not self.settings.batching.piggyback
        self.decoding = [] if alone else list(self.batch)
        context = sum(sequence.length for sequence in self.decoding)
        seconds = self.settings.steps.step_seconds(
            step.tokens, step.pairs, step.past, step.prompts, len(self.decoding), context
        )
        for sequence in self.decoding:
            if sequence.last_token is not None:
                since = sequence.last_token
                self._gaps.gap(now + seconds - since if sequence.stalled else seconds, 1)
        for sequence in self.batch:
            sequence.stalled = alone
        self.prefill_tokens += step.tokens
        self.stepping = True
        self._work(now)
        self.alarm.set(now + seconds, STEP_END)


class SteppingSimulation(Simulation):
    """A simulation whose batch workers step."""

    batch_worker = SteppingWorker

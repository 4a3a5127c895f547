"""The slow, obvious batch worker: one iteration at a time, one object per sequence.

It shares no arithmetic with the leaping worker except the step model: blocks, contexts and tokens
are counted per sequence, in loops, and so are the blocks of its prefix cache.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from plain_cache import PlainCache

from simulator.cluster.clock import STEP_END
from simulator.cluster.simulation import Simulation
from simulator.cluster.workers.batch import BatchWorker
from simulator.cluster.workers.worker import Step


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
    unseen: bool = False


@dataclass
class Begun:
    """A prompt computed in part: ``done`` tokens of it, on attention rank ``at``.

    ``spared`` of them were found, and had been counted as to be recomputed.
    """

    request: int
    at: int
    done: int
    spared: int = 0


class SteppingWorker(BatchWorker):
    """Behaves as :class:`BatchWorker` says, without leaping."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batch: list[Sequence] = []
        self.coming: list[Sequence] = []
        self.landed: deque[int] = deque()
        self.wanting: deque[int] = deque()
        self.interrupted: dict[int, float] = {}
        self.begun: list[Begun] = []
        self.computing: Step | None = None
        self.stepping = False
        self.decoding: list[Sequence] = []
        self.held: dict[int, int] = {}
        self.due: list[float] = []
        self.began = 0.0
        self.gone: list[int] = []
        self.fetching: dict[int, Begun] = {}
        self.asked: dict[int, Any] = {}
        self.offered: set[int] = set()
        self.parked: dict[int, int] = {}
        self.alone = False
        self.unseen_for = 0
        self.waited = 0
        self.unbalanced = 0
        self.plain: PlainCache | None = None
        if self.settings.prompts is not None:
            self.plain = PlainCache(self.settings.prompts, self.settings.batching.block_size)
            self.cache = self.plain  # type: ignore[assignment]

    def take_blocks(self, request: int, need: int, tokens: int) -> bool:
        """Have so many blocks for a prompt, those the cache has of it among them, if they fit."""
        found = self.plain.find(request, tokens) if self.plain else None
        new = need - (found.blocks - found.idle if found else 0)
        if self.used + new > self.capacity:
            return False
        if self.plain and found:
            self.plain.hold(request, found)
        self.held[request] = need
        self.take_more(new)
        return True

    def take_more(self, blocks: int) -> None:
        """Have more blocks; idle ones make room."""
        self.used += blocks
        if self.plain:
            self.plain.fit(self.capacity - self.used)

    def give_back(self, request: int, blocks: int) -> None:
        """Have no more what nobody else has of a request's blocks."""
        self.used -= blocks - (self.plain.release(request) if self.plain else 0)

    def forget_blocks(self) -> None:
        """Lose everything."""
        self.used = 0
        if self.plain:
            self.plain.clear()

    def share(self, request: int, tokens: int) -> None:
        """Let others find what a prompt has, and give back what others had first."""
        if self.plain:
            self.used -= self.plain.computed(request, tokens)

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
        """Queue a whole request, or leave it where a busy scheduler looks only now and then."""
        batching, busy = self.settings.batching, self.busy_since is not None
        if busy and (batching.schedules_ahead or batching.scheduler_recv_interval > 1):
            self.unread[request] = 0
            return
        self.line_up(request)

    def line_up(self, request: int) -> None:
        """Queue a whole request, or let it wait until it is brought up."""
        whole = self._ledger.input_tokens[request] + self._ledger.generated[request]
        if self.beneath is not None and self.beneath.prefetch(request, whole):
            self.aside.add(request)
            self.prompts.step_aside(request)  # type: ignore[attr-defined]
            return
        self.prompts.append(request)
        self.start_if_idle()

    def prefetched(self, request: int) -> None:
        """Queue a request that waited."""
        self.aside.discard(request)
        self.prompts.come_back(request)  # type: ignore[attr-defined]
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

    def leave(self, request: int) -> bool:
        """Take out who is gone: at once from a queue, else when the step is over."""
        sequences = [sequence.request for sequence in self.batch]
        prompts = [prompt.request for prompt in self.begun]
        closing = self.computing.finishing if self.computing else []
        if request in (*sequences, *prompts, *closing):
            self.gone.append(request)
            return True
        if request in self.prompts or request in self.aside or request in self.unread:
            if request in self.unread:
                del self.unread[request]
            else:
                self.prompts.remove(request)
                self.aside.discard(request)
                if self.beneath is not None:
                    self.beneath.give_up(request)
            self.disown(request)
            if request not in self.interrupted:
                waits = self._ledger.prompt_tokens[request]
                self._ease(waits - self._ledger.expected.pop(request, 0))
            self.interrupted.pop(request, None)
            self._ledger.give_up(request)
            if self.prompts or self.wanting:
                self.start_if_idle()
            elif self.leaving is not None and self.empty:
                self.leaving()
            return False
        if request in self.fetching:
            self.let_go_of_load(request)
            return False
        if request in self.landed:
            self.landed.remove(request)
        self.unreserve(request)
        return False

    def let_go_of_load(self, request: int) -> None:
        """Part at once with a prompt that is being loaded."""
        prompt, ledger = self.fetching.pop(request), self._ledger
        assert self.beneath is not None
        self.beneath.cancel(request)
        self.give_back(request, self.held[request])
        self.disown(request)
        if self._placed(request):
            whole = ledger.input_tokens[request] + ledger.generated[request]
            self._ease(whole - prompt.done)
        self.interrupted.pop(request, None)
        ledger.give_up(request)
        ledger.recomputed_tokens[request] += prompt.spared
        ledger.wasted_tokens += prompt.done - prompt.spared
        if self.prompts or self.wanting:
            self.start_if_idle()
        elif self.leaving is not None and self.empty:
            self.leaving()

    def loaded(self, request: int, tokens: int) -> None:
        """Go on with a prompt that was loaded."""
        prompt = self.fetching.pop(request)
        before = prompt.done
        self.take_found(prompt, tokens)
        self.spared_s += self._spared(prompt.done, self._target(request))
        self.spared_s -= self._spared(before, self._target(request)) if before else 0.0
        self.loaded_tokens += tokens
        self.begun.append(prompt)
        self.start_if_idle()

    def come(self, request: int) -> int:
        """Return how many tokens beside its prompt's KV a request that is sent brings along."""
        return 1 if request in self._ledger.moved_at or not self.settings.recomputes else 0

    def take_in(self, request: int) -> bool:
        """Set blocks aside for a sequence that moves here."""
        need = self.need(request, self._ledger.prompt_tokens[request] + self.come(request))
        if self.wanting or self.interrupted or self.used + need > self.capacity:
            return False
        self.held[request] = need
        self.take_more(need)
        return True

    def migrate(self, depart: Any) -> None:
        """Offer sequences from the next step on."""
        self.depart = depart

    def offer(self, request: int, depart: Any) -> None:
        """Offer one at the next step."""
        self.asked[request] = depart

    @property
    def shortest(self) -> int | None:
        """Return who has the fewest tokens."""
        lengths = [(each.length, each.request) for each in self.batch]
        return min(lengths)[1] if lengths else None

    def blocks_of(self, request: int) -> int:
        """Return the blocks of what it has so far."""
        return next(self.ceil(each.length) for each in self.batch if each.request == request)

    @property
    def blocks_wanted(self) -> int:
        """Return the blocks that are waited for."""
        tokens = self._ledger.prompt_tokens
        return sum(self.need(each, tokens[each] + self.come(each)) for each in self.wanting)

    def departed(self, request: int) -> None:
        """Free what a sequence held that has gone."""
        self.give_back(request, self.parked.pop(request))
        if self.wanting or self.prompts:
            self.start_if_idle()
        elif self.leaving is not None and self.empty:
            self.leaving()

    def move_out(self) -> None:
        """Offer each sequence once to somebody else."""
        for sequence in list(self.batch):
            request = sequence.request
            if request in self.offered:
                continue
            self.offered.add(request)
            assert self.depart is not None
            self.part_with(sequence, self.depart)

    def part_with(self, sequence: Sequence, depart: Any) -> None:
        """Offer a sequence, which keeps its blocks until its KV is elsewhere."""
        request = sequence.request
        placed = self.ceil(self._ledger.prompt_tokens[request])
        if depart(self, request, sequence.length):
            self.batch.remove(sequence)
            self.parked[request] = sequence.held
            total = self._ledger.output_tokens[request]
            self._ledger.generated[request] = total - sequence.left
            self.load.requests[self.index] -= 1
            self.load.kv_blocks[self.index] -= placed

    def disown(self, request: int) -> None:
        """Let routers no longer count a request here."""
        self.load.requests[self.index] -= 1
        self.load.kv_blocks[self.index] -= self.ceil(self._ledger.prompt_tokens[request])

    def let_go(self) -> None:
        """Free whatever those have who are gone."""
        ledger = self._ledger
        for request in self.gone:
            for sequence in [each for each in self.batch if each.request == request]:
                self.batch.remove(sequence)
                self.give_back(request, sequence.held)
                ledger.generated[request] = ledger.output_tokens[request] - sequence.left
                ledger.generated[request] += sequence.unseen
                ledger.unseen_tokens -= sequence.unseen
            for prompt in [each for each in self.begun if each.request == request]:
                self.begun.remove(prompt)
                self.give_back(request, self.held[request])
                whole = ledger.input_tokens[request] + ledger.generated[request]
                if self._placed(request):
                    self._ease(whole - prompt.done)
                self.interrupted.pop(request, None)
                ledger.give_up(request)
                ledger.recomputed_tokens[request] += prompt.spared
                ledger.wasted_tokens += prompt.done - prompt.spared
            self.disown(request)
            self._listener.vanished(request)
        self.gone = []

    def start_if_idle(self) -> None:
        """Begin a step at the end of this instant, if none is under way."""
        if not self.stepping:
            self._nudge()

    def grant(self) -> None:
        """Serve waiting reservations in order."""
        while self.wanting and not self.interrupted:
            request = self.wanting[0]
            tokens = self._ledger.prompt_tokens[request]
            if not self.take_blocks(
                request, self.need(request, tokens + self.come(request)), tokens
            ):
                return
            self.wanting.popleft()
            self.kept_tokens += self.found(request)
            self._listener.reserved(request)

    def _placed(self, request: int) -> bool:
        """Tell whether a router counts the prompt's tokens."""
        return request not in self.interrupted

    @property
    def empty(self) -> bool:
        """Whether nothing is here."""
        queues = self.prompts, self.landed, self.wanting, self.batch, self.coming, self.begun
        queues = (*queues, self.aside, self.unread)
        return not (self.used or any(queues))

    @property
    def under_way(self) -> set[int]:
        """The prompts whose lost tokens are counted here."""
        closing = self.computing.finishing if self.computing else []
        begun = (prompt.request for prompt in self.begun)
        return {*closing, *self.interrupted, *begun, *self.fetching}

    def unreserve(self, request: int) -> None:
        """Take back what was or would be set aside for a transfer."""
        self.load.requests[self.index] -= 1
        self.load.kv_blocks[self.index] -= self.ceil(self._ledger.prompt_tokens[request])
        if request in self.wanting:
            self.wanting.remove(request)
            if self.wanting:
                self.start_if_idle()
            return
        self.give_back(request, self.held.pop(request))
        self._ledger.moved_at.pop(request, None)
        if self.wanting or self.prompts:
            self.start_if_idle()
        elif self.leaving is not None and self.empty:
            self.leaving()

    def decline(self) -> list[int]:
        """Send away who waits for blocks."""
        declined = list(self.wanting)
        for request in declined:
            self.unreserve(request)
        return declined

    def die(self) -> None:
        """Stop and forget everything, but for what each request had."""
        ledger = self._ledger
        for sequence in self.batch:
            total = ledger.output_tokens[sequence.request]
            ledger.generated[sequence.request] = total - sequence.left
            if sequence.unseen:
                ledger.generated[sequence.request] += 1
                ledger.unseen_tokens -= 1
                ledger.decode_join[sequence.request] = np.nan
                continue
            ledger.lost_at[sequence.request] = sequence.last_token or self.began
        ledger.lost_at.update(self.interrupted)
        for request in self.computing.finishing if self.computing else []:
            whole = ledger.input_tokens[request] + ledger.generated[request]
            ledger.recomputed_tokens[request] += whole
        self.lose_loads()
        for prompt in self.begun:
            ledger.recomputed_tokens[prompt.request] += prompt.done
        for request in self.gone:
            if not any(sequence.request == request for sequence in self.batch):
                ledger.give_up(request)
            self._listener.vanished(request)
        self.gone = []
        for request in self.landed:
            if request in ledger.moved_at:
                ledger.lost_at[request] = ledger.moved_at.pop(request)
        self.parked, self.asked = {}, {}
        self.computing, self.stepping = None, False
        queues = self.batch, self.coming, self.landed, self.wanting, self.interrupted, self.begun
        for held in (*queues, self.prompts, self.unread, self.decoding, self.due):
            held.clear()
        self.forget_blocks()
        self._rest(self._clock.now)
        self.alarm.cancel()

    def lose_loads(self) -> None:
        """Stop loading; what was found is to be computed."""
        for request, prompt in self.fetching.items():
            assert self.beneath is not None
            self.beneath.cancel(request)
            self._ledger.recomputed_tokens[request] += prompt.done
        self.fetching.clear()

    def observe(self) -> tuple[int, int]:
        """Count who waits and who is served."""
        computing = len(self.begun) + (len(self.computing.finishing) if self.computing else 0)
        waiting = len(self.prompts) + len(self.aside) + len(self.unread) + len(self.fetching)
        return waiting + len(self.landed) + len(self.wanting), len(self.batch) + computing

    @property
    def queued_tokens(self) -> int:
        """Count the tokens of prompts that wait and were never begun here."""
        tokens = self._ledger.prompt_tokens
        loading = (each for each in self.fetching.values() if self._placed(each.request))
        waits = sum(tokens[each.request] - each.done for each in loading)
        return waits + sum(
            tokens[each]
            for each in (*self.prompts, *self.aside, *self.unread)
            if self._placed(each)
        )

    @property
    def steps_under_way(self) -> tuple[Step, ...]:
        """Return the step, if it has prompts."""
        return () if self.computing is None else (self.computing,)

    def sequence_tokens(self) -> tuple[int, int]:
        """Count the KV tokens of who decodes, and of who is to or was interrupted."""
        ledger, waits = self._ledger, 0
        for request in range(ledger.size) if self.role == "decode" else ():
            here = ledger.decode_worker[request] == self.number and ledger.status[request] == 0
            here = here and ledger.prefill_worker[request] != self.number  # its KV comes
            if here and (np.isnan(ledger.decode_join[request]) or request in ledger.moved_at):
                waits += ledger.prompt_tokens[request]
        for request in self.interrupted:
            waits += ledger.input_tokens[request] + ledger.generated[request]
        return sum(sequence.length for sequence in self.batch), waits

    def wake(self, now: float) -> None:
        """End the step under way and begin the next."""
        looks = True
        if self.stepping:
            looks, self.stepping = self.counted(), False
            self.end_step(now)
        self.begin_step(now, looks=looks)

    def counted(self) -> bool:
        """Count the step that ends; tell whether the scheduler looks for requests after it."""
        self.unseen_for += 1000 if self.computing else 1
        return self.unseen_for >= self.settings.batching.scheduler_recv_interval

    def end_step(self, now: float) -> None:
        """Give who decodes their tokens, then close computed prompts, then finish sequences."""
        self.step_count += 1
        for gap in self.due:
            self._gaps.gap(gap, 1)
        for sequence in self.decoding:
            self.decode_tokens += 1
            sequence.length += 1
            sequence.left -= 1
            second = sequence.left == self._ledger.output_tokens[sequence.request] - 2
            if second and not sequence.unseen and sequence.request not in self.gone:
                self._ledger.second_token[sequence.request] = now
            sequence.last_token = now
            if sequence.unseen:
                self.reveal(sequence, now)
            sequence.stalled = False
        if self.computing is not None:
            self.close(self.computing, now)
            self.computing = None
        self.let_go()
        finished = sorted((s for s in self.batch if s.left == 0), key=lambda s: s.request)
        for sequence in finished:
            self.batch.remove(sequence)
            if self.plain:
                self.used -= self.plain.goes_on(sequence.request, sequence.length - 1)
            self.give_back(sequence.request, sequence.held)
            self._listener.finished(sequence.request)

    def reveal(self, sequence: Sequence, now: float) -> None:
        """Show the token that was computed elsewhere and now here; a first one begins no gap."""
        sequence.unseen = False
        self._ledger.generated[sequence.request] += 1
        if sequence.request not in self.gone:
            self._ledger.shown(sequence.request, now)
        if self._ledger.generated[sequence.request] == 1:
            sequence.last_token = None

    def close(self, step: Step, now: float) -> None:
        """Emit the token at the end of each computed prompt."""
        ledger = self._ledger
        self._ease(step.placed)
        for request in [each for each in step.finishing if each in self.gone]:
            self.give_back(request, self.held[request])
        for request in step.finishing:
            self.prompts_closed += 1
            ledger.generated[request] += 1
            if request in self.gone:
                self.interrupted.pop(request, None)
                continue
            if request in self.interrupted:
                if np.isnan(ledger.second_token[request]):
                    ledger.second_token[request] = now
                else:
                    self._gaps.gap(now - self.interrupted[request], 1)
            else:
                ledger.prefill_end[request] = now
                if np.isnan(ledger.first_token[request]):
                    ledger.first_token[request] = now
                if ledger.generated[request] > 1:
                    ledger.resumed.append(now - ledger.lost_at.pop(request))
                    if np.isnan(ledger.second_token[request]):
                        ledger.second_token[request] = now
            left = ledger.output_tokens[request] - ledger.generated[request]
            if left == 0:
                self.interrupted.pop(request, None)
                self.give_back(request, self.held[request])
                self._listener.finished(request)
            else:
                length = ledger.input_tokens[request] + ledger.generated[request]
                self.coming.append(Sequence(request, length, left, self.held[request], now))

    def begin_step(self, now: float, *, looks: bool) -> None:
        """Grow, preempt, admit, and start a step if there is anything to do."""
        if self.asked and self.batch and not self.alone:
            asked, self.asked = self.asked, {}
            for sequence in [each for each in self.batch if each.request in asked]:
                self.part_with(sequence, asked[sequence.request])
        if self.depart is not None and not self.alone:
            self.move_out()
        self.make_room(now)
        for sequence in self.coming:
            if self.interrupted.pop(sequence.request, None) is None:
                self._ledger.decode_join[sequence.request] = now
                self._ledger.decode_queue_enter[sequence.request] = now
            self.batch.append(sequence)
        self.coming = []
        while self.landed and len(self.batch) < self.settings.batching.max_num_seqs:
            self.take(self.landed.popleft(), now)
        self.grant()
        self.look(looks=looks)
        self.computing = None if self.holds_back() else self.chunks(now)
        if self.computing is None and not self.batch:
            self._rest(now)
            return
        self.run_step(now)

    def look(self, *, looks: bool) -> None:
        """Queue who came, if the scheduler looks or is idle; ahead, whom it could know of."""
        if looks or not self.batch:
            self.unseen_for = 0
            ahead = self.settings.batching.schedules_ahead and self.batch
            for request in [each for each, age in self.unread.items() if age or not ahead]:
                del self.unread[request]
                self.line_up(request)
        for request in self.unread:
            self.unread[request] += 1

    def take(self, request: int, now: float) -> None:
        """Let a transferred request join."""
        ledger = self._ledger
        if request in ledger.moved_at:
            since = ledger.moved_at.pop(request)
            known = ledger.generated[request]
            left = ledger.output_tokens[request] - known
            length = ledger.input_tokens[request] + known
            last = None if known == 1 else since
            self.batch.append(Sequence(request, length, left, self.held[request], last))
            return
        ledger.decode_join[request] = now
        self.share(request, ledger.input_tokens[request])
        if self.settings.recomputes:
            ledger.unseen_tokens += 1
            ledger.generated[request] -= 1
            length = ledger.input_tokens[request] + ledger.generated[request]
            left = ledger.output_tokens[request] - ledger.generated[request]
            again = Sequence(request, length, left, self.held[request], None, unseen=True)
            self.batch.append(again)
            return
        known = ledger.generated[request]
        since = None if known == 1 else ledger.last_shown(request)
        if np.isnan(ledger.first_token[request]) or request in ledger.lost_at:
            ledger.shown(request, now)
            since = None if known == 1 else now
        left, length = ledger.output_tokens[request] - known, ledger.input_tokens[request] + known
        if not left:
            self.give_back(request, self.held[request])
            self._listener.finished(request)
            return
        self.batch.append(Sequence(request, length, left, self.held[request], since))

    def make_room(self, now: float) -> None:
        """Take the blocks this iteration needs, preempting the youngest while they do not fit."""
        if self.settings.batching.reserve == "full":
            return
        while True:
            missing = sum(max(0, self.ceil(s.length) - s.held) for s in self.batch)
            if self.used + missing <= self.capacity:
                break
            self.evict(now)
        for sequence in self.batch:
            self.take_more(max(0, self.ceil(sequence.length) - sequence.held))
            sequence.held = max(sequence.held, self.ceil(sequence.length))

    def evict(self, now: float) -> None:
        """Preempt the prompt in progress, else the youngest sequence."""
        ledger = self._ledger
        if self.begun:
            last = self.begun.pop()
            self.give_back(last.request, self.held[last.request])
            ledger.preemptions[last.request] += 1
            ledger.recomputed_tokens[last.request] += last.done
            if self._placed(last.request):
                self.load.tokens[self.index] += last.done
            self.prompts.appendleft(last.request)
            return
        sequence = self.batch.pop()
        self.give_back(sequence.request, sequence.held)
        ledger.generated[sequence.request] = ledger.output_tokens[sequence.request] - sequence.left
        ledger.preemptions[sequence.request] += 1
        ledger.recomputed_tokens[sequence.request] += sequence.length - 1
        self.interrupted[sequence.request] = now
        self.prompts.appendleft(sequence.request)

    def holds_back(self) -> bool:
        """Tell whether prompts wait until there are more of them for one step."""
        batching, decoding = self.settings.batching, len(self.batch)
        if batching.attention_dp_timeout_iters:
            return self.unbalances()
        together = self.together()
        if not (batching.batch_wait_timeout_iters and decoding and together):
            return False
        few = together + decoding < (
            batching.batch_wait_max_tokens_ratio * batching.max_num_batched_tokens
        )
        waits = few and self.waited < batching.batch_wait_timeout_iters
        self.waited = self.waited + 1 if waits else 0
        return waits

    def unbalances(self) -> bool:
        """Tell whether prompts wait until each rank can have one."""
        batching, ranks = self.settings.batching, self.settings.spec.layout.attention_dp
        seats, room = batching.max_num_seqs - len(self.batch), self.capacity - self.used
        begins = len(self.begun)
        for request in self.prompts:
            whole = self._target(request)
            known = self.plain.find(request, whole) if self.plain else None
            room -= self.need(request, whole + 1) - (known.blocks - known.idle if known else 0)
            if begins == seats or room < 0:
                break
            begins += 1
        budget = self.ceil_of(batching.max_num_batched_tokens, ranks)
        budget -= self.ceil_of(len(self.batch), ranks) if batching.piggyback else 0
        if len(self.batch) < ranks or (begins >= ranks and seats > 0 and budget > 0):
            self.unbalanced = 0
            return False
        self.unbalanced += 1
        if self.unbalanced < batching.attention_dp_timeout_iters:
            return True
        self.unbalanced = 0
        return False

    def together(self) -> int:
        """Return the tokens of the prompts that the next step could take."""
        batching, decoding = self.settings.batching, len(self.batch)
        tokens = batching.max_num_batched_tokens - decoding * batching.piggyback
        seats, room = batching.max_num_seqs - decoding, self.capacity - self.used
        if seats <= 0 or tokens <= 0:
            return 0
        total = sum(self._target(prompt.request) for prompt in self.begun)
        tokens -= sum(self._target(prompt.request) - prompt.done for prompt in self.begun)
        seats -= len(self.begun)
        for request in self.prompts:
            whole = self._target(request)
            known = self.plain.find(request, whole) if self.plain else None
            rest = whole - (known.blocks * batching.block_size if known else 0)
            room -= self.need(request, whole + 1) - (known.blocks - known.idle if known else 0)
            too_long = rest > tokens and not batching.chunked_prefill and total > 0
            if seats <= 0 or tokens <= 0 or room < 0 or too_long:
                break
            total, tokens, seats = total + rest, tokens - rest, seats - 1
        return total

    def chunks(self, now: float) -> Step | None:
        """Go on with the prompts begun, then begin others, within each rank's budget."""
        batching, ranks = self.settings.batching, self.settings.spec.layout.attention_dp
        shared = self.ceil_of(batching.max_num_batched_tokens, ranks)
        if batching.piggyback:
            shared -= self.ceil_of(len(self.batch), ranks)
        if shared <= 0:
            return None
        step, free = Step(shared, ranks), [shared for _ in range(ranks)]
        for prompt in self.begun[: batching.max_num_seqs - len(self.batch)]:
            rest, whole = self._target(prompt.request) - prompt.done, not batching.chunked_prefill
            crowded = whole and free[prompt.at] < min(rest, shared)
            if free[prompt.at] > 0 and not crowded:
                free[prompt.at] -= self.compute(step, prompt, free[prompt.at])
        while self.prompts and step.prompts + len(self.batch) < batching.max_num_seqs:
            request = self.prompts[0]
            at = sorted(range(ranks), key=lambda rank: (-free[rank], rank))[0]
            whole = self._ledger.input_tokens[request] + self._ledger.generated[request]
            known = self.plain.find(request, whole).blocks if self.plain else 0
            left = whole - known * batching.block_size
            crowded = left > free[at] and not batching.chunked_prefill and free[at] < shared
            if free[at] <= 0 or crowded or not self.admit(request, whole, now):
                break
            prompt = self.begin_prompt(self.prompts.popleft(), at)
            known = self.plain.shared(request) if self.plain else 0
            if self.beneath is not None and self.beneath.fetch(request, known, whole):
                self.fetching[request] = prompt
                continue
            self.begun.append(prompt)
            free[at] -= self.compute(step, prompt, free[at])
        return step if step.tokens else None

    @staticmethod
    def ceil_of(amount: int, parts: int) -> int:
        """Return an even share of ``amount``, rounded up."""
        return amount // parts + (1 if amount % parts else 0)

    def begin_prompt(self, request: int, at: int) -> Begun:
        """Begin a prompt behind what was found of it."""
        found, prompt = self.found(request), Begun(request, at, 0)
        if self._placed(request):
            self.load.tokens[self.index] += self._ledger.expected.pop(request, 0)
        self.take_found(prompt, found)
        self.spared_s += self._spared(found, self._target(request)) if found else 0.0
        return prompt

    def take_found(self, prompt: Begun, tokens: int) -> None:
        """Compute so many tokens less of a prompt."""
        request, ledger = prompt.request, self._ledger
        spared = min(tokens, ledger.recomputed_tokens[request])
        ledger.recomputed_tokens[request] -= spared
        ledger.cached_tokens[request] += tokens - spared
        self.found_tokens += tokens
        if self._placed(request):
            self._ease(tokens)
        prompt.done += tokens
        prompt.spared += spared

    def admit(self, request: int, whole: int, now: float) -> bool:
        """Set the blocks of a prompt aside, if there are as many."""
        if not self.take_blocks(request, self.need(request, whole + 1), whole):
            return False
        if request not in self.interrupted:
            self._ledger.prefill_start[request] = now
        return True

    def compute(self, step: Step, prompt: Begun, free: int) -> int:
        """Add the next chunk of a prompt to the step; return its tokens."""
        ledger, request = self._ledger, prompt.request
        left = ledger.input_tokens[request] + ledger.generated[request] - prompt.done
        chunk = min(left, free) if self.settings.batching.chunked_prefill else left
        step.add(prompt.at, chunk, prompt.done)
        step.placed += chunk if self._placed(request) else 0
        prompt.done += chunk
        self.share(request, prompt.done)
        if chunk == left:
            self.begun.remove(prompt)
            step.finishing.append(request)
        return chunk

    def run_step(self, now: float) -> None:
        """Start one step: it ends when the step model says."""
        step = self.computing or Step(0, 1)
        self.alone = alone = step.tokens > 0 and not self.settings.batching.piggyback
        self.decoding = [] if alone else list(self.batch)
        context = sum(sequence.length for sequence in self.decoding)
        seconds = self.settings.steps.step_seconds(
            step.tokens,
            step.pairs,
            step.past,
            step.prompts,
            len(self.decoding),
            context,
            step.busiest,
        )
        if self.slow_steps > 0:
            self.slow_steps -= 1
            seconds = self.slow_factor * seconds
        self.began, self.due = now, []
        for sequence in self.decoding:
            if sequence.last_token is not None:
                since = sequence.last_token
                apart = sequence.stalled or since != now
                self.due.append(now + seconds - since if apart else seconds)
        for sequence in self.batch:
            sequence.stalled = alone
        self.prefill_tokens += step.tokens
        self.stepping = True
        self._work(now)
        self.alarm.set(now + seconds, STEP_END)


class SteppingSimulation(Simulation):
    """A simulation whose batch workers step."""

    batch_worker = SteppingWorker

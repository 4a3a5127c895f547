"""The continuous-batching worker: decodes handed-over requests, or serves whole ones (mixed).

Between two changes of its batch a worker leaps (:mod:`simulator.cluster.workers.leap`): it sleeps
until the last of the iterations that lie between. Whoever needs its state sooner has it advanced to
the iteration under way.
"""

from collections import deque
from collections.abc import Callable, Collection
from heapq import heappop, heappush
from math import isnan

from simulator.cluster.clock import STEP_END, Clock
from simulator.cluster.ledger import Ledger
from simulator.cluster.workers.intake import BatchWait, Polls, RankBalance
from simulator.cluster.workers.leap import Leap
from simulator.cluster.workers.worker import Listener, Step, Worker, WorkerSettings

Depart = Callable[["BatchWorker", int, int], bool]
"""Takes a worker, a request and the tokens of its next iteration; tells whether somebody has it."""


class BatchWorker(Worker):
    """Runs a batch of decoding sequences, with prompt chunks beside them when there are any.

    Decodes come first in the token budget, then prompts in arrival order (vLLM V1). When the KV
    cache is full the youngest sequence is preempted and later recomputed from its tokens.

    Without piggybacking prompts come first, alone, and stall the batch (vLLM V0). The blocks of a
    stalled iteration are taken before its prompts are admitted, so these never push it out.
    """

    __slots__ = (
        "_arrived",
        "_asked",
        "_awaiting",
        "_balance",
        "_coming",
        "_ends",
        "_fresh",
        "_gaps",
        "_going",
        "_grows",
        "_known",
        "_late",
        "_late_since",
        "_max_seqs",
        "_parked",
        "_paused",
        "_pending",
        "_piggyback",
        "_polls",
        "_prompt_step",
        "_ready",
        "_resumed",
        "_running",
        "_shown",
        "_slow",
        "_stalled",
        "_staying",
        "_unseen",
        "_wait",
        "_waits",
        "depart",
        "leap",
    )

    def __init__(
        self, clock: Clock, ledger: Ledger, listener: Listener, settings: WorkerSettings
    ) -> None:
        super().__init__(clock, ledger, listener, settings)
        self._gaps = settings.gaps
        self._max_seqs = settings.batching.max_num_seqs
        self._grows = settings.batching.reserve == "prompt"
        self._piggyback = settings.batching.piggyback
        self._polls = Polls(settings.batching)
        batching = settings.batching
        waits, balances = batching.batch_wait_timeout_iters, batching.attention_dp_timeout_iters
        self._wait = BatchWait(batching) if waits else None
        self._balance = RankBalance(batching, self.ranks) if balances else None
        self._waits = False  # prompts, in the iteration under way, for more of them
        self.leap = Leap(settings.times, settings.batching.block_size, grows=self._grows)
        self._running: dict[int, int] = {}  # request -> step it ends at, youngest last
        self._ends: list[tuple[int, int]] = []  # heap of (step, request); may hold stale entries
        self._prompt_step: Step | None = None
        self._arrived: deque[int] = deque()  # KV here, not yet in the batch
        self._pending: deque[int] = deque()  # want blocks for a transfer
        self._coming = 0  # KV tokens of those that want blocks, are on their way, or just arrived
        self._paused: dict[int, float] = {}  # preempted -> when its last token was emitted
        self._fresh = 0  # how many joined from a transfer in this iteration
        self._awaiting: list[int] = []  # get their second token in the next iteration
        self._known = 0 if settings.recomputes else 1  # tokens that come with a transferred prompt
        self._unseen: list[int] = []  # compute the token anew that ended their prompt elsewhere
        self._shown: list[int] = []  # did so in the iteration that just ended
        self._stalled = False  # by prompts alone: iteration `_step` has its blocks but not begun
        self._late: list[tuple[float, int]] = []  # last token before a stall, of how many
        self._resumed = 0.0  # when the first iteration after the stall ends
        self._ready: list[int] = []  # prompts computed here in the step that just ended
        self.depart: Depart | None = None  # set when it migrates
        self._asked: dict[int, Depart] = {}  # to part with these, and to whom they are offered
        self._parked: dict[int, int] = {}  # blocks of sequences that are on their way elsewhere
        self._staying: set[int] = set()  # nobody had room for these
        self._slow = 0.0  # seconds of the iteration under way, if a slow one
        self._going: list[int] = []  # their clients have gone; they stay until this step ends
        self._late_since: dict[int, float] | None = None  # whose last token was when, in a stall

    # --- what others ask of it ---------------------------------------------------------------

    def enqueue(self, request: int) -> None:
        """Take a request in whose prompt is to be computed here, if busy as soon as it looks."""
        polls = self._polls
        if polls.at_once or self.busy_since is None:
            super().enqueue(request)
            return
        self._advance()
        seen = self.unread[request] = self.step_count + 1 + polls.lag
        ahead = polls.next(seen) - self.step_count
        if self.leap.left > ahead:
            self._shorten(ahead)

    def _look(self) -> None:
        """Take in who came before the last look, if it is time to; with no decodes, everybody."""
        unread, step = self.unread, self.step_count
        if self._running and not self._polls.due(step):
            return
        self._polls.restart(step)
        while unread and (not self._running or next(iter(unread.values())) <= step):
            request = next(iter(unread))
            del unread[request]
            super().enqueue(request)

    def _joined(self, request: int) -> None:
        if self.prompts[0] == request:
            self._interrupt()

    def reserve(self, request: int) -> None:
        """Set blocks aside for a transfer, at once or as soon as there are any, in order."""
        self._coming += self._ledger.prompt_tokens[request]
        if self._pending or self._paused or not self._reserved(request):
            self._pending.append(request)
            if self.busy_since is None:
                self._nudge()
            return
        self._listener.reserved(request)

    def _reserved(self, request: int) -> bool:
        """Set blocks aside for a transfer, if there are as many now."""
        blocks = self._incoming(request)
        if self.cache is None:
            fits = self._has_room(blocks)
            self.used += blocks if fits else 0
            return fits
        self._advance()  # what it has taken by now is no longer in the cache
        found = self.cache.find(request, self._ledger.prompt_tokens[request])
        new = blocks - found.blocks + found.idle
        if not self._has_room(new):
            return False
        self._hold(request, found, new)
        self.kept_tokens += self.found(request)
        return True

    def _incoming(self, request: int) -> int:
        """Return the blocks to set aside for a request that comes with its KV."""
        ledger = self._ledger
        known = 1 if request in ledger.moved_at else self._known
        return self._held(request, ledger.prompt_tokens[request] + known)

    def take_in(self, request: int) -> bool:
        """Set blocks aside for a sequence of another worker, if there are as many now."""
        blocks = self._incoming(request)
        if self.cache is not None:
            self._advance()
        if self._pending or self._paused or not self._has_room(blocks):
            return False
        self._coming += self._ledger.prompt_tokens[request]
        self.used += blocks
        self._fit()
        return True

    def offer(self, request: int, depart: "Depart") -> None:
        """Offer one sequence to somebody when the iteration under way ends."""
        self._asked[request] = depart
        self._interrupt()

    @property
    def shortest(self) -> int | None:
        """The sequence in the batch with the fewest tokens, of those alike the lowest number."""
        ledger = self._ledger
        tokens = (
            (ledger.input_tokens[request] + ledger.output_tokens[request] - end, request)
            for request, end in self._running.items()
        )
        return min(tokens, default=(0, None))[1]

    def blocks_of(self, request: int) -> int:
        """Return the blocks that the KV of a sequence in the batch fills, now."""
        ledger = self._ledger
        left = self._running[request] - self.leap.step - self._over
        return self.blocks(ledger.input_tokens[request] + ledger.output_tokens[request] - left)

    @property
    def blocks_wanted(self) -> int:
        """The blocks that requests wait for whose KV is to come here."""
        return sum(map(self._incoming, self._pending))

    def migrate(self, depart: "Depart") -> None:
        """Offer every sequence to others from the end of the iteration under way on.

        ``depart`` takes this worker, a request and the tokens of its next iteration, and tells
        whether somebody takes it in.
        """
        self.depart = depart
        self._interrupt()

    def departed(self, request: int) -> None:
        """Free the blocks of a sequence that has gone to another worker, or was lost on the way."""
        if self.cache is not None:
            self._advance()
        self._free(request, self._parked.pop(request))
        if self._pending or self.prompts:
            self._interrupt()
        elif self.leaving is not None and self.empty:
            self.leaving()

    def join(self, request: int) -> None:
        """Take a request whose KV has arrived into the batch at the next boundary."""
        self._arrived.append(request)
        if len(self._running) < self._max_seqs:
            self._interrupt()

    def unreserve(self, request: int) -> None:
        """Give up the place of a request whose KV is not here yet."""
        tokens = self._ledger.prompt_tokens[request]
        self._coming -= tokens
        self.load.requests[self.index] -= 1
        self.load.kv_blocks[self.index] -= self.blocks(tokens)
        if request in self._pending:
            self._pending.remove(request)
            if self._pending:
                self._interrupt()
            return
        if self.cache is not None:
            self._advance()
        self._free(request, self._incoming(request))
        self._ledger.moved_at.pop(request, None)
        if self._pending or self.prompts:
            self._interrupt()
        elif self.leaving is not None and self.empty:
            self.leaving()

    def expect_leavers(self) -> None:
        """Keep in mind what it takes to part with sequences whose clients leave in a stall."""
        self._late_since = {}

    def leave(self, request: int) -> bool:
        """Part with a request whose client has gone, one in the batch when this step ends."""
        closing = self._prompt_step.finishing if self._prompt_step else ()
        if request in self._running or request in self.partial or request in closing:
            self._going.append(request)
            if self._ledger.second_token[request] > self._clock.now:
                self._ledger.second_token[request] = float("nan")
            self._interrupt()
            return True
        if isnan(self._ledger.decode_queue_enter[request]) and not self._computes(request):
            self.unreserve(request)
        elif request in self._arrived:
            self._arrived.remove(request)
            self.unreserve(request)
        else:
            if request in self.loading:
                self._advance()
                self._unload(request, self._held(request, self._target(request) + 1))
            else:
                self._unqueue(request)
            self._paused.pop(request, None)
            if self.prompts or self._pending:
                self._interrupt()
            elif self.leaving is not None and self.empty:
                self.leaving()
        return False

    def decline(self) -> list[int]:
        """Give up the requests that wait for blocks here, in the order they came."""
        declined = list(self._pending)
        for request in declined:
            self.unreserve(request)
        return declined

    @property
    def empty(self) -> bool:
        """Whether it holds nothing at all."""
        return super().empty and not (self._pending or self._arrived or self._running)

    @property
    def under_way(self) -> set[int]:
        """The prompts being computed here, and those computed before and now again."""
        closing = self._prompt_step.finishing if self._prompt_step else ()
        return {*self.partial, *self.loading, *closing, *self._paused}

    def die(self) -> None:
        """Stop at once; the iteration under way is in vain."""
        self._advance()
        self._lose_step()
        ledger = self._ledger
        for request, end in self._running.items():
            ledger.generated[request] = ledger.output_tokens[request] - (end - self.leap.step)
        for request in self._unseen:  # as if it had not joined
            ledger.generated[request] += 1
            ledger.unseen_tokens -= 1
            ledger.decode_join[request] = float("nan")
        for request in self._going:
            if request not in self._running:
                ledger.give_up(request)
            self._listener.vanished(request)
        self._going.clear()
        self._forget_stall()
        for request in self._arrived:
            if request in ledger.moved_at:
                ledger.lost_at[request] = ledger.moved_at.pop(request)
        self._parked.clear()
        self._asked.clear()
        for held in (self._running, self._ends, self._arrived, self._pending, self._paused):
            held.clear()
        self.leap.clear()
        self._fresh = 0
        self._slow = 0.0
        self._awaiting.clear()
        self._unseen.clear()
        self._stalled = False
        super().die()

    def _lose_step(self) -> None:
        """Say when those in the batch had their last token, and take back what is not to come.

        In a stall that is taken to be when its first sequence had it.
        """
        ledger = self._ledger
        since = self._late[0][0] if self._late else self.leap.since
        for request in self._running:
            if request in self._unseen:
                continue  # its last token, if it had any, came before it was here
            ledger.lost_at[request] = since
            if ledger.second_token[request] > self.leap.since:
                ledger.second_token[request] = float("nan")  # it is not to come any more
        ledger.lost_at.update(self._paused)
        if self._prompt_step is not None:
            for request in self._prompt_step.finishing:
                ledger.recomputed_tokens[request] += self._target(request)
            self._prompt_step = None

    def observe(self) -> tuple[int, int]:
        """Return how many requests wait and how many are in the batch, now."""
        closing = len(self._prompt_step.finishing) if self._prompt_step else 0
        computing = closing + len(self.partial)
        waiting = self.waiting + len(self._arrived) + len(self._pending)
        return waiting, len(self._running) + computing

    @property
    def steps_under_way(self) -> Collection[Step]:
        """The step under way, if it has prompts."""
        return () if self._prompt_step is None else (self._prompt_step,)

    def sequence_tokens(self) -> tuple[int, int]:
        """Return the KV tokens of sequences that decode here, and of those that wait to, now."""
        context = self.leap.context + len(self._running) * self._over
        return context, self._coming + sum(map(self._target, self._paused))

    def take_stock(self) -> None:
        """Commit the iterations that are over."""
        self._advance()

    def blocks_in_use(self) -> int:
        """Return the KV blocks it holds now, those of the iterations since its last event too."""
        return self.used + self.leap.blocks_over(self._over)

    @property
    def _over(self) -> int:
        """Iterations that are over and not yet counted."""
        leap = self.leap
        if leap.left <= 1:
            return 0
        return leap.until(self._clock.now, past=self._clock.turn > self.alarm.turn)[0]

    # --- the step ----------------------------------------------------------------------------

    def wake(self, now: float) -> None:
        """End the leap that is due and begin the next."""
        if self.leap.left:
            if self._stalled:
                self.step_count += 1
            else:
                self._commit(self.leap.left)
                if self._unseen:
                    self._show(now)
            self.leap.left = self.leap.growth_left = 0
            if self._prompt_step is not None:
                self._close_prompts(self._prompt_step, now)
                self._polls.restart(self.step_count)
            if self._going:
                self._let_go()
            if self._ends and self._ends[0][0] <= self.leap.step:
                self._finish_due()
        else:
            self._polls.restart(self.step_count)
        self._begin(now)

    def _begin(self, now: float) -> None:
        self.leap.since, self._waits = now, False
        if self._running and not self._stalled:
            if self._asked or self.depart is not None:
                self._move_out()
            self._grow(now)
        if self._shown:
            self._expect_second()
        if self._ready:
            self._join_ready(now)
        if self._arrived:
            self._join_arrived(now)
        if self._pending:
            self._grant()
        if self.prompts or self.partial or self.unread or self._balance:
            self._take_up(now)
        if self._prompt_step is not None:
            self._prompt_chunks(self._prompt_step, now)
        elif self._running:
            self._plan(now)
        else:
            self._rest(now)
            return
        self._work(now)

    def _take_up(self, now: float) -> None:
        """Look for new prompts if it is time to, and form a step of those there are."""
        if self.unread:
            self._look()
        if self._balance:
            self._balance.begins(self.step_count, len(self._running))
        if (self.prompts or self.partial) and not self._lets_wait():
            self._prompt_step = self._form(now, len(self._running))

    def _plan(self, now: float) -> None:
        """Find how far the batch stays as it is, and when that is."""
        batch, leap = len(self._running), self.leap
        if self.slow_steps:
            self._slow = self._slowed(leap.seconds(batch))
            end = first = now + self._slow
            leap.once()
        else:
            offered = self._asked or (self.depart and self._running.keys() - self._staying)
            most = 1 if offered or self._unseen or self._waits else self._ends[0][0] - leap.step
            if self.unread:
                most = min(most, self._next_look() - self.step_count)
            first, end = leap.plan(now, batch, most, self.capacity - self.used)
        self.alarm.set(end, STEP_END)
        if self._awaiting:
            self._stamp_second(first)
        if self._late:
            self._resumed = first
        self._stalled = False

    def _next_look(self) -> int:
        """Return the next step before which it looks and sees somebody."""
        first = next(iter(self.unread.values()))
        return self._polls.next(max(first, self.step_count + 1))

    def _prompt_chunks(self, step: Step, now: float) -> None:
        """Compute prompt chunks, beside one iteration or in its place."""
        batch, context = (len(self._running), self.leap.context) if self._piggyback else (0, 0)
        seconds = self.settings.steps.step_seconds(
            step.tokens, step.pairs, step.past, step.prompts, batch, context, step.busiest
        )
        if self.slow_steps:
            seconds = self._slowed(seconds)
        step.ends = now + seconds
        self.leap.once()
        self.prefill_tokens += step.tokens
        self.alarm.set(step.ends, STEP_END)
        if not self._piggyback:
            self._stall(now)
            return
        step.seconds, step.riders = seconds, batch - self._fresh - self._held_up()
        for since, count in self._late:
            self._gaps.gap(step.ends - since, count)
        self._forget_stall()
        self._fresh = 0  # their first gap ends here, and is not one of this step's
        if self._awaiting:
            self._stamp_second(step.ends)

    def _stall(self, now: float) -> None:
        """Remember whose last token was at ``now``: who just joined, or all if just stalled."""
        self._stalled = True
        just = len(self._running) - self._fresh - self._held_up()
        if just:
            self._late.append((now, just))
        if self._late_since is not None:
            handed = (each for each in self._awaiting if not self._computes(each))
            fresh = {*self._unseen, *handed}
            for request in self._running.keys() - self._late_since.keys() - fresh:
                self._late_since[request] = now

    def _forget_stall(self) -> None:
        self._late.clear()
        if self._late_since:
            self._late_since.clear()

    def _held_up(self) -> int:
        """Return how many sequences had their last token before the stall's latest step."""
        return sum(count for _, count in self._late)

    def _stamp_second(self, when: float) -> None:
        second = self._ledger.second_token
        for request in self._awaiting:
            second[request] = when
        self._awaiting.clear()

    def _show(self, now: float) -> None:
        """Let clients see the tokens that were computed anew: they are the workers' to give now."""
        ledger = self._ledger
        for request in self._unseen:
            ledger.generated[request] += 1
            if request not in self._going:
                ledger.shown(request, now)
        self._shown, self._unseen = self._unseen, []

    def _expect_second(self) -> None:
        """Wait for the second tokens of those who just had their first, if they are still here."""
        for request in self._shown:
            if self._ledger.generated[request] == 1 and request in self._running:
                self._fresh += 1
                self._awaiting.append(request)
        self._shown.clear()

    # --- time ----------------------------------------------------------------------------------

    def _commit(self, count: int) -> None:
        """Account for ``count`` finished iterations; the growth of the one after is not taken."""
        batch = len(self._running)
        if batch and self._prompt_step is None:
            if self._fresh or self._late or self._slow:
                self._log_first(batch, count)
            else:
                self._gaps.iterations(batch, batch, self.leap.context, count)
        if count > 1:
            self.used += self.leap.blocks_over(count - 1)
            self._fit()
        self.leap.count(count, batch)
        self.decode_tokens += batch * count
        self.step_count += count

    def _log_first(self, batch: int, count: int) -> None:
        """Log gaps that began sooner apart: who was held up; who just joined is known elsewhere."""
        context, gaps = self.leap.context, self._gaps
        for since, late in self._late:
            gaps.gap(self._resumed - since, late)
        weight = batch - self._fresh - self._held_up()
        if self._slow:
            gaps.gap(self._slow, weight)
            self._slow = 0.0
        else:
            gaps.iterations(batch, weight, context, 1)
        self._fresh = 0
        self._forget_stall()
        if count > 1:
            gaps.iterations(batch, batch, context + batch, count - 1)

    def _advance(self) -> None:
        """Commit the iterations that lie before the event being processed."""
        leap = self.leap
        if leap.left <= 1:
            return
        done, began = leap.until(self._clock.now, past=self._clock.turn > self.alarm.turn)
        if not done:
            return
        used = self.used
        self._commit(done)
        self.used += leap.growth[leap.step % self.block_size]  # taken as its iteration began
        self._fit()
        leap.advance(done, began, self.used - used)

    def _resume(self) -> None:
        self._interrupt()

    def _interrupt(self) -> None:
        """Let the batch change at the end of the iteration under way."""
        if self.busy_since is None:
            self._nudge()
        elif self.leap.left > 1:
            self._advance()
            if self.leap.left > 1:
                self._shorten(1)

    def _shorten(self, left: int) -> None:
        """Wake up after ``left`` iterations from the current one instead of later."""
        self.alarm.set(self.leap.cut(left), STEP_END)

    # --- KV blocks -----------------------------------------------------------------------------

    def _held(self, request: int, length: int) -> int:
        """Return the blocks to set aside for a sequence whose next token is its ``length``-th."""
        ledger = self._ledger
        whole = ledger.input_tokens[request] + ledger.output_tokens[request] - 1
        kept = length if self._grows and length < whole else whole
        return -(-kept // self.block_size)

    def _has_room(self, blocks: int) -> bool:
        """Tell whether ``blocks`` are free now; shorten the leap if they leave it too few."""
        if self.used + self.leap.growth_left + blocks <= self.capacity:
            return True
        if self.leap.left > 1:
            self._advance()
        if self.used + blocks > self.capacity:
            return False
        if self.leap.left > 1:
            self.used += blocks
            fits = self.leap.fitting(len(self._running), self.leap.left, self.capacity - self.used)
            self.used -= blocks
            if fits < self.leap.left:
                self._shorten(fits)
        return True

    def _grant(self) -> None:
        """Grant reservations in order, as far as blocks go; preempted sequences go first."""
        pending = self._pending
        while pending and not self._paused:
            request = pending[0]
            tokens = self._ledger.prompt_tokens[request]
            if not self._set_aside(request, self._incoming(request), tokens):
                return
            self.kept_tokens += self.found(request)
            pending.popleft()
            self._listener.reserved(request)

    def _grow(self, now: float) -> None:
        """Take this iteration's new blocks, preempting the youngest until they fit.

        What was preempted waits at the head of the queue and cannot be readmitted in the same
        step: it would need at least the blocks it just gave up.
        """
        growth = self.leap.growth
        phase = self.leap.step % len(growth)
        while growth[phase] and self.used + growth[phase] > self.capacity:
            self._preempt(now)
        self.used += growth[phase]
        self._fit()

    def _preempt(self, now: float) -> None:
        if self.partial:
            self._drop_partial_prompt()
            return
        request, end = self._running.popitem()
        ledger = self._ledger
        left = end - self.leap.step
        generated = ledger.output_tokens[request] - left
        length = ledger.input_tokens[request] + generated
        self.leap.leave(length)
        self._free(request, self.blocks(length - 1))
        ledger.generated[request] = generated
        ledger.preemptions[request] += 1
        ledger.recomputed_tokens[request] += length - 1
        self._paused[request] = now
        self.prompts.appendleft(request)

    def _drop_partial_prompt(self) -> None:
        request, partial = self.partial.popitem()
        self._free(request, self._held(request, self._target(request) + 1))
        self._ledger.preemptions[request] += 1
        self._ledger.recomputed_tokens[request] += partial.done
        if self._placed(request):
            self.load.tokens[self.index] += partial.done
        self.prompts.appendleft(request)

    # --- membership ----------------------------------------------------------------------------

    def _add(self, request: int) -> None:
        """Let a sequence whose KV and next token are here take part from this iteration on."""
        ledger, step = self._ledger, self.leap.step
        generated = ledger.generated[request]
        length = ledger.input_tokens[request] + generated
        end = step + ledger.output_tokens[request] - generated
        self._running[request] = end
        heappush(self._ends, (end, request))
        self.leap.enter(length)

    def _join_arrived(self, now: float) -> None:
        """Take over whose KV is here; clients see their next token now, or after an iteration."""
        arrived, ledger = self._arrived, self._ledger
        while arrived and len(self._running) < self._max_seqs:
            request = arrived.popleft()
            self._coming -= ledger.prompt_tokens[request]
            if request in ledger.moved_at:
                self._go_on_here(request)
                continue
            ledger.decode_join[request] = now
            self._name(request, ledger.input_tokens[request])
            if self._known:
                self._take_over(request, now)
                continue
            ledger.generated[request] -= 1
            ledger.unseen_tokens += 1
            self._add(request)
            self._fresh += 1
            self._unseen.append(request)

    def _go_on_here(self, request: int) -> None:
        """Go on with a sequence from another worker; its gap began with its last token there."""
        since = self._ledger.moved_at.pop(request)
        self._add(request)
        if self._ledger.generated[request] == 1:
            self._fresh += 1
            self._awaiting.append(request)
            return
        self._late.append((since, 1))
        if self._late_since is not None:
            self._late_since[request] = since

    def _take_over(self, request: int, now: float) -> None:
        """Go on from the token that ended the prompt, if it was not the last."""
        ledger = self._ledger
        late = isnan(ledger.first_token[request]) or request in ledger.lost_at
        if late:
            ledger.shown(request, now)
        if ledger.output_tokens[request] == ledger.generated[request]:
            self._free(request, self._held(request, ledger.prompt_tokens[request] + 1))
            self._listener.finished(request)
            return
        self._add(request)
        if ledger.generated[request] == 1:
            self._fresh += 1
            self._awaiting.append(request)
        elif not late:  # it goes on, and its last token came from the prefill worker
            since = ledger.last_shown(request)
            self._late.append((since, 1))
            if self._late_since is not None:
                self._late_since[request] = since

    def _move_out(self) -> None:
        """Offer the sequences that somebody asked for, and, leaving, all that were not offered."""
        asked, self._asked = self._asked, {}
        for request, depart in asked.items():
            if request in self._running:
                self._parts(request, depart)
        if self.depart is None:
            return
        for request in [each for each in self._running if each not in self._staying]:
            if not self._parts(request, self.depart):
                self._staying.add(request)

    def _parts(self, request: int, depart: "Depart") -> bool:
        """Offer a sequence; who goes keeps its blocks here until its KV is there.

        The next iteration's have not been taken.
        """
        ledger, load, index = self._ledger, self.load, self.index
        generated = ledger.output_tokens[request] - (self._running[request] - self.leap.step)
        length = ledger.input_tokens[request] + generated
        placed = self.blocks(ledger.prompt_tokens[request])
        if not depart(self, request, length):
            return False
        del self._running[request]
        self.leap.leave(length)
        ledger.generated[request] = generated
        self._parked[request] = self._held(request, length - 1)
        load.requests[index] -= 1
        load.kv_blocks[index] -= placed
        return True

    def _join_ready(self, now: float) -> None:
        join, queued = self._ledger.decode_join, self._ledger.decode_queue_enter
        for request in self._ready:
            if self._paused.pop(request, None) is None:
                join[request] = queued[request] = now
                if self._ledger.generated[request] == 1:
                    self._awaiting.append(request)
            self._add(request)
        self._ready.clear()

    def _let_go(self) -> None:
        """Free who stayed until the end of the step only, their clients having gone."""
        ledger, load, index = self._ledger, self.load, self.index
        for request in self._going:
            if request in self._running:
                self._take_out(request)
            elif (partial := self.partial.pop(request, None)) is not None:
                self._free(request, self._held(request, self._target(request) + 1))
                if self._placed(request):
                    self._ease(self._target(request) - partial.done)
                self._paused.pop(request, None)
                self._waste(request, partial)
            load.requests[index] -= 1
            load.kv_blocks[index] -= self.blocks(ledger.prompt_tokens[request])
            self._listener.vanished(request)
        self._going.clear()

    def _take_out(self, request: int) -> None:
        """Take a sequence out of the batch; in a stall it has the next iteration's block."""
        ledger = self._ledger
        generated = ledger.output_tokens[request] - (self._running.pop(request) - self.leap.step)
        length = ledger.input_tokens[request] + generated
        self.leap.leave(length)
        ledger.generated[request] = generated
        if not self._stalled:
            self._free(request, self._held(request, length - 1))
            return
        self._free(request, self._held(request, length))
        if request in self._awaiting:
            self._awaiting.remove(request)
        if request in self._unseen:  # the token that ended its prompt is not computed anew
            self._unseen.remove(request)
            ledger.generated[request] += 1
            ledger.unseen_tokens -= 1
        since = (self._late_since or {}).pop(request, None)
        if since is None:
            self._fresh -= 1  # it joined in the stall
            return
        at = next(at for at, (when, _) in enumerate(self._late) if when == since)
        count = self._late[at][1] - 1
        self._late[at : at + 1] = [(since, count)] if count else []

    def _finish_due(self) -> None:
        ledger, running, ends, step = self._ledger, self._running, self._ends, self.leap.step
        while ends and ends[0][0] <= step:
            end, request = heappop(ends)
            if running.get(request) != end:
                continue  # left over from before a preemption
            del running[request]
            length = ledger.input_tokens[request] + ledger.output_tokens[request]
            self.leap.leave(length)
            if self.cache is not None:
                self.used -= self.cache.goes_on(request, length - 1)
            self._free(request, -(-(length - 1) // self.block_size))
            self._listener.finished(request)

    # --- prompts -------------------------------------------------------------------------------

    def _lets_wait(self) -> bool:
        """Tell whether prompts that could be computed beside decodes wait for more of them."""
        if self._wait and self._running:
            tokens = self._near_tokens(self._wait.tokens)
            self._waits = tokens > 0 and self._wait.holds(tokens + len(self._running))
        elif self._balance:
            near = self._near_prompts()
            self._waits = near > 0 and self._balance.holds(self.step_count, near)
        return self._waits

    def _near_prompts(self) -> int:
        """Return how many prompts, up to the ranks, there are seats, tokens and blocks for now."""
        decoding, room = len(self._running), self.capacity - self.used
        seats = self._max_seqs - decoding
        if seats <= 0 or self.rank_tokens <= -(-decoding // self.ranks) * self._piggyback:
            return 0
        count = len(self.partial)
        for request in self.prompts:
            room -= self._needs(request)[1]
            if count >= min(seats, self.ranks) or room < 0:
                break
            count += 1
        return count

    def _near_tokens(self, enough: float) -> int:
        """Return the tokens of the prompts that there are seats, tokens and blocks for now.

        Prompts in progress count whole; no more are looked at once there are ``enough``.
        """
        decoding, chunked = len(self._running), self.settings.batching.chunked_prefill
        seats = self._max_seqs - decoding
        left = self.rank_tokens - (decoding if self._piggyback else 0)
        if seats <= 0 or left <= 0:
            return 0
        tokens = sum(map(self._target, self.partial))
        left -= sum(map(self._rest_of, self.partial))
        room = self.capacity - self.used
        for count, request in enumerate(self.prompts, len(self.partial)):
            needs, blocks = self._needs(request)
            room -= blocks
            crowded = needs > left and not chunked and tokens > 0
            full = count >= seats or left <= 0 or room < 0
            if full or crowded or tokens >= enough:
                break
            tokens, left = tokens + needs, left - needs
        return tokens

    def _needs(self, request: int) -> tuple[int, int]:
        """Return the tokens to compute of a prompt that waits, and the blocks it would take."""
        target = self._target(request)
        blocks = self._held(request, target + 1)
        if self.cache is None:
            return target, blocks
        found = self.cache.find(request, target)
        return target - found.blocks * self.block_size, blocks - found.blocks + found.idle

    def _placed(self, request: int) -> bool:
        """Tell whether a router counts the prompt's tokens, or it recomputes a preempted one's."""
        return request not in self._paused

    def _computes(self, request: int) -> bool:
        """Tell whether a request came here with its prompt to compute, not with its KV."""
        return self._ledger.prefill_worker[request] == self.number

    def _admit(self, request: int, now: float) -> bool:
        """Set blocks aside for the prompt and its first token, if there are as many."""
        target = self._target(request)
        if not self._set_aside(request, self._held(request, target + 1), target):
            return False
        if request not in self._paused:
            self._ledger.prefill_start[request] = now
        return True

    def _first_or_next(self, request: int, now: float) -> None:
        """Record a prompt's token: a request's first, or the one with which a lost one goes on."""
        ledger = self._ledger
        if isnan(ledger.first_token[request]):
            ledger.first_token[request] = now
        if ledger.generated[request] > 1:
            ledger.resumed.append(now - ledger.lost_at.pop(request))
            if isnan(ledger.second_token[request]):
                ledger.second_token[request] = now

    def _go_on(self, request: int, paused: float, now: float) -> None:
        """Record the token with which a preempted request goes on."""
        if self._ledger.generated[request] == 2 and isnan(self._ledger.second_token[request]):
            self._ledger.second_token[request] = now  # the gap before it is pooled as a hand-over's
        else:
            self._gaps.gap(now - paused, 1)

    def _close_for_nobody(self, step: Step) -> None:
        """Free the computed prompts of clients who have gone; their token is not shown."""
        for request in [each for each in step.finishing if each in self._going]:
            step.finishing.remove(request)
            self._paused.pop(request, None)
            self._free(request, self._held(request, self._target(request) + 1))
            self._ledger.generated[request] += 1

    def _close_prompts(self, step: Step, now: float) -> None:
        """Emit the token that ends each computed prompt; it decodes from the next step on."""
        self._prompt_step = None
        ledger = self._ledger
        self._gaps.gap(step.seconds, step.riders)
        self._ease(step.placed)
        self.prompts_closed += len(step.finishing)
        if self._going:
            self._close_for_nobody(step)
        for request in step.finishing:
            ledger.generated[request] += 1
            paused = self._paused.get(request)
            if paused is not None:
                self._go_on(request, paused, now)
            else:
                ledger.prefill_end[request] = now
                self._first_or_next(request, now)
            if ledger.generated[request] < ledger.output_tokens[request]:
                self._ready.append(request)
                continue
            self._paused.pop(request, None)
            self._free(request, self._held(request, self._target(request)))
            self._listener.finished(request)

"""A second simulator to compare the engine with: one loop over what can happen next.

It has no event queue, no alarms, no leaps and no counters kept on the side: every iteration is
taken, every token's time is kept, and what is held, waiting or placed is counted anew from the
requests whenever somebody asks. From the program it uses the specifications (what is simulated,
how a model lies in memory, how GPUs are wired) and a latency model's ``step_seconds`` alone. Its
prefix caches go block by block.

Among simultaneous happenings, steps end first, then bytes arrive, then workers come and go, then
requests arrive, then idle workers start, then gauges are read; within each by component.

Of what can change while it runs it knows pools that are told to grow and shrink, whose workers
finish what they have begun, and clients that leave. Requests may wait for others: who is due is
found by looking at everybody, whenever somebody asks.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import ceil, inf, nan
from typing import Any

import numpy as np
from copying import Copying, Wire, fill
from doorkeeper import Doorkeeper
from plain_cache import Block, PlainCache, named
from plain_tiers import PlainTiers

from simulator.clients import Clients
from simulator.cluster.workers.prompts import PromptBlocks
from simulator.deployment import Deployment, Pool
from simulator.latency.base import Busiest, WorkerSpec
from simulator.layout import MemoryBudget, plan_memory
from simulator.policies.classes import Classes
from simulator.policies.prefixes import KvAware, PrefixAffinity
from simulator.record import COUNTS, GAUGES, REASONS, TIMES

STEP, WIRE, READY, ARRIVE, START, LOOK = range(6)
LEAVE = -1  # before arrivals of the same instant
LINES = ("running", "landed", "wanting")  # of a batch worker
Happening = tuple[float, int, int, Callable[[], None]]


@dataclass(eq=False)
class Job:
    """One request and all that has happened to it."""

    number: int
    arrival: float
    prompt: int
    answer: int
    moments: dict[str, float] = field(default_factory=dict)
    prefill: "Site | None" = None
    decode: "Site | None" = None
    status: str = "incomplete"
    reason: str = ""
    preemptions: int = 0
    recomputed: int = 0
    cached: int = 0
    kept: int = 0  # tokens that its decode worker had before
    expected: int = 0  # tokens that a router believes it to find where it waits
    uncomputed: int = 0  # prompt tokens that a router still counts at its worker
    asked: bool = False  # whether to let it in
    resent: int = 0
    lingers: bool = False  # its client has gone, but not what a step under way is about
    tokens: list[float] = field(default_factory=list)
    waits: list["Wait"] = field(default_factory=list)
    session: int = 0
    ended: float = inf
    never: bool = False  # it will not be sent

    def blocks(self, site: "Site", tokens: int) -> int:
        """Return the KV blocks that ``tokens`` tokens fill on ``site``."""
        return ceil(tokens / site.pool.batching.block_size)


@dataclass(eq=False)
class Wait:
    """What a request waits for: another's end, or its being sent, and ``seconds`` from then on."""

    job: Job
    seconds: float
    sent: bool

    def over(self) -> float:
        """Return when this is over, as far as is known."""
        since = self.job.moments.get("arrival_s", inf) if self.sent else self.job.ended
        return since + self.seconds

    def vain(self, *, go_on: bool) -> bool:
        """Tell whether this is never over, or not as it should be."""
        if self.job.never:
            return True
        return not (self.sent or go_on) and self.job.status in ("rejected", "failed")


@dataclass(eq=False)
class Chunk:
    """Some of a request's prompt in one step: ``size`` tokens after ``before`` earlier ones."""

    job: Job
    rank: int
    size: int
    before: int
    last: bool
    again: bool  # a recomputation, which no router counts


@dataclass(eq=False)
class Begun:
    """A prompt that has a rank and blocks, and ``tokens`` computed or being computed."""

    job: Job
    rank: int
    tokens: int = 0
    spared: int = 0  # tokens found that were counted as to be recomputed


@dataclass(eq=False)
class Step:
    """A step under way."""

    ends: float
    chunks: list[Chunk]
    riders: list[Job]


class Site:
    """What the two kinds of worker have in common."""

    def __init__(self, world: "World", number: int, index: int, pool: Pool) -> None:
        self.world, self.number, self.index, self.pool = world, number, index, pool
        self.state, self.asked, self.readied, self.drained = "starting", world.now, nan, nan
        self.stopped = inf
        self.slow = 0  # steps to come that take longer
        self.read, self.blocks_read, self.block_seconds = 0.0, 0, 0.0
        self.plan = memory(world.deployment, pool)
        self.steps = world.deployment.latency.bind(spec(world.deployment, pool))
        self.queue: list[Job] = []
        self.aside: set[Job] = set()  # of those in it, who are not to be begun yet
        self.came_back: dict[Job, float] = {}
        self.foremost: set[Job] = set()  # of those in it
        self.begun: list[Begun] = []  # but not computed to the end, the latest last
        self.held: dict[Job, int] = {}
        self.loading: list[Begun] = []
        self.beneath: list[Any] = []
        self.cache: PlainCache | None = None
        if world.prompts is not None and pool.batching.prefix_cache:
            self.cache = PlainCache(world.prompts, pool.batching.block_size)
        self.busy: list[list[float]] = []  # [from, to] of each spell of work
        self.sent = self.received = 0.0
        self.counts = {"steps": 0, "prefill_tokens": 0, "decode_tokens": 0}

    @property
    def used(self) -> int:
        """KV blocks held now, those of several requests once."""
        blocks = sum(self.held.values())
        if self.cache is None:
            return blocks
        return blocks - sum(map(len, self.cache.has.values())) + len(self.cache.owned)

    @property
    def idle(self) -> int:
        """KV blocks of nobody that are kept."""
        return 0 if self.cache is None else self.cache.idle

    def need(self, job: Job) -> int:
        """Return the blocks that computing the prompt of ``job`` takes."""
        raise NotImplementedError

    def fits(self, blocks: int) -> bool:
        """Tell whether ``blocks`` more can be held."""
        return self.used + blocks <= self.plan.kv_blocks

    def more(self, job: Job, blocks: int, tokens: int) -> int:
        """Return how many of a prompt's blocks are in nobody's hands yet that are to be held."""
        if self.cache is None:
            return blocks
        found = self.cache.find(job.number, tokens)
        return blocks - found.blocks + found.idle

    def hold(self, job: Job, blocks: int, tokens: int) -> None:
        """Hold blocks for a prompt, those that are cached among them."""
        if self.cache is not None:
            self.cache.hold(job.number, self.cache.find(job.number, tokens))
        self.held[job] = blocks
        self.trim()

    def trim(self) -> None:
        """Let what nobody holds make room."""
        if self.cache is not None:
            self.cache.fit(self.plan.kv_blocks - self.used)

    def drop(self, job: Job) -> None:
        """Hold nothing of a request any more."""
        del self.held[job]
        if self.cache is not None:
            self.cache.release(job.number)

    def share(self, job: Job, tokens: int) -> None:
        """Let others find the first tokens of a prompt."""
        if self.cache is not None:
            self.cache.computed(job.number, tokens)

    def known(self, job: Job) -> int:
        """Return the tokens that are cached of a prompt that is held."""
        return 0 if self.cache is None else self.cache.shared(job.number) * self.cache.size

    def ready_for(self, job: Job) -> bool:
        """Tell whether a prompt can be begun."""
        return self.fits(self.more(job, self.need(job), job.prompt + len(job.tokens)))

    def chunks(self, riders: int) -> list[Chunk]:
        """Go on with prompts that were begun, then begin others, beside ``riders`` decodes."""
        batching, now = self.pool.batching, self.world.now
        seats = batching.max_num_seqs - len(getattr(self, "running", ()))
        budget = ceil(batching.max_num_batched_tokens / self.ranks) - ceil(riders / self.ranks)
        free = dict.fromkeys(range(self.ranks), budget)
        taken: list[Chunk] = []
        for prompt in self.begun[: max(0, seats)]:
            rest = prompt.job.prompt + len(prompt.job.tokens) - prompt.tokens
            whole = not batching.chunked_prefill and rest > free[prompt.rank]
            crowded = any(chunk.rank == prompt.rank for chunk in taken)
            if free[prompt.rank] > 0 and not (whole and crowded):
                taken.append(self.chunk(prompt, free))
        while self.line and len(taken) < seats and max(free.values()) > 0:
            job, rank = self.line[0], max(free, key=lambda rank: (free[rank], -rank))
            crowded = any(chunk.rank == rank for chunk in taken)
            whole = not batching.chunked_prefill
            length = job.prompt + len(job.tokens)
            found = 0 if self.cache is None else self.cache.find(job.number, length).blocks
            if whole and crowded and length - found * batching.block_size > free[rank]:
                break
            if not self.ready_for(job):
                break
            self.queue.remove(job)
            self.hold(job, self.need(job), length)
            if not job.tokens:
                job.moments["prefill_start_s"] = now
            prompt = self.begin_prompt(job, rank)
            if self.world.tiers.fetch(self, prompt, length):
                self.loading.append(prompt)
                continue
            self.begun.append(prompt)
            taken.append(self.chunk(prompt, free))
        return taken

    def loaded(self, prompt: Begun, tokens: int) -> None:
        """Go on with a prompt of which so many more tokens are here."""
        self.loading.remove(prompt)
        self.spare(prompt, tokens)
        self.begun.append(prompt)

    def unload(self, job: Job) -> bool:
        """Part with a prompt that is being loaded; tell whether it is."""
        for prompt in [prompt for prompt in self.loading if prompt.job is job]:
            self.loading.remove(prompt)
            self.world.tiers.cancel(job)
            self.given_up(prompt)
            return True
        return False

    def given_up(self, prompt: Begun) -> None:
        """Free what a prompt has of which nothing is being computed."""
        self.never_again(prompt.job)
        prompt.job.recomputed += prompt.spared
        prompt.job.uncomputed = 0
        self.drop(prompt.job)

    def spare(self, prompt: Begun, tokens: int) -> None:
        """Take it that so many tokens more need not be computed."""
        job = prompt.job
        spared = min(tokens, job.recomputed)
        job.recomputed -= spared
        job.cached += tokens - spared
        if not job.tokens:
            job.uncomputed -= tokens
        prompt.tokens += tokens
        prompt.spared += spared

    def begin_prompt(self, job: Job, rank: int) -> Begun:
        """Begin a prompt after what is known of it."""
        if not job.tokens:
            job.uncomputed += job.expected
            job.expected = 0
        prompt = Begun(job, rank)
        self.spare(prompt, self.known(job))
        return prompt

    def chunk(self, prompt: Begun, free: dict[int, int]) -> Chunk:
        """Take as much of a prompt as its rank is free to compute, or all of it."""
        job, rank = prompt.job, prompt.rank
        left = job.prompt + len(job.tokens) - prompt.tokens
        size = min(left, free[rank]) if self.pool.batching.chunked_prefill else left
        found = Chunk(job, rank, size, prompt.tokens, size == left, bool(job.tokens))
        free[rank] -= size
        prompt.tokens += size
        self.share(job, prompt.tokens)
        if found.last:
            self.begun.remove(prompt)
        return found

    def in_progress(self, steps: "list[Step]") -> int:
        """Return the prompts begun, and those that these steps end."""
        return len(self.begun) + sum(chunk.last for step in steps for chunk in step.chunks)

    def seconds(self, chunks: list[Chunk], riders: list[Job]) -> float:
        """Ask the latency model."""
        pairs = sum(c.before + at for c in chunks for at in range(1, c.size + 1))
        context = sum(job.prompt + len(job.tokens) for job in riders)
        tokens, past = sum(c.size for c in chunks), sum(c.before for c in chunks)
        ranks = range(self.ranks)
        fullest = Busiest(
            tokens=max(sum(c.size for c in chunks if c.rank == rank) for rank in ranks),
            prompts=max(sum(1 for c in chunks if c.rank == rank) for rank in ranks),
        )
        seconds = self.steps.step_seconds(
            tokens, pairs, past, len(chunks), len(riders), context, fullest
        )
        self.slow -= 1
        factor = self.world.deployment.elastic.startup.slow_factor
        return seconds * factor if self.slow >= 0 else seconds

    def chunk_s(self, size: int, before: int) -> float:
        """Return the seconds of a step with one chunk alone."""
        pairs = sum(before + at for at in range(1, size + 1))
        return self.steps.step_seconds(size, pairs, before, 1, 0, 0, Busiest(size, 1))

    def alone_s(self, tokens: int) -> float:
        """Return the seconds of a prompt alone."""
        batching = self.pool.batching
        most = ceil(batching.max_num_batched_tokens / self.ranks)
        most = most if batching.chunked_prefill else tokens
        starts = range(0, tokens, most)
        return sum((self.chunk_s(min(most, tokens - at), at) for at in starts), 0.0)

    def backlog_s(self, tokens: int) -> float:
        """Return the seconds until so many tokens have left the first stage."""
        most = ceil(self.pool.batching.max_num_batched_tokens / self.ranks)
        whole, rest = tokens // most, tokens % most
        seconds = whole * self.chunk_s(most, 0) + (self.chunk_s(rest, 0) if rest else 0.0)
        return seconds / self.steps.stages

    @property
    def there(self) -> bool:
        """Whether it serves, if only what it has."""
        return self.state in ("ready", "draining")

    @property
    def empty(self) -> bool:
        """Whether it has nothing to do with any request."""
        lines = (self.held, self.queue, self.begun, self.loading, *map(self.__dict__.get, LINES))
        return not any(lines)

    def meter(self) -> None:
        """Read the blocks in use, which changed evenly since they were last read."""
        now = self.world.now
        self.block_seconds += (self.blocks_read + self.used) / 2 * (now - self.read)
        self.read, self.blocks_read = now, self.used

    @property
    def ranks(self) -> int:
        """Attention-DP ranks, each with a step of its own."""
        return self.pool.layout.attention_dp

    def line_up(self, job: Job) -> None:
        """Let a prompt wait, before the first that has less of a claim."""
        self.foremost &= set(self.queue)
        claim = self.world.doorkeeper.claim
        behind = [
            at
            for at, other in enumerate(self.queue)
            if other not in self.foremost and claim(other) > claim(job)
        ]
        self.queue.insert(behind[0] if behind else len(self.queue), job)
        self.came_back[job] = self.world.now
        self.world.tiers.line_up(self, job)
        if self.world.tiers.held_back(job):
            self.aside.add(job)

    @property
    def line(self) -> list[Job]:
        """Those in the queue that may be begun."""
        return [job for job in self.queue if job not in self.aside]

    def back(self, job: Job) -> None:
        """Let a prompt be begun, if it was not to be."""
        if job in self.aside:
            self.aside.remove(job)
            self.came_back[job] = self.world.now

    def unqueue(self, job: Job) -> None:
        """Take a prompt out of the queue that nobody wants computed any more."""
        self.leave_line(job)
        job.uncomputed = 0
        self.never_again(job)

    def leave_line(self, job: Job) -> None:
        """Take a prompt out of the queue that is not begun."""
        self.queue.remove(job)
        self.aside.discard(job)
        self.world.tiers.leave(job)

    def never_again(self, job: Job) -> None:
        """Take back what was counted as to be recomputed, if it was."""
        if job.tokens:
            job.recomputed -= job.prompt + len(job.tokens) - 1

    def working(self, busy: bool) -> None:
        """Note whether this worker works from now on."""
        open_spell = bool(self.busy) and self.busy[-1][1] == inf
        if busy and not open_spell:
            self.busy.append([self.world.now, inf])
        elif not busy and open_spell:
            self.busy[-1][1] = self.world.now

    def busy_seconds(self) -> float:
        """Return the seconds worked so far."""
        return sum((min(end, self.world.now) - start for start, end in self.busy), 0.0)

    def happenings(self) -> Iterator[Happening]:
        """Yield what this worker may do next."""
        raise NotImplementedError

    def gauges(self) -> tuple[int, int]:
        """Return how many requests wait and how many are served."""
        raise NotImplementedError


class Prefill(Site):
    """Computes prompts, several steps in flight where there are stages."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.flight: list[Step] = []
        self.free_at = 0.0
        self.freed = True
        self.running: list[Job] = []  # computed, and not let go yet
        self.lacks: dict[Job, int] = {}  # the steps that each of these waits for
        self.parting: dict[Job, Step] = {}  # nobody wants these; they stay until which step ends

    def leave(self, job: Job) -> None:
        """Part with a request nobody waits for."""
        if job in self.queue:
            self.unqueue(job)
            return
        if self.unload(job):
            return
        if not self.flight:  # it was loaded at this very instant
            for prompt in [prompt for prompt in self.begun if prompt.job is job]:
                self.begun.remove(prompt)
                self.given_up(prompt)
                return
        if "prefill_end_s" in job.moments:
            if job in self.running:
                self.running.remove(job)
                del self.lacks[job]
                job.tokens.pop()  # which nobody saw
            self.drop(job)
            return
        last = [step for step in self.flight if any(c.job is job and c.last for c in step.chunks)]
        for prompt in [prompt for prompt in self.begun if prompt.job is job]:
            self.begun.remove(prompt)
            job.uncomputed -= job.prompt - prompt.tokens
        self.parting[job] = (last or self.flight[-1:])[0]
        job.lingers = True

    def need(self, job: Job) -> int:
        """Return the blocks of the prompt: nothing is generated here."""
        return job.blocks(self, job.prompt)

    def take(self, job: Job) -> None:
        """Queue a request."""
        self.line_up(job)

    def happenings(self) -> Iterator[Happening]:
        """Yield the end of the oldest step, and the start of the next."""
        if self.flight:
            yield self.flight[0].ends, STEP, self.number, self.act
        if self.waits_for_stage():
            yield self.free_at, STEP, self.number, self.act
        elif self.room() and (self.begun or (self.line and self.ready_for(self.line[0]))):
            yield self.world.now, START, self.number, self.act

    def room(self) -> bool:
        """Tell whether those that wait to be let go leave a seat and a token."""
        batching, waiting = self.pool.batching, len(self.running)
        shared = ceil(batching.max_num_batched_tokens / self.ranks)
        taken = ceil(waiting / self.ranks) if batching.piggyback else 0
        return waiting < batching.max_num_seqs and taken < shared

    def waits_for_stage(self) -> bool:
        """Tell whether the first stage comes free later for who waits, or just now for who did."""
        now = self.world.now
        if now > self.free_at or self.freed:
            return False
        if now < self.free_at:
            return bool(self.line or self.begun)
        before = [job for job in self.line if self.came_back[job] < now]
        return bool(before or self.begun)

    def act(self) -> None:
        """Close what is through and start what can be started."""
        while self.flight and self.flight[0].ends <= self.world.now:
            self.close(self.flight.pop(0))
        if self.world.now >= self.free_at:
            self.freed = True
            self.start()
            while self.running and not self.flight:
                self.tick(min(self.lacks.values()))
                self.start()
        self.working(bool(self.flight))

    def tick(self, steps: int) -> None:
        """Let time pass for those that wait to be let go: so many steps."""
        for job in self.running:
            self.lacks[job] -= steps
        for job in sorted(self.running, key=lambda job: (self.lacks[job], job.number)):
            if self.lacks[job] == 0:
                self.running.remove(job)
                del self.lacks[job]
                self.let_go(job)

    def let_go(self, job: Job) -> None:
        """Let a computed prompt be handed over, and its token be seen."""
        job.tokens[-1] = self.world.now
        self.world.later(self.world.telling, self.world.deployment.handover_s, job)

    def start(self) -> None:
        """Start a step if there is a prompt for it."""
        waiting = len(self.running) if self.pool.batching.piggyback else 0
        now, chunks = self.world.now, self.chunks(waiting)
        if not chunks:
            return
        seconds = self.seconds(chunks, [])
        stage = seconds / self.steps.stages
        ends = max(now + seconds, self.flight[-1].ends + stage if self.flight else 0.0)
        self.free_at, self.freed = now + stage, False
        self.flight.append(Step(ends, chunks, []))
        self.counts["steps"] += 1
        self.counts["prefill_tokens"] += sum(chunk.size for chunk in chunks)
        for chunk in chunks:
            if chunk.last and self.world.layerwise and not self.world.ends_here(chunk.job):
                self.world.hand_over(chunk.job, ends)

    def close(self, step: Step) -> None:
        """Let computed prompts go on."""
        for chunk in step.chunks:
            chunk.job.uncomputed -= chunk.size
        for job in [job for job, last in self.parting.items() if last is step]:
            del self.parting[job]
            self.drop(job)
            job.lingers = False
        self.tick(1)
        keeps = self.world.deployment.transfer.release == "idle"
        for job in [c.job for c in step.chunks if c.last and c.job.status == "incomplete"]:
            job.moments["prefill_end_s"] = self.world.now
            job.tokens.append(self.world.now)
            if self.world.ends_here(job):
                self.drop(job)
                self.world.finish(job)
            elif keeps and job.answer > 1:
                self.running.append(job)
                self.lacks[job] = job.answer - 1
            elif not self.world.layerwise:
                self.let_go(job)

    def gauges(self) -> tuple[int, int]:
        """Return prompts not begun, and those that are but not computed."""
        return len(self.queue) + len(self.loading), self.in_progress(self.flight)


class Batch(Site):
    """Decodes, and computes prompts beside that or instead."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.step: Step | None = None
        self.running: list[Job] = []  # the youngest last
        self.computed: list[Job] = []  # join now, at the end of the step that computed them
        self.landed: list[Job] = []
        self.wanting: list[Job] = []
        self.preempted: set[Job] = set()
        self.stalled = False
        self.parting: list[Job] = []  # nobody wants these; they stay until the step ends

    def leave(self, job: Job) -> None:
        """Part with a request nobody waits for: now, or when the step under way ends."""
        if job in self.queue:
            self.unqueue(job)
            self.preempted.discard(job)
        elif self.unload(job):
            self.preempted.discard(job)
        elif job in self.running or self.computes(job):
            job.lingers = True
            self.parting.append(job)
        else:
            if job in self.landed:
                self.landed.remove(job)
            self.drop(job)

    def computes(self, job: Job) -> bool:
        """Tell whether a prompt is computed here."""
        closing = self.step.chunks if self.step else []
        return any(each.job is job for each in (*self.begun, *closing))

    def let_go(self) -> None:
        """Free what is left of those who are gone."""
        for job in self.parting:
            for prompt in [prompt for prompt in self.begun if prompt.job is job]:
                self.begun.remove(prompt)
                self.never_again(job)
                job.recomputed += prompt.spared
            if job in self.running:
                self.running.remove(job)
            self.preempted.discard(job)
            job.uncomputed = 0
            job.lingers = False
            if job in self.held:
                self.drop(job)
        self.parting = []

    def need(self, job: Job) -> int:
        """Return the blocks of all tokens so far and the next one, or of the whole answer."""
        whole = job.prompt + job.answer - 1
        soon = min(whole, job.prompt + len(job.tokens) + 1)
        return job.blocks(self, whole if self.pool.batching.reserve == "full" else soon)

    def need_landing(self, job: Job) -> int:
        """Return the blocks to set aside for a transfer, whose first token may yet be to come."""
        whole = job.prompt + job.answer - 1
        soon = min(whole, job.prompt + (0 if self.world.deployment.recomputes else 1))
        return job.blocks(self, whole if self.pool.batching.reserve == "full" else soon)

    def take(self, job: Job) -> None:
        """Queue a whole request."""
        self.line_up(job)

    def reserve(self, job: Job) -> None:
        """Queue a request for blocks, and grant what can be granted."""
        self.wanting.append(job)
        if len(self.wanting) == 1:
            self.grant()

    def grant(self) -> None:
        """Set blocks aside in order; who was preempted comes first."""
        while self.wanting and not self.preempted and self.ready_for_landing(self.wanting[0]):
            job = self.wanting.pop(0)
            self.hold(job, self.need_landing(job), job.prompt)
            job.kept = self.known(job)
            self.world.send(job)

    def ready_for_landing(self, job: Job) -> bool:
        """Tell whether there is room for a transfer."""
        return self.fits(self.more(job, self.need_landing(job), job.prompt))

    def happenings(self) -> Iterator[Happening]:
        """Yield the end of the step under way, or the start of one."""
        if self.step is not None:
            yield self.step.ends, STEP, self.number, self.act
        elif self.landed or self.begun or self.can_begin():
            yield self.world.now, START, self.number, self.act

    def can_begin(self) -> bool:
        """Tell whether there is room for the next prompt, or for a transfer that waits."""
        if self.line and self.ready_for(self.line[0]):
            return True
        first = self.wanting[:1] if not self.preempted else []
        return any(self.ready_for_landing(job) for job in first)

    def act(self) -> None:
        """End the step under way and begin the next."""
        if self.step is not None:
            self.end(self.step)
        self.begin()
        self.working(self.step is not None)

    def end(self, step: Step) -> None:
        """Emit the step's tokens."""
        self.step = None
        self.counts["steps"] += 1
        for job in step.riders:
            self.counts["decode_tokens"] += 1
            if job.lingers and job.prefill is not self and len(job.tokens) < 2:
                continue  # nobody sees its first or second token
            job.tokens.append(self.world.now)
            if len(job.tokens) == 2 and not job.lingers:
                job.moments["second_token_s"] = self.world.now
        for chunk in step.chunks:
            if not chunk.again:
                chunk.job.uncomputed -= chunk.size
        for job in [c.job for c in step.chunks if c.last and not c.job.lingers]:
            job.tokens.append(self.world.now)
            if len(job.tokens) == 2:
                job.moments["second_token_s"] = self.world.now
            job.moments.setdefault("prefill_end_s", self.world.now)
            self.computed.append(job)
        for job in [chunk.job for chunk in step.chunks if chunk.last and chunk.job.lingers]:
            self.drop(job)
        over = [job for job in self.computed if len(job.tokens) == job.answer]
        self.let_go_of_all(over, self.computed)
        self.let_go()
        over = [job for job in self.running if len(job.tokens) == job.answer]
        self.let_go_of_all(sorted(over, key=lambda job: job.number), self.running)

    def let_go_of_all(self, over: list[Job], line: list[Job]) -> None:
        """Finish those whose answers are whole."""
        for job in over:
            line.remove(job)
            self.preempted.discard(job)
            if self.cache is not None and line is self.running:
                self.cache.goes_on(job.number, job.prompt + job.answer - 1)
            self.drop(job)
            self.world.finish(job)

    def begin(self) -> None:
        """Decide who takes part in the next step, and start it."""
        if not self.stalled:
            self.make_room()
        for job in self.computed:
            if job not in self.preempted:
                job.moments["decode_join_s"] = job.moments["decode_queue_enter_s"] = self.world.now
            self.preempted.discard(job)
            self.running.append(job)
        self.computed = []
        batching = self.pool.batching
        while self.landed and len(self.running) < batching.max_num_seqs:
            job = self.landed.pop(0)
            job.moments["decode_join_s"] = self.world.now
            self.share(job, job.prompt)
            if self.world.deployment.recomputes:
                job.tokens.pop()  # it is computed here, once more
            if len(job.tokens) < job.answer:
                self.running.append(job)
                continue
            self.drop(job)
            self.world.finish(job)
        self.grant()
        chunks = self.chunks(len(self.running) if batching.piggyback else 0)
        self.stalled = bool(chunks) and not batching.piggyback
        riders = [] if self.stalled else list(self.running)
        self.counts["prefill_tokens"] += sum(chunk.size for chunk in chunks)
        if chunks or riders:
            self.step = Step(self.world.now + self.seconds(chunks, riders), chunks, riders)

    def make_room(self) -> None:
        """Take the blocks of the next iteration; preempt the youngest as long as they lack."""
        while True:
            wanted = {job: job.blocks(self, job.prompt + len(job.tokens)) for job in self.running}
            more = {job: max(self.held[job], wanted[job]) for job in self.running}
            if self.fits(sum(more.values()) - sum(self.held[job] for job in more)):
                self.held.update(more)
                self.trim()
                return
            self.preempt()

    def preempt(self) -> None:
        """Drop the latest half-computed prompt, or else the youngest sequence."""
        if self.begun:
            latest = self.begun.pop()
            job, lost = latest.job, latest.tokens
            job.uncomputed += 0 if job.tokens else lost
        else:
            job = self.running.pop()
            lost = job.prompt + len(job.tokens) - 1
            self.preempted.add(job)
        self.queue.insert(0, job)
        self.foremost.add(job)
        self.drop(job)
        job.preemptions += 1
        job.recomputed += lost

    def gauges(self) -> tuple[int, int]:
        """Return who waits for anything, and who is served."""
        waiting = len(self.queue) + len(self.loading) + len(self.landed) + len(self.wanting)
        return waiting, len(self.running) + self.in_progress([self.step] if self.step else [])


@dataclass(eq=False)
class Flow:
    """A request's KV under way."""

    job: Job
    wires: tuple[Wire, Wire]
    left: float
    latency: float
    most: float  # bytes/s that its messages allow
    due: float  # when its last layer is computed
    tail: float  # bytes of that layer
    began: float = 0.0
    pace: float = 0.0  # at which the other layers are
    there: float = 0.0  # bytes computed and not sent
    keeps_up: bool = True
    rate: float = 0.0

    @property
    def narrow(self) -> float:
        """The most bytes/s its ports let it have."""
        return min(self.most, *(wire.bandwidth for wire in self.wires))


class World:
    """The whole deployment; :meth:`run` it."""

    def __init__(
        self,
        deployment: Deployment,
        jobs: list[Job],
        *,
        clients: int | None,
        seed: int,
        interval: float,
        until: float,
        patience: Clients,
        prompts: PromptBlocks | None,
        classes: Classes,
        go_on: bool = False,
    ) -> None:
        self.go_on = go_on
        self.sessions: dict[int, float] = {}  # under way at some time, and since when
        self.planned = [job.arrival for job in jobs]
        self.deployment, self.jobs, self.until = deployment, jobs, until
        self.patience, self.prompts = patience, prompts
        luck = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
        self.whims = luck.random((len(jobs), 2))
        self.waiting: list[tuple[float, int, bool, Job]] = []  # until when, for the first token
        self.now = 0.0
        self.layerwise = deployment.transfer.mode == "push_layerwise"
        self.coming = list(jobs)
        self.clients = clients
        self.entries: list[Prefill | Batch] = []
        self.decoders: list[Batch] = []
        self.sites: list[Prefill | Batch] = []
        streams = np.random.SeedSequence(seed, spawn_key=(2,)).spawn(2)
        self.luck = [np.random.default_rng(stream) for stream in streams]
        self.next_draw = [float(luck.random()) for luck in self.luck]
        self.placed = [0, 0]
        self.sent: list[tuple[int, float, Site, Job]] = []  # where routers sent whom, and when
        self.landing: list[tuple[float, int]] = []
        self.admitting: list[tuple[float, int, Job]] = []  # on their way through the gateway
        self.telling: list[tuple[float, int, Job]] = []  # of which the decode side is yet to hear
        self.told = 0
        self.flows: list[Flow] = []
        self.queue: list[Flow] = []
        self.sending: list[tuple[float, int, Flow]] = []
        self.entering: list[tuple[float, int, Flow]] = []
        self.settled_at = 0.0
        self.interval, self.looks = interval, 0
        self.samples: list[tuple[float, list[tuple[float, ...]]]] = []
        self.due: list[tuple[float, int, Callable[[], None]]] = []  # workers that come and go
        self.noted = 0
        self.unplaced: list[Job] = []  # as there is no worker at all
        self.readings: list[Any] = [(0.0, [], []), (0.0, [], [])]  # when, of whom, loads
        self.held: list[Job] = []  # at the router, as no worker is for more
        self.next_out = 0.0  # when the next of them may go, where they go one by one
        self.scrapes, self.metrics_old_at = 0, -inf  # from when on what was read is old
        self.metrics: dict[Site, tuple[int, float]] = {}  # who waits, and the share of blocks used
        self.unhanded: list[Job] = []
        self.closest = inf  # between moments whose order rounding could change
        self.through_at = -inf  # when a flow last ended
        self.doorkeeper = Doorkeeper(self, classes, seed)
        self.tiers = PlainTiers(self)
        self.build()
        if clients is not None and any(job.waits for job in jobs):
            self.begin_sessions()

    def build(self) -> None:
        """Set up the workers and their places."""
        for role in ("prefill", "mixed", "decode"):
            for pool in (pool for pool in self.deployment.pools if pool.role == role):
                for _ in range(pool.workers):
                    team: list[Any] = self.decoders if role == "decode" else self.entries
                    kind = Prefill if role == "prefill" else Batch
                    site = kind(self, len(self.sites), len(team), pool)
                    site.state, site.readied = "ready", 0.0
                    team.append(site)
                    self.sites.append(site)
        self.turns: dict[tuple[Site, str, str], int] = {}
        self.slots = places(self.deployment, self.sites)
        if self.decoders:
            self.copying = Copying(self.deployment)
            self.wires = self.copying.wires(self.slots)
        self.racks: list[tuple[Any, Any]] = []
        for site in self.sites:
            assert self.rack(site).take(site.pool.layout.gpus) == self.slots[site]
            self.tiers.open(site)
        for change in self.deployment.elastic.changes:
            self.note(change.at_s, partial(self.want, change.pool, change.workers))

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Let happen what comes next until every request has ended, or the time is over."""
        while self.unfinished() or any(job.lingers for job in self.jobs):
            when, _, _, act = min(self.happenings(), key=lambda happening: happening[:3])
            if when > self.until:
                self.now = self.until
                break
            apart = when - self.now
            if apart > 0:
                self.closest = min(self.closest, apart / max(1.0, when))
            self.now = when
            act()
            for site in self.sites:
                if site.state == "draining" and site.empty:
                    self.stop(site)
        self.look(last=True)

    def unfinished(self) -> bool:
        """Tell whether a request is under way or to come."""
        return any(job.status == "incomplete" and not job.never for job in self.jobs)

    def happenings(self) -> Iterator[Happening]:
        """Yield everything that may happen next."""
        last = len(self.sites)
        if any(job.waits for job in self.jobs):
            if self.coming and min(map(self.due_at, self.coming)) < inf:
                yield min(map(self.due_at, self.coming)), ARRIVE, 0, self.arrive_in_turn
        elif self.coming and self.clients is None:
            yield self.coming[0].arrival, ARRIVE, 0, self.arrive
        elif self.coming and self.clients:
            yield self.now, ARRIVE, 0, self.dispatch
        self.waiting = [each for each in self.waiting if each[3].status == "incomplete"]
        if self.waiting:
            yield self.waiting[0][0], ARRIVE, LEAVE, self.lose_patience
        for line, at, act in (
            (self.admitting, 1, self.place_next),
            (self.telling, 2, self.tell_next),
        ):
            if line:
                yield line[0][0], ARRIVE, at, act
        if self.due:
            yield self.due[0][0], READY, 0, self.come_and_go
        for site in (site for site in self.sites if site.there):
            yield from site.happenings()
        yield from self.on_wires(last)
        yield self.looks * self.interval, LOOK, last + 3, self.look

    def on_wires(self, last: int) -> Iterator[Happening]:
        """Yield what may happen next to transfers, and to who waits at the router."""
        if self.deployment.controls_flow:
            yield self.scrapes * self.control.scrape_s, START, last + 4, self.scrape
        if self.held and not self.closed:
            yield max(self.now, self.next_out), START, last + 5, self.let_go_on
        elif self.held and self.now < self.metrics_old_at and self.opens_when_old:
            yield max(self.metrics_old_at, self.next_out), START, last + 5, self.let_go_on
        yield from self.tiers.happenings(last + 3)
        if self.landing:
            yield self.landing[0][0], WIRE, last + 1, self.deliver
        if self.flows:
            yield self.next_change(), WIRE, last + 2, self.change
        if self.sending or self.entering:
            when = min(each[0] for each in self.sending[:1] + self.entering[:1])
            yield when, WIRE, last + 2, self.turn

    # --- workers -------------------------------------------------------------------------------

    def note(self, when: float, act: Callable[[], None]) -> None:
        """Do something later."""
        self.noted += 1
        insort(self.due, (when, self.noted, act))

    def come_and_go(self) -> None:
        """Do what is due."""
        while self.due and self.due[0][0] <= self.now:
            self.due.pop(0)[2]()

    def rack(self, site: Site) -> Any:
        """Return where the GPUs of this kind lie."""
        chip = gpu(self, site)
        for kind, rack in self.racks:
            if kind == chip:
                return rack
        self.racks.append((chip, self.deployment.fabric.rack(chip)))
        return self.racks[-1][1]

    def team(self, site: Site) -> list[Any]:
        """Return among whom a router chooses it."""
        return self.decoders if site.pool.role == "decode" else self.entries

    def want(self, role: str, count: int) -> None:
        """Let a pool have so many workers: ask for more, or stop who is least needed."""
        have = [site for site in self.sites if site.pool.role == role]
        have = [site for site in have if site.state in ("starting", "ready")]
        for _ in range(count - len(have)):
            self.ask(next(pool for pool in self.deployment.pools if pool.role == role))
        have.sort(key=lambda site: (site.state == "ready", -site.number))
        for site in have[: max(0, len(have) - count)]:
            self.dismiss(site)

    def ask(self, pool: Pool) -> None:
        """Start a worker."""
        kind = Prefill if pool.role == "prefill" else Batch
        site = kind(self, len(self.sites), 0, pool)
        site.slow = self.deployment.elastic.startup.slow_steps
        self.sites.append(site)
        self.slots[site] = self.rack(site).take(pool.layout.gpus)
        seconds = self.deployment.elastic.startup.seconds
        assert seconds is not None
        self.note(self.now + seconds, partial(self.open, site))

    def open(self, site: Any) -> None:
        """Let a worker serve, and give it who waits for one."""
        if site.state != "starting":
            return
        site.state, site.readied, site.read = "ready", self.now, self.now
        self.tiers.open(site)
        if self.decoders or site.pool.role == "decode" or site.pool.role == "prefill":
            self.wires.update(self.copying.wires({site: self.slots[site]}))
        self.team(site).append(site)
        if site.pool.role == "decode":
            waiting, self.unhanded = self.unhanded, []
            for job in waiting:
                self.hand_over(job, None)
            return
        waiting, self.unplaced = self.unplaced, []
        for job in waiting:
            self.place(job)

    def dismiss(self, site: Any) -> None:
        """Let a worker go: at once if it does not serve yet, else when it holds nothing more."""
        if site.state == "starting":
            self.stop(site)
            return
        site.state, site.drained = "draining", self.now
        self.team(site).remove(site)
        again = getattr(site, "preempted", set())
        waiting = [job for job in site.queue if job not in again]
        for job in waiting:
            site.leave_line(job)
            job.prefill, job.decode, job.uncomputed = None, None, 0
        for job in waiting:
            self.place(job)
        if isinstance(site, Batch):
            wanting, site.wanting = site.wanting, []
            for job in wanting:
                job.decode = None
            for job in wanting:
                self.hand_over(job, None)
        if site.empty:
            self.stop(site)

    def stop(self, site: Site) -> None:
        """End a worker."""
        if site.there:
            site.meter()
        site.working(False)
        site.state, site.stopped = "stopped", self.now
        if self.tiers.tiers:
            self.tiers.lost(site)
        self.rack(site).give(self.slots[site])

    # --- requests ------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Let in who is due."""
        while self.coming and self.coming[0].arrival <= self.now:
            self.enter(self.coming.pop(0))

    def dispatch(self) -> None:
        """Let every free client send its next request."""
        while self.coming and self.clients:
            self.clients -= 1
            self.coming[0].arrival = self.now
            self.enter(self.coming.pop(0))

    def due_at(self, job: Job) -> float:
        """Return when a request of a session is to be sent, as far as is known."""
        if job.waits:
            return max(wait.over() for wait in job.waits)
        if self.clients is None:
            return job.arrival
        if job.session not in self.sessions:
            return inf
        together = [other for other in self.jobs if other.session == job.session]
        first = min(self.planned[each.number] for each in together if not each.waits)
        return self.sessions[job.session] + (self.planned[job.number] - first)

    def arrive_in_turn(self) -> None:
        """Let in who is due, the lowest number first; who came in may end at once."""
        while True:
            due = [job for job in self.coming if self.due_at(job) <= self.now]
            if not due:
                return
            job = min(due, key=lambda each: (self.due_at(each), each.number))
            self.coming.remove(job)
            job.arrival = self.now
            self.enter(job)

    def begin_sessions(self) -> None:
        """Let as many sessions begin as there are clients free, in the order of their firsts."""
        assert self.clients is not None
        for job in self.jobs:
            under_way = {
                each.session
                for each in self.jobs
                if each.session in self.sessions and each.status == "incomplete" and not each.never
            }
            if job.session not in self.sessions and len(under_way) < self.clients:
                self.sessions[job.session] = self.now

    def give_up(self) -> None:
        """Take out who waits in vain."""
        for job in self.jobs:  # a parent comes before its children
            if job in self.coming and any(wait.vain(go_on=self.go_on) for wait in job.waits):
                job.never = True
                self.coming.remove(job)

    def enter(self, job: Job) -> None:
        """Let a request come in."""
        job.moments["arrival_s"] = job.arrival
        insort(self.waiting, (self.now + self.last_wish(job)[0], job.number, False, job))
        first = self.patience.first_token_timeout_s
        if first is not None and first < self.last_wish(job)[0]:
            insort(self.waiting, (self.now + first, job.number, True, job))
        self.later(self.admitting, self.deployment.entry_s, job)

    def last_wish(self, job: Job) -> tuple[float, str]:
        """Return how long a client waits for the whole answer, and of what it then is tired."""
        chance, size = self.whims[job.number].tolist()
        wishes = [(inf, "timeout")]
        if self.patience.timeout_s is not None:
            wishes.append((self.patience.timeout_s, "timeout"))
        if chance < self.patience.cancel_probability:
            wishes.append((-self.patience.cancel_mean_s * float(np.log1p(-size)), "cancelled"))
        return min(wishes, key=lambda wish: wish[0])

    def lose_patience(self) -> None:
        """Let the next client go whose patience is at its end."""
        _, _, first, job = self.waiting.pop(0)
        if first and self.emitted(job):
            return
        job.status, job.reason = "failed", "timeout" if first else self.last_wish(job)[1]
        self.take_out(job)
        self.end(job)

    def take_out(self, job: Job) -> None:
        """Free all that a request has, or let a step under way end before."""
        for line in (self.admitting, self.telling):
            line[:] = [each for each in line if each[2] is not job]
        for crowd in (self.unplaced, self.unhanded, self.held):
            crowd[:] = [each for each in crowd if each is not job]
        site, target = job.prefill, job.decode
        if "transfer_end_s" in job.moments or (site is target and site is not None):
            assert isinstance(target, Batch)
            target.leave(job)
            return
        if isinstance(target, Batch):
            if job in target.wanting:
                target.wanting.remove(job)
            else:
                target.drop(job)
                self.unwire(job)
            job.decode = None
        if site is not None:
            site.leave(job)

    def unwire(self, job: Job) -> None:
        """Take a transfer off the wires."""
        self.landing = [each for each in self.landing if each[1] != job.number]
        self.entering = [each for each in self.entering if each[2].job is not job]
        self.queue = [flow for flow in self.queue if flow.job is not job]
        for each in [each for each in self.sending if each[2].job is job]:
            self.sending.remove(each)
            for wire in each[2].wires:
                wire.busy = False
        self.set_off()
        for flow in [flow for flow in self.flows if flow.job is job]:
            self.settle()
            self.flows.remove(flow)
            self.share()

    def later(self, line: list[tuple[float, int, Job]], seconds: float, job: Job) -> None:
        """Let a job stand in a line for so long, if at all."""
        self.told += 1
        if seconds > 0:
            insort(line, (self.now + seconds, self.told, job))
        elif line is self.admitting:
            self.place(job)
        else:
            self.tell(job)

    def place_next(self) -> None:
        """Place whoever is through the gateway."""
        while self.admitting and self.admitting[0][0] <= self.now:
            self.place(self.admitting.pop(0)[2])

    def tell_next(self) -> None:
        """Let the decode side act on all that it hears of now."""
        while self.telling and self.telling[0][0] <= self.now:
            self.tell(self.telling.pop(0)[2])

    def tell(self, job: Job) -> None:
        """Let the decode side act."""
        if "transfer_end_s" not in job.moments:
            self.hand_over(job, None)
            return
        assert isinstance(job.decode, Batch)
        job.moments["decode_queue_enter_s"] = self.now
        job.decode.landed.append(job)

    def place(self, job: Job) -> None:
        """Place a request, or turn it away."""
        if not self.entries:
            self.unplaced.append(job)
            return
        waits = self.held or self.closed
        if waits:
            site = self.entries[self.look_ahead(job, 0, self.entries)[0]]
        else:
            site = self.stays(job) or self.entries[self.choose(job, 0, self.entries)]
        job.reason = self.refusal(job, site)
        if not job.reason and not job.asked:
            job.reason = self.doorkeeper.refusal(job, site)
            job.asked = not job.reason
            if job.reason and job.resent < self.patience.resends:
                after = self.patience.resend_after_s * 2**job.resent
                job.reason, job.resent = "", job.resent + 1
                self.later(self.admitting, after, job)
                return
        if job.reason:
            job.status = "rejected"
            self.end(job)
            return
        job.moments.setdefault("admitted_s", self.now)
        job.moments.setdefault("prefill_queue_enter_s", self.now)
        if waits:
            claim = self.doorkeeper.claim(job)
            behind = [
                at for at, each in enumerate(self.held) if self.doorkeeper.claim(each) > claim
            ]
            self.held.insert(behind[0] if behind else len(self.held), job)
        else:
            self.queue_at(job, site)

    def queue_at(self, job: Job, site: Any) -> None:
        """Put a request into a worker's queue."""
        job.prefill, job.uncomputed = site, job.prompt - job.expected
        if isinstance(site, Batch):
            job.decode = site
        site.take(job)

    def for_more(self) -> "list[Any]":
        """Return the workers that may be sent prompts that wait at the router."""
        return [site for site in self.entries if self.is_for_more(site)]

    def is_for_more(self, site: Any) -> bool:
        """Tell whether few enough prompt tokens wait at a worker."""
        threshold = self.deployment.router_queue_threshold
        most = (threshold or 0.0) * site.pool.batching.max_num_batched_tokens
        return threshold is None or self.load(site, 0)[1] <= most

    def let_go_on(self) -> None:
        """Send who waits at the router to workers, as long as one is for more."""
        while self.held and not self.closed and self.now >= self.next_out:
            job = self.held.pop(0)
            site = self.entries[self.choose(job, 0, self.entries)]
            job.reason = self.refusal(job, site)
            if job.reason:
                job.status = "rejected"
                self.end(job)
            else:
                self.queue_at(job, site)
            if self.deployment.controls_flow:
                self.next_out = self.now + self.control.dispatch_s

    @property
    def control(self) -> Any:
        """What controls the flow out of the router."""
        return self.deployment.flow_control

    @property
    def closed(self) -> bool:
        """Tell whether nobody may be sent from the router to a worker."""
        if self.deployment.controls_flow:
            old = self.now >= self.metrics_old_at
            return not self.entries or self.fullness({} if old else self.metrics) >= 1
        return self.deployment.router_queue_threshold is not None and not self.for_more()

    @property
    def opens_when_old(self) -> bool:
        """Tell whether somebody may go once what was read is old."""
        return bool(self.entries) and self.fullness({}) < 1

    def scrape(self) -> None:
        """Read what all workers tell."""
        self.scrapes += 1
        self.metrics_old_at = self.now + self.control.stale_s
        self.metrics = {
            site: (site.gauges()[0], site.used / site.plan.kv_blocks)
            for site in [*self.entries, *self.decoders]
        }

    def fullness(self, metrics: "dict[Site, tuple[int, float]]") -> float:
        """Return how full workers are by what is known of them."""
        control, shares = self.control, []
        for site in [*self.entries, *self.decoders]:
            if site in metrics:
                waiting, used = metrics[site]
                shares.append(max(waiting / control.queue, used / control.kv))
        if control.staleness == "ignore":
            return sum(shares) / len(shares) if shares else 0.0
        everybody = len(self.entries) + len(self.decoders)
        return (sum(shares) + everybody - len(shares)) / everybody

    def refusal(self, job: Job, site: Site) -> str:
        """Return why a request can never be served on ``site``, or nothing."""
        tokens = job.prompt + job.answer
        decoders = (each for each in self.sites if each.pool.role == "decode")
        last = site if isinstance(site, Batch) else next(decoders)
        if tokens > self.deployment.model.max_context:
            return "exceeds_context"
        if job.blocks(last, tokens - 1) > last.plan.kv_blocks:
            return "exceeds_kv_capacity"
        if job.blocks(site, job.prompt) > site.plan.kv_blocks:
            return "exceeds_prefill_kv_capacity"
        return ""

    def finish(self, job: Job) -> None:
        """Note a request's last token."""
        job.moments["finish_s"] = self.now
        job.status = "completed"
        self.end(job)

    def end(self, job: Job) -> None:
        """Note that a request is over; its client is free, or who waits for it may be due."""
        job.ended = self.now
        if any(each.waits for each in self.jobs):
            self.give_up()
            if self.clients is not None:
                self.begin_sessions()
        elif self.clients is not None:
            self.clients += 1

    # --- routing -------------------------------------------------------------------------------

    def choose(self, job: Job, stage: int, team: "list[Any]") -> int:
        """Return where the policy sends the next request of this stage."""
        at, found = self.look_ahead(job, stage, team)
        self.placed[stage] += 1
        self.next_draw[stage] = float(self.luck[stage].random())
        if stage == 0:
            job.expected = found[at]
        self.sent.append((stage, self.now, team[at], job))
        return at

    def look_ahead(self, job: Job, stage: int, team: "list[Any]") -> tuple[int, list[int]]:
        """Return where the policy would send a request, and what each is believed to have of it."""
        found = self.believed(job, stage, team)
        seen = self.placed[stage], self.next_draw[stage], found
        at = self.pick(job, stage, team, seen)
        if stage == 0 and not self.is_for_more(team[at]):
            loads = [(self.load(site, 0)[1], self.load(site, 0)[0]) for site in team]
            best = [where for where, load in enumerate(loads) if load == min(loads)]
            at = best[int(seen[1] * len(best))]
        return at, found

    def stays(self, job: Job) -> "Batch | None":
        """Return the decode worker that computes the prompt itself, if one does."""
        policy, name = self.deployment.local_prefill, type(self.deployment.local_prefill).__name__
        if name == "NeverLocal" or not self.decoders:
            return None
        if hasattr(policy, "place"):
            lent = self.lent(job, policy)
            if lent is not None:
                self.sent.append((1, self.now, lent, job))
                job.expected = 0
            return lent
        at, found = self.look_ahead(job, 1, self.decoders)
        site, new = self.decoders[at], job.prompt - found[at]
        known = any(
            getattr(each, "beliefs", None) for each in (policy, self.deployment.decode_router)
        )
        if name == "PrefixBased":
            least = policy.non_cached_tokens
            gates = job.prompt < policy.prompt_tokens, job.prompt < least, new < least
            stays = least == 0 or not known or any(gates)
        else:
            stays = new < policy.below_tokens and new / job.prompt < policy.below_share
            if policy.prefill_busy is not None:
                there = self.entries[self.look_ahead(job, 0, self.entries)[0]]
                step = there.pool.batching.max_num_batched_tokens
                stays = stays or self.load(there, 0)[1] > policy.prefill_busy * step
            if policy.decode_busy is not None:
                blocks = self.load(site, 1)[2] + job.blocks(site, job.prompt)
                stays = stays and blocks <= policy.decode_busy * site.plan.kv_blocks
        if not stays:
            return None
        self.choose(job, 1, self.decoders)
        job.expected = found[at]
        return site

    def lent(self, job: Job, policy: Any) -> "Batch | None":
        """Return the decode worker that helps out with a prompt, if one does."""
        seen = (self.seen_loads(0, self.entries), self.seen_loads(1, self.decoders))
        before = {each: load[1] for each, load in zip(self.entries, seen[0], strict=True)}
        there = dict(zip(self.decoders, seen[1], strict=True))
        service, wait = self.doorkeeper.classes[job.number], self.doorkeeper.computed_s
        if type(policy).__name__ == "SplitwiseMixed":
            most = policy.queue_tokens - job.prompt
            if not min(before.values()) > max(0, most):
                return None
            mixed = [each for each in self.decoders if there[each][1]]
            free = [each for each in self.decoders if not there[each][1]]
            best = min(mixed, key=lambda each: there[each][1]) if mixed else None
            if best and (there[best][1] <= most or not free):
                return best
            return min(free, key=lambda each: there[each][2])
        soonest = min(wait(job, each, before[each]) for each in self.entries)
        if soonest <= service.ttft_s:
            return None
        waits = {each: wait(job, each, there[each][1]) for each in self.decoders}
        if type(policy).__name__ == "ConvertibleDecoders":
            some = self.decoders[: ceil(policy.share * len(self.decoders))]
            helper = min(some, key=lambda each: waits[each])
            return helper if waits[helper] < soonest else None
        paces = {each: self.doorkeeper.decode_s(job, each, there[each]) for each in waits}
        least = min(self.decoders, key=lambda each: paces[each])
        fits = [each for each in self.decoders if paces[each] <= service.tpot_s]
        count = len(self.decoders)
        spare = paces[least] < service.tpot_s * (count - 1) / count
        others = fits[:1] not in ([], [least])
        return least if others and spare and waits[least] < soonest else None

    def believed(self, job: Job, stage: int, team: "list[Any]") -> list[int]:
        """Return the prompt tokens that each worker is believed to have."""
        policy = (self.deployment.router, self.deployment.decode_router)[stage]
        spec = getattr(policy, "beliefs", None)
        if stage == 1 and spec is None:
            spec = getattr(self.deployment.local_prefill, "beliefs", None)
        if spec is None or self.prompts is None:
            return [0] * len(team)
        size = team[0].pool.batching.block_size
        blocks = named(self.prompts, job.number, size)
        found = []
        for site in team:
            has: set[Block] = set()
            if spec.by == "routed":
                since = self.now - (inf if spec.ttl_s is None else spec.ttl_s)
                for where, when, target, other in self.sent:
                    if where == stage and target is site and when >= since:
                        has |= set(named(self.prompts, other.number, size))
            elif site.cache is not None:
                has = site.cache.owned | set(site.cache.left)
            found.append(
                size * next((at for at, b in enumerate(blocks) if b not in has), len(blocks))
            )
        return found

    def pick(
        self, job: Job, stage: int, team: "list[Any]", seen: tuple[int, float, list[int]]
    ) -> int:
        """Return the policy's choice."""
        policy = (self.deployment.router, self.deployment.decode_router)[stage]
        order, draw, found = seen
        name, size = type(policy).__name__, len(team)
        if name == "RoundRobin":
            return order % size
        if name == "Random":
            return int(draw * size)
        loads = self.seen_loads(stage, team)
        if name == "PowerOfTwo" and size > 1:
            pair = int(draw * size), int((draw * size) % 1.0 * (size - 1))
            pair = pair[0], pair[1] + (pair[1] >= pair[0])
            at = ("requests", "tokens", "kv_blocks").index(policy.load)
            return min(pair, key=lambda each: loads[each][at])
        if name == "PowerOfTwo":
            return 0
        if name == "FirstFitSlo":
            shares = [
                self.doorkeeper.share(job, site, load)
                for site, load in zip(team, loads, strict=True)
            ]
            fits = [at for at, share in enumerate(shares) if share <= 1]
            return fits[0] if fits else shares.index(min(shares))
        if name in ("KvAware", "PrefixAffinity", "CacheAware"):
            rows = list(zip(range(size), loads, found, strict=True))
            beneath = [self.tiers.ranges(site, job) if stage == 0 else {} for site in team]
            size = team[0].pool.batching.block_size
            best = self.by_caches(policy, job, rows, (size, beneath))
            return best[int(draw * len(best))]
        keys: dict[str, Callable[[tuple[int, int, int]], Any]] = {
            "LeastRequests": lambda load: load[0],
            "LeastTokens": lambda load: (load[1], load[0]),
            "LeastKV": lambda load: load[2],
        }
        costs = [keys[name](load) for load in loads]
        best = [at for at in range(size) if costs[at] == min(costs)]
        return best[int(draw * len(best))]

    @staticmethod
    def by_caches(
        policy: Any,
        job: Job,
        rows: list[tuple[int, tuple[int, int, int], int]],
        told: tuple[int, list[dict[str, int]]],
    ) -> list[int]:
        """Return the workers that are best to a router that looks at caches."""
        size, beneath = told
        if isinstance(policy, KvAware):
            whole = ceil(job.prompt / size)
            costs = {}
            for at, (requests, tokens, blocks), found in rows:
                less, have = policy.overlap_credit * (found // size), found
                tiers = beneath[at] if policy.beliefs and policy.beliefs.by == "events" else {}
                for name, there in tiers.items() if policy.track_prefill else ():
                    more = max(0, there - have) // size
                    less += getattr(policy, f"{name}_credit") * more
                    have = max(have, there)
                if policy.track_prefill:
                    computed = max(0.0, tokens / size + whole - less)
                    cost = policy.prefill_scale * computed + (blocks + whole)
                else:
                    cost = max(0.0, blocks + whole - less)
                costs[at] = cost + policy.request_weight * requests
            return [at for at in costs if costs[at] == min(costs.values())]
        if isinstance(policy, PrefixAffinity):
            kept = [row for row in rows if row[2] / job.prompt >= policy.sticky_share]
            others = [row for row in rows if row not in kept]
            if kept and others:
                first, second = (min(row[1][1] for row in part) for part in (kept, others))
                kept = kept if (first - second) / policy.tokens_per_s <= policy.patience_s else rows
            waits = {at: load[1] + job.prompt - found for at, load, found in kept or rows}
            return [at for at in waits if waits[at] == min(waits.values())]
        requests = [load[0] for _, load, _ in rows]
        few, many = min(requests), max(requests)
        apart = many - few > policy.balance_abs and many > policy.balance_rel * few
        best = max(found for _, _, found in rows)
        if best / job.prompt > policy.cache_threshold and not apart:
            return [at for at, _, found in rows if found == best]
        return [at for at, load, _ in rows if load[0] == few]

    def seen_loads(self, stage: int, team: "list[Any]") -> list[tuple[int, int, int]]:
        """Return what a router sees of all: now, or when it last read."""
        refresh = self.deployment.router_refresh_s
        when, whom, loads = self.readings[stage]
        if not refresh or whom != team or self.now - when >= refresh:
            loads = [self.load(site, stage) for site in team]
            self.readings[stage] = (self.now, list(team), loads)
        return loads

    def load(self, site: Site, stage: int) -> tuple[int, int, int]:
        """Return what a router sees: requests, prompt tokens to compute, prompt blocks."""
        jobs = [job for job in self.jobs if (job.prefill, job.decode)[stage] is site]
        unfinished = [job for job in jobs if job.status == "incomplete" or job.lingers]
        if isinstance(site, Prefill):
            here = [job for job in unfinished if "prefill_end_s" not in job.moments]
            keeping = [job for job in jobs if job in site.held or job in here]
        else:
            here = keeping = unfinished
        blocks = sum(job.blocks(site, job.prompt) for job in keeping)
        tokens = sum(job.uncomputed for job in jobs if job.prefill is site)
        return len(here), tokens, blocks

    # --- hand-over -----------------------------------------------------------------------------

    def ends_here(self, job: Job) -> bool:
        """Tell whether an answer ends with its prompt: a single token that is seen there."""
        return job.answer == 1 and self.deployment.first_token == "prefill"  # noqa: S105

    def hand_over(self, job: Job, due: float | None) -> None:
        """Choose a decode worker and ask it for blocks; ``due``: when the prompt will be done."""
        if due is not None:
            job.moments["due"] = due
        if not self.decoders:
            self.unhanded.append(job)
            return
        site = self.decoders[self.choose(job, 1, self.decoders)]
        job.decode = site
        job.moments["transfer_queue_enter_s"] = self.now
        site.reserve(job)

    def send(self, job: Job) -> None:
        """Put a prompt's KV on the wire."""
        source, target = job.prefill, job.decode
        assert source is not None
        assert target is not None
        path = self.deployment.fabric.path(
            self.slots[source], self.slots[target], gpu(self, source), gpu(self, target)
        )
        size = self.copying.crossing(job.prompt - job.kept)
        trips = 2 if self.deployment.transfer.mode == "pull" else 1
        latency = path.latency_s * trips + path.setup_s + self.deployment.transfer.setup_s
        boxed = self.deployment.transfer.nics == "box"
        most = self.copying.posted(path.kind) if boxed else inf
        ends = (self.port(source, path.kind, "out"), self.port(target, path.kind, "in"))
        due = job.moments.get("due", 0.0) if not job.tokens else 0.0
        tail = size / self.deployment.model.layers if due else 0.0
        flow = Flow(job, ends, size, latency, most, due, tail)
        if self.deployment.transfer.sharing == "fifo":
            ready = due + tail / flow.narrow - size / flow.narrow  # one burst ends with its tail
            if due > self.now and ready > self.now:
                insort(self.entering, (ready, job.number, flow))
            else:
                self.line_up(flow)
        else:
            job.moments["transfer_start_s"] = self.now
            self.settle()
            if due > self.now:
                flow.began, flow.pace = self.now, (size - tail) / (due - self.now)
            self.flows.append(flow)
            self.share()

    def port(self, site: Site, kind: str, way: str) -> Wire:
        """Return the port that is next in turn."""
        ports = self.wires[site][kind, way]
        turn = self.turns[site, kind, way] = self.turns.get((site, kind, way), 0) + 1
        return ports[turn % len(ports)]

    # --- ports that carry one transfer at a time -----------------------------------------------

    def line_up(self, flow: Flow) -> None:
        """Join the queue; go at once if nothing is in the way."""
        self.queue.append(flow)
        self.set_off()

    def set_off(self) -> None:
        """Walk the queue and let go who finds both ports idle."""
        for flow in list(self.queue):
            if not any(wire.busy for wire in flow.wires):
                self.queue.remove(flow)
                for wire in flow.wires:
                    wire.busy = True
                flow.job.moments["transfer_start_s"] = self.now
                insort(self.sending, (self.now + flow.left / flow.narrow, flow.job.number, flow))

    def turn(self) -> None:
        """End who is through, then let others go, then let somebody join the queue."""
        while self.sending and self.sending[0][0] <= self.now:
            _, number, flow = self.sending.pop(0)
            for wire in flow.wires:
                wire.busy = False
            insort(self.landing, (self.now + flow.latency, number))
        self.set_off()
        ended = self.sending and self.sending[0][0] <= self.now
        if not ended and self.entering and self.entering[0][0] <= self.now:
            self.line_up(self.entering.pop(0)[2])

    def deliver(self) -> None:
        """Hand over what has arrived."""
        while self.landing and self.landing[0][0] <= self.now:
            job = self.jobs[self.landing.pop(0)[1]]
            source, target = job.prefill, job.decode
            assert source is not None
            assert isinstance(target, Batch)
            size = self.copying.payload(job.prompt - job.kept)
            source.sent += size
            target.received += size
            job.moments["transfer_end_s"] = self.now
            source.drop(job)
            due = job.moments["prefill_end_s"] + self.deployment.handover_s
            if self.layerwise and due > self.now:
                self.told += 1
                insort(self.telling, (due, self.told, job))
            else:
                self.tell(job)

    # --- shared ports --------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the bytes flow that have flown since the last change."""
        for flow in self.flows:
            flow.left = max(0.0, flow.left - flow.rate * (self.now - self.settled_at))
            if flow.pace and not flow.keeps_up:
                flow.there += (flow.pace - flow.rate) * (self.now - self.settled_at)
        self.settled_at = self.now

    def share(self) -> None:
        """Give every flow its rate, and see who now falls behind its prefill."""
        paces = {f: f.pace for f in self.flows if f.due > self.now and f.keeps_up}
        self.apportion({f: min(f.most, paces.get(f, inf)) for f in self.flows})
        for flow in self.flows:
            if flow.due > self.now and flow.keeps_up and flow.rate < flow.pace * (1 - 1e-12):
                flow.keeps_up, flow.there = False, 0.0

    def apportion(self, limits: dict[Flow, float]) -> None:
        """Give every flow its rate."""
        if self.deployment.transfer.sharing == "processor_sharing":
            crowd = [wire for flow in self.flows for wire in flow.wires]
            for flow in self.flows:
                even = min(wire.bandwidth / crowd.count(wire) for wire in flow.wires)
                flow.rate = min(even, limits.get(flow, inf))
            return
        fill(self.flows, limits)

    def changes(self, flow: Flow) -> float:
        """Return when this flow ends, is produced, or has caught up with its production."""
        if flow.due <= self.settled_at:
            return self.settled_at + flow.left / flow.rate
        if flow.keeps_up or flow.rate <= flow.pace:
            return flow.due
        gone = self.settled_at + max(0.0, flow.there) / (flow.rate - flow.pace)
        return min(gone, flow.due)

    def next_change(self) -> float:
        """Return when the first flow changes."""
        return max(self.now, min(self.changes(flow) for flow in self.flows))

    def ended_at(self, now: float) -> None:
        """Note that a flow ended; which of two at once came first may be decided by rounding."""
        self.closest = min(self.closest, now - self.through_at)
        self.through_at = now

    def change(self) -> None:
        """End one who is through, or let it go on otherwise."""
        flow = min(self.flows, key=lambda flow: (self.changes(flow), flow.job.number))
        over = flow.due <= self.settled_at
        self.settle()
        if over:
            self.flows.remove(flow)
            self.ended_at(self.now)
            insort(self.landing, (self.now + flow.latency, flow.job.number))
        elif flow.due > self.now:
            flow.keeps_up = True
        else:
            flow.due = 0.0
        self.share()

    # --- gauges --------------------------------------------------------------------------------

    def look(self, *, last: bool = False) -> None:
        """Read every gauge."""
        row: list[tuple[float, ...]] = [
            (*site.gauges(), site.used, site.busy_seconds(), site.sent, site.received, site.idle)
            if site.there
            else (nan,) * len(GAUGES)
            for site in self.sites
        ]
        for site in (site for site in self.sites if site.there):
            site.meter()
        if self.samples and self.samples[-1][0] == self.now:
            self.samples.pop()
        self.samples.append((self.now, row))
        self.looks += 0 if last else 1

    # --- what is left --------------------------------------------------------------------------

    def arrived(self) -> list[Job]:
        """Return the requests that have arrived."""
        return [job for job in self.jobs if "arrival_s" in job.moments]

    def columns(self) -> dict[str, list[float]]:
        """Return the requests' columns, as the record has them."""
        jobs = self.arrived()
        found = {name: [self.moment(job, name) for job in jobs] for name in TIMES}
        return found | {name: [self.count(job, name) for job in jobs] for name in COUNTS}

    def moment(self, job: Job, name: str) -> float:
        """Return one moment of a request; nothing after the end is known."""
        if name == "first_token_s":
            return self.emitted(job)[0] if self.emitted(job) else nan
        when = job.moments.get(name, nan)
        return when if when <= self.now else nan

    def emitted(self, job: Job) -> list[float]:
        """Return when the client saw each token."""
        handed = job.prefill is not job.decode
        if isinstance(job.prefill, Prefill) and job in job.prefill.running:
            return []  # its token is not let go
        if self.deployment.first_token == "prefill" or not handed:  # noqa: S105
            return job.tokens
        if "decode_join_s" not in job.moments:
            return []
        if self.deployment.recomputes:
            return job.tokens
        return [job.moments["decode_join_s"], *job.tokens[1:]]

    def count(self, job: Job, name: str) -> int:
        """Return one count of a request."""
        plain = {
            "input_tokens": job.prompt,
            "output_tokens": job.answer,
            "preemptions": job.preemptions,
            "recomputed_tokens": job.recomputed,
            "resends": job.resent,
            "cached_tokens": job.cached,
            "prefill_worker": job.prefill.number if job.prefill else -1,
            "decode_worker": job.decode.number if job.decode else -1,
            "status": ("incomplete", "completed", "rejected", "failed").index(job.status),
            "reason": REASONS.index(job.reason),
        }
        return plain.get(name, 0)

    def timeline(self) -> dict[str, np.ndarray]:
        """Return the gauges, (T, workers) each, beside ``time_s``."""
        time = np.array([when for when, _ in self.samples])
        absent = (nan,) * len(GAUGES)
        rows = [[*row, *([absent] * (len(self.sites) - len(row)))] for _, row in self.samples]
        table = np.array(rows, dtype=np.float64)
        return {"time_s": time, **{name: table[:, :, at] for at, name in enumerate(GAUGES)}}

    def gaps(self) -> list[float]:
        """Return every gap between two tokens that a client saw, sorted."""
        seen = [self.emitted(job) for job in self.arrived()]
        return sorted(b - a for times in seen for a, b in pairwise(times))


# --- specifications ----------------------------------------------------------------------------


def gpu(world: World, site: Site) -> Any:
    """Return the GPU a worker runs on."""
    return site.pool.gpu or world.deployment.gpu


def memory(deployment: Deployment, pool: Pool) -> Any:
    """Return how the model lies in a worker's memory."""
    batching, ranks = pool.batching, pool.layout.attention_dp
    budget = MemoryBudget(
        block_size=batching.block_size,
        memory_utilization=batching.memory_utilization,
        max_num_batched_tokens=ceil(batching.max_num_batched_tokens / ranks),
        max_num_seqs=ceil(batching.max_num_seqs / ranks),
        role="mixed" if type(deployment.local_prefill).__name__ != "NeverLocal" else pool.role,
        kv_blocks=batching.kv_blocks,
    )
    chip = pool.gpu or deployment.gpu
    return plan_memory(deployment.model, pool.layout, pool.precision, chip, budget)


def spec(deployment: Deployment, pool: Pool) -> Any:
    """Return what a latency model is bound to."""
    return WorkerSpec(
        model=deployment.model,
        layout=pool.layout,
        precision=pool.precision,
        gpu=pool.gpu or deployment.gpu,
        fabric=deployment.fabric,
        memory=memory(deployment, pool),
        role=pool.role,
        step_tokens=pool.batching.max_num_batched_tokens,
    )


def places(deployment: Deployment, sites: "list[Prefill | Batch]") -> dict[Site, Any]:
    """Return every worker's slot: placed in order, each kind of GPU apart."""
    kinds: list[Any] = []
    for site in sites:
        chip = site.pool.gpu or deployment.gpu
        if chip not in kinds:
            kinds.append(chip)
    found: dict[Site, Any] = {}
    for chip in kinds:
        alike = [site for site in sites if (site.pool.gpu or deployment.gpu) == chip]
        sizes = [site.pool.layout.gpus for site in alike]
        found.update(zip(alike, deployment.fabric.place(sizes, chip), strict=True))
    return found


def histogram_fits(gaps: list[float], edges: np.ndarray, counts: np.ndarray) -> bool:
    """Tell whether ``counts`` over ``edges`` are those of ``gaps``, give or take rounding."""
    if counts.sum() != len(gaps):
        return False
    below = np.concatenate(([0], np.cumsum(counts)))
    for at in np.flatnonzero(np.diff(below)) + 1:
        slack = 1e-9 * edges[at] + 1e-12
        low, high = bisect_right(gaps, edges[at] - slack), bisect_right(gaps, edges[at] + slack)
        if not low <= below[at] <= high and at < len(edges) - 1:
            return False
    return True


def port_bandwidth(world: World, site: Site) -> float:
    """Return the most bytes/s that ``site`` can send or receive to or from anybody."""
    opened = [each for each in world.sites if each.readied <= world.now]
    pairs = [
        (source, target)
        for source in opened
        for target in opened
        if (source.pool.role, target.pool.role) == ("prefill", "decode")
        and site in (source, target)
    ]
    kinds = {
        world.deployment.fabric.path(
            world.slots[a], world.slots[b], gpu(world, a), gpu(world, b)
        ).kind
        for a, b in pairs
    }
    way = "out" if site.pool.role == "prefill" else "in"
    totals = []
    for kind in kinds:
        ports = world.wires[site][kind, way]
        total = sum(wire.bandwidth for wire in set(ports))
        if world.deployment.transfer.nics == "box" and (
            (way == "in") == (world.deployment.transfer.mode == "pull")
        ):
            total = min(total, world.copying.posted(kind) * site.pool.layout.attention_dp)
        totals.append(total)
    return max(totals, default=0.0) / (world.copying.copies() if kinds else 1.0)

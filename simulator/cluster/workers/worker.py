"""What prefill and batch workers share: their settings, KV blocks, gauges and prompt chunks."""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from simulator.cluster.clock import ADMISSION, Alarm, Clock
from simulator.cluster.ledger import Ledger
from simulator.cluster.workers.cache import Found, PrefixCache
from simulator.cluster.workers.gaps import GapLog
from simulator.cluster.workers.lines import Line, OrderedLine
from simulator.cluster.workers.prompts import PromptBlocks
from simulator.cluster.workers.timing import DecodeTimes, PromptTimes
from simulator.deployment import Batching
from simulator.latency.base import Busiest, StepModel, WorkerSpec


@dataclass(slots=True, eq=False)
class Load:
    """What routers see of one pool, kept up to date by everyone who changes it."""

    requests: list[int]
    tokens: list[int]
    kv_blocks: list[int]

    @classmethod
    def of(cls, workers: int) -> "Load":
        """Return the load of ``workers`` idle workers."""
        return cls([0] * workers, [0] * workers, [0] * workers)

    def columns(self) -> tuple[list[int], list[int], list[int]]:
        """Return every column."""
        return self.requests, self.tokens, self.kv_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """One worker's number and means; its times and ``gaps`` are its pool's, which steps alike.

    ``recomputes``: it computes anew, as its own first, the token that ended a prompt elsewhere.
    ``keeps``: it keeps computed prompts until it has no other left to compute. ``prompts`` are the
    ids of all requests' blocks, where it has a prefix cache.
    """

    worker: int
    spec: WorkerSpec
    batching: Batching
    steps: StepModel
    times: DecodeTimes
    prompt_times: PromptTimes
    gaps: GapLog
    recomputes: bool = False
    keeps: bool = False
    prompts: PromptBlocks | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Whom a worker tells what, each with the request.

    ``prefilling``: its prompt will be computed by ``end``; ``prefilled``: its prompt is computed,
    on a prefill worker; ``reserved``: its decode worker has set its blocks aside; ``finished``: it
    has its last token; ``vanished``: its client had left, and the step that was under way then is
    over. ``eased`` (of no request): fewer prompt tokens wait here.
    """

    prefilling: Callable[[int, float], None]
    prefilled: Callable[[int], None]
    reserved: Callable[[int], None]
    finished: Callable[[int], None]
    vanished: Callable[[int], None]
    eased: Callable[[], None]


class Beneath(Protocol):
    """The memories beneath a worker's KV cache."""

    def prefetch(self, request: int, tokens: int) -> bool:
        """Bring up what lies far beneath of a prompt that joins; tell whether it is to wait."""
        ...

    def give_up(self, request: int) -> None:
        """Bring up nothing more of a prompt, and let go of what came: it leaves the queue."""
        ...

    def fetch(self, request: int, blocks: int, tokens: int) -> bool:
        """Load what they have of a prompt of ``tokens`` beyond its first ``blocks``, if any."""
        ...

    def cancel(self, request: int) -> None:
        """Stop loading a prompt."""
        ...


class Step:
    """One step's prompt chunks, as :meth:`StepModel.step_seconds` wants them.

    ``room`` is what is left of each attention rank's ``budget``, ``chunks`` counts each rank's.
    ``placed`` of its ``tokens`` are a router's (the others recompute preempted sequences). Its
    ``seconds`` are a gap for ``riders`` decoding sequences.
    """

    __slots__ = (
        "budget",
        "chunks",
        "ends",
        "finishing",
        "pairs",
        "past",
        "placed",
        "prompts",
        "riders",
        "room",
        "seconds",
        "tokens",
    )

    def __init__(self, budget: int, ranks: int) -> None:
        self.budget = budget
        self.room = [budget] * ranks
        self.chunks = [0] * ranks
        self.tokens = self.pairs = self.past = self.prompts = self.placed = self.riders = 0
        self.finishing: list[int] = []
        self.ends = self.seconds = 0.0

    def add(self, rank: int, chunk: int, done: int) -> None:
        """Add a chunk of ``chunk`` tokens after ``done`` earlier ones on ``rank``."""
        self.room[rank] -= chunk
        self.chunks[rank] += 1
        self.tokens += chunk
        self.pairs += chunk * done + chunk * (chunk + 1) // 2
        self.past += done
        self.prompts += 1

    @property
    def busiest(self) -> Busiest:
        """What the fullest ranks have."""
        return Busiest(self.budget - min(self.room), max(self.chunks))


@dataclass(slots=True)
class Partial:
    """A prompt of which ``done`` tokens are computed, were found or loaded, on rank ``rank``.

    ``spared`` of those found had been computed for this request before.
    """

    rank: int
    done: int
    spared: int


class Worker:
    """The common state of a worker; subclasses say what happens when its alarm rings.

    ``load`` and ``index`` are its account in its team; ``leaving`` hears when it, told to stop,
    holds nothing any more. Its next ``slow_steps`` steps take ``slow_factor`` times as long as
    others.

    ``used`` blocks are those of requests, each counted once however many have it. What others were
    let go of stays in the ``cache``, if there is one, as long as nobody needs the room.
    ``found_tokens`` need not be computed for that, which alone would have taken ``spared_s``, and
    ``kept_tokens`` not be transferred. What memories ``beneath`` have of a prompt that is begun is
    loaded first: until then it is ``loading``, and others go on. Prompts ``aside`` are not to be
    begun before more of them is near. It has not looked at the ``unread`` ones yet.
    """

    __slots__ = (
        "_alone",
        "_clock",
        "_ledger",
        "_listener",
        "alarm",
        "aside",
        "beneath",
        "block_size",
        "busy_since",
        "busy_so_far",
        "cache",
        "capacity",
        "decode_tokens",
        "found_tokens",
        "index",
        "kept_tokens",
        "leaving",
        "load",
        "loaded_tokens",
        "loading",
        "number",
        "partial",
        "prefill_tokens",
        "prompts",
        "prompts_closed",
        "rank_tokens",
        "ranks",
        "received",
        "role",
        "sent",
        "settings",
        "slow_factor",
        "slow_steps",
        "spared_s",
        "step_count",
        "unread",
        "used",
    )

    def __init__(
        self, clock: Clock, ledger: Ledger, listener: Listener, settings: WorkerSettings
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._listener = listener
        self.settings = settings
        self._alone = settings.prompt_times.alone
        self.number = settings.worker
        self.role = settings.spec.role
        self.load = Load.of(1)
        self.index = 0
        self.leaving: Callable[[], None] | None = None
        self.alarm = Alarm(clock, settings.worker)
        self.capacity = settings.spec.memory.kv_blocks
        self.block_size = settings.batching.block_size
        self.used = 0
        prompts = settings.prompts
        self.cache = None if prompts is None else PrefixCache(prompts, self.block_size)
        self.found_tokens = self.kept_tokens = self.loaded_tokens = 0
        self.beneath: Beneath | None = None
        self.loading: dict[int, Partial] = {}
        self.aside: set[int] = set()
        self.unread: dict[int, int] = {}  # from which step on it may see them
        self.spared_s = 0.0
        self.ranks = settings.spec.layout.attention_dp
        self.rank_tokens = settings.batching.rank_tokens(self.ranks)
        self.prompts: Line = deque()
        self.partial: dict[int, Partial] = {}  # by request, in the order of admission
        self.busy_since: float | None = None
        self.busy_so_far = 0.0
        self.prefill_tokens = 0
        self.decode_tokens = 0
        self.prompts_closed = 0
        self.step_count = 0
        self.slow_steps, self.slow_factor = 0, 1.0
        self.sent = 0.0
        self.received = 0.0

    def enqueue(self, request: int) -> None:
        """Take a request into the queue whose prompt is to be computed here."""
        if self.beneath is not None and self.beneath.prefetch(request, self._target(request)):
            self.aside.add(request)
            self._line.step_aside(request)
            return
        self.prompts.append(request)
        self._joined(request)

    def prefetched(self, request: int) -> None:
        """Let a prompt be begun that stepped aside."""
        self.aside.remove(request)
        self._line.come_back(request)
        self._joined(request)

    @property
    def _line(self) -> OrderedLine:
        """The queue, where some may step aside."""
        assert isinstance(self.prompts, OrderedLine)  # noqa: S101 - it is where they may
        return self.prompts

    def _joined(self, request: int) -> None:
        """Begin a prompt that has just joined the queue, as soon as that can be."""
        raise NotImplementedError

    @property
    def queued(self) -> int:
        """How many prompts wait to be begun."""
        return len(self.prompts) + len(self.aside) + len(self.unread)

    @property
    def waiting(self) -> int:
        """How many prompts wait to be begun or loaded."""
        return self.queued + len(self.loading)

    def wake(self, now: float) -> None:
        """Do what is due now."""
        raise NotImplementedError

    def observe(self) -> tuple[int, int]:
        """Return how many requests wait and how many are being served, now."""
        raise NotImplementedError

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens placed here of prompts that are not begun."""
        begun = sum(
            self._target(request) - partial.done
            for request, partial in self.partial.items()
            if self._placed(request)
        )
        under_way = sum(step.placed for step in self.steps_under_way)
        return self.load.tokens[self.index] - begun - under_way

    @property
    def steps_under_way(self) -> Collection["Step"]:
        """The steps with prompts that are being computed."""
        raise NotImplementedError

    def scheduled(self) -> tuple[int, int]:
        """Return the prompt tokens and the prompts of the steps under way."""
        steps = self.steps_under_way
        return sum(step.tokens for step in steps), sum(step.prompts for step in steps)

    def sequence_tokens(self) -> tuple[int, int]:
        """Return the KV tokens of sequences that decode here, and of those that wait to, now."""
        return 0, 0

    def take_stock(self) -> None:
        """Count what was done until now, when somebody who counts it is about to look."""

    def blocks_in_use(self) -> int:
        """Return the KV blocks it holds now."""
        return self.used

    def cached_blocks(self, used: int) -> int:
        """Return the blocks of no request that are kept beside the ``used`` ones, now."""
        return 0 if self.cache is None else min(self.cache.idle, self.capacity - used)

    def _slowed(self, seconds: float) -> float:
        """Return what a step of ``seconds`` takes here, which is one of the first after a start."""
        self.slow_steps -= 1
        return seconds * self.slow_factor

    def blocks(self, tokens: int) -> int:
        """Return how many KV blocks ``tokens`` tokens fill."""
        return -(-tokens // self.block_size)

    def _fit(self) -> None:
        """Let what nobody has make room for what requests have."""
        cache, room = self.cache, self.capacity - self.used
        if cache is not None and cache.idle > room:
            cache.fit(room)

    def _set_aside(self, request: int, blocks: int, tokens: int) -> bool:
        """Set ``blocks`` aside for a prompt of ``tokens``, if there are as many.

        Those that the cache has of it count among them; whoever has them already has them alone.
        """
        cache = self.cache
        if cache is None:
            fits = self.used + blocks <= self.capacity
            self.used += blocks if fits else 0
            return fits
        found = cache.find(request, tokens)
        new = blocks - found.blocks + found.idle
        if self.used + new > self.capacity:
            return False
        self._hold(request, found, new)
        return True

    def _hold(self, request: int, found: Found, new: int) -> None:
        """Let a request have what was found of its prompt; so many blocks were nobody's."""
        assert self.cache is not None  # noqa: S101 - where something was found
        self.cache.hold(request, found)
        self.used += new
        self._fit()

    def _free(self, request: int, blocks: int) -> None:
        """Give back the blocks of a request that no other has."""
        self.used -= blocks
        if self.cache is not None:
            self.used += self.cache.release(request)

    def _name(self, request: int, tokens: int) -> None:
        """Let others have what of a prompt's first ``tokens`` fills blocks, and have theirs."""
        if self.cache is not None:
            self.used -= self.cache.computed(request, tokens)

    def found(self, request: int) -> int:
        """Return the tokens of a request's prompt that the cache has for it."""
        return 0 if self.cache is None else self.cache.shared(request) * self.block_size

    def _waste(self, request: int, partial: Partial) -> None:
        """Count a prompt that is given up half-way."""
        ledger = self._ledger
        ledger.give_up(request)
        ledger.recomputed_tokens[request] += partial.spared
        ledger.wasted_tokens += partial.done - partial.spared

    def _admit(self, request: int, now: float) -> bool:
        """Set aside the blocks a prompt needs to be computed, if there are as many."""
        raise NotImplementedError

    def _placed(self, request: int) -> bool:
        """Tell whether a router counts the prompt's tokens, or it recomputes a preempted one's."""
        raise NotImplementedError

    @property
    def empty(self) -> bool:
        """Whether it holds nothing at all."""
        return not (self.used or self.partial or self.queued)

    @property
    def under_way(self) -> set[int]:
        """The prompts whose tokens, as far as they were computed, are accounted for here."""
        raise NotImplementedError

    def surrender(self) -> list[int]:
        """Give up the prompts that are not begun, in the order they came."""
        queued = self._line.everybody() if self.aside else self.prompts
        given = [request for request in (*queued, *self.unread) if self._placed(request)]
        for request in given:
            self._drop(request)
            tokens = self._ledger.prompt_tokens[request]
            self.load.requests[self.index] -= 1
            self._ease(tokens - self._ledger.expected.pop(request, 0))
            self.load.kv_blocks[self.index] -= self.blocks(tokens)
            self._ledger.prefill_worker[request] = self._ledger.decode_worker[request] = -1
        return given

    def leave(self, request: int) -> bool:
        """Part with a request whose client has gone.

        Returns:
            Whether the step under way keeps what the request has until it ends.
        """
        raise NotImplementedError

    def _ease(self, tokens: int) -> None:
        """Let routers count so many prompt tokens fewer here, and know of it."""
        self.load.tokens[self.index] -= tokens
        self._listener.eased()

    def _unqueue(self, request: int) -> None:
        """Take a prompt out of the queue that a client who has gone wanted computed."""
        self._drop(request)
        tokens = self._ledger.prompt_tokens[request]
        self._ledger.give_up(request)
        self.load.requests[self.index] -= 1
        self.load.kv_blocks[self.index] -= self.blocks(tokens)
        if self._placed(request):
            self._ease(tokens - self._ledger.expected.pop(request, 0))

    def _drop(self, request: int) -> None:
        """Take a prompt out of the queue, and bring nothing more of it up."""
        if self.unread.pop(request, None) is not None:
            return
        self.prompts.remove(request)
        self.aside.discard(request)
        if self.beneath is not None:
            self.beneath.give_up(request)

    def die(self) -> None:
        """Stop at once, with nothing left: what was computed of begun prompts is in vain."""
        for request, partial in (*self.partial.items(), *self.loading.items()):
            self._ledger.recomputed_tokens[request] += partial.done
        self._stop_loading()
        self.partial.clear()
        self.prompts.clear()
        self.unread.clear()
        self.used = 0
        if self.cache is not None:
            self.cache.clear()
        self._rest(self._clock.now)
        self.alarm.cancel()
        self.load = Load.of(1)
        self.index = 0

    def _target(self, request: int) -> int:
        """Return the tokens to compute: the prompt, and what was generated before a preemption."""
        return self._ledger.input_tokens[request] + self._ledger.generated[request]

    def _form(self, now: float, decoding: int) -> Step | None:
        """Fill what ``decoding`` sequences leave of a step with prompt chunks, first come first.

        They are spread evenly over the attention ranks, which have a budget each. A prompt begun
        earlier goes on on its rank; the next in the queue begins on the rank with most room.
        Where prompts do not piggyback on decodes, these only keep their seats.
        """
        batching, prompts, ranks = self.settings.batching, self.prompts, self.ranks
        budget = self.rank_tokens - (-(-decoding // ranks) if batching.piggyback else 0)
        seats = batching.max_num_seqs - decoding
        if budget <= 0 or seats <= 0:
            return None
        step = Step(budget, ranks)
        room, chunked = step.room, batching.chunked_prefill
        begun = list(self.partial.items())[:seats] if self.partial else ()
        for request, partial in begun:
            rank = partial.rank
            whole = chunked or not step.chunks[rank] or self._rest_of(request) <= room[rank]
            if room[rank] > 0 and whole:  # loads end together
                self._compute(request, rank, step)
        while prompts and step.prompts < seats and (most := max(room)) > 0:
            request, rank = prompts[0], room.index(most)
            if not chunked and step.chunks[rank] and self._left(request) > most:
                break
            if not self._admit(request, now):
                break
            prompts.popleft()
            if self.beneath is None or not self._fetches(request, rank):
                self._compute(request, rank, step)
        return step if step.prompts else None

    def _rest_of(self, request: int) -> int:
        """Return the tokens to compute of a prompt that is begun."""
        return self._target(request) - self.partial[request].done

    def _fetches(self, request: int, rank: int) -> bool:
        """Load what there is beneath of a prompt just admitted; tell whether there is something."""
        assert self.beneath is not None  # noqa: S101 - where something may be loaded
        assert self.cache is not None  # noqa: S101 - and is loaded to
        blocks = self.cache.shared(request)
        if not self.beneath.fetch(request, blocks, self._target(request)):
            return False
        self.loading[request] = self._begun(request, rank)
        return True

    def loaded(self, request: int, tokens: int) -> None:
        """Go on with a prompt of which so many more tokens are here now."""
        partial = self.loading.pop(request)
        self._spare(request, partial, tokens)
        self.loaded_tokens += tokens
        self.partial[request] = partial
        self._resume()

    def _resume(self) -> None:
        """Compute what can be, as soon as a step may begin."""
        raise NotImplementedError

    def _stop_loading(self) -> None:
        """Load nothing any more."""
        for request in self.loading:
            assert self.beneath is not None  # noqa: S101 - where something is loaded
            self.beneath.cancel(request)
        self.loading.clear()

    def _unload(self, request: int, blocks: int) -> None:
        """Part with a prompt that is loading, or was loaded just now; its client has gone."""
        load, index = self.load, self.index
        partial = self.partial.pop(request, None)
        if partial is None:
            assert self.beneath is not None  # noqa: S101 - where something is loaded
            self.beneath.cancel(request)
            partial = self.loading.pop(request)
        self._free(request, blocks)
        load.requests[index] -= 1
        load.kv_blocks[index] -= self.blocks(self._ledger.prompt_tokens[request])
        if self._placed(request):
            self._ease(self._target(request) - partial.done)
        self._waste(request, partial)

    def _compute(self, request: int, rank: int, step: Step) -> None:
        """Put the next chunk of an admitted prompt into the step: what there is room for."""
        partial = self.partial.get(request) or self._begun(request, rank)
        done = partial.done
        chunk = left = self._target(request) - done
        if chunk > step.room[rank] and self.settings.batching.chunked_prefill:
            chunk = step.room[rank]
        step.add(rank, chunk, done)
        self._name(request, done + chunk)
        if self._placed(request):
            step.placed += chunk
        if chunk < left:
            partial.done += chunk
            self.partial[request] = partial
            return
        self.partial.pop(request, None)
        step.finishing.append(request)

    def _left(self, request: int) -> int:
        """Return the tokens that would have to be computed of a prompt that waits."""
        target = self._target(request)
        if self.cache is None:
            return target
        return target - self.cache.find(request, target).blocks * self.block_size

    def _begun(self, request: int, rank: int) -> Partial:
        """Return a prompt just admitted; what the cache has of it need not be computed.

        Of a prompt that is to be computed once more that counts as not recomputed first.
        """
        found, partial = self.found(request), Partial(rank, 0, 0)
        if self._placed(request):
            self.load.tokens[self.index] += self._ledger.expected.pop(request, 0)
        if found:
            self._spare(request, partial, found)
        return partial

    def _spare(self, request: int, partial: Partial, tokens: int) -> None:
        """Spare a begun prompt ``tokens`` more, which are here now."""
        ledger, whole, done = self._ledger, self._target(request), partial.done + tokens
        if self._placed(request):
            self._ease(tokens)
        spared = min(tokens, ledger.recomputed_tokens[request])
        ledger.recomputed_tokens[request] -= spared
        ledger.cached_tokens[request] += tokens - spared
        self.found_tokens += tokens
        self.spared_s += self._spared(done, whole)
        if partial.done:
            self.spared_s -= self._spared(partial.done, whole)
        partial.done, partial.spared = done, partial.spared + spared

    def _spared(self, found: int, tokens: int) -> float:
        """Return the seconds it takes to compute what was found of a prompt of ``tokens``, alone.

        As one step less what its rest takes; or, if it takes several, in chunks of one size, whose
        seconds rise evenly from the first to the last.
        """
        if tokens <= self.rank_tokens:
            return self._alone(tokens, 0) - self._alone(tokens - found, found)
        steps = -(-found // self.rank_tokens)
        chunk = -(-found // steps)
        return steps * (self._alone(chunk, 0) + self._alone(chunk, max(0, found - chunk))) / 2

    def busy_seconds(self, now: float) -> float:
        """Return the seconds this worker has spent in steps until ``now``."""
        since = self.busy_since
        return self.busy_so_far if since is None else self.busy_so_far + (now - since)

    def _work(self, now: float) -> None:
        if self.busy_since is None:
            self.busy_since = now

    def _rest(self, now: float) -> None:
        if self.busy_since is not None:
            self.busy_so_far += now - self.busy_since
            self.busy_since = None
        if self.leaving is not None and self.empty:
            self.leaving()

    def _nudge(self) -> None:
        """Start work after everything else that happens at this instant, if idle."""
        if self.busy_since is None:
            self.alarm.set(self._clock.now, ADMISSION)

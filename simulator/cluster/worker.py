"""What prefill and batch workers share: their settings, KV blocks, gauges and prompt chunks."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from simulator.cluster.clock import ADMISSION, Alarm, Clock
from simulator.cluster.gaps import GapLog
from simulator.cluster.ledger import Ledger
from simulator.cluster.timing import DecodeTimes
from simulator.deployment import Batching
from simulator.latency.base import StepModel, WorkerSpec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """One worker's place and means: ``index`` is its position among those its router sees.

    ``times`` and ``gaps`` are shared by the workers of a pool, which step alike.
    """

    worker: int
    index: int
    spec: WorkerSpec
    batching: Batching
    steps: StepModel
    times: DecodeTimes
    gaps: GapLog
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Whom a worker tells what, each with the request.

    ``prefilling``: its prompt will be computed by ``end``; ``prefilled``: its prompt is computed,
    on a prefill worker; ``reserved``: its decode worker has set its blocks aside; ``finished``: it
    has its last token.
    """

    prefilling: Callable[[int, float], None]
    prefilled: Callable[[int], None]
    reserved: Callable[[int], None]
    finished: Callable[[int], None]


@dataclass(slots=True)
class Step:
    """One step's prompt chunks, as :meth:`StepModel.step_seconds` wants them.

    ``placed`` of its ``tokens`` are a router's (the others recompute preempted sequences). Its
    ``seconds`` are a gap for ``riders`` decoding sequences.
    """

    tokens: int = 0
    pairs: int = 0
    past: int = 0
    prompts: int = 0
    placed: int = 0
    finishing: list[int] = field(default_factory=list)
    ends: float = 0.0
    seconds: float = 0.0
    riders: int = 0

    def add(self, chunk: int, done: int) -> None:
        """Add a chunk of ``chunk`` tokens after ``done`` earlier ones."""
        self.tokens += chunk
        self.pairs += chunk * done + chunk * (chunk + 1) // 2
        self.past += done
        self.prompts += 1


class Worker:
    """The common state of a worker; subclasses say what happens when its alarm rings."""

    __slots__ = (
        "_clock",
        "_ledger",
        "_listener",
        "alarm",
        "block_size",
        "busy_since",
        "busy_so_far",
        "capacity",
        "decode_tokens",
        "head_done",
        "index",
        "load",
        "number",
        "prefill_tokens",
        "prompts",
        "prompts_closed",
        "received",
        "role",
        "sent",
        "settings",
        "step_count",
        "used",
    )

    def __init__(
        self, clock: Clock, ledger: Ledger, listener: Listener, settings: WorkerSettings
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._listener = listener
        self.settings = settings
        self.number = settings.worker
        self.role = settings.spec.role
        self.load = settings.load
        self.index = settings.index
        self.alarm = Alarm(clock, settings.worker)
        self.capacity = settings.spec.memory.kv_blocks
        self.block_size = settings.batching.block_size
        self.used = 0
        self.prompts: deque[int] = deque()
        self.head_done = 0
        self.busy_since: float | None = None
        self.busy_so_far = 0.0
        self.prefill_tokens = 0
        self.decode_tokens = 0
        self.prompts_closed = 0
        self.step_count = 0
        self.sent = 0.0
        self.received = 0.0

    def wake(self, now: float) -> None:
        """Do what is due now."""
        raise NotImplementedError

    def observe(self) -> tuple[int, int]:
        """Return how many requests wait and how many are being served, now."""
        raise NotImplementedError

    def blocks(self, tokens: int) -> int:
        """Return how many KV blocks ``tokens`` tokens fill."""
        return -(-tokens // self.block_size)

    def _admit(self, request: int, now: float) -> bool:
        """Set aside the blocks a prompt needs to be computed, if there are as many."""
        raise NotImplementedError

    def _target(self, request: int) -> int:
        """Return the tokens to compute: the prompt, and what was generated before a preemption."""
        return self._ledger.input_tokens[request] + self._ledger.generated[request]

    def _form(self, now: float, decoding: int) -> Step | None:
        """Fill what ``decoding`` sequences leave of a step with prompt chunks, first come first.

        Where prompts do not piggyback on decodes, these only keep their seats.
        """
        batching, prompts, step = self.settings.batching, self.prompts, Step()
        ledger, chunked = self._ledger, batching.chunked_prefill
        budget = batching.max_num_batched_tokens - (decoding if batching.piggyback else 0)
        seats = batching.max_num_seqs - decoding
        while prompts and budget > 0 and step.prompts < seats:
            request, done = prompts[0], self.head_done
            generated = ledger.generated[request]
            left = ledger.input_tokens[request] + generated - done
            if left > budget and not chunked and step.tokens:
                break
            if not done and not self._admit(request, now):
                break
            chunk = left if left <= budget or not chunked else budget
            step.add(chunk, done)
            if not generated:
                step.placed += chunk
            budget -= chunk
            if chunk < left:
                self.head_done = done + chunk
                break
            self.head_done = 0
            step.finishing.append(prompts.popleft())
        return step if step.tokens else None

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

    def _nudge(self) -> None:
        """Start work after everything else that happens at this instant, if idle."""
        if self.busy_since is None:
            self.alarm.set(self._clock.now, ADMISSION)

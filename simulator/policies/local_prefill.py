"""Which prompts their decode worker computes itself, asked as requests come.

Sources: Dynamo, ``lib/kv-router/src/conditional_disagg.rs`` and
``lib/llm/src/kv_router/prefill_router/conditional_bypass.rs`` at 07a6c9ce; llm-d-router,
``disagg/prefix_based_pd_decider.go`` at ebab6879; splitwise-sim, ``scheduler.py`` at 8f99e7dc;
xLLM-service, ``scheduler/managers/instance_mgr.cpp`` at c8033e00; TokenScale (arXiv 2512.03416).
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from simulator.policies.classes import ServiceClass
from simulator.policies.prefixes import ROUTED, Beliefs
from simulator.policies.routing import PoolView, RoutedRequest


class Prompt(NamedTuple):
    """What is seen of a prompt that is about to be placed, and of where it would go.

    Of its ``tokens`` the decode worker that its router would choose now is believed to have
    ``cached_tokens`` (``None``: nobody knows). The prompts of all requests there, this one
    included, fill ``decode_blocks`` of ``decode_capacity`` KV blocks. At the prefill worker that it
    would go to ``waiting_tokens`` are placed and not computed, this prompt's not among them; its
    steps have ``step_tokens`` (both 0 for a policy that does not ask).
    """

    tokens: int
    cached_tokens: int | None
    decode_blocks: int
    decode_capacity: int
    waiting_tokens: int
    step_tokens: int

    @property
    def uncached_tokens(self) -> int:
        """Tokens to compute, as far as that is known."""
        return self.tokens - (self.cached_tokens or 0)


class LocalPrefill(Protocol):
    """A pure decision about each prompt, before it is placed.

    A policy may have ``beliefs``, how it knows of decode workers' caches where their router has
    none, and ``asks_prefill``, whether it wants to know of the prefill worker, which costs another
    choice (else both are taken to be none).
    """

    def local(self, seen: Prompt) -> bool:
        """Return whether the decode worker is to compute the prompt."""
        ...


@runtime_checkable
class LocalPlacing(Protocol):
    """A pure choice of the decode worker that computes a prompt, which looks at all of them.

    It may say by ``needs`` what targets it must know, as routers do.
    """

    def place(self, request: RoutedRequest, prefill: PoolView, decode: PoolView) -> int | None:
        """Return the index of a decode worker, or ``None`` if a prefill worker is to compute it."""
        ...


@dataclass(frozen=True, slots=True)
class NeverLocal:
    """Every prompt is computed by a prefill worker."""

    def local(self, seen: Prompt) -> bool:  # noqa: ARG002
        """Return false."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionalDisagg:
    """Dynamo's: short and mostly cached prompts stay, or those whose prefill worker is busy.

    A prompt is short if fewer than ``below_tokens`` of it are to be computed, and these are less
    than ``below_share`` of it. A prefill worker is busy if more prompt tokens wait there than
    ``prefill_busy`` of its steps hold (``None``: it is never taken to be). Either keeps the prompt,
    unless the decode worker would then have more than ``decode_busy`` of its KV blocks taken
    (``None``: that is not looked at). Dynamo's count of blocks has answers in it, this one prompts
    alone.
    """

    below_tokens: int = 2048
    below_share: float = 0.7
    prefill_busy: float | None = None
    decode_busy: float | None = None
    beliefs: Beliefs | None = field(default_factory=Beliefs)

    def __post_init__(self) -> None:
        for name in ("below_tokens", "below_share", "prefill_busy", "decode_busy"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"conditional_disagg: {name} must be at least 0 but got {value!r}")
        if not self.below_tokens and self.prefill_busy is None:
            raise ValueError(
                "conditional_disagg: needs below_tokens above 0 or a prefill_busy, without which "
                "no prompt ever stays"
            )

    @property
    def asks_prefill(self) -> bool:
        """Whether it looks at the prefill worker."""
        return self.prefill_busy is not None

    def local(self, seen: Prompt) -> bool:
        """Return whether the prompt is short or its prefill worker busy, and decode is not."""
        new, busy = seen.uncached_tokens, False
        short = new < self.below_tokens and new / seen.tokens < self.below_share
        if self.prefill_busy is not None:
            busy = seen.waiting_tokens > self.prefill_busy * seen.step_tokens
        if self.decode_busy is None:
            return short or busy
        room = seen.decode_blocks <= self.decode_busy * seen.decode_capacity
        return (short or busy) and room


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixBased:
    """llm-d's decider: a prompt goes to a prefill worker only if enough of it is to be computed.

    It stays, in this order, if ``non_cached_tokens`` is 0, if it is shorter than ``prompt_tokens``
    (0: however short), if it is shorter than ``non_cached_tokens``, if nobody knows what is cached,
    or if fewer than ``non_cached_tokens`` of it are not. The code's own default of the first is 0,
    which keeps every prompt; llm-d's sample configuration says 16.
    """

    non_cached_tokens: int = 16
    prompt_tokens: int = 0
    beliefs: Beliefs | None = ROUTED

    def __post_init__(self) -> None:
        for name in ("non_cached_tokens", "prompt_tokens"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(
                    f"prefix_based: {name} must be at least 0 tokens but got {value!r}"
                )

    def local(self, seen: Prompt) -> bool:
        """Return whether a gate keeps the prompt."""
        least = self.non_cached_tokens
        if not least or seen.tokens < self.prompt_tokens or seen.tokens < least:
            return True
        return seen.cached_tokens is None or seen.tokens - seen.cached_tokens < least


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitwiseMixed:
    """Splitwise's mixed pool: token machines are lent for prompts while prompt machines are behind.

    If the shortest queue of the prefill workers is not empty, and is longer than ``queue_tokens``
    with this prompt, the prompt goes to the decode worker with the fewest prompt tokens among those
    that have any (the mixed pool); if that one would be over the limit too, to one that has none,
    of which the one with the fewest KV blocks; if all have some, to the mixed one after all. A
    worker is no longer of the mixed pool when it has no prompt left. What Splitwise also does,
    lending a prompt machine for tokens, is left out.
    """

    queue_tokens: int = 8192

    def __post_init__(self) -> None:
        if not self.queue_tokens >= 1:
            raise ValueError(
                f"splitwise_mixed: queue_tokens must be at least 1 but got {self.queue_tokens!r}"
            )

    def place(self, request: RoutedRequest, prefill: PoolView, decode: PoolView) -> int | None:
        """Return whom the prompt is lent to, or ``None``."""
        prompt, waiting = request.input_tokens, min(prefill.tokens, default=0)
        if not waiting or waiting + prompt <= self.queue_tokens:
            return None
        mixed = [worker for worker, tokens in enumerate(decode.tokens) if tokens]
        lent = min(mixed, key=lambda worker: decode.tokens[worker], default=None)
        if lent is not None and decode.tokens[lent] + prompt <= self.queue_tokens:
            return lent
        free = [worker for worker, tokens in enumerate(decode.tokens) if not tokens]
        return min(free, key=lambda worker: decode.kv_blocks[worker], default=lent)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertibleDecoders:
    """TokenScale's: a ``share`` of the decode workers takes prompts that would else be late.

    A prompt that no prefill worker would have computed within its TTFT target goes to the
    convertible worker that would have it first, if that is sooner. The share is ours: the paper
    derives how many there are from its profile of bursts.
    """

    share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"convertible_decoders: share must lie in (0, 1] but got {self.share!r}"
            )

    def needs(self, service: ServiceClass) -> str:
        """Return what a class lacks for a prompt to be late, or nothing."""
        return "ttft_s" if service.ttft_s is None else ""

    def place(self, request: RoutedRequest, prefill: PoolView, decode: PoolView) -> int | None:
        """Return the convertible worker that helps out, or ``None``."""
        soonest, _ = _soonest(request, prefill, len(prefill.tokens))
        if soonest <= (request.service.ttft_s or math.inf):
            return None
        convertible = math.ceil(self.share * len(decode.tokens))
        sooner, worker = _soonest(request, decode, convertible)
        return worker if sooner < soonest else None


@dataclass(frozen=True, slots=True)
class ArrowRedirect:
    """Arrow's: a prompt that is late everywhere goes to the least loaded decode worker.

    That is so if the soonest prefill worker misses the TTFT target, the decode worker with the
    least TPOT would hold (D − 1) / D of the TPOT target (of D decode workers), it is not the first
    one that fits (which will decode the request), and it would have the prompt sooner.
    """

    def needs(self, service: ServiceClass) -> str:
        """Return what a class lacks, or nothing."""
        lacks = (name for name in ("ttft_s", "tpot_s") if getattr(service, name) is None)
        return next(lacks, "")

    def place(self, request: RoutedRequest, prefill: PoolView, decode: PoolView) -> int | None:
        """Return the decode worker the prompt is redirected to, or ``None``."""
        service, tokens, size = request.service, request.input_tokens, len(decode.tokens)
        target = service.tpot_s or math.inf
        soonest, _ = _soonest(request, prefill, len(prefill.tokens))
        if soonest <= (service.ttft_s or math.inf) or not size:
            return None
        paces = [decode.estimates.tpot_s(worker, tokens) for worker in range(size)]
        least = paces.index(min(paces))
        fits = next((worker for worker, pace in enumerate(paces) if pace <= target), least)
        if fits == least or not paces[least] < target * (size - 1) / size:
            return None
        return least if decode.estimates.prompt_s(least, tokens) < soonest else None


def _soonest(request: RoutedRequest, pool: PoolView, workers: int) -> tuple[float, int]:
    """Return when the first of a pool's first workers would have a prompt computed, and which."""
    tokens, estimates = request.input_tokens, pool.estimates
    waits = [estimates.prompt_s(worker, tokens) for worker in range(workers)]
    least = min(waits, default=math.inf)
    return least, waits.index(least) if waits else 0

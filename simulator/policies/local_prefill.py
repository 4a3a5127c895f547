"""Which prompts their decode worker computes itself, asked as requests come.

Sources: Dynamo, ``lib/kv-router/src/conditional_disagg.rs`` and
``lib/llm/src/kv_router/prefill_router/conditional_bypass.rs`` at 07a6c9ce; llm-d-router,
``disagg/prefix_based_pd_decider.go`` at ebab6879.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from simulator.policies.prefixes import ROUTED, Beliefs


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

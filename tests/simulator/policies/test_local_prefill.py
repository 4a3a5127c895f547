"""Which prompts stay at their decode worker: decisions worked by hand from each system's rule."""

from dataclasses import dataclass

import pytest
from shipped import shipped

from simulator.policies.classes import ServiceClass
from simulator.policies.local_prefill import (
    ArrowRedirect,
    ConditionalDisagg,
    ConvertibleDecoders,
    LocalPrefill,
    NeverLocal,
    PrefixBased,
    Prompt,
    SplitwiseMixed,
)
from simulator.policies.routing import PoolView, RoutedRequest


def prompt(
    tokens: int,
    cached: int | None = 0,
    *,
    blocks: tuple[int, int] = (10, 1000),
    waiting: tuple[int, int] = (0, 8192),
) -> Prompt:
    """Return a prompt with so many tokens cached, blocks of a capacity, tokens before a step's."""
    return Prompt(tokens, cached, *blocks, *waiting)


@pytest.mark.parametrize(
    ("seen", "stays"),
    [
        (prompt(1000, 896), True),  # 104 new, 10.4 %
        (prompt(200), False),  # 200 new, but all of it
        (prompt(1000, 300), False),  # 700 of 1,000 is not less than 0.7
        (prompt(1000, 301), True),  # 699 is
        (prompt(100_000, 97_953), True),  # 2,047 new
        (prompt(100_000, 97_952), False),  # 2,048 is not fewer than 2,048
        (prompt(100_000, 64_000), False),  # 36 %, but 36,000 new
        (prompt(64, 64), True),  # nothing new
        (prompt(64, None), False),  # nobody knows: all of it is taken to be new
        (prompt(1000, 896, blocks=(10**6, 1)), True),  # a full worker is not looked at
        (prompt(200, waiting=(10**6, 1)), False),  # nor is the queue
    ],
)
def test_dynamo_keeps_short_and_mostly_cached_prompts(seen: Prompt, stays: bool) -> None:
    """Fewer than 2,048 new tokens and less than 0.7 of the prompt, both strictly."""
    assert shipped("local_prefill", "isl_bounding").local(seen) is stays
    assert ConditionalDisagg().local(seen) is stays


@pytest.mark.parametrize(
    ("seen", "by_load", "by_either"),
    [
        (prompt(5000, waiting=(8192, 8192)), False, False),  # as much as a step: not above it
        (prompt(5000, waiting=(8193, 8192)), True, True),
        (prompt(1000, 896), False, True),  # short, and nobody waits
        (prompt(1000, 896, waiting=(8193, 8192)), True, True),
        (prompt(5000, waiting=(8193, 16384)), False, False),  # half a step
        (prompt(5000, None, waiting=(8193, 8192)), True, True),
    ],
)
def test_dynamo_keeps_prompts_whose_prefill_worker_is_busy(
    seen: Prompt, by_load: bool, by_either: bool
) -> None:
    """More tokens wait there than a step has; or that, or the prompt is short."""
    assert shipped("local_prefill", "prefill_load").local(seen) is by_load
    assert shipped("local_prefill", "isl_or_load").local(seen) is by_either


@pytest.mark.parametrize(
    ("seen", "stays"),
    [
        (prompt(1000, 896, blocks=(800, 1000)), True),  # 0.8 is not above 0.8
        (prompt(1000, 896, blocks=(801, 1000)), False),
        (prompt(5000, blocks=(800, 1000), waiting=(8193, 8192)), True),
        (prompt(5000, blocks=(801, 1000), waiting=(8193, 8192)), False),
        (prompt(5000, blocks=(1, 1000)), False),  # room alone keeps nobody
    ],
)
def test_a_full_decode_worker_keeps_nobody(seen: Prompt, stays: bool) -> None:
    """The veto is over both reasons to stay."""
    policy = ConditionalDisagg(prefill_busy=1.0, decode_busy=0.8)
    assert policy.local(seen) is stays


@pytest.mark.parametrize(
    ("policy", "seen", "stays"),
    [
        (PrefixBased(), prompt(1000, 984), False),  # 16 new
        (PrefixBased(), prompt(1000, 985), True),  # 15 new
        (PrefixBased(), prompt(15), True),  # shorter than 16, whatever is cached
        (PrefixBased(), prompt(16), False),
        (PrefixBased(), prompt(1000, None), True),  # nobody knows
        (PrefixBased(non_cached_tokens=0), prompt(10**6), True),  # off: every prompt stays
        (PrefixBased(non_cached_tokens=512, prompt_tokens=2000), prompt(1999), True),
        (PrefixBased(non_cached_tokens=512, prompt_tokens=2000), prompt(2000), False),
        (PrefixBased(non_cached_tokens=512), prompt(511), True),
        (PrefixBased(non_cached_tokens=512), prompt(2000, 1489), True),  # 511 new
        (PrefixBased(non_cached_tokens=512), prompt(2000, 1488), False),
    ],
)
def test_llm_d_s_gates(policy: PrefixBased, seen: Prompt, stays: bool) -> None:
    """A prompt leaves only through all of them."""
    assert policy.local(seen) is stays


def test_what_is_shipped_for_llm_d() -> None:
    """Its sample configuration."""
    assert shipped("local_prefill", "prefix_based") == PrefixBased(non_cached_tokens=16)


def test_nobody_stays_by_default() -> None:
    """Whatever there is to see."""
    never: LocalPrefill = NeverLocal()
    assert not any(never.local(prompt(tokens, tokens)) for tokens in (1, 100))
    assert shipped("local_prefill", "none") == never


def test_only_who_looks_at_prefill_asks() -> None:
    """The other choice is made for those that use it."""
    assert [ConditionalDisagg(prefill_busy=busy).asks_prefill for busy in (None, 0.0, 1.0)] == [
        *(False, True, True)
    ]


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: ConditionalDisagg(below_tokens=-1), "below_tokens must be at least 0 but got -1"),
        (lambda: ConditionalDisagg(below_share=-0.1), "below_share must be at least 0"),
        (lambda: ConditionalDisagg(prefill_busy=-1.0), "prefill_busy must be at least 0"),
        (lambda: ConditionalDisagg(decode_busy=float("nan")), "decode_busy must be at least 0"),
        (lambda: ConditionalDisagg(below_tokens=0), "needs below_tokens above 0 or a prefill_busy"),
        (lambda: PrefixBased(non_cached_tokens=-1), "non_cached_tokens must be at least 0 tokens"),
        (lambda: PrefixBased(prompt_tokens=-5), "prompt_tokens must be at least 0 tokens"),
    ],
)
def test_bad_settings_are_told(build: object, told: str) -> None:
    """By their name and value."""
    with pytest.raises(ValueError, match=told):
        build()  # type: ignore[operator]


@dataclass(frozen=True)
class Paced:
    """A thousand prompt tokens a second behind those that wait, and a TPOT for each worker."""

    waiting: tuple[int, ...]
    tpots: tuple[float, ...]

    def ttft_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return nothing: no policy here asks."""
        return 0.0

    def prompt_s(self, worker: int, tokens: int) -> float:
        """Return when a prompt is computed."""
        return (self.waiting[worker] + tokens) / 1000

    def tpot_s(self, worker: int, tokens: int) -> float:  # noqa: ARG002
        """Return a step's seconds."""
        return self.tpots[worker]


def pool(
    waiting: tuple[int, ...],
    blocks: tuple[int, ...] | None = None,
    tpots: tuple[float, ...] | None = None,
) -> PoolView:
    """Return a pool of which so many prompt tokens wait, and blocks are placed, at each worker."""
    count = len(waiting)
    paced = Paced(waiting, tpots or (0.01,) * count)
    return PoolView((0,) * count, waiting, blocks or (0,) * count, paced)


def asked(tokens: int) -> RoutedRequest:
    """Return a request due its first token in two seconds, and others every 50 ms."""
    return RoutedRequest(0, tokens, 100, 0, 0.5, ServiceClass(ttft_s=2.0, tpot_s=0.05))


@pytest.mark.parametrize(
    ("tokens", "prefill", "decode", "blocks", "lent"),
    [
        (9000, (0, 9000), (0, 0), (5, 3), None),  # a queue is empty, however long the prompt
        (4000, (4192, 9000), (0, 0), (5, 3), None),  # 8,192 with the prompt: not above it
        (4000, (4193, 9000), (0, 0), (5, 3), 1),  # above: borrow who has the fewest blocks
        (4000, (5000, 9000), (0, 100), (0, 9), 1),  # the mixed pool first, though it is fuller
        (4000, (5000, 9000), (0, 4193), (7, 9), 0),  # it would be over the limit: borrow
        (4000, (5000, 9000), (6000, 5000), (0, 9), 1),  # nobody is left to borrow
        (4000, (5000, 9000), (300, 200, 0), (1, 1, 0), 1),  # the shorter of two mixed ones
    ],
)
def test_splitwise_lends_token_machines_while_prompts_wait(
    tokens: int,
    prefill: tuple[int, ...],
    decode: tuple[int, ...],
    blocks: tuple[int, ...],
    lent: int | None,
) -> None:
    """Above 8,192 tokens in the shortest queue, which must not be empty."""
    policy = shipped("local_prefill", "splitwise_mixed")
    assert policy == SplitwiseMixed()
    assert policy.place(asked(tokens), pool(prefill), pool(decode, blocks)) == lent


@pytest.mark.parametrize(
    ("prefill", "decode", "share", "chosen"),
    [
        ((1000, 9000), (0, 0, 0, 0), 0.25, None),  # two seconds at one of them: in time
        ((1001, 9000), (0, 0, 0, 0), 0.25, 0),  # late at both
        ((1001, 9000), (1001, 0, 0, 0), 0.25, None),  # the convertible one is no sooner
        ((1001, 9000), (1000, 0, 0, 0), 0.25, 0),
        ((1001, 9000), (900, 100, 0, 0), 0.5, 1),  # of two convertible ones the sooner
        ((1001, 9000), (900, 100, 0), 0.34, 1),  # a share is rounded up
    ],
)
def test_convertible_decoders_take_what_would_be_late(
    prefill: tuple[int, ...], decode: tuple[int, ...], share: float, chosen: int | None
) -> None:
    """A prompt of a thousand tokens takes a second, and is due in two."""
    policy = ConvertibleDecoders(share=share)
    assert policy.place(asked(1000), pool(prefill), pool(decode)) == chosen
    assert shipped("local_prefill", "convertible_decoders") == ConvertibleDecoders()


@pytest.mark.parametrize(
    ("prefill", "decode", "tpots", "chosen"),
    [
        ((1000,), (0, 0), (0.04, 0.02), None),  # in time
        ((1001,), (0, 0), (0.04, 0.02), 1),  # the first fits, the other has less
        ((1001,), (0, 0), (0.02, 0.04), None),  # the least is the first fit
        ((1001,), (0, 0), (0.06, 0.024), None),  # none before it fits: it is the first fit
        ((1001,), (0, 0), (0.04, 0.025), None),  # not below half of the target
        ((1001,), (0, 0, 0), (0.045, 0.04, 0.033), 2),  # below two thirds
        ((1001,), (0, 1001), (0.04, 0.02), None),  # no sooner there
    ],
)
def test_arrow_redirects_to_the_least_loaded_that_will_not_decode_it(
    prefill: tuple[int, ...],
    decode: tuple[int, ...],
    tpots: tuple[float, ...],
    chosen: int | None,
) -> None:
    """Below (D - 1) / D of 50 ms, and sooner than any prefill worker, which are late."""
    policy = shipped("local_prefill", "arrow_redirect")
    assert policy == ArrowRedirect()
    assert policy.place(asked(1000), pool(prefill), pool(decode, tpots=tpots)) == chosen


def test_settings_of_those_that_lend_are_told() -> None:
    """In one sentence with the name, and what targets they need."""
    with pytest.raises(ValueError, match="splitwise_mixed: queue_tokens must be at least 1 but"):
        SplitwiseMixed(queue_tokens=0)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"convertible_decoders: share must lie in \(0, 1\]"):
            ConvertibleDecoders(share=share)
    none = ServiceClass()
    assert ConvertibleDecoders().needs(none) == ArrowRedirect().needs(none) == "ttft_s"
    assert ArrowRedirect().needs(ServiceClass(ttft_s=1.0)) == "tpot_s"
    assert not ArrowRedirect().needs(ServiceClass(ttft_s=1.0, tpot_s=0.1))

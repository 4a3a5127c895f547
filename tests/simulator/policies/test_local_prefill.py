"""Which prompts stay at their decode worker: decisions worked by hand from each system's rule."""

import pytest
from shipped import shipped

from simulator.policies.local_prefill import (
    ConditionalDisagg,
    LocalPrefill,
    NeverLocal,
    PrefixBased,
    Prompt,
)


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

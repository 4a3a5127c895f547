"""Admission: decisions worked by hand from each system's rule, and classes of service."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shipped import shipped

from simulator.errors import ConfigError
from simulator.policies.admission import (
    AdmitAll,
    Arrival,
    EarlyRejection,
    QueueCap,
    Shed,
    Tier,
    TokenTiers,
    fullness,
)
from simulator.policies.classes import Classes, ServiceClass, classed, lacking


@dataclass(frozen=True)
class Seen:
    """An entrance of which every number is given."""

    workers: int = 2
    waiting: int = 0
    tokens: int = 0
    gauges: tuple[tuple[int, float], ...] = ((0, 0.0),)
    ttft: float = 0.1
    tpot: float = 0.01
    ahead: float = 0.01

    def saturation(self, queue: float, kv: float, refresh_s: float) -> float:  # noqa: ARG002
        """Return the mean of (waiting, KV share) over workers."""
        return sum(fullness(*each, queue, kv) for each in self.gauges) / len(self.gauges)

    def ttft_s(self) -> float:
        """Return the given seconds."""
        return self.ttft

    def tpot_s(self) -> float:
        """Return the given seconds."""
        return self.tpot

    def tpot_ahead_s(self, decode_s: float) -> float:  # noqa: ARG002
        """Return the given seconds."""
        return self.ahead


def arrival(tokens: int = 100, draw: float = 0.5, **service: float) -> Arrival:
    """Return a request of a class of its own."""
    return Arrival(0, tokens, 10, tokens, ServiceClass(**service), draw)  # type: ignore[arg-type]


def test_everybody_is_let_in() -> None:
    """Whatever there is to see."""
    assert AdmitAll().decide(arrival(), Seen(waiting=10**6, tokens=10**9)) == ""


@pytest.mark.parametrize(
    ("cap", "waiting", "answer"),
    [(3, 0, ""), (3, 2, ""), (3, 3, "queue_full"), (3, 4, "queue_full"), (1, 0, "")],
)
def test_a_full_queue_is_not_joined(cap: int, waiting: int, answer: str) -> None:
    """As many as the cap may wait, no more."""
    assert QueueCap(waiting=cap).decide(arrival(), Seen(waiting=waiting)) == answer


TIERS = TokenTiers(tiers=(Tier(100, 5000), Tier(1000, 2000)))


@pytest.mark.parametrize(
    ("prompt", "pending", "answer"),
    [
        (99, 10**6, ""),  # shorter than the first tier
        (100, 10_000, ""),  # 5000 each for two workers: not above
        (100, 10_001, "queue_full"),
        (999, 10_000, ""),
        (1000, 4000, ""),
        (1000, 4001, "queue_full"),
    ],
)
def test_long_prompts_wait_behind_less(prompt: int, pending: int, answer: str) -> None:
    """Refused above the tier's cap times the workers."""
    assert TIERS.decide(arrival(prompt), Seen(tokens=pending)) == answer


@pytest.mark.parametrize(
    ("gauges", "probability"),
    [
        (((0, 0.0),), 0.0),
        (((1, 0.0),), 0.096),  # 300 · 0.2^5
        (((0, 0.16),), 0.096),  # 0.16 / 0.8 is 0.2 too
        (((1, 0.4), (0, 0.0)), 300 * 0.25**5),  # the larger of 0.2 and 0.5, halved over two
        (((2, 0.0), (0, 0.0)), 0.096),
        (((5, 0.0),), 1.0),
        (((10**9, 0.0),), 1.0),
    ],
)
def test_the_share_that_is_shed(gauges: tuple[tuple[int, float], ...], probability: float) -> None:
    """min(300 · sat^5, 1), and the draw decides; a priority of 0 and more is never shed."""
    policy, seen = Shed(), Seen(gauges=gauges)
    assert policy.probability(seen.saturation(5.0, 0.8, 0.05)) == pytest.approx(probability)
    below, above = probability * (1 - 1e-9), probability * (1 + 1e-9)
    if probability:
        assert policy.decide(arrival(draw=below, priority=-1), seen) == "shed"
    if probability < 1:
        assert policy.decide(arrival(draw=above, priority=-1), seen) == ""
    for priority in (0, 1):
        assert policy.decide(arrival(draw=0.0, priority=priority), seen) == ""


@pytest.mark.parametrize(
    ("seen", "targets", "now", "ahead"),
    [
        (Seen(ttft=1.0), {"ttft_s": 1.0}, "", ""),  # at the target is in time
        (Seen(ttft=1.01), {"ttft_s": 1.0}, "early_rejection", "early_rejection"),
        (Seen(tpot=0.05), {"tpot_s": 0.05}, "", ""),
        (Seen(tpot=0.06, ahead=0.04), {"tpot_s": 0.05}, "early_rejection", ""),
        (Seen(tpot=0.04, ahead=0.06), {"tpot_s": 0.05}, "", "early_rejection"),
        (Seen(ttft=9.0), {"tpot_s": 0.05}, "", ""),  # no target, no question
        (Seen(ttft=9.0, tpot=9.0), {"ttft_s": 10.0}, "", ""),
    ],
)
def test_who_would_be_late_is_not_begun(
    seen: Seen, targets: dict[str, float], now: str, ahead: str
) -> None:
    """Either target missed is enough; the prediction looks at the decode load to come."""
    request = arrival(**targets)
    assert EarlyRejection().decide(request, seen) == now
    assert EarlyRejection(predicts=True).decide(request, seen) == ahead


def test_a_policy_says_what_it_lacks() -> None:
    """Early rejection needs a target of every class; others need none."""
    assert lacking(EarlyRejection(), [ServiceClass(ttft_s=1.0), ServiceClass()]) == (
        "ttft_s or tpot_s"
    )
    assert lacking(EarlyRejection(), [ServiceClass(tpot_s=1.0)]) == ""
    assert lacking(QueueCap(), [ServiceClass()]) == ""


def test_shipped_defaults_are_the_systems() -> None:
    """Of llm-d's shedding the YAML says what its source does."""
    assert shipped("admission", "shed") == Shed(
        factor=300.0, power=5.0, queue=5.0, kv=0.8, refresh_s=0.05
    )


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: QueueCap(waiting=0), "queue_cap: waiting must be at least 1 but got 0"),
        (lambda: TokenTiers(tiers=()), "tiers must hold at least one"),
        (lambda: TokenTiers(tiers=(Tier(5, 1), Tier(5, 2))), "must rise"),
        (lambda: TokenTiers(tiers=(Tier(5, -1),)), "pending_tokens must be at least 0"),
        (lambda: EarlyRejection(decode_s=0.0), "decode_s must be above 0 s"),
        (lambda: Shed(kv=0.0), "shed: kv must be above 0"),
        (lambda: Shed(refresh_s=-1.0), "refresh_s must be at least 0 s"),
        (lambda: ServiceClass(ttft_s=0.0), "class: ttft_s must be above 0 s"),
        (lambda: ServiceClass(share=1.5), "class: share must lie in"),
        (lambda: ServiceClass(jump=-1.0), "class: jump must be above -1"),
    ],
)
def test_bad_settings_are_named(build: object, told: str) -> None:
    """One sentence, naming the field and the value."""
    with pytest.raises((ValueError, ConfigError), match=told):
        build()  # type: ignore[operator]


NAMED = {"gold": ServiceClass(priority=1, ttft_s=0.2), "batch": ServiceClass(priority=-1)}
SLO = ServiceClass(ttft_s=1.0, tpot_s=0.05)
NONE = np.empty(0)


def test_tenants_have_their_class() -> None:
    """Who has none gets the run's targets, and so does a class that leaves them open."""
    found = classed(NAMED, ["batch", None, "gold", "other"], NONE, SLO)
    assert [found[at].priority for at in range(4)] == [-1, 0, 1, 0]
    assert [found[at].ttft_s for at in range(4)] == [1.0, 1.0, 0.2, 1.0]
    assert {found[at].tpot_s for at in range(4)} == {0.05}


def test_no_classes_cost_nothing() -> None:
    """One class for all, and no entry per request."""
    assert classed({}, None, NONE, SLO) == Classes(kinds=(SLO,))


@given(shares=st.lists(st.floats(0.0, 0.3), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_shares_are_drawn(shares: list[float], seed: int) -> None:
    """The draws fall on classes in proportion to their shares, the rest on none."""
    named = {f"t{at}": ServiceClass(priority=at + 1, share=s) for at, s in enumerate(shares)}
    draws = np.random.default_rng(seed).random(4000)
    found = classed(named, None, draws, SLO)
    counts = np.bincount(np.frombuffer(found.of, np.uint8), minlength=len(shares) + 1)
    for share, count in zip((1 - sum(shares), *shares), counts, strict=True):
        spread = (4000 * share * (1 - share)) ** 0.5
        assert abs(count - 4000 * share) <= 5 * spread + (
            5 if share else 0
        )  # a rare one is Poisson


@pytest.mark.parametrize(
    ("named", "tenants", "told"),
    [
        (NAMED, ["gold"], "classes.batch: the workload has no tenant 'batch' but gold"),
        (NAMED, None, "classes.gold.share is missing"),
        ({"a": ServiceClass(share=0.5)}, ["a"], "classes.a.share: the workload names its tenants"),
        (
            {"a": ServiceClass(share=0.7), "b": ServiceClass(share=0.6)},
            None,
            "shares must add up to at most 1 but got 1.3",
        ),
    ],
)
def test_classes_that_fit_no_workload(
    named: dict[str, ServiceClass], tenants: list[str | None] | None, told: str
) -> None:
    """One sentence names the class."""
    with pytest.raises(ConfigError, match=told):
        classed(named, tenants, np.zeros(3), SLO)


def test_there_are_so_many_classes_at_most() -> None:
    """A request's class is a byte, and none is one of them."""
    named = {f"t{at}": ServiceClass(priority=at, share=0.001) for at in range(256)}
    with pytest.raises(ConfigError, match="at most 255 but got 256"):
        classed(named, None, np.zeros(1), SLO)
    del named["t255"]
    assert len(classed(named, None, np.zeros(1), SLO).kinds) == 256

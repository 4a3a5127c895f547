"""llm-d's variant autoscaler, AIBrix's, joint ones and Dynamo's classic one: worked by hand."""

from dataclasses import replace
from typing import Any

import pytest
from views import Steps, engine, flow, pool, seen

from simulator.cli import compose
from simulator.policies.dynamo.classic import DynamoClassic
from simulator.policies.engines import Engine
from simulator.policies.forecasting import Constant
from simulator.policies.joint import HeteroScale, TokenVelocity
from simulator.policies.saturation import AibrixApa, WvaPercent, WvaTokens
from simulator.policies.windows import Behavior, Limits, Memory
from simulator.testing import check_autoscaler

FREE = Limits(
    most=100,
    up=Behavior(window_s=0.0, rates=()),
    down=Behavior(window_s=0.0, rates=()),
)

SHIPPED = ("wva_v2", "wva_v1", "aibrix_apa", "heteroscale", "token_velocity", "dynamo_classic")


# --- llm-d's, by token capacity ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "demand", "wanted"),
    [
        # a worker holds 10,000: 34,000 / 0.85 = 40,000 − 30,000: one more
        (pool(3), 34_000, 4),
        (pool(3), 51_000, 6),  # jumps: 60,000 − 30,000
        # pending ones are supply: 40,000 − (2 + 2)·10,000
        (pool(2, coming=2), 34_000, 4),
        # 25,500 / 0.85 = 30,000, 21,000 / 0.70 = 30,000: between them nothing changes
        (pool(3), 25_500, 3),
        (pool(3), 21_001, 3),
        # 30,000 − 14,000 / 0.7 = 10,000: one fewer
        (pool(3), 14_000, 2),
        (pool(3), 7_001, 2),
        (pool(3), 0, 1),  # never the last
    ],
)
def test_tokens_asked_for_over_tokens_held(shown: Any, demand: float, wanted: int) -> None:
    """Ceil and floor of what is missing and spare, whole workers at once."""
    assert WvaTokens().wanted(shown, demand, 10_000) == wanted


def test_what_a_worker_holds_is_learnt_when_it_is_full() -> None:
    """80,000 by memory; 8192·100/1,100 = 744, so 100 sequences of 1,050, by its settings."""
    law, traffic = WvaTokens(limits=FREE), flow(1.0)
    usual = pool(1, waiting=(0,), kv_utilization=(0.5,))
    _, why, memory = law.decide(usual, seen(0, traffic), Memory())
    assert "50000 tokens of 80000 a worker" in why  # 105,000 by settings, 80,000 by memory
    full = pool(1, waiting=(5,), kv_utilization=(0.6,))
    _, why, memory = law.decide(full, seen(60, traffic), memory)
    assert "65000 tokens of 60000 a worker" in why  # 60,000 held, and 5 prompts of 1,000
    _, why, memory = law.decide(usual, seen(120, traffic), memory)
    assert "50000 tokens of 60000 a worker" in why  # remembered
    for at in range(12):
        fuller = pool(1, waiting=(9,), kv_utilization=(0.7,))
        _, why, memory = law.decide(fuller, seen(180 + 60 * at, traffic), memory)
    assert len(memory.signals) == 10
    _, why, _ = law.decide(usual, seen(1800, traffic), memory)
    assert "of 70000 a worker" in why  # the mean of the last ten


@pytest.mark.parametrize(
    ("role", "hit_rate", "demand"),
    [
        ("mixed", 0.0, 50_000 + 10 * (1000 + 100)),
        ("decode", 0.0, 50_000 + 10 * (1000 + 100)),
        ("prefill", 0.0, 50_000 + 10 * 1000),
        ("mixed", 0.25, 50_000 + 10 * (750 + 100)),
        ("prefill", 0.25, 50_000 + 10 * 750),
    ],
)
def test_requests_at_the_router_are_demand(role: str, hit_rate: float, demand: int) -> None:
    """Ten of 1,000 tokens and answers of 100 beside 50,000 tokens in use."""
    shown = pool(1, waiting=(0,), kv_utilization=(0.5,), held=10, role=role)
    look = seen(0, flow(1.0, hit_rate=hit_rate))
    assert f"{demand} tokens of" in WvaTokens().decide(shown, look, Memory())[1]
    quiet = WvaTokens().decide(shown, seen(0, flow(0.0)), Memory())[1]
    assert "50000 tokens of" in quiet  # no traffic, no lengths


def test_a_worker_of_few_sequences_holds_what_its_settings_say() -> None:
    """40 sequences of 1,050 tokens: 42,000, less than 80,000."""
    small = engine(max_num_seqs=40)
    shown = pool(1, waiting=(0,), kv_utilization=(0.1,), engine=small)
    assert "of 42000 a worker" in WvaTokens().decide(shown, seen(0, flow(1.0)), Memory())[1]


# --- llm-d's, by shares ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "used", "wanted"),
    [
        ((0, 0, 0), (0.5, 0.5, 0.5), 3),  # 0.3 left, at two 0.05: stay
        ((0, 0, 0), (0.4, 0.4, 0.4), 2),  # at two 0.6: 0.2 left
        ((0, 0), (0.72, 0.72), 3),  # 0.08 left
        ((3, 2), (0.1, 0.1), 3),  # 2.5 of the queue left
        ((5, 0), (0.1, 0.1), 2),  # one is full; of the other enough is left, alone it stays
        ((9, 9), (0.9, 0.9), 3),  # all full
        ((0,), (0.0,), 1),  # the last stays
    ],
)
def test_spare_shares_by_hand(
    waiting: tuple[int, ...], used: tuple[float, ...], wanted: int
) -> None:
    """One more, one fewer, or none, of the workers that are not full."""
    shown = pool(len(waiting), waiting=waiting, kv_utilization=used)
    assert WvaPercent().wanted(shown, waiting, used) == wanted


def test_without_its_thresholds_every_worker_looks_full() -> None:
    """The quirk of a missing ConfigMap: idle workers ask for one more."""
    bare = WvaPercent(kv=0, queue=0, kv_spare=0, queue_spare=0)
    assert bare.wanted(pool(2), (0, 0), (0.0, 0.0)) == 3


# --- AIBrix ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running", "wanted"),
    [
        ((15, 15, 15, 15), 6),  # r = 1.5
        ((30, 30, 30, 30), 8),  # r = 3, at most twice
        ((11, 11, 11, 11), 4),  # within 10 %
        ((5, 5, 5, 5), 2),  # r = 0.5
        ((1, 1, 1, 1), 2),  # r = 0.1, at least half
        ((8, 8, 8, 8), 4),  # ceil(3.2)
    ],
)
def test_the_ratio_and_its_rates(running: tuple[int, ...], wanted: int) -> None:
    """Min and max of the ratio and the rates, and the tolerance."""
    assert AibrixApa(target=10).wanted(running, 4) == wanted


def test_the_windows_are_kubernetes_turned_round() -> None:
    """Down goes at once, to the least of 300 s, below what is asked for now."""
    law, memory = AibrixApa(target=10), Memory()
    told = []
    for at_s, now, load in ((0, 8, 3), (15, 8, 6), (310, 8, 6)):
        got, _, memory = law.decide(pool(now, running=(load,) * now), seen(at_s), memory)
        told.append(got)
    # r = 0.3: max(3, 4) = 4; r = 0.6 asks for 5 and gets the 4 of before, after 300 s its own 5
    assert told == [4, 4, 5]


def test_up_goes_to_the_most_of_its_window() -> None:
    """With a minute's window a second look that asks for less still gets the first one's."""
    law, memory = AibrixApa(target=10, up_s=60.0), Memory()
    told = []
    for at_s, load in ((0, 20), (30, 14), (61, 14)):
        got, _, memory = law.decide(pool(4, running=(load,) * 4), seen(at_s), memory)
        told.append(got)
    # r = 2.0: 8; r = 1.4: 6, and 8 within the minute
    assert told == [8, 8, 6]


# --- joint -------------------------------------------------------------------------------------


def joint(prefill: int, decode: int, made: float, **more: Any) -> Any:
    """Return a look at two pools that make so many tokens/s, of answers of 100."""
    return seen(60, flow(made / 100, **more), prefill=pool(prefill), decode=pool(decode))


@pytest.mark.parametrize(
    ("look", "wanted"),
    [
        (joint(2, 4, 4000.0), (2, 4)),  # 1,000 each: as it is
        (joint(2, 4, 4390.0), (2, 4)),  # within 10 %
        (joint(2, 4, 7000.0), (4, 7)),  # round(3.5) to even: 4
        (joint(2, 4, 8000.0), (4, 8)),
        (joint(2, 4, 1000.0), (1, 1)),  # round(0.5) is 0, one is left
        (joint(6, 2, 4000.0), (12, 4)),  # 3 : 1
        (joint(2, 4, 0.0), (1, 1)),
    ],
)
def test_prefill_follows_decode_at_their_ratio(look: Any, wanted: tuple[int, int]) -> None:
    """n_d by tokens/s, n_p by the ratio there was at the first look."""
    law = HeteroScale(tokens_per_s=1000.0)
    plan, _ = law.decide(look, law.initial())
    assert (plan.workers["prefill"], plan.workers["decode"]) == wanted


def test_the_ratio_is_kept_whatever_the_pools_become() -> None:
    """After a first look at 1 : 2 a pool of 1 : 1 is brought back."""
    law = HeteroScale(tokens_per_s=1000.0)
    _, state = law.decide(joint(2, 4, 4000.0), law.initial())
    plan, _ = law.decide(joint(4, 4, 4000.0), state)
    assert dict(plan.workers) == {"prefill": 2, "decode": 4}


def test_latencies_forbid_fewer_and_nothing_else() -> None:
    """While p90 TTFT is over its limit nobody goes, but more may come."""
    law = HeteroScale(tokens_per_s=1000.0, ttft_s=1.0)
    late = {"ttft_s": (2.0,) * 10}
    assert dict(law.decide(joint(2, 4, 1000.0, **late), law.initial())[0].workers) == {}
    assert law.decide(joint(2, 4, 8000.0, **late), law.initial())[0].workers["decode"] == 8


VELOCITY = engine(Steps(seq=0.001), kv_tokens=1_000_000)


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [
        (0.0, (1, 1)),
        (7.9, (1, 1)),
        (8.1, (1, 2)),
        (10.1, (2, 2)),
        (24.1, (3, 4)),
        (1000.0, (32, 32)),
    ],
)
def test_velocities_by_hand(rate: float, wanted: tuple[int, int]) -> None:
    """10 prompts/s a prefill worker, 40 / (100 × 50 ms) = 8 answers/s a decode worker."""
    look = seen(5, flow(rate), prefill=pool(1, engine=VELOCITY), decode=pool(1, engine=VELOCITY))
    plan, _ = TokenVelocity(tpot_s=0.050000001).decide(look, None)
    assert (plan.workers["prefill"], plan.workers["decode"]) == wanted


def test_velocities_are_of_the_last_two_scrapes() -> None:
    """TokenScale looks every five seconds, at ten seconds of traffic."""
    assert TokenVelocity.sees == {"scrape_s": 5.0, "window_s": 10.0}
    assert TokenVelocity().interval_s == 5.0


# --- Dynamo's classic planner ------------------------------------------------------------------


def classic(**changes: Any) -> DynamoClassic:
    """Return the planner with a forecast of no change and room for much."""
    return DynamoClassic(**({"forecaster": Constant(), "max_gpu_budget": 100} | changes))


def asked(policy: DynamoClassic, rate: float, ttft: float, tpot: float) -> tuple[int, int]:
    """Return both pools' workers after an interval: 0.1 s a prompt, 10 ms + 1 ms a sequence."""
    traffic = flow(rate, ttft_s=(ttft,), tpot_s=(tpot,))
    pools = {role: pool(1, engine=VELOCITY) for role in ("prefill", "decode")}
    plan, _ = policy.decide(seen(180, traffic, **pools), policy.initial())
    return plan.workers["prefill"], plan.workers["decode"]


def test_throughput_without_corrections() -> None:
    """10 prompts/s a worker; decode at 50 ms by hundredths of KV.

    3 % of 1,000,000 tokens are 28 sequences of 1,050, 38 ms; 4 % are 38, 48 ms; 5 % are 47, 57 ms:
    38 / 48 ms = 791.7 tokens/s.
    """
    plain = classic(corrects=False)
    assert plain.decode_per_gpu(VELOCITY, 1050.0, 0.05) == pytest.approx(38 / 0.048)
    assert asked(plain, 30.0, 9.0, 9.0) == (3, 4)  # 3,000 tokens/s of 791.7
    assert asked(plain, 30.1, 9.0, 9.0) == (4, 4)


def told(policy: DynamoClassic, engine: Engine, ttft: float, tpot: float) -> str:
    """Return the reason it gives for an interval of 100 requests/s."""
    pools = {role: pool(1, engine=engine) for role in ("prefill", "decode")}
    traffic = flow(100.0, ttft_s=(ttft,), tpot_s=(tpot,))
    return policy.decide(seen(180, traffic, **pools), policy.initial())[0].reason


def test_corrections_are_observed_over_profiled() -> None:
    """TTFT 0.3 of 0.1 s; TPOT 11 s of the 110 ms of the 100 sequences of 1,050 its KV holds."""
    full = replace(VELOCITY, kv_tokens=105_000)
    assert told(classic(), full, 0.3, 11.0).startswith("corrections 3.00 and 100.00 ")
    assert told(classic(corrects=False), full, 0.3, 11.0).startswith("corrections 1.00 and 1.00 ")


def test_what_takes_no_time_is_not_corrected() -> None:
    """A profile of zeros has nothing to compare with."""
    half = engine(Steps(token=0.0, base=0.01), kv_tokens=105_000)
    policy = classic()
    traffic = flow(100.0, ttft_s=(0.3,), tpot_s=(0.02,))
    found = policy._corrections(traffic, (half, half), 1)
    assert found == (1.0, 2.0)
    none = engine(Steps(base=0.0), kv_tokens=105_000)
    assert policy._corrections(traffic, (none, none), 1)[1] == 1.0


def test_a_late_prefill_is_never_corrected_up() -> None:
    """min(1, p): a queue makes TTFT ten times the profile, and nothing of it."""
    assert asked(classic(), 30.0, 1.0, 0.03)[0] == 3
    assert asked(classic(), 30.0, 0.05, 0.03)[0] == 2  # half the profile: half as many, rounded up


def test_slow_decode_tightens_its_target() -> None:
    """TPOT twice its profile: the target is 25 ms, where 1 % are 9 sequences at 19 ms."""
    # 1 request/s of 100 tokens at 0.1 s: 10 s or so in flight, so a batch of 10 at 20 ms profiled
    policy = classic()
    made = policy.decode_per_gpu(VELOCITY, 1050.0, 0.025)
    assert made == pytest.approx(9 / 0.019)
    ttft, tpot = 0.1, 0.04
    batch = round(3.0 * (ttft + tpot * 100))  # 12 in flight at 22 ms
    correction = tpot / (0.01 + 0.001 * batch)
    expected = policy.decode_per_gpu(VELOCITY, 1050.0, 0.05 / correction)
    assert asked(policy, 3.0, ttft, tpot)[1] == -(-300 // expected)


@pytest.mark.parametrize(
    ("counts", "gpus", "fitted"),
    [
        ((3, 4), (1, 1), (3, 4)),
        ((6, 6), (1, 1), (4, 4)),
        ((9, 3), (1, 1), (6, 2)),
        ((20, 1), (1, 1), (8, 1)),  # the least of decode breaks the budget: a quirk
        ((4, 4), (2, 1), (3, 2)),  # 12 GPUs: round(2.67), then what is left
    ],
)
def test_over_its_budget_it_shrinks_in_proportion(
    counts: tuple[int, int], gpus: tuple[int, int], fitted: tuple[int, int]
) -> None:
    """Of 8 GPUs: prefill rounded first, decode gets the rest."""
    assert DynamoClassic().within_budget(counts, gpus) == fitted


def test_an_interval_without_traffic_is_skipped() -> None:
    """No request, or none that ended: nothing changes."""
    policy = classic()
    pools = {role: pool(2, engine=VELOCITY) for role in ("prefill", "decode")}
    assert not policy.decide(seen(180, **pools), policy.initial())[0].workers
    assert not policy.decide(seen(180, flow(3.0), **pools), policy.initial())[0].workers


# --- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_keeps_the_contract(name: str) -> None:
    """Pure, quick, whole numbers, and alive whatever is seen."""
    policy = compose([f"autoscaler={name}"]).deployment.control.policy
    check_autoscaler(policy)
    check_autoscaler(policy, pools=("mixed",))


@pytest.mark.parametrize(
    "bad",
    [
        lambda: WvaTokens(kv=0.0),
        lambda: WvaTokens(up=0.7, down=0.8),
        lambda: WvaTokens(queue=0),
        lambda: WvaPercent(kv=-1.0),
        lambda: AibrixApa(target=0.0),
        lambda: AibrixApa(target=1.0, least=2, most=1),
        lambda: AibrixApa(target=1.0, up_rate=1.0),
        lambda: AibrixApa(target=1.0, down_s=-1.0),
        lambda: HeteroScale(tokens_per_s=0.0),
        lambda: HeteroScale(tokens_per_s=1.0, ratio=0.0),
        lambda: HeteroScale(tokens_per_s=1.0, tolerance=1.0),
        lambda: HeteroScale(tokens_per_s=1.0, least=0),
        lambda: TokenVelocity(ttft_s=None),
        lambda: TokenVelocity(least=2, most=1),
        lambda: DynamoClassic(tpot_s=None),
        lambda: DynamoClassic(min_endpoint=0),
        lambda: DynamoClassic(max_gpu_budget=0),
        lambda: DynamoClassic(interval_s=0.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: Any) -> None:
    """Each in one sentence that names what was expected."""
    with pytest.raises(ValueError, match=r" must "):
        bad()

"""Settings of every policy at the edges of what they may be."""

from collections.abc import Callable
from math import inf, nan
from typing import Any, NamedTuple

import pytest

from simulator.errors import ConfigError
from simulator.policies.admission import EarlyRejection, QueueCap, Shed, Tier, TokenTiers
from simulator.policies.classes import ServiceClass
from simulator.policies.dynamo.classic import DynamoClassic
from simulator.policies.dynamo.inventory import Budget
from simulator.policies.dynamo.sla import DynamoSla
from simulator.policies.dynamo.thresholds import DynamoThreshold
from simulator.policies.flipping import ArrowFlips
from simulator.policies.forecasting import (
    Arima,
    HoltWinters,
    Kalman,
    MovingAverage,
    SeasonalNaive,
)
from simulator.policies.joint import HeteroScale, TokenVelocity
from simulator.policies.kubernetes import Band, PerWorker, Saturation, SloKeda, Total
from simulator.policies.matching import (
    Common,
    ModelPredictive,
    QueueBalance,
    Ratio,
    SloFeedback,
)
from simulator.policies.prefixes import Beliefs, CacheAware, KvAware, PrefixAffinity
from simulator.policies.queueing import Priority
from simulator.policies.rate_matching import Balanced, Degraded, FixedRatio, WithinBudget
from simulator.policies.saturation import AibrixApa, WvaPercent, WvaTokens
from simulator.policies.serving import Kpa, RayServe
from simulator.policies.windows import Behavior, Limits, Rate


class Edge(NamedTuple):
    """Values of some settings that are refused by name, and their neighbours that are taken."""

    make: Callable[..., object]
    names: str
    refused: tuple[object, ...]
    taken: tuple[object, ...]


POSITIVE: tuple[tuple[object, ...], tuple[object, ...]] = ((0.0, -1.0, inf, nan), (1e-9, 1e9))
"""Above 0 and finite."""
DURATION: tuple[tuple[object, ...], tuple[object, ...]] = ((-1e-9, inf, nan), (0.0, 1e9))
"""At least 0 and finite."""
SHARE: tuple[tuple[object, ...], tuple[object, ...]] = ((0.0, 1.0000001, nan), (1e-9, 1.0))
"""Above 0 and at most 1."""
INTERVAL: tuple[tuple[object, ...], tuple[object, ...]] = ((0.0, 0.00099, inf, nan), (0.001, 1e9))
"""At least a millisecond, and finite."""
ONE: tuple[tuple[object, ...], tuple[object, ...]] = ((0, -1), (1, 2))
"""At least one."""

COMMON = Common(ttft_s=1.0, tpot_s=0.05)


def tier(uncached_tokens: int = 0, pending_tokens: int = 0) -> TokenTiers:
    """Return tiers of which there is one."""
    return TokenTiers(tiers=(Tier(uncached_tokens, pending_tokens),))


def common(**changes: Any) -> Common:
    """Return what matchers share, with some of it changed."""
    return Common(**({"ttft_s": 1.0, "tpot_s": 0.05} | changes))


def behavior(window_s: float = 0.0, period_s: float = 1.0) -> Behavior:
    """Return one direction with one rate."""
    return Behavior(window_s=window_s, rates=(Rate(period_s, workers=1),))


def prefill_tokens(**bounds: float | None) -> DynamoThreshold:
    """Return thresholds of prompt tokens, 5 and 9 unless they are given."""
    given: dict[str, Any] = {"prefill_down_tokens": 5.0, "prefill_up_tokens": 9.0} | bounds
    return DynamoThreshold(**given)


def decode_percent(**bounds: float | None) -> DynamoThreshold:
    """Return thresholds of KV, 5 and 9 per cent unless they are given."""
    given: dict[str, Any] = {"decode_down_percent": 5.0, "decode_up_percent": 9.0} | bounds
    return DynamoThreshold(**given)


def apa(**changes: Any) -> AibrixApa:
    """Return AIBrix's autoscaler for ten requests a worker."""
    return AibrixApa(**({"target": 10.0} | changes))


def hetero(**changes: Any) -> HeteroScale:
    """Return HeteroScale for 100 tokens/s a worker."""
    return HeteroScale(**({"tokens_per_s": 100.0} | changes))


def band(low: float = 0.4, high: float = 0.55) -> SloKeda:
    """Return the SLO law with a band."""
    return SloKeda(band=Band(low, high))


EDGES = [
    # admission, queues and classes
    Edge(QueueCap, "waiting", *ONE),
    Edge(tier, "uncached_tokens pending_tokens", (-1,), (0, 1)),
    Edge(EarlyRejection, "decode_s", *POSITIVE),
    Edge(Shed, "factor power queue kv", *POSITIVE),
    Edge(Shed, "refresh_s", *DURATION),
    Edge(Priority, "aging_s", POSITIVE[0], (*POSITIVE[1], None)),
    Edge(ServiceClass, "ttft_s tpot_s", POSITIVE[0], (*POSITIVE[1], None)),
    Edge(ServiceClass, "jump", (-1.0, inf, nan), (-0.999, 0.0, 1e9)),
    Edge(ServiceClass, "share", (-1e-9, 1.0000001, nan), (0.0, 1.0, None)),
    # forecasters
    Edge(MovingAverage, "window", *ONE),
    Edge(SeasonalNaive, "season", *ONE),
    Edge(Kalman, "level trend noise initial", *POSITIVE),
    Edge(Kalman, "least", *ONE),
    Edge(Arima, "least", (2,), (3,)),
    Edge(Arima, "window", (4,), (5,)),
    Edge(Arima, "most", (-1,), (0,)),
    Edge(HoltWinters, "alpha beta gamma", (-1e-9, 1.0000001, nan), (0.0, 1.0)),
    Edge(HoltWinters, "season", (-1,), (0, 1)),
    # Kubernetes, KEDA, Knative, Ray Serve
    Edge(PerWorker, "target", *POSITIVE),
    Edge(Total, "target", *POSITIVE),
    Edge(Saturation, "queue kv target", *POSITIVE),
    Edge(SloKeda, "average_s rate_s", *POSITIVE),
    Edge(band, "low", (0.0, 0.55, 0.6), (1e-9, 0.549)),
    Edge(band, "high", (0.4, 0.3), (0.401, 5.0)),
    Edge(behavior, "window_s", *DURATION),
    Edge(behavior, "period_s", *POSITIVE),
    Edge(Limits, "least", (0, 11), (1, 10)),
    Edge(Kpa, "target up_rate down_rate", *POSITIVE),
    Edge(Kpa, "panic_s", (0.0, inf, nan), (1e-9, 60.0)),
    Edge(Kpa, "stable_s", (5.999, inf, nan), (6.0, 1e9)),
    Edge(Kpa, "least", (0, 11), (1, 10)),
    Edge(RayServe, "target look_back_s factor", *POSITIVE),
    Edge(RayServe, "least", (0, 11), (1, 10)),
    # Dynamo
    Edge(Budget, "min_endpoint", *ONE),
    Edge(Budget, "max_gpu_budget", (0, -1), (1, None)),
    Edge(Budget, "min_gpu_budget", (-1, 9), (0, 8, None)),
    Edge(DynamoSla, "ttft_s tpot_s", (*POSITIVE[0], None), POSITIVE[1]),
    Edge(DynamoSla, "throughput_s load_s", *INTERVAL),
    Edge(DynamoSla, "sensitivity", *SHARE),
    Edge(DynamoSla, "max_change", *ONE),
    Edge(prefill_tokens, "prefill_down_tokens", (-0.001, 9.0, 10.0, nan, None), (0.0, 8.999)),
    Edge(prefill_tokens, "prefill_up_tokens", (5.0, 4.0, nan, None), (5.001,)),
    Edge(decode_percent, "decode_down_percent", (-0.001, 9.0, 10.0, nan, None), (0.0, 8.999)),
    Edge(decode_percent, "decode_up_percent", (5.0, 4.0, nan, None), (5.001,)),
    Edge(DynamoClassic, "ttft_s tpot_s", (*POSITIVE[0], None), POSITIVE[1]),
    Edge(DynamoClassic, "min_endpoint max_gpu_budget", *ONE),
    Edge(DynamoClassic, "interval_s", *INTERVAL),
    # llm-d's and AIBrix's autoscalers, and joint ones
    Edge(WvaTokens, "kv", *SHARE),
    Edge(WvaTokens, "down", (0.0, 0.85, nan), (1e-9, 0.849)),
    Edge(WvaTokens, "queue", *ONE),
    Edge(WvaPercent, "kv queue kv_spare queue_spare", *DURATION),
    Edge(AibrixApa, "target", *POSITIVE),
    Edge(apa, "up_rate down_rate", (1.0, inf, nan), (1.001, 1e9)),
    Edge(apa, "tolerance up_s down_s", *DURATION),
    Edge(apa, "least", (0, 11), (1, 10)),
    Edge(hetero, "tokens_per_s", *POSITIVE),
    Edge(hetero, "ratio", POSITIVE[0], (*POSITIVE[1], None)),
    Edge(hetero, "tolerance", (-1e-9, 1.0, nan), (0.0, 0.999)),
    Edge(hetero, "least", (0, 33), (1, 32)),
    Edge(TokenVelocity, "ttft_s tpot_s", (*POSITIVE[0], None), POSITIVE[1]),
    Edge(TokenVelocity, "least", (0, 33), (1, 32)),
    # routers by prefixes
    Edge(Beliefs, "delay_s", *DURATION),
    Edge(lambda ttl_s: Beliefs(by="routed", ttl_s=ttl_s), "ttl_s", (0.0, nan), (1e-9, None)),
    Edge(KvAware, "overlap_credit prefill_scale request_weight temperature", *DURATION),
    Edge(PrefixAffinity, "sticky_share", *SHARE),
    Edge(PrefixAffinity, "tokens_per_s most_tokens", *POSITIVE),
    Edge(PrefixAffinity, "patience_s", (-1e-9, nan), (0.0, inf)),
    Edge(CacheAware, "cache_threshold", (-1e-9, 1.0000001, nan), (0.0, 1.0)),
    Edge(CacheAware, "balance_abs balance_rel", (-1, nan), (0, 1e9)),
    Edge(ArrowFlips, "update_s", *DURATION),
    # rate matching
    Edge(Balanced, "tolerance", (0.0, 1.0, nan), (1e-9, 0.999)),
    Edge(lambda **told: WithinBudget(**({"gpus": 2} | told)), "prefill decode", *SHARE),
    Edge(WithinBudget, "gpus", (0, 1.5, True), (1,)),
    Edge(Degraded, "prefill decode", *SHARE),
    Edge(Degraded, "max_workers", (0, 1.5, True), (1,)),
    Edge(FixedRatio, "ratio", *POSITIVE),
    Edge(lambda tolerance: FixedRatio(ratio=1.0, tolerance=tolerance), "tolerance", (0.0,), (0.5,)),
    Edge(common, "ttft_s tpot_s", (*POSITIVE[0], None), POSITIVE[1]),
    Edge(common, "interval_s", *INTERVAL),
    Edge(common, "utilization", *SHARE),
    Edge(common, "gpus", (1, 0), (2, None)),
    Edge(lambda **told: Ratio(common=COMMON, **told), "prefill decode", *POSITIVE),
    Edge(
        lambda gain: QueueBalance(common=COMMON, gain=gain), "gain", (-1e-9, 1.0, nan), (0.0, 0.9)
    ),
    Edge(lambda **told: SloFeedback(common=COMMON, **told), "quantile hysteresis", *SHARE),
    Edge(lambda **told: SloFeedback(common=COMMON, **told), "cooldown_s", *DURATION),
    Edge(lambda **told: ModelPredictive(common=COMMON, **told), "horizon reach", *ONE),
    Edge(lambda **told: ModelPredictive(common=COMMON, **told), "startup_s late change", *DURATION),
]
CASES = [(edge, name) for edge in EDGES for name in edge.names.split()]


@pytest.mark.parametrize(
    ("edge", "name"), CASES, ids=[f"{at}-{name}" for at, (_, name) in enumerate(CASES)]
)
def test_a_setting_is_taken_up_to_its_edge(edge: Edge, name: str) -> None:
    """The last good value makes the policy, the first bad one is refused in a sentence."""
    for value in edge.taken:
        edge.make(**{name: value})
    for value in edge.refused:
        with pytest.raises(
            (ValueError, ConfigError), match=r"band must rise" if edge.make is band else name
        ):
            edge.make(**{name: value})

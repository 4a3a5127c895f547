"""The paper's planner figure (revision, figure 12): dynamic rate matching against fixed pools.

Llama-3.1-8B on H200s, 3,000 tokens in and 300 out, 5 to 45 requests/s, TTFT within 200 ms and TPOT
within 10 ms. The facts at hand do not say how the rate goes, what the planner's settings are, nor
over how many GPUs deployments are compared. Here the rate swings once in ten minutes, planners are
shipped policies with their defaults, of which the one with the highest goodput per GPU stands for
all, and fixed deployments get as many GPUs as it holds on average, rounded up. Goodput is requests
within both targets per second.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import polars as pl

from simulator.deployment import Pool
from simulator.experiment import Experiment, simulate
from simulator.explore.paper.claims import Claim, Figure
from simulator.layout import Layout
from simulator.policies.autoscaling import Control
from workloads.trace import Trace

FACTOR = 1.5
"""A ratio within this factor of the paper's counts as about that; settled after trial runs."""
REASONS = {
    "a": "as many GPUs as the planner holds on average also serve the peak when they never change: "
    "what it saves in the trough it spends on room for chance, on starts and on forecasts that "
    "overshoot the turn; how the rate goes and what is compared at which GPUs is not told",
    "b": "which mapping was wrong is not told; workers of as many GPUs as there can be two of are, "
    "for a model that fits on one GPU, worse than four times",
    "c": "which pool had three is not told",
}
"""What we make of claims that do not hold."""
STATIC, MAPPING, RATIO = "fixed", "wrong mapping", "wrong ratio"
TITLE = "Goodput of a planner and of fixed pools, 5 to 45 requests/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One deployment: of which ``series``, its workers and their GPUs, and what came of it."""

    series: str
    prefill: int
    decode: int
    tp: int
    gpus: float
    goodput: float
    attainment: float


def study(planners: Mapping[str, Experiment]) -> Figure:
    """Return the figure with its claims judged; all planners meet the same traffic."""
    some = next(iter(planners.values()))
    trace = some.trace()
    dynamic = [_trial(name, each, trace) for name, each in planners.items()]
    best = max(dynamic, key=lambda each: each.goodput / each.gpus)
    fixed = [
        _trial(series, _as_fixed(some, prefill, decode, tp), trace)
        for series, prefill, decode, tp in _fixed(math.ceil(best.gpus))
    ]
    return Figure(
        id="P12",
        title=TITLE,
        curves=_curves([*dynamic, *fixed]),
        x="prefill_share",
        y="goodput",
        claims=tuple(_claims(best, fixed)),
    )


def _curves(trials: list[Trial]) -> pl.DataFrame:
    """Return a row per deployment; those that stand alone are drawn across all shares."""
    rows = []
    for trial in trials:
        share = trial.prefill / (trial.prefill + trial.decode)
        shares = (share,) if trial.series in (STATIC, RATIO) else (0.0, 1.0)
        rows += [{"prefill_share": each, **asdict(trial)} for each in shares]
    return pl.DataFrame(rows)


def _fixed(gpus: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield every split of so many GPUs in workers of one, and what is wrong on purpose."""
    for prefill in range(1, gpus):
        yield STATIC, prefill, gpus - prefill, 1
    tp = 1 << int(math.log2(gpus // 2))
    yield MAPPING, 1, 1, tp
    few = max(1, round(gpus / 4))
    yield RATIO, gpus - few, few, 1
    yield RATIO, few, gpus - few, 1


def _as_fixed(planner: Experiment, prefill: int, decode: int, tp: int) -> Experiment:
    counts = {"prefill": prefill, "decode": decode}
    pools = tuple(
        replace(pool, workers=counts[pool.role], layout=Layout(tp=tp))
        for pool in planner.deployment.pools
    )
    return replace(planner, deployment=replace(planner.deployment, pools=pools, control=Control()))


def _trial(series: str, experiment: Experiment, trace: Trace) -> Trial:
    summary = simulate(experiment, config="", trace=trace).summary
    pools: dict[str, Pool] = {pool.role: pool for pool in experiment.deployment.pools}
    return Trial(
        series=series,
        prefill=pools["prefill"].workers,
        decode=pools["decode"].workers,
        tp=pools["prefill"].layout.tp,
        gpus=summary["gpu_hours"]["total"] * 3600 / summary["duration_s"],
        goodput=summary["goodput_rps"],
        attainment=summary["slo_attainment"],
    )


def _claims(dynamic: Trial, trials: list[Trial]) -> Iterator[Claim]:
    """Yield what the paper says of a planner, judged against fixed deployments."""
    ratio = [each for each in trials if each.series == RATIO]
    three_to_one, one_to_three = ratio
    for at, others, paper, words in (
        ("a", [each for each in trials if each.series == STATIC], 2.0, "the best fixed deployment"),
        ("b", [each for each in trials if each.series == MAPPING], 4.0, "a wrong mapping"),
        ("c", [min(ratio, key=lambda each: each.goodput)], 8.0, "a wrong 3:1 ratio"),
    ):
        best = max(others, key=lambda each: each.goodput)
        times = dynamic.goodput / best.goodput if best.goodput else math.inf
        numbers: dict[str, float | str | list[float]] = {
            "times": times,
            "planner": dynamic.series,
            "dynamic goodput": dynamic.goodput,
            "dynamic gpus": dynamic.gpus,
            "other goodput": best.goodput,
            "other workers": [float(best.prefill), float(best.decode)],
            "of gpus each": float(best.tp),
        }
        note = ""
        if at == "c":
            numbers["3:1 goodput"] = three_to_one.goodput
            numbers["1:3 goodput"] = one_to_three.goodput
            note = "Which pool has three is not said: both were tried, the worse one counts"
        yield Claim(
            id=f"P12{at}",
            claim=f"Dynamic rate matching has about {paper:g} times the goodput of {words} "
            f"(here: within a factor of {FACTOR:g}), on as many GPUs as it holds on average",
            held=paper / FACTOR <= times <= paper * FACTOR,
            numbers=numbers,
            reason=REASONS[at],
            note=note,
        )

"""Published experiments on autoscaling, run as they were described, and judged by code."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import polars as pl

from simulator.results import Results
from simulator.validation.judging import (
    BAND,
    NEAR,
    POINTS,
    Assumption,
    Finding,
    Runs,
    Study,
    Tried,
    attainment,
    changes,
    first_tokens,
    gaps_s,
    mean,
    mean_gap_ms,
    outside,
    over,
    quantile,
    reversals,
    tail_s,
    told,
    workers,
)
from simulator.validation.llm_d import STUDIES as LLM_D

# --- the studies -------------------------------------------------------------------------------

RAMP_S = 2430.0


def _ramp(runs: Runs) -> Sequence[Finding]:
    shares = over(runs, "law", attainment)
    counts = over(runs, "law", lambda each: workers(each, RAMP_S, since="granted_s"))
    static = over(runs, "static 8", attainment)
    return (
        Finding(
            "attainment, %",
            "95.8",
            told(shares),
            outside(95.8, shares) <= POINTS,
            f"at most {POINTS:g} points outside the band",
        ),
        Finding(
            "workers on average, those that start included",
            "5.93",
            told(counts, 2),
            outside(5.93, counts) <= NEAR * 5.93,
            f"within {NEAR:.0%} of the band",
        ),
        Finding(
            "attainment of 8 that stay, %",
            "100",
            told(static),
            outside(100.0, static) <= POINTS,
            f"at most {POINTS:g} points outside the band",
        ),
    )


def _sine(runs: Runs) -> Sequence[Finding]:
    grown = over(runs, "completion", lambda each: float(sum(changes(each, "prefill", 0, 1500.0))))
    waits = over(runs, "completion", lambda each: mean(first_tokens(each, float("inf"))))
    shares = over(runs, "completion", _good_share)
    gaps = over(runs, "completion", mean_gap_ms)
    return (
        Finding(
            "prefill workers added in the first 25 minutes",
            "0",
            told(grown, 0),
            max(grown) == 0,
            "none",
            "as decode grew, prompts came through faster, and the demand that is counted with them",
        ),
        Finding(
            "mean TTFT, s",
            "160",
            told(waits),
            outside(160.0, waits) <= NEAR * 160,
            f"within {NEAR:.0%} of the band",
            "160, and at most 403, is what prompts wait that are computed at 11 a second where "
            "decode is not short; ours are at 8 to 9, and decode is short of workers for six "
            "minutes, which demand counted on completion hides too; which GPUs theirs were is not "
            "told",
        ),
        Finding(
            "mean ITL, ms",
            "20.4",
            told(gaps),
            outside(20.4, gaps) <= NEAR * 20.4,
            f"within {NEAR:.0%} of the band",
            "a decode worker that is full takes 30 to 40 ms, and ours are; enough of them take 15 "
            "to 20",
        ),
        Finding(
            "share of the served that were good, %",
            "9 (0.9 of 10.6 requests/s)",
            told(shares),
            outside(8.5, shares) <= POINTS,
            f"at most {POINTS:g} points outside the band",
            "the backlog outlasts the troughs, where the published one does not",
        ),
    )


def _good_share(results: Results) -> float:
    done = results.requests.filter(pl.col("finish_s").is_not_null())
    return attainment(results) * results.requests.height / max(1, done.height)


def _flat(runs: Runs) -> Sequence[Finding]:
    span = (600.0, 1800.0)
    guarded = over(runs, "guard", lambda each: float(reversals(each, "decode", *span)))
    before = over(runs, "before", lambda each: float(reversals(each, "decode", *span)))
    return (
        Finding(
            "reversals in twenty minutes, reductions judged by one worker fewer",
            "none",
            told(guarded, 0),
            max(guarded) == 0,
            "none at any factor",
        ),
        Finding(
            "reversals by the rule before",
            "2 to 1 to 2 for ever",
            told(before, 0),
            min(before) > 0,
            "some at every factor",
        ),
    )


def _slow_path(runs: Runs) -> Sequence[Finding]:
    def ratio(read: Callable[[Results], float], busy: str, other: str) -> list[float]:
        return [
            one / two
            for one, two in zip(over(runs, busy, read), over(runs, other, read), strict=True)
        ]

    def median(each: Results) -> float:
        return quantile(first_tokens(each, float("inf")), 0.5)

    def tail(each: Results) -> float:
        return quantile(first_tokens(each, float("inf")), 0.99)

    def made(each: Results) -> float:
        return float(each.summary["output_tokens_per_s_per_gpu"])

    busy = ratio(median, "apart, 100 clients", "together, 100 clients")
    rate = ratio(made, "apart, 100 clients", "together, 100 clients")
    quiet = ratio(tail, "apart, 1 client", "together, 1 client")
    rule = "as the published sign: P/D loses at every factor"
    return (
        Finding("TTFT, P/D over together, 100 clients", "4.3", told(busy), min(busy) > 1, rule),
        Finding("tokens/s/GPU, P/D over together", "0.79", told(rate, 2), max(rate) < 1, rule),
        Finding("p99 TTFT, one client", "6.6", told(quiet), min(quiet) > 1, rule),
    )


def _burst(runs: Runs) -> Sequence[Finding]:
    def handed(results: Results, at: int) -> float:
        return float(results.requests["transfer_end_s"].sort()[at])

    half = over(runs, "run", lambda each: handed(each, 99))
    next_one = over(runs, "run", lambda each: handed(each, 100))
    ends = over(runs, "run", lambda each: float(each.requests["finish_s"].sort()[0]))
    waits = all(n >= e for n, e in zip(next_one, ends, strict=True))
    return (
        Finding(
            "first 100 KVs handed over after, s",
            "30",
            told(half),
            max(half) <= 30 * (1 + NEAR),
            f"no later, {NEAR:.0%} granted",
        ),
        Finding(
            "the next one after, s",
            "300",
            told(next_one),
            waits and all(n > 1.5 * h for n, h in zip(next_one, half, strict=True)),
            "not before the first answers end, and half as late again, at each factor",
            "how long depends on the model, which is not published: 2,000 tokens took theirs five "
            "minutes, ours one",
        ),
    )


SWEPT_S = tuple(range(0, 301, 20))
"""Seconds that a worker takes to start."""
CLIFF_S = (100.0, 120.0)
CLIFF_NEAR_S = 20.0
CLIFF_RISE = 2.0
"""What P99 TTFT is multiplied by, at least, over a cliff."""


def cliff_s(tails: Sequence[float]) -> float | None:
    """Return midway between which neighbours of the sweep P99 TTFT rises most, if it does enough.

    ``tails`` are P99 TTFTs by :data:`SWEPT_S`.
    """
    rises = [later / earlier for earlier, later in pairwise(tails)]
    most = max(rises)
    at = rises.index(most)
    return (SWEPT_S[at] + SWEPT_S[at + 1]) / 2 if most >= CLIFF_RISE else None


def _sweep(runs: Runs) -> Sequence[Finding]:
    def swept(read: Callable[[Results], float]) -> list[list[float]]:
        """Return a number by start-up, at each factor."""
        by_start = [over(runs, f"{seconds}", read) for seconds in SWEPT_S]
        return [list(each) for each in zip(*by_start, strict=True)]

    cliffs = [cliff_s(tails) for tails in swept(tail_s)]
    found = [each for each in cliffs if each is not None]
    apart = max((max(CLIFF_S[0] - each, each - CLIFF_S[1]) for each in found), default=float("inf"))
    events = swept(lambda each: len(changes(each, "mixed", -1.0, float("inf"))))
    gaps = swept(mean_gap_ms)
    tails = swept(lambda each: 1000 * quantile(gaps_s(each), 0.9))
    first, last = ([each[at] for each in events] for at in (0, -1))
    steady, late = [each[0] for each in gaps], [each[-1] for each in tails]
    rule = f"within {NEAR:.0%} of the band"
    return (
        Finding(
            "P99 TTFT has its cliff at a start-up of, s",
            "100 to 120",
            " / ".join("none" if each is None else f"{each:g}" for each in cliffs),
            len(found) == len(cliffs) and apart <= CLIFF_NEAR_S,
            f"where it rises most in 20 s, {CLIFF_RISE:g} times at least; within "
            f"{CLIFF_NEAR_S:g} s at every factor",
            "what is drawn comes at an even rate, half of what two workers compute, so that no "
            "backlog lasts; what the trace's rate does in its hour is not published",
        ),
        Finding(
            "scaling events fall from a start-up of 0 to one of 300 s",
            "42 to 8",
            " / ".join(f"{a:.0f} to {b:.0f}" for a, b in zip(first, last, strict=True)),
            all(b < a for a, b in zip(first, last, strict=True)),
            "fewer at 300 s than at 0, at every factor",
        ),
        Finding(
            "scaling events, start-up 0",
            "42",
            told(first, 0),
            outside(42, first) <= NEAR * 42,
            rule,
            "they follow the load's own swings, which the stand-in does not have",
        ),
        Finding(
            "scaling events, start-up 300 s",
            "8",
            told(last, 0),
            outside(8, last) <= NEAR * 8,
            rule,
            "they follow the load's own swings, which the stand-in does not have",
        ),
        Finding(
            "mean ITL of requests, start-up 0, ms",
            "25",
            told(steady),
            outside(25, steady) <= NEAR * 25,
            rule,
        ),
        Finding(
            "P90 of requests' ITL beyond the cliff, ms",
            "about 200",
            told(late, 0),
            outside(200, late) <= NEAR * 200,
            f"{rule}, ours at 300 s",
        ),
    )


def _arrivals(target: str) -> tuple[str, ...]:
    """Return what makes a workload's arrivals others."""
    return ("~workload.arrivals", f"+workload.arrivals={{_target_: {target}}}")


STAY = ("autoscaler=static", "pools.decode.workers=3")
SINE = ("mean TTFT", "mean ITL", "share of")
SWEEP = ("P99 TTFT", "scaling events")

STUDIES: tuple[Study, ...] = (
    Study(
        name="slo_ramp",
        title="An SLO-aware law on a ramp",
        source="llm-d at d38c9f0c, guides/workload-autoscaling/README.slo-aware.md",
        variants={
            "law": (),
            "static 8": ("autoscaler=static", "pools.mixed.workers=8", "~autoscaler.pools"),
        },
        judge=_ramp,
        caveat="the law reads predicted latencies, as the published runs did; theirs are learnt, "
        "ours are of the workers' step times. By measured ones, which the guide falls back to "
        "(autoscaler.pools.mixed.signal=observed), it acts later and fewer requests are in time",
    ),
    Study(
        name="sine",
        title="Demand counted on completion",
        source="ai-dynamo/dynamo issue 10528",
        variants={"completion": ()},
        judge=_sine,
        caveat="the GPU is not stated; an H200 is what 10.6 requests/s at 20.4 ms need of KV",
        assumptions=(
            Assumption("three decode workers that stay", STAY, SINE),
            Assumption(
                "the same, and steps take 0.75 of their time", (*STAY, "latency.scale=0.75"), SINE
            ),
            Assumption("the same, and 0.7", (*STAY, "latency.scale=0.7"), SINE),
            Assumption("H100s", ("hardware=h100_sxm",), SINE),
        ),
    ),
    Study(
        name="flat_load",
        title="Flat load between two capacities",
        source="ai-dynamo/dynamo pull request 9294",
        variants={"guard": (), "before": ("autoscaler.consolidated=false",)},
        judge=_flat,
        held=lambda factor: (f"workload.arrivals.rate={3.8 / factor:g}",),
        caveat="model, GPUs and lengths are ours, chosen for an ITL and KV near the two published, "
        "and so is the rate at each factor",
    ),
    Study(
        name="slow_path",
        title="P/D over a slow path",
        source="a public trial of P/D on ten H200s",
        variants={
            "apart, 100 clients": (),
            "together, 100 clients": ("experiment=policies/slow_path_colocated",),
            "apart, 1 client": ("workload.concurrency=1", "workload.requests=100"),
            "together, 1 client": (
                "experiment=policies/slow_path_colocated",
                *("workload.concurrency=1", "workload.requests=100"),
            ),
        },
        judge=_slow_path,
        caveat="lengths, split and link are not stated; ours are chat-like, 4 : 6 and 10 Gb/s",
    ),
    Study(
        name="burst",
        title="200 prompts at once",
        source="sgl-project/sglang issue 5450",
        variants={"run": ()},
        judge=_burst,
        caveat="the model is not stated",
    ),
    Study(
        name="startup_sweep",
        title="How late is too late to start",
        source="ai-dynamo/dynamo, docs/dynosim/planner-benchmarking.md at a9e61f2a, simulated",
        variants={f"{seconds}": (f"startup.seconds={seconds}",) for seconds in SWEPT_S},
        judge=_sweep,
        caveat="Mooncake's tool-agent trace is not shipped; requests are drawn by its public "
        "statistics, as many, as long and as alike, without its bursts and its drift "
        "(conf/workload/tool_agent.yaml). Router, budget and caches are as their tools have them "
        "where nothing else is said",
        assumptions=(
            Assumption(
                "arrivals are noted every 3 s, as uneven as the release's conversations (variance "
                "over mean 5.8)",
                _arrivals("workloads.arrivals.Batches, rate: 6.558, every_s: 3.0, dispersion: 5.8"),
                SWEEP,
            ),
            Assumption(
                "the rate swings by half every 30 minutes",
                _arrivals("workloads.varying.Daily, low: 3.28, high: 9.84, period_s: 1800.0"),
                SWEEP,
            ),
        ),
    ),
    *LLM_D,
)


# --- the page ----------------------------------------------------------------------------------

TRIED = """Why not, by experiment: each number that does not hold, where one assumption is another.
That it would hold so tells what it hangs on, not what is true."""

INTRODUCTION = """# Published autoscaling experiments, run again

Generated by `scripts/ground_truth --write`; do not edit. Each is a shipped experiment that follows
what was published, run with every step's seconds times {band}: what errors of the latency model
may do. Nothing is tuned to what it is judged by; where a description leaves something open, what we
took is said, or is what another public source of the same system says. A number that does not hold
stays, with what we make of it, and with what comes of it where one assumption is another.

That a share may lie {points:g} points, and a number of workers or seconds {near:.0%}, outside of
the band was settled beforehand. What counts as the published direction (of burst and slow path,
and the span in which the sine's prefill pool must not grow) was settled after a first look.
"""


class Judged(NamedTuple):
    """A study, what was found, and what came of its assumptions."""

    study: Study
    findings: Sequence[Finding]
    tried: Sequence[Tried] = ()


def page(found: Sequence[Judged]) -> str:
    """Return the documentation's page of all studies."""
    every = [each for judged in found for each in judged.findings]
    held = sum(each.holds for each in every)
    parts = [
        INTRODUCTION.format(
            band=", ".join(f"{factor:g}" for factor in BAND), points=POINTS, near=NEAR
        ),
        f"{held} of {len(every)} published numbers hold.",
    ]
    for judged in found:
        parts += _section(judged)
    return "\n".join(parts) + "\n"


def _section(judged: Judged) -> list[str]:
    study = judged.study
    factors = " / ".join(f"{factor:g}" for factor in study.band)
    lines = [
        f"\n## {study.title}\n",
        f"`experiment=policies/{study.name}`. Source: {study.source}."
        + (f" Ours: {study.caveat}." if study.caveat else ""),
        f"\n| | published | here, at {factors} | holds | rule |\n|---|---|---|---|---|",
    ]
    for each in judged.findings:
        verdict = "yes" if each.holds else "**no**"
        rule = each.rule if each.holds or not each.note else f"{each.rule}; {each.note}"
        lines.append(f"| {each.what} | {each.published} | {each.here} | {verdict} | {rule} |")
    if judged.tried:
        lines += [f"\n{TRIED}\n\n| | published | if … | then | would hold |\n|---|---|---|---|---|"]
    for tried in judged.tried:
        each = tried.finding
        verdict = "yes" if each.holds else "no"
        lines.append(f"| {each.what} | {each.published} | {tried.what} | {each.here} | {verdict} |")
    return lines

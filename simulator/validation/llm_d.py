"""llm-d's published benchmarks of autoscaling: steps of load, and workers that start cold or hot.

What the tables leave out is taken from what they were run with, llm-d-benchmark's scenarios and
templates at the commits that the experiments name.
"""

from collections.abc import Iterator, Sequence

from simulator.results import Results
from simulator.validation.judging import (
    Assumption,
    Finding,
    Runs,
    Study,
    answers,
    most_workers,
    near,
    over,
    quantile,
    tail_gap_ms,
    tail_s,
    told,
    workers,
)

TEN_MINUTES_S = 600.0

DECODE_HEAVY = ("workload.input_lengths.tokens=1000", "workload.output_lengths.tokens=4000")
ONE_PER_180_S = "autoscaler.pools.mixed.limits.up.rates=[[180,1,null]]"
HPA = (ONE_PER_180_S, "flow_control=utilization")
UNHELD = ("flow_control=none",)


def _tail_of_answers(results: Results) -> float:
    """Return the P99 TTFT of complete answers, seconds: GuideLLM counts no others."""
    done = answers(results)
    return quantile(done["first_token_s"] - done["arrival_s"], 0.99)


# --- two workers, many times their load ----------------------------------------------------------

OVERLOAD = {"4,000 in, 1,000 out": (544.7, 57.4), "1,000 in, 4,000 out": (356.6, 113.8)}
"""P99 TTFT in seconds and P99 ITL in ms."""


def _overload(runs: Runs) -> Sequence[Finding]:
    found = []
    for variant, (wait_s, gap_ms) in OVERLOAD.items():
        waits = over(runs, variant, _tail_of_answers)
        gaps = over(runs, variant, tail_gap_ms)
        found += [
            near(f"{variant}: P99 TTFT, s", wait_s, waits),
            near(f"{variant}: P99 ITL, ms", gap_ms, gaps),
        ]
    return found


# --- the same load, met by an autoscaler ---------------------------------------------------------

STEP = {
    "KEDA, 4,000 in, 1,000 out": (506.9, 58.7, 7.42, 10.0),
    "KEDA, 1,000 in, 4,000 out": (448.8, 108.3, 7.33, 10.0),
    "HPA, 4,000 in, 1,000 out": (555.5, 59.1, 2.30, 4.0),
    "HPA, 1,000 in, 4,000 out": (356.9, 113.3, 2.21, 4.0),
}
"""P99 TTFT in seconds, P99 ITL in ms, workers on average and at most."""


def _step(runs: Runs) -> Sequence[Finding]:
    found = []
    for variant, (wait_s, gap_ms, mean, most) in STEP.items():
        found += [
            near(f"{variant}: P99 TTFT, s", wait_s, over(runs, variant, _tail_of_answers)),
            near(f"{variant}: P99 ITL, ms", gap_ms, over(runs, variant, tail_gap_ms)),
            *_counts(variant, runs, TEN_MINUTES_S, (mean, most)),
        ]
    return found


def _counts(
    variant: str, runs: Runs, until_s: float, published: tuple[float, float]
) -> Iterator[Finding]:
    mean, most = published
    counts = over(runs, variant, lambda each: workers(each, until_s))
    highest = over(runs, variant, lambda each: most_workers(each, until_s))
    yield near(f"{variant}: workers on average", mean, counts, 2)
    yield near(f"{variant}: workers ready at once, at most", most, highest, 0)


WVA = {
    "4,000 in, 1,000 out, 600 s": (1.73, 3.0),
    "4,000 in, 1,000 out, 1800 s": (2.55, 4.0),
    "1,000 in, 4,000 out, 600 s": (1.84, 3.0),
    "1,000 in, 4,000 out, 1800 s": (2.40, 4.0),
}
"""Workers on average and at most."""
HALF_AN_HOUR = ("workload.requests=36000", "until_s=1800")


def _wva(runs: Runs) -> Sequence[Finding]:
    found: list[Finding] = []
    for variant, published in WVA.items():
        until_s = 1800.0 if variant.endswith("1800 s") else TEN_MINUTES_S
        found += _counts(variant, runs, until_s, published)
    return found


# --- cold, warm and hot starts -------------------------------------------------------------------

COLD = {"S": (183.0, 108.0, 4.7), "Q": (174.7, 118.3, 6.7)}
"""Seconds to start, cold, warm and hot, as measured under each trigger."""
COLD_TAILS = {"S": (101.9, 101.4, 22.8), "Q": (119.6, 147.0, 19.5)}
COLD_GAPS = {"S": (433.5, 447.6, 435.0), "Q": (455.7, 468.1, 423.3)}
COLD_WORKERS = {"S": (2.00, 3.09, 2.46), "Q": (2.13, 2.78, 3.69)}
COLD_MOST = {"S": (6.0, 6.0, 3.3), "Q": (6.0, 6.0, 5.3)}
COLD_SPANS = {"S": (434.7, 463.7, 437.3), "Q": (461.7, 437.0, 433.3)}
"""Seconds that each run took, over which its workers are averaged."""
COLD_RATIO = 4.0
COLD_LOST = "of two of the three published runs the requests that waited longest are missing"
_QUEUE = (
    "autoscaler.pools.mixed.triggers="
    "[{_target_: simulator.policies.kubernetes.RouterQueue, target: 1},"
    "{_target_: simulator.policies.kubernetes.Total, metric: running, target: 16}]",
)


def _cold_variants() -> dict[str, tuple[str, ...]]:
    own = {"S": (), "Q": _QUEUE}
    return {
        f"{trigger} {seconds:g}": (f"startup.seconds={seconds:g}", *own[trigger])
        for trigger, starts in COLD.items()
        for seconds in starts
    }


def _cold(runs: Runs) -> Sequence[Finding]:
    found = []
    for trigger, name in (("S", "saturation trigger"), ("Q", "queue trigger")):
        cold, hot = (over(runs, f"{trigger} {COLD[trigger][at]:g}", tail_s) for at in (0, 2))
        ratios = [one / two for one, two in zip(cold, hot, strict=True)]
        published = COLD_TAILS[trigger][0] / COLD_TAILS[trigger][2]
        found.append(
            Finding(
                f"{name}: P99 TTFT, cold over hot",
                f"{published:.1f}",
                told(ratios),
                max(ratios) >= COLD_RATIO,
                f"at least {COLD_RATIO:g} somewhere in the band",
            )
        )
        for at, seconds in enumerate(COLD[trigger]):
            found += _cold_rows(f"{name}, {seconds:g} s", (trigger, at), runs)
    return found


def _cold_rows(what: str, cell: tuple[str, int], runs: Runs) -> Iterator[Finding]:
    trigger, at = cell
    variant, span_s = f"{trigger} {COLD[trigger][at]:g}", COLD_SPANS[trigger][at]
    gaps = over(runs, variant, lambda each: 1000 * float(each.summary["itl_s"]["p99"]))
    tails = over(runs, variant, tail_s)
    yield near(f"{what}: P99 TTFT, s", COLD_TAILS[trigger][at], tails, note=COLD_LOST)
    yield near(f"{what}: P99 of gaps, ms", COLD_GAPS[trigger][at], gaps, 0)
    yield from _counts_of(what, variant, runs, (span_s, trigger, at))


def _counts_of(
    what: str, variant: str, runs: Runs, cell: tuple[float, str, int]
) -> Iterator[Finding]:
    span_s, trigger, at = cell
    counts = over(runs, variant, lambda each: workers(each, span_s))
    highest = over(runs, variant, lambda each: most_workers(each, span_s))
    mean, most = COLD_WORKERS[trigger][at], COLD_MOST[trigger][at]
    yield near(f"{what}: workers on average", mean, counts, 2)
    yield near(f"{what}: workers ready at once, at most", most, highest, 0)


def _cached(prefixes: int) -> tuple[str, ...]:
    """Return what makes prompts of cold starts begin alike, and caches keep that."""
    return (
        "workload=shared_stages",
        f"workload.branches=[{prefixes}]",
        "workload.share=0.9398",
        "workload.arrivals.stages=[[1,120],[4,300]]",
        "workload.arrivals.cv=1.0",
        "workload.input_lengths.tokens=4256",
        "workload.output_lengths.tokens=256",
        "pools.mixed.batching.prefix_cache=true",
    )


LATE = ("control.observing.age_s=30",)
BOTH = ("4,000 in", "1,000 in")
TRIGGERS = ("saturation trigger", "queue trigger")

STUDIES: tuple[Study, ...] = (
    Study(
        name="overload",
        title="Two workers, many times their load",
        source="llm-d-autoscaling, docs/benchmark.md (pull request 1171, and its decode-heavy "
        "scenario), P99 of answers that are complete after ten minutes",
        variants={"4,000 in, 1,000 out": (), "1,000 in, 4,000 out": DECODE_HEAVY},
        judge=_overload,
        caveat="the engine's settings are those of the scenario it was run with",
        assumptions=(
            Assumption("no flow control: prompts go to workers at once", UNHELD, BOTH),
            Assumption(
                "GPU memory of which 90 % is used, vLLM's default, in place of 95",
                ("pools.mixed.batching.memory_utilization=0.9",),
                BOTH,
            ),
        ),
    ),
    Study(
        name="step_autoscaled",
        title="The same load, met by an autoscaler",
        source="llm-d-autoscaling, docs/benchmark.md (EPP+KEDA Saturation, HPA Sat V1)",
        variants={
            "KEDA, 4,000 in, 1,000 out": (),
            "KEDA, 1,000 in, 4,000 out": (*DECODE_HEAVY, "startup.seconds=100"),
            "HPA, 4,000 in, 1,000 out": (*HPA, "startup.seconds=130"),
            "HPA, 1,000 in, 4,000 out": (*DECODE_HEAVY, *HPA, "startup.seconds=128"),
        },
        judge=_step,
        caveat="of KEDA's three decode-heavy runs the first, which began with ten workers, is left "
        "out. How late Prometheus's metrics are is not told",
        assumptions=(
            Assumption("metrics are 30 s old when they are used", LATE, ("KEDA", "HPA")),
            Assumption(
                "one worker more per 180 s under KEDA too, as configured",
                (ONE_PER_180_S,),
                ("KEDA",),
            ),
        ),
    ),
    Study(
        name="step_wva",
        title="The same load, met by llm-d's variant autoscaler",
        source='llm-d-autoscaling, docs/benchmark.md ("Prefill Heavy", "Decode Heavy")',
        variants={
            "4,000 in, 1,000 out, 600 s": (),
            "4,000 in, 1,000 out, 1800 s": HALF_AN_HOUR,
            "1,000 in, 4,000 out, 600 s": DECODE_HEAVY,
            "1,000 in, 4,000 out, 1800 s": (*DECODE_HEAVY, *HALF_AN_HOUR),
        },
        judge=_wva,
        caveat="waits are not judged: a third of the published requests failed, after how long is "
        "not told; here clients wait",
        assumptions=(
            Assumption(
                "its HPA waits 120 s before it adds workers, as in llm-d-benchmark's scenario",
                ("autoscaler.pools.mixed.limits.up.window_s=120",),
                BOTH,
            ),
            Assumption(
                "clients leave after 100 s without a first token",
                ("clients.first_token_timeout_s=100",),
                BOTH,
            ),
        ),
    ),
    Study(
        name="cold_starts",
        title="A step of load, and cold, warm and hot starts",
        source="llm-d pull request 2317, means of three runs",
        variants=_cold_variants(),
        judge=_cold,
        caveat="the rates of workers are Kubernetes' own, since the template of the time loses "
        "those configured, and six ready workers after 435 s cannot come of one per 180 s. Two of "
        "three cold and warm runs lost requests, after how long is not told; clients here wait. "
        "The table's 17.9 requests at hot workers, of 1,320 in 437 s, make 5.9 s each, 256 tokens "
        "at 23 ms: prompts cost next to nothing there, and 3 workers cannot compute 4 whole ones "
        "a second, as if caches were on after all. "
        "The rows of gaps and of workers at most were added after a first look",
        assumptions=(
            Assumption("one worker more per 180 s, as configured", (ONE_PER_180_S,), TRIGGERS[:1]),
            Assumption(
                "one worker more per 30 s, which pull request 2459 says was deployed",
                ("autoscaler.pools.mixed.limits.up.rates=[[30,1,null]]",),
                TRIGGERS[1:],
            ),
            Assumption("caches are on, and prompts have 32 beginnings", _cached(32), TRIGGERS),
            Assumption("caches are on, and prompts have 8 beginnings", _cached(8), TRIGGERS),
            Assumption("metrics are 30 s old when they are used", LATE, TRIGGERS),
        ),
    ),
)

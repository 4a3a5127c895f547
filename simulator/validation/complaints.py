"""Operators' complaints as small scenarios: a metric that shows each, a setting that cures it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.results import Results
from simulator.validation.judging import first_tokens, reversals


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """The shipped scenario ``name``, which shows ``what`` went wrong, and its ``better`` setting.

    ``measure`` reads the ``metric`` of a run: at least ``shows`` as complained about, at most
    ``cured`` of that with the better setting.
    """

    name: str
    what: str
    source: str
    metric: str
    measure: Callable[[Results], float]
    better: tuple[str, ...]
    shows: float
    cured: float = 0.5

    def overrides(self, *, better: bool) -> list[str]:
        """Return what to compose."""
        instead = [each for each in self.better if each.startswith("experiment=")]
        chosen = [f"experiment=policies/complaints/{self.name}"]
        if better and instead:
            chosen = instead
        rest = [each for each in self.better if each not in instead] if better else []
        return [*chosen, "counterpart=false", *rest]


class Told(NamedTuple):
    """What a complaint's metric was, and was with the better setting."""

    complaint: Complaint
    bad: float
    good: float

    @property
    def holds(self) -> bool:
        """Whether it shows, and the better setting cures it."""
        return self.bad >= self.complaint.shows and self.good <= self.complaint.cured * self.bad


# --- what is read of a run ---------------------------------------------------------------------


def imbalance(results: Results) -> float:
    """Return by what share the busiest worker got more prompts than its equal share."""
    workers = results.requests["prefill_worker"].drop_nulls().to_numpy()
    counts = np.bincount(workers, minlength=len(results.workers))
    return float(counts.max() / counts.mean() - 1)


def mean_wait_s(results: Results) -> float:
    """Return the mean TTFT."""
    mean = first_tokens(results, float("inf")).mean()
    return float(mean) if isinstance(mean, float) else float("nan")


def longest_pending_s(results: Results) -> float:
    """Return the longest that a worker waited for its GPUs, given or not."""
    lives = results.lives.with_columns(pl.col("granted_s").fill_nan(None))
    waits = lives["granted_s"].fill_null(lives["ended_s"]) - lives["asked_s"]
    return float(waits.max() or 0.0)  # type: ignore[arg-type]


def held(results: Results, after_s: float) -> float:
    """Return the share of ticks after a moment at which everything waited for a change."""
    rows = results.decisions.filter(pl.col("at_s") > after_s)
    return float((rows["reason"] == "scaling in progress").sum()) / max(1, rows.height)


def retries(results: Results) -> float:
    """Return how often a request was lost and begun anew."""
    return float(results.requests["retries"].sum())


def last_desired(results: Results, pool: str) -> float:
    """Return the workers a pool shall have at the end."""
    return float(results.decisions.filter(pl.col("pool") == pool)["granted"][-1])


def recovered_s(results: Results, step_s: float, target_s: float) -> float:
    """Return how long after a step requests still came that waited too long."""
    rows = results.requests.filter(pl.col("first_token_s") - pl.col("arrival_s") > target_s)
    latest = rows["arrival_s"].max()
    return float(latest) - step_s if isinstance(latest, float) else 0.0


def spare_minutes(results: Results, after_s: float) -> float:
    """Return the GPU-minutes of workers beyond one after a moment."""
    ends = results.lives["ended_s"].clip(lower_bound=after_s)
    starts = results.lives["granted_s"].clip(lower_bound=after_s)
    spans = ends - starts
    return float(spans.sum() - (spans.max() or 0.0)) / 60  # type: ignore[operator]


def ratio_spread(results: Results) -> float:
    """Return the largest over the smallest ratio of prefill to decode workers that was desired."""
    ticks = results.decisions.pivot(on="pool", index="at_s", values="granted").sort("at_s")
    counts = ticks.fill_null(strategy="forward").drop_nulls()
    ratios: list[float] = (counts["prefill"] / counts["decode"]).to_list()
    return max(ratios) / min(ratios)


def unanswered(results: Results) -> float:
    """Return how many requests had no first token by the end."""
    return float(results.requests["first_token_s"].null_count())


def starved(results: Results) -> float:
    """Return the share of the worst served service's requests that missed its targets."""
    return 1.0 - float(results.summary["worst_service"])


def waiting_while_idle_s(results: Results) -> float:
    """Return the seconds in which prompts wait to begin while some worker has no request.

    A prompt keeps its worker from its begin to its end, where the worker decodes too to the last
    token's.
    """
    rows = results.requests.drop_nulls("prefill_start_s")
    mixed = [info.worker for info in results.workers if info.pool == "mixed"]
    ended = (
        pl.when(pl.col("prefill_worker").is_in(mixed)).then("finish_s").otherwise("prefill_end_s")
    )
    rows = rows.with_columns(ended.fill_null(float("inf")).alias("ended_s"))
    entered, began, over = (
        rows[name].to_numpy() for name in ("prefill_queue_enter_s", "prefill_start_s", "ended_s")
    )
    moments = np.unique(np.concatenate([entered, began, over[np.isfinite(over)]]))
    at = moments[:-1]  # each stands for the time until the next

    def under_way(first: NDArray[np.float64], last: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return how many have passed the first, and not the last."""
        counts = [np.searchsorted(np.sort(each), at, side="right") for each in (first, last)]
        return np.asarray(counts[0] - counts[1])

    idle = np.zeros(len(at), dtype=bool)
    for info in results.workers:
        if info.pool != "decode":
            own = (rows["prefill_worker"] == info.worker).to_numpy()
            idle |= under_way(began[own], over[own]) == 0
    return float(np.diff(moments)[idle & (under_way(entered, began) > 0)].sum())


def transfer_wait_s(results: Results) -> float:
    """Return the longest from a computed prompt to its hand-over."""
    waits = results.requests["transfer_end_s"] - results.requests["prefill_end_s"]
    return float(waits.max() or 0.0)  # type: ignore[arg-type]


COMPLAINTS: tuple[Complaint, ...] = (
    Complaint(
        name="demand_on_completion",
        what="demand counted as requests end hides the queue, and prefill does not scale",
        source="ai-dynamo/dynamo issue 10528",
        metric="mean TTFT, s",
        measure=mean_wait_s,
        better=("control.observing.demand=arrival",),
        shows=30.0,
        cured=0.1,
    ),
    Complaint(
        name="slow_first_steps",
        what="a new worker's first steps are slow, and more workers are asked for",
        source="ai-dynamo/dynamo issue 12430",
        metric="workers asked for in seven minutes",
        measure=lambda results: float(results.lives.height),
        better=("startup.slow_steps=0",),
        shows=16.0,
    ),
    Complaint(
        name="flat_load",
        what="flat load between two capacities: 2 to 1 to 2",
        source="ai-dynamo/dynamo pull request 9294",
        metric="reversals of decode after five minutes",
        measure=lambda results: float(reversals(results, "decode", 300.0, 900.0)),
        better=("autoscaler.consolidated=true",),
        shows=3.0,
        cured=0.0,
    ),
    Complaint(
        name="quota_full",
        what="no GPU is left for the worker that is asked for, and it waits for ever",
        source="ai-dynamo/dynamo issue 12428",
        metric="longest time a worker was pending, s",
        measure=longest_pending_s,
        better=("autoscaler.budget.max_gpu_budget=4",),
        shows=200.0,
        cured=0.1,
    ),
    Complaint(
        name="pending_freezes",
        what="a worker that never gets its GPU freezes every later decision",
        source="ai-dynamo/dynamo issue 14251",
        metric="share of ticks held after load has gone",
        measure=lambda results: held(results, 400.0),
        better=("autoscaler.budget.max_gpu_budget=4",),
        shows=0.8,
        cured=0.1,
    ),
    Complaint(
        name="aborting_drain",
        what="a drain that aborts after five seconds cuts minute-long answers",
        source="ai-dynamo/dynamo issue 13559",
        metric="requests lost",
        measure=retries,
        better=("drain=finish",),
        shows=50.0,
        cured=0.0,
    ),
    Complaint(
        name="pinned_at_zero",
        what="a target nobody can keep holds workers when load has gone",
        source="ai-dynamo/dynamo pull request 11624",
        metric="prefill workers at the end",
        measure=lambda results: last_desired(results, "prefill"),
        better=("autoscaler.latency_floor=false",),
        shows=2.0,
    ),
    Complaint(
        name="missing_metric",
        what="the prefill queue is not exported, and nothing is decided for prefill",
        source="ai-dynamo/dynamo 1.4 release notes",
        metric="mean TTFT, s",
        measure=mean_wait_s,
        better=("control.observing.missing=[]",),
        shows=10.0,
        cured=0.1,
    ),
    Complaint(
        name="affinity_imbalance",
        what="a router that stays with who has a prompt's beginning leaves the other worker idle",
        source="llm-d-autoscaling issue 1171, which tells of 85 : 15, a share of 0.7 more",
        metric="prompts of the busiest worker above its equal share",
        measure=imbalance,
        better=("router=kv_aware",),
        shows=0.7,
        cured=0.1,
    ),
    Complaint(
        name="stale_loads",
        what="a burst goes to whoever was the least loaded when the router last read metrics",
        source="aibrix issue 646",
        metric="prompts of the busiest worker above its equal share",
        measure=imbalance,
        better=("router_refresh_s=0",),
        shows=0.5,
        cured=0.2,
    ),
    Complaint(
        name="stale_is_saturated",
        what="metrics read every 15 s are stale after 0.2 s, which counts as saturated: prompts "
        "wait at the router",
        source="llm-d-router issue 2514, which tells of 11 to 13 s",
        metric="seconds in five minutes in which prompts wait while a worker is idle",
        measure=waiting_while_idle_s,
        better=("flow_control.stale_s=20",),
        shows=150.0,
        cured=0.01,
    ),
    Complaint(
        name="one_pod_per_180s",
        what="one pod per 180 s and two minutes to start never catch a step",
        source="llm-d-autoscaling issues 1213, 1230 and 1118",
        metric="time to recover from the step, s",
        measure=lambda results: recovered_s(results, 120.0, 2.0),
        better=("autoscaler.pools.mixed.limits.up.rates=[[15,4,null],[15,null,100]]",),
        shows=300.0,
    ),
    Complaint(
        name="slow_scale_down",
        what="load stops, and workers stay for minutes",
        source="llm-d-autoscaling issue 681, aibrix issue 1159",
        metric="GPU-minutes beyond one worker after load stopped",
        measure=lambda results: spare_minutes(results, 300.0),
        better=(
            "autoscaler.pools.mixed.limits.down.window_s=60",
            "autoscaler.pools.mixed.limits.down.rates=[[15,null,100]]",
        ),
        shows=8.0,
    ),
    Complaint(
        name="separate_scalers",
        what="prefill and decode under scalers of their own: the ratio drifts, and KV is lost",
        source="llm-d-router RFC 546, kthena issues 905 and 1589",
        metric="largest over smallest prefill : decode",
        measure=ratio_spread,
        better=("experiment=policies/complaints/joint_scaler",),
        shows=3.0,
    ),
    Complaint(
        name="starved_model",
        what="two models, one quota: GPUs stay with who asked first, and the other starves",
        source="what llm-d's pull requests 1793 and 2458 are for",
        metric="share of the worse model's requests that missed its targets",
        measure=starved,
        better=("quota=guaranteed",),
        shows=0.4,
    ),
    Complaint(
        name="orphaned_queue",
        what="clients have gone, their prompts are still counted as waiting, and no worker is "
        "taken away",
        source="llm-d-autoscaling issue 769",
        metric="GPU-minutes beyond one worker after load stopped",
        measure=lambda results: spare_minutes(results, 300.0),
        better=("control.observing.orphans=[]",),
        shows=50.0,
    ),
    Complaint(
        name="idle_while_running",
        what="idle by a count of who waits: a service that keeps up is sent to no worker at all",
        source="vLLM production-stack's example values, by KEDA's rules",
        metric="requests without a first token",
        measure=unanswered,
        better=("autoscaler=keda_epp",),
        shows=50.0,
    ),
    Complaint(
        name="decode_memory",
        what="a burst of 200 prompts, of which decode holds half: memory holds prefill back",
        source="sgl-project/sglang issue 5450",
        metric="longest hand-over, s",
        measure=transfer_wait_s,
        better=("pools.decode.workers=2",),
        shows=25.0,
    ),
)

HEAD = """
## Operators' complaints

Each is a small scenario, `experiment=policies/complaints/…`, whose metric shows what operators
complained about, and a setting that cures it.

| scenario | what goes wrong | metric | so | better | then |
|---|---|---|---|---|---|"""


def table(found: Sequence[Told]) -> str:
    """Return the section of the documentation's page on complaints."""
    lines = [HEAD]
    for told in found:
        each = told.complaint
        better = " ".join(f"`{setting}`" for setting in each.better)
        verdict = "" if told.holds else " **not shown**"
        lines.append(
            f"| `{each.name}` | {each.what} ({each.source}) | {each.metric} | {told.bad:.3g}"
            f"{verdict} | {better} | {told.good:.3g} |"
        )
    return "\n".join(lines) + "\n"

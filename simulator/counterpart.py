"""A deployment's counterpart: the same GPUs used the other way, under the very same requests.

Two pools become workers that do both; workers that do both become two pools:

- *Co-located*: every GPU in workers laid out and stored as the decode pool's, or as the prefill
  pool's where those do not use up the GPUs or do not fit. Per GPU they have the seats of the decode
  pool and the step's tokens of the prefill pool, or a half, a quarter, an eighth of these; how
  prompts are computed is the prefill pool's, how KV is admitted the decode pool's.
- *Disaggregated*: the same workers, dealt out to a prefill and a decode pool. The first guess makes
  the slower pool as fast as can be at the requests' mean lengths, decoding as wide as the KV, the
  seats and the TPOT target let it.

What each kind leaves open (the tokens of a step; how the workers are dealt out) is settled alike: a
pilot on another draw of the traffic moves on from the first guess as long as more requests hold the
targets. A recorded trace has no other draw: there its first requests are the pilot.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from simulator.cluster.pools.wiring import worker_spec
from simulator.deployment import Batching, Deployment, Pool
from simulator.errors import USER_ERRORS, ConfigError
from simulator.experiment import Experiment, OnProgress, pools_text, simulate
from simulator.intervals import batch_interval
from simulator.latency.base import StepModel, WorkerSpec
from simulator.latency.checked import bind
from simulator.policies.autoscaling import Static
from simulator.policies.local_prefill import NeverLocal
from simulator.results import SLO, Results
from workloads.replay import Replay
from workloads.trace import SYNTHETIC, Trace

MOST_REQUESTS = 20_000
"""Of a run that is compared unless asked not to; more would take noticeably longer."""

PILOT = 1_000
"""Requests of a pilot, at most."""
LEAST_CHUNK = 256
"""Tokens of a step and attention rank; with fewer, engines read the weights once too often."""

TOLD = (
    "ttft_s",
    "tpot_s",
    "slo_attainment",
    "goodput_rps",
    "output_tokens_per_s_per_gpu",
    "requests",
)
"""What is told of the counterpart's summary."""


class NoCounterpartError(Exception):
    """There is none; the text says why."""


REASONS: tuple[type[Exception], ...] = (NoCounterpartError, *USER_ERRORS)
"""For which a deployment is not compared with another: they do not make its own run fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of requests: prompts, their squares, and answers.

    ``context`` is the mean of the KV tokens that a token is decoded over, over all tokens.
    """

    isl: float
    squares: float
    osl: float
    context: float

    @classmethod
    def of(cls, trace: Trace) -> "Lengths":
        """Return those of a trace."""
        isl, osl = trace.column("input_tokens"), trace.column("output_tokens")
        isl, osl = (np.maximum(each.astype(np.float64), 1.0) for each in (isl, osl))
        return cls(
            isl=float(isl.mean()),
            squares=float((isl**2).mean()),
            osl=float(osl.mean()),
            context=float(((isl + osl / 2) * osl).sum() / osl.sum()),
        )


def compared(
    experiment: Experiment, results: Results, trace: Trace, progress: OnProgress | None = None
) -> Results:
    """Return the results of ``experiment`` with its counterpart's under ``trace`` in the summary.

    ``summary["counterpart"]`` has the other deployment's own numbers (:data:`TOLD`), its pools in
    words, and by how much more of the same requests it holds the targets; or why there is none.
    """
    kind = _kind(experiment.deployment)
    try:
        deployment = counterpart(experiment, trace)
        other = replace(experiment, deployment=deployment)
        run = simulate(other, config="", trace=trace, progress=progress)
    except REASONS as error:
        told: dict[str, Any] = {"kind": kind, "reason": str(error)}
    else:
        told = {"kind": kind, "reason": None, **_told(results, run, deployment)}
        told["here"] = pools_text(experiment.deployment)
        told["here_step_tokens"] = _step_tokens(experiment.deployment)
    return replace(results, summary={**results.summary, "counterpart": told})


def not_compared(results: Results, reason: str) -> Results:
    """Return the results with the reason for which no counterpart was simulated."""
    return replace(results, summary={**results.summary, "counterpart": {"reason": reason}})


def counterpart(experiment: Experiment, trace: Trace) -> Deployment:
    """Return the deployment that uses the same GPUs the other way, for traffic like ``trace``.

    Raises:
        NoCounterpartError: there is no sensible one.
        ConfigError: the latency model cannot model its workers.
    """
    ladder = candidates(experiment.deployment, Lengths.of(trace), experiment.slo)
    if len(ladder.rungs) == 1 or not experiment.slo.targets():
        return ladder.rungs[ladder.first]
    pilot = _pilot(experiment, trace)
    held: dict[int, float] = {}

    def holds(rung: int) -> float:
        if not 0 <= rung < len(ladder.rungs):
            return -1.0
        if rung not in held:
            trial = replace(experiment, deployment=ladder.rungs[rung])
            held[rung] = simulate(trial, config="", trace=pilot).summary["slo_attainment"] or 0.0
        return held[rung]

    at = ladder.first
    for way in (1, -1):
        while holds(at + way) > holds(at):
            at += way
    return ladder.rungs[at]


def _pilot(experiment: Experiment, trace: Trace) -> Trace:
    """Return the first requests of another draw, or of the trace where there is but one."""
    if trace.meta.format == SYNTHETIC:
        trace = replace(experiment, seed=experiment.seed + 1).trace()
    return Replay(max_requests=PILOT).apply(trace, np.random.default_rng(experiment.seed))


class Ladder(NamedTuple):
    """Deployments in the order of what they differ in, and the one to try first."""

    rungs: tuple[Deployment, ...]
    first: int = 0


def candidates(deployment: Deployment, lengths: Lengths, slo: SLO) -> Ladder:
    """Return the deployments that use the same GPUs the other way.

    Raises:
        NoCounterpartError: there is no sensible one.
        ConfigError: the latency model cannot model its workers.
    """
    pools = {pool.role: pool for pool in deployment.pools}
    if deployment.elastic.changes or not isinstance(deployment.control.policy, Static):
        raise NoCounterpartError("its pools change while it runs, and another's would otherwise")
    if len(pools) == 3:
        raise NoCounterpartError("it has workers of both kinds already")
    if "mixed" in pools:
        splits, first = _splits(deployment, pools["mixed"], lengths, slo)
        return Ladder(tuple(replace(deployment, pools=split) for split in splits), first)
    deployment = replace(deployment, local_prefill=NeverLocal())  # there is nobody to do so
    mixed = _colocated(deployment, pools["prefill"], pools["decode"])
    return Ladder(tuple(replace(deployment, pools=(pool,)) for pool in _steps_of(mixed)))


def _kind(deployment: Deployment) -> str:
    roles = {pool.role for pool in deployment.pools}
    return "disaggregated" if roles == {"mixed"} else "co-located"


def _told(here: Results, other: Results, deployment: Deployment) -> dict[str, Any]:
    """Return what is told of the counterpart, and how it compares request by request."""
    frames = [
        run.scan.select("request_id", run.slo.good().cast(pl.Float64).alias("good")).collect()
        for run in (here, other)
    ]
    more = low = high = None
    if frames[0]["request_id"].equals(frames[1]["request_id"]) and frames[0].height:
        found = batch_interval((frames[1]["good"] - frames[0]["good"]).to_numpy())
        more = found.mean
        low, high = (None, None) if math.isnan(found.half) else (found.low, found.high)
    return {
        "pools": pools_text(deployment),
        "step_tokens": _step_tokens(deployment),
        "gpus": sum(pool.workers * pool.layout.gpus for pool in deployment.pools),
        **{name: other.summary[name] for name in TOLD},
        "more_attained": more,
        "more_attained_95": None if low is None else [low, high],
    }


def _step_tokens(deployment: Deployment) -> int:
    """Return the most tokens of a step that computes prompts: those of the first pool's workers."""
    return deployment.pools[0].batching.max_num_batched_tokens


# --- workers that do both -------------------------------------------------------------------


def _colocated(deployment: Deployment, prefill: Pool, decode: Pool) -> Pool:
    """Return the workers that do both, on all GPUs of the two pools."""
    if (prefill.gpu or deployment.gpu) != (decode.gpu or deployment.gpu):
        raise NoCounterpartError(
            "its pools are on different GPUs, on which no one kind of worker could do both"
        )
    gpus = sum(pool.workers * pool.layout.gpus for pool in (prefill, decode))
    reason = f"no whole number of workers laid out as either pool's uses its {gpus} GPUs"
    for pool in _colocations(prefill, decode, gpus):
        try:
            worker_spec(deployment, pool)
        except ConfigError as error:
            reason = f"workers that do both do not fit: {error}"
        else:
            return pool
    raise NoCounterpartError(reason)


def _colocations(prefill: Pool, decode: Pool, gpus: int) -> Iterator[Pool]:
    """Yield pools of workers that do both and use up ``gpus``, the most sensible first."""
    for like in (decode, prefill):
        each = like.layout.gpus
        if gpus % each == 0:
            batching = _both(prefill, decode, each)
            yield replace(like, role="mixed", workers=gpus // each, batching=batching)


def _both(prefill: Pool, decode: Pool, gpus: int) -> Batching:
    """Return the batching of workers of ``gpus`` GPUs that do both."""
    seats = math.ceil(decode.batching.max_num_seqs * gpus / decode.layout.gpus)
    tokens = math.ceil(prefill.batching.max_num_batched_tokens * gpus / prefill.layout.gpus)
    return replace(
        decode.batching,
        max_num_seqs=seats,
        max_num_batched_tokens=max(tokens, seats),
        chunked_prefill=prefill.batching.chunked_prefill,
        piggyback=prefill.batching.piggyback,
    )


def _steps_of(mixed: Pool) -> Iterator[Pool]:
    """Yield the pool, and where prompts are computed in chunks, with ever smaller ones."""
    yield mixed
    batching = mixed.batching
    for share in (2, 4, 8) if batching.chunked_prefill else ():
        tokens = batching.max_num_batched_tokens // share
        if tokens >= max(batching.max_num_seqs, LEAST_CHUNK * mixed.layout.attention_dp):
            yield replace(mixed, batching=replace(batching, max_num_batched_tokens=tokens))


# --- two pools ------------------------------------------------------------------------------


def _splits(
    deployment: Deployment, mixed: Pool, lengths: Lengths, slo: SLO
) -> tuple[list[tuple[Pool, Pool]], int]:
    """Return every pair of pools of the same workers, and which is most even in pace."""
    if mixed.workers < 2:
        raise NoCounterpartError("one worker cannot be dealt out to two pools")
    prefill, decode = (replace(mixed, role=role, workers=1) for role in ("prefill", "decode"))
    specs = [worker_spec(deployment, pool) for pool in (prefill, decode)]
    steps = [bind(deployment.latency, spec) for spec in specs]
    prompts = _prefill_rate(steps[0], prefill, lengths)
    answers = _decode_rate(steps[1], (specs[1], decode.batching), lengths, slo.tpot_s)
    counts = range(1, mixed.workers)

    def paces(prefills: int) -> list[float]:  # the slower pool's first
        return sorted((prefills * prompts, (mixed.workers - prefills) * answers))

    pairs = [
        (replace(prefill, workers=each), replace(decode, workers=mixed.workers - each))
        for each in counts
    ]
    return pairs, counts.index(max(counts, key=paces))


def _prefill_rate(steps: StepModel, pool: Pool, lengths: Lengths) -> float:
    """Return the requests/s whose prompts a worker computes, its steps full."""
    most = pool.batching.max_num_batched_tokens / lengths.isl
    prompts = max(1, int(min(most, pool.batching.max_num_seqs)))
    pairs = round(prompts * (lengths.squares + lengths.isl) / 2)
    seconds = steps.step_seconds(round(prompts * lengths.isl), pairs, 0, prompts, 0, 0)
    return prompts * steps.stages / seconds if seconds else math.inf


def _decode_rate(
    steps: StepModel,
    worker: tuple[WorkerSpec, Batching],
    lengths: Lengths,
    tpot_s: float | None,
) -> float:
    """Return the requests/s a worker decodes with the widest batch that holds the TPOT target.

    Where none does, with the widest there is room for.
    """
    spec, batching = worker
    room = int(spec.memory.kv_blocks * spec.memory.block_size / lengths.context)
    widest = max(1, min(batching.max_num_seqs, room))

    def seconds(batch: int) -> float:
        return steps.step_seconds(0, 0, 0, 0, batch, round(batch * lengths.context))

    batch = widest
    if tpot_s is not None and seconds(1) <= tpot_s < seconds(widest):
        low, high = 1, widest
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if seconds(middle) <= tpot_s else (low, middle)
        batch = low
    spent = seconds(batch) * lengths.osl
    return batch / spent if spent else math.inf

"""The linear program: how many workers there must be when, if every arrival is known beforehand.

Arrivals are gathered into slots. In each slot a pool has some workers ready (a mean, any real
number); what the served requests ask of them, at prices that no step undercuts
(:mod:`simulator.bound.planes`), must fit into their seconds, within each request's window of time.
Workers that are added hold their GPUs for a start-up before they serve. Every relaxation only makes
the least cheaper: fractions of workers, perfect batches, no queues, no transfers, work that may
move freely within its window.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.bound.planes import Amounts, Prices, Work, prices
from simulator.cluster.pools.wiring import worker_spec
from simulator.deployment import Deployment, Pool
from simulator.errors import ConfigError
from simulator.experiment import Experiment
from simulator.latency.checked import bind
from simulator.results import Results
from workloads.trace import Trace

Floats = NDArray[np.float64]
SLOTS = 96
KINDS = 4
"""Kinds of requests that arrive in one slot, by what they ask for."""
INFEASIBLE = 2
MOST_WINDOW = 60
"""Slots that a request's work may be spread over, at most: later ones count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The least ``gpu_hours`` at an ``attainment`` of all arrivals, or the most of it for them.

    ``workers`` are those ready per slot of ``slot_s`` seconds, by pool.
    """

    gpu_hours: float
    attainment: float
    slot_s: float
    workers: dict[str, tuple[float, ...]]


def least_gpu_hours(experiment: Experiment, trace: Trace, attainment: float) -> Bound:
    """Return the fewest GPU-hours with which that share of ``trace`` can be within the SLO.

    Whoever knows every arrival may choose whom to serve in time: the cheapest.

    Raises:
        ConfigError: an attainment outside [0, 1], clients or turns that wait for answers, three
            pools, prompts that decode workers may compute, prefix caches, or GPUs of which the
            quota has too few.
    """
    if not 0 <= attainment <= 1:
        raise ConfigError(f"bound: attainment must lie in [0, 1] but got {attainment!r}")
    program = _program(experiment, trace, np.ones(len(trace), dtype=bool))
    return program.told(program.solved(least_good=attainment * len(trace)))


def most_attainment(experiment: Experiment, trace: Trace, gpu_hours: float) -> Bound:
    """Return the largest share of ``trace`` that can be within the SLO with so many GPU-hours.

    Raises:
        ConfigError: as :func:`least_gpu_hours`, or GPU-hours fewer than the pools' least.
    """
    program = _program(experiment, trace, np.ones(len(trace), dtype=bool))
    return program.told(program.solved(most_cost=3600 * gpu_hours))


def for_the_same(experiment: Experiment, trace: Trace, good: NDArray[np.bool_]) -> Bound:
    """Return the fewest GPU-hours with which these very requests can be within the SLO.

    Raises:
        ConfigError: as :func:`least_gpu_hours`.
    """
    program = _program(experiment, trace, good)
    return program.told(program.solved(least_good=float(good.sum())))


class _Kind(NamedTuple):
    """Requests alike that arrive in one slot.

    So many ``requests``; seconds of prompts and of answers, all together and the largest; the
    seconds that answers may last, all together and the largest; how many slots work may lie in.
    """

    slot: int
    requests: int
    work: tuple[float, float]
    largest: tuple[float, float]
    lasting: float
    longest: float
    slots: tuple[int, int]


class _Program:
    """Variables by name, rows of A x ≤ b, and the cost."""

    def __init__(self, size: int) -> None:
        self.cost, self.good = np.zeros(size), np.zeros(size)
        self.low, self.high = np.zeros(size), np.full(size, np.inf)
        self.entries: list[tuple[int, int, float]] = []
        self.limits: list[float] = []
        self.slot_s, self.ready = 0.0, {}  # type: tuple[float, dict[str, range]]

    def row(self, terms: Iterator[tuple[int, float]], limit: float) -> None:
        """Add Σ factor · x ≤ limit."""
        at = len(self.limits)
        self.entries += [(at, column, factor) for column, factor in terms]
        self.limits.append(limit)

    def solved(self, *, least_good: float | None = None, most_cost: float | None = None) -> Floats:
        """Return the x of the least cost with so many good, or of the most good for the cost."""
        from scipy.optimize import linprog  # here: slow to import, and few runs need it
        from scipy.sparse import coo_array

        entries, limits = list(self.entries), list(self.limits)
        for row, limit, sign in ((self.good, least_good, -1.0), (self.cost, most_cost, 1.0)):
            if limit is not None:
                entries += [(len(limits), int(j), sign * row[j]) for j in np.flatnonzero(row)]
                limits.append(sign * limit + 1e-9 * abs(limit))
        rows, columns, factors = (np.array(each) for each in zip(*entries, strict=True))
        matrix = coo_array((factors, (rows, columns)), shape=(len(limits), len(self.cost)))
        aim = -self.good if least_good is None else self.cost
        bounds = np.column_stack([self.low, self.high])
        answer = linprog(aim, A_ub=matrix.tocsr(), b_ub=limits, bounds=bounds, method="highs")
        if answer.status == INFEASIBLE:
            raise ConfigError(
                f"bound: {most_cost / 3600:g} GPU-hours are less than the pools' least workers take"
                if most_cost is not None
                else "bound: the GPUs of elastic.quota_gpus do not hold that attainment"
            )
        if answer.status != 0:
            raise RuntimeError(f"bound: the linear program was not solved: {answer.message}")
        found: Floats = answer.x
        return found

    def told(self, x: Floats) -> Bound:
        """Return what a solution says."""
        return Bound(
            gpu_hours=float(self.cost @ x) / 3600,
            attainment=float(self.good @ x) / self.requests,
            slot_s=self.slot_s,
            workers={role: tuple(x[list(at)].tolist()) for role, at in self.ready.items()},
        )

    requests: int = 0


def _program(experiment: Experiment, trace: Trace, served: NDArray[np.bool_]) -> _Program:
    """Return the program for the requests that may be ``served``."""
    deployment = experiment.deployment
    if experiment.workload.concurrency is not None or trace.meta.loop == "closed":
        raise ConfigError("bound: needs arrivals that are known beforehand, not clients that wait")
    if trace.frame["parent_id"].null_count() < len(trace):
        raise ConfigError("bound: needs arrivals that are known beforehand, not turns of sessions")
    pools = {pool.role: pool for pool in deployment.pools}
    cached = any(pool.batching.prefix_cache for pool in deployment.pools)
    if cached and trace.frame["block_runs"].null_count() < len(trace):
        raise ConfigError(
            "bound: does not know what prefix caches save; set prefix_cache=false of every pool's "
            "batching"
        )
    if deployment.computes_locally:
        raise ConfigError("bound: needs prompts that prefill workers compute: local_prefill=none")
    if len(pools) == 3:
        raise ConfigError("bound: needs prefill and decode pools or mixed workers, not all three")
    arrival = trace.column("arrival_s").astype(np.float64)
    span = max(float(arrival[-1]), 1e-3)
    slot_s = span / SLOTS
    amounts = _amounts(trace)
    slo = experiment.slo
    asked = Amounts(*amounts[served].sum(axis=0).tolist())
    priced = {role: _priced(deployment, pool, asked, slo.tpot_s) for role, pool in pools.items()}
    seconds = _seconds(priced, amounts)
    lasting = amounts[:, 2] * (slo.tpot_s if slo.tpot_s is not None else np.inf)
    ends = (
        arrival + (np.inf if slo.ttft_s is None else slo.ttft_s),
        arrival + (np.inf if slo.ttft_s is None else slo.ttft_s) + lasting,
    )
    slots = [np.minimum(np.floor(each / slot_s), SLOTS + MOST_WINDOW) for each in ends]
    arriving = np.minimum(arrival // slot_s, SLOTS - 1)
    kinds = list(_kinds(arriving, seconds, lasting, slots, np.flatnonzero(served)))
    slack = max(each.slack for each in priced.values())
    return _assembled(experiment, pools, kinds, slot_s, slack, len(trace))


def _amounts(trace: Trace) -> Floats:
    """Return what each request asks for at least, (n, 4); its first token comes with its prompt."""
    prompt = trace.column("input_tokens").astype(np.float64)
    decoded = np.maximum(trace.column("output_tokens").astype(np.float64) - 1, 0.0)
    context = decoded * prompt + decoded * (decoded + 1) / 2
    return np.column_stack([prompt, prompt * (prompt + 1) / 2, decoded, context])


def _priced(deployment: Deployment, pool: Pool, asked: Amounts, tpot_s: float | None) -> Prices:
    spec = worker_spec(deployment, pool)
    work = Work(
        steps=bind(deployment.latency, spec),
        spec=spec,
        max_tokens=pool.batching.max_num_batched_tokens,
        max_seqs=pool.batching.max_num_seqs,
        prompts=pool.role != "decode",
        answers=pool.role != "prefill",
    )
    return prices(work, asked, tpot_s)


def _seconds(priced: dict[str, Prices], amounts: Floats) -> tuple[Floats, Floats]:
    """Return the worker-seconds of each request's prompt and answer."""
    first = priced.get("prefill") or priced["mixed"]
    last = priced.get("decode") or priced["mixed"]
    return first.of(amounts)[0], last.of(amounts)[1]


def _kinds(
    slot: Floats,
    seconds: tuple[Floats, Floats],
    lasting: Floats,
    slots: list[Floats],
    served: NDArray[np.int64],
) -> Iterator[_Kind]:
    """Yield the requests of each slot by what they ask for."""
    order = served[np.lexsort(((seconds[0] + seconds[1])[served], slot[served]))]
    if not len(order):
        return
    for rows in np.split(order, np.flatnonzero(np.diff(slot[order])) + 1):
        for kind in np.array_split(rows, min(KINDS, len(rows))):
            here = int(slot[kind[0]])
            reach = tuple(int(each[kind].max()) - here + 1 for each in slots)
            yield _Kind(
                slot=here,
                requests=len(kind),
                work=(float(seconds[0][kind].sum()), float(seconds[1][kind].sum())),
                largest=(float(seconds[0][kind].max()), float(seconds[1][kind].max())),
                lasting=float(lasting[kind].sum()),
                longest=float(lasting[kind].max()),
                slots=(min(reach[0], MOST_WINDOW), min(reach[1], MOST_WINDOW)),
            )


def _assembled(
    experiment: Experiment,
    pools: dict[str, Pool],
    kinds: list[_Kind],
    slot_s: float,
    slack: float,
    requests: int,
) -> _Program:
    """Return the program: variables are served shares, work by slot, lasting by slot, workers."""
    total = SLOTS + MOST_WINDOW
    layout = _Layout(kinds, list(pools), total)
    program = _Program(layout.size)
    program.slot_s, program.requests, program.ready = slot_s, requests, layout.ready
    stages = ("prefill", "decode") if "prefill" in pools else ("mixed", "mixed")
    used: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for at, kind in enumerate(kinds):
        share = layout.shares[at]
        program.high[share], program.good[share] = 1.0, kind.requests
        for stage in (0, 1):
            flows = layout.work[at][stage]
            dropped = kind.requests * kind.largest[stage]
            terms = [(column, -1.0) for column in flows]
            program.row(iter([*terms, (share, dropped)]), dropped - kind.work[stage])
            for step, column in enumerate(flows):
                used.setdefault((stages[stage], kind.slot + step), []).append((column, 1.0))
        lasts = layout.lasting[at]
        for step, column in enumerate(lasts):
            program.high[column] = kind.requests * slot_s
            used.setdefault((stages[1], kind.slot + step), []).append((column, -slack))
        if np.isfinite(kind.lasting):
            program.row(((column, 1.0) for column in lasts), kind.lasting)
            most = kind.requests * kind.longest
            program.row(iter([*((c, 1.0) for c in lasts), (share, -most)]), 0.0)
    for (role, slot), terms in used.items():
        program.row(iter([*terms, (layout.ready[role][slot], -slot_s)]), 0.0)
    _workers(program, layout, experiment, pools)
    return program


class _Layout:
    """Where each variable stands."""

    def __init__(self, kinds: list[_Kind], roles: list[str], total: int) -> None:
        self.size = 0
        self.shares = [self._take(1)[0] for _ in kinds]
        self.work = [(self._take(k.slots[0]), self._take(k.slots[1])) for k in kinds]
        self.lasting = [self._take(k.slots[1]) for k in kinds]
        self.ready = {role: self._take(total) for role in roles}
        self.started = {role: self._take(total) for role in roles}
        self.flipped = {role: self._take(total) for role in roles} if len(roles) == 2 else {}

    def _take(self, count: int) -> range:
        self.size += count
        return range(self.size - count, self.size)


def _workers(
    program: _Program, layout: _Layout, experiment: Experiment, pools: dict[str, Pool]
) -> None:
    """Add what workers cost, how they come to be, and how many there may be."""
    deployment, slot_s = experiment.deployment, program.slot_s
    elastic, total = deployment.elastic, len(next(iter(layout.ready.values())))
    gpus = {role: pool.layout.gpus for role, pool in pools.items()}
    for role, pool in pools.items():
        ready, started = layout.ready[role], layout.started[role]
        least = 0 if elastic.changes else deployment.control.bounds_of(role).least
        program.low[ready.start : ready.start + SLOTS] = least
        program.cost[ready.start : ready.stop] = gpus[role] * slot_s
        weights = worker_spec(deployment, pool).memory.weights_bytes_per_gpu
        sure = elastic.startup.variation == 0
        startup_s = elastic.startup.mean_s(weights) if sure else 0.0
        program.cost[started.start : started.stop] = gpus[role] * startup_s
        may_flip = bool(layout.flipped) and len(set(gpus.values())) == 1
        other = next((each for each in layout.flipped if each != role), role)
        for slot in range(1, total):
            terms = [(ready[slot], 1.0), (ready[slot - 1], -1.0), (started[slot], -1.0)]
            if may_flip:
                into, out = layout.flipped[role][slot], layout.flipped[other][slot]
                program.cost[into] = gpus[role] * elastic.flip_s
                terms += [(into, -1.0), (out, 1.0)]
            program.row(iter(terms), 0.0)
    if elastic.quota_gpus is not None:
        for slot in range(total):
            terms = [(layout.ready[role][slot], float(gpus[role])) for role in pools]
            program.row(iter(terms), float(elastic.quota_gpus))


def with_regret(experiment: Experiment, results: Results, trace: Trace) -> Results:
    """Return the results with what a clairvoyant would have needed for the same good requests.

    ``summary["clairvoyant"]`` has ``gpu_hours``, the bound, and ``regret``, by what share of it the
    run took more; or why there is none.
    """
    took = results.summary["gpu_hours"]["total"]
    try:
        good = results.scan.select(results.slo.good()).collect().to_series().to_numpy()
        arrived = np.zeros(len(trace), dtype=bool)
        arrived[: len(good)] = good
        least = for_the_same(experiment, trace, arrived).gpu_hours
    except ConfigError as error:
        told: dict[str, Any] = {"gpu_hours": None, "regret": None, "reason": str(error)}
    else:
        told = {"gpu_hours": least, "regret": took / least - 1 if least else None, "reason": None}
    return replace(results, summary={**results.summary, "clairvoyant": told})

"""The advice, simulated: what the best deployments hold when requests arrive at random.

What a deployment promises is looked for by simulating it under Poisson arrivals of the lengths
explored; then it is tried on other draws, and on the workload itself, at less than its promise.
Both kinds get the same: as many GPUs, as many trials, the same draws.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from simulator.explore.advice import Row
from simulator.explore.exploration import RUN, Explored
from simulator.explore.export import Surroundings, experiment, merged, own, poisson, requests
from simulator.explore.match import GPUS, at_load, replicated
from simulator.explore.pareto import LESS_IS_BETTER
from simulator.trials import COLUMNS as TRIED
from simulator.trials import Outcome, measured

Settings = Mapping[str, Any]


Simulate = Callable[[Settings], Outcome]
"""Runs the experiment of these settings."""
OnTrial = Callable[[int, int, int], None]
"""Called after each trial: with how many are done, of about how many, and requests so far."""

LOADS = (1.0, 0.9, 0.8, 0.7)
"""Shares of the promise to offer."""
STEP, STRIDE = 1.02, 4
"""Factor between the rates that are told apart, and how many of such steps are taken at first."""
LEAST, MOST = 0.3, 1.5
"""Shares of the ranking's promise between which to look for what holds."""
RETRIES = 8
"""Times a promise that does not hold on another draw is lowered."""
KINDS = ("disaggregated", "co-located")
TRIALS = 2 * (4 + 2 * len(LOADS))
"""Simulations that one deployment of each kind takes, about."""
COLUMNS = {
    "kind": pl.String,
    "rank": pl.Int64,
    "arrivals": pl.String,
    "load": pl.Float64,
    **TRIED,
}
"""Of each trial: the deployment, whose arrivals, which share of the promise (``load``), and what
came of it."""


@dataclass(slots=True, eq=False)
class Confirming:
    """Simulates deployments of one exploration, and keeps what came of it."""

    done: Explored
    settings: Settings
    surroundings: Surroundings
    simulate: Simulate
    progress: OnTrial | None = None
    requests: int = 0
    trials: int = 0

    def promise(self, row: Row) -> Row | None:
        """Return the deployment at the highest rate found that it holds; ``None`` for none.

        Rates are a factor :data:`STEP` apart: by strides up or down until one holds and the next
        does not, then by halves between these. More than the steady state's is never promised: a
        run of finitely many requests may bear it, its queues would grow on.
        """
        most = min(MOST, 1.0 / row.get("load", 1.0))
        passed: dict[int, bool] = {}

        def holds(step: int) -> bool:
            if STEP**step > most:
                return False
            if step not in passed:
                there = at_load(row, STEP**step)
                passed[step] = self._holds(self._trial(there, self._poisson(there, 1.0), 1))
            return passed[step]

        low = 0
        while not holds(low):
            low -= STRIDE
            if STEP**low < LEAST:
                return None
        high = low + STRIDE
        while holds(high):
            low, high = high, high + STRIDE
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return at_load(row, STEP**low)

    def confirmed(self, row: Row, rank: int) -> tuple[Row, list[dict[str, Any]]] | None:
        """Return a promise that holds on other draws too, with its TTFT and TPOT, and the trials.

        It is lowered until it does; ``None`` where :data:`RETRIES` do not suffice.
        """
        kind = KINDS[row["kind"] != "disaggregated"]
        known = {"kind": kind, "rank": rank, "arrivals": "poisson"}
        first = self._trial(row, self._poisson(row, 1.0), 0)
        for _ in range(RETRIES):
            if self._holds(first):
                break
            row = at_load(row, 1.0 / STEP)
            first = self._trial(row, self._poisson(row, 1.0), 0)
        else:
            return None
        seen = ("attainment", *(name for name in COLUMNS if name.endswith(("_p50_s", "_p99_s"))))
        reached = {"ttft_s": first["ttft_s"], "tpot_tail_s": first["tpot_s"]}
        reached |= {name: first[name] for name in seen}
        rows = [{**known, "load": 1.0, **first}]
        rows.extend(
            {**known, "load": load, **self._trial(row, self._poisson(row, load), 0)}
            for load in LOADS[1:]
        )
        for load in LOADS:
            workload = self._itself(row, load)
            if workload is not None:
                found = self._trial(row, workload, 0)
                rows.append({**known, "arrivals": "own", "load": load, **found})
        exported = [each for each in rows if each["load"] == 1.0][-1]
        run = {f"run_{name}": exported[name] for name in RUN}
        return {**row, **reached, **run}, rows

    def _poisson(self, row: Row, load: float) -> Settings:
        lengths = self.done.exploration.lengths
        return poisson(load * row["rate"], lengths, requests(row, lengths))

    def _itself(self, row: Row, load: float) -> Settings | None:
        workload, exploration = self.surroundings.workload, self.done.exploration
        if workload is None:
            return None
        count, context = requests(row, exploration.lengths), exploration.platforms[1].model
        return own(workload, load * row["rate"], count, context.max_context)

    def _holds(self, trial: Mapping[str, Any]) -> bool:
        held: bool = trial["attainment"] >= self.done.exploration.options.attainment
        return held

    def _trial(self, row: Row, workload: Settings, draw: int) -> dict[str, Any]:
        """Simulate a deployment on a workload; ``draw`` seeds it, 0 as the settings do."""
        exploration = self.done.exploration
        changes = experiment(row, exploration.platforms, exploration.lengths)
        changed = merged(self.settings, changes)
        kept = {role: changed["pools"][role] for role in changes["pools"]}
        run = self.simulate(
            {
                **changed,
                "pools": {"prefill": None, "decode": None, "mixed": None} | kept,
                "workload": workload,
                "slo": self._slo(),
                "seed": self.settings.get("seed", 0) + draw,
            }
        )
        tried = measured(run, _rate_of(workload), exploration.options.attainment)
        self.trials += 1
        self.requests += tried["requests"]
        if self.progress is not None:
            self.progress(self.trials, max(TRIALS, self.trials), self.requests)
        return tried

    def _slo(self) -> dict[str, Any]:
        """Return the SLO; a TTFT beyond the cutoff counts as missed even where there is none."""
        slo = dict(self.settings.get("slo") or {})
        cutoff = self.done.exploration.options.ttft_cutoff_s
        return {**slo, "ttft_s": min(slo.get("ttft_s") or cutoff, cutoff)}


def confirm(
    done: Explored,
    settings: Settings,
    surroundings: Surroundings,
    simulate: Simulate,
    progress: OnTrial | None = None,
) -> tuple[Explored, pl.DataFrame]:
    """Return the exploration with an advice that was simulated, and the trials.

    Of each kind, of as many of the best as ``confirm`` says, the one that holds the most takes the
    place of the best in steady state. What no trial held is no longer advised.
    """
    count, advice = done.exploration.options.confirm, done.advice
    trials = Confirming(done, settings, surroundings, simulate, progress)
    if not count:
        return done, pl.DataFrame(schema=COLUMNS)
    splits = list(advice.splits.head(count).iter_rows(named=True))
    mixeds = list(advice.mixeds.head(count).iter_rows(named=True))
    if advice.terms.total_gpus is None:
        gpus = advice.split["gpus"] if advice.split is not None else GPUS
        mixeds = [replicated(row, max(1, round(gpus / row["gpus"]))) for row in mixeds]
    best: list[Row | None] = []
    rows: list[dict[str, Any]] = []
    for candidates in (splits, mixeds):
        kept = []
        for rank, row in enumerate(candidates, start=1):
            promised = trials.promise(row)
            found = None if promised is None else trials.confirmed(promised, rank)
            if found is not None:
                kept.append(found[0])
                rows += found[1]
        best.append(_best(kept, advice.terms.aim))
    lost = [
        f" No {kind} deployment simulated holds it."
        for kind, tried, kept in zip(KINDS, (splits, mixeds), best, strict=True)
        if tried and kept is None
    ]
    note = advice.note + "".join(lost)
    simulated = replace(advice, split=best[0], mixed=best[1], note=note)
    return replace(done, advice=simulated), pl.DataFrame(rows, schema=COLUMNS)


def _best(rows: list[Row], aim: str) -> Row | None:
    """Return the row that is best by the column ``aim``."""
    sign = -1.0 if aim in LESS_IS_BETTER else 1.0
    known = [row for row in rows if row[aim] is not None]
    return max(known, key=lambda row: sign * row[aim], default=None)


def confirmed_lines(table: pl.DataFrame) -> list[str]:
    """Return a line per deployment and kind of arrivals of :func:`confirm`'s table."""
    lines: list[str] = []
    for (kind, rank, arrivals), part in table.group_by(
        "kind", "rank", "arrivals", maintain_order=True
    ):
        tried = part.sort("load")
        held, loads = (
            "/".join(f"{100 * share:.0f}" for share in tried[name])
            for name in ("attainment", "load")
        )
        kept = "/".join(f"{tokens:,.4g}" for tokens in tried["throughput"])
        whose = "the workload's own" if arrivals == "own" else "Poisson"
        last = tried.row(-1, named=True)
        number = "" if rank == 1 else f" no. {rank}"
        lines.append(
            f"Simulated, {kind}{number}, {whose} arrivals: {held} % of "
            f"{last['requests']:,} requests hold the SLO at {loads} % of {last['rate']:.4g} "
            f"requests/s, and {kept} tokens/s/GPU come out of a run that begins and ends empty "
            f"({last['arriving_s']:.3g} s of arrivals, {last['duration_s']:.3g} s in all)."
        )
    return lines


def _rate_of(workload: Settings) -> float:
    if "replay" in workload:
        return float(workload["replay"]["target_rate"])
    return float(workload["arrivals"]["rate"])

"""The simulations of a search: each tried once, all of them told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any

import numpy as np
import polars as pl

from simulator.deployment import Deployment
from simulator.experiment import Experiment, simulate
from simulator.intervals import batch_interval
from simulator.results import Results
from simulator.trials import COLUMNS as TRIED
from simulator.trials import measured
from workloads.offered import at_rate, read_once

Row = Mapping[str, Any]
OnTrial = Callable[[int, int, int], None]
"""Called after each trial: with how many are done, of about how many, and requests so far."""

POOLS = ("prefill", "decode", "mixed")
LATE = 3
"""The last so-manieth part of the requests is also looked at alone: queues may still grow."""

COLUMNS = {
    "why": pl.String,
    **dict.fromkeys(POOLS, pl.Int64),
    "gpus": pl.Int64,
    "seed": pl.Int64,
    **TRIED,
    "attainment_half": pl.Float64,
    "late_attainment": pl.Float64,
    "late_half": pl.Float64,
    "good_rps": pl.Float64,
    "offered_rps": pl.Float64,
}
"""Of each trial: what it was for (``search``, ``check``, ``curve``, ``map``), the workers of each
pool and their GPUs, the seed, and what came of it. ``attainment_half`` is half the width of the
attainment's 95 % interval by batch means, ``late_…`` the same of the last third of the requests,
``good_rps`` the goodput in requests/s, ``offered_rps`` the mean rate at which this draw's requests
came: that of few bursts is not the rate they are drawn at."""


@dataclass(slots=True, eq=False)
class Trials:
    """Simulates one experiment's workload at other rates, seeds and worker counts.

    ``share`` of the requests is to hold the targets. ``about`` is how many trials there will be.
    """

    experiment: Experiment
    share: float
    progress: OnTrial | None = None
    about: int = 1
    why: str = "search"
    requests: int = 0
    rows: list[Row] = field(default_factory=list)
    summaries: dict[tuple[object, ...], Mapping[str, Any]] = field(default_factory=dict)
    _known: dict[tuple[object, ...], Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        workload = read_once(self.experiment.workload)
        self.experiment = replace(self.experiment, workload=workload)

    def at(self, rate: float, draw: int = 0, counts: tuple[int, ...] | None = None) -> Row:
        """Return what comes of a ``draw`` at ``rate`` requests/s, on so many workers per pool."""
        key = (rate, draw, counts)
        if key not in self._known:
            self._known[key] = self._tried(rate, draw, counts)
        return self._known[key]

    def holds(self, rate: float, draw: int = 0, counts: tuple[int, ...] | None = None) -> bool:
        """Tell whether the share of requests that is to hold the targets does."""
        held: bool = self.at(rate, draw, counts)["attainment"] >= self.share
        return held

    def summary(
        self, rate: float, draw: int = 0, counts: tuple[int, ...] | None = None
    ) -> Mapping[str, Any]:
        """Return the whole summary of a trial."""
        self.at(rate, draw, counts)
        return self.summaries[rate, draw, counts]

    def table(self) -> pl.DataFrame:
        """Return every trial, in the order they were made."""
        return pl.DataFrame(self.rows, schema=COLUMNS)

    def deployment(self, counts: tuple[int, ...] | None) -> Deployment:
        """Return the deployment with so many workers in its pools, in their order."""
        deployment = self.experiment.deployment
        if counts is None:
            return deployment
        pools = zip(deployment.pools, counts, strict=True)
        return replace(
            deployment, pools=tuple(replace(pool, workers=count) for pool, count in pools)
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """The workers of the deployment's own pools."""
        return tuple(pool.workers for pool in self.experiment.deployment.pools)

    @property
    def unit(self) -> tuple[int, ...]:
        """The fewest workers in the same ratio."""
        shared = gcd(*self.counts)
        return tuple(count // shared for count in self.counts)

    def gpus(self, counts: tuple[int, ...]) -> int:
        """Return the GPUs of so many workers per pool."""
        pools = zip(self.experiment.deployment.pools, counts, strict=True)
        return sum(pool.layout.gpus * count for pool, count in pools)

    def _tried(self, rate: float, draw: int, counts: tuple[int, ...] | None) -> Row:
        experiment = replace(
            self.experiment,
            deployment=self.deployment(counts),
            workload=at_rate(self.experiment.workload, rate),
            seed=self.experiment.seed + draw,
        )
        run = simulate(experiment, config="")  # nobody keeps its settings
        workers = dict.fromkeys(POOLS, 0)
        workers |= {pool.role: pool.workers for pool in experiment.deployment.pools}
        row = {
            "why": self.why,
            **workers,
            "gpus": self.gpus(counts or self.counts),
            "seed": experiment.seed,
            **measured(run, rate, self.share),
            "attainment": run.summary["slo_attainment"] or 0.0,
            **_certainty(run),
            "good_rps": run.summary["goodput_rps"],
            "offered_rps": _offered(run),
        }
        self.summaries[rate, draw, counts] = run.summary
        self.rows.append(row)
        self.requests += row["requests"]
        if self.progress is not None:
            done = len(self.rows)
            self.progress(done, max(self.about, done), self.requests)
        return row


def _certainty(run: Results) -> dict[str, float | None]:
    """Return how sure the attainment is, and what it is of the last requests alone."""
    good = run.scan.select(run.slo.good().alias("good")).collect()["good"]
    flags = good.to_numpy().astype(np.float64)
    late = flags[len(flags) - len(flags) // LATE :]
    last = batch_interval(late, batches=5)
    return {
        "attainment_half": _known(batch_interval(flags).half),
        "late_attainment": _known(last.mean),
        "late_half": _known(last.half),
    }


def _offered(run: Results) -> float | None:
    """Return the mean requests/s from the first arrival to the last."""
    arrivals = run.values("arrival_s")
    span = float(np.ptp(arrivals)) if len(arrivals) else 0.0
    return (len(arrivals) - 1) / span if span > 0 else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value

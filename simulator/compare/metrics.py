"""The numbers of a run that comparisons have, each by its place in ``summary.json``.

Nothing is computed anew here: what a number means, :mod:`simulator.results` says.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulator.report.theme import number, seconds, share

Value = None | bool | int | float | str

RANKS = ("mean", "p50", "p90", "p99")
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "ttst_s": "TTST", "e2e_s": "E2E"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number: its dotted ``path``, its words, how to write it, and which way is better.

    ``better`` is 1 where more is better, −1 where less is, 0 where neither. ``optional`` ones are
    missing in the summaries of older versions.
    """

    path: str
    label: str
    better: int
    write: Callable[[float | None], str] = number
    optional: bool = False

    @property
    def most(self) -> float:
        """What it is at most: 1 for a share."""
        return 1.0 if self.write is share else math.inf

    def known(self, summary: Mapping[str, Any]) -> bool:
        """Tell whether ``summary`` has a place for it, if only for ``null``."""
        group, _, name = self.path.rpartition(".")
        inside = at(summary, group) if group else summary
        return self.optional or (isinstance(inside, Mapping) and name in inside)


def at(tree: Mapping[str, Any], path: str) -> Any:
    """Return what lies at a dotted ``path`` of nested mappings, ``None`` where nothing does."""
    found: Any = tree
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def least(summary: Mapping[str, Any], path: str) -> float | None:
    """Return what a percentile is at least where it lies among unfinished requests, else ``None``.

    Infinite where it lies among those that will never be.
    """
    group, _, name = path.rpartition(".")
    beyond = at(summary, f"{group}.at_least")
    if not (isinstance(beyond, Mapping) and name in beyond):
        return None
    return math.inf if beyond[name] is None else float(beyond[name])


def _usd(value: float | None) -> str:
    return "–" if value is None else f"${value:,.2f}"


METRICS = (
    Metric(path="requests.arrived", label="requests", better=0),
    Metric(path="requests.completed", label="completed", better=0),
    Metric(path="duration_s", label="duration", better=0, write=seconds),
    Metric(path="gpus", label="GPUs", better=-1, optional=True),
    Metric(path="gpu_hours.total", label="GPU-hours", better=-1),
    Metric(path="gpu_hours.prefill", label="prefill GPU-hours", better=-1),
    Metric(path="gpu_hours.decode", label="decode GPU-hours", better=-1),
    Metric(path="gpu_hours.mixed", label="mixed GPU-hours", better=-1),
    Metric(path="clairvoyant.regret", label="regret", better=-1, optional=True),
    Metric(path="usd", label="cost", better=-1, write=_usd, optional=True),
    Metric(path="slo_attainment", label="in SLO", better=1, write=share),
    Metric(
        path="worst_service", label="worst service in SLO", better=1, write=share, optional=True
    ),
    Metric(path="goodput_rps", label="goodput (req/s)", better=1),
    Metric(path="output_tokens_per_s_per_gpu", label="out tok/s/GPU", better=1),
    Metric(path="input_tokens_per_s_per_gpu", label="in tok/s/GPU", better=1),
    *(
        Metric(path=f"{name}.{rank}", label=f"{label} {rank}", better=-1, write=seconds)
        for name, label in LATENCIES.items()
        for rank in RANKS
    ),
    Metric(path="rejected_token_share", label="rejected", better=-1, write=share, optional=True),
    Metric(path="dropped.token_share", label="not served", better=-1, write=share),
    Metric(path="sessions.never_sent", label="never sent", better=-1, optional=True),
    *(
        Metric(
            path=f"sessions.duration_s.{rank}",
            label=f"session {rank}",
            better=-1,
            write=seconds,
            optional=True,
        )
        for rank in ("p50", "p90")
    ),
    Metric(path="scaling.reversals_per_hour", label="reversals/h", better=-1, optional=True),
    Metric(path="scaling.late_minutes", label="late minutes", better=-1, optional=True),
    Metric(
        path="scaling.longest_late_s",
        label="longest late",
        better=-1,
        write=seconds,
        optional=True,
    ),
    Metric(path="scaling.idle_gpu_hours", label="idle GPU-hours", better=-1, optional=True),
    Metric(path="preemptions", label="preemptions", better=-1),
    Metric(path="retries", label="retries", better=-1),
)
"""A column each of a comparison's table, named by its path."""

METRIC = {metric.path: metric for metric in METRICS}

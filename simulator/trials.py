"""One simulation tried at a rate: what is kept of it wherever rates are looked for."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLUMNS = {
    "rate": pl.Float64,
    "requests": pl.Int64,
    "attainment": pl.Float64,
    "throughput": pl.Float64,
    "arriving_s": pl.Float64,
    "duration_s": pl.Float64,
    "ttft_s": pl.Float64,
    "tpot_s": pl.Float64,
    **{f"{metric}_{rank}_s": pl.Float64 for metric in ("ttft", "tpot") for rank in ("p50", "p99")},
}
"""Of each trial: what was offered, and what came of it: the share of requests that held the SLO,
output tokens/s/GPU of the whole run, the seconds in which requests arrived and until the last had
its answer, and the TTFT and TPOT that the share of requests that counts stayed below, half of them
and 99 %."""


class Outcome(Protocol):
    """What came of a simulation: its summary, and the requests' values of a metric."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """The metrics of the whole run."""
        ...

    def values(self, name: str) -> Floats:
        """Return a metric of every request, NaN where it has none."""
        ...


def measured(run: Outcome, rate: float, share: float) -> dict[str, Any]:
    """Return :data:`COLUMNS` of a run at ``rate`` requests/s, of which ``share`` are to hold."""
    summary = run.summary
    arrived = summary["requests"]["arrived"]
    return {
        "rate": rate,
        "requests": arrived,
        "attainment": summary["slo_attainment"],
        "throughput": summary["output_tokens_per_s_per_gpu"],
        "arriving_s": arrived / rate,
        "duration_s": summary["duration_s"],
        "ttft_s": _quantile(run.values("ttft_s"), share),
        "tpot_s": _quantile(run.values("tpot_s"), share),
        **{
            f"{metric}_{rank}_s": summary[f"{metric}_s"][rank]
            for metric in ("ttft", "tpot")
            for rank in ("p50", "p99")
        },
    }


def _quantile(values: Floats, share: float) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if len(known) else None

"""Run folders made up without an engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from simulator.record import RunRecord
from simulator.results import SLO, Results
from tests.fakes import FakeRun, fake_record

PRICE = {"H100 SXM": 2.0}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a folder is to hold: settings over the usual ones, and the record."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    record: RunRecord | None = None
    seed: int = 0
    head: str = "# disaggsim 0.1.0"
    slo: SLO = field(default_factory=SLO)


def settings_of(made: Made) -> dict[str, Any]:
    """Return the settings of a made-up run."""
    return {
        "model": {"name": "a model", "layers": 2},
        "router": {"_target_": "simulator.policies.routing.LeastTokens"},
        "workload": {"requests": 300, "arrivals": {"rate": 8.0}},
        "pools": {"prefill": {"workers": 2, "layout": {"tp": 4}}},
        "seed": made.seed,
        **made.settings,
    }


def write_run(folder: Path, made: Made | None = None) -> Results:
    """Write a finished run into ``folder`` and return its results."""
    made = made or Made()
    text = f"{made.head}\n{yaml.safe_dump(settings_of(made), sort_keys=False)}"
    record = made.record or fake_record(FakeRun(requests=300, seed=made.seed))
    context = {"config": text, "seed": made.seed, "wall_s": 1.0, "prices": PRICE}
    results = Results.from_record(record, slo=made.slo, context=context)
    results.write(folder, report=None)
    return results

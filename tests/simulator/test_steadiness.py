"""How steady scaling was, by numbers worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simulator.results import SLO, Results
from simulator.scaling import late_minutes, reversals, turns
from tests.fakes import FakeRun, fake_record


def made(pool: str, before: int, granted: int, service: str = "") -> dict[str, object]:
    """Return one decision."""
    whose = {"service": service} if service else {}
    return {"at_s": 0.0, "pool": pool, "before": before, "granted": granted, **whose}


@pytest.mark.parametrize(
    ("steps", "count"),
    [([], 0), ([1], 0), ([1, 2, 3], 0), ([1, -1], 1), ([1, -1, 2], 2), ([-3, -1, 1, 1, -2], 2)],
)
def test_turns(steps: list[int], count: int) -> None:
    """Each change of direction is one."""
    assert turns(steps) == count


def test_pools_turn_round_by_themselves() -> None:
    """One pool that grows beside one that shrinks is no reversal, and holding is none."""
    told = [
        made("prefill", 2, 3),
        made("decode", 4, 3),
        made("prefill", 3, 3),
        made("decode", 3, 2),
        made("prefill", 3, 2),
        made("decode", 2, 2),
    ]
    assert reversals(told) == 1
    assert reversals([made("mixed", 1, 2, "a"), made("mixed", 2, 1, "b")]) == 0
    assert reversals([made("mixed", 1, 2, "a"), made("mixed", 2, 1, "a")]) == 1


def test_minutes_are_late_by_their_arrivals() -> None:
    """Below nine tenths a minute is late; one without arrivals is not; others never came."""
    arrival = np.array([*np.linspace(5, 64, 10), 70.0, 200.0, 201.0, math.nan])
    good = np.array([False, *[True] * 9, False, True, False, False])
    assert late_minutes(arrival, good).tolist() == [False, True, False, True]
    assert late_minutes(np.array([math.nan]), np.array([False])).tolist() == []


def test_a_run_tells_of_its_scaling() -> None:
    """The longest row of late minutes, reversals by the hour, and idle GPU-hours."""
    record = fake_record(FakeRun(requests=200, prefill=0, decode=0, mixed=2))
    decisions = tuple(
        {"at_s": at, "seen_s": at, "pool": "mixed", "asked": n, "reason": "", **made("mixed", b, n)}
        for at, (b, n) in enumerate([(2, 3), (3, 2), (2, 3)])
    )
    for some in (decisions, ()):
        told = Results.from_record(replace(record, decisions=some), slo=SLO(), context={})
        scaling = told.summary["scaling"]
        assert scaling["reversals"] == (2 if some else None)
        per_hour = 2 / record.end_s * 3600 if some else None
        assert scaling["reversals_per_hour"] == per_hour
    idle = sum(w.gpus * (w.allocated_s - w.busy_s) for w in record.workers) / 3600
    assert scaling["idle_gpu_hours"] == pytest.approx(idle)
    nobody = Results.from_record(record, slo=SLO(ttft_s=1e-9), context={}).summary["scaling"]
    arrival = record.requests["arrival_s"]
    minutes = int((arrival.max() - arrival.min()) // 60) + 1
    assert nobody["longest_late_s"] == 60 * minutes
    everybody = Results.from_record(record, slo=SLO(ttft_s=None, tpot_s=None), context={})
    assert everybody.summary["scaling"]["longest_late_s"] == 0

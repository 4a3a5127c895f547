"""Flow control: saturation worked by hand from llm-d's rule, and what its settings may be."""

import pytest
from shipped import shipped

from simulator.policies.flow_control import Reading, Utilization

IDLE, QUEUED, FILLED = Reading(0, 0, 0.0), Reading(10, 32, 0.4), Reading(1, 32, 0.6)


@pytest.mark.parametrize(
    ("readings", "saturated", "ignore"),
    [
        ([IDLE], 0.0, 0.0),
        ([QUEUED], 2.0, 2.0),  # 10 / 5 beats 0.4 / 0.8
        ([FILLED], 0.75, 0.75),  # 0.6 / 0.8 beats 1 / 5
        ([QUEUED, IDLE], 1.0, 1.0),  # full on average, with a worker idle
        ([QUEUED, FILLED, IDLE], 2.75 / 3, 2.75 / 3),
        ([None], 1.0, 0.0),
        ([None, None, None], 1.0, 0.0),
        ([None, IDLE], 0.5, 0.0),
        ([None, FILLED], 0.875, 0.75),
        ([None, QUEUED, IDLE], 1.0, 1.0),
        ([], 1.0, 1.0),  # nobody to send to
    ],
)
def test_saturation(readings: list[Reading | None], saturated: float, ignore: float) -> None:
    """The mean of the fuller of queue and KV; a worker without fresh metrics is full, or nobody."""
    assert Utilization().saturation(readings) == pytest.approx(saturated)
    assert Utilization(staleness="ignore").saturation(readings) == pytest.approx(ignore)


def test_thresholds_are_settings() -> None:
    """Half the queue is twice as full."""
    assert Utilization(queue=2.5).saturation([QUEUED]) == 4.0
    assert Utilization(kv=0.4).saturation([FILLED]) == pytest.approx(1.5)


def test_shipped_settings_never_let_metrics_get_stale() -> None:
    """They are read every 50 ms, and stale after 200."""
    control = shipped("flow_control", "utilization")
    assert (control.scrape_s, control.stale_s, control.staleness) == (0.05, 0.2, "saturated")
    assert (control.queue, control.kv, control.dispatch_s) == (5.0, 0.8, 0.001)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scrape_s": 0.0}, "flow_control: scrape_s must be above 0 but got 0.0"),
        ({"stale_s": float("nan")}, "flow_control: stale_s must be above 0 but got nan"),
        ({"queue": -1.0}, "flow_control: queue must be above 0 but got -1.0"),
        ({"kv": float("inf")}, "flow_control: kv must be above 0 but got inf"),
        ({"dispatch_s": -0.1}, "flow_control: dispatch_s must be at least 0 but got -0.1"),
        ({"staleness": "old"}, "staleness must be one of saturated, ignore but got 'old'"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, object], told: str) -> None:
    """By name and value."""
    with pytest.raises(ValueError, match=told):
        Utilization(**settings)  # type: ignore[arg-type]

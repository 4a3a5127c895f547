"""The picture of a sweep: one numeric setting across, a line for everything else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from simulator.compare import Options, compare, find
from simulator.compare.comparison import Comparison
from simulator.compare.figures import sweep_panels
from tests.fakes import FakeRun, fake_record
from tests.simulator.compare.folders import Made, write_run


def swept(
    folder: Path, seconds: Sequence[float], names: Sequence[str] = ("a",), seeds: int = 1
) -> Comparison:
    """Return runs that start in so many seconds, of models of these names, over seeds."""
    for at, start in enumerate(seconds):
        for name in names:
            for seed in range(seeds):
                settings = {"startup": {"seconds": start}, "model": {"name": name, "layers": 2}}
                record = fake_record(FakeRun(requests=60 + 20 * at, seed=seed))
                made = Made(settings=settings, record=record, seed=seed)
                write_run(folder / f"{name}-{start:g}-{seed}", made)
    return compare(find([str(folder)]).runs, Options())


def test_a_line_for_each_of_what_else_differs(tmp_path: Path) -> None:
    """Two models over four start-ups: values in their order, the first number shown."""
    comparison = swept(tmp_path, [30.0, 0.0, 240.0, 60.0], ["one", "two"])
    (panel,) = sweep_panels(comparison)
    assert (panel.name, panel.title) == ("sweep", "Over startup.seconds")
    assert panel.figure is not None
    shown = [trace for trace in panel.figure.data if trace.visible]
    assert [list(trace.x) for trace in shown] == [[0.0, 30.0, 60.0, 240.0]] * 2
    assert all("startup" not in trace.name for trace in panel.figure.data)
    assert len({trace.name for trace in shown}) == 2
    held = comparison.means("slo_attainment") * 100
    points = [comparison.runs[p.base].settings["startup.seconds"] for p in comparison.points]
    assert {*np.round(shown[0].y, 6)} <= {*np.round(held, 6)}
    assert sorted(points) == [0.0, 0.0, 30.0, 30.0, 60.0, 60.0, 240.0, 240.0]
    labels = [button.label for button in panel.figure.layout.updatemenus[0].buttons]
    assert "workers started, stopped and flipped" in labels
    each = panel.figure.layout.updatemenus[0].buttons[1]["args"][0]["visible"]
    assert sum(each) == 2


def test_repetitions_are_bars(tmp_path: Path) -> None:
    """One line, whose marks reach over the seeds."""
    (panel,) = sweep_panels(swept(tmp_path, [0.0, 60.0, 120.0], seeds=2))
    assert panel.figure is not None
    first = panel.figure.data[0]
    assert first.error_y.array is not None
    assert len(first.error_y.array) == 3


@pytest.mark.parametrize(
    ("seconds", "names"),
    [([0.0, 60.0], ["a"]), ([0.0, 60.0, 120.0], [f"m{at}" for at in range(9)])],
)
def test_too_little_or_too_much_is_no_sweep(
    tmp_path: Path, seconds: list[float], names: list[str]
) -> None:
    """Two values are no sweep, and nine lines nobody tells apart."""
    assert sweep_panels(swept(tmp_path, seconds, names)) == []

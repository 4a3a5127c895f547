"""The view of a quota: who held how many GPUs from when on."""

import numpy as np

from simulator.report.quota import gpus_over_time


def test_gpus_are_counted_from_moment_to_moment() -> None:
    """Every service's at everybody's moments, so that they can be stacked."""
    spans = [[(0.0, 10.0, 2), (3.0, 5.0, 4)], [(4.0, 10.0, 1)], []]
    times, counts = gpus_over_time(spans, 10.0)
    assert times.tolist() == [0.0, 3.0, 4.0, 5.0, 10.0]
    assert [each.tolist() for each in counts] == [
        [2, 6, 6, 2, 2],
        [0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0],
    ]


def test_gpu_seconds_are_those_of_the_spans() -> None:
    """What is drawn has the area of what was held."""
    rng = np.random.default_rng(3)
    starts = rng.uniform(0, 90, 40)
    stops = np.minimum(100.0, starts + rng.exponential(20, 40))
    gpus = rng.integers(1, 9, 40)
    spans = list(zip(starts.tolist(), stops.tolist(), gpus.tolist(), strict=True))
    times, counts = gpus_over_time([spans[:20], spans[20:]], 100.0)
    drawn = sum((each[:-1] * np.diff(times)).sum() for each in counts)
    np.testing.assert_allclose(drawn, ((stops - starts) * gpus).sum())

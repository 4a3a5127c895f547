"""The view of a quota: who held how many GPUs from when on."""

import numpy as np

from simulator.report import theme
from simulator.report.prose import services
from simulator.report.quota import gpus_over_time, told_apart


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


def test_few_services_have_a_colour_each() -> None:
    """In their order."""
    counts = {name: np.full(3, float(at)) for at, name in enumerate("abcdefgh")}
    told = list(told_apart(counts, np.array([0.0, 1.0, 2.0])))
    assert [(name, colour) for name, colour, _ in told] == list(
        zip("abcdefgh", theme.COLOURS, strict=True)
    )


def test_of_many_services_the_greatest_are_told_apart_and_the_rest_are_one() -> None:
    """By GPUs over time, not at the end; nothing is lost of the sum."""
    times = np.array([0.0, 8.0, 10.0])
    counts = {f"s{at}": np.array([float(at), 0.0, 100.0 - at]) for at in range(30)}
    told = list(told_apart(counts, times))
    assert [name for name, _, _ in told] == [*(f"s{at}" for at in range(23, 30)), "23 others"]
    assert [colour for _, colour, _ in told] == [*theme.COLOURS[:7], theme.OTHERS]
    np.testing.assert_array_equal(
        sum(each for _, _, each in told), sum(each for each in counts.values())
    )


def test_of_many_services_the_worst_are_told() -> None:
    """Four of them, and between what the others lie; who had no request is none of these."""
    fared = {
        f"s{at}": {
            "slo_attainment": None if at == 3 else at / 100,
            "gpus": at,
            "longest_pending_s": 0,
        }
        for at in range(20)
    }
    [(label, told)] = services({"services": fared})
    assert label == "by service"
    assert told == (
        "of 20 the worst: s0 0 % on 0 GPUs, s1 1 % on 1 GPU, s2 2 % on 2 GPUs, s4 4 % on 4 GPUs; "
        "15 others 5 % to 19 %, each by its own targets"
    )
    few = {name: fared[name] for name in ("s5", "s4")}
    [(_, told)] = services({"services": few})
    assert told == "s5 5 % on 5 GPUs, s4 4 % on 4 GPUs, each by its own targets"

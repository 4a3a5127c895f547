"""The arithmetic of leaps against a loop over single iterations, to the last bit."""

import pytest
from builders import LinearLatency

from simulator.cluster.workers import leap as module
from simulator.cluster.workers.leap import Leap
from simulator.cluster.workers.timing import DecodeTimes

LENGTHS = (70, 33, 48, 5)
SIZE = 16


def begun(*, knee: float = 5000.0, grows: bool = True) -> Leap:
    """Return the leap of a batch of :data:`LENGTHS`, at its first iteration."""
    leap = Leap(DecodeTimes(LinearLatency(knee=knee)), SIZE, grows=grows)
    for length in LENGTHS:
        leap.enter(length)
    leap.since = 1.7
    return leap


def ends(count: int) -> list[float]:
    """Return when each of the first iterations ends, one after the other."""
    one, now, found = begun(), 1.7, []
    for _ in range(count):
        now += one.seconds(len(LENGTHS))
        one.count(1, len(LENGTHS))
        found.append(now)
    return found


def blocks(iterations: int) -> list[int]:
    """Return the blocks that all sequences hold in each iteration."""
    return [sum(-(-(n + at) // SIZE) for n in LENGTHS) for at in range(iterations)]


@pytest.mark.parametrize("scalar", [0, 24])
@pytest.mark.parametrize("most", [1, 2, 24, 25, 100, 1000])
def test_a_leap_ends_where_single_iterations_do(
    most: int, scalar: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First and last end, any moment in between, and a leap cut short there."""
    monkeypatch.setattr(module, "SCALAR", scalar)
    leap, alone = begun(), ends(min(most, module.LONGEST))
    assert leap.plan(1.7, len(LENGTHS), most, 10**6) == (alone[0], alone[-1])
    assert leap.left == len(alone)
    if most > 2:
        at = alone[1]
        assert leap.until(at, past=True) == (2, at)
        assert leap.until(at, past=False) == (1, alone[0])
        assert leap.until(at * (1 - 1e-9), past=True) == (1, alone[0])
        assert leap.cut(3) == alone[2]
        assert leap.left == 3


def test_a_leap_stops_where_its_piece_does() -> None:
    """The last iteration is the first above the knee of the step times: it is not of this leap."""
    leap = begun(knee=float(sum(LENGTHS) + 4 * 10))
    leap.plan(0.0, len(LENGTHS), 1000, 10**6)
    assert leap.left == 11


@pytest.mark.parametrize("room", [0, 1, 3, 8])
def test_a_leap_stops_where_the_blocks_do(room: int) -> None:
    """Blocks taken over a leap are those the sequences hold more of, and they fit."""
    held = blocks(200)
    leap = begun()
    leap.plan(0.0, len(LENGTHS), 200, room)
    assert held[leap.left - 1] - held[0] <= room < held[leap.left] - held[0]
    assert leap.blocks_over(leap.left - 1) == held[leap.left - 1] - held[0]
    assert leap.growth_left >= held[leap.left - 1] - held[0]


def test_without_growth_no_blocks_are_taken() -> None:
    """Sequences that have all their blocks from the start bound no leap."""
    leap = begun(grows=False)
    leap.plan(0.0, len(LENGTHS), 100, 0)
    assert (leap.left, leap.blocks_over(99)) == (100, 0)
    for length in LENGTHS:
        leap.leave(length)
    assert leap.context == 0

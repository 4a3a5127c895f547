"""The clock: absolute times, one pending wake-up a component, ties in a stated order."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster.clock import (
    ADMISSION,
    ARRIVAL,
    LAST,
    STEP_END,
    TICK,
    TRANSFER_END,
    Alarm,
    Clock,
    collection_paused,
    turn_of,
)

Rung = list[tuple[float, int]]


class Bells:
    """Components that note when they are woken."""

    def __init__(self, components: int) -> None:
        self.clock = Clock()
        self.rung: Rung = []
        self.turns: list[int] = []
        self.alarms = [Alarm(self.clock, component) for component in range(components)]
        for component, alarm in enumerate(self.alarms):
            alarm.wakes(self.listener(component))

    def listener(self, component: int):  # type: ignore[no-untyped-def]
        """Return what notes the times of one component."""

        def wake(now: float) -> None:
            self.rung.append((now, component))
            self.turns.append(self.clock.turn)

        return wake

    def run(self, until: float) -> Rung:
        """Let time pass and return who was woken when."""
        stop = self.clock.env.event()
        self.clock.at_last(until, stop.succeed)
        self.clock.run(stop)
        return self.rung


def test_an_alarm_that_is_set_again_rings_once_and_then_only() -> None:
    """Setting an alarm replaces what it was set to, be that sooner or later."""
    bells = Bells(1)
    for when in (2.0, 5.0, 3.0):
        bells.alarms[0].set(when, TICK)
    assert bells.run(10.0) == [(3.0, 0)]
    assert bells.clock.now == 10.0


def test_an_alarm_that_is_cancelled_does_not_ring_and_can_be_set_again() -> None:
    """Neither at its time nor with the next one, which rings as any other."""
    bells = Bells(1)
    bells.alarms[0].set(2.0, TICK)
    bells.run(1.0)
    bells.alarms[0].cancel()
    assert bells.run(3.0) == []
    bells.alarms[0].set(4.0, TICK)
    assert bells.run(5.0) == [(4.0, 0)]


def test_an_alarm_can_be_set_again_after_it_rang() -> None:
    """It rings once for each time it is set."""
    bells = Bells(2)
    bells.alarms[0].set(1.0, TICK)
    assert bells.run(2.0) == [(1.0, 0)]
    bells.alarms[0].set(3.0, TICK)
    bells.alarms[1].set(2.5, TICK)
    assert bells.run(4.0) == [(1.0, 0), (2.5, 1), (3.0, 0)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from([STEP_END, TRANSFER_END, ARRIVAL, ADMISSION, TICK]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.randoms(),
)
def test_ties_go_by_kind_and_component(wanted: list[tuple[int, int]], shuffled) -> None:  # type: ignore[no-untyped-def]
    """In whatever order alarms are set: by time, by what happens, by component."""
    bells = Bells(len(wanted))
    order = list(range(len(wanted)))
    shuffled.shuffle(order)
    for component in order:
        when, kind = wanted[component]
        bells.alarms[component].set(float(when), kind)
    expected = sorted(
        (float(when), kind, component) for component, (when, kind) in enumerate(wanted)
    )
    assert bells.run(9.0) == [(when, component) for when, _, component in expected]
    assert bells.turns == [turn_of(kind, component) for _, kind, component in expected]


def test_turns_are_in_the_order_of_ties() -> None:
    """A turn tells of two things at one instant which comes first, whatever the component."""
    turns = [turn_of(kind, component) for kind in range(LAST + 1) for component in (0, 7, 900_000)]
    assert turns == sorted(set(turns))


def test_the_last_thing_of_an_instant_comes_after_all_else() -> None:
    """What is to end a run at an instant lets all happen that is due then, whenever it was set."""
    bells = Bells(2)
    stop = bells.clock.env.event()
    bells.clock.at_last(1.0, stop.succeed)
    for alarm, kind in zip(bells.alarms, (TICK, ADMISSION), strict=True):
        alarm.set(1.0, kind)
    bells.clock.run(stop)
    assert bells.rung == [(1.0, 1), (1.0, 0)]
    assert bells.clock.turn > turn_of(TICK, 900_000)


def test_pending_counts_what_waits() -> None:
    """Each set alarm is one entry, and nothing else waits."""
    bells = Bells(3)
    for component, alarm in enumerate(bells.alarms):
        alarm.set(5.0 + component, TICK)
    bells.run(1.0)
    assert bells.clock.pending == 3


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_collection_is_left_as_it_was(enabled: bool, fails: bool) -> None:
    """It pauses when asked to, and is as before afterwards, also when the run fails."""
    bells, seen = Bells(1), []

    def worker() -> Iterator[object]:
        yield bells.clock.env.timeout(1.0)
        seen.append(gc.isenabled())
        if fails:
            raise ValueError("a worker's own mistake")

    bells.clock.env.process(worker())
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        if fails:
            with pytest.raises(ValueError, match="a worker's own mistake"), collection_paused():
                bells.run(2.0)
        else:
            with collection_paused():
                bells.run(2.0)
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()
    assert seen == [False]

"""GPUs taken and given back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import SpecError
from hardware.rack import Rack, Slot

MOVES = st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=60)
DOMAINS = st.sampled_from([1, 4, 8, 72])


@given(moves=MOVES, domain=DOMAINS, quota=st.none() | st.integers(1, 64))
def test_no_gpu_is_given_twice(moves: list[tuple[bool, int]], domain: int, quota: int) -> None:
    """Slots that are held never overlap, stay within the quota and start where they may."""
    rack = Rack(domain, quota)
    held: list[Slot] = []
    for give, number in moves:
        if give and held:
            rack.give(held.pop(number % len(held)))
        elif (slot := rack.take(number)) is not None:
            held.append(slot)
            whole = slot.first_domain == slot.last_domain
            assert whole if number <= domain else slot.first_gpu % domain == 0
        gpus = [gpu for slot in held for gpu in range(slot.first_gpu, slot.first_gpu + slot.gpus)]
        assert len(set(gpus)) == len(gpus) == rack.taken
        assert quota is None or rack.taken <= quota


def test_a_slot_given_back_is_the_next_one_taken() -> None:
    """First fit reuses the lowest free GPUs, so a worker that restarts lies where it did."""
    rack = Rack(8)
    first, _ = rack.take(4), rack.take(4)
    assert first is not None
    rack.give(first)
    assert rack.take(4) == first
    rack.give(first)
    wide = rack.take(6)
    assert wide is not None
    assert wide.first_domain == 1


def test_a_quota_refuses_without_taking() -> None:
    """What exceeds the GPUs that exist waits; a smaller worker may still fit."""
    rack = Rack(8, 6)
    assert rack.take(4) is not None
    assert rack.take(4) is None
    assert rack.taken == 4
    assert rack.take(2) is not None


def test_a_worker_without_gpus_is_refused() -> None:
    """A size below 1 is a sentence."""
    with pytest.raises(SpecError, match="at least 1 GPU but got 0"):
        Rack(8).take(0)

"""Operators' complaints: each scenario shows its own, and the better setting cures it."""

import pytest

from simulator.cli import carry_out
from simulator.validation.complaints import COMPLAINTS, Complaint, Told, table


@pytest.mark.parametrize("complaint", COMPLAINTS, ids=[each.name for each in COMPLAINTS])
def test_a_complaint_shows_and_its_better_setting_cures_it(complaint: Complaint) -> None:
    """By the metric that operators would look at."""
    bad, good = (
        complaint.measure(carry_out(complaint.overrides(better=better))) for better in (False, True)
    )
    assert bad >= complaint.shows
    assert good <= complaint.cured * bad


def test_the_table_says_what_is_not_shown() -> None:
    """A metric below its mark, or a cure that is none."""
    each = COMPLAINTS[0]
    cured, not_shown = Told(each, 99.0, 1.0), Told(each, 1.0, 0.0)
    assert cured.holds
    assert not not_shown.holds
    assert not Told(each, 99.0, 98.0).holds
    assert table([cured, not_shown]).count("**not shown**") == 1

"""docs/traces.md names every setting of a trace and every column of a file."""

from dataclasses import fields
from pathlib import Path

import pytest

from simulator.record import COUNTS, TIMES
from workloads.readers import READERS
from workloads.readers.times import UNITS
from workloads.replay import Replay
from workloads.trace import SCHEMA
from workloads.workload import TraceWorkload

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "traces.md").read_text(encoding="utf-8")
SETTINGS = [f"workload.{each.name}" for each in fields(TraceWorkload)]
NAMES = [
    *(*SCHEMA, *TIMES, *COUNTS, *UNITS, *(each.name for each in fields(Replay))),
    *(reader.name for reader in READERS),
]


@pytest.mark.parametrize("name", dict.fromkeys(NAMES))
def test_columns_and_values_are_named(name: str) -> None:
    """Each stands in the page as code."""
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_named(name: str) -> None:
    """Each stands in the page by its full key."""
    assert name in TEXT


def test_the_table_has_every_format_once() -> None:
    """One row per reader, in the readers' own order or another, and no row of none."""
    table = TEXT.partition("| `workload.format` |")[2].partition("\n\n")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(reader.name for reader in READERS)

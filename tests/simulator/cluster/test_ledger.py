"""Columns of many requests lie in a file, which changes nothing but where they are."""

import os
from pathlib import Path

import pytest
from builders import disaggregated, poisson_traffic

from simulator.cluster import ledger
from simulator.cluster.ledger import Room
from simulator.cluster.simulation import RunOptions, run
from simulator.results import SLO, Results


def written(folder: Path) -> bytes:
    """Return the requests file of a run, written into ``folder``."""
    record = run(disaggregated(2, 2), poisson_traffic(300, 20.0, 200, 20), RunOptions())
    assert (record.room is not None) == (ledger.MAPPED == 0)
    results = Results.from_record(record, slo=SLO(), context={"config": "", "seed": 0})
    results.write(folder, report=None)
    return (folder / "requests.parquet").read_bytes()


def test_columns_in_a_file_hold_what_they_hold_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parquet file of a run whose columns were mapped is the same, to the byte."""
    kept = written(tmp_path / "memory")
    monkeypatch.setattr(ledger, "MAPPED", 0)
    assert written(tmp_path / "file") == kept


def test_what_is_shed_is_still_there() -> None:
    """Numbers written before memory is given back are read afterwards."""
    room = Room(8 * 10_000, mapped=True)
    column = room.column(10_000, 1.5, float)
    column[7] = 2.5
    room.shed()
    assert room.mapped
    assert (column[6], column[7], len(column)) == (1.5, 2.5, 10_000)


def test_without_space_for_a_file_columns_lie_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs memory, not the run."""

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    room = Room(80, mapped=True)
    assert not room.mapped
    assert room.column(10, 0, int).tolist() == [0] * 10

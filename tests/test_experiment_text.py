"""The text that a hand-built experiment is known by."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from simulator.experiment import _plain, config_text


@dataclass(frozen=True)
class Holds:
    """A workload of somebody's that keeps a table."""

    table: pl.DataFrame


def text_of(table: pl.DataFrame) -> str:
    """Return the text of settings with such a workload."""
    return config_text(_plain({"workload": Holds(table)}))


def test_a_table_is_known_by_what_it_holds() -> None:
    """Names, types and values count, how they lie in memory does not; no library is digested."""
    table = pl.DataFrame({"a": np.arange(1000), "b": ["x", "y"] * 500})
    text = text_of(table)
    assert "polars" not in text
    assert len(text) < 1000
    assert text_of(table.clone()) == text
    assert text_of(pl.concat([table[:300], table[300:]], rechunk=False)) == text
    for other in (
        table[:999],
        table.with_columns(a=pl.col("a") + 1),
        table.rename({"a": "c"}),
        table.cast({"a": pl.Int32}),
    ):
        assert text_of(other) != text

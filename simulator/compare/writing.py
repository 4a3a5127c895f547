"""A comparison on disk: the table for programs and for spreadsheets, and the page to read."""

from pathlib import Path

from simulator.compare import measured
from simulator.compare.certainty import order_table
from simulator.compare.comparison import Comparison
from simulator.compare.measured import Beside
from simulator.compare.page import write_page
from simulator.compare.statistics import intervals
from simulator.files import whole, write_parquet

PAGE = "compare.html"
FILES = ("comparison.parquet", "comparison.csv", PAGE, "intervals.parquet", "orders.parquet")
"""The last two only where something was repeated."""

MEASURED = "measured.parquet"
"""Beside them where a measured run was given."""


def write(comparison: Comparison, folder: Path, beside: Beside | None = None) -> None:
    """Write ``comparison`` into ``folder`` as :data:`FILES`, each whole or not at all.

    What was measured stands ``beside`` it, in the page and as :data:`MEASURED`. Those of an earlier
    comparison go first: no table lies beside another one's page.

    Raises:
        ConfigError: a run's requests or gauges cannot be read.
        OSError: a file cannot be written; it names the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, MEASURED):
        (folder / name).unlink(missing_ok=True)
    with whole(folder / PAGE) as draft:
        write_page(comparison, draft, beside)
    write_parquet(folder / FILES[0], comparison.table)
    with whole(folder / FILES[1]) as draft:
        comparison.table.write_csv(draft)
    if comparison.repeated:
        write_parquet(folder / FILES[3], intervals(comparison))
        write_parquet(folder / FILES[4], order_table(comparison))
    if beside is not None:
        write_parquet(folder / MEASURED, measured.rows(comparison, beside))

"""A comparison on disk: the table for programs and for spreadsheets, and the page to read."""

from pathlib import Path

from simulator.compare.certainty import order_table
from simulator.compare.comparison import Comparison
from simulator.compare.page import write_page
from simulator.compare.statistics import intervals
from simulator.files import whole, write_parquet

PAGE = "compare.html"
FILES = ("comparison.parquet", "comparison.csv", PAGE, "intervals.parquet", "orders.parquet")
"""The last two only where something was repeated."""


def write(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison`` into ``folder`` as :data:`FILES`, each whole or not at all.

    Those of an earlier comparison go first: no table lies beside another one's page.

    Raises:
        ConfigError: a run's requests or gauges cannot be read.
        OSError: a file cannot be written; it names the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    with whole(folder / PAGE) as draft:
        write_page(comparison, draft)
    write_parquet(folder / FILES[0], comparison.table)
    with whole(folder / FILES[1]) as draft:
        comparison.table.write_csv(draft)
    if comparison.repeated:
        write_parquet(folder / FILES[3], intervals(comparison))
        write_parquet(folder / FILES[4], order_table(comparison))

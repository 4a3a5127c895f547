"""The parquet files :meth:`workloads.trace.Trace.write_parquet` writes."""

from pathlib import Path

import polars as pl

from workloads.cleaning import Policy, limit_context
from workloads.errors import TraceError
from workloads.trace import MAX_ROWS, METADATA_KEY, SCHEMA, Trace, TraceMeta
from workloads.where import Where

MAGIC = b"PAR1"
FREE_ROWS = 10_000_000
MAX_ROWS_PER_BYTE = 10
"""A trace's row takes some bytes even compressed; far more rows than that are a trap."""


class Canonical:
    """Reads a trace back, identical to what was written."""

    name = "canonical"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file is parquet."""
        return head.startswith(MAGIC)

    def read(self, path: Path, policy: Policy) -> Trace:
        """Return the trace; of ``policy`` only ``over_context`` can still apply."""
        meta, frame = _load(path)
        try:
            trace = Trace(frame, meta)
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from error
        return limit_context(trace, policy, Where(str(path), 0))


def _load(path: Path) -> tuple[TraceMeta, pl.DataFrame]:
    try:
        entry = pl.read_parquet_metadata(path).get(METADATA_KEY)
        if entry is None:
            raise TraceError(
                f"{path}: a parquet file without the metadata {METADATA_KEY}, expected one "
                "written by this program"
            )
        scan = pl.scan_parquet(path, glob=False)
        if scan.collect_schema() != SCHEMA:
            scan = scan.head(0)  # Trace names the column that differs
        _check_size(path, scan.select(pl.len()).collect().item())
        return TraceMeta.from_json(entry), scan.collect()
    except TraceError as error:
        raise TraceError(_named(path, error)) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise TraceError(f"{path}: the parquet file is damaged ({_first_line(error)})") from error


def _check_size(path: Path, rows: int) -> None:
    most = max(FREE_ROWS, MAX_ROWS_PER_BYTE * path.stat().st_size)
    if rows > min(most, MAX_ROWS):
        raise TraceError(f"{path}: claims {rows} rows, more than a file of its size can hold")


def _named(path: Path, error: TraceError) -> str:
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Traces in this program's own columns.

Three kinds of file: the parquet :meth:`workloads.trace.Trace.write_parquet` writes, a run's
``requests.parquet``, and anybody's parquet or CSV with the columns ``arrival_s``, ``input_tokens``
and ``output_tokens``.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Policy, Raw, clean, limit_context
from workloads.errors import TraceError
from workloads.readers.baseten import NEEDED as OF_BASETEN
from workloads.readers.columns import coded, identity, ignored, kept
from workloads.readers.fields import tokens
from workloads.readers.hints import Hints
from workloads.readers.parquet import MAGIC, first_line, names_of, own_threads_silent, require_size
from workloads.readers.rows import Columns, has_columns, read_rows
from workloads.readers.source import sha256
from workloads.readers.times import AUTO, Clock
from workloads.trace import (
    ABOUT_BLOCKS,
    BLOCKS_KEY,
    METADATA_KEY,
    REQUIRED,
    SCHEMA,
    Trace,
    TraceMeta,
)
from workloads.where import Where

OWN_UNIT = "s"
TIME = "arrival_s"
COLUMNS = Columns(
    time=TIME, input_tokens="input_tokens", output_tokens="output_tokens", unit=OWN_UNIT
)
OF_A_RUN = ("prefill_queue_enter_s", "first_token_s", "finish_s")
"""Columns that only a run's ``requests.parquet`` has: its clock is kept as it was."""

NEVER_NULL = (*REQUIRED, TIME)


class Canonical:
    """Reads a trace back, identical to what was written, and files with its columns."""

    name = "canonical"

    def sniff(self, head: bytes, path: Path) -> bool:
        """Tell whether the file is parquet, or CSV with the columns' names."""
        if head.startswith(MAGIC):
            return not set(OF_BASETEN) <= set(names_of(path))
        return has_columns(head, COLUMNS)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; of ``policy`` only ``over_context`` applies to one of our own."""
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                return read_rows(path, COLUMNS, policy, hints.time_unit, ("columns", "columns"))
        meta, frame = _load(path)
        if meta is None:
            return _from_columns(path, frame, policy, hints.time_unit)
        try:
            trace = Trace(frame, meta)
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from error
        return limit_context(trace, policy, Where(str(path), 0))


def _load(path: Path) -> tuple[TraceMeta | None, pl.DataFrame]:
    """Return the account, if the file holds one, and the columns there is a use for."""
    try:
        with own_threads_silent():
            return _read(path)
    except TraceError as error:
        raise TraceError(_named(path, error)) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise TraceError(f"{path}: the parquet file is damaged ({first_line(error)})") from error


def _read(path: Path) -> tuple[TraceMeta | None, pl.DataFrame]:
    entry = pl.read_parquet_metadata(path).get(METADATA_KEY)
    scan = pl.scan_parquet(path, glob=False)
    schema = scan.collect_schema()
    require_size(path, scan.select(pl.len()).collect().item())
    if entry is not None:
        return TraceMeta.from_json(entry), _own(scan, schema).collect()
    _check_columns(path, schema)
    blocks = ("block_runs",) if schema.get("block_runs") == SCHEMA["block_runs"] else ()
    return None, scan.select(*COLUMNS.needed, *_kept(schema), *blocks).collect()


def _own(scan: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
    """Return our own columns; no row where one is wrong, so that ``Trace`` names it at once."""
    absent = [name for name in SCHEMA if name not in schema and name not in NEVER_NULL]
    whole = scan.with_columns(pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in absent)
    if set(schema) | set(absent) == set(SCHEMA):
        whole = whole.select(SCHEMA.names())
    return whole if whole.collect_schema() == SCHEMA else whole.head(0)


def _check_columns(path: Path, schema: pl.Schema) -> None:
    """Refuse a foreign file without the needed columns, or with others than numbers in them."""
    absent = [name for name in COLUMNS.needed if name not in schema]
    if absent:
        raise TraceError(
            f"{path}: a parquet file without the metadata {METADATA_KEY} or the columns "
            f"{', '.join(COLUMNS.needed)} ({', '.join(absent)} not found)"
        )
    for name in COLUMNS.needed:
        if not schema[name].is_numeric():
            raise TraceError(f"{path}: column {name} must be numbers but is {schema[name]}")


def _kept(schema: pl.Schema) -> dict[str, str]:
    """Return the further columns to read, by the canonical ones they fill."""
    return kept([name for name, dtype in schema.items() if not dtype.is_nested()])


def _from_columns(path: Path, frame: pl.DataFrame, policy: Policy, time_unit: str) -> Trace:
    """Return the trace in a run's or a foreign file's columns."""
    where = Where(str(path), 0)
    schema = pl.read_parquet_schema(path)
    own = all(name in schema for name in OF_A_RUN)
    arrival, names = frame[TIME].cast(pl.Float64), kept(frame.columns)
    if own and time_unit == AUTO:
        time_unit = OWN_UNIT
    times = Clock(native=COLUMNS.unit, stated=time_unit).numbers(arrival, where)
    clock = arrival if own and times.unit == OWN_UNIT else times.ns.alias("time_ns")
    columns = {
        clock.name: clock,
        "input_tokens": tokens(frame["input_tokens"], where),
        "output_tokens": tokens(frame["output_tokens"], where),
        **identity(frame, names, where).to_dict(),
    }
    about = {"sha256": sha256(path), "time_unit": times.unit, "warnings": times.warnings}
    blocks = _blocks(path, schema)
    if blocks:
        columns["block_runs"], names = frame["block_runs"], {**names, "block_runs": "block_runs"}
    further = [name for name in schema if name not in (*COLUMNS.needed, *names)]
    raw = Raw(
        path=str(path),
        format="requests" if own else "columns",
        frame=coded(pl.DataFrame(columns)),
        first_row=0,
        utc_offset=times.utc_offset,
        transforms=() if own else tuple(ignored(Counter(dict.fromkeys(further, frame.height)))),
        about=about | blocks,
    )
    return clean(raw, policy)


def _blocks(path: Path, schema: Mapping[str, pl.DataType]) -> dict[str, Any]:
    """Return what a run's requests say of the blocks of their prompts, empty if nothing.

    Raises:
        TraceError: it is not what this program writes.
    """
    entry = pl.read_parquet_metadata(path).get(BLOCKS_KEY)
    if entry is None or schema.get("block_runs") != SCHEMA["block_runs"]:
        return {}
    try:
        about = dict(json.loads(entry))
        return {name: about[name] for name in ABOUT_BLOCKS}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TraceError(
            f"{path}: metadata {BLOCKS_KEY} is not what this program writes ({error})"
        ) from error


def _named(path: Path, error: TraceError) -> str:
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"

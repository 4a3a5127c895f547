"""A table of anybody's own columns, by a mapping: CSV, JSON lines, parquet or Arrow.

``workload.columns`` names the file's column of each canonical one: ``arrival_s`` (dates, or numbers
of ``workload.time_unit``), ``input_tokens`` and ``output_tokens``, and whatever else there is:
``source_id``, ``session_id``, ``turn``, ``parent_id`` (the ``source_id`` of the request that is
waited for), ``delay_s``, ``cached_tokens_hint``, ``model``, ``tenant``, ``src_ttft_s``,
``src_e2e_s``. Inside of JSON objects a dot goes a level down: ``usage.prompt_tokens``.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.fields import Batch, csv_batches
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.parquet import MAGIC, scanned, slices
from workloads.readers.rows import Columns, read_batches
from workloads.readers.source import read_head
from workloads.trace import Trace
from workloads.where import Where, shown

NEEDED = ("arrival_s", "input_tokens", "output_tokens")
FURTHER = (
    *("source_id", "session_id", "turn", "parent_id", "delay_s", "cached_tokens_hint"),
    *("model", "tenant", "src_ttft_s", "src_e2e_s"),
)
BATCH = 50_000


class Mapped:
    """Reads a file whose columns were named."""

    name = "mapped"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - never told by content
        """No file says of itself what its columns mean."""
        return False

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the column or row that is wrong."""
        columns = _columns(path, hints.columns)
        head = read_head(path)
        if head.startswith(MAGIC):
            batches, first_row = _parquet(path, columns), 0
        elif first_object(head) is not None:
            batches, first_row = _objects(path, columns), 1
        else:
            batches, first_row = csv_batches(path, _all(columns)), 2
        told = (hints.time_unit, (self.name, self.name), first_row)
        return read_batches(path, columns, policy, batches, told)


def _columns(path: Path, told: Mapping[str, str] | None) -> Columns:
    """Return the mapping as the reader wants it."""
    if told is None:
        raise TraceError(
            f"{path}: format=mapped needs workload.columns, the file's column of each of "
            f"{', '.join(NEEDED)}"
        )
    for name in told:
        if name not in (*NEEDED, *FURTHER):
            known = ", ".join((*NEEDED, *FURTHER))
            raise TraceError(f"workload.columns: {shown(name)} is not one of {known}")
    for name in NEEDED[1:]:
        if name not in told:
            raise TraceError(f"workload.columns: {name} is missing, the file's column of it")
    if len(set(told.values())) < len(told):
        raise TraceError(f"workload.columns: a column is named twice in {shown(dict(told), 200)}")
    also = {told[name]: name for name in FURTHER if name in told}
    if "parent_id" in told:
        also[told["parent_id"]] = "parent_name"
    return Columns(
        time=told.get("arrival_s"),
        input_tokens=told["input_tokens"],
        output_tokens=told["output_tokens"],
        also=also,
        chained=True,
    )


def _all(columns: Columns) -> tuple[str, ...]:
    return (*columns.needed, *columns.also)


def _objects(path: Path, columns: Columns) -> Iterator[Batch]:
    """Yield JSON objects in batches of text."""
    names, rows, first = _all(columns), measured.rows(path), 1
    while batch := list(islice(rows, BATCH)):
        texts = [[_text(fields, name, where) for name in names] for fields, where in batch]
        frame = pl.DataFrame(texts, schema=dict.fromkeys(names, pl.String), orient="row")
        yield Batch(first_row=first, fields=frame)
        first += len(batch)


def _text(fields: Mapping[str, Any], name: str, where: Where) -> str | None:
    """Return a field, or one inside another, as text."""
    value: Any = fields.get(name)
    if value is None and "." in name:
        value = fields
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list | dict | bool):
        where.fail(0, name, value, "text or a number")
    return None if value is None else str(value).encode(errors="replace").decode()


def _parquet(path: Path, columns: Columns) -> Iterator[Batch]:
    """Yield a parquet file's columns in batches of text."""
    names = _all(columns)
    scanned(path, names)
    for first, frame in slices(path, names):
        texts = [frame[name].cast(pl.String).alias(name) for name in names]
        yield Batch(first_row=first, fields=pl.DataFrame(texts))

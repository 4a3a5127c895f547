"""Baseten's traces: parquet or Arrow with a request per row and hashes of its prompt's blocks.

``timestamp_start_unix_ms``, ``input_tokens``, ``output_tokens`` and perhaps ``total_hashes`` (a
list), ``block_size``, ``provided_session_id`` and ``duration_e2e_ms``; ``prompt`` is not read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.readers.calls import Calls, in_session, nullable, seconds, text, turns, whole
from workloads.readers.hints import Hints
from workloads.readers.parquet import ARROW, MAGIC, names_of, require_size, scan_of, told
from workloads.readers.prompts import require_room
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where

TIME, HASHES, SIZE = "timestamp_start_unix_ms", "total_hashes", "block_size"
NEEDED = (TIME, "input_tokens", "output_tokens")
FURTHER = (HASHES, SIZE, "provided_session_id", "duration_e2e_ms")
SLICE = 50_000


class Baseten:
    """Reads requests, their sessions and blocks."""

    name = "baseten"

    def sniff(self, head: bytes, path: Path) -> bool:
        """Tell whether the file is parquet or Arrow with these columns."""
        return head.startswith((MAGIC, ARROW)) and set(NEEDED) <= set(names_of(path))

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        calls, numbers = Calls(path), dict[str, int]()
        size = hints.block_size
        for fields, where in _rows(path):
            size = _add(fields, where, calls, (numbers, size))
        parents = in_session(calls.column("session_id"), calls.times)
        calls.columns |= {"parent_id": list(nullable(parents)), "turn": list(turns(parents))}
        _think(calls)
        clock = Clock(native="ms", stated=hints.time_unit)
        about = {"block_size": size, "block_scope": "global", "tail_block": "partial"}
        return clean(calls.raw(self.name, clock, **about), policy)


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], Where]]:
    """Yield the rows with their places, slice by slice."""
    absent = set(NEEDED) - set(names_of(path))
    if absent:
        raise TraceError(f"{path}: has no column {min(absent)}, expected {', '.join(NEEDED)}")
    with told(path):
        scan = scan_of(path)
        names = [name for name in (*NEEDED, *FURTHER) if name in scan.collect_schema()]
        count = int(scan.select(pl.len()).collect().item())
    require_size(path, count)
    for first in range(0, count, SLICE):
        with told(path):
            rows = scan.select(names).slice(first, SLICE).collect().to_dicts()
        for at, fields in enumerate(rows):
            yield fields, Where(str(path), first + at)


def _add(
    fields: dict[str, Any], where: Where, calls: Calls, known: tuple[dict[str, int], int | None]
) -> int | None:
    """Take one row and return the tokens of a block, once they are known."""
    took = fields.get("duration_e2e_ms")
    tokens = whole(fields["input_tokens"], "input_tokens", where)
    calls.add(
        seconds(fields[TIME], TIME, where, 0),
        tokens,
        whole(fields["output_tokens"], "output_tokens", where),
        session_id=text(fields, "provided_session_id", where),
        src_e2e_s=None if took is None else seconds(took, "duration_e2e_ms", where, 0) / 1e3,
    )
    numbers, size = known
    hashes = fields.get(HASHES)
    if hashes is None:
        calls.prompts.add(None)
        return size
    own = fields.get(SIZE, size)
    if own is None:
        where.fail(0, SIZE, None, "the tokens of a block: say so with workload.block_size")
    own = whole(own, SIZE, where)
    if own == 0 or (size is not None and own != size):
        where.fail(0, SIZE, own, f"{size or 'at least 1'}, as in other rows or workload.block_size")
    if not isinstance(hashes, list) or any(isinstance(each, list | dict) for each in hashes):
        where.fail(0, HASHES, hashes, "a list of hashes")
    require_room(len(hashes), own, tokens, HASHES, where)
    calls.prompts.add([(numbers.setdefault(str(each), len(numbers)), 1) for each in hashes])
    return own


def _think(calls: Calls) -> None:
    """Fill in the time from the end of the turn before, where that is known."""
    took = calls.column("src_e2e_s")
    calls.columns["delay_s"] = [
        None
        if parent is None or took[parent] is None
        else calls.delay((time - calls.times[parent]) / 1e3 - took[parent])
        for time, parent in zip(calls.times, calls.columns["parent_id"], strict=True)
    ]

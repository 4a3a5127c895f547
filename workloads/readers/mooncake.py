"""Mooncake traces: one JSON object per line, with the ids of the prompt's KV blocks.

``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [int]}``: cumulative ids of
512-token blocks, the last one partial. Source: github.com/kvcache-ai/Mooncake, FAST25-release,
Apache-2.0. ``hash_ids`` may be absent.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from workloads.cleaning import Policy, Raw, clean
from workloads.errors import TraceError
from workloads.readers.fields import tokens
from workloads.readers.source import Lines, read_lines, sha256
from workloads.trace import RUN, Trace
from workloads.where import Where, shown

BLOCK_SIZE = 512
LICENCE = "Apache-2.0 (Mooncake FAST25-release)"
MAX_TIMESTAMP_MS = 9_000_000_000_000
"""The latest instant in ms (year 2255) that nanoseconds in 64 bits can hold."""

MAX_BLOCK_ID = 2**32 - 1
NEEDED = ("timestamp", "input_length", "output_length")
SESSION_FIELDS = ("session_id", "delay", "chat_id")
ROW = pl.Struct(
    {
        "timestamp": pl.Float64,
        "input_length": pl.Float64,
        "output_length": pl.Float64,
        "hash_ids": pl.List(pl.Float64),
    }
)
"""Numbers are decoded as floats, exact below 2^53, so that a fraction is seen, not cut."""

SUSPECT = r'true|false|"(?:session_id|delay|chat_id)"|"hash_ids"\s*:\s*[^\[\s]|^[^{]|[^}\s]\s*$'
"""Text the fast decoder would take too kindly; such a batch is looked at row by row."""


class Mooncake:
    """Reads rows that carry the whole prompt (no sessions)."""

    name = "mooncake"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the first line is a JSON object with Mooncake's fields and no session."""
        try:
            row = json.loads(head.split(b"\n", 1)[0])
        except (ValueError, RecursionError):
            return False
        return (
            isinstance(row, dict)
            and all(name in row for name in NEEDED)
            and not any(name in row for name in SESSION_FIELDS)
            and isinstance(row.get("hash_ids", []), list)
        )

    def read(self, path: Path, policy: Policy) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        frames = [_parse(lines, str(path)) for lines in read_lines(path)]
        if not frames:
            raise TraceError(f"{path}: the file holds only blank lines")
        frame = pl.concat(frames)
        has_blocks = frame["block_runs"].null_count() < frame.height
        blocks = {"block_size": BLOCK_SIZE, "block_scope": "global", "tail_block": "partial"}
        about = {"sha256": sha256(path), "licence": LICENCE, "time_unit": "ms"}
        raw = Raw(
            path=str(path),
            format=self.name,
            frame=frame,
            first_row=1,
            about=about | (blocks if has_blocks else {}),
        )
        return clean(raw, policy)


def _parse(lines: Lines, path: str) -> pl.DataFrame:
    where = Where(path, lines.first_row)
    rows = _decode(lines, path)
    times = rows["timestamp"]
    good = times.is_finite() & times.is_between(0, MAX_TIMESTAMP_MS)
    where.require(good, times, f"milliseconds in 0..{MAX_TIMESTAMP_MS}")
    input_tokens = tokens(rows["input_length"], where)
    return pl.DataFrame(
        {
            "time_ns": (times * 1e6).round().cast(pl.Int64),
            "input_tokens": input_tokens,
            "output_tokens": tokens(rows["output_length"], where),
            "block_runs": block_runs(rows["hash_ids"], input_tokens, where),
        }
    )


def _decode(lines: Lines, path: str) -> pl.DataFrame:
    """Decode a batch at once, or row by row where that fails or may be too lenient."""
    if not lines.text.str.contains(SUSPECT).any():
        try:
            rows = lines.text.str.json_decode(ROW)
        except pl.exceptions.PolarsError:
            return _decode_slowly(lines, path)
        columns = rows.struct.unnest()
        if rows.len() == lines.text.len() and not any(
            columns[name].null_count() for name in NEEDED
        ):
            return columns
    return _decode_slowly(lines, path)


def _decode_slowly(lines: Lines, path: str) -> pl.DataFrame:
    rows = [_row(text, lines.first_row + index, path) for index, text in enumerate(lines.text)]
    return pl.DataFrame(rows, schema=dict(ROW))


def _row(text: str, row: int, path: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(
            f"{path}: row {row} is not one complete JSON object ({error}): {shown(text)}"
        ) from error
    if not isinstance(fields, dict):
        raise TraceError(f"{path}: row {row} is {shown(fields)}, expected a JSON object")
    for name in SESSION_FIELDS:
        if name in fields:
            raise TraceError(
                f"{path}: row {row} has the field {name}; sessions in Mooncake rows are not "
                "supported, expected rows without it"
            )
    ids = fields.get("hash_ids")
    if ids is not None and not (isinstance(ids, list) and all(_is_number(i) for i in ids)):
        Where(path, row).fail(0, "hash_ids", ids, "a list of block ids")
    return {name: _number(fields, name, row, path) for name in NEEDED} | {"hash_ids": ids}


def _number(fields: dict[str, Any], name: str, row: int, path: str) -> float:
    if name not in fields:
        raise TraceError(f"{path}: row {row} has no field {name}, expected {', '.join(NEEDED)}")
    value = fields[name]
    if not _is_number(value):
        Where(path, row).fail(0, name, value, "a number")
    return float(value)


def _is_number(value: object) -> bool:
    """Tell numbers a float can hold from the rest; JSON's true and false are none."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e300


def block_runs(ids: pl.Series, input_tokens: pl.Series, where: Where) -> pl.Series:
    """Return lists of block ids as lists of runs of consecutive ids; null stays null."""
    counts = ids.list.len()
    limit = -(-input_tokens.cast(pl.Int64) // BLOCK_SIZE)
    fits = (counts.cast(pl.Int64) <= limit).fill_null(value=True)
    expected = f"at most one per {BLOCK_SIZE} input tokens"
    where.require(fits, counts.alias("number of hash_ids"), expected)
    lengths = counts.fill_null(0).to_numpy()
    flat = ids.drop_nulls().explode(empty_as_null=False).to_numpy()
    owner = np.repeat(np.arange(lengths.size), lengths)
    wrong = np.flatnonzero(~((flat >= 0) & (flat <= MAX_BLOCK_ID) & (flat == np.floor(flat))))
    if wrong.size:
        at = int(wrong[0])
        where.fail(int(owner[at]), "hash_ids", float(flat[at]), f"whole ids in 0..{MAX_BLOCK_ID}")
    return _as_runs(flat, owner, ids.is_null())


def _as_runs(
    flat: np.ndarray[Any, Any], owner: np.ndarray[Any, Any], absent: pl.Series
) -> pl.Series:
    """Cut ``flat`` wherever the row changes or an id does not follow the one before."""
    new = np.ones(flat.size, dtype=bool)
    new[1:] = (np.diff(flat) != 1) | (np.diff(owner) != 0)
    starts = np.flatnonzero(new)
    runs = pl.DataFrame(
        {
            "row": owner[starts].astype(np.uint32),
            "first": flat[starts].astype(np.uint32),
            "n": np.diff(np.append(starts, flat.size)).astype(np.uint32),
        }
    )
    lists = runs.group_by("row", maintain_order=True).agg(pl.struct("first", "n").alias("runs"))
    rows = pl.DataFrame({"row": pl.int_range(absent.len(), dtype=pl.UInt32, eager=True)})
    joined = rows.join(lists, on="row", how="left", maintain_order="left")["runs"]
    empty = pl.Series([[]], dtype=pl.List(RUN))
    filled = pl.select(
        pl.when(pl.lit(joined).is_null() & ~pl.lit(absent)).then(pl.lit(empty)).otherwise(joined)
    )
    return filled.to_series().cast(pl.List(RUN)).alias("block_runs")

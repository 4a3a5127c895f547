"""Mooncake traces: one JSON object per request, with the ids of the prompt's KV blocks.

``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [int]}``: cumulative ids of
512-token blocks, the last one partial. Source: github.com/kvcache-ai/Mooncake, FAST25-release.
``hash_ids`` may be absent, or hold hashes (64-bit numbers or text), which are then numbered in
order of appearance. Anybody's file may have this shape, so nothing is said of its licence.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Policy, Raw, clean
from workloads.errors import TraceError
from workloads.readers.blocks import Counters, Hashes, HashesError, block_runs
from workloads.readers.columns import NAMES, coded, identity, ignored, kept
from workloads.readers.fields import tokens
from workloads.readers.hints import Hints
from workloads.readers.mooncake_sessions import BLOCK_SIZE, NEEDED, RESIZE, read_sessions
from workloads.readers.objects import (
    first_object,
    further_fields,
    json_row,
    plain_text,
    read_objects,
    without_surrogates,
)
from workloads.readers.source import Lines, read_head, sha256
from workloads.readers.times import OFFSET, Clock, Times, resolution
from workloads.trace import Trace, Transform
from workloads.where import Where

CHAT = "chat_id"
SESSION_FIELDS = ("session_id", "delay", CHAT)
"""Rows with one of these are turns of sessions; with the last it is not Mooncake."""

IDENTITY = tuple(name for name in NAMES if name not in SESSION_FIELDS)
FLOAT = pl.Float64()
EXACT = 2.0**53
"""Numbers are decoded as floats, exact below this, so that a fraction is seen, not cut."""

SUSPECT = (
    r'true|false|"(?:session_id|delay|chat_id)"|"hash_ids"\s*:\s*[^\[\s]|^[^{]|[^}\s]\s*$|.[{]'
)
"""Text the fast decoder would take too kindly, or nested objects; such a batch is looked at row by
row."""


class SessionsError(Exception):
    """The rows are turns of sessions: they are read another way."""


class Mooncake:
    """Reads rows of single requests and, where they name sessions, of their turns."""

    name = "mooncake"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with an object of Mooncake's fields."""
        row = first_object(head)
        return (
            row is not None
            and all(name in row for name in NEEDED[1:])
            and (NEEDED[0] in row or "session_id" in row)
            and CHAT not in row
            and isinstance(row.get("hash_ids") or [], list)
        )

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        clock = Clock(native="ms", stated=hints.time_unit, whole=True)
        size = hints.block_size or BLOCK_SIZE
        try:
            try:
                return _File(path, clock, Counters(), size).read(policy)
            except HashesError:
                return _File(path, clock, Hashes(), size).read(policy)
        except SessionsError:
            return read_sessions(path, policy, hints)


@dataclass(slots=True)
class _File:
    """One file while it is read: how its times and block ids are written, and what is left over."""

    path: Path
    clock: Clock
    numbering: Counters | Hashes
    block_size: int
    dates: bool = False
    offset: bool = False
    further: Counter[str] = field(default_factory=Counter)

    def read(self, policy: Policy) -> Trace:
        """Return the trace of the whole file."""
        head = read_head(self.path)
        self._look_at_times(first_object(head))
        frames = [self._parsed(lines) for lines in read_objects(self.path, head)]
        if not frames:
            raise TraceError(f"{self.path}: the file holds only blank lines")
        frame = coded(pl.concat(frames, how="diagonal_relaxed"))
        times = self._times(frame["time"].alias("timestamp"))
        has_blocks = frame["block_runs"].null_count() < frame.height
        blocks = {"block_size": self.block_size, "block_scope": "global", "tail_block": "partial"}
        about = {"sha256": sha256(self.path), "time_unit": times.unit, "warnings": times.warnings}
        raw = Raw(
            path=str(self.path),
            format="mooncake",
            frame=frame.drop("time").with_columns(times.ns.alias("time_ns")),
            first_row=1,
            utc_offset=times.utc_offset,
            transforms=(*ignored(self.further), *self._numbered()),
            about=about | (blocks if has_blocks else {}),
        )
        return clean(raw, policy)

    def _numbered(self) -> list[Transform]:
        """Return the account of hashes that became numbers, if there were any."""
        distinct = self.numbering.distinct
        counts: dict[str, int | float | str] = {"distinct": distinct}
        return [Transform(name="hashes_numbered", counts=counts)] if distinct else []

    def _look_at_times(self, row: dict[str, Any] | None) -> None:
        stamp = (row or {}).get("timestamp")
        if isinstance(stamp, str):
            self.dates = True
            self.offset = OFFSET.search(stamp) is not None

    def _times(self, times: pl.Series) -> Times:
        if self.dates:
            offset = "+00:00" if self.offset else ""
            return Times(ns=times, unit=resolution(times), utc_offset=offset)
        return self.clock.numbers(times, Where(str(self.path), 1))

    def _parsed(self, lines: Lines) -> pl.DataFrame:
        """Return a batch's times, tokens, blocks and identity; times are ns only where dates."""
        where = Where(str(self.path), lines.first_row)
        has = [
            name for name in IDENTITY if lines.text.str.contains(f'"{name}"', literal=True).any()
        ]
        names = kept(has)
        rows = self._decoded(lines, list(names))
        input_tokens = tokens(rows["input_length"], where)
        limit = -(-input_tokens.cast(pl.Int64) // self.block_size)
        limit = limit.alias(f"one per {self.block_size} input tokens; {RESIZE}")
        return pl.DataFrame(
            {
                "time": self._stamps(rows["timestamp"], lines, where),
                "input_tokens": input_tokens,
                "output_tokens": tokens(rows["output_length"], where),
                "block_runs": block_runs(rows["hash_ids"], limit, self.numbering, where),
                **identity(rows, names, where).to_dict(),
            }
        )

    def _stamps(self, stamps: pl.Series, lines: Lines, where: Where) -> pl.Series:
        if self.dates:
            return self.clock.dates(stamps, where, utc_offset=self.offset)
        where.require(stamps.is_finite() & (stamps >= 0), stamps, "a number of at least 0")
        if stamps.max() < EXACT:  # type: ignore[operator]
            return stamps
        exact = lines.text.str.json_decode(pl.Struct({"timestamp": pl.Int64()}))
        whole = exact.struct.field("timestamp")
        return stamps if whole.null_count() else whole

    def _decoded(self, lines: Lines, names: Sequence[str]) -> pl.DataFrame:
        """Decode a batch at once, or row by row where that fails or may be too lenient."""
        schema = self._schema(names)
        if not lines.text.str.contains(SUSPECT).any():
            try:
                rows = lines.text.str.json_decode(pl.Struct(schema))
            except pl.exceptions.PolarsError:
                return self._decoded_slowly(lines, schema)
            columns = rows.struct.unnest()
            if rows.len() == lines.text.len() and not any(
                columns[name].null_count() for name in NEEDED
            ):
                further_fields(lines, schema, self.further)
                return columns
        return self._decoded_slowly(lines, schema)

    def _schema(self, names: Sequence[str]) -> dict[str, pl.DataType]:
        stamp = pl.String() if self.dates else pl.Float64()
        numbers: dict[str, pl.DataType] = {"timestamp": stamp, **dict.fromkeys(NEEDED[1:], FLOAT)}
        return numbers | {"hash_ids": self.numbering.dtype} | dict.fromkeys(names, pl.String())

    def _decoded_slowly(self, lines: Lines, schema: dict[str, pl.DataType]) -> pl.DataFrame:
        rows = []
        for index, text in enumerate(lines.text):
            fields = json_row(text, lines.first_row + index, str(self.path))
            self.further.update(name for name in fields if name not in schema)
            rows.append(self._row(fields, schema, Where(str(self.path), lines.first_row + index)))
        return pl.DataFrame(rows, schema=schema)

    def _row(
        self, fields: dict[str, Any], schema: dict[str, pl.DataType], where: Where
    ) -> dict[str, Any]:
        """Return one row's values as ``schema`` wants them."""
        for name in SESSION_FIELDS:
            if name in fields:
                raise SessionsError
        stamp = {"timestamp": _date(fields, where)} if self.dates else {}
        texts = [name for name, dtype in schema.items() if dtype == pl.String and name not in stamp]
        return {
            **{name: _number(fields, name, where) for name in NEEDED if name not in stamp},
            **stamp,
            "hash_ids": self._ids(fields.get("hash_ids"), where),
            **{name: plain_text(fields.get(name), name, where) for name in texts},
        }

    def _ids(self, ids: object, where: Where) -> list[float] | list[str] | None:
        if ids is None:
            return None
        numbers = isinstance(ids, list) and all(_is_number(each) for each in ids)
        if numbers and isinstance(self.numbering, Counters):
            return [float(each) for each in ids]  # type: ignore[attr-defined]
        kinds = (int, float, str)
        if not isinstance(ids, list) or any(
            isinstance(each, bool) or not isinstance(each, kinds) for each in ids
        ):
            where.fail(0, "hash_ids", ids, "a list of block ids")
        if isinstance(self.numbering, Counters):
            raise HashesError
        return [without_surrogates(str(each)) for each in ids]


def _date(fields: dict[str, Any], where: Where) -> str:
    stamp = _present(fields, "timestamp", where)
    if not isinstance(stamp, str):
        where.fail(0, "timestamp", stamp, "a date, as in the rows above")
    return without_surrogates(stamp)


def _number(fields: dict[str, Any], name: str, where: Where) -> float:
    value = _present(fields, name, where)
    if not _is_number(value):
        where.fail(0, name, value, "a number")
    return float(value)  # type: ignore[arg-type]


def _present(fields: dict[str, Any], name: str, where: Where) -> object:
    if name not in fields:
        raise TraceError(
            f"{where.path}: row {where.first_row} has no field {name}, expected {', '.join(NEEDED)}"
        )
    return fields[name]


def _is_number(value: object) -> bool:
    """Tell numbers a float can hold from the rest; JSON's true and false are none."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e300

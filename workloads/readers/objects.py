"""JSON objects of a file, one per request: by lines, or in an array or over several lines."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from workloads.errors import TraceError
from workloads.readers.source import BLOCK_BYTES, Lines, read_lines, read_text
from workloads.where import Where, shown

BATCH = 20_000
"""Objects per batch where they do not stand one on a line."""

KEY = r'"(?:[^"\\]|\\.)*"\s*:'
_BETWEEN = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()


def first_object(head: bytes) -> dict[str, Any] | None:
    """Return the object a file begins with, on a line of its own or not, if there is one."""
    text = head.decode(errors="ignore").lstrip().removeprefix("[").lstrip()
    try:
        found, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_objects(path: Path, head: bytes) -> Iterator[Lines]:
    """Yield the file's objects as lines of JSON; ``head`` tells how they stand.

    Where the first line is not one whole object, ``first_row`` counts objects instead of lines.
    """
    if _stands_by_lines(head):
        return read_lines(path)
    return _streamed(path)


def _stands_by_lines(head: bytes) -> bool:
    line = head.split(b"\n", 1)[0].strip()
    if line.startswith(b"[") or line == b"{":
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return first_object(head) is None


def _streamed(path: Path) -> Iterator[Lines]:
    """Yield the elements of one array, or objects one after the other, in batches."""
    elements = map(json.dumps, _Elements(path).read())
    first = 1
    while rows := list(islice(elements, BATCH)):
        yield Lines(first, pl.Series(rows, dtype=pl.String))
        first += len(rows)


class _Elements:
    """The values of a file, in one array or not, each decoded as soon as its text is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest, self._at = "", 0
        self._row = 1
        self._array = ""  # then its [ and its ]

    def read(self) -> Iterator[object]:
        """Yield the values; raise ``TraceError`` for text that is none."""
        for chunk in read_text(self._path):
            self._rest, self._at = self._rest[self._at :] + chunk, 0
            yield from self._complete()
        left = self._rest[self._at :]
        if left.strip():
            self._fail(left)
        if self._array == "[":
            raise TraceError(
                f"{self._path}: the array ends after {self._row - 1} objects, without its ]"
            )

    def _complete(self) -> Iterator[object]:
        """Yield the values that are complete in what has been read so far."""
        while self._skip() < len(self._rest):
            sign = self._rest[self._at]
            if self._array == "[]":
                self._fail(self._rest[self._at :])
            if (sign == "[" and self._row == 1 and not self._array) or (
                sign == "]" and self._array == "["
            ):
                self._array += sign
                self._at += 1
                continue
            try:
                found, self._at = _DECODER.raw_decode(self._rest, self._at)
            except RecursionError:
                self._fail(self._rest[self._at :])
            except ValueError:
                if len(self._rest) - self._at > BLOCK_BYTES:
                    self._fail(self._rest[self._at :])
                return
            yield found
            self._row += 1

    def _skip(self) -> int:
        """Pass over what stands between values and return where the next one begins."""
        between = _BETWEEN.match(self._rest, self._at)
        self._at = between.end() if between else self._at
        return self._at

    def _fail(self, text: str) -> NoReturn:
        raise TraceError(
            f"{self._path}: object {self._row} is not one complete JSON object: {shown(text[:200])}"
        )


def further_fields(lines: Lines, known: Mapping[str, object], seen: Counter[str]) -> None:
    """Count in ``seen`` the rows of each field that is not ``known``; nested ones are not told."""
    text = lines.text
    expected = pl.Series("n", [0] * text.len(), dtype=pl.UInt32)
    for name in known:
        expected = expected + text.str.contains(f'"{name}"', literal=True)
    if (text.str.count_matches(KEY) == expected).all():
        return
    keys = text.str.extract_all(KEY).explode(empty_as_null=False)
    found = keys.str.strip_suffix(":").str.strip_chars().value_counts()
    for quoted, rows in found.iter_rows():
        name = json.loads(quoted) if "\\" in quoted else quoted[1:-1]
        if name not in known:
            seen[name] += rows


def json_row(text: str, row: int, path: str) -> dict[str, Any]:
    """Return the JSON object on a line; raise ``TraceError`` for anything else."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(
            f"{path}: row {row} is not one complete JSON object ({error}): {shown(text)}"
        ) from error
    if not isinstance(fields, dict):
        raise TraceError(f"{path}: row {row} is {shown(fields)}, expected a JSON object")
    return fields


def plain_text(value: object, name: str, where: Where) -> str | None:
    """Return a name or number as text; raise ``TraceError`` for a list or an object."""
    if value is None:
        return None
    if isinstance(value, list | dict | bool):
        where.fail(0, name, value, "text or a number")
    return without_surrogates(str(value))


def without_surrogates(text: str) -> str:
    """Return ``text`` as UTF-8 can hold it: JSON may spell half a character."""
    return text.encode(errors="replace").decode()

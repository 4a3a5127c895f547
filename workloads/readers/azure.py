"""Azure LLM inference traces of 2023 and 2024: CSV with a time and two token counts.

The two years share the header ``TIMESTAMP,ContextTokens,GeneratedTokens``. 2023 has naive times
with 7 digits of a second (100 ns), 2024 has 6 digits and an offset from UTC; the first data row
tells which. Source: github.com/Azure/AzurePublicDataset, CC-BY 4.0.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from workloads.cleaning import Policy, Raw, clean
from workloads.errors import TraceError
from workloads.readers.fields import csv_fields, csv_header, timestamps_ns, tokens
from workloads.readers.source import Lines, read_lines, sha256
from workloads.trace import Trace
from workloads.where import Where

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
LICENCE = "CC-BY 4.0, Microsoft Azure"
OFFSET = re.compile(r"(Z|[+-]\d\d:?\d\d)\s*$")


class Azure:
    """Reads both years."""

    name = "azure"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the first line is the Azure header."""
        first = head.split(b"\n", 1)[0].decode(errors="replace").strip()
        return set(first.split(",")) == set(COLUMNS)

    def read(self, path: Path, policy: Policy) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        batches = read_lines(path)
        header, first = _header(batches, str(path))
        has_offset = _has_offset(header, first.text[0])
        frames = [_parse(first, header, str(path), utc_offset=has_offset)]
        frames += [_parse(lines, header, str(path), utc_offset=has_offset) for lines in batches]
        raw = Raw(
            path=str(path),
            format="azure2024" if has_offset else "azure2023",
            frame=pl.concat(frames),
            first_row=2,
            utc_offset="+00:00" if has_offset else "",
            about={
                "sha256": sha256(path),
                "licence": LICENCE,
                "time_unit": "us" if has_offset else "100ns",
            },
        )
        return clean(raw, policy)


def _has_offset(header: list[str], row: str) -> bool:
    """Tell whether the time in the first data row bears an offset from UTC."""
    cells = dict(zip(header, row.split(","), strict=False))
    return OFFSET.search(cells.get("TIMESTAMP", "")) is not None


def _header(batches: Iterator[Lines], path: str) -> tuple[list[str], Lines]:
    """Return the header's names and the first batch of data rows."""
    first = next(batches, None)
    if first is None:
        raise TraceError(f"{path}: the file holds only blank lines")
    header = csv_header(first.text[0], COLUMNS, path)
    rest = Lines(2, first.text[1:]) if first.text.len() > 1 else next(batches, None)
    if rest is None:
        raise TraceError(f"{path}: the file has a header but no requests")
    return header, rest


def _parse(lines: Lines, header: list[str], path: str, *, utc_offset: bool) -> pl.DataFrame:
    fields = csv_fields(lines, header, COLUMNS, path)
    where = Where(path, lines.first_row)
    return pl.DataFrame(
        {
            "time_ns": timestamps_ns(fields["TIMESTAMP"], where, utc_offset=utc_offset),
            "input_tokens": tokens(fields["ContextTokens"], where),
            "output_tokens": tokens(fields["GeneratedTokens"], where),
        }
    )

"""One reader per trace format, and the choice among them."""

from pathlib import Path
from typing import Protocol

from workloads import checks
from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers.aiperf import AIPerf
from workloads.readers.azure import Azure
from workloads.readers.bench import Bench
from workloads.readers.canonical import Canonical
from workloads.readers.engine_log import EngineLog
from workloads.readers.mooncake import Mooncake
from workloads.readers.source import read_head, require_file
from workloads.readers.times import AUTO, UNITS
from workloads.trace import Trace
from workloads.where import shown


class Reader(Protocol):
    """One trace format."""

    @property
    def name(self) -> str:
        """What ``format=`` calls it."""
        ...

    def sniff(self, head: bytes, path: Path) -> bool:
        """Tell from the file's decompressed beginning whether it is this format."""
        ...

    def read(self, path: Path, policy: Policy, time_unit: str = "auto") -> Trace:
        """Return the trace, or raise ``TraceError`` in one sentence."""
        ...


READERS: tuple[Reader, ...] = (
    Azure(),
    Mooncake(),
    Canonical(),
    Bench(),
    AIPerf(),
    EngineLog(),
)
"""Every known format. A new one is one module and one entry here."""


def read_trace(
    path: str,
    *,
    format: str = "auto",  # noqa: A002 - the word of the settings
    policy: Policy | None = None,
    time_unit: str = "auto",
) -> Trace:
    """Return the trace in ``path``, plain or compressed with gzip or zstd.

    ``format`` is a reader's name or ``auto``: then exactly one reader must recognise the file.
    ``time_unit`` says what numeric times count, ``s``, ``ms``, ``us`` or ``ns``; with ``auto`` that
    is the format's unit, unless the numbers can only be clock times in another, which is said, or
    do not look like it, which is refused or said.
    Raises ``TraceError`` naming the file, and where it applies the row, field and value.
    """
    known = [reader.name for reader in READERS]
    if format not in ("auto", *known):
        raise TraceError(f"trace: format must be auto or one of {_list(known)} but got {format!r}")
    checks.one_of("trace", "time_unit", time_unit, (AUTO, *UNITS))
    file = require_file(path)
    reader = _detect(file) if format == "auto" else READERS[known.index(format)]
    return reader.read(file, policy or Policy(), time_unit)


def _detect(path: Path) -> Reader:
    head = read_head(path)
    matches = [reader for reader in READERS if reader.sniff(head, path)]
    if len(matches) == 1:
        return matches[0]
    row = head.split(b"\n", 1)[0].rstrip(b"\r")
    if matches:
        names = _list([reader.name for reader in matches])
        raise TraceError(
            f"{path}: the format is ambiguous, {names} all fit; choose one with format= "
            f"(row 1 is {_text(row)})"
        )
    raise TraceError(
        f"{path}: not a known trace format ({_list([reader.name for reader in READERS])}); "
        f"row 1 is {_text(row)}"
    )


def _text(row: bytes) -> str:
    """Return the row as text if it is text, else as bytes."""
    try:
        text = row.decode()
    except UnicodeDecodeError:
        return f"{shown(row)} (binary)"
    return shown(text) if text.replace("\t", " ").isprintable() else f"{shown(row)} (binary)"


def _list(names: list[str]) -> str:
    return ", ".join(names)

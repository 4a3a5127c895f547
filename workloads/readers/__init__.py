"""One reader per trace format, and the choice among them."""

from pathlib import Path
from typing import Any, Protocol

from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers.agentic import Agentic
from workloads.readers.aiperf import AIPerf
from workloads.readers.applied_compute import AppliedCompute
from workloads.readers.azure import Azure
from workloads.readers.bailian import Bailian
from workloads.readers.baseten import Baseten
from workloads.readers.bench import Bench
from workloads.readers.canonical import Canonical
from workloads.readers.dynamo import Dynamo
from workloads.readers.engine_log import EngineLog
from workloads.readers.hints import Hints
from workloads.readers.mapped import Mapped
from workloads.readers.mooncake import Mooncake
from workloads.readers.otel import OTel
from workloads.readers.others import OTHERS
from workloads.readers.ragpulse import RAGPulse
from workloads.readers.servegen import ServeGen
from workloads.readers.source import read_head, require_file
from workloads.readers.tables import TABLES
from workloads.readers.tracelab import TraceLab
from workloads.readers.weka import Weka
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

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace, or raise ``TraceError`` in one sentence."""
        ...


READERS: tuple[Reader, ...] = (
    Azure(),
    Mooncake(),
    Canonical(),
    Bench(),
    AIPerf(),
    EngineLog(),
    Dynamo(),
    Agentic(),
    AppliedCompute(),
    Bailian(),
    RAGPulse(),
    Weka(),
    TraceLab(),
    *TABLES,
    *OTHERS,
    OTel(),
    Baseten(),
    ServeGen(),
    Mapped(),
)
"""Every known format. A new one is one module and one entry here."""


def read_trace(
    path: str,
    *,
    format: str = "auto",  # noqa: A002 - the word of the settings
    policy: Policy | None = None,
    **told: Any,
) -> Trace:
    """Return the trace in ``path``, plain or compressed with gzip or zstd.

    ``format`` is a reader's name or ``auto``: then exactly one reader must recognise the file.
    ``told`` are the fields of :class:`workloads.readers.hints.Hints`. Of them ``time_unit`` says
    what numeric times count, ``s``, ``ms``, ``us`` or ``ns``; with ``auto`` that is the format's
    unit, unless the numbers can only be clock times in another, which is said, or do not look like
    it, which is refused or said.
    Raises ``TraceError`` naming the file, and where it applies the row, field and value.
    """
    hints = Hints(**told)
    known = [reader.name for reader in READERS]
    if format not in ("auto", *known):
        raise TraceError(f"trace: format must be auto or one of {_list(known)} but got {format!r}")
    file = require_file(path, folder=lambda folder: _of_folder(folder) is not None)
    if hints.columns is not None and format == "auto":
        format = Mapped.name  # noqa: A001
    reader = _detect(file) if format == "auto" else READERS[known.index(format)]
    return reader.read(file, policy or Policy(), hints)


def _of_folder(folder: Path) -> Reader | None:
    """Return the reader that takes a folder whole, if there is one."""
    whole: tuple[Reader, ...] = (ServeGen(), Weka())
    return next((reader for reader in whole if reader.sniff(b"", folder)), None)


def _detect(path: Path) -> Reader:
    whole = _of_folder(path) if path.is_dir() else None
    if whole is not None:
        return whole
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
        f"{path}: not a known trace format; row 1 is {_text(row)}; workload.columns reads any CSV, "
        "JSON lines or parquet by its columns"
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

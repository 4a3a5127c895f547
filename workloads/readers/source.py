"""Lines of a text file, plain, gzip or zstd, in blocks of bounded memory with their row numbers."""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from workloads.errors import TraceError
from workloads.readers.zstd import decompressed_bound

BLOCK_BYTES = 1 << 23
"""Bytes of text parsed at a time, and the longest line accepted."""

HEAD_BYTES = 1 << 20
"""Bytes a reader may look at to recognise its format."""

FREE_EXPANSION_BYTES = 1 << 28
MAX_EXPANSION = 100
"""A compressed file may grow to 256 MiB freely, beyond that to 100 times its size: traces, whose
times differ from row to row, compress 4 to 20 times."""

HEAD_LINES = 1000

OF_A_RUN = "requests.parquet"
"""The file of a run's folder that replays as a trace."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Lines:
    """Consecutive lines of a file, without their ends; ``first_row`` is the 1-based first one."""

    first_row: int
    text: pl.Series


def require_file(path: str, folder: Callable[[Path], bool] | None = None) -> Path:
    """Return ``path`` as a readable regular file that is not empty, or raise ``TraceError``.

    A folder is none, unless ``folder`` says that it can be read whole.
    """
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            if folder is not None and folder(file):
                return file
            run = f"; in it lies {OF_A_RUN}" if (file / OF_A_RUN).is_file() else ""
            raise TraceError(f"{path}: is a directory, expected a trace file{run}")
        if not file.exists():
            raise TraceError(f"{path}: no such file")
        if not file.is_file():
            raise TraceError(f"{path}: is not a regular file, expected a trace file")
        if file.stat().st_size == 0:
            raise TraceError(f"{path}: the file is empty")
    except (OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path}: cannot be opened ({error})") from error
    return file


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file as it lies on disk, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_head(path: Path) -> bytes:
    """Return up to :data:`HEAD_BYTES` of the file's decompressed beginning."""
    with _open(path) as (stream, codec):
        if codec == "zstd":
            lines = pl.scan_lines(path, glob=False).head(HEAD_LINES).collect_batches()
            first = "\n".join("\n".join(text) for text in _zstd_batches(path, lines))
            return first.encode()[:HEAD_BYTES].removeprefix(BYTE_ORDER_MARK)
        return stream.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)


def read_lines(path: Path) -> Iterator[Lines]:
    """Yield the lines of the file in order, in batches.

    Blank lines at the end are left out. Raises ``TraceError`` for a blank line before the last
    filled one, text that is not UTF-8, NUL bytes, an endless line, and archives that are cut off,
    damaged or expand beyond all measure.
    """
    return _without_trailing_blanks(path, _numbered(_texts(path)))


def read_text(path: Path) -> Iterator[str]:
    """Yield the file's text in blocks, whatever its lines; errors as in :func:`read_lines`."""
    with _open(path) as (stream, codec):
        if codec == "zstd":
            batches = pl.scan_lines(path, glob=False).collect_batches()
            for text in _zstd_batches(path, batches):
                yield "".join(f"{line}\n" for line in _without_mark(text))
            return
        row, held = 1, b""
        for block in _blocks(path, stream):
            cut = _character_end(held + block)
            whole, held = (held + block)[:cut], (held + block)[cut:]
            yield _decode(path, whole, row)
            row += whole.count(b"\n")
        if held:
            yield _decode(path, held, row)


def read_blocks(path: Path) -> Iterator[bytes | pl.Series]:
    """Yield the file in blocks of whole lines, as bytes not yet looked at, or as lines (zstd).

    :func:`lines_of` makes lines of the former; errors are those of :func:`read_lines`.
    """
    with _open(path) as (stream, codec):
        if codec == "zstd":
            batches = pl.scan_lines(path, glob=False).collect_batches()
            yield from (_without_mark(text) for text in _zstd_batches(path, batches))
        else:
            yield from _whole_lines(path, stream)


def lines_of(path: Path, block: bytes, first_row: int) -> pl.Series:
    """Return the lines of a block without their ends; raise ``TraceError`` where it is no text."""
    lines = _decode(path, block, first_row).split("\n")
    if not lines[-1]:
        lines.pop()
    return pl.Series(lines, dtype=pl.String).str.strip_suffix("\r")


def _character_end(block: bytes) -> int:
    """Return where the last character that is complete ends, at most 3 bytes before the end."""
    for back in range(1, min(4, len(block)) + 1):
        byte = block[-back]
        if byte & 0xC0 != 0x80:  # it begins a character
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(block) if size <= back else len(block) - back
    return len(block)


def _numbered(texts: Iterator[pl.Series]) -> Iterator[Lines]:
    row = 1
    for text in texts:
        yield Lines(row, text)
        row += text.len()


def _texts(path: Path) -> Iterator[pl.Series]:
    with _open(path) as (stream, codec):
        if codec == "zstd":
            batches = pl.scan_lines(path, glob=False).collect_batches()
            yield from (_without_mark(text) for text in _zstd_batches(path, batches))
        else:
            yield from _decoded(path, _whole_lines(path, stream))


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes] | gzip.GzipFile, str]]:
    """Open the file, decompressing gzip; what goes wrong while reading becomes one sentence."""
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic == ZSTD_MAGIC:
                _check_expansion(path, decompressed_bound(raw, str(path)))
                yield raw, "zstd"
            elif magic[:2] == GZIP_MAGIC:
                with gzip.open(raw) as stream:
                    yield stream, "gzip"
            else:
                yield raw, "plain"
    except EOFError as error:
        raise TraceError(
            f"{path}: the gzip file is cut off; it ends before its end marker"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"{path}: the gzip file is damaged ({error})") from error
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error})") from error


def _whole_lines(path: Path, stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Yield blocks that end with a line end, except perhaps the last."""
    rest = b""
    for chunk in _blocks(path, stream):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield rest + chunk[:cut]
            rest = chunk[cut:]
        else:
            rest += chunk
        if len(rest) > BLOCK_BYTES:
            raise TraceError(f"{path}: a line is longer than {BLOCK_BYTES >> 20} MiB")
    if rest:
        yield rest


def _blocks(path: Path, stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Yield the decompressed bytes in blocks, without a byte order mark."""
    total = 0
    while chunk := stream.read(BLOCK_BYTES):
        if total == 0:
            chunk = chunk.removeprefix(BYTE_ORDER_MARK)
        total += len(chunk)
        _check_expansion(path, total, plain=not isinstance(stream, gzip.GzipFile))
        yield chunk


def _check_expansion(path: Path, size: int, *, plain: bool = False) -> None:
    if plain or size <= FREE_EXPANSION_BYTES:
        return
    packed = path.stat().st_size
    if size > MAX_EXPANSION * packed:
        raise TraceError(
            f"{path}: {packed} compressed bytes expand to more than {MAX_EXPANSION} times that, "
            "which no trace does; decompress it yourself if it is genuine"
        )


def _decoded(path: Path, blocks: Iterator[bytes]) -> Iterator[pl.Series]:
    row = 1
    for block in blocks:
        lines = lines_of(path, block, row)
        row += lines.len()
        yield lines


def _decode(path: Path, block: bytes, first_row: int) -> str:
    """Return the block as text; name the row of the first byte that is none."""
    nul = block.find(b"\0")
    if nul >= 0:
        row = first_row + block.count(b"\n", 0, nul)
        raise TraceError(f"{path}: row {row} holds a NUL byte, expected text")
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        row = first_row + block.count(b"\n", 0, error.start)
        raise TraceError(
            f"{path}: row {row} holds the byte 0x{block[error.start]:02x}, expected UTF-8 text"
        ) from error


def _zstd_batches(path: Path, batches: Iterator[pl.DataFrame]) -> Iterator[pl.Series]:
    try:
        for batch in batches:
            yield _zstd_text(path, batch)
    except pl.exceptions.PolarsError as error:
        raise TraceError(f"{path}: the zstd file does not hold UTF-8 text ({error})") from error


def _zstd_text(path: Path, batch: pl.DataFrame) -> pl.Series:
    text = batch["line"]
    if text.str.contains("\0", literal=True).any():
        raise TraceError(f"{path}: the file holds a NUL byte, expected text")
    return text


def _without_mark(text: pl.Series) -> pl.Series:
    return text.str.strip_prefix("\ufeff")


class Blanks:
    """Passes a file's lines on without blank ones at its end; one in between is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blank_row: int | None = None

    def filled(self) -> None:
        """Hear that filled lines come next; raise ``TraceError`` if a blank one came before."""
        if self._blank_row is not None:
            raise TraceError(f"{self._path}: row {self._blank_row} is blank, expected a request")

    def without(self, batch: Lines) -> Lines | None:
        """Return the lines up to the last filled one, if there is one."""
        filled = batch.text.str.strip_chars().str.len_bytes() > 0
        if self._blank_row is None and filled.all():
            return batch
        where = filled.arg_true()
        if not where.len():
            self._blank_row = self._blank_row or batch.first_row
            return None
        last = int(where[-1])
        gap = (~filled).arg_true()
        if self._blank_row is None and gap[0] < last:
            self._blank_row = batch.first_row + int(gap[0])
        self.filled()
        self._blank_row = batch.first_row + last + 1
        return Lines(batch.first_row, batch.text[: last + 1])


def _without_trailing_blanks(path: Path, batches: Iterator[Lines]) -> Iterator[Lines]:
    blanks = Blanks(path)
    for batch in batches:
        kept = blanks.without(batch)
        if kept is not None:
            yield kept

"""Files of a run: written whole or not at all, and an error names the one that could not be."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a draft beside ``path`` to write to, which becomes ``path`` once it is done.

    No reader ever sees half a file, and none is left by a full disk or an interrupt.

    Raises:
        OSError: the file cannot be written; it names ``path``.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        draft.replace(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        number = _errno(error, path.parent)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; raise ``OSError`` as :func:`whole`."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write ``frame`` to ``path``; raise ``OSError`` as :func:`whole`."""
    with whole(path) as draft:
        frame.write_parquet(draft, compression="zstd")


_LOST = "transport error"
"""How polars tells that a write within a page's header failed, whose number it does not keep."""


def _errno(error: Exception, folder: Path) -> int | None:
    """Return the system's number of an error in ``folder``; polars tells it in words, if at all."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None and _LOST in str(error):
        return errno.EIO if os.statvfs(folder).f_bavail else errno.ENOSPC
    unknown = errno.EIO if isinstance(error, OSError) else None
    return int(found[1]) if found else unknown

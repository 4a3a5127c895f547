"""How large a zstd file can get when decompressed, without decompressing it."""

from typing import IO

from workloads.errors import TraceError

BLOCK_MAX = 128 << 10
"""No compressed zstd block holds more than 128 KiB (RFC 8878, 3.1.1.2.4)."""

FRAME_MAGIC = 0xFD2FB528
SKIPPABLE_MAGIC = 0x184D2A50


def decompressed_bound(stream: IO[bytes], path: str) -> int:
    """Return an upper bound of the decompressed bytes, from the block headers alone; rewinds.

    Raises ``TraceError`` when the file ends inside a frame or is no zstd file. Source: RFC 8878.
    """
    reader = _Reader(stream, path)
    total = 0
    while (magic := reader.magic()) is not None:
        if magic & ~0xF == SKIPPABLE_MAGIC:
            reader.skip(reader.integer(4))
        elif magic == FRAME_MAGIC:
            total += _frame(reader)
        else:
            raise TraceError(f"{path}: the zstd file is damaged; a frame does not start where due")
    stream.seek(0)
    return total


def _frame(reader: "_Reader") -> int:
    """Walk one frame's blocks and return the most bytes they can hold."""
    descriptor = reader.integer(1)
    single_segment = bool(descriptor & 0x20)
    content_size_bytes = (int(single_segment), 2, 4, 8)[descriptor >> 6]
    dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    reader.skip((not single_segment) + dictionary_bytes + content_size_bytes)
    total, last = 0, False
    while not last:
        header = reader.integer(3)
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        reader.skip(1 if kind == 1 else size)
        total += BLOCK_MAX if kind == 2 else size
    reader.skip(4 if descriptor & 4 else 0)
    return total


class _Reader:
    """Little-endian integers from a stream that must not end in between."""

    def __init__(self, stream: IO[bytes], path: str) -> None:
        self._stream = stream
        self._path = path
        self._end = stream.seek(0, 2)
        stream.seek(0)

    def magic(self) -> int | None:
        """Return the next four bytes, or ``None`` at the end of the file."""
        return None if self._stream.tell() == self._end else self.integer(4)

    def integer(self, size: int) -> int:
        """Return the next ``size`` bytes as an integer."""
        data = self._stream.read(size)
        if len(data) < size:
            self._cut_off()
        return int.from_bytes(data, "little")

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes."""
        if self._stream.seek(size, 1) > self._end:
            self._cut_off()

    def _cut_off(self) -> None:
        raise TraceError(f"{self._path}: the zstd file is cut off; it ends inside a frame")

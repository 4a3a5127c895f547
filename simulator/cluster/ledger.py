"""Every request's columns while the simulation runs: flat arrays indexed by request id."""

import mmap
import os
import tempfile
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.record import COUNTS, STATUSES, TIMES

NAN = float("nan")
OF_AN_ATTEMPT = tuple(
    name.removesuffix("_s")
    for name in TIMES
    if name not in ("arrival_s", "first_token_s", "second_token_s", "finish_s")
)
"""Moments that a request which begins anew passes again."""
INCOMPLETE, COMPLETED, REJECTED, FAILED = range(len(STATUSES))


MAPPED = 1 << 20
"""Columns of more requests than this lie in a temporary file, mapped into memory."""


class Room:
    """Bytes for columns: memory or, for many requests, a temporary file that is there for this run.

    Of the file only what was used since the last :meth:`shed` takes memory that is this process's
    own. Where there is no space for a file, all of it does.
    """

    __slots__ = ("_file", "_taken")

    def __init__(self, size: int, *, mapped: bool) -> None:
        self._file = _file(size) if mapped else None
        self._taken = 0

    @property
    def mapped(self) -> bool:
        """Whether it is a file."""
        return self._file is not None

    def column(self, size: int, fill: float, dtype: type) -> memoryview:
        """Return a column of ``size`` numbers, all alike; one by one they are read like a list."""
        rows: NDArray[Any]
        if self._file is None:
            rows = np.full(size, fill, dtype)
        else:
            rows = np.frombuffer(self._file, dtype, size, self._taken)
            rows[:] = fill
            self._taken += rows.nbytes
            self.shed()
        return rows.data

    def shed(self) -> None:
        """Leave to the file what lies in memory of it."""
        if self._file is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._file.madvise(mmap.MADV_DONTNEED)


def _file(size: int) -> mmap.mmap | None:
    """Return a mapped file of ``size`` bytes that nobody else sees, if there is space for it."""
    if not hasattr(os, "posix_fallocate"):
        return None
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError:
        return None


class Ledger:
    """One entry per request and column; typed arrays, since they are read and written one by one.

    ``generated`` counts the output tokens a request has produced whenever it is not in a batch;
    ``prompt_tokens`` are those that its prefill computes: its input and, where it begins anew, what
    it had generated. ``lost_at`` says when a lost request had its last token, ``moved_at`` when one
    had it whose KV is on its way from one decode worker to another, ``shown_at`` when a client saw
    the token of a prompt that was held back after its end; ``resumed`` are the gaps (seconds)
    before those with which lost requests went on, and ``settled`` the requests whose gap
    between first and second token is among them or in a worker's log; ``unseen_tokens`` counts
    those that were generated and lost before anybody saw them, ``wasted_tokens`` those of prompts
    whose client left before they were computed; none from ``entered`` on has been let in yet;
    ``expected`` are the prompt tokens that a router believes a request to find cached where it
    waits.
    """

    __slots__ = (
        *(name.removesuffix("_s") for name in TIMES),
        *COUNTS,
        "entered",
        "expected",
        "generated",
        "lost_at",
        "moved_at",
        "prompt_tokens",
        "resumed",
        "room",
        "settled",
        "size",
        "shown_at",
        "unseen_tokens",
        "wasted_tokens",
    )

    arrival: "memoryview[float]"
    admitted: "memoryview[float]"
    prefill_queue_enter: "memoryview[float]"
    prefill_start: "memoryview[float]"
    prefill_end: "memoryview[float]"
    first_token: "memoryview[float]"
    transfer_queue_enter: "memoryview[float]"
    transfer_start: "memoryview[float]"
    transfer_end: "memoryview[float]"
    decode_queue_enter: "memoryview[float]"
    decode_join: "memoryview[float]"
    second_token: "memoryview[float]"
    finish: "memoryview[float]"
    input_tokens: "memoryview[int]"
    output_tokens: "memoryview[int]"
    cached_tokens: "memoryview[int]"
    preemptions: "memoryview[int]"
    recomputed_tokens: "memoryview[int]"
    retries: "memoryview[int]"
    resends: "memoryview[int]"
    prefill_worker: "memoryview[int]"
    decode_worker: "memoryview[int]"
    status: "memoryview[int]"
    reason: "memoryview[int]"
    generated: "memoryview[int]"
    prompt_tokens: "memoryview[int]"

    def __init__(
        self,
        arrival_s: NDArray[np.float64],
        input_tokens: NDArray[np.int32],
        output_tokens: NDArray[np.int32],
    ) -> None:
        self.size = size = len(arrival_s)
        counts = (*COUNTS, "generated", "prompt_tokens")
        self.room = Room(size * (8 * len(TIMES) + 4 * len(counts)), mapped=size > MAPPED)
        for name in TIMES:
            setattr(self, name.removesuffix("_s"), self.room.column(size, NAN, np.float64))
        for name in counts:
            empty = -1 if name.endswith("_worker") else 0
            setattr(self, name, self.room.column(size, empty, np.int32))
        self.lost_at: dict[int, float] = {}
        self.moved_at: dict[int, float] = {}
        self.shown_at: dict[int, float] = {}
        self.expected: dict[int, int] = {}
        self.resumed: list[float] = []
        self.settled: set[int] = set()
        self.unseen_tokens = self.wasted_tokens = 0
        self.entered = 0
        np.asarray(self.arrival)[:] = arrival_s
        np.asarray(self.output_tokens)[:] = output_tokens
        for column in (self.input_tokens, self.prompt_tokens):
            np.asarray(column)[:] = input_tokens
        self.room.shed()

    def shown(self, request: int, now: float) -> None:
        """Let the client see what a handed-over prefill generated: the first token, or the next."""
        if isnan(self.first_token[request]):
            self.first_token[request] = now
        if self.generated[request] == 1:
            return
        since = self.lost_at.pop(request)
        if isnan(self.second_token[request]):
            self.second_token[request] = now
            since = self.first_token[request]
            self.settled.add(request)  # its KV may never be handed over, or not again
        self.resumed.append(now - since)

    def last_shown(self, request: int) -> float:
        """Return when a client saw the token that its prefill worker generated, where it did."""
        return self.shown_at.get(request, self.prefill_end[request])

    def begin_anew(self, request: int) -> None:
        """Forget how far a lost request came; what its client has seen, and its tokens, remain."""
        if not isnan(self.second_token[request]):
            if not isnan(self.transfer_end[request]) and request not in self.settled:
                self.resumed.append(self.second_token[request] - self.first_token[request])
            self.settled.add(request)
        self.shown_at.pop(request, None)
        for name in OF_AN_ATTEMPT:
            getattr(self, name)[request] = NAN
        self.prefill_worker[request] = self.decode_worker[request] = -1
        self.prompt_tokens[request] = self.input_tokens[request] + self.generated[request]
        self.retries[request] += 1

    def give_up(self, request: int) -> None:
        """Hear that a prompt that was to be computed will not be.

        Where that would have been once more, its tokens were counted as recomputed in advance.
        """
        if self.generated[request]:
            known = self.input_tokens[request] + self.generated[request]
            self.recomputed_tokens[request] -= known - 1

    def columns(self) -> dict[str, NDArray[np.float64] | NDArray[np.int32]]:
        """Return every column as a numpy view, named as in :mod:`simulator.record`."""
        views: dict[str, NDArray[np.float64] | NDArray[np.int32]] = {
            name: np.asarray(getattr(self, name.removesuffix("_s"))) for name in TIMES
        }
        for name in COUNTS:
            views[name] = np.asarray(getattr(self, name))
        return views

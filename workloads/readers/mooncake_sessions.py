"""Mooncake rows that are turns of sessions, as AIPerf and Dynamo write them.

Beside Mooncake's fields a row has ``session_id`` and, from the second turn on, ``delay``:
milliseconds from the end of the turn before. ``input_length`` is the whole prompt
(``context=full``) or what the turn adds to it (``context=delta``); no row tells which.
"""

from pathlib import Path
from typing import Any

import numpy as np

from workloads.cleaning import Policy, Raw, clean
from workloads.errors import TraceError
from workloads.lineage import NONE
from workloads.readers import measured
from workloads.readers.blocks import LEAST_HASH
from workloads.readers.calls import (
    Calls,
    in_session,
    nullable,
    parents_first,
    seconds,
    text,
    turns,
    whole,
)
from workloads.readers.hints import Hints
from workloads.readers.prompts import Run, Sessions, Streams, require_room
from workloads.readers.times import Clock
from workloads.trace import MAX_TOKENS, Trace, Transform
from workloads.where import Where

BLOCK_SIZE = 512
NEEDED = ("timestamp", "input_length", "output_length")
RESIZE = "workload.block_size says so where blocks are of another size"
USED = (*NEEDED, "request_id", "session_id", "delay", "model", "hash_ids")


def read_sessions(path: Path, policy: Policy, hints: Hints) -> Trace:
    """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
    return clean(_File(path, hints).read(), policy)


class _File:
    """One file while it is read: its rows so far, and the ids of their blocks."""

    def __init__(self, path: Path, hints: Hints) -> None:
        self._path, self._hints = path, hints
        self._size = hints.block_size or BLOCK_SIZE
        self._calls = Calls(path)
        self._numbers: dict[str, int] = {}
        self._ids: list[list[int] | None] = []
        self._said: dict[int, list[Run]] = {}

    def read(self) -> Raw:
        """Return all rows as the cleaning wants them."""
        for fields, where in measured.rows(self._path):
            self._add(fields, where)
        calls = self._calls
        parents = in_session(calls.column("session_id"), calls.times)
        self._require_linked(parents)
        calls.columns["parent_id"] = nullable(parents)
        calls.columns["turn"] = turns(parents)
        delta = self._is_delta(parents)
        self._blocks(parents if delta else None)
        done = [Transform(name="context_accumulated", counts={"rows": len(calls)})] if delta else []
        return calls.raw(
            "mooncake",
            Clock(native="ms", stated=self._hints.time_unit, whole=True),
            block_size=self._size,
            block_scope="session" if delta else "global",
            tail_block="omitted" if delta else "partial",
            transforms=tuple(done),
        )

    def _add(self, fields: dict[str, Any], where: Where) -> None:
        """Take one row."""
        for name in NEEDED[1:]:
            if name not in fields:
                raise TraceError(
                    f"{where.path}: row {where.first_row} has no field {name}, expected "
                    f"{', '.join(NEEDED[1:])}"
                )
        stamp, delay = fields.get("timestamp"), fields.get("delay")
        session = text(fields, "session_id", where)
        if delay is not None and session is None:
            where.fail(0, "session_id", None, "the session whose last turn the delay counts from")
        if stamp is None and delay is None:
            where.fail(0, "timestamp", None, "a number of milliseconds, or a delay in a session")
        stamp = None if stamp is None else seconds(stamp, "timestamp", where, 0)
        delay_s = None if delay is None else seconds(delay, "delay", where) / 1e3
        tokens = [whole(fields[name], name, where) for name in NEEDED[1:]]
        ids = fields.get("hash_ids")
        self._ids.append(None if ids is None else self._numbered(ids, tokens[0], where))
        self._calls.add(
            stamp,
            *tokens,
            source_id=text(fields, "request_id", where),
            session_id=session,
            delay_s=self._calls.delay(delay_s),
            model=text(fields, "model", where),
        )
        self._calls.further.update(name for name in fields if name not in USED)

    def _numbered(self, ids: object, tokens: int, where: Where) -> list[int]:
        """Return a row's ids, hashes of any size numbered in order of appearance."""
        if not isinstance(ids, list):
            where.fail(0, "hash_ids", ids, "a list of block ids")
        require_room(len(ids), self._size, tokens, f"hash_ids ({RESIZE})", where)
        for each in ids:
            small = isinstance(each, int) and LEAST_HASH <= each < 0
            if isinstance(each, bool) or not isinstance(each, int | str) or small:
                where.fail(0, "hash_ids", each, "hashes, or whole ids of at least 0")
        return [self._numbers.setdefault(str(each), len(self._numbers)) for each in ids]

    def _require_linked(self, parents: np.ndarray[Any, Any]) -> None:
        """Refuse a delay or a missing time in the first turn of a session."""
        delays = self._calls.column("delay_s")
        for row in np.flatnonzero(parents == NONE):
            where = Where(str(self._path), 1)
            if self._calls.times[row] is None:
                where.fail(int(row), "timestamp", None, "a time: the row is its session's first")
            if delays[row] is not None:
                self._calls.counts["delays_without_a_turn_before"] += 1
                delays[row] = None

    def _is_delta(self, parents: np.ndarray[Any, Any]) -> bool:
        """Tell whether rows hold the new tokens alone; refuse to guess."""
        told = self._hints.context
        later = np.flatnonzero(parents != NONE)
        if told == "auto" and later.size:
            raise TraceError(
                f"{self._path}: row {later[0] + 1} goes on with a session, and nothing tells "
                "whether input_length is the whole prompt or what the turn adds to it; say so "
                "with workload.context=full or delta"
            )
        return told == "delta"

    def _blocks(self, parents: np.ndarray[Any, Any] | None) -> None:
        """Fill in the prompts' blocks and, of deltas, what came before in the session."""
        if parents is None:
            for ids in self._ids:
                if ids is None:
                    self._calls.prompts.add(None)
                else:
                    self._calls.prompts.add_ids(np.array(ids, dtype=np.int64))
            return
        ids_of = Sessions()
        ids_of.take(len(self._numbers))
        streams = Streams(self._size, ids_of)
        for row in parents_first(parents):
            self._runs_of(row, int(parents[row]), streams)
        for row in range(len(self._calls)):
            self._calls.prompts.add(self._said[row])

    def _runs_of(self, row: int, parent: int, streams: Streams) -> None:
        """Add to a turn's input what its session has read and written before."""
        inputs, outputs = (self._calls.columns[f"{name}_tokens"] for name in ("input", "output"))
        before = inputs[parent] + outputs[parent] if parent != NONE else 0
        inputs[row] += before
        if inputs[row] > MAX_TOKENS:
            where = Where(str(self._path), 1)
            where.fail(row, "input_length with the session's", inputs[row], f"at most {MAX_TOKENS}")
        known = [(each, 1) for each in self._ids[row] or ()]
        tokens = (inputs[row], outputs[row])
        self._said[row] = streams.add(row, parent, before, tokens, known)

"""Sessions of coding agents, one JSON object each, as WEKA's kv-cache-tester publishes them.

``{"id", "block_size": 64, "tool_tokens", "system_tokens", "requests": [..]}``; a request has ``t``
(seconds since the session began), ``in``, ``out``, ``hash_ids`` (of whole blocks, known within the
session alone), ``model`` and, where it was measured, ``api_time``, ``think_time`` and ``ttft``; one
of type ``subagent`` holds requests of its own, at times since it began itself. Source:
github.com/callanjfox/kv-cache-tester. Read are a file of one session, one with a session on each
line, and a folder of such files. Sessions that say the same of their tools and system prompt share
those tokens' blocks.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.lineage import NONE
from workloads.readers import measured
from workloads.readers.calls import Calls, require_fields, seconds, text, whole
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import Sessions, require_ids, require_room, whole_ids
from workloads.readers.source import read_head
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where

NEEDED = ("id", "block_size", "requests")
OF_A_CALL = ("t", "in", "out")
USED = (*OF_A_CALL, "type", "model", "hash_ids", "api_time", "think_time", "ttft")
SUBAGENT = "subagent"
MARKS = (b'"requests"', b'"block_size"', b'"tool_tokens"')


class Weka:
    """Reads sessions with their subagents."""

    name = "weka"

    def sniff(self, head: bytes, path: Path) -> bool:
        """Tell whether the file, or the first one of the folder, begins with such a session."""
        if path.is_dir():
            first = next(_files(path), None)
            return first is not None and self.sniff(read_head(first), first)
        begin = head.lstrip()
        if not begin.startswith((b"{", b"[")) or not all(mark in head for mark in MARKS):
            return False
        row = first_object(head)
        return row is None or all(name in row for name in NEEDED)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the session and request that is wrong."""
        found = _Sessions(Calls(path))
        for file in _files(path) if path.is_dir() else [path]:
            for fields, where in measured.rows(file):
                found.add(fields, where)
        if not found.calls.times:
            raise TraceError(f"{path}: holds no request")
        raw = found.calls.raw(
            self.name,
            Clock(native="s", stated=hints.time_unit),
            block_size=found.size,
            block_scope="session",
            tail_block="omitted",
            warnings=found.warnings(),
        )
        return clean(raw, policy)


def _files(folder: Path) -> Iterator[Path]:
    """Yield a folder's JSON files by name."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and ".json" in file.suffixes + [".json"] * (".jsonl" in file.suffixes):
            yield file


@dataclass(slots=True)
class _Sessions:
    """All sessions so far."""

    calls: Calls
    size: int = 0
    ids: Sessions = field(default_factory=Sessions)
    seen: Counter[int] = field(default_factory=Counter)
    system: dict[tuple[object, ...], np.ndarray[Any, Any]] = field(default_factory=dict)
    count: int = 0

    def add(self, fields: dict[str, Any], where: Where) -> None:
        """Take one session."""
        require_fields(fields, NEEDED, where)
        size = whole(fields["block_size"], "block_size", where)
        if size == 0 or (self.size and size != self.size):
            expected = f"{self.size}, as in the other sessions" if self.size else "at least 1"
            where.fail(0, "block_size", size, expected)
        self.size = size
        requests = _list(fields["requests"], where)
        key = hash(str([_gist(each) for each in requests]))
        self.calls.counts["requests_of_repeated_sessions"] += len(requests) * (key in self.seen)
        self.seen[key] += 1
        self.count += 1
        _Session(self, fields, where).add(requests)
        require_ids(self.ids.base, str(self.calls.path))

    def warnings(self) -> tuple[str, ...]:
        """Return what has to be said of sessions that all begin at once."""
        if self.count < 2:
            return ()
        return (
            f"{self.calls.path}: its {self.count} sessions do not say when they began: all begin "
            "at 0 here",
        )


class _Session:
    """One session while its requests are taken."""

    def __init__(self, all_of_them: _Sessions, fields: dict[str, Any], where: Where) -> None:
        self._all, self._where = all_of_them, where
        self._name = text(fields, "id", where) or f"session {where.first_row}"
        self._base = all_of_them.ids.base
        self._turn = 0
        tools = [
            whole(fields.get(name) or 0, name, where) for name in ("tool_tokens", "system_tokens")
        ]
        self._key = (self._all.size, *tools)
        self._leading = sum(tools) // self._all.size
        self._own: np.ndarray[Any, Any] = np.zeros(0, dtype=np.int64)

    def add(self, requests: list[Any]) -> None:
        """Take the session's requests, those of subagents where they began."""
        self._chain(requests, 0.0, NONE, None)

    def _chain(
        self, requests: list[Any], began: float, parent: int, end: float | None
    ) -> float | None:
        """Take requests that follow each other; ``end`` is when the parent's answer was whole.

        A request waits for the subagents that were done before it was sent.
        """
        asked: list[tuple[int, float]] = []
        for at, request in enumerate(requests):
            place = self._where.within(f"{self._name}, request {at}")
            if not isinstance(request, dict):
                place.fail(0, "the request", request, "an object")
            if request.get("type") == SUBAGENT:
                start = began + seconds(request.get("t"), "t", place, 0)
                first = len(self._all.calls)
                done = self._chain(_list(request.get("requests"), place), start, parent, end)
                if done is not None and len(self._all.calls) > first:
                    asked.append((len(self._all.calls) - 1, done))
                continue
            row = len(self._all.calls)
            start, end = self._call(request, began, (parent, end), place)
            waited = [each for each in asked if each[1] <= start]
            asked = [each for each in asked if each[1] > start]
            if waited:
                self._all.calls.column("joins")[row] = [
                    {"parent_id": last, "delay_s": start - done} for last, done in waited
                ]
            parent = row
        return end

    def _call(
        self, fields: dict[str, Any], began: float, after: tuple[int, float | None], where: Where
    ) -> tuple[float, float | None]:
        """Take one request; return when it was sent and when its answer was whole, if known."""
        require_fields(fields, OF_A_CALL, where)
        calls, (parent, ended) = self._all.calls, after
        start = began + seconds(fields["t"], "t", where, 0)
        took = fields.get("api_time")
        took = None if took is None else seconds(took, "api_time", where, 0)
        tokens = whole(fields["in"], "in", where)
        calls.add(
            start,
            tokens,
            whole(fields["out"], "out", where),
            session_id=self._name,
            turn=min(self._turn, 65_535),
            parent_id=None if parent == NONE else parent,
            delay_s=None if parent == NONE else self._delay(fields, start, ended, where),
            model=text(fields, "model", where),
            src_ttft_s=None
            if fields.get("ttft") is None
            else seconds(fields["ttft"], "ttft", where, 0),
            src_e2e_s=took,
        )
        self._turn += 1
        self._blocks(fields.get("hash_ids"), tokens, where)
        calls.further.update(name for name in fields if name not in USED)
        return start, None if took is None else start + took

    def _delay(
        self, fields: dict[str, Any], start: float, ended: float | None, where: Where
    ) -> float | None:
        """Return the think time: as told, else from the end of the request before, if known."""
        told = fields.get("think_time")
        if told is not None:
            return self._all.calls.delay(seconds(told, "think_time", where))
        return None if ended is None else self._all.calls.delay(start - ended)

    def _blocks(self, ids: object, tokens: int, where: Where) -> None:
        """Take a prompt's ids: the leading ones of the first are the system prompt's."""
        if ids is None:
            self._all.calls.prompts.add(None)
            return
        own = whole_ids(ids, "hash_ids", where)
        require_room(own.size, self._all.size, tokens, "hash_ids", where)
        moved = self._all.ids.shifted(own, self._base)
        self._all.calls.prompts.add_ids(self._shared(moved))

    def _shared(self, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the ids with those of the system prompt as other sessions have them."""
        system = self._all.system
        if not self._own.size:
            self._own = ids[: self._leading].copy()
            system.setdefault(self._key, self._own)
        other = system[self._key]
        same = min(self._own.size, other.size, ids.size)
        if not same or not np.array_equal(self._own[:same], ids[:same]):
            return ids
        return np.concatenate((other[:same], ids[same:]))


def _gist(request: object) -> object:
    """Return what tells a session from another."""
    return [request.get(name) for name in OF_A_CALL] if isinstance(request, dict) else request


def _list(value: object, where: Where) -> list[Any]:
    if not isinstance(value, list):
        where.fail(0, "requests", value, "a list of requests")
    return value

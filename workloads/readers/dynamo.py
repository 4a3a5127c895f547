"""Dynamo's request traces (``DYN_REQUEST_TRACE=1``): JSON lines of what happened, as it ended.

Of the events only ``request_end`` is a request: ``request.request_received_ms`` (since 1970),
``total_time_ms``, ``output_tokens`` and ``replay.{trace_block_size, input_length,
input_sequence_hashes}``, hashes of all that stands before the end of a block. Source: Dynamo's
guide to request tracing. A request of an agent's session follows the one of its session, or of the
session it came from, whose answer was whole last before it was sent; sub-sessions it waited for are
joined.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.calls import Calls, require_fields, seconds, text, whole
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import require_room
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where

SCHEMA = "dynamo.request.trace"
EVENT = "event_type"
REQUEST = "request_end"
NEEDED = ("request_received_ms", "output_tokens", "replay")
OF_REPLAY = ("input_length",)


class Dynamo:
    """Reads the requests out of the events."""

    name = "dynamo"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with such an event."""
        row = first_object(head) or {}
        named = str(row.get("schema", "")).startswith(SCHEMA)
        return EVENT in row and (named or SCHEMA.encode() in head)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        measured.own_unit(path, hints.time_unit)
        events = _Events(Calls(path), hints.block_size)
        for fields, where in measured.rows(path):
            events.add(fields, where)
        if not len(events.calls):
            raise TraceError(f"{path}: holds no event {REQUEST}, so no request")
        link(events.calls, events.origins)
        raw = events.calls.raw(
            self.name,
            Clock(native="ms"),
            block_size=events.size,
            block_scope="global",
            tail_block="partial",
        )
        return clean(raw, policy)


class _Events:
    """The requests among a file's events."""

    def __init__(self, calls: Calls, size: int | None) -> None:
        self.calls, self.size = calls, size
        self.origins: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def add(self, fields: dict[str, Any], where: Where) -> None:
        """Take one event; what is no request is counted."""
        kind = fields.get(EVENT)
        if kind != REQUEST:
            name = text(fields, EVENT, where) or "unnamed"
            self.calls.counts[f"events_{name[:40]}_passed_over"] += 1
            return
        request = _object(fields, "request", where)
        require_fields(request, NEEDED, where)
        replay = _object(request, "replay", where)
        require_fields(replay, OF_REPLAY, where)
        tokens = whole(replay["input_length"], "input_length", where)
        took = request.get("total_time_ms")
        self.calls.add(
            seconds(request["request_received_ms"], "request_received_ms", where, 0),
            tokens,
            whole(request["output_tokens"], "output_tokens", where),
            source_id=text(request, "request_id", where),
            session_id=self._session(fields.get("agent_context"), where),
            model=text(request, "model", where),
            src_e2e_s=None if took is None else seconds(took, "total_time_ms", where, 0) / 1e3,
        )
        self._blocks(replay, tokens, where)

    def _session(self, context: object, where: Where) -> str | None:
        if not isinstance(context, dict):
            return None
        session = text(context, "session_id", where)
        origin = text(context, "parent_session_id", where)
        if session is not None and origin is not None and origin != session:
            self.origins.setdefault(session, origin)
        return session

    def _blocks(self, replay: dict[str, Any], tokens: int, where: Where) -> None:
        hashes = replay.get("input_sequence_hashes")
        if hashes is None:
            self.calls.prompts.add(None)
            return
        size = replay.get("trace_block_size", self.size)
        if size is None:
            where.fail(0, "trace_block_size", None, "the tokens of a block, or workload.block_size")
        size = whole(size, "trace_block_size", where)
        if size == 0 or (self.size is not None and size != self.size):
            where.fail(0, "trace_block_size", size, f"{self.size or 'at least 1'}, as elsewhere")
        self.size = size
        if not isinstance(hashes, list) or any(isinstance(each, list | dict) for each in hashes):
            where.fail(0, "input_sequence_hashes", hashes, "a list of hashes")
        require_room(len(hashes), size, tokens, "input_sequence_hashes", where)
        numbers = [self._numbers.setdefault(str(each), len(self._numbers)) for each in hashes]
        self.calls.prompts.add([(each, 1) for each in numbers])


def _object(fields: dict[str, Any], name: str, where: Where) -> dict[str, Any]:
    found = fields.get(name)
    if not isinstance(found, dict):
        where.fail(0, name, found, "an object")
    return found


@dataclass(frozen=True, slots=True)
class _Ended:
    """A request whose answer was whole at ``end``, in the times' unit."""

    end: float
    row: int


def link(calls: Calls, origins: dict[str, str], unit_s: float = 1e-3) -> None:
    """Fill in who waited for whom, from when requests were sent and whole.

    ``origins`` names the session each sub-session came from. A request that was sent while all
    earlier ones of its session were under way waits for none of them, and is counted.
    """
    sessions, took = calls.column("session_id"), calls.column("src_e2e_s")
    ends = [time + (each or 0.0) / unit_s for time, each in zip(calls.times, took, strict=True)]
    parents: list[int | None] = [None] * len(calls)
    delays: list[float | None] = [None] * len(calls)
    joins: list[Any] = [None] * len(calls)
    turns: list[int | None] = [None] * len(calls)
    done: dict[str, list[_Ended]] = {}
    count: Counter[str] = Counter()
    children: dict[str, set[str]] = {}
    for session, origin in origins.items():
        children.setdefault(origin, set()).add(session)
    order = sorted(range(len(calls)), key=lambda row: (calls.times[row], row))
    for row in order:
        session = sessions[row]
        if session is None:
            continue
        start = calls.times[row]
        own = _before(done.get(session, []), start)
        if own is None and not done.get(session) and session in origins:
            own = _before(done.get(origins[session], []), start)
        calls.counts["concurrent_turns"] += own is None and bool(done.get(session))
        if own is not None:
            parents[row], delays[row] = own.row, (start - own.end) * unit_s
            since = calls.times[own.row]
            joins[row] = _waited(children.get(session, set()), done, since, start, unit_s)
        turns[row] = min(count[session], 65_535)
        count[session] += 1
        done.setdefault(session, []).append(_Ended(ends[row], row))
    calls.columns |= {"parent_id": parents, "delay_s": delays, "turn": turns}
    if any(joins):
        calls.columns["joins"] = joins


def _before(ended: Sequence[_Ended], start: float) -> _Ended | None:
    """Return the request that ended last of those that had by ``start``."""
    return max(
        (each for each in ended[-64:] if each.end <= start),
        key=lambda each: (each.end, each.row),
        default=None,
    )


def _waited(
    sessions: set[str], done: dict[str, list[_Ended]], since: float, start: float, unit_s: float
) -> list[dict[str, Any]] | None:
    """Return the last requests of sub-sessions that ended between ``since`` and ``start``."""
    last = [_before(done.get(each, []), start) for each in sorted(sessions)]
    found = [
        {"parent_id": each.row, "delay_s": (start - each.end) * unit_s}
        for each in last
        if each is not None and each.end > since
    ]
    return found or None

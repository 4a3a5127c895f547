"""Dynamo's agentic Mooncake: JSON lines of requests that wait for each other.

First a header ``{"schema": "dynamo.agentic_mooncake", "version", "block_size", "hash_id_scope"}``,
then rows ``{"request_id", "play_id", "session_id", "model", "input_length", "output_length",
"hash_ids", "not_before_ms", "dependencies": [{"request_id", "trigger": "dispatch" or "completion",
"delay_ms", "relation"}]}``. Source: Dynamo's replay fixtures. A row without dependencies starts at
``not_before_ms``; ids of scope ``local`` mean something within one play.
"""

from pathlib import Path
from typing import Any

import numpy as np

from workloads import lineage
from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.calls import Calls, require_fields, seconds, text, turns, whole
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import Sessions, require_ids, require_room, whole_ids
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where, shown

SCHEMA = "dynamo.agentic_mooncake"
VERSIONS = (1, 2)
NEEDED = ("request_id", "input_length", "output_length")
USED = (*(*NEEDED, "play_id", "session_id", "model", "hash_ids", "not_before_ms", "dependencies"),)
DISPATCH, COMPLETION = "dispatch", "completion"


class Agentic:
    """Reads plays of agents."""

    name = "agentic_mooncake"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with the header."""
        return (first_object(head) or {}).get("schema") == SCHEMA

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        measured.own_unit(path, hints.time_unit)
        rows = measured.rows(path)
        header, where = next(rows)
        if header.get("schema") != SCHEMA:
            where.fail(0, "schema", header.get("schema"), SCHEMA)
        plays = _Plays(Calls(path), header, where)
        for fields, place in rows:
            plays.add(fields, place)
        if not len(plays.calls):
            raise TraceError(f"{path}: has a header but no requests")
        plays.link()
        raw = plays.calls.raw(
            self.name,
            Clock(native="ms"),
            block_size=plays.size,
            block_scope="session" if plays.local else "global",
            tail_block="partial",
            parent_field="dependencies",
        )
        return clean(raw, policy)


class _Plays:
    """The rows below a header."""

    def __init__(self, calls: Calls, header: dict[str, Any], where: Where) -> None:
        self.calls = calls
        version = header.get("version")
        if version not in VERSIONS:
            where.fail(0, "version", version, f"one of {', '.join(map(str, VERSIONS))}")
        self.size = whole(header.get("block_size"), "block_size", where)
        if self.size == 0:
            where.fail(0, "block_size", 0, "at least 1")
        self.local = header.get("hash_id_scope") == "local"
        self._ids = Sessions()
        self._bases: dict[str | None, int] = {}
        self._dependencies: list[list[dict[str, Any]]] = []

    def add(self, fields: dict[str, Any], where: Where) -> None:
        """Take one row."""
        require_fields(fields, NEEDED, where)
        tokens = [whole(fields[name], name, where) for name in NEEDED[1:]]
        waits = fields.get("dependencies") or []
        if not isinstance(waits, list) or not all(isinstance(each, dict) for each in waits):
            where.fail(0, "dependencies", waits, "a list of objects")
        for each in waits:
            if each.get("trigger") not in (DISPATCH, COMPLETION):
                where.fail(0, "trigger", each.get("trigger"), f"{DISPATCH} or {COMPLETION}")
            seconds(each.get("delay_ms", 0), "delay_ms", where)
        start = seconds(fields.get("not_before_ms", 0), "not_before_ms", where, 0)
        self.calls.add(
            None if waits else start,
            *tokens,
            source_id=text(fields, "request_id", where),
            session_id=text(fields, "play_id", where) or text(fields, "session_id", where),
            model=text(fields, "model", where),
        )
        self._dependencies.append(waits)
        self._blocks(fields, tokens[0], where)
        self.calls.further.update(name for name in fields if name not in USED)

    def _blocks(self, fields: dict[str, Any], tokens: int, where: Where) -> None:
        ids = fields.get("hash_ids")
        if ids is None:
            self.calls.prompts.add(None)
            return
        own = whole_ids(ids, "hash_ids", where)
        require_room(own.size, self.size, tokens, "hash_ids", where)
        if self.local:
            play = text(fields, "play_id", where)
            if play not in self._bases:
                self._bases[play] = self._ids.base
            own = self._ids.shifted(own, self._bases[play])
            require_ids(self._ids.base, where.path)
        self.calls.prompts.add_ids(own)

    def link(self) -> None:
        """Fill in whom each request waits for: its first dependency, then further ones as joins."""
        rows = {name: row for row, name in enumerate(self.calls.column("source_id"))}
        size = len(self.calls)
        parents, delays = np.full(size, lineage.NONE), np.full(size, np.nan)
        triggers: list[str | None] = [None] * size
        joins: list[Any] = [None] * size
        for row, waits in enumerate(self._dependencies):
            if not waits:
                continue
            first, *rest = sorted(waits, key=_by_completion)
            parents[row] = self._row(first, rows, row)
            delays[row] = self._delay(first)
            triggers[row] = first["trigger"]
            joins[row] = [
                {"parent_id": self._row(each, rows, row), "delay_s": self._delay(each)}
                for each in rest
                if each["trigger"] == COMPLETION
            ] or None
            self.calls.counts["dispatches_beside_others_left_out"] += sum(
                each["trigger"] == DISPATCH for each in rest
            )
        self.calls.columns |= {
            "parent_id": [None if each == lineage.NONE else int(each) for each in parents],
            "delay_s": [None if np.isnan(each) else float(each) for each in delays],
            "trigger": triggers,
        }
        if any(joins):
            self.calls.columns["joins"] = joins
        lineage.require_no_circle(parents, Where(str(self.calls.path), 2), "dependencies")
        self.calls.columns["turn"] = list(turns(parents))

    def _row(self, wait: dict[str, Any], rows: dict[str | None, int], row: int) -> int:
        name = str(wait.get("request_id"))
        if name not in rows:
            raise TraceError(
                f"{self.calls.path}: row {row + 2} depends on {shown(name)}, which is not in the "
                "file"
            )
        return rows[name]

    def _delay(self, wait: dict[str, Any]) -> float:
        return self.calls.delay(float(wait.get("delay_ms", 0)) / 1e3) or 0.0


def _by_completion(wait: dict[str, Any]) -> bool:
    """Put dependencies on a completion first, in their order."""
    return bool(wait["trigger"] != COMPLETION)

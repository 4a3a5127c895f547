"""Applied Compute's agents: a JSON object per session, with lengths and tool times, no clock.

``{"num_turns", "input_prompt_length", "assistant_response_length": [..], "tool_call_output_length":
[..], "tool_call_latency": [seconds], "final_assistant_response_length"}``. Source: Dynamo's replay
fixtures. Each turn's prompt is all that was read and written before and the tool's output; it is
sent when the tool is done. All sessions begin at 0.
"""

from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.calls import Calls, require_fields, seconds, whole
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import Sessions, Streams, require_ids
from workloads.trace import MAX_TOKENS, NO_STARTS, Trace
from workloads.where import Where

BLOCK_SIZE = 16
LISTS = ("assistant_response_length", "tool_call_output_length", "tool_call_latency")
PROMPT, FINAL = "input_prompt_length", "final_assistant_response_length"
NEEDED = (PROMPT, *LISTS, FINAL)
USED = (*NEEDED, "num_turns")


class AppliedCompute:
    """Reads sessions in a closed loop."""

    name = "applied_compute"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with such a session."""
        row = first_object(head) or {}
        return all(name in row for name in NEEDED)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        measured.own_unit(path, hints.time_unit)
        ids = Sessions()
        calls, streams = Calls(path), Streams(hints.block_size or BLOCK_SIZE, ids)
        for fields, where in measured.rows(path):
            _add(fields, where, calls, streams)
            require_ids(ids.base, str(path))
        if not len(calls):
            raise TraceError(f"{path}: holds no session")
        raw = calls.raw_of(
            self.name,
            pl.Series("arrival_s", calls.times, dtype=pl.Float64),
            block_size=streams.size,
            block_scope="session",
            tail_block="omitted",
            warnings=(f"{path}: {NO_STARTS}",),
        )
        return clean(raw, policy)


def _add(fields: dict[str, Any], where: Where, calls: Calls, streams: Streams) -> None:
    """Take one session's turns."""
    require_fields(fields, NEEDED, where)
    lists = [_list(fields, name, where) for name in LISTS]
    count = len(lists[0])
    told = whole(fields.get("num_turns", count), "num_turns", where)
    if {len(each) for each in lists} != {told}:
        where.fail(0, "num_turns", told, f"the number of {', '.join(LISTS)}, one each per turn")
    prompt, parent, said = whole(fields[PROMPT], PROMPT, where), -1, 0
    session = str(where.first_row)
    for turn in range(count + 1):
        final = turn == count
        answer = (
            whole(fields[FINAL], FINAL, where) if final else whole(lists[0][turn], LISTS[0], where)
        )
        waited = seconds(lists[2][turn - 1], LISTS[2], where) if turn else 0.0
        if prompt > MAX_TOKENS:
            where.fail(0, f"{PROMPT} and what follows", prompt, f"at most {MAX_TOKENS} tokens")
        row = len(calls)
        calls.add(
            None if turn else 0.0,
            prompt,
            answer,
            session_id=session,
            turn=min(turn, 65_535),
            parent_id=None if parent < 0 else parent,
            delay_s=calls.delay(waited) if turn else None,
        )
        calls.prompts.add(streams.add(row, parent, said, (prompt, answer)))
        said = prompt + answer
        if not final:
            prompt, parent = said + whole(lists[1][turn], LISTS[1], where), row
    calls.further.update(name for name in fields if name not in USED)


def _list(fields: dict[str, Any], name: str, where: Where) -> list[Any]:
    found = fields[name]
    if not isinstance(found, list):
        where.fail(0, name, found, "a list, one per turn")
    return found

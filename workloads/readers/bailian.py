"""Qwen-Bailian's traces: JSON lines with the chat each request goes on with.

``{"chat_id", "parent_chat_id" (-1: none), "timestamp" (seconds), "input_length", "output_length",
"type", "turn", "hash_ids"}``, ids of 16-token blocks. Source: the description of
alibaba-edu/qwen-bailian-usagetraces-anon. An id tells a block's own text alone, so it is taken
together with those before it; the last, partial block of a prompt may be padded there, and has no
id here. A parent outside the file leaves its child a first turn.
"""

from pathlib import Path
from typing import Any

from workloads import lineage
from workloads.cleaning import Policy, Raw, clean
from workloads.readers import measured
from workloads.readers.calls import Calls, nullable, require_fields, seconds, text, turns, whole
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import Tree, require_ids, require_room, whole_ids
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where

BLOCK_SIZE = 16
PARENT = "parent_chat_id"
NEEDED = ("chat_id", PARENT, "timestamp", "input_length", "output_length")
USED = (*NEEDED, "type", "turn", "hash_ids")
ROOT = "-1"


class Bailian:
    """Reads requests and the conversations they form."""

    name = "bailian"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with an object of these fields."""
        row = first_object(head) or {}
        return all(name in row for name in NEEDED)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        size = hints.block_size or BLOCK_SIZE
        calls, tree, wanted = Calls(path), Tree(), []
        for fields, where in measured.rows(path):
            wanted.append(_add(fields, where, calls, tree, size))
        require_ids(tree.size, str(path))
        return clean(_linked(calls, wanted, hints, size), policy)


def _add(fields: dict[str, Any], where: Where, calls: Calls, tree: Tree, size: int) -> str | None:
    """Take one row and return the name of the one it goes on with."""
    require_fields(fields, NEEDED, where)
    tokens = [whole(fields[name], name, where) for name in ("input_length", "output_length")]
    if fields.get("hash_ids") is None:
        calls.prompts.add(None)
    else:
        ids = whole_ids(fields["hash_ids"], "hash_ids", where)
        require_room(ids.size, size, tokens[0], "hash_ids", where)
        calls.prompts.add_ids(tree.of_ids(ids[: tokens[0] // size]))
    calls.add(
        seconds(fields["timestamp"], "timestamp", where, 0),
        *tokens,
        source_id=text(fields, "chat_id", where),
        tenant=text(fields, "type", where),
    )
    calls.further.update(name for name in fields if name not in USED)
    parent = text(fields, PARENT, where)
    return None if parent == ROOT else parent


def _linked(calls: Calls, wanted: list[str | None], hints: Hints, size: int) -> Raw:
    """Return the rows with their parents, and the sessions those make."""
    parents, missing = lineage.by_name(calls.column("source_id"), wanted)
    calls.counts["parents_not_in_the_file"] = missing
    lineage.require_no_circle(parents, Where(str(calls.path), 1), PARENT)
    calls.columns["parent_id"] = list(nullable(parents))
    calls.columns["session_id"] = [str(each) for each in lineage.roots(parents)]
    calls.columns["turn"] = list(turns(parents))
    return calls.raw(
        "bailian",
        Clock(native="s", stated=hints.time_unit),
        block_size=size,
        block_scope="global",
        tail_block="omitted",
        parent_field=PARENT,
    )

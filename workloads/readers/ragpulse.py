"""RAGPulse: JSON lines whose prompts are put together from chunks of several kinds.

``{"timestamp": "<seconds>", "input_length", "output_length", "hash_ids": {"sys_prompt": [..],
"passages_ids": [..], "history": [..], "web_search": [..], "user_input": [..]}, "session_id"}``. A
chunk's id says what it is, not what stands before it, and its length stands in another file of the
folder, ``N_<kind>.jsonl`` with ``{"<kind>_id", "token_length"}``. Source: the description of
github.com/flashserve/RAGPulse. With those files beside it a prompt is cut into blocks of 16 tokens,
each known by the chunks it holds and all that stands before it; without them nobody can tell what
two prompts share.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.cleaning import Policy, clean
from workloads.readers import measured
from workloads.readers.calls import (
    Calls,
    in_session,
    nullable,
    require_fields,
    seconds,
    text,
    turns,
    whole,
)
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import Tree, require_ids, whole_ids
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where

BLOCK_SIZE = 16
KINDS = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")
"""In the order in which the description lists them, taken for that of the prompt."""

NEEDED = ("timestamp", "input_length", "output_length", "hash_ids")
USED = (*NEEDED, "session_id")
LENGTH = "token_length"
LENGTH_FILES = "[1-9]_*.jsonl"
Piece = tuple[int, int, int]
"""A chunk's id, and from and to which of its tokens."""


class RAGPulse:
    """Reads requests and, of the files beside them, how long their chunks are."""

    name = "ragpulse"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with an object whose ids are of several kinds."""
        ids = (first_object(head) or {}).get("hash_ids")
        return isinstance(ids, dict) and KINDS[0] in ids

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        size = hints.block_size or BLOCK_SIZE
        lengths = _lengths(path)
        calls, tree = Calls(path), Tree()
        for fields, where in measured.rows(path):
            _add(fields, where, calls)
            chunks = _chunks(fields["hash_ids"], where)
            if lengths:
                blocks = _blocks(chunks, lengths, calls.columns["input_tokens"][-1], size)
                calls.prompts.add_ids(tree.ids(blocks))
                calls.counts["chunks_without_length"] += sum(each not in lengths for each in chunks)
        require_ids(tree.size, str(path))
        parents = in_session(calls.column("session_id"), calls.times)
        calls.columns["parent_id"] = list(nullable(parents))
        calls.columns["turn"] = list(turns(parents))
        raw = calls.raw(
            self.name,
            Clock(native="s", stated=hints.time_unit),
            block_size=size,
            block_scope="global",
            tail_block="omitted",
            warnings=() if lengths else (_without_lengths(path),),
        )
        return clean(raw, policy)


def _without_lengths(path: Path) -> str:
    return (
        f"{path}: beside it lie no files with the chunks' lengths ({LENGTH_FILES}), so that its "
        "prompts share nothing here"
    )


def _add(fields: dict[str, Any], where: Where, calls: Calls) -> None:
    """Take one row but for its prompt."""
    require_fields(fields, NEEDED, where)
    stamp: object = fields["timestamp"]
    if isinstance(stamp, str) and stamp.strip().isdecimal() and len(stamp) < 20:
        stamp = int(stamp)
    calls.add(
        seconds(stamp, "timestamp", where, 0),
        whole(fields["input_length"], "input_length", where),
        whole(fields["output_length"], "output_length", where),
        session_id=text(fields, "session_id", where),
    )
    calls.further.update(name for name in fields if name not in USED)


def _chunks(ids: object, where: Where) -> list[int]:
    """Return a prompt's chunks in order."""
    if not isinstance(ids, dict):
        where.fail(0, "hash_ids", ids, f"an object with {', '.join(KINDS)}")
    return [
        chunk for kind in KINDS for chunk in whole_ids(ids.get(kind) or [], kind, where).tolist()
    ]


def _lengths(path: Path) -> dict[int, int]:
    """Return the tokens of each chunk from the files beside the trace."""
    found: dict[int, int] = {}
    for file in sorted(path.parent.glob(LENGTH_FILES)):
        if file == path:
            continue
        for fields, where in measured.rows(file):
            names = [name for name in fields if name.endswith(("_id", "_ids"))]
            if len(names) != 1 or LENGTH not in fields:
                where.fail(0, "the row", fields, f"one <kind>_id and {LENGTH}")
            chunk = whole(fields[names[0]], names[0], where, 2**32 - 1)
            found[chunk] = whole(fields[LENGTH], LENGTH, where)
    return found


def _blocks(
    chunks: list[int], lengths: dict[int, int], tokens: int, size: int
) -> Iterator[tuple[Piece, ...]]:
    """Yield each whole block of a prompt of ``tokens`` as the pieces of chunks it holds.

    A chunk of unknown length ends what can be told.
    """
    block: list[Piece] = []
    room, left = size, tokens
    for chunk in chunks:
        at, end = 0, min(lengths.get(chunk, 0), left)
        if chunk not in lengths:
            return
        left -= end
        while at < end:
            step = min(room, end - at)
            block.append((chunk, at, at + step))
            at, room = at + step, room - step
            if not room:
                yield tuple(block)
                block, room = [], size

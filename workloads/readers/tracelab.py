"""TraceLab's sessions of coding agents: a JSON object per round, or its replay CSV.

JSON lines have ``session_id``, ``round_index``, ``input_tokens_total``, ``prefix_tokens`` (which
the provider had cached), ``output_tokens`` and ``timing_events`` with ISO 8601 ``timestamp``: a
round is sent with its last message or tool result, and whole with its last event. The CSV has
``session_id,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms`` and perhaps
``arrival_time``, read as milliseconds: ``input_len`` is what comes after the prefix. Source:
github.com/uw-syfi/TraceLab. There are no hashes: the prefix of a round is taken for the beginning
of what its session had read and written, which a first round's is not known to be.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from workloads.cleaning import Policy, Raw, clean
from workloads.readers import measured
from workloads.readers.calls import Calls, nullable, require_fields, text, turns, whole
from workloads.readers.calls import in_session as by_time
from workloads.readers.dynamo import link
from workloads.readers.fields import csv_batches, tokens
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import Sessions, Streams, require_ids
from workloads.readers.rows import has_names
from workloads.readers.source import read_head
from workloads.readers.times import Clock
from workloads.trace import NO_STARTS, Trace
from workloads.where import Where

BLOCK_SIZE = 16
ROUND = ("session_id", "round_index", "input_tokens_total", "prefix_tokens", "output_tokens")
EVENTS = "timing_events"
INPUTS = ("user_message", "tool_result")
"""Events that belong to what a round was sent."""

REPLAY = ("session_id", "round_idx", "prefix_len", "input_len", "output_len", "tool_wait_after_ms")
ARRIVAL = "arrival_time"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SETTINGS = ("block_size", "block_scope", "tail_block")


class TraceLab:
    """Reads rounds from either kind of file."""

    name = "tracelab"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with a round, or the replay CSV's header."""
        row = first_object(head) or {}
        return has_names(head, REPLAY) or all(name in row for name in (*ROUND, EVENTS))

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        calls = Calls(path)
        csv = has_names(read_head(path), REPLAY)
        raw = _replay(calls, hints) if csv else _rounds(calls, hints)
        return clean(raw, policy)


def _rounds(calls: Calls, hints: Hints) -> Raw:
    """Return the rounds of JSON lines; times are whole milliseconds since 1970."""
    measured.own_unit(calls.path, hints.time_unit)
    for fields, where in measured.rows(calls.path):
        require_fields(fields, (*ROUND, EVENTS), where)
        start, end = _times(fields[EVENTS], where)
        calls.add(
            start,
            whole(fields["input_tokens_total"], "input_tokens_total", where),
            whole(fields["output_tokens"] or 0, "output_tokens", where),
            source_id=text(fields, "round_id", where),
            session_id=text(fields, "session_id", where),
            model=text(fields, "model", where),
            tenant=text(fields, "provider", where),
            cached_tokens_hint=whole(fields["prefix_tokens"] or 0, "prefix_tokens", where),
            src_e2e_s=(end - start) / 1e3,
        )
    link(calls, {})
    size = _streams(calls, hints)
    return calls.raw("tracelab", Clock(native="ms"), **size)


def _times(events: object, where: Where) -> tuple[int, int]:
    """Return when a round was sent and when it was whole, in ms since 1970."""
    if not isinstance(events, list) or not events:
        where.fail(0, EVENTS, events, "a list of events")
    stamps: list[tuple[int, bool]] = []
    for event in events:
        fields = event if isinstance(event, dict) else {}
        stamps.append((unix_ms(fields.get("timestamp"), where), fields.get("event_type") in INPUTS))
    sent = [stamp for stamp, given in stamps if given]
    start = max(sent) if sent else min(stamp for stamp, _ in stamps)
    return start, max(start, *(stamp for stamp, _ in stamps))


def unix_ms(stamp: object, where: Where) -> int:
    """Return a date with an offset from UTC as milliseconds since 1970."""
    date = date_of(stamp)
    if date is None:
        where.fail(0, "timestamp", stamp, "a date like 2026-06-01T05:40:20.151Z")
    return (date - EPOCH) // timedelta(milliseconds=1)


def date_of(stamp: object) -> datetime | None:
    """Return ISO 8601 text with an offset from UTC as a date, anything else as ``None``."""
    try:
        date = datetime.fromisoformat(stamp) if isinstance(stamp, str) else None
    except ValueError:
        return None
    return date if date is not None and date.tzinfo is not None and date >= EPOCH else None


def _replay(calls: Calls, hints: Hints) -> Raw:
    """Return the rounds of the replay CSV."""
    waits: list[int] = []
    timed = False
    for row in _csv_rows(calls.path):
        arrival = row.get(ARRIVAL)
        timed = timed or arrival is not None
        calls.add(
            arrival,
            row["prefix_len"] + row["input_len"],
            row["output_len"],
            session_id=row["session_id"],
            cached_tokens_hint=row["prefix_len"],
        )
        waits.append(row["tool_wait_after_ms"])
    parents = by_time(calls.column("session_id"), calls.times)
    delays = [None if each < 0 else waits[each] / 1e3 for each in parents]
    calls.columns |= {
        "parent_id": list(nullable(parents)),
        "turn": list(turns(parents)),
        "delay_s": delays,
    }
    calls.times = [
        (time if timed else 0) if parent < 0 else None
        for time, parent in zip(calls.times, parents, strict=True)
    ]
    size = _streams(calls, hints)
    clock = Clock(native="ms", stated=hints.time_unit)
    if timed:
        return calls.raw("tracelab", clock, **size)
    told = f"{calls.path}: {NO_STARTS}"
    return calls.raw("tracelab", clock, warnings=(told,), **size)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the replay CSV, numbers as such."""
    for batch in csv_batches(path, REPLAY):
        where = Where(str(path), batch.first_row)
        names = [*REPLAY[1:], *([ARRIVAL] if ARRIVAL in batch.fields.columns else [])]
        numbers = [tokens(batch.fields[name], where).alias(name) for name in names]
        yield from batch.fields.select("session_id").with_columns(numbers).iter_rows(named=True)


def _streams(calls: Calls, hints: Hints) -> dict[str, Any]:
    """Fill in the prompts' blocks by what each shares with the round before."""
    ids = Sessions()
    streams = Streams(hints.block_size or BLOCK_SIZE, ids)
    parents = calls.column("parent_id")
    runs: dict[int, Any] = {}
    session, turn = calls.column("session_id"), calls.column("turn")
    for row in sorted(range(len(calls)), key=lambda row: (session[row] or "", turn[row] or 0)):
        parent = -1 if parents[row] is None else parents[row]
        shared = calls.columns["cached_tokens_hint"][row] if parent >= 0 else 0
        sizes = (calls.columns["input_tokens"][row], calls.columns["output_tokens"][row])
        runs[row] = streams.add(row, parent, min(shared, sizes[0]), sizes)
    require_ids(ids.base, str(calls.path))
    for row in range(len(calls)):
        calls.prompts.add(runs[row])
    return dict(zip(SETTINGS, (streams.size, "session", "omitted"), strict=True))

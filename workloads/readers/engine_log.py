"""Requests as an engine saw them: JSON lines with the stamps of each.

``{"input_toks": n, "output_toks": n, "queued_ts": s, "first_token_ts": s, "last_token_ts": s}``,
seconds of one clock, as vLLM's own request metrics call them. Other stamps are not read: an
``arrival_time`` beside them is of another clock.
"""

from collections import Counter
from pathlib import Path

import polars as pl

from workloads.cleaning import Policy, clean
from workloads.readers import measured
from workloads.readers.fields import tokens
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object, plain_text
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where

STAMPS = ("queued_ts", "first_token_ts", "last_token_ts")
LENGTHS = ("input_toks", "output_toks")
NUMBERS = (*STAMPS, *LENGTHS)
ID = "request_id"


class EngineLog:
    """Reads the stamps an engine took of each request: queued, first token, last token."""

    name = "engine_log"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with an object that has the stamps and lengths."""
        row = first_object(head) or {}
        return all(name in row for name in NUMBERS)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        read, further = _read(path)
        where = Where(str(path), 1)
        queued, first, last = (read[name] for name in STAMPS)
        where.require(first >= queued, first, "a time not before queued_ts")
        where.require(last >= first, last, "a time not before first_token_ts")
        times = Clock(native="s", stated=hints.time_unit).numbers(queued, where)
        unit = measured.SECONDS[times.unit]
        frame = pl.DataFrame(
            {
                "time_ns": times.ns,
                "input_tokens": tokens(read["input_toks"], where),
                "output_tokens": tokens(read["output_toks"], where),
                "source_id": read[ID],
                "src_ttft_s": ((first - queued) * unit).cast(pl.Float32),
                "src_e2e_s": ((last - queued) * unit).cast(pl.Float32),
            }
        )
        raw = measured.raw(path, self.name, frame, warnings=times.warnings, further=further)
        return clean(raw, policy)


def _read(path: Path) -> tuple[pl.DataFrame, Counter[str]]:
    """Return the numbers and names of all rows, and the fields there is no use for."""
    further: Counter[str] = Counter()
    rows: list[list[float | str | None]] = []
    for fields, where in measured.rows(path):
        numbers = [measured.number(fields.get(name), name, where) for name in NUMBERS]
        rows.append([*numbers, plain_text(fields.get(ID), ID, where)])
        further.update(set(fields) - {*NUMBERS, ID})
    schema = {**dict.fromkeys(NUMBERS, pl.Float64()), ID: pl.String()}
    return pl.DataFrame(rows, schema=schema, orient="row"), further

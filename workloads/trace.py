"""A trace: the canonical frame, one row per LLM call, and the account of how it came about."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from workloads import checks
from workloads.errors import TraceError
from workloads.parts import parts_of

MAX_TOKENS = 100_000_000
"""More tokens than this in one request is taken for a mistake in the file."""

MAX_ROWS = 2**32 - 1
"""Row numbers are 32-bit."""

SYNTHETIC = "synthetic"
"""The format of a workload that no file holds."""

METADATA_KEY = "disaggsim.trace"
"""Key-value entry of a canonical parquet file that holds :class:`TraceMeta` as JSON."""

BLOCKS_KEY = "disaggsim.blocks"
"""Key-value entry of a run's requests that holds as JSON what :data:`ABOUT_BLOCKS` are."""

ABOUT_BLOCKS = ("block_size", "block_scope", "tail_block")
"""What a :class:`TraceMeta` says of the column ``block_runs``."""

RUN = pl.Struct({"first": pl.UInt32(), "n": pl.UInt32()})
"""``n`` consecutive KV-block ids from ``first``."""

JOIN = pl.Struct({"parent_id": pl.UInt32(), "delay_s": pl.Float64()})
"""One further request that has to be complete, and for so long, before this one starts."""

TRIGGER = pl.Enum(["completion", "dispatch"])
"""Whether a request waits for its parent's last token, or for its being sent."""

STATUS = pl.Enum(["ok", "failed"])
"""Whether the source's request succeeded; an answer of zero tokens counts as failed."""

SCHEMA = pl.Schema(
    (
        ("request_id", pl.UInt32()),
        ("source_row", pl.UInt32()),
        ("source_id", pl.String()),
        ("arrival_s", pl.Float64()),
        ("input_tokens", pl.Int32()),
        ("output_tokens", pl.Int32()),
        ("session_id", pl.UInt32()),
        ("turn", pl.UInt16()),
        ("parent_id", pl.UInt32()),
        ("delay_s", pl.Float64()),
        ("trigger", TRIGGER),
        ("joins", pl.List(JOIN)),
        ("block_runs", pl.List(RUN)),
        ("cached_tokens_hint", pl.Int32()),
        ("model", pl.Categorical()),
        ("tenant", pl.Categorical()),
        ("status", STATUS),
        ("src_ttft_s", pl.Float32()),
        ("src_e2e_s", pl.Float32()),
    )
)
"""The canonical columns in order.

``request_id`` is dense, 0..n-1. ``source_row`` is the 0-based data row of the source file,
``source_id`` the request's name there. ``session_id`` numbers sessions in order of appearance.
``arrival_s`` is seconds since the first kept arrival of a file, or since the start of a synthetic
workload. ``parent_id``, always a lower number, and ``delay_s`` belong to sessions: start =
completion of the parent (or, by ``trigger``, its dispatch) + delay, and not before the completion +
delay of any of the ``joins``. Where a row has ``arrival_s`` as well, both are known, and a replay
chooses; ``delay_s`` is null where the source does not tell. ``block_runs`` are the prompt's leading
KV blocks as runs of consecutive cumulative
ids. ``cached_tokens_hint`` and ``src_*`` are what the source reported, never simulator input.
"""

NO_STARTS = "its sessions do not say when they begin: all begin at 0 here"
"""How a warning ends about a file whose sessions have no time."""

REQUIRED = ("request_id", "source_row", "input_tokens", "output_tokens", "status")
"""Columns without nulls; ``arrival_s`` joins them in an open loop."""

IDENTITY = (
    *("request_id", "source_row", "source_id", "session_id", "turn", "model", "tenant"),
    *("src_ttft_s", "src_e2e_s"),
)
"""Columns that say which request of the source this is and how it fared there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """One thing that was done to a trace, by ``name``, with its settings and counts."""

    name: str
    counts: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceMeta:
    """Where a trace came from and what became of its rows.

    ``rows_read + rows_added == rows_kept + sum(drops)`` always holds; ``rows_added`` counts copies
    made by a rate increase and is 0 otherwise. Tokens are a request's input + output:
    ``tokens_read + tokens_added`` are those of the rows kept plus the sum of ``dropped_tokens``,
    which beside the reasons of ``drops`` names those ``truncated``; ``tokens_read`` of ``None``
    means that nobody counted. ``warnings`` are sentences a user has to see.

    ``t0`` is the wall-clock time of the first arrival kept from the file (ISO 8601, with an offset
    only if the file states one), ``time_unit`` the unit or resolution of the source's clock.
    ``licence`` is told where the file says it, never from its shape. ``block_size`` is tokens per
    block id, ``tail_block`` whether a prompt's last partial block has an id, ``context`` whether a
    row's input is the whole prompt or the new tokens of a turn.
    """

    name: str
    format: str
    sha256: str | None = None
    licence: str | None = None
    t0: str | None = None
    time_unit: str = "s"
    block_size: int | None = None
    block_scope: str | None = None
    tail_block: str | None = None
    context: str = "full"
    loop: str = "open"
    rows_read: int
    rows_kept: int
    rows_added: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    tokens_read: int | None = None
    tokens_added: int = 0
    dropped_tokens: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        owner = f"trace {self.name!r}"
        checks.one_of(owner, "context", self.context, ("full", "delta"))
        checks.one_of(owner, "loop", self.loop, ("open", "closed"))
        if self.block_size is not None:
            checks.whole(owner, "block_size", self.block_size, 1)
        if self.block_scope is not None:
            checks.one_of(owner, "block_scope", self.block_scope, ("global", "session"))
        if self.tail_block is not None:
            checks.one_of(owner, "tail_block", self.tail_block, ("partial", "omitted"))
        for name in ("rows_read", "rows_kept", "rows_added"):
            checks.whole(owner, name, getattr(self, name), 0)
        checks.whole(owner, "tokens_added", self.tokens_added, 0)
        if self.tokens_read is not None:
            checks.whole(owner, "tokens_read", self.tokens_read, 0)
        for name, counts in (("drops", self.drops), ("dropped_tokens", self.dropped_tokens)):
            for reason, count in counts.items():
                checks.whole(owner, f"{name}[{reason}]", count, 0)
        self._check_account(owner)

    def _check_account(self, owner: str) -> None:
        dropped = sum(self.drops.values())
        if self.rows_read + self.rows_added != self.rows_kept + dropped:
            raise TraceError(
                f"{owner}: {self.rows_read} rows read + {self.rows_added} added must equal "
                f"{self.rows_kept} kept + {dropped} dropped"
            )

    @property
    def tokens_kept(self) -> int | None:
        """Input and output tokens of the rows kept; ``None`` where nobody counted."""
        if self.tokens_read is None:
            return None
        return self.tokens_read + self.tokens_added - sum(self.dropped_tokens.values())

    def after(
        self,
        transform: Transform,
        *,
        drops: Mapping[str, int] | None = None,
        tokens: Mapping[str, int] | None = None,
        added: tuple[int, int] = (0, 0),
    ) -> "TraceMeta":
        """Return the account after ``transform``.

        It dropped so many rows and ``tokens``, by reason, and ``added`` so many rows and tokens.
        """
        merged = _merged(self.drops, drops)
        rows_added = self.rows_added + added[0]
        return replace(
            self,
            drops=merged,
            rows_added=rows_added,
            rows_kept=self.rows_read + rows_added - sum(merged.values()),
            tokens_added=self.tokens_added + added[1],
            dropped_tokens=_merged(self.dropped_tokens, tokens),
            transforms=(*self.transforms, transform),
        )

    def to_json(self) -> str:
        """Return this account as a JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TraceMeta":
        """Return the account :meth:`to_json` wrote; raise ``TraceError`` for anything else."""
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["transforms"] = tuple(Transform(**entry) for entry in fields["transforms"])
            fields["warnings"] = tuple(str(each) for each in fields.get("warnings", ()))
            return cls(**fields)
        except TraceError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise TraceError(f"trace metadata is not what this program writes ({error})") from error


def _merged(counts: Mapping[str, int], more: Mapping[str, int] | None) -> dict[str, int]:
    """Return the sums by reason; a reason that counts nothing is not added."""
    merged = dict(counts)
    for reason, count in (more or {}).items():
        if count:
            merged[reason] = merged.get(reason, 0) + count
    return merged


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in the canonical :data:`SCHEMA`, sorted by (arrival_s, source_row).

    Raises ``TraceError`` when the frame breaks the schema, the order, the token limits or the
    account of ``meta``, or has no row.
    """

    frame: pl.DataFrame
    meta: TraceMeta

    def __post_init__(self) -> None:
        _check_schema(self.frame, self.meta)
        _check_rows(self.frame, self.meta)
        _check_nulls(self.frame, self.meta)
        _check_ids(self.frame, self.meta)
        _check_parents(self.frame, self.meta)
        _check_tokens(self.frame, self.meta)
        _check_token_account(self.frame, self.meta)
        if self.meta.loop == "open":
            _check_order(self.frame, self.meta)

    def __len__(self) -> int:
        return self.frame.height

    def equals(self, other: "Trace") -> bool:
        """Tell whether both frame (nulls equal nulls) and account are the same."""
        return self.meta == other.meta and self.frame.equals(other.frame, null_equal=True)

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last arrival that is known."""
        arrivals = self.frame["arrival_s"].drop_nulls()
        return float(arrivals[-1] - arrivals[0]) if arrivals.len() else 0.0

    @property
    def mean_rate(self) -> float:
        """Requests/s from first to last arrival, (n - 1) / duration; infinite if all at once."""
        duration = self.duration_s
        return (len(self) - 1) / duration if duration > 0 else float("inf")

    def column(self, name: str) -> NDArray[Any]:
        """Return one column as a numpy array of shape (n,)."""
        return self.frame[name].to_numpy()

    def identity(self) -> pl.DataFrame:
        """Return the columns of :data:`IDENTITY` that say anything, and ``block_runs``, in order.

        A synthetic request has its number and blocks alone.
        """
        further = (*IDENTITY[2:], *(("block_runs",) if self.meta.block_size is not None else ()))
        said = [name for name in further if self.frame[name].null_count() < len(self)]
        from_file = () if self.meta.format == SYNTHETIC else ("source_row",)
        named = self.frame.select("request_id", *from_file, *said)
        return named.with_columns(pl.col(pl.Categorical).cast(pl.String))

    def rebased(self) -> "Trace":
        """Return the trace with its clock at 0 at the first arrival; the account has the shift."""
        first = float(self.frame["arrival_s"][0])
        if first == 0:
            return self
        meta = self.meta.after(Transform(name="rebase", counts={"shift_s": first}))
        return Trace(self.frame.with_columns(pl.col("arrival_s") - first), meta)

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the canonical parquet; it appears at ``path`` whole or not at all."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            self.frame.write_parquet(partial, metadata={METADATA_KEY: self.meta.to_json()})
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise TraceError(f"{target}: cannot write the trace ({error})") from error


def canonical_frame(columns: pl.DataFrame) -> pl.DataFrame:
    """Return ``columns`` in :data:`SCHEMA`, rows already in order.

    ``request_id`` is numbered afresh; a missing ``source_row`` becomes 0..n-1, a missing ``status``
    ``ok``, and any other missing column null.
    """
    rows = pl.int_range(columns.height, dtype=pl.UInt32, eager=True)
    defaults: dict[str, pl.Expr] = {
        "source_row": pl.lit(rows),
        "status": pl.lit("ok", dtype=STATUS),
    }
    have = columns.with_columns(pl.lit(rows).alias("request_id"))
    return have.select(
        (pl.col(name) if name in have.columns else defaults.get(name, pl.lit(None)))
        .cast(dtype)
        .alias(name)
        for name, dtype in SCHEMA.items()
    )


def _check_schema(frame: pl.DataFrame, meta: TraceMeta) -> None:
    expected, got = dict(SCHEMA), dict(frame.schema)
    if list(expected.items()) == list(got.items()):
        return
    for name, dtype in expected.items():
        if name not in got:
            raise TraceError(f"trace {meta.name!r}: column {name} ({dtype}) is missing")
        if got[name] != dtype:
            raise TraceError(
                f"trace {meta.name!r}: column {name} must be {dtype} but is {got[name]}"
            )
    raise TraceError(
        f"trace {meta.name!r}: columns must be {', '.join(expected)}, in this order, "
        f"but are {', '.join(got)}"
    )


def _check_rows(frame: pl.DataFrame, meta: TraceMeta) -> None:
    if frame.height == 0:
        drops = ", ".join(f"{reason}: {count}" for reason, count in meta.drops.items())
        raise TraceError(
            f"trace {meta.name!r}: no request is left of {meta.rows_read} rows read"
            + (f" (dropped: {drops})" if drops else "")
        )
    if frame.height != meta.rows_kept:
        raise TraceError(
            f"trace {meta.name!r}: {frame.height} rows, but the account says {meta.rows_kept} kept"
        )


def _check_nulls(frame: pl.DataFrame, meta: TraceMeta) -> None:
    needed = REQUIRED if meta.loop == "closed" else (*REQUIRED, "arrival_s")
    for name in needed:
        if frame[name].null_count():
            row = frame[name].is_null().arg_true()[0]
            raise TraceError(f"trace {meta.name!r}: row {row}, {name} is null")


def _check_ids(frame: pl.DataFrame, meta: TraceMeta) -> None:
    at = 0
    for part in parts_of(frame["request_id"]):
        if not np.array_equal(part, np.arange(at, at + part.size, dtype=np.uint32)):
            raise TraceError(f"trace {meta.name!r}: request_id must count 0, 1, 2, … without gaps")
        at += part.size


def _check_parents(frame: pl.DataFrame, meta: TraceMeta) -> None:
    parents = frame["parent_id"]
    if parents.null_count() < frame.height:
        wrong = (parents >= frame["request_id"]).fill_null(value=False).arg_true()
        if wrong.len():
            raise TraceError(
                f"trace {meta.name!r}: row {wrong[0]}, parent_id {parents[wrong[0]]} must be a row "
                "above it"
            )
        _check_delays(frame, meta)
    if meta.loop == "closed":
        lost = (frame["arrival_s"].is_null() & parents.is_null()).arg_true()
        if lost.len():
            raise TraceError(
                f"trace {meta.name!r}: row {lost[0]} has neither arrival_s nor a parent_id"
            )


def _check_delays(frame: pl.DataFrame, meta: TraceMeta) -> None:
    delays = frame["delay_s"]
    wrong = (~((delays >= 0) & delays.is_finite())).fill_null(value=False).arg_true()
    if wrong.len():
        raise TraceError(
            f"trace {meta.name!r}: row {wrong[0]}, delay_s {delays[wrong[0]]} must be a finite "
            "number of seconds, at least 0"
        )


def _check_tokens(frame: pl.DataFrame, meta: TraceMeta) -> None:
    for name in ("input_tokens", "output_tokens"):
        at = 0
        for tokens in parts_of(frame[name]):
            wrong = np.flatnonzero((tokens < 1) | (tokens > MAX_TOKENS))
            if wrong.size:
                raise TraceError(
                    f"trace {meta.name!r}: row {at + wrong[0]}, {name} {tokens[wrong[0]]} must lie "
                    f"in 1..{MAX_TOKENS} tokens"
                )
            at += tokens.size


def _check_token_account(frame: pl.DataFrame, meta: TraceMeta) -> None:
    kept, counted = meta.tokens_kept, token_sum(frame)
    if kept is not None and kept != counted:
        raise TraceError(
            f"trace {meta.name!r}: the rows have {counted} tokens, but the account says {kept} kept"
        )


def token_sum(frame: pl.DataFrame) -> int:
    """Return the input and output tokens of all rows together."""
    return sum(
        int(np.sum(part.to_numpy(), dtype=np.int64))
        for name in ("input_tokens", "output_tokens")
        for part in frame[name].get_chunks()
    )


def _check_order(frame: pl.DataFrame, meta: TraceMeta) -> None:
    arrivals = frame["arrival_s"].to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(arrivals) & (arrivals >= 0)))
    if wrong.size:
        raise TraceError(
            f"trace {meta.name!r}: row {wrong[0]}, arrival_s {arrivals[wrong[0]]} must be a "
            "finite number of seconds, at least 0"
        )
    rows = frame["source_row"].to_numpy()
    tied = arrivals[1:] == arrivals[:-1]
    wrong = np.flatnonzero((arrivals[1:] < arrivals[:-1]) | (tied & (rows[1:] < rows[:-1])))
    if wrong.size:
        raise TraceError(
            f"trace {meta.name!r}: row {wrong[0] + 1} comes before the row above it; rows must be "
            "sorted by (arrival_s, source_row)"
        )

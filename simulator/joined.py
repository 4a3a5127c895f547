"""The records of services that ran together, as one."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import accumulate

import numpy as np
import polars as pl
from numpy.typing import NDArray

from simulator.record import COUNTS, TIMES, GapHistogram, RunRecord, TierInfo

SERVICE = "service"
"""The column that says whose a request, a worker or a decision is."""

_WORKERS = ("prefill_worker", "decode_worker")


def joined(
    records: Mapping[str, RunRecord], identities: Mapping[str, pl.DataFrame]
) -> tuple[RunRecord, pl.DataFrame]:
    """Return one record of all ``records``, by service, and its requests' identities.

    Requests are in the order of their arrival, those of one instant in that of the services;
    workers are numbered service by service. All records ended together and have their gauges of
    the same moments.
    """
    names, parts = list(records), list(records.values())
    firsts = [0, *accumulate(len(part.workers) for part in parts)][: len(parts)]
    columns = {name: _column(name, parts, firsts) for name in (*TIMES, *COUNTS)}
    order = np.argsort(columns["arrival_s"], kind="stable")
    record = RunRecord(
        requests={name: column[order] for name, column in columns.items()},
        timeline=_timeline(parts),
        workers=tuple(
            replace(worker, worker=worker.worker + first, service=name)
            for name, part, first in zip(names, parts, firsts, strict=True)
            for worker in part.workers
        ),
        events=_events(records, firsts),
        gaps=_gaps([part.gaps for part in parts]),
        end_s=parts[0].end_s,
        first_token=parts[0].first_token,
        decisions=_decisions(records),
        never_sent=sum(part.never_sent for part in parts),
        tiers=_tiers(parts),
    )
    identity = pl.concat(
        [_identity(name, records[name], identities[name]) for name in names], how="diagonal"
    )
    return record, identity[order.astype(np.uint32)]


def _identity(name: str, record: RunRecord, identity: pl.DataFrame) -> pl.DataFrame:
    """Return the identities of the requests that were sent, with their service."""
    sent = len(record.requests["arrival_s"])
    these = identity.head(sent) if record.rows is None else identity[record.rows]
    known = [column for column in these.columns if column != "block_runs"]  # of one trace only
    return these.select(known).with_columns(pl.lit(name).alias(SERVICE))


def _column(
    name: str, parts: Sequence[RunRecord], firsts: Sequence[int]
) -> NDArray[np.float64] | NDArray[np.int32]:
    own: list[NDArray[np.float64]] = [np.asarray(part.requests[name]) for part in parts]
    if name in _WORKERS:
        own = [
            np.where(column >= 0, column + first, column)
            for column, first in zip(own, firsts, strict=True)
        ]
    whole: NDArray[np.float64] = np.concatenate(own)
    return whole if name in TIMES else whole.astype(np.int32)


def _timeline(parts: Sequence[RunRecord]) -> dict[str, NDArray[np.float64]]:
    """Return everybody's gauges, beside each other."""
    time = parts[0].timeline["time_s"]
    for part in parts[1:]:
        if not np.array_equal(part.timeline["time_s"], time):
            raise ValueError("records whose gauges were read at other moments cannot be joined")
    gauges = [name for name in parts[0].timeline if name != "time_s"]
    beside = {name: np.hstack([part.timeline[name] for part in parts]) for name in gauges}
    return {"time_s": time, **beside}


def _decisions(records: Mapping[str, RunRecord]) -> tuple[Mapping[str, object], ...]:
    made = [{**each, SERVICE: name} for name, part in records.items() for each in part.decisions]
    return tuple(sorted(made, key=lambda each: float(str(each["at_s"]))))


def _events(
    records: Mapping[str, RunRecord], firsts: Sequence[int]
) -> tuple[tuple[float, str, int, str], ...]:
    """Return what happened, in order; of a whole pool it says whose it is."""
    told = [
        (time, kind, number + first, detail)
        if number >= 0
        else (time, kind, -1, f"{detail} ({name})")
        for (name, record), first in zip(records.items(), firsts, strict=True)
        for time, kind, number, detail in record.events
    ]
    return tuple(sorted(told, key=lambda event: event[0]))


def _gaps(parts: Sequence[GapHistogram]) -> GapHistogram:
    counts = np.sum([part.counts for part in parts], axis=0)
    return GapHistogram(
        edges=parts[0].edges,
        counts=counts,
        min_s=min(part.min_s for part in parts),
        max_s=max(part.max_s for part in parts),
    )


def _tiers(parts: Sequence[RunRecord]) -> tuple[TierInfo, ...]:
    """Return memories of one name as one."""
    found: dict[str, TierInfo] = {}
    for tier in (tier for part in parts for tier in part.tiers):
        before = found.get(tier.name)
        if before is not None:
            sums = {
                each.name: getattr(before, each.name) + getattr(tier, each.name)
                for each in fields(TierInfo)
                if each.name != "name"
            }
            tier = TierInfo(name=tier.name, **sums)
        found[tier.name] = tier
    return tuple(found.values())

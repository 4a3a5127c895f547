"""A measured run beside simulated ones: request by request where both have them, and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from simulator.aggregates import Aggregates, NoStatisticsError, Statistics
from simulator.compare.comparison import Comparison, Reading
from simulator.compare.reading import Run, read_requests, request_columns
from simulator.compare.side import Drawn, drawn
from simulator.errors import ConfigError
from simulator.measured import E2E, MEASURED, STATISTICS, TTFT, apart, beside
from simulator.report import parts, theme
from simulator.report.figures import Panel
from simulator.report.measured import SOURCE, Curve, Stay, distribution_panel, flight_panel
from simulator.report.theme import percent, seconds
from workloads.errors import TraceError
from workloads.readers import read_trace

ORDER = "order of arrival"
"""By what requests of both are put together where no name tells."""

DURATIONS = tuple(MEASURED)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Source:
    """A measured run: its single ``requests`` in canonical columns, or ``statistics`` alone."""

    path: str
    requests: pl.DataFrame | None
    sha256: str | None = None
    statistics: Mapping[str, Statistics]

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.path).name


class Joined(NamedTuple):
    """A point's run beside the measured one.

    ``by`` is what requests were joined by, ``None`` where they were not. ``requests`` are the
    run's, with the source's columns where joined; ``told`` is their errors
    (:func:`simulator.measured.beside`).
    """

    by: str | None
    requests: pl.DataFrame
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Beside:
    """The runs of a comparison's points, in their order, beside a measured one."""

    source: Source
    joined: tuple[Joined, ...]


def read_source(path: str, reading: Reading) -> Source:
    """Return the measured run in the file ``path``.

    Raises:
        ConfigError: it is read neither as single requests nor as statistics, or tells no latency.
    """
    try:
        trace = read_trace(
            path, format=reading.format, time_unit=reading.time_unit, columns=reading.columns
        )
    except TraceError as error:
        try:
            return Source(path=path, requests=None, statistics=Aggregates(path=path).read())
        except NoStatisticsError:  # what is wrong with it as requests says more
            told = str(error).replace("workload.", "compare.measured.")
            raise ConfigError(f"measured: {told}") from error
    frame = trace.frame
    if all(frame[name].null_count() == len(frame) for name in (TTFT, E2E)):
        raise ConfigError(
            f"measured: {path}: no request tells when it had its first or last token; of a table "
            "compare.measured.columns={src_ttft_s: …, src_e2e_s: …} names the columns that do"
        )
    return Source(path=path, requests=frame, sha256=trace.meta.sha256, statistics={})


def put_beside(comparison: Comparison, source: Source) -> Beside:
    """Return each point's run beside ``source``; raise ``ConfigError`` for a broken run folder."""
    bases = (comparison.runs[point.base] for point in comparison.points)
    return Beside(source=source, joined=tuple(_joined(run, source) for run in bases))


def _joined(run: Run, source: Source) -> Joined:
    there = request_columns(run)
    names = [name for name in ("source_id", "source_row") if name in there]
    ours = read_requests(run, ["arrival_s", "finish_s", *DURATIONS, *names])
    theirs = source.requests
    by = None if theirs is None else _key(run, ours, (theirs, source.sha256))
    if theirs is None or by is None:
        ours = _within(run, ours)
        if theirs is None:
            return Joined(None, ours, beside(ours.lazy(), source.statistics))
        return Joined(None, ours, apart(theirs, ours))
    told = theirs.select(
        *("source_id", "source_row", "output_tokens", TTFT, E2E),
        pl.col("arrival_s").alias("src_arrival_s"),
    )
    if by == ORDER:
        both = pl.concat([ours.drop(names), told], how="horizontal")
    else:
        both = ours.join(told, on=by, how="inner", maintain_order="left")
    both = _within(run, both)
    return Joined(by, both, beside(both.lazy()))


def _within(run: Run, frame: pl.DataFrame) -> pl.DataFrame:
    """Return what is left of a run that is cut."""
    return (
        frame if run.window is None else frame.filter(pl.col("arrival_s").is_between(*run.window))
    )


def _key(run: Run, ours: pl.DataFrame, source: tuple[pl.DataFrame, str | None]) -> str | None:
    """Return what requests of both are joined by: names, rows of one file, or their order.

    ``source`` is the measured requests and the digest of their file.
    """
    theirs, sha256 = source
    names = theirs["source_id"].drop_nulls()
    if "source_id" in ours.columns and names.is_unique().all():
        known = ours["source_id"].drop_nulls()
        if len(known) and known.is_unique().all() and known.is_in(names.implode()).any():
            return "source_id"
    same = run.summary.get("accounting", {}).get("sha256") == sha256
    if "source_row" in ours.columns and same and ours["source_row"].is_unique().all():
        return "source_row"
    return ORDER if len(ours) == len(theirs) else None


# --- told --------------------------------------------------------------------------------------


def subject(found: Beside) -> str:
    """Return in a sentence what was measured and how requests were put together."""
    source, ways = found.source, sorted({str(each.by) for each in found.joined})
    if source.requests is None:
        return f"{source.path} tells statistics of a run, no single requests."
    told = f"{source.path} tells of {len(source.requests):,} requests"
    if ways == ["None"]:
        return f"{told}; runs have another number of them, so only distributions are compared."
    how = {"source_id": "their ids", "source_row": "their rows in that file"}
    by = " or ".join(how.get(way, f"their {way}") for way in ways if way != "None")
    rest = "; those of runs with another number of requests are not" if "None" in ways else ""
    return f"{told}, joined to a run's by {by}{rest}."


def rows(comparison: Comparison, found: Beside) -> pl.DataFrame:
    """Return ``measured``, ``simulated`` (s) and ``error`` by point, latency and statistic."""
    told = [
        {
            "point": point,
            "name": comparison.points[point].name,
            "latency": name,
            "statistic": statistic,
            "requests": each["requests"],
            "joined_by": joined.by,
            "correlation": each["correlation"],
            **{which: each[which][statistic] for which in ("measured", "simulated", "error")},
        }
        for point, joined in enumerate(found.joined)
        for name, each in joined.told.items()
        for statistic in STATISTICS
    ]
    floats = dict.fromkeys(("correlation", "measured", "simulated", "error"), pl.Float64)
    return pl.DataFrame(told, schema_overrides={"joined_by": pl.String, **floats})


Lines = list[tuple[str, ...]]


def _lines(found: Beside, names: Mapping[int, str]) -> Lines:
    """Return a line for what was measured of each latency, and below it one for each named point.

    A run that lacks some of the measured requests stands below those that it has.
    """
    lines: Lines = []
    for name, (label, _) in MEASURED.items():
        for at, point in names.items():
            told = found.joined[at].told.get(name)
            if told is None:
                continue
            measured = (seconds(told["measured"][each]) for each in STATISTICS)
            head = (f"{label} measured", *measured)
            if head not in lines:
                lines.append(head)
            cells = (
                f"{seconds(told['simulated'][each])} ({percent(told['error'][each])})"
                for each in STATISTICS
            )
            lines.append((point, *cells))
    return lines


def told(comparison: Comparison, found: Beside) -> str:
    """Return what was measured and the errors of what is drawn, in lines for a terminal."""
    names = {each.point: each.name for each in drawn(comparison)}
    lines = [("measured", *STATISTICS), *_lines(found, names)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        f"{head:<{widths[0]}}"
        + "".join(f"{cell:>{width + 2}}" for cell, width in zip(cells, widths[1:], strict=True))
        for head, *cells in lines
    ]
    return "\n".join([subject(found), "", *text])


# --- drawn -------------------------------------------------------------------------------------


def card(comparison: Comparison, found: Beside) -> str:
    """Return the errors of what is drawn, for the page."""
    names = {each.point: f"{each.letter}  {each.name}" for each in drawn(comparison)}
    lines = parts.table(("", *STATISTICS), _lines(found, names))
    told = f"{subject(found)} In brackets the simulation's error."
    return f'<div class="card wide"><p>{escape(told)}</p>{lines}</div>'


def panels(comparison: Comparison, found: Beside) -> list[Panel]:
    """Return distributions of each latency and how many requests are in the system, over time."""
    chosen = drawn(comparison)
    made = [
        panel for name in DURATIONS if (panel := _distribution(name, found, chosen)) is not None
    ]
    flight = _flight(found, chosen)
    return made if flight is None else [*made, flight]


def _distribution(name: str, found: Beside, chosen: Sequence[Drawn]) -> Panel | None:
    source = found.source
    curves = [
        Curve(
            each.letter,
            each.colour,
            found.joined[each.point].requests[name].drop_nulls().to_numpy(),
        )
        for each in chosen
        if name in found.joined[each.point].told
    ]
    if not curves:
        return None
    if source.requests is None:
        note = "of all simulated requests, and the percentiles that are told."
        return distribution_panel(name, curves, note, source.statistics[name])
    _, expression = MEASURED[name]
    measured = source.requests.select(expression.cast(pl.Float64)).to_series().drop_nulls()
    ink = Curve(SOURCE, theme.INK, measured.to_numpy())
    return distribution_panel(name, [ink, *curves], f"of {len(measured):,} measured requests.")


def _flight(found: Beside, chosen: Sequence[Drawn]) -> Panel | None:
    theirs = found.source.requests
    known = None if theirs is None else theirs.select("arrival_s", E2E).drop_nulls()
    if known is None or known.is_empty():
        return None
    begun = known["arrival_s"].to_numpy()
    stays = [Stay(SOURCE, theme.INK, begun, begun + known[E2E].cast(pl.Float64).to_numpy())]
    for each in chosen:
        done = found.joined[each.point].requests.select("arrival_s", "finish_s").drop_nulls()
        stays.append(
            Stay(each.letter, each.colour, *(done[column].to_numpy() for column in done.columns))
        )
    last = max(float(np.max(each.ends, initial=0.0)) for each in stays)
    scale, unit = theme.clock(last)
    note = "Requests that have arrived and have not got their last token, of those that get it."
    return flight_panel(stays, (scale, f"time ({unit})"), note)

"""One HTML page that opens anywhere, offline: text, tables, figures and plotly.js itself."""

from collections.abc import Iterable, Mapping
from html import escape
from itertools import starmap
from pathlib import Path
from typing import Any

import polars as pl

from simulator.measured import STATISTICS as MEASURED_STATISTICS
from simulator.record import WorkerInfo
from simulator.report import counterpart, parts, prose
from simulator.report.figures import label_of, view
from simulator.report.lateness import lateness_table
from simulator.report.quota import services_table
from simulator.report.sections import SECTIONS
from simulator.report.theme import number, percent, seconds, share, statistic
from simulator.results import DURATIONS, SUMMARIZED, Results, config_digest

_PLACES = (
    ("summary", "Summary"),
    ("configuration", "Configuration"),
    ("definitions", "Definitions"),
)
MAX_ROWS = 200
LABELS = {metric.name: metric.label for metric in DURATIONS} | {"itl_s": "ITL"}
STATISTICS = ("mean", "p50", "p75", "p90", "p95", "p99", "max", "std", "count")


def write_report(results: Results, path: Path) -> None:
    """Write the report of ``results`` to ``path``: one file that needs no network."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_pieces(results))


def _pieces(results: Results) -> Iterable[str]:
    """Yield the page from top to bottom."""
    seen = view(results)
    built = ((anchor, title, build(seen)) for anchor, title, build in SECTIONS)
    sections = [section for section in built if section[2]]
    drawn = [(anchor, title) for anchor, title, _ in sections]
    yield parts.head(prose.title(results))
    yield parts.nav([_PLACES[0], *drawn, *_PLACES[1:]])
    yield "<main>"
    yield _overview(results)
    for anchor, title, panels in sections:
        extra = EXTRAS[anchor](results) if anchor in EXTRAS else ""
        yield parts.section(anchor, title, "".join(map(parts.card, panels)) + extra)
    yield parts.section("configuration", "Configuration", _configuration(results))
    yield parts.section("definitions", "Definitions", _definitions(results))
    yield "</main>"
    yield parts.figures([panel for _, _, panels in sections for panel in panels])
    yield from parts.scripts()
    yield "</body></html>\n"


def _overview(results: Results) -> str:
    level, told = prose.verdict(results)
    sentences = [*prose.against_targets(results), prose.time_spent(results.summary)]
    return (
        f'<header id="summary"><h1>{escape(prose.title(results))}</h1>'
        f'<p class="lead">{escape(prose.subject(results))}</p>'
        f'<div class="verdict {level}"><strong>{escape(told)}</strong> '
        f"<span>{escape(' '.join(sentences))}</span></div>{_warnings(results)}"
        f'<dl class="tiles">{"".join(starmap(parts.tile, tiles(results)))}</dl>'
        f'<div class="grid">{_latency_table(results)}{_counterpart(results)}{_notes(results)}</div>'
        "</header>\n"
    )


def _warnings(results: Results) -> str:
    """Return what is to be known before the numbers are trusted."""
    return "".join(
        f'<div class="verdict fair"><strong>Warning</strong> <span>{escape(text)}</span></div>'
        for text in results.summary["warnings"]
    )


def tiles(results: Results) -> list[tuple[str, str, str]]:
    """Return the headline numbers: label, value, and a line of detail."""
    summary = results.summary
    latencies = [
        (LABELS[name], statistic(summary[name], "p50"), f"p99 {statistic(summary[name], 'p99')}")
        for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s")
    ]
    completed, duration = summary["requests"]["completed"], summary["duration_s"]
    rate = f"of {number(completed / duration)} completed/s" if duration else "nothing finished"
    hours = summary["gpu_hours"]
    kv = {pool: used for pool, used in summary["kv_utilization"].items() if used is not None}
    per_pool = [
        f"{pool} {number(hours[pool])}" for pool in hours if pool != "total" and hours[pool]
    ]
    per_used = [f"{pool} {share(value)}" for pool, value in kv.items()]
    preempted, redone = summary["preemptions"], prose.recomputed(summary)
    return [
        *((f"{label}, median", value, tail) for label, value, tail in latencies),
        ("SLO attainment", share(summary["slo_attainment"]), "of all arrivals"),
        ("Goodput", f"{number(summary['goodput_rps'])} req/s", rate),
        (
            "Output per GPU",
            f"{number(summary['output_tokens_per_s_per_gpu'])} tok/s",
            f"input {number(summary['input_tokens_per_s_per_gpu'])} tok/s",
        ),
        ("GPU-hours", number(hours["total"]), ", ".join(per_pool)),
        ("KV in use, fullest pool", share(max(kv.values(), default=None)), ", ".join(per_used)),
        ("Preemptions", number(preempted), ", ".join(" ".join(each) for each in redone)),
        *_spared_tiles(summary),
    ]


def _spared_tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what was found in prefix caches, and what stayed at decode workers, where any did."""
    told = [*prose.cached(summary), *prose.stayed(summary)]
    parts = [(label, *words.partition(" of ")) for label, words in told]
    return [(label.capitalize(), head, f"of {rest}") for label, head, _, rest in parts]


def _latency_table(results: Results) -> str:
    order = ("ttft_s", "tpot_s", "ttst_s", "itl_s", "e2e_s")
    names = (*order, *(name for name in SUMMARIZED if name not in order))
    rows = []
    for name in names:
        told = results.summary[name]
        cells = [statistic(told, each) for each in STATISTICS[:-1]]
        rows.append((LABELS[name], *cells, number(told["count"])))
    table = parts.table(("", *STATISTICS), rows)
    note = "".join(f"<p>{escape(words)}</p>" for _, words in prose.unfinished(results.summary))
    return f'<div class="card wide"><h3>Latencies and stages</h3>{table}{note}</div>'


def _counterpart(results: Results) -> str:
    """Return how the same GPUs used the other way fared, where that was asked for."""
    told = counterpart.sentence(results.summary)
    if not told:
        return ""
    rows = counterpart.rows(results.summary)
    table = parts.table(counterpart.HEADS, rows) if rows else ""
    head = "<h3>The same GPUs used the other way</h3>"
    return f'<div class="card wide">{head}<p>{escape(told)}</p>{table}</div>'


def _measured_table(results: Results) -> str:
    """Return what was measured and simulated of the same requests, and the error, by statistic."""
    rows = []
    for name, told in results.summary["measured"].items():
        for which in ("measured", "simulated"):
            cells = [seconds(told[which][each]) for each in MEASURED_STATISTICS]
            rows.append((f"{LABELS[name]} {which}", *cells))
        rows.append(("error", *(percent(told["error"][each]) for each in MEASURED_STATISTICS)))
    table = parts.table(("", *MEASURED_STATISTICS), rows)
    return f'<div class="card wide"><h3>Error of the simulation</h3>{table}</div>'


def _notes(results: Results) -> str:
    """Return what reading the workload changed, and what was rejected, lost or failed, if any."""
    summary = results.summary
    rows = [*prose.not_served(summary), *prose.losses(summary)]
    rows += [*prose.conversations(summary), *prose.changes(summary)]
    rows += _flat("", summary["accounting"])
    if not rows:
        return ""
    table = parts.table(("", ""), rows)
    return f'<details class="card wide"><summary>Workload and accounting</summary>{table}</details>'


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return nested mappings as rows of dotted names and words, empty values left out."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(f"{prefix}{name}.", value)
        elif value not in (None, "", (), []):
            rows.append((f"{prefix}{name}", _words(value)))
    return rows


def _words(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _workers(results: Results) -> str:
    """Return the table of workers, and of events where there is more than their start."""
    sent, cached = _bytes_moved(results), any(w.prefix_cache for w in results.workers)
    rows = [
        (
            label_of(w),
            f"{w.gpus} × {w.gpu}",
            share(w.busy_s / w.allocated_s if w.allocated_s else None),
            share(w.kv_block_seconds / full if (full := w.kv_blocks * w.allocated_s) else None),
            number(w.prefill_tokens),
            number(w.decode_tokens),
            *(number(moved / 1e9) for moved in sent.get(w.worker, (0.0, 0.0))),
            *_cached(w, cached=cached),
        )
        for w in results.workers[:MAX_ROWS]
    ]
    heads = ("worker", "GPUs", "busy", "KV in use", "prompt tokens", "output tokens")
    more_heads = ("tokens found", "tokens kept", "blocks evicted") if cached else ()
    table = parts.table((*heads, "sent (GB)", "received (GB)", *more_heads), rows)
    more = _more(len(results.workers))
    workers = f'<details class="card wide"><summary>Per worker</summary>{table}{more}</details>'
    return workers + _events(results)


def _cached(worker: WorkerInfo, *, cached: bool) -> tuple[str, ...]:
    """Return what a worker's prefix cache did, in a run with ``cached`` workers."""
    counts = worker.found_tokens, worker.kept_tokens, worker.evicted_blocks
    return tuple(number(count) for count in counts) if cached else ()


def _more(count: int) -> str:
    return f"<p>The first {MAX_ROWS:,} of {count:,}.</p>" if count > MAX_ROWS else ""


def _bytes_moved(results: Results) -> dict[int, tuple[float, float]]:
    """Return bytes sent and received per worker, summed over the sampled intervals."""
    every = pl.col("time_s").diff().fill_null(pl.col("time_s").first()).over("worker")
    moved = (
        results.timeline.lazy()
        .with_columns(every.alias("span_s"))
        .group_by("worker")
        .agg(
            (pl.col(name) * pl.col("span_s")).sum()
            for name in ("sent_bytes_per_s", "received_bytes_per_s")
        )
        .collect()
    )
    return {worker: (sent, received) for worker, sent, received in moved.iter_rows()}


def _events(results: Results) -> str:
    events = results.events
    if not len(events.filter((pl.col("time_s") > 0) & (pl.col("kind") != "stopped"))):
        return ""
    rows = [
        (seconds(time), kind, f"{pool} {worker}" if pool else "", detail)
        for time, kind, worker, pool, detail in events.head(MAX_ROWS).iter_rows()
    ]
    table = parts.table(("time", "event", "worker", "detail"), rows)
    return (
        f'<details class="card wide"><summary>Events</summary>{table}{_more(len(events))}</details>'
    )


def _configuration(results: Results) -> str:
    summary, text = results.summary, str(results.context.get("config", ""))
    wall = f", simulated in {seconds(summary['wall_s'])}" if summary["wall_s"] else ""
    line = f"Seed {summary['seed']}, configuration {config_digest(text)}{wall}."
    shown = (
        f"<details><summary>Resolved configuration</summary><pre>{escape(text)}</pre></details>"
        if text
        else '<p class="empty">No configuration was given.</p>'
    )
    return f'<div class="card wide"><p>{escape(line)}</p>{shown}</div>'


def _definitions(results: Results) -> str:
    rows = "".join(
        f"<dt>{escape(label)}</dt><dd>{escape(meaning)}"
        + (f"<code>{escape(formula)}</code>" if formula else "")
        + "</dd>"
        for label, meaning, formula in prose.definitions(results)
    )
    first = escape(prose.first_token(results))
    return f'<div class="card wide"><p>{first}</p><dl class="glossary">{rows}</dl></div>'


def _classes(results: Results) -> str:
    """Return how each class of service fared by its own targets, where there are classes."""
    rows = [
        (
            name,
            number(told["requests"]["arrived"]),
            number(told["requests"]["rejected"]),
            share(told["slo_attainment"]),
            *(
                f"{statistic(told[metric], 'p50')} / {statistic(told[metric], 'p99')} of "
                f"{seconds(told['targets'][metric])}"
                for metric in ("ttft_s", "tpot_s")
            ),
        )
        for name, told in results.summary["classes"].items()
        if told["requests"]["arrived"]
    ]
    if not rows:
        return ""
    heads = ("", "arrived", "rejected", "within its targets", "TTFT p50 / p99", "TPOT p50 / p99")
    return f'<div class="card wide"><h3>By class</h3>{parts.table(heads, rows)}</div>'


EXTRAS = {
    "workers": _workers,
    "measured": _measured_table,
    "slo": _classes,
    "quota": services_table,
    "lateness": lateness_table,
}
"""What follows the figures of some sections."""

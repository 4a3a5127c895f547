"""The comparison's page: the answer, the table, and pictures, in one file that opens offline."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from simulator.compare import figures, measured, prose, side
from simulator.compare.comparison import Comparison, short, words
from simulator.compare.measured import Beside
from simulator.compare.metrics import METRIC
from simulator.report import parts
from simulator.report.figures import Panel
from simulator.report.theme import number

COLUMNS = (
    "gpus",
    "gpu_hours.total",
    "usd",
    "slo_attainment",
    "worst_service",
    "goodput_rps",
    "output_tokens_per_s_per_gpu",
    *(
        f"{name}.{rank}"
        for name in ("ttft_s", "tpot_s", "itl_s", "ttst_s")
        for rank in ("p50", "p90", "p99")
    ),
    "rejected_token_share",
    "dropped.token_share",
    "scaling.reversals_per_hour",
    "scaling.longest_late_s",
    "scaling.idle_gpu_hours",
)
"""Numbers in the page's table; the parquet has all."""

MEASURED = ("measured", "Measured beside simulated")
"""The section of a measured run, and its title."""

LAST = 1e300
"""Sorts what is greater than any number; JSON has no infinity."""

MOST_SETTINGS = 12
"""Columns of settings in the page's table."""


def write_page(comparison: Comparison, path: Path, beside: Beside | None = None) -> None:
    """Write the page of ``comparison``, and of a measured run ``beside`` it, to ``path``.

    Raises:
        ConfigError: a run's requests or gauges cannot be read.
    """
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_pieces(comparison, beside))


def _pieces(comparison: Comparison, beside: Beside | None) -> Iterable[str]:
    sections = [
        (anchor, title, panels)
        for anchor, title, build in figures.SECTIONS
        if (panels := build(comparison))
    ]
    if beside is not None:
        sections.insert(0, (*MEASURED, measured.panels(comparison, beside)))
    head = parts.head(prose.title(comparison))
    style = f"<style>{parts.asset('compare.css', 'simulator.compare')}</style></head>"
    yield head.replace("</head>", style, 1)
    places = [("summary", "Summary"), ("table", "Table")]
    places += [(anchor, title) for anchor, title, _ in sections]
    yield parts.nav([*places, ("definitions", "Definitions")])
    yield "<main>"
    yield _overview(comparison)
    yield parts.section("table", "Table", _table(comparison))
    named = False
    for anchor, title, panels in sections:
        lettered = anchor in (*figures.LETTERED, MEASURED[0])
        before = side.key(comparison) if lettered and not named else ""
        named |= lettered
        if beside is not None and anchor == MEASURED[0]:
            before += measured.card(comparison, beside)
        yield parts.section(anchor, title, before + "".join(map(parts.card, panels)))
    yield parts.section("definitions", "Definitions", _definitions(comparison))
    yield "</main>"
    yield _island("rows", _rows(comparison))
    drawn: list[Panel] = [panel for _, _, panels in sections for panel in panels]
    yield parts.figures(drawn)
    yield from parts.scripts()
    yield f"<script>{parts.asset('compare.js', 'simulator.compare')}</script></body></html>\n"


def _overview(comparison: Comparison) -> str:
    notes = "".join(
        f'<div class="verdict fair"><strong>Note</strong> <span>{escape(note)}</span></div>'
        for note in comparison.notes
    )
    return (
        f'<header id="summary"><h1>{escape(prose.title(comparison))}</h1>'
        f'<p class="lead">{escape(prose.subject(comparison))}</p>'
        f'<div class="verdict"><strong>{escape(prose.answer(comparison))}</strong> '
        f"<span>{escape(prose.certainty(comparison))}</span></div>{notes}</header>\n"
    )


def _table(comparison: Comparison) -> str:
    mean = " Numbers are means over the seeds." if comparison.repeated else ""
    return (
        '<div class="card wide"><p>★ the best, ◆ on the cost–attainment front, ◇ on the '
        f"throughput–interactivity front.{mean} Click a head to sort.</p>"
        '<p><label>Only names and tags with <input id="filter" type="search"></label> '
        '<span id="count"></span></p>'
        '<div class="scroll" id="rows-table"></div>'
        '<p><button id="more" type="button" hidden>Show all</button></p></div>'
    )


def _island(name: str, content: object) -> str:
    """Return data for the page's scripts that no markup inside can break out of."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("&", "\\u0026").replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _rows(comparison: Comparison) -> dict[str, Any]:
    """Return the table's columns: a head each, and a sort value and a text per point."""
    columns = [_marks(comparison), {"head": "configuration", "text": _names(comparison)}]
    if "tags" in comparison.table.columns:
        columns.append({"head": "tags", "text": _tags(comparison)})
    if comparison.repeated:
        counts = [len(point.runs) for point in comparison.points]
        columns.append(_numbers("runs", counts, [str(count) for count in counts]))
    for path in COLUMNS:
        means = comparison.means(path)
        if not np.isnan(means).all():
            known = [None if np.isnan(mean) else min(float(mean), LAST) for mean in means]
            columns.append(_numbers(METRIC[path].label, known, comparison.told(METRIC[path])))
    cost = [None if np.isnan(mean) else float(mean) for mean in comparison.means(comparison.cost)]
    columns.insert(-1, _numbers(prose.COSTS[comparison.cost], cost, list(map(number, cost))))
    columns += [_setting(comparison, key) for key in comparison.shown[:MOST_SETTINGS]]
    return {"columns": columns, "count": len(comparison.points)}


def _names(comparison: Comparison) -> list[str]:
    return [point.name for point in comparison.points]


def _tags(comparison: Comparison) -> list[str]:
    tags = comparison.table["tags"]
    return [str(tags[point.base]) for point in comparison.points]


def _numbers(head: str, values: Sequence[float | None], texts: Sequence[str]) -> dict[str, Any]:
    return {"head": head, "value": list(values), "text": list(texts)}


def _marks(comparison: Comparison) -> dict[str, Any]:
    marked = comparison.table.group_by("point").agg(pl.col("best", "pareto", "front").first())
    texts, ranks = [], []
    for _, best, pareto, front in marked.sort("point").iter_rows():
        texts.append("★" * best + "◆" * pareto + "◇" * front)
        ranks.append(-(4 * best + 2 * pareto + front))
    return {"head": "", "value": ranks, "text": texts}


def _setting(comparison: Comparison, key: str) -> dict[str, Any]:
    values = [comparison.runs[point.base].settings.get(key) for point in comparison.points]
    texts = ["–" if value is None else words(value)[:200] for value in values]
    numeric = all(isinstance(value, int | float | None) for value in values)
    told: dict[str, Any] = {"head": short(key), "text": texts}
    return told | ({"value": values} if numeric else {})


def _definitions(comparison: Comparison) -> str:
    wanted = f"{comparison.options.attainment:g}"
    of = (
        "each is what its run's summary.json has by that name, of what is left of the run;"
        if comparison.options.cuts
        else "each is the one of the same name in a run's summary.json, of the whole run: nothing "
        "is cut at its start or end, so warming up and draining count;"
    )
    told = [
        (
            "Best",
            f"the cheapest with at least {wanted} of its arrivals within the SLO "
            "(compare.attainment); where none has, the one with most",
        ),
        (
            "Cost",
            f"{prose.COSTS[comparison.cost]} that arrived: in USD where every GPU has a price "
            "(hardware.usd_per_hour), else in GPU-hours; starting and draining ones count",
        ),
        (
            "Cost–attainment front",
            "those that no other beats in both cost and the share of requests within the SLO",
        ),
        (
            "Throughput–interactivity front",
            "those that no other beats in both output tokens/s/GPU and tokens/s of one user "
            "(1 / TPOT p50)",
        ),
        (
            "Numbers",
            f"{of} a percentile that lies among unfinished requests is told as more than it is",
        ),
    ]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in told)
    return f'<div class="card wide"><dl class="glossary">{rows}</dl></div>'

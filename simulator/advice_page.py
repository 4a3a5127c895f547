"""An exploration's report: the answer, both sides, the fronts and what was simulated of them.

Built of the same parts as a run's report, in one file that opens offline.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from simulator.explore.advice import workers
from simulator.explore.exploration import Explored
from simulator.explore.match import CLUSTER
from simulator.explore.sections import Section
from simulator.report import parts, theme
from simulator.report.figures import Panel
from simulator.report.theme import number, seconds, share

TITLE = "Should I disaggregate?"
COLOURS = {
    "disaggregated": theme.DECODE,
    "co-located": theme.MIXED,
    "co-located, no piggybacking": theme.MUTED,
}
SIDES = {"disaggregated": "disaggregated", "colocated": "co-located"}
ARRIVALS = {"poisson": "Poisson", "own": "the workload's own"}
MOST_RANKED = 20


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Told:
    """What the page tells: the exploration, and what was ``confirmed`` of it by simulation.

    Then come further ``sections``; ``config`` is the resolved configuration.
    """

    done: Explored
    confirmed: pl.DataFrame
    sections: Sequence[Section]
    config: str


def write_advice(told: Told, path: Path) -> None:
    """Write the page to ``path``."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_pieces(told))


def _pieces(told: Told) -> Iterable[str]:
    """Yield the page from top to bottom."""
    panels = [panel for panel in (_fronts(told), _attained(told)) if panel is not None]
    places = [("summary", "Summary"), ("fronts", "Fronts"), ("deployments", "Deployments")]
    places += [(section.name, section.title) for section in told.sections]
    yield parts.head(TITLE)
    yield parts.nav([*places, ("configuration", "Configuration"), ("reading", "How to read it")])
    yield "<main>"
    yield _overview(told)
    yield parts.section("fronts", "Fronts", "".join(map(parts.card, panels)))
    yield parts.section("deployments", "Deployments", _ranked(told.done))
    for section in told.sections:
        yield parts.section(section.name, section.title, _card(section.body()))
    config = f"<details><summary>Resolved configuration</summary><pre>{escape(told.config)}</pre>"
    yield parts.section("configuration", "Configuration", _card(f"{config}</details>"))
    yield parts.section("reading", "How to read it", _reading(told.done))
    yield "</main>"
    yield parts.figures(panels)
    yield from parts.scripts()
    yield "</body></html>\n"


def _card(body: str) -> str:
    return f'<div class="card wide">{body}</div>'


# --- the answer -----------------------------------------------------------------------------


def _overview(told: Told) -> str:
    """Return the question's subject, the answer, headline numbers and both sides in a table."""
    first, *rest = told.done.advice.answer.splitlines()
    lines = "".join(f"<span>{escape(line)}</span><br>" for line in rest)
    tiles = "".join(parts.tile(*each) for each in _tiles(told.done.summary))
    return (
        f'<header id="summary"><h1>{TITLE}</h1><p class="subject">{escape(_subject(told.done))}</p>'
        f'<div class="verdict {_level(told.done)}"><strong>{escape(first)}</strong> {lines}</div>'
        f'<dl class="tiles">{tiles}</dl>'
        f'<div class="grid">{_card(_sides(told.done.summary))}</div></header>\n'
    )


def _level(done: Explored) -> str:
    return "none" if done.advice.best is None else "good"


def _subject(done: Explored) -> str:
    """Return model, GPUs, fabric and traffic in words."""
    prefill, decode = done.exploration.platforms
    gpus = dict.fromkeys((prefill.gpu.name, decode.gpu.name))
    lengths = done.exploration.lengths
    traffic = done.exploration.traffic or (
        f"{lengths.mean_isl:,.0f} prompt and {lengths.mean_osl:,.0f} output tokens a request."
    )
    return f"{decode.model.name} on {' and '.join(gpus)}, fabric {decode.fabric.name}. {traffic}"


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the headline numbers: label, value and a line of detail."""
    gain = summary["gain"]
    shown = [
        (
            "Gain of disaggregation",
            "–" if gain is None else f"{gain:.2f} ×",
            "output tokens/s per GPU, over co-located",
        )
    ]
    for name, words in SIDES.items():
        side = summary[name]
        if side is not None:
            value = number(side["output_tokens_per_s_per_gpu"])
            detail = f"{number(side['requests_per_s'])} requests/s on {side['gpus']} GPUs"
            shown.append((f"{words.capitalize()}, tok/s/GPU", value, detail))
    shown.append(("Deployments costed", number(summary["points"]), "layouts × batches × chunks"))
    return shown


ROWS: Mapping[str, tuple[str, str | None]] = {
    "requests_per_s": ("requests/s promised", None),
    "output_tokens_per_s_per_gpu": ("output tokens/s/GPU", None),
    "load": ("of what workers that never idle put out", None),
    "ttft_s": ("TTFT", "ttft_limit_s"),
    "tpot_s": ("TPOT", "tpot_limit_s"),
    "slo_attainment": ("requests within the SLO, simulated at the promise", None),
}
"""Rows of the table of both sides: the words for each figure, and its limit."""


def _sides(summary: Mapping[str, Any]) -> str:
    found = {words: summary[name] for name, words in SIDES.items() if summary[name] is not None}
    if not found:
        return "<h3>Both sides</h3><p>Neither kind fits the GPUs and meets the limits.</p>"
    rows = [("GPUs used", *(_budget(side) for side in found.values()))]
    tail = f"p{100 * summary['attainment']:g} "
    for name, (words, limit) in ROWS.items():
        label = f"{tail}{words}" if limit else words
        rows.append((label, *(_figure(side, name, limit) for side in found.values())))
    return f"<h3>Both sides</h3>{parts.table(('', *found), rows)}"


def _budget(side: Mapping[str, Any]) -> str:
    return f"{side['gpus']} of {side['total_gpus']}" if side["total_gpus"] else str(side["gpus"])


def _figure(side: Mapping[str, Any], name: str, limit: str | None) -> str:
    value = side[name]
    if name in ("load", "slo_attainment"):
        return share(value)
    if limit is None:
        return number(value)
    within = side[limit]
    return seconds(value) + ("" if within is None else f" of {seconds(within)}")


# --- pictures -------------------------------------------------------------------------------


def _fronts(told: Told) -> Panel | None:
    """Return throughput against interactivity, the limit's side and what was chosen."""
    fronts = told.done.fronts
    if not len(fronts):
        return None
    lines = [
        _front(str(name), fronts.filter(series=name))
        for name in fronts["series"].unique(maintain_order=True)
    ]
    figure = theme.figure(
        [*lines, *_chosen(told.done)],
        x="interactivity (tokens/s per user)",
        y="throughput (output tokens/s per GPU)",
        height=460,
        hovermode="closest",
        xaxis=_log_axis(fronts["interactivity"]),
        yaxis=_log_axis(fronts[CLUSTER]),
    )
    limit = told.done.exploration.limits.tpot_s
    if limit:
        theme.mark_target(figure, 1 / limit, f"TPOT {theme.seconds(limit)}", vertical=True)
    note = (
        "Each point is a deployment with workers that never idle; hover for its layout. Right is "
        "faster for one user, up serves more per GPU. Stars are what the answer names, at the rate "
        "it promises; what lies left of the dashed line breaks the TPOT limit."
    )
    return Panel(
        name="fronts", title="Throughput against interactivity", note=note, figure=figure, wide=True
    )


def _front(name: str, front: pl.DataFrame) -> go.Scatter:
    rows = front.sort("interactivity")
    words = [_words(row) for row in rows.iter_rows(named=True)]
    return theme.line(
        rows["interactivity"].to_numpy(),
        rows[CLUSTER].to_numpy(),
        name,
        COLOURS.get(name, theme.INK),
        hover="%{customdata}<br>%{x:,.4~g} tokens/s per user, %{y:,.4~g} tokens/s per GPU",
    ).update(mode="lines+markers", marker={"size": 4}, customdata=words)


def _words(row: Mapping[str, Any]) -> str:
    return escape(f"{workers(row)}, TTFT {seconds(row['ttft_s'])}")


def _chosen(done: Explored) -> list[go.Scatter]:
    """Return a star for each side, at the throughput it promises."""
    stars = []
    named = {"disaggregated": done.advice.split, "co-located": done.advice.mixed}
    for name, row in named.items():
        if row is not None:
            stars.append(
                go.Scatter(
                    x=[row["interactivity"]],
                    y=[row["throughput"]],
                    name=f"{name}, advised",
                    mode="markers",
                    marker={
                        "symbol": "star",
                        "size": 15,
                        "color": COLOURS[name],
                        "line": {"color": "#fff", "width": 1},
                    },
                    customdata=[_words(row)],
                    hovertemplate="%{customdata}<br>promised: %{y:,.4~g} tokens/s per GPU",
                )
            )
    return stars


def _log_axis(values: pl.Series) -> dict[str, Any]:
    known = values.drop_nulls().to_numpy()
    known = known[known > 0]
    return theme.log_ticks(float(known.min()) * 0.8, float(known.max()) * 1.25)


def _attained(told: Told) -> Panel | None:
    """Return how many requests held the SLO when the advised deployments were simulated."""
    table = told.confirmed.filter(pl.col("rank") == 1) if len(told.confirmed) else told.confirmed
    if not len(table):
        return None
    lines = []
    for (kind, arrivals), rows in table.group_by("kind", "arrivals", maintain_order=True):
        rows = rows.sort("load")
        name = SIDES.get(str(kind).replace("-", ""), str(kind))
        lines.append(
            theme.line(
                rows["load"].to_numpy() * 100,
                rows["attainment"].to_numpy() * 100,
                f"{name}, {ARRIVALS.get(str(arrivals), str(arrivals))}",
                COLOURS.get(name, theme.INK),
                faint=arrivals != "poisson",
                hover="%{y:.4~g} % at %{x:.4~g} % of the promise",
            ).update(mode="lines+markers", marker={"size": 6})
        )
    figure = theme.figure(
        lines, x="load (% of the promise)", y="within the SLO (%)", hovermode="closest"
    )
    held = 100 * told.done.advice.terms.attainment
    theme.mark_target(figure, held, f"asked for: {held:g} %")
    note = (
        "The advised deployments simulated on the same requests: arrivals at random, and the "
        "workload's own, whose bursts no steady state knows."
    )
    return Panel(name="attained", title="What survives", note=note, figure=figure, wide=True)


# --- tables and words -----------------------------------------------------------------------


def _ranked(done: Explored) -> str:
    """Return the best deployments, with the KV they move and what the links between allow."""
    rows = [_ranked_row(row) for row in done.advice.ranked.head(MOST_RANKED).iter_rows(named=True)]
    if not rows:
        return _card("<p>No deployment meets the limits.</p>")
    heads = ("deployment", "GPUs", "tok/s/GPU", "tok/s/user", "TTFT", "KV out", "KV in", "USD/Mtok")
    note = (
        "The best in steady state, with headroom by rule. KV out and in are the GB/s each prefill "
        "GPU sends and each decode GPU receives. All points are in deployments.parquet."
    )
    return _card(f"<p>{note}</p>{parts.table(heads, rows)}")


def _ranked_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        workers(row),
        str(row["gpus"]),
        number(row["throughput"]),
        number(row["interactivity"]),
        seconds(row["ttft_s"]),
        _gigabytes(row.get("kv_egress")),
        _gigabytes(row.get("kv_ingress")),
        _dollars(row.get("usd_per_mtok")),
    )


def _gigabytes(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value / 1e9:,.2f} GB/s"


def _dollars(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:,.3g}"


def _reading(done: Explored) -> str:
    held = 100 * done.advice.terms.attainment
    lines = (
        "Steady state: every worker is as full as its batch says, and requests come as evenly as "
        "the headroom allows for. Bursts, a warm-up and faults are for a simulation: the folder's "
        "experiment/ has each side as one.",
        f"TTFT and TPOT are those that {held:g} % of the requests stay within.",
        "Step times are a model's. Its error is in docs/validation.md; an advantage of a few per "
        "cent is less than that.",
    )
    return _card("".join(f"<p>{escape(line)}</p>" for line in lines))

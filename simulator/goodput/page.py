"""The page of a search: the answer, the curves, the map, and every trial's numbers."""

from collections.abc import Iterable
from html import escape
from itertools import starmap
from pathlib import Path

import plotly.graph_objects as go
import polars as pl

from simulator.goodput import telling
from simulator.goodput.study import Found
from simulator.report import parts, theme
from simulator.report.figures import Panel
from simulator.report.theme import number, seconds, share
from simulator.results import config_digest

MOST_ROWS = 200


def write_page(found: Found, text: str, path: Path) -> None:
    """Write the page of ``found`` to ``path``; ``text`` is the configuration."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_pieces(found, text))


def _pieces(found: Found, text: str) -> Iterable[str]:
    panels = [_attainment(found), _latencies(found), _goodput(found)]
    mapped = _map(found)
    title = f"Goodput of {found.experiment.deployment.model.name}"
    yield parts.head(title)
    places = [("summary", "Summary"), ("curves", "Curves")]
    places += [("map", "Map")] if mapped else []
    yield parts.nav([*places, ("trials", "Trials"), ("configuration", "Configuration")])
    yield "<main>"
    yield _overview(found, title)
    yield parts.section("curves", "Curves", "".join(map(parts.card, panels)))
    if mapped:
        yield parts.section("map", "Map", parts.card(mapped))
    yield parts.section("trials", "Trials", _trials(found))
    yield parts.section("configuration", "Configuration", _configuration(text))
    yield "</main>"
    yield parts.figures([*panels, *([mapped] if mapped else [])])
    yield from parts.scripts()
    yield "</body></html>\n"


def _overview(found: Found, title: str) -> str:
    level = "poor" if found.rate is None else "good"
    sure = " ".join(telling.certainty(found))
    table = parts.table(telling.HEADS, telling.rows(found))
    return (
        f'<header id="summary"><h1>{escape(title)}</h1>'
        f'<div class="verdict {level}"><strong>{escape(telling.answer(found))}</strong> '
        f"<span>{escape(sure)}</span></div>"
        f'<dl class="tiles">{"".join(starmap(parts.tile, _tiles(found)))}</dl>'
        '<div class="grid"><div class="card wide"><h3>Around the answer, on the workload as its '
        f"seed draws it</h3>{table}</div></div></header>\n"
    )


def _tiles(found: Found) -> list[tuple[str, str, str]]:
    own = found.own
    rate = "–" if found.rate is None else f"{telling.figure_of(found.rate)} req/s"
    ends = "" if found.interval is None else " to ".join(map(telling.figure_of, found.interval))
    told = ends and f"{ends} over {len(found.each)} draws"
    return [
        ("Rate", rate, told if found.options.find == "rate" else "asked for"),
        ("GPUs", number(own["gpus"]), found.pools),
        ("Hold the targets", share(own["attainment"]), f"{share(found.options.attainment)} asked"),
        ("TTFT, median", seconds(own["ttft_p50_s"]), f"p99 {seconds(own['ttft_p99_s'])}"),
        ("TPOT, median", seconds(own["tpot_p50_s"]), f"p99 {seconds(own['tpot_p99_s'])}"),
        ("Output per GPU", f"{number(own['throughput'])} tok/s", ""),
        (
            "Trials",
            number(len(found.table)),
            f"{number(float(found.table['requests'].sum()))} requests",
        ),
    ]


def _attainment(found: Found) -> Panel:
    tried = telling.curve(found)
    others = _same_workers(found).filter(pl.col("seed") != found.experiment.seed)
    dots = go.Scatter(
        x=others["rate"].to_numpy(),
        y=(100 * others["attainment"]).to_numpy(),
        name="other draws",
        mode="markers",
        marker={"color": theme.MUTED, "size": 5, "opacity": 0.6},
        hovertemplate="%{y:.4~g} % at %{x:.4~g}",
    )
    own = theme.line(
        tried["rate"].to_numpy(),
        (100 * tried["attainment"]).to_numpy(),
        "the workload's own draw",
        theme.PREFILL,
    )
    drawn = theme.figure([own, dots], x="requests/s", y="requests that hold the targets (%)")
    drawn.update_yaxes(range=[0, 104])
    theme.mark_target(drawn, 100 * found.options.attainment, "asked for")
    if found.rate is not None:
        theme.mark_target(drawn, found.rate, "answer", vertical=True)
    return Panel(
        name="attainment",
        title="Attainment against rate",
        note="Every trial on these workers. All rates have the same random numbers: what differs "
        "between two points of a line is the rate alone.",
        figure=drawn,
        wide=True,
    )


def _latencies(found: Found) -> Panel:
    tried = telling.curve(found)
    rates = tried["rate"].to_numpy()
    lines = [
        theme.line(rates, (1e3 * tried[f"{metric}_{rank}_s"]).to_numpy(), name, colour, faint=faint)
        for metric, colour in (("ttft", theme.PREFILL), ("tpot", theme.DECODE))
        for rank, faint in (("p50", True), ("p99", False))
        for name in (f"{metric.upper()} {rank}",)
    ]
    drawn = theme.figure(lines, x="requests/s", y="ms")
    drawn.update_yaxes(type="log", rangemode="normal")
    return Panel(
        name="latencies",
        title="Latencies against rate",
        note="On the workload's own draw.",
        figure=drawn,
    )


def _goodput(found: Found) -> Panel:
    tried = telling.curve(found)
    rates = tried["rate"].to_numpy()
    lines = [
        theme.line(rates, tried["good_rps"].to_numpy(), "good requests/s", theme.DECODE),
        theme.line(rates, tried["offered_rps"].to_numpy(), "came", theme.MUTED, faint=True),
    ]
    return Panel(
        name="goodput",
        title="Good requests per second",
        note="Of a run that begins and ends empty; beyond its end a queue eats what is gained.",
        figure=theme.figure(lines, x="requests/s", y="requests/s"),
    )


def _same_workers(found: Found) -> pl.DataFrame:
    own = found.own
    return found.table.filter(**{pool: own[pool] for pool in ("prefill", "decode", "mixed")})


def _map(found: Found) -> Panel | None:
    tried = found.table.filter(pl.col("why") == "map")
    if not len(tried):
        return None
    rates = tried["rate"].unique().sort().to_list()
    every = found.table.filter(
        pl.col("rate").is_in(rates), pl.col("seed") == found.experiment.seed
    ).unique(("prefill", "decode", "rate"), keep="first")
    splits = tried.select("prefill", "decode").unique().sort("prefill").rows()
    held = {(row["prefill"], row["decode"], row["rate"]): row for row in every.to_dicts()}

    def cell(split: tuple[int, int], rate: float) -> float | None:
        row = held.get((*split, rate))
        return None if row is None else 100 * row["attainment"]

    heat = go.Heatmap(
        x=[telling.figure_of(rate) for rate in rates],
        y=[f"{prefill} : {decode}" for prefill, decode in splits],
        z=[[cell(split, rate) for rate in rates] for split in splits],
        zmin=0,
        zmax=100,
        colorscale=[list(each) for each in theme.HEAT],
        texttemplate="%{z:.0f}",
        colorbar={"title": "%", "thickness": 12},
        hovertemplate="%{y} at %{x} requests/s: %{z:.1f} %<extra></extra>",
    )
    drawn = theme.figure([heat], x="requests/s", y="prefill : decode workers", height=360)
    drawn.update_layout(hovermode="closest")
    drawn.update_xaxes(type="category")
    drawn.update_yaxes(type="category", rangemode="normal")
    return Panel(
        name="map",
        title="How the workers are dealt out, against rate",
        note=f"Requests that hold the targets, in %, on the GPUs of the answer, on one draw. "
        f"{telling.best_split(found)}",
        figure=drawn,
        wide=True,
    )


def _trials(found: Found) -> str:
    heads = ("for", "workers", "seed", *telling.HEADS)
    rows = [
        (
            row["why"],
            " + ".join(f"{row[p]} {p}" for p in ("prefill", "decode", "mixed") if row[p]),
            str(row["seed"]),
            *telling.row_of(row),
        )
        for row in found.table.head(MOST_ROWS).iter_rows(named=True)
    ]
    more = len(found.table) - MOST_ROWS
    told = f"<p>{more:,} more are in goodput.parquet.</p>" if more > 0 else ""
    head = '<details class="card wide"><summary>Every trial</summary>'
    return f"{head}{parts.table(heads, rows)}{told}</details>"


def _configuration(text: str) -> str:
    line = f"Configuration {config_digest(text)}."
    return (
        f'<div class="card wide"><p>{line}</p><details><summary>Resolved configuration</summary>'
        f"<pre>{escape(text)}</pre></details></div>"
    )

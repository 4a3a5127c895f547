"""Parts of an exploration's report: a table of its own, told in a sentence and drawn."""

from dataclasses import dataclass
from html import escape

import polars as pl

MOST_ROWS = 50
"""Rows of a table that a page shows; its parquet has them all."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Section:
    """One table beside the answer, kept as ``{name}.parquet`` and shown under ``title``.

    ``drawing`` is SVG or HTML that goes before the table, ``columns`` those shown (all, if none).
    """

    name: str
    title: str
    note: str
    table: pl.DataFrame
    drawing: str = ""
    columns: tuple[str, ...] = ()

    def body(self) -> str:
        """Return the section for a page, without its title."""
        shown = self.table.select(self.columns) if self.columns else self.table
        heads = "".join(f"<th>{escape(name)}</th>" for name in shown.columns)
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell(each))}</td>' for each in row)}</tr>"
            for row in shown.head(MOST_ROWS).iter_rows()
        )
        table = f"<table><tr>{heads}</tr>{rows}</table>" if len(shown) else ""
        return f'<p>{escape(self.note)}</p>{self.drawing}<div class="scroll">{table}</div>'


def cell(value: object) -> str:
    """Return a table's cell: four digits of a number, a dash for none."""
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def tornado_section(table: pl.DataFrame) -> Section:
    """Return the section of :func:`simulator.explore.sensitivity.tornado`'s table."""
    return Section(
        name="tornado",
        title="What the answer hangs on",
        note="Throughput (output tokens/s per GPU) of the best disaggregated deployment with each "
        "number of the hardware 20 % lower and higher, the widest swing first. Orange: lower, "
        "blue: higher.",
        table=table,
        drawing=_bars(table),
    )


def map_section(table: pl.DataFrame) -> Section:
    """Return the section of :func:`simulator.explore.sensitivity.lengths_map`'s table."""
    return Section(
        name="map",
        title="Where it pays",
        note="Gain of disaggregation over co-location by prompt (isl) and output (osl) tokens; "
        "below it the prefill GPUs per decode GPU. A dash: one of the two does not fit or meets "
        "no limit.",
        table=table,
        drawing=_grid(table),
    )


def start_section(table: pl.DataFrame, lines: list[str]) -> Section:
    """Return the section of starting points: a table of :mod:`simulator.explore.start`."""
    kept = ("row", "their_throughput", "throughput", "their_ttft_s", "ttft_s", "their_tpot_s")
    return Section(
        name="starts",
        title="Where AIConfigurator would start",
        note=" ".join(f"{line}." for line in lines[:5]),
        table=table,
        columns=(*kept, "tpot_s"),
    )


def _bars(table: pl.DataFrame) -> str:
    """Return the tornado: a bar per number from its lower to its higher answer."""
    known = table.drop_nulls("throughput")
    if not len(known):
        return ""
    values = known["throughput"].to_numpy()
    low, high = float(values.min()), float(values.max())
    span = (high - low) or 1.0
    names = known["number"].unique(maintain_order=True).to_list()
    parts = []
    for at, name in enumerate(names):
        y = 26 * at + 8
        parts.append(f'<text x="170" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        rows = known.filter(number=name).sort("factor")
        ends = [180 + 500 * (value - low) / span for value in rows["throughput"]]
        left, right = min(ends), max(ends)
        parts.append(f'<path d="M{left:.1f} {y + 9}H{right:.1f}" stroke="#9aa5b1"/>')
        for x, factor in zip(ends, rows["factor"], strict=True):
            colour = "#d98c00" if factor < 1 else "#0072b2"
            parts.append(f'<rect x="{x - 4:.1f}" y="{y}" width="8" height="18" fill="{colour}"/>')
    bottom = 26 * len(names) + 20
    parts.append(f'<text x="180" y="{bottom}">{low:,.4g}</text>')
    parts.append(f'<text x="680" y="{bottom}" text-anchor="end">{high:,.4g}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {bottom + 8}" role="img" '
        'aria-label="Throughput by hardware number" font-family="sans-serif" font-size="12" '
        f'fill="#1f2933">{"".join(parts)}</svg>'
    )


def _grid(table: pl.DataFrame) -> str:
    """Return the map: a cell per pair of lengths, the greener the more is gained."""
    outputs = table["osl"].unique(maintain_order=True).to_list()
    heads = "".join(f"<th>osl {osl:,}</th>" for osl in outputs)
    rows = []
    for (isl,), part in table.group_by("isl", maintain_order=True):
        cells = "".join(_pair(row) for row in part.iter_rows(named=True))
        rows.append(f"<tr><th>isl {isl:,}</th>{cells}</tr>")
    return f'<table style="margin-bottom:1rem"><tr><th></th>{heads}</tr>{"".join(rows)}</table>'


def _pair(row: dict[str, float | None]) -> str:
    gain, ratio = row["gain"], row["gpu_ratio"]
    share = 0.0 if gain is None else min(max(gain - 1.0, 0.0), 1.0)
    words = "–" if gain is None else f"{gain:.2f}×"
    below = "" if ratio is None else f"<br><small>{ratio:.2g} : 1</small>"
    return f'<td style="background:rgba(0,143,104,{0.6 * share:.2f})">{words}{below}</td>'

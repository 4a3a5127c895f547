"""What pages are made of: the head, sections, tables, figures, and scripts, all in one file."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from plotly.offline import get_plotlyjs

from simulator.report.figures import Panel

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; form-action 'none'; base-uri 'none'"
)
"""Content security policy: the page may run what it carries, load nothing and send nothing."""


def scripts() -> Iterable[str]:
    """Yield plotly.js and what draws the figures of :func:`figures`."""
    yield f"<script>{get_plotlyjs()}</script>\n"
    yield f"<script>{asset('page.js')}</script>\n"


def asset(name: str, package: str = "simulator.report") -> str:
    """Return the text of a file that ``package`` brings along."""
    return (files(package) / name).read_text(encoding="utf-8")


def head(title: str) -> str:
    """Return a page's beginning, its look included."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n'
        f"<style>{asset('style.css')}</style></head><body>\n"
    )


def nav(places: Sequence[tuple[str, str]]) -> str:
    """Return the links to a page's ``places``, each an anchor and its title."""
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in places)
    return f'<nav aria-label="Sections"><div>{links}</div></nav>\n'


def section(anchor: str, title: str, body: str) -> str:
    """Return a section whose cards ``body`` has."""
    return (
        f'<section id="{anchor}"><h2>{escape(title)}</h2><div class="grid">{body}</div></section>\n'
    )


def tile(label: str, value: str, detail: str) -> str:
    """Return a headline number with a line of detail."""
    label, value, detail = escape(label), escape(value), escape(detail)
    return f"<div><dt>{label}</dt><dd>{value}<small>{detail}</small></dd></div>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; the first column names the row, all cells are escaped."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def card(panel: Panel) -> str:
    """Return the place of a figure, or why there is none."""
    wide = " wide" if panel.wide else ""
    head = f"<figcaption><h3>{escape(panel.title)}</h3>"
    if panel.figure is None:
        note = f'<p class="empty">{escape(panel.note)}</p>'
        return f'<figure class="card{wide}">{head}</figcaption>{note}</figure>'
    height = panel.figure.layout.height
    plot = f'<div class="plot" id="plot-{panel.name}" style="height:{height}px"></div>'
    return (
        f'<figure class="card{wide}">{head}<p>{escape(panel.note)}</p></figcaption>{plot}</figure>'
    )


def figures(panels: Sequence[Panel]) -> str:
    """Return every figure's data as one JSON island that no markup inside can break out of."""
    drawn = {panel.name: panel.figure for panel in panels if panel.figure is not None}
    parts = (f'"plot-{name}":{figure.to_json()}' for name, figure in drawn.items())
    text = f"{{{','.join(parts)}}}".replace("&", "\\u0026").replace("<", "\\u003c")
    return f'<script type="application/json" id="figures">{text}</script>\n'

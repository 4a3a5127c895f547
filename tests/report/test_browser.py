"""The report as a browser sees it: it draws, asks for nothing, fits the window and the sheet."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from simulator.record import RunRecord
from simulator.report import prose, write_report
from simulator.report.theme import seconds
from simulator.results import SLO, Results
from tests.fakes import FakeRun, changing_record, fake_record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
HOSTILE = "</script><script>window.broken = 1</script>"
RECORDS: dict[str, Callable[[], RunRecord]] = {
    "disaggregated": lambda: fake_record(FakeRun(requests=1500, rejected=0.01, layerwise=True)),
    "mixed": lambda: fake_record(FakeRun(requests=100, prefill=0, decode=0, mixed=2)),
    "rejected": lambda: fake_record(FakeRun(requests=20, rejected=1.0)),
    "changing": changing_record,
}
UNDRAWN = """() => [...document.querySelectorAll('.plot')].filter(plot => {
  const svg = plot.querySelector('svg.main-svg');
  const marks = plot.querySelectorAll('.scatterlayer path, .barlayer path, .heatmaplayer image');
  return !svg || svg.getBoundingClientRect().width < 100 || marks.length === 0;
}).map(plot => plot.id)"""
OUTSIDE = """() => [...document.querySelectorAll('.plot')].filter(plot => {
  const box = plot.getBoundingClientRect();
  const texts = [...plot.querySelectorAll('.xtitle, .ytitle, .legendtext, .xtick text')];
  return texts.some(text => {
    const own = text.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1
      || own.top < box.top - 1 || own.bottom > box.bottom + 1;
  });
}).map(plot => plot.id)"""

BUTTONS = """() => Object.fromEntries([...document.querySelectorAll('.plot')].map(plot =>
  [plot.id, [...plot.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)]))"""
COVERED = """() => [...document.querySelectorAll('.plot')].filter(plot => {
  const bar = plot.querySelector('.modebar').getBoundingClientRect();
  const drawing = plot.querySelector('svg.main-svg').getBoundingClientRect();
  return bar.width === 0 || bar.bottom > drawing.top + 1;
}).map(plot => plot.id)"""
CAPTIONED = """() => [...document.querySelectorAll('figure:has(.plot)')].map(figure => [
  figure.querySelector('figcaption').innerText,
  [...figure.querySelectorAll('svg text')].map(text => text.textContent)])"""

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


@dataclass(slots=True)
class Visit:
    """One page, opened: what it complained about and what it asked for beyond its own file."""

    page: "Page"
    results: Results
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Start one headless browser for the whole file."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


@pytest.fixture(scope="module", params=RECORDS)
def visit(
    request: pytest.FixtureRequest,
    browser: "Browser",
    tmp_path_factory: pytest.TempPathFactory,
) -> "Iterator[Visit]":
    """Write a report and open it from disk at desktop width."""
    path = tmp_path_factory.mktemp(request.param) / "report.html"
    context = {"title": f"A run {HOSTILE}", "config": f"name: {HOSTILE}\n", "seed": 1, "wall_s": 1}
    record = RECORDS[request.param]()
    results = Results.from_record(record, slo=SLO(), context=context)
    write_report(results, path)
    opened = Visit(browser.new_page(viewport={"width": 1400, "height": 900}), results)
    _listen(opened)
    opened.page.goto(path.as_uri())
    opened.page.wait_for_selector(".plot:not(.js-plotly-plot)", state="detached")
    yield opened
    opened.page.close()


def _listen(visit: Visit) -> None:
    def note(message: "ConsoleMessage") -> None:
        visit.complaints.append(f"{message.type}: {message.text}")

    visit.page.on("console", note)
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.context.on("request", lambda sent: visit.requests.append(sent.url))
    visit.page.context.on("page", lambda opened: visit.requests.append(f"window: {opened.url}"))


def test_the_page_draws_quietly_and_alone(visit: Visit) -> None:
    """No error nor warning in the console, and nothing is fetched but the page itself."""
    outside = [url for url in visit.requests if not url.startswith(("data:", "blob:"))]
    assert visit.complaints == []
    assert len(outside) == 1
    assert outside[0].startswith("file:")


def test_no_button_sends_anything(visit: Visit) -> None:
    """Each figure has the buttons that are known to stay here, and pressing them asks for nothing.

    Neither a request nor a window: an image is saved from what the page holds.
    """
    page, before = visit.page, list(visit.requests)
    known = {"Download plot", "Zoom", "Pan", "Reset axes"}
    shown = page.evaluate(BUTTONS)
    assert shown
    for plot, titles in shown.items():
        assert set(titles) <= known, plot
    first = next(iter(shown))
    for title in shown[first]:
        page.hover(f"#{first}")
        page.click(f'#{first} .modebar-btn[data-title="{title}"]')
    page.wait_for_timeout(300)
    sent = visit.requests[len(before) :]
    assert all(url.startswith(("data:", "blob:")) for url in sent), sent


def test_the_page_cannot_send_a_form(visit: Visit) -> None:
    """What a script tries to post elsewhere never leaves the page."""
    before = len(visit.requests)
    visit.page.evaluate(
        """() => { const form = document.createElement('form');
        form.method = 'post'; form.action = 'http://127.0.0.1:9/'; form.target = '_blank';
        document.body.append(form); form.submit(); form.remove(); }"""
    )
    visit.page.wait_for_timeout(300)
    assert not [url for url in visit.requests[before:] if url.startswith("http")]
    assert any("form-action" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


@pytest.mark.parametrize("width", [1400, 500])
def test_the_tool_bar_covers_no_curve(width: int, visit: Visit) -> None:
    """The tool bar stands above the drawing, whatever the width."""
    _resize(visit.page, width)
    assert visit.page.evaluate(COVERED) == []


@pytest.mark.parametrize("paper", ["A4", "Letter", "A5"])
def test_a_print_holds_whole_figures(paper: str, visit: Visit, tmp_path: Path) -> None:
    """Every word of a figure is inside the sheet its caption is on, and no tool bar is printed."""
    pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
    _resize(visit.page, 1400)
    visit.page.pdf(path=tmp_path / "report.pdf", format=paper)
    visit.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    figures = visit.page.evaluate(CAPTIONED)
    visit.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    sheets = [page.get_textpage() for page in pdfium.PdfDocument(tmp_path / "report.pdf")]
    size = pdfium.PdfDocument(tmp_path / "report.pdf")[0].get_size()
    assert _printed_whole(sheets, figures) == []
    for sheet in sheets:
        for left, bottom, right, top in (
            sheet.get_charbox(at) for at in range(sheet.count_chars())
        ):
            assert left >= -1
            assert bottom >= -1
            assert right <= size[0] + 1
            assert top <= size[1] + 1
    visit.page.emulate_media(media="print")
    assert visit.page.locator(".modebar:visible").count() == 0
    visit.page.emulate_media(media="null")
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate(OUTSIDE) == []


def _printed_whole(sheets: list[Any], figures: list[tuple[str, list[str]]]) -> list[str]:
    """Return the captions of figures that lack words on the sheet their caption is on."""
    texts = [" ".join(sheet.get_text_range().split()) for sheet in sheets]
    cut = []
    for caption, words in figures:
        (text,) = (each for each in texts if " ".join(caption.split()) in each)
        wanted = Counter(word for each in words for word in each.split())
        if wanted - Counter(text.split()):
            cut.append(caption)
    return cut


def _resize(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for _ in range(20):  # plotly redraws a moment after a resize
        page.wait_for_timeout(350)
        if page.evaluate("document.documentElement.scrollWidth") <= width:
            return


def test_every_figure_is_drawn(visit: Visit) -> None:
    """Every plot of the page has an image of some width with marks in it, sooner or later."""
    undrawn = visit.page.evaluate(UNDRAWN)
    for _ in range(60):  # a busy machine draws slowly
        if not undrawn:
            break
        visit.page.wait_for_timeout(250)
        undrawn = visit.page.evaluate(UNDRAWN)
    assert undrawn == []


def test_headline_numbers_are_on_the_page(visit: Visit) -> None:
    """The verdict and the latencies can be read, and a panel without data says so."""
    text = visit.page.inner_text("main")
    assert prose.verdict(visit.results)[1] in text
    for name in ("ttft_s", "e2e_s"):
        assert seconds(visit.results.summary[name]["p99"]) in text
    if not visit.results.summary["ttft_s"]["count"]:
        assert "No request has this metric." in text


def test_text_from_outside_does_not_run(visit: Visit) -> None:
    """A script in the configuration or title is shown as text and never executed."""
    assert visit.page.evaluate("window.broken") is None
    assert HOSTILE in visit.page.inner_text("h1")
    assert HOSTILE in (visit.page.text_content("#configuration pre") or "")


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_nothing_is_cut_off(visit: Visit, width: int) -> None:
    """At any width nothing scrolls sideways and no axis title or legend leaves its figure."""
    _resize(visit.page, width)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.evaluate(OUTSIDE) == []

"""The comparison's page as a browser sees it: it draws, sorts, filters, and asks for nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from simulator.compare import Options, compare, find, put_beside, read_source, write
from simulator.labels import Labels
from tests.fakes import FakeRun, fake_record
from tests.simulator.compare.folders import Made, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
HOSTILE = "</script><script>window.broken = 1</script><b>"
UNDRAWN = ".plot:not(.js-plotly-plot)"

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


class Visit:
    """A page, opened, and what it said and asked for."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda sent: self.asked.append(sent.url))


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Start a browser once."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


def opened(browser: "Browser", path: Path) -> Visit:
    """Open a page at 1400 px and wait until all of it is drawn."""
    visit = Visit(browser.new_page(viewport={"width": 1400, "height": 900}))
    visit.page.goto(path.as_uri())
    visit.page.wait_for_selector(UNDRAWN, state="detached")
    return visit


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory, browser: "Browser") -> Visit:
    """Open the comparison of 3 × 2 configurations with 2 seeds each, hostile names among them."""
    folder = tmp_path_factory.mktemp("runs")
    for prefill in (1, 2, 3):
        for name in ("plain", HOSTILE):
            for seed in (0, 1):
                record = fake_record(FakeRun(requests=200, prefill=prefill, seed=seed))
                settings: dict[str, Any] = {"label": name, "more": prefill}
                where = folder / f"{prefill}{len(name)}{seed}"
                write_run(where, Made(settings=settings, record=record, seed=seed))
    write(compare(find([str(folder)]).runs), folder / "out")
    return opened(browser, folder / "out" / "compare.html")


def column(page: "Page", head: str) -> list[str]:
    """Return the cells below a head."""
    heads = page.locator("#rows-table th").all_inner_texts()
    at = next(n for n, text in enumerate(heads) if text.startswith(head))
    return page.locator(f"#rows-table tbody td:nth-child({at + 1})").all_inner_texts()


def test_the_page_draws_quietly_and_alone(visit: Visit) -> None:
    """Nothing is fetched, nothing complained of, nothing in a name is run."""
    assert visit.said == []
    assert len([url for url in visit.asked if not url.startswith(("data:", "blob:"))]) == 1
    assert visit.page.evaluate("window.broken") is None
    shown = column(visit.page, "configuration")
    assert any(f"label={HOSTILE[:30]}" in name for name in shown)
    sections = visit.page.locator("section h2").all_inner_texts()
    wanted = ["Table", "Fronts", "Sweep", "Map", "Certainty", "Latency", "Stages", "Over time"]
    assert sections == [*wanted, "Definitions"]


def test_a_click_sorts_and_a_second_one_turns_it_round(visit: Visit) -> None:
    """Rows follow the numbers, not their words."""
    head = visit.page.locator("#rows-table th", has_text="TTFT p99")
    for turned in (False, True):
        head.click()
        table = visit.page.evaluate("JSON.parse(document.getElementById('rows').textContent)")
        (told,) = (each for each in table["columns"] if each["head"] == "TTFT p99")
        pairs = sorted(zip(told["value"], told["text"], strict=True), reverse=turned)
        assert column(visit.page, "TTFT p99") == [text for _, text in pairs]


def test_words_filter_rows(visit: Visit) -> None:
    """Only names with what is typed stay, and all come back."""
    visit.page.fill("#filter", "PLAIN")
    assert all("plain" in name for name in column(visit.page, "configuration"))
    assert visit.page.inner_text("#count") == "3 of 3 shown"
    visit.page.fill("#filter", "")
    assert visit.page.inner_text("#count") == "6 of 6 shown"


def test_hovering_names_the_configuration(visit: Visit) -> None:
    """A mark of the plane tells its name as text."""
    mark = visit.page.locator("#plot-plane .scatterlayer .trace.scatter path.point").first
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.wait_for_selector("#plot-plane .hoverlayer .hovertext")
    assert "label=" in (visit.page.locator("#plot-plane .hoverlayer").text_content() or "")


@pytest.mark.parametrize("width", [1400, 500])
def test_it_fits_the_window(visit: Visit, width: int) -> None:
    """No window is too narrow: only the table scrolls."""
    visit.page.set_viewport_size({"width": width, "height": 900})
    for _ in range(100):  # the page allows no code from words, which waiting for a function is
        if visit.page.evaluate("document.documentElement.scrollWidth") <= width:
            return
        visit.page.wait_for_timeout(100)
    pytest.fail("wider than the window")


def test_tags_and_a_measured_run_are_on_the_page(tmp_path: Path, browser: "Browser") -> None:
    """The filter finds tags; a measured run has its section first, drawn beside letters."""
    for prefill, tags in ((1, ("friday",)), (2, ("friday", "big")), (3, ())):
        record = fake_record(FakeRun(requests=200, prefill=prefill))
        write_run(tmp_path / f"{prefill}", Made(settings={"more": prefill}, record=record))
        Labels(name=f"run {prefill}", tags=tags).leave(tmp_path / f"{prefill}" / "summary.json")
    told = {
        "time_to_first_token": {"unit": "ms", "avg": 200.0, "p50": 150.0, "p90": 400.0},
        "request_latency": {"unit": "ms", "avg": 2000.0, "p99": 9000.0},
    }
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps(told), "utf-8")
    found = compare(find([str(tmp_path)]).runs)
    source = read_source(str(tmp_path / "profile_export_aiperf.json"), Options().measured)
    write(found, tmp_path / "out", put_beside(found, source))
    visit = opened(browser, tmp_path / "out" / "compare.html")
    page = visit.page
    for typed, names in (("friday", 2), ("BIG", 1), ("run 3", 1), ("", 3)):
        page.fill("#filter", typed)
        assert page.inner_text("#count") == f"{names} of {names} shown"
        shown = column(page, "configuration")
        assert len(shown) == names
    assert page.locator("section h2").all_inner_texts()[1] == "Measured beside simulated"
    heads = page.locator("#measured tbody th").all_inner_texts()
    assert heads.count("TTFT measured") == 1
    assert sum(name.endswith("run 2") for name in heads) == 2
    assert page.locator("#plot-measured_ttft_s .legendtext").all_text_contents() == [
        *("A", "B", "C"),
        "measured",
    ]
    assert visit.said == []

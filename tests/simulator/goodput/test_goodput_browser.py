"""The page of a search as a browser sees it: it draws, asks for nothing, and fits the window."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from simulator.cli import compose
from simulator.goodput import Options, goodput
from simulator.goodput.page import write_page
from simulator.goodput.study import Found

if TYPE_CHECKING:
    from playwright.sync_api import Browser

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
UNDRAWN = """() => [...document.querySelectorAll('.plot')].filter(plot => {
  const marks = plot.querySelectorAll('.scatterlayer path, .heatmaplayer image');
  return !plot.querySelector('svg.main-svg') || marks.length === 0;
}).map(plot => plot.id)"""
HOSTILE = "</script><script>window.broken = 1</script>"

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


@pytest.fixture(scope="module")
def found() -> Found:
    """Return a small search with its map."""
    experiment = compose(["latency=polynomial", "workload=poisson", "workload.requests=200"])
    return goodput(experiment, Options(seeds=2, precision=0.2, map=True))


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Start one headless browser."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


@pytest.mark.parametrize("width", [1400, 500])
def test_the_page_draws_quietly_and_fits(
    found: Found, browser: "Browser", tmp_path: Path, width: int
) -> None:
    """Every figure is drawn, nothing is fetched or complained about, nothing runs that should not.

    And the page is no wider than the window.
    """
    path = tmp_path / "report.html"
    write_page(found, f"name: {HOSTILE}\n", path)
    page = browser.new_page(viewport={"width": width, "height": 900})
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        "document.querySelectorAll('.plot.js-plotly-plot').length === "
        "document.querySelectorAll('.plot').length"
    )
    assert page.evaluate("document.querySelectorAll('.plot').length") == 4
    assert page.evaluate(UNDRAWN) == []
    assert told == []
    assert [url for url in asked if not url.startswith(("data:", "blob:", "file:"))] == []
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()

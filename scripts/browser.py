"""The browser that pictures of pages are taken with."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    f"--{flag}"
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
    )
]
WIDTH = 1200


@contextmanager
def opened() -> Iterator[Page]:
    """Yield an empty page, :data:`WIDTH` pixels wide, of a browser that closes afterwards."""
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": WIDTH, "height": 1000})
        finally:
            browser.close()

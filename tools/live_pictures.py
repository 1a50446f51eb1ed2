"""Takes the pictures of the live page: `make pictures-live` writes them to docs/pictures.

A batch of places is looked up at a made-up service, with a rate limit, retries and some failures; another one blocks
its loop now and then. Each picture is one of the page's states.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import flowrt
from flowrt.server import TelemetryServer
from tools.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["main"]

_FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
_WIDE: Final = {"width": 1240, "height": 900}
_PHONE: Final = {"width": 390, "height": 844}
_SETTLE_MS: Final = 1_500


class UpstreamError(Exception):
    """The service said no."""


class Lookup:
    """A node that asks the service.

    Args:
        seed: The same times and failures each time.
        stalls: Whether it computes for long now and then, instead of in a thread.
        straggler: A place whose answer takes long.
    """

    def __init__(self, seed: int, *, stalls: bool = False, straggler: int = -1) -> None:
        self._random = random.Random(seed)  # noqa: S311  # made-up times
        self._stalls = stalls
        self._straggler = straggler

    async def look_up(self, place: int) -> int:
        """One place."""
        await self.ask(place)
        if self._random.random() < 0.05:
            raise UpstreamError(f"503 Service Unavailable for https://places.example.com/v2/{place}?key=4f3c9a")
        if self._stalls and self._random.random() < 0.003:
            self.compare_all()
        return place

    async def ask(self, place: int) -> None:
        """Wait for the service's answer."""
        await asyncio.sleep(self._random.lognormvariate(-2.4, 0.8) if place != self._straggler else 24.0)

    def compare_all(self) -> None:
        """What should have been done elsewhere."""
        time.sleep(0.35)


async def _work(quit_at: threading.Event) -> None:
    async with flowrt.Runtime(log_level="CRITICAL"):
        geocode = flowrt.BatchProcessor(_named(Lookup(1, stalls=True).look_up, "geocode"), 24, name="geocode")
        await geocode.batch(range(1_500))
        places = flowrt.BatchProcessor(
            _named(Lookup(2, straggler=1_234).look_up, "look_up"),
            40,
            name="places",
            rate_limit=flowrt.RateLimit(260, per=1.0),
            retry=flowrt.RetryPolicy(attempts=2, base=0.2),
            item_timeout=40,
        )
        await places.batch(range(4_500))
        await asyncio.to_thread(quit_at.wait)


def _named(function: Any, name: str) -> Any:
    return flowrt.FunctionNode(function, node_id=name)


def _take(browser: Browser, url: str, name: str, *, whole: bool = False, click: str | None = None, **look: Any) -> None:
    page = browser.new_page(**{"viewport": _WIDE, **look})
    page.goto(url)
    page.wait_for_timeout(_SETTLE_MS)
    if click is not None:
        page.locator(click).first.click()
        page.wait_for_timeout(_SETTLE_MS)
    if name == "live-stalls":
        page.locator("#stall-list li").filter(has_text="by item").locator("summary").last.click()
        page.locator("#stalls").scroll_into_view_if_needed()
    page.screenshot(path=_FOLDER / f"{name}.png", full_page=whole)
    page.close()


def main() -> None:
    """Take them all; it takes half a minute."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    server = TelemetryServer(0)
    server.start()
    quit_at = threading.Event()
    worker = threading.Thread(target=asyncio.run, args=(_work(quit_at),))
    with chromium() as browser:
        _take(browser, server.url, "live-idle")
        worker.start()
        watch = browser.new_page()
        watch.goto(server.url)
        watch.wait_for_function("() => document.querySelector('#name').textContent === 'places'", timeout=60_000)
        watch.wait_for_timeout(9_000)
        _take(browser, server.url, "live-light", whole=True)
        _take(browser, server.url, "live-dark", color_scheme="dark")
        _take(browser, server.url, "live-phone", viewport=_PHONE, device_scale_factor=2)
        _take(browser, server.url, "live-stalls", whole=True, click="#batches li:last-child button")
        watch.wait_for_function("() => document.querySelector('#status').textContent !== 'running'", timeout=90_000)
        _take(browser, server.url, "live-finished")
        quit_at.set()
        worker.join()
    server.stop()


if __name__ == "__main__":
    main()

"""Pictures of the live page in every state, for the documentation.

    python -m tools.live_pictures [NAME ...]

Runs batches on a loop in a thread and takes a screenshot of each state with a real browser: no batch, a healthy batch,
a paused one, worker processes of which one crashed, a failing batch, stalls, a finished batch, and hundreds of small
batches.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import flowrt
from dashboards.generator.trial import read_scan
from flowrt.server import TelemetryServer
from tools.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["main"]

_FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
_WIDE: Final = {"width": 1240, "height": 900}
_PHONE: Final = {"width": 390, "height": 844}
_SETTLE_MS: Final = 1_500
_TOKEN: Final = "only-for-pictures"  # noqa: S105  # of a server on loopback
_TRACE_URL: Final = "https://jaeger.example.com/trace/{trace_id}"


class UpstreamError(Exception):
    """The service answered with an error."""


class Lookup:
    """Node that asks a service.

    Args:
        seed: Seed of the durations and failures, so that every run is the same.
        failing: Share of the items that fail.
        stalls: True to block the event loop now and then.
        straggler: Index of an item that takes 24 s.
        mean_s: Typical duration, in seconds.
    """

    def __init__(
        self, seed: int, *, failing: float = 0.05, stalls: bool = False, straggler: int = -1, mean_s: float = 0.09
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311  # made-up times
        self._failing = failing
        self._stalls = stalls
        self._straggler = straggler
        self._mean_s = mean_s

    async def look_up(self, place: int) -> int:
        """Look up one place."""
        await self.ask(place)
        chance = self._random.random()
        if chance < 0.7 * self._failing:
            raise UpstreamError(f"503 Service Unavailable for https://places.example.com/v2/{place}?key=4f3c9a")
        if chance < self._failing:
            raise TimeoutError(f"no answer from 10.0.0.{place % 250} within 2 s")
        if self._stalls and self._random.random() < 0.006:
            self.compare_all()
        return place

    async def ask(self, place: int) -> None:
        """Wait for the answer of the service."""
        straggles = place == self._straggler
        await asyncio.sleep(24.0 if straggles else self._mean_s * self._random.lognormvariate(0, 0.8))

    def compare_all(self) -> None:
        """Compute for long on the event loop, which a thread should do."""
        time.sleep(0.35)


class Scenes:
    """Batches of one scene after another, each started on request, on a loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()

    def start(self, scene: Callable[[], Any]) -> None:
        """Start a scene.

        Args:
            scene: Coroutine function that runs its batches.
        """
        asyncio.run_coroutine_threadsafe(scene(), self._loop)

    def close(self) -> None:
        """End all batches and the thread."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _run(self) -> None:
        async with flowrt.Runtime(log_level="CRITICAL"):
            await self._end.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)


async def _geocode() -> None:
    await _processor(Lookup(1, stalls=True), "geocode", 24).batch(range(700))


async def _places() -> None:
    processor = _processor(
        Lookup(2, straggler=2_234, failing=0.005),
        "places",
        40,
        rate_limit=flowrt.RateLimit(260, per=1.0),
        retry=flowrt.RetryPolicy(attempts=2, base=0.2),
        item_timeout=40,
    )
    await processor.batch(range(9_000))


async def _archive() -> None:
    await _processor(Lookup(5, failing=0.0), "archive", 16).batch(range(3_000))


async def _scans() -> None:
    async with flowrt.ProcessesExecutor(3) as executor:
        scans = flowrt.FunctionNode(read_scan, node_id="read_scan")
        await flowrt.BatchProcessor(scans, 12, name="scans", executor=executor).batch(range(100_000))


async def _enrich() -> None:
    await _processor(Lookup(3, failing=0.9), "enrich", 30).batch(range(100_000))


async def _requests() -> None:
    async def serve(seed: int) -> None:
        lookup = Lookup(seed, failing=0.01, mean_s=0.8)
        while True:
            await _processor(lookup, "request", 3).batch(range(3))

    nightly = _processor(Lookup(4, failing=0.0), "nightly", 8, rate_limit=flowrt.RateLimit(20, per=1.0))
    await asyncio.gather(nightly.batch(range(5_000)), *(serve(seed) for seed in range(250)))


def _processor(lookup: Lookup, name: str, limit: int, **settings: Any) -> flowrt.BatchProcessor[Any, Any]:
    return flowrt.BatchProcessor(flowrt.FunctionNode(lookup.look_up, node_id="look_up"), limit, name=name, **settings)


def _take(browser: Browser, url: str, name: str, *, whole: bool = False, batch: str = "", **look: Any) -> None:
    if sys.argv[1:] and name not in sys.argv[1:]:
        return
    page = _open(browser, url, **{"viewport": _WIDE, **look})
    if batch:
        page.locator(".choose", has_text=batch).first.click()
        page.wait_for_timeout(_SETTLE_MS)
    if name == "live-stalls":
        page.locator("#stall-list summary").first.click()
    page.screenshot(path=_FOLDER / f"{name}.png", full_page=whole)
    page.context.close()


def _open(browser: Browser, url: str, **look: Any) -> Page:
    context = browser.new_context(http_credentials={"username": "any", "password": _TOKEN}, **look)
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(_SETTLE_MS)
    return page


def _wait(page: Page, selector: str, text: str) -> None:
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)",
        arg=[selector, text],
        timeout=120_000,
    )


def _wait_for_end(page: Page) -> None:
    page.wait_for_function("() => document.querySelector('#controls button') === null", timeout=120_000)


def main() -> None:
    """Take all pictures, or those that are named as arguments."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    server = TelemetryServer(0, token=_TOKEN, trace_url=_TRACE_URL, live_control=True)
    server.start()
    url = server.url
    with chromium() as browser:
        _take(browser, url, "live-idle")
        scenes = Scenes()
        watch = _open(browser, url)
        scenes.start(_geocode)
        _wait(watch, "#status", "finished")
        scenes.start(_places)
        _wait(watch, "#name", "places")
        watch.wait_for_timeout(11_000)
        _take(browser, url, "live-dark", color_scheme="dark")
        _take(browser, url, "live-light", whole=True)
        _take(browser, url, "live-stalls", whole=True, batch="geocode")
        _wait(watch, "#status", "finished")
        _take(browser, url, "live-finished", batch="places")
        scenes.start(_archive)
        _wait(watch, "#name", "archive")
        watch.wait_for_timeout(5_000)
        watch.locator("#controls button", has_text="pause").click()
        _wait(watch, "#status", "paused")
        watch.wait_for_timeout(5_000)
        _take(browser, url, "live-paused", whole=True)
        watch.locator("#controls button", has_text="drain").click()
        _wait_for_end(watch)
        scenes.start(_scans)
        _wait(watch, "#worker-rows .kind", "exit status")
        watch.wait_for_timeout(5_000)
        _take(browser, url, "live-workers", whole=True)
        for _ in ("ask", "confirm"):
            watch.locator("#controls button", has_text="cancel").click()
        _wait_for_end(watch)
        scenes.start(_enrich)
        _wait(watch, "#status", "failing")
        watch.wait_for_timeout(11_000)
        _take(browser, url, "live-failing", whole=True)
        _take(browser, url, "live-phone", viewport=_PHONE, device_scale_factor=2)
        scenes.start(_requests)
        watch.wait_for_timeout(11_000)
        _take(browser, url, "live-many")
        scenes.close()
    server.stop()


if __name__ == "__main__":
    main()

"""Order of the live page's table: its own script, on states that no running batch can hold for long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from flowrt.server import TelemetryServer
from flowrt.telemetry.metrics.store import METRICS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("browser")]

SHOWN = "async ([batches, groups]) => (await import('./live/overview.js')).mostTroubled(batches, groups)?.id"


def batch(id_: str, status: str, failed: int = 0) -> dict[str, Any]:
    counts = {"ok": 9 - failed, "failed": failed, "timed_out": 0, "cancelled": 0, "resumed": 0}
    failing = {"ended": 9, "failed": failed}
    return {
        "id": id_,
        "name": id_.split(maxsplit=1)[0],
        "status": status,
        "started_s": 1.0,
        "counts": counts,
        "failing": failing,
    }


NOTE = """async (state) => {
  (await import('./live/overview.js')).showOverview(state.batches, state, null, () => {});
  return document.querySelector("#overview-note").textContent;
}"""


def group(name: str, failing: float) -> dict[str, Any]:
    return {"name": name, "active": 5, "ended": {"ok": 9, "failed": 9, "cancelled": 0}, "failing": failing, "failed": 9}


@pytest.mark.parametrize("names", [("price", "stock"), ("stock", "price")])
def test_group_with_the_larger_share_of_failing_items_comes_first(
    server: TelemetryServer, browser: Browser, names: tuple[str, str]
) -> None:
    """The server's order is kept where trouble is alike: it is by share."""
    page = browser.new_page()
    page.goto(server.url)
    batches = [batch(f"{name} active", "running") for name in ("price", "stock")]
    groups = [group(names[0], 0.4), group(names[1], 0.06)]
    assert page.evaluate(SHOWN, [batches, groups]) == f"{names[0]} active"
    page.close()


def test_stalls_of_the_loop_are_in_the_head(server: TelemetryServer, browser: Browser) -> None:
    from playwright.sync_api import expect

    METRICS.stalled("node")
    page = browser.new_page()
    page.goto(server.url)
    expect(page.locator("#process")).to_contain_text(re.compile(r"[1-9][0-9,]* loop stalls?"))
    page.close()


def test_failing_group_shows_a_batch_with_failures(server: TelemetryServer, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(server.url)
    batches = [batch("stock active", "running"), batch("stock ended", "failed", 3)]
    assert page.evaluate(SHOWN, [batches, [group("stock", 0.4)]]) == "stock ended"
    assert page.evaluate(SHOWN, [batches, [group("stock", 0.0)]]) == "stock active"
    page.close()


def test_note_of_many_names_counts_all_active_batches(server: TelemetryServer, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(server.url)
    groups = [*(group(f"tenant {i}", 0.4 if i < 2 else 0.0) for i in range(49)), group("(other names)", 0.01)]
    state = {"batches": [], "groups": groups, "groups_left": 951, "active": 1_000}
    assert page.evaluate(NOTE, state) == "1,000 active · 1,000 names · 951 not shown · 2 of those shown failing"
    page.close()


WORKERS = """async (workers) => {
  (await import('./live/workers.js')).showWorkers(workers, 0);
  return [...document.querySelectorAll("#worker-rows tr")].map((row) => row.children[3].textContent);
}"""


def test_worker_that_waits_for_a_batch_to_become_ready_says_so(server: TelemetryServer, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(server.url)
    worker = {"executor": "processes", "pid": 7, "host": "", "ready": False, "busy": None, "inflight": 0}
    worker |= {"rss_bytes": 0, "restarts": {}, "last_crash": None}
    workers = [{**worker, "slot": "w0", "in_use": True}, {**worker, "slot": "w1", "in_use": False}]
    assert page.evaluate(WORKERS, workers) == ["not ready", "ready at next batch"]
    page.close()

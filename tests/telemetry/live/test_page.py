"""Live page in a real browser: its figures equal the counters, and no text on it can run anything."""

from __future__ import annotations

import asyncio
import html
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

import flowrt
from flowrt.server import TelemetryServer
from flowrt.telemetry.live import LIVE
from tests.executors.worker_nodes import maybe_die
from tests.telemetry.live.conftest import HANG_S, Spawn
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, LocatorAssertions, Page

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("browser")]

HOSTILE = "</script><img src=x onerror=\"document.body.dataset.hit='1'\"><b>bold</b>"
CANARY = "canary-5f0e9d8c7b6a4321"
THREE_LINES = re.compile("L.*L.*L")  # of a path in a chart

OpenPage = Callable[..., "Page"]
MakeGate = Callable[[int], "Gate"]


class Gate:
    """Node that returns its items and blocks on one of them until it is opened. Every fifth item fails."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.open = threading.Event()

    async def __call__(self, x: int) -> int:
        await self.wait(x)
        if x % 5 == 3:
            raise ValueError(f"{HOSTILE} {x}")
        return x

    async def wait(self, x: int) -> None:
        while x == self.holds and not self.open.is_set():
            await asyncio.sleep(0.01)


def set_window(monkeypatch: pytest.MonkeyPatch, window_s: float) -> None:
    """Change the window of the current figures."""
    for module in ("history", "view"):
        monkeypatch.setattr(f"flowrt.telemetry.live.{module}.WINDOW_S", window_s)


@pytest.fixture(autouse=True)
def long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the figures of a running batch cover all of it, however slow the machine is."""
    set_window(monkeypatch, 10 * HANG_S)


@pytest.fixture
def make_gate(spawn: Spawn) -> Iterator[MakeGate]:
    """Create gates. All are opened at the end, so that a failed test does not hang on its batches."""
    gates: list[Gate] = []

    def make_gate(holds: int) -> Gate:
        gates.append(Gate(holds))
        return gates[-1]

    yield make_gate
    for gate in gates:
        gate.open.set()


@pytest.fixture
def release(spawn: Spawn) -> Iterator[threading.Event]:
    """Event that lets a test's batches end. It is set at the end, so that a failed test does not hang."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def open_page(browser: Browser, server: TelemetryServer) -> Iterator[OpenPage]:
    """Open the page in a new context. Any console message or foreign request fails the test."""
    contexts: list[Any] = []
    messages: list[str] = []
    requests: list[str] = []

    def open_page(url: str = "", *, quiet: bool = True, **settings: Any) -> Page:
        context = browser.new_context(**settings)
        context.set_default_timeout(HANG_S * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: messages.append(f"dialog: {dialog.message}"))
        if quiet:
            page.on("console", lambda message: messages.append(message.text))
            page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(url or server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in messages if "net::ERR_CONNECTION_REFUSED" not in each] == []
    assert [url for url in requests if not url.startswith(("http://127.0.0.1:", "https://127.0.0.1:"))] == []


def expect(page: Page, selector: str) -> LocatorAssertions:
    """Return assertions about an element that wait until they hold: the page shows one sample after another.

    Each sample is true, but one may be taken at a moment that no test means, such as between two items.
    """
    from playwright.sync_api import expect

    return expect(page.locator(selector))


def expect_title(page: Page, title: str) -> None:
    from playwright.sync_api import expect

    expect(page).to_have_title(title)


def stop_timers(page: Page) -> None:
    """Stop the page's timers: a busy machine may look only after a text that the page shows for a second is gone."""
    page.clock.install(time=0)
    page.clock.pause_at(1)


def boxes(page: Page, *selectors: str) -> list[dict[str, float]]:
    """Positions of the elements at one moment: between two calls, new figures may move the page's content."""
    found: list[dict[str, float]] = page.evaluate(
        "selectors => selectors.map(each => document.querySelector(each).getBoundingClientRect().toJSON())",
        list(selectors),
    )
    return found


def counter(name: str, status: str) -> float:
    labels = {"batch": name, "node": "Gate", "status": status}
    return REGISTRY.get_sample_value("flowrt_items_total", labels) or 0.0


def start(spawn: Spawn, gate: Gate, name: str, items: int = 100) -> threading.Thread:
    processor = flowrt.BatchProcessor(flowrt.FunctionNode(gate, node_id="Gate"), 10, name=name)
    return spawn(processor.batch(range(items)))


def test_page_shows_the_counters_during_and_after_a_batch(
    open_page: OpenPage, spawn: Spawn, make_gate: MakeGate, server: TelemetryServer
) -> None:
    page = open_page()
    expect(page, "#idle h2").to_contain_text("No batch yet")
    gate = make_gate(99)
    thread = start(spawn, gate, "numbers")
    expect(page, "#done").to_have_text("99 of 100 items, 99 %")
    wait_until(lambda: (counter("numbers", "ok"), counter("numbers", "failed")) == (79, 20), "the counters agree")
    expect(page, "#name").to_have_text("numbers")
    expect(page, "#status").to_have_text("running, 20 % failing")
    expect(page, "#failed").to_have_text("20 20 %")
    expect_title(page, "20 % failing · numbers · flowrt")
    expect(page, "#inflight").to_have_text("1 of 10")
    expect(page, "#bar").to_have_attribute("aria-valuenow", "99")
    expect(page, "#causes .times").to_have_text("20 ×")
    expect(page, "#running-items").to_contain_text("Gate.wait")
    expect(page, "#running-items td:first-child").to_have_text("99")
    gate.open.set()
    thread.join(HANG_S)
    expect(page, "#status").to_contain_text("finished, 20 % failed")
    expect(page, "#done").to_have_text("100 of 100 items, 100 %")
    assert counter("numbers", "ok") + counter("numbers", "failed") == 100
    expect(page, "#announce").to_have_text("numbers has ended: 100 items, 20 failed")
    expect_title(page, "100 % numbers · flowrt")
    server.stop()
    expect(page, "#link-text").to_contain_text("no connection; as of")
    expect(page, "#done").to_have_text("100 of 100 items, 100 %")


def test_27_script_in_an_error_text_is_shown_as_text(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    gate = make_gate(-1)
    name = f"{HOSTILE}\u202e"
    kind = type("Bad<img src=x onerror=alert(1)>", (Exception,), {})

    async def node(x: int) -> int:
        raise kind(f"{HOSTILE} {x}\x00\udc80")

    spawn(flowrt.BatchProcessor(flowrt.FunctionNode(node, node_id=HOSTILE), 2, name=name).batch([1, 2])).join(HANG_S)
    start(spawn, gate, HOSTILE, 10).join(HANG_S)
    expect(page, "#failed-items").to_contain_text(f"{HOSTILE} 8")
    page.locator("#overview .choose").nth(1).click()
    expect(page, "#failed-items").to_contain_text("Bad<img src=x onerror=alert(1)>")
    expect(page, "#causes .kind").to_have_text("Bad<img src=x onerror=alert(1)>")
    expect(page, "#name").to_contain_text(HOSTILE)
    assert page.locator("main img, main script, main b:has-text('bold')").count() == 0
    assert page.locator("script").count() == 1
    assert page.evaluate("document.body.dataset.hit") is None


def test_27_inline_script_is_blocked(open_page: OpenPage) -> None:
    page = open_page(quiet=False)
    page.evaluate(
        "() => { const script = document.createElement('script');"
        " try { script.textContent = \"document.body.dataset.hit = '1'\"; } catch { return; }"
        " document.body.append(script); }"
    )
    assert page.evaluate("document.body.dataset.hit") is None


def test_page_opened_late_shows_the_history(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    gate = make_gate(50)
    start(spawn, gate, "late", 60)
    history: list[Any] = []
    deadline_s = time.monotonic() + HANG_S
    while len(history) < 5 and time.monotonic() < deadline_s:
        time.sleep(0.1)
        batches = json.loads(LIVE.snapshot())["batches"]
        history = batches[0]["history"] if batches else []
    page = open_page()
    expect(page, "#done").to_contain_text("59 of 60")
    expect(page, "#rate-chart path.series >> nth=0").to_have_attribute("d", THREE_LINES)
    expect(page, "#rate-chart .tick >> nth=3").to_have_text("0 s")
    gate.open.set()


def test_page_updates_while_the_loop_is_blocked(open_page: OpenPage, spawn: Spawn) -> None:
    page = open_page()
    began, release = threading.Event(), threading.Event()

    async def node(x: int) -> int:
        if x == 3:
            began.set()
            release.wait(HANG_S)  # blocks the loop on purpose
        return x

    thread = spawn(flowrt.BatchProcessor(node, 2, name="blocked").batch(range(10)))
    assert began.wait(HANG_S)
    expect(page, "#name").to_contain_text("blocked")
    expect(page, "#done").to_contain_text("3 of 10")
    before = page.locator("#elapsed").inner_text()
    expect(page, "#elapsed").not_to_have_text(before)
    release.set()
    thread.join(HANG_S)
    expect(page, "#status").to_contain_text("finished")


def test_page_reconnects_when_the_process_restarts(open_page: OpenPage, server: TelemetryServer) -> None:
    page = open_page(quiet=False)
    expect(page, "#link-text").to_contain_text("live")
    server.stop()
    expect(page, "#link-text").to_contain_text("no connection")
    again = TelemetryServer(server.port)
    again.start()
    try:
        expect(page, "#link-text").to_have_text("live")
    finally:
        again.stop()


def test_browser_signs_in_with_the_token_as_password(browser: Browser, spawn: Spawn) -> None:
    server = TelemetryServer(0, token="horse")
    server.start()
    try:
        context = browser.new_context(http_credentials={"username": "anybody", "password": "horse"})
        page = context.new_page()
        page.goto(server.url)
        expect(page, "#link-text").to_contain_text("live")
        context.close()
        context = browser.new_context()
        assert context.request.get(server.url).status == 401
        context.close()
    finally:
        server.stop()


def test_page_and_state_hold_no_secret(open_page: OpenPage, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "c4nary of the environment")

    async def node(item: dict[str, str]) -> str:
        if item["n"] == "0":
            raise ValueError(f"401 for https://me:{CANARY}@example.com/?key={CANARY}: token={CANARY} {CANARY}")
        if item["n"] == "1":
            raise KeyError("c4nary of the environment")
        return CANARY

    page = open_page()
    items = [{"n": str(n), "secret": CANARY} for n in range(5)]
    spawn(flowrt.BatchProcessor(node, 2, name="secrets").batch(items)).join(HANG_S)
    expect(page, "#failed-items").to_contain_text("KeyError")
    expect(page, "#status").to_contain_text("finished")
    for text in (page.content(), page.request.get(page.url + "live/state").text()):
        assert "[redacted]" in text
        assert "canary" not in text
        assert "c4nary" not in text


@pytest.mark.parametrize(("scheme", "width"), [("light", 1240), ("dark", 390)])
def test_axe_finds_no_fault(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
    axe = Axe()
    start(spawn, make_gate(-1), f"axe first {width}", 5).join(HANG_S)
    gate = make_gate(99)
    start(spawn, gate, f"axe {scheme} {width}").join(0)
    expect(page, "#overview-rows").to_contain_text("axe first")
    expect(page, "#done").to_contain_text("99 of 100")
    expect(page, "#running-items").to_contain_text("Gate.wait")
    page.locator("#running-items summary").first.click()
    assert faults(axe, page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    gate.open.set()


def faults(axe: Any, page: Page) -> list[str]:
    violations = axe.run(page).response["violations"]
    return [f"{each['impact']} {each['id']}: {[node['html'] for node in each['nodes']][:3]}" for each in violations]


def test_axe_finds_no_fault_once_a_batch_has_ended(open_page: OpenPage, spawn: Spawn) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(bypass_csp=True)
    spawn(quiet(short_sleep, "ended").batch(range(10))).join(HANG_S)
    expect(page, "#status").to_contain_text("finished")
    assert faults(Axe(), page) == []


def test_axe_finds_no_fault_on_the_idle_page(open_page: OpenPage) -> None:
    from axe_playwright_python.sync_playwright import Axe

    assert faults(Axe(), open_page(bypass_csp=True)) == []


def test_charts_are_readable_with_the_keyboard(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    gate = make_gate(99)
    start(spawn, gate, "keys")
    expect(page, "#done").to_contain_text("99 of 100")
    expect(page, "#rate-chart path.series >> nth=0").to_have_attribute("d", THREE_LINES)  # so four points
    chart = "#latency-chart svg"
    so_far = re.compile(r"Latency of items\. So far: p50 .+, p95 .+, p99 .+")
    expect(page, chart).to_have_attribute("aria-label", so_far)
    page.locator(chart).focus()
    page.keyboard.press("Home")
    expect(page, chart).to_have_attribute("aria-label", re.compile("At 0 "))
    page.keyboard.press("ArrowRight")  # the first sample, soon after the start
    page.keyboard.press("ArrowRight")
    expect(page, chart).to_have_attribute("aria-label", re.compile(r"At [\d.]+ m?s"))
    page.keyboard.press("Escape")
    expect(page, chart).to_have_attribute("aria-label", so_far)
    gate.open.set()


def test_chosen_theme_is_remembered(open_page: OpenPage) -> None:
    page = open_page(color_scheme="light")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    light = ground()
    page.locator("#theme").click()
    page.locator("#theme").click()
    expect(page, "#theme").to_have_text("Theme: dark")
    dark = ground()
    assert dark != light
    page.reload()
    assert ground() == dark


def test_error_can_be_copied(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    gate = make_gate(-1)
    start(spawn, gate, "copied", 4).join(HANG_S)
    expect(page, "#failed-items").to_contain_text("ValueError")
    stop_timers(page)
    page.locator("#causes .copy", has_text="copy error").click()
    expect(page, "#causes").to_contain_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"item 3: ValueError: {HOSTILE} 3"
    page.clock.run_for(2_000)
    expect(page, "#causes").to_contain_text("copy error")


def quiet(node: Any, name: str, limit: int = 10, **settings: Any) -> flowrt.BatchProcessor[Any, Any]:
    node = flowrt.FunctionNode(node, node_id="node")
    return flowrt.BatchProcessor(node, limit, name=name, telemetry=flowrt.Telemetry(logs=False), **settings)


def test_failing_batch_comes_first(
    open_page: OpenPage, spawn: Spawn, make_gate: MakeGate, release: threading.Event
) -> None:
    page = open_page()
    calm = make_gate(2)

    async def failing(x: int) -> int:
        while x == 99 and not release.is_set():
            await asyncio.sleep(0.01)
        if x % 10:
            raise ConnectionError(f"no answer from 10.0.0.{x}")
        return x

    spawn(quiet(failing, "failing").batch(range(100)))
    start(spawn, calm, "calm", 3)  # starts later, and has no failures
    expect(page, "#overview-rows").to_contain_text("calm")
    expect(page, "#overview-rows tr:first-child").to_contain_text("90 % failing")
    expect(page, "#status").to_have_text("running, 90 % failing")
    expect(page, "#overview-rows tr:first-child .choose").to_have_text("failing")
    expect(page, "#name").to_have_text("failing")
    expect_title(page, "90 % failing · failing · flowrt")
    expect(page, "#icon").to_have_attribute("href", "live/icon-failing.svg")
    expect(page, ".figures div:first-child dt").to_contain_text("Failed")
    expect(page, "#status").to_have_css("background-color", "rgb(179, 38, 30)")
    expect(page, "#causes .times").to_have_count(1)  # failures of one cause are one entry
    expect(page, "#causes .cause").to_contain_text("no answer from N")
    failures, bound = boxes(page, "#failures", "#bound-chart")
    assert failures["top"] < bound["top"]
    page.locator(".choose", has_text="calm").click()
    expect(page, "#name").to_have_text("calm")
    expect(page, "#status").to_have_text("running")
    release.set()
    calm.open.set()
    expect(page, "#icon").to_have_attribute("href", "live/icon.svg")


def test_small_batches_of_a_name_are_one_row(open_page: OpenPage, spawn: Spawn, release: threading.Event) -> None:
    page = open_page(viewport={"width": 390, "height": 844})

    async def node(x: int) -> int:
        while not release.is_set():
            await asyncio.sleep(0.05)
        return x

    async def main() -> None:
        batches = [quiet(node, "request", 1).batch([1]) for _ in range(200)]
        await asyncio.gather(quiet(node, "nightly", 1).batch(range(2)), *batches)

    spawn(main())
    expect(page, "#overview-note").to_have_text("201 active · 2 names")
    expect(page, "#overview-rows tr").to_have_count(2)
    request = ".choose[aria-expanded]:text('request')"
    expect(page, request).to_have_attribute("aria-expanded", "false")
    page.locator(request).click()
    expect(page, request).to_have_attribute("aria-expanded", "true")
    expect(page, "#overview-rows tr.inside").to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    release.set()
    expect(page, "#overview-rows").to_contain_text("200 ended")
    page.locator(request).click()
    expect(page, "#overview-rows tr.inside").to_have_count(0)


def test_figures_and_legends_agree_and_name_their_window(
    open_page: OpenPage, spawn: Spawn, make_gate: MakeGate
) -> None:
    page = open_page()
    gate = make_gate(99)
    start(spawn, gate, "windows")
    expect(page, "#done").to_contain_text("99 of 100")
    for figure, legend in (("p50", 1), ("p95", 2), ("p99", 3)):
        pair = page.evaluate(
            "([figure, legend]) => [document.querySelector(figure).textContent,"
            " document.querySelector(legend).textContent]",
            [f"#{figure}", f"#latency-chart .key:nth-child({legend}) b"],
        )
        assert pair[0] == pair[1]
    expect(page, "#p99-window").to_have_text("so far")
    expect(page, "#latency-chart .when").to_contain_text("so far")
    expect(page, "#bound-text").to_contain_text("So far: ")
    gate.open.set()
    expect(page, "#p99-window").to_contain_text("whole batch")
    expect(page, "#bound-text").to_contain_text("Whole batch: ")
    expect(page, "#rate-chart .when").to_contain_text("whole batch")


def test_figures_of_a_window_name_it_and_failures_leave_it(
    open_page: OpenPage, spawn: Spawn, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_window(monkeypatch, 2.0)

    async def node(x: int) -> int:
        if x < 5:
            raise ValueError("early")
        await asyncio.sleep(0.02)
        return x

    page = open_page()
    processor = quiet(node, "window", 2)

    async def main() -> None:
        async with processor.batch_as_completed(range(1_000_000)) as stream:
            async for _ in stream:
                if release.is_set():
                    return

    spawn(main())
    for each in ("rate", "p99"):
        expect(page, f"#{each}-window").to_contain_text("last 2 s")
    expect(page, "#bound-text").to_contain_text("So far: ")
    for chart in ("rate", "latency", "bound"):
        expect(page, f"#{chart}-chart .when").to_contain_text("last 2 s")
    expect(page, "#failed-window").to_contain_text("so far")
    expect(page, "#status").to_have_text("running")
    expect(page, "#icon").to_have_attribute("href", "live/icon.svg")
    expect(page, "#failed").to_have_text(re.compile("^5 "))
    release.set()


def test_page_report_summary_log_and_top_give_the_same_advice(
    open_page: OpenPage, spawn: Spawn, server: TelemetryServer, caplog: pytest.LogCaptureFixture
) -> None:
    from click.testing import CliRunner

    from flowrt.cli.main import main as cli

    reports: list[Any] = []

    async def main() -> None:
        processor = flowrt.BatchProcessor(short_sleep, 2, rate_limit="50/s", name="advised")
        reports.append((await processor.batch(range(40))).report)

    page = open_page()
    with caplog.at_level("INFO", "flowrt"):
        spawn(main()).join(HANG_S)
    advice = reports[0].explanation
    assert advice.count(": ") == 1, "one advice"
    expect(page, "#bound-text").to_have_text(f"Whole batch: {advice}.")
    assert json.dumps(advice) in next(r.message for r in caplog.records if "batch.completed" in r.message)
    top = CliRunner().invoke(cli, ["top", server.url, "--once"]).output
    assert "".join(advice.split()) in "".join(top.split())
    for shown in (reports[0].text(), html.unescape(reports[0].html())):
        for clause in advice.split("; "):  # each is a sentence of its own there
            assert "".join(clause[1:].split()) in "".join(shown.split())


def test_latencies_that_spread_widely_have_a_log_scale(open_page: OpenPage, spawn: Spawn) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(1.5 if x == 7 else 0.001)
        return x

    page = open_page()
    spawn(quiet(node, "spread").batch(range(20)))  # so few that p99 is the slow item, even of a single sample
    expect(page, "#latency-chart .when").to_have_text("whole batch · log scale")
    for n in range(3):
        expect(page, f"#latency-chart .tick >> nth={n}").to_have_text(re.compile(r"^10*(\.0+)? (µs|ms|s)$"))


def test_stalls_of_one_cause_are_one_line(open_page: OpenPage, spawn: Spawn) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(0.01)
        if x in (5, 15, 25):
            time.sleep(0.8)  # blocks the loop on purpose
        return x

    async def main() -> None:
        async with flowrt.Runtime(log_level="CRITICAL", stall_after=0.2):
            await quiet(node, "stalled", 4).batch(range(40))

    page = open_page()
    spawn(main()).join(HANG_S)
    line = "#stall-list li:has-text('node node'):has-text('time.sleep(0.8)')"  # a busy machine may add stalls
    expect(page, line).to_contain_text(re.compile(r"[23] × up to "))  # its watchdog may miss one
    page.locator(f"{line} summary").click()
    expect(page, f"{line} pre").to_be_visible()


def test_page_and_top_show_workers_and_their_last_crash(
    open_page: OpenPage, spawn: Spawn, release: threading.Event, server: TelemetryServer, tmp_path: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from click.testing import CliRunner

    from flowrt.cli.main import main as cli

    items: list[dict[str, Any]] = [{"x": x, "log": str(tmp_path / "log")} for x in range(3)]
    items[1] |= {"dies": "exit status 3", "spares": 1}

    async def inputs() -> AsyncIterator[dict[str, Any]]:
        for item in items:
            yield item
        while not release.is_set():  # only a running batch learns that the crashed worker's successor is ready
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with flowrt.ProcessesExecutor(2) as executor:
            await quiet(maybe_die, "crashing", 2, executor=executor).batch(inputs())

    page = open_page(bypass_csp=True)
    spawn(main())
    expect(page, "#workers-note").to_contain_text("2 · 1 crash")
    expect(page, "#worker-rows tr:first-child").to_contain_text("1 crash")
    expect(page, "#worker-rows tr:first-child .kind").to_contain_text("exit status 3")
    expect(page, "#worker-rows tr:first-child").not_to_contain_text("not ready")
    page.locator("#worker-rows summary").click()
    expect(page, "#worker-rows pre").to_be_visible()
    expect(page, "#worker-rows pre").to_contain_text("about to leave")
    assert faults(Axe(), page) == []
    top = CliRunner().invoke(cli, ["top", server.url, "--once"])
    assert top.exit_code == 0
    assert re.search(r"w\d +\d+ .* MB +1 crash; exit status 3 at \d\d:\d\d:\d\d", top.output), top.output
    release.set()


def test_idle_page_has_an_example_that_runs(open_page: OpenPage, spawn: Spawn) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    expect(page, "#link-text").to_contain_text("live")
    stop_timers(page)
    page.locator("#example-host .copy").click()
    expect(page, "#example-host .copy").to_contain_text("copied")
    example = str(page.evaluate("navigator.clipboard.readText()"))
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example.partition("flowrt.run(")[0].replace("20_000", "20"), "example", "exec"), names)  # noqa: S102
    assert "flowrt.run(main(), metrics_port=9464)" in example
    spawn(names["main"]()).join(HANG_S)
    expect(page, "#done").to_contain_text("20 of 20")


def test_phone_shows_failures_and_trace_within_its_width(browser: Browser, spawn: Spawn, make_gate: MakeGate) -> None:
    trace_url = "https://jaeger.example.com/trace/{trace_id}?from=flowrt"
    server = TelemetryServer(0, token="horse", trace_url=trace_url, live_control=True)
    server.start()
    gate = make_gate(9)

    async def main() -> None:
        async with flowrt.Runtime(log_level="CRITICAL"):  # makes trace ids
            for number in range(5):
                await quiet(short_sleep, f"earlier {number}").batch([number])
            await quiet(gate, "traced").batch(range(10))

    try:
        credentials = {"username": "any", "password": "horse"}
        context = browser.new_context(viewport={"width": 390, "height": 844}, http_credentials=credentials)
        page = context.new_page()
        page.goto(server.url)
        spawn(main())
        expect(page, "#causes").to_contain_text("2 ×")
        expect(page, "#overview-rows").to_contain_text("earlier 0")
        expect(page, "#controls").to_contain_text("pause")
        href = re.compile(r"^https://jaeger\.example\.com/trace/[0-9a-f]{32}\?from=flowrt$")
        expect(page, "#causes .trace a").to_have_attribute("href", href)
        expect(page, "#causes .trace a").to_have_attribute("rel", "noopener noreferrer")
        for box in boxes(page, "#failed", "#causes .cause", "#causes .trace a"):
            assert 0 <= box["left"] < box["right"] <= 390
            assert box["top"] < 844, "on the first screen"
        gate.open.set()
        context.close()
    finally:
        server.stop()


@pytest.fixture
def open_controlled(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page of a server with a token and `live_control=True`."""
    server = TelemetryServer(0, token="horse", live_control=True)
    server.start()
    contexts: list[Any] = []

    def open_controlled(**settings: Any) -> Page:
        context = browser.new_context(http_credentials={"username": "any", "password": "horse"}, **settings)
        context.set_default_timeout(HANG_S * 1000)
        contexts.append(context)
        page = context.new_page()
        page.goto(server.url)
        return page

    yield open_controlled
    for context in contexts:
        context.close()
    server.stop()


async def short_sleep(x: int) -> int:
    await asyncio.sleep(0.02)
    return x


def test_page_drains_and_cancels_a_batch(open_controlled: Callable[..., Page], spawn: Spawn) -> None:
    page = open_controlled()
    draining = spawn(quiet(short_sleep, "draining", 2).batch(range(100_000)))
    expect(page, "#name").to_contain_text("draining")
    page.locator("#controls button", has_text="drain").click()
    expect(page, "#control-note").to_contain_text("drain requested")
    draining.join(HANG_S)
    expect(page, "#status").to_contain_text("cancelled")
    cancelling = spawn(quiet(short_sleep, "cancelling", 2).batch(range(100_000)))
    expect(page, "#name").to_contain_text("cancelling")
    stop_timers(page)  # the second press must come within 5 s
    button = "#controls button:text('cancel')"
    page.locator(button).click()
    expect(page, button).to_have_text("cancel cancelling?")
    page.clock.run_for(6_000)
    expect(page, button).to_have_text("cancel")
    page.locator(button).click()
    page.locator(button).click()
    cancelling.join(HANG_S)
    assert not cancelling.is_alive()
    expect(page, "#controls button").to_have_count(0)


def test_page_pauses_and_resumes_a_batch_with_the_keyboard(open_controlled: Callable[..., Page], spawn: Spawn) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_controlled(bypass_csp=True)
    items: list[int] = []

    async def node(x: int) -> int:
        items.append(x)
        return await short_sleep(x)

    def press(action: str) -> None:
        """Press the button that has the focus, as a screen reader's user would."""
        expect(page, "#controls button:focus").to_have_text(action)
        page.keyboard.press("Enter")
        expect(page, "#announce").to_contain_text(f"paused: {action} requested")

    thread = spawn(quiet(node, "paused", 2).batch(range(100_000)))
    expect(page, "#name").to_contain_text("paused")
    expect(page, "#controls").to_contain_text("pause")
    expect(page, "#controls button").to_have_text(["pause", "drain", "cancel"])
    page.locator("#controls button").first.focus()
    press("pause")
    expect(page, "#status").to_contain_text("paused")
    expect(page, "#inflight").to_have_text("0 of 2")
    started = len(items)
    expect_title(page, "paused · paused · flowrt")
    expect(page, "#elapsed").to_contain_text(", paused for ")
    expect(page, "#bound-chart .legend").to_contain_text("Paused")
    expect(page, "#eta").to_have_text("")
    expect(page, "#controls").to_contain_text("resume")
    assert faults(Axe(), page) == []
    assert len(items) == started, "an item started during the pause"
    press("resume")
    expect(page, "#status").to_contain_text("running")
    expect(page, "#controls").to_contain_text("pause")
    press("pause")
    expect(page, "#status").to_contain_text("paused")
    page.keyboard.press("Tab")  # drain
    press("drain")
    thread.join(HANG_S)
    expect(page, "#status").to_contain_text("stopped")
    assert len(items) < 100_000


def test_page_has_no_controls_by_default(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    gate = make_gate(1)
    start(spawn, gate, "plain", 2)
    expect(page, "#name").to_contain_text("plain")
    assert page.locator("#controls button").count() == 0
    gate.open.set()


def test_tab_order_follows_the_page(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    start(spawn, make_gate(-1), "first", 10).join(HANG_S)
    gate = make_gate(99)
    start(spawn, gate, "second")
    expect(page, "#done").to_contain_text("99 of 100")
    expect(page, "#overview-rows").to_contain_text("first")
    page.evaluate("() => { window.reached = []; }")
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate(
            "() => { const at = document.activeElement; window.reached.push(at);"
            " return [at.tagName, at.textContent.slice(0, 20) || at.id, getComputedStyle(at).outlineStyle]; }"
        )
        if at[0] == "BODY":
            break
        assert at[2] != "none", f"{at[:2]} shows no focus"
        reached.append(f"{at[0]} {at[1]}")
    assert reached[0].startswith("A Skip")
    for wanted in ("BUTTON Theme", "BUTTON second", "BUTTON first", "BUTTON copy", "SUMMARY Last failed", "SUMMARY "):
        assert any(each.startswith(wanted) for each in reached), (wanted, reached)
    # all at one moment: between two presses, new figures may move the page's content
    tops = page.evaluate("() => window.reached.map(at => at.getBoundingClientRect().top)")
    ordered = [top for each, top in zip(reached, tops, strict=False) if each.startswith(("BUTTON second", "svg"))]
    assert len(ordered) == 5
    assert ordered == sorted(ordered)
    gate.open.set()

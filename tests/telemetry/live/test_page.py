"""Live page in a real browser: its figures equal the counters, and no text on it can run anything."""

from __future__ import annotations

import asyncio
import html
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

import flowrt
from flowrt.server import TelemetryServer
from flowrt.telemetry.live import LIVE
from tests.executors.worker_nodes import maybe_die
from tests.telemetry.live.conftest import HANG_S, Spawn

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("browser")]

HOSTILE = "</script><img src=x onerror=\"document.body.dataset.hit='1'\"><b>bold</b>"
CANARY = "canary-5f0e9d8c7b6a4321"

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


def wait_for(page: Page, selector: str, text: str) -> None:
    page.wait_for_function(
        "([selector, text]) => { const at = document.querySelector(selector);"
        " return at !== null && at.textContent.includes(text); }",
        arg=[selector, text],
    )


def text_of(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


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
    wait_for(page, "#idle h2", "No batch yet")
    gate = make_gate(99)
    thread = start(spawn, gate, "numbers")
    wait_for(page, "#done", "99 of 100 items, 99 %")
    assert (counter("numbers", "ok"), counter("numbers", "failed")) == (79, 20)
    assert text_of(page, "#name") == "numbers"
    assert text_of(page, "#status") == "running, 20 % failing"
    assert text_of(page, "#failed") == "20 20 %"
    assert page.title() == "20 % failing · numbers · flowrt"
    assert text_of(page, "#inflight") == "1 of 10"
    assert page.locator("#bar").get_attribute("aria-valuenow") == "99"
    assert text_of(page, "#causes .times") == "20 ×"
    wait_for(page, "#running-items", "Gate.wait")
    assert text_of(page, "#running-items td:first-child") == "99"
    gate.open.set()
    thread.join(HANG_S)
    wait_for(page, "#status", "finished, 20 % failed")
    assert text_of(page, "#done") == "100 of 100 items, 100 %"
    assert counter("numbers", "ok") + counter("numbers", "failed") == 100
    assert text_of(page, "#announce") == "numbers has ended: 100 items, 20 failed"
    assert page.title() == "100 % numbers · flowrt"
    server.stop()
    wait_for(page, "#link-text", "no connection; as of")
    assert text_of(page, "#done") == "100 of 100 items, 100 %"


def test_27_script_in_an_error_text_is_shown_as_text(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    gate = make_gate(-1)
    name = f"{HOSTILE}\u202e"
    kind = type("Bad<img src=x onerror=alert(1)>", (Exception,), {})

    async def node(x: int) -> int:
        raise kind(f"{HOSTILE} {x}\x00\udc80")

    spawn(flowrt.BatchProcessor(flowrt.FunctionNode(node, node_id=HOSTILE), 2, name=name).batch([1, 2])).join(HANG_S)
    start(spawn, gate, HOSTILE, 10).join(HANG_S)
    wait_for(page, "#failed-items .text", f"{HOSTILE} 8")
    page.locator("#overview .choose").nth(1).click()
    wait_for(page, "#failed-items .kind", "Bad<img src=x onerror=alert(1)>")
    wait_for(page, "#causes .kind", "Bad<img src=x onerror=alert(1)>")
    assert text_of(page, "#name").startswith(HOSTILE)
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
    page.wait_for_timeout(100)
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
    wait_for(page, "#done", "59 of 60")
    points = page.locator("#rate-chart path.series").first.get_attribute("d")
    assert points is not None
    assert points.count("L") >= 3
    assert page.locator("#rate-chart .tick").nth(3).text_content() == "0 s"
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
    wait_for(page, "#name", "blocked")
    wait_for(page, "#done", "3 of 10")
    before = text_of(page, "#elapsed")
    page.wait_for_function("before => document.querySelector('#elapsed').textContent !== before", arg=before)
    release.set()
    thread.join(HANG_S)
    wait_for(page, "#status", "finished")


def test_page_reconnects_when_the_process_restarts(open_page: OpenPage, server: TelemetryServer) -> None:
    page = open_page(quiet=False)
    wait_for(page, "#link-text", "live")
    server.stop()
    wait_for(page, "#link-text", "no connection")
    again = TelemetryServer(server.port)
    again.start()
    try:
        wait_for(page, "#link-text", "live")
        assert text_of(page, "#link-text").startswith("live")
    finally:
        again.stop()


def test_browser_signs_in_with_the_token_as_password(browser: Browser, spawn: Spawn) -> None:
    server = TelemetryServer(0, token="horse")
    server.start()
    try:
        context = browser.new_context(http_credentials={"username": "anybody", "password": "horse"})
        page = context.new_page()
        page.goto(server.url)
        wait_for(page, "#link-text", "live")
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
    wait_for(page, "#failed-items", "KeyError")
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
    wait_for(page, "#overview-rows", "axe first")
    wait_for(page, "#done", "99 of 100")
    wait_for(page, "#running-items", "Gate.wait")
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
    wait_for(page, "#status", "finished")
    assert faults(Axe(), page) == []


def test_axe_finds_no_fault_on_the_idle_page(open_page: OpenPage) -> None:
    from axe_playwright_python.sync_playwright import Axe

    assert faults(Axe(), open_page(bypass_csp=True)) == []


def test_charts_are_readable_with_the_keyboard(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    gate = make_gate(99)
    start(spawn, gate, "keys")
    wait_for(page, "#done", "99 of 100")
    page.wait_for_timeout(1_200)
    chart = page.locator("#latency-chart svg")
    label = chart.get_attribute("aria-label") or ""
    assert re.search(r"Latency of items\. So far: p50 .+, p95 .+, p99 .+", label)
    chart.focus()
    page.keyboard.press("Home")
    assert "At 0 " in (chart.get_attribute("aria-label") or "")
    deadline = time.monotonic() + HANG_S
    while not re.search(r"At [\d.]+ m?s", label := chart.get_attribute("aria-label") or ""):
        assert time.monotonic() < deadline, label
        page.wait_for_timeout(200)  # a busy machine may have sampled only the start
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert "So far" in (chart.get_attribute("aria-label") or "")
    gate.open.set()


def test_chosen_theme_is_remembered(open_page: OpenPage) -> None:
    page = open_page(color_scheme="light")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    light = ground()
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert text_of(page, "#theme") == "Theme: dark"
    dark = ground()
    assert dark != light
    page.reload()
    assert ground() == dark


def test_error_can_be_copied(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    gate = make_gate(-1)
    start(spawn, gate, "copied", 4).join(HANG_S)
    wait_for(page, "#failed-items", "ValueError")
    page.locator("#causes .copy", has_text="copy error").click()
    wait_for(page, "#causes", "copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"item 3: ValueError: {HOSTILE} 3"


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
    wait_for(page, "#overview-rows", "calm")
    wait_for(page, "#overview-rows tr:first-child", "90 % failing")
    wait_for(page, "#status", "running, 90 % failing")
    assert text_of(page, "#overview-rows tr:first-child th").startswith("failing")
    assert text_of(page, "#name") == "failing"
    assert page.title() == "90 % failing · failing · flowrt"
    assert page.locator("#icon").get_attribute("href") == "live/icon-failing.svg"
    assert text_of(page, ".figures div:first-child dt").startswith("Failed")
    assert page.evaluate("getComputedStyle(document.querySelector('#status')).backgroundColor") == "rgb(179, 38, 30)"
    assert text_of(page, "#causes").count("×") == 1, "failures of one cause are one entry"
    assert "no answer from N" in text_of(page, "#causes .cause")
    failures, bound = boxes(page, "#failures", "#bound-chart")
    assert failures["top"] < bound["top"]
    page.locator(".choose", has_text="calm").click()
    assert text_of(page, "#name") == "calm"
    assert text_of(page, "#status") == "running"
    release.set()
    calm.open.set()
    page.wait_for_function("() => document.querySelector('#icon').getAttribute('href') === 'live/icon.svg'")


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
    wait_for(page, "#overview-note", "201 active · 2 names")
    assert page.locator("#overview-rows tr").count() == 2
    request = page.locator(".choose[aria-expanded]", has_text="request")
    assert request.get_attribute("aria-expanded") == "false"
    request.click()
    assert request.get_attribute("aria-expanded") == "true"
    assert page.locator("#overview-rows tr.inside").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    release.set()
    wait_for(page, "#overview-rows", "200 ended")
    request.click()
    assert page.locator("#overview-rows tr.inside").count() == 0


def test_figures_and_legends_agree_and_name_their_window(
    open_page: OpenPage, spawn: Spawn, make_gate: MakeGate
) -> None:
    page = open_page()
    gate = make_gate(99)
    start(spawn, gate, "windows")
    wait_for(page, "#done", "99 of 100")
    for figure, legend in (("p50", 1), ("p95", 2), ("p99", 3)):
        pair = page.evaluate(
            "([figure, legend]) => [document.querySelector(figure).textContent,"
            " document.querySelector(legend).textContent]",
            [f"#{figure}", f"#latency-chart .key:nth-child({legend}) b"],
        )
        assert pair[0] == pair[1]
    assert text_of(page, "#p99-window") == "so far"
    assert "so far" in text_of(page, "#latency-chart .when")
    assert text_of(page, "#bound-text").startswith("So far: ")
    gate.open.set()
    wait_for(page, "#p99-window", "whole batch")
    wait_for(page, "#bound-text", "Whole batch: ")
    wait_for(page, "#rate-chart .when", "whole batch")


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
        wait_for(page, f"#{each}-window", "last 2 s")
    wait_for(page, "#bound-text", "So far: ")
    for chart in ("rate", "latency", "bound"):
        wait_for(page, f"#{chart}-chart .when", "last 2 s")
    wait_for(page, "#failed-window", "so far")
    wait_for(page, "#failed", "5 ")
    page.wait_for_function("() => document.querySelector('#status').textContent === 'running'")
    page.wait_for_function("() => document.querySelector('#icon').getAttribute('href') === 'live/icon.svg'")
    assert str(page.text_content("#failed")).startswith("5 ")
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
    wait_for(page, "#bound-text", "Whole batch")
    assert text_of(page, "#bound-text") == f"Whole batch: {advice}."
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
    spawn(quiet(node, "spread").batch(range(100))).join(HANG_S)
    wait_for(page, "#latency-chart .when", "log scale")
    ticks = page.locator("#latency-chart .tick").all_text_contents()
    assert "1.00 s" in ticks
    assert "100 ms" in ticks


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
    wait_for(page, "#stall-list", " × up to ")  # 3 times, unless the watchdog of a busy machine misses one
    line = page.locator("#stall-list li", has_text="node node")
    assert re.search(r"[23] × up to ", line.inner_text())
    line.locator("summary").click()
    assert "time.sleep(0.8)" in line.locator("pre").inner_text()


def test_page_and_top_show_workers_and_their_last_crash(
    open_page: OpenPage, spawn: Spawn, release: threading.Event, server: TelemetryServer, tmp_path: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from click.testing import CliRunner

    from flowrt.cli.main import main as cli

    items: list[dict[str, Any]] = [{"x": x, "log": str(tmp_path / "log")} for x in range(3)]
    items[1] |= {"dies": "exit status 3", "spares": 1}

    async def main() -> None:
        async with flowrt.ProcessesExecutor(2) as executor:
            await quiet(maybe_die, "crashing", 2, executor=executor).batch(items)
            while not release.is_set():
                await asyncio.sleep(0.05)

    page = open_page(bypass_csp=True)
    spawn(main())
    wait_for(page, "#workers-note", "2 · 1 crash")
    wait_for(page, "#worker-rows tr:first-child", "1 crash")
    wait_for(page, "#worker-rows tr:first-child .kind", "exit status 3")
    page.locator("#worker-rows summary").click()
    assert "about to leave" in page.locator("#worker-rows pre").inner_text()
    assert faults(Axe(), page) == []
    top = CliRunner().invoke(cli, ["top", server.url, "--once"])
    assert top.exit_code == 0
    assert re.search(r"w\d +\d+ .* MB +1 crash; exit status 3 at \d\d:\d\d:\d\d", top.output), top.output
    release.set()


def test_idle_page_has_an_example_that_runs(open_page: OpenPage, spawn: Spawn) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    wait_for(page, "#link-text", "live")
    page.locator("#example-host .copy").click()
    wait_for(page, "#example-host .copy", "copied")
    example = str(page.evaluate("navigator.clipboard.readText()"))
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example.partition("flowrt.run(")[0].replace("20_000", "20"), "example", "exec"), names)  # noqa: S102
    assert "flowrt.run(main(), metrics_port=9464)" in example
    spawn(names["main"]()).join(HANG_S)
    wait_for(page, "#done", "20 of 20")


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
        wait_for(page, "#causes", "2 ×")
        wait_for(page, "#overview-rows", "earlier 0")
        wait_for(page, "#controls", "pause")
        link = page.locator("#causes .trace a")
        href = link.get_attribute("href") or ""
        assert re.fullmatch(r"https://jaeger\.example\.com/trace/[0-9a-f]{32}\?from=flowrt", href)
        assert link.get_attribute("rel") == "noopener noreferrer"
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
    wait_for(page, "#name", "draining")
    page.locator("#controls button", has_text="drain").click()
    wait_for(page, "#control-note", "drain requested")
    draining.join(HANG_S)
    wait_for(page, "#status", "cancelled")
    cancelling = spawn(quiet(short_sleep, "cancelling", 2).batch(range(100_000)))
    wait_for(page, "#name", "cancelling")
    button = page.locator("#controls button", has_text="cancel")
    button.click()
    assert button.text_content() == "cancel cancelling?"
    button.click()
    cancelling.join(HANG_S)
    assert not cancelling.is_alive()
    page.wait_for_function("() => document.querySelectorAll('#controls button').length === 0")


def test_page_pauses_and_resumes_a_batch_with_the_keyboard(open_controlled: Callable[..., Page], spawn: Spawn) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_controlled(bypass_csp=True)
    items: list[int] = []

    async def node(x: int) -> int:
        items.append(x)
        return await short_sleep(x)

    def press(action: str) -> None:
        """Press the button that has the focus, as a screen reader's user would."""
        assert page.evaluate("document.activeElement.textContent") == action
        page.keyboard.press("Enter")
        wait_for(page, "#announce", f"paused: {action} requested")

    thread = spawn(quiet(node, "paused", 2).batch(range(100_000)))
    wait_for(page, "#name", "paused")
    wait_for(page, "#controls", "pause")
    buttons = page.locator("#controls button")
    assert buttons.all_text_contents() == ["pause", "drain", "cancel"]
    buttons.first.focus()
    press("pause")
    wait_for(page, "#status", "paused")
    wait_for(page, "#inflight", "0 of 2")
    started = len(items)
    assert page.title() == "paused · paused · flowrt"
    wait_for(page, "#elapsed", ", paused for ")
    wait_for(page, "#bound-chart .legend", "Paused")
    assert text_of(page, "#eta") == ""
    wait_for(page, "#controls", "resume")
    assert faults(Axe(), page) == []
    assert len(items) == started, "an item started during the pause"
    press("resume")
    wait_for(page, "#status", "running")
    wait_for(page, "#controls", "pause")
    press("pause")
    wait_for(page, "#status", "paused")
    page.keyboard.press("Tab")  # drain
    press("drain")
    thread.join(HANG_S)
    wait_for(page, "#status", "stopped")
    assert len(items) < 100_000


def test_page_has_no_controls_by_default(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    gate = make_gate(1)
    start(spawn, gate, "plain", 2)
    wait_for(page, "#name", "plain")
    assert page.locator("#controls button").count() == 0
    gate.open.set()


def test_tab_order_follows_the_page(open_page: OpenPage, spawn: Spawn, make_gate: MakeGate) -> None:
    page = open_page()
    start(spawn, make_gate(-1), "first", 10).join(HANG_S)
    gate = make_gate(99)
    start(spawn, gate, "second")
    wait_for(page, "#done", "99 of 100")
    wait_for(page, "#overview-rows", "first")
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

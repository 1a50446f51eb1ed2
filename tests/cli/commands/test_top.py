"""`flowrt top` against a real server, a restarting one, and none."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

import flowrt
from flowrt.cli.commands.top_client import Answer, Source
from flowrt.cli.commands.top_view import View
from flowrt.cli.main import main
from flowrt.server import TelemetryServer

HANG_S = 20.0


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    server = TelemetryServer(0)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


async def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(f"odd \x1b[31m{x}\nnext")
    return x


def drawn(view: View, width: int = 120, height: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, height=height or 50, force_terminal=True, color_system=None)
    console.print(view.render(width, height))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_once_prints_the_state_and_exits(server: TelemetryServer) -> None:
    asyncio.run(flowrt.BatchProcessor(odd_fails, name="seen").batch(range(10)))
    done = CliRunner().invoke(main, ["top", server.url, "--once"], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert "seen  failed" in done.output
    assert "10 of 10 items, 100%" in done.output
    assert "5 failed (50%)" in done.output
    assert "5 × ValueError: odd  [NmN; next" in done.output
    assert "failures: ValueError 5" in done.output
    assert "\x1b[31m" not in done.output
    assert "odd  [31m9; next" in done.output


def test_top_without_a_terminal_prints_once(server: TelemetryServer) -> None:
    assert CliRunner().invoke(main, ["top", server.url]).output.startswith("flowrt top http://127.0.0.1:")


def test_running_batch_fits_any_terminal_size(server: TelemetryServer, stack: contextlib.ExitStack) -> None:
    release = threading.Event()

    async def node(x: int) -> int:
        while x >= 5 and not release.is_set():
            await asyncio.sleep(0.01)
        return x

    thread = threading.Thread(target=lambda: asyncio.run(flowrt.BatchProcessor(node, 3, name="going").batch(range(50))))
    thread.start()
    try:
        source = stack.enter_context(Source(server.url))
        view = View(server.url)
        deadline = time.monotonic() + HANG_S
        while True:
            view.update(source.ask())
            text = drawn(view)
            if "5 of 50 items" in text and "3 of 3 in flight" in text and "node test_top.py" in text:
                break
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        assert "in flight, oldest first" in text
        for width, height in ((200, 60), (80, 24), (40, 10), (20, 5)):
            lines = drawn(view, width, height).splitlines()
            assert all(len(line) <= width for line in lines)
    finally:
        release.set()
        thread.join(HANG_S)


def test_keys_select_a_batch() -> None:
    view = View("http://x")
    batches = [state(name) for name in ("one", "two", "three")]
    view.update(Answer({"process": PROCESS, "batches": batches}))
    assert "three  ok" in drawn(view)
    view.press("n")
    assert "two  ok" in drawn(view)
    view.press("p")
    view.press("p")
    assert "one  ok" in drawn(view)
    view.press("a")
    assert "three  ok" in drawn(view)


PROCESS = {"pid": 1, "cpu": 0.1, "rss_bytes": 1_000_000, "lag_s": 0.001}


def state(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "status": "ok",
        "started_s": float(len(name) + (name == "two")),
        "elapsed_s": 1.0,
        "expected": None,
        "completed": 3,
        "counts": {"ok": 3, "failed": 0, "timed_out": 0, "cancelled": 0, "resumed": 0},
        "rate": 3.0,
        "eta_s": None,
        "latency": {"p50": 0.1, "p95": None, "p99": None},
        "inflight": 0,
        "limit": 3,
        "queued": 0,
        "bound_s": {"slots": 0.5, "tail": 0.5},
        "errors": {},
        "failures": [],
        "running": [],
        "history": [[0.1 * i, i, 0, 0, 3, 0, None, None, None, []] for i in range(4)],
    }


def test_top_reconnects_after_a_restart_and_keeps_the_last_state(
    server: TelemetryServer, stack: contextlib.ExitStack
) -> None:
    asyncio.run(flowrt.BatchProcessor(odd_fails, name="kept").batch([2]))
    source = stack.enter_context(Source(server.url))
    view = View(server.url)
    view.update(source.ask())
    server.stop()
    gone = source.ask()
    assert (gone.state, gone.refused) == (None, False)
    view.update(gone)
    text = drawn(view)
    assert "Connection refused; retrying, as of" in text
    assert "kept  ok" in text
    again = TelemetryServer(server.port)
    again.start()
    try:
        assert source.ask().state is not None
    finally:
        again.stop()


def test_missing_server_exits_1_and_a_wrong_token_exits_2() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = CliRunner().invoke(main, ["top", f"127.0.0.1:{unused.getsockname()[1]}", "--once"])
    assert (done.exit_code, "Connection refused" in done.output) == (1, True)
    server = TelemetryServer(0, token="horse")
    server.start()
    try:
        for token, said in ((None, "the server requires a token"), ("mule", "the token is wrong")):
            done = CliRunner().invoke(main, ["top", server.url, "--once"], env={"FLOWRT_METRICS_TOKEN": token})
            assert (done.exit_code, said in done.output) == (2, True), done.output
        done = CliRunner().invoke(main, ["top", server.url, "--once", "--token", "horse"])
        assert done.exit_code == 0
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "http://[x", ""])
def test_invalid_url_exits_2(url: str) -> None:
    done = CliRunner().invoke(main, ["top", url, "--once"])
    assert done.exit_code == 2, done.output
    assert "pass for example http://127.0.0.1:9464" in done.output


def test_server_that_is_not_flowrt_is_reported() -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    server = TelemetryServer(0, app=other)
    server.start()
    try:
        done = CliRunner().invoke(main, ["top", server.url, "--once"])
        assert (done.exit_code, "the server is not a flowrt process" in done.output) == (2, True)
    finally:
        server.stop()


def test_top_on_a_terminal_draws_until_q_is_pressed(server: TelemetryServer) -> None:
    pty = pytest.importorskip("pty")
    pid, terminal = pty.fork()
    if pid == 0:
        code = f"from flowrt.cli.main import main; main(['top', {server.url!r}])"
        os.execv(sys.executable, [sys.executable, "-c", code])  # noqa: S606  # this interpreter
    seen = b""
    deadline = time.monotonic() + HANG_S
    while b"no batch yet" not in seen and time.monotonic() < deadline:
        seen += os.read(terminal, 65_536)
    os.write(terminal, b"q")
    while time.monotonic() < deadline:
        try:
            if not os.read(terminal, 65_536):
                break
        except OSError:  # Linux raises it when the other side is closed
            break
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert b"no batch yet" in seen
    assert os.waitstatus_to_exitcode(status) == 0


def running(name: str, started_s: float, failed: int, **more: Any) -> dict[str, Any]:
    counts = {"ok": 100 - failed, "failed": failed, "timed_out": 0, "cancelled": 0, "resumed": 0}
    cause = {"count": failed, "type": "ConnectionError", "text": "no answer from N", "trace_id": "ab12"}
    made = {
        "status": "running",
        "started_s": started_s,
        "completed": 100,
        "counts": counts,
        "causes": [cause] * bool(failed),
    }
    return {**state(name), **made, **more}


def test_failing_batch_is_shown_first_with_failures_near_the_head() -> None:
    view = View("http://x")
    batches = [running("bad", 1.0, 90), running("good", 2.0, 0)]
    url = "https://jaeger.example.com/trace/{trace_id}"
    view.update(Answer({"process": PROCESS, "batches": batches}, trace_url=url))
    lines = [line for line in drawn(view, 80).splitlines() if line.strip()]
    at = next(i for i, line in enumerate(lines) if line.startswith("bad"))
    assert "90 failed (90%)" in lines[at]
    assert "90 × ConnectionError: no answer from N" in lines[at + 2]
    assert "https://jaeger.example.com/trace/ab12" in lines[at + 3]
    assert all(len(line) <= 80 for line in lines)


def test_lag_is_shown_as_the_bound_of_a_bucket() -> None:
    view = View("http://x")
    view.update(Answer({"process": {**PROCESS, "lag_s": 0.5}, "batches": []}))
    assert "lag ≤ 500 ms" in drawn(view)
    view.update(Answer({"process": {**PROCESS, "lag_s": 2.5}, "batches": []}))
    assert "lag ≤ 2.5 s" in drawn(view)


def test_stalls_of_the_loop_are_in_the_head() -> None:
    view = View("http://x")
    view.update(Answer({"process": {**PROCESS, "stalls": 1_112}, "batches": []}))
    assert "1,112 loop stalls" in drawn(view, 120)
    view.update(Answer({"process": {**PROCESS, "stalls": 1}, "batches": []}))
    assert "1 loop stall  lag" in drawn(view, 120)
    view.update(Answer({"process": {**PROCESS, "stalls": 0}, "batches": []}))
    assert "stall" not in drawn(view, 120)


def test_no_line_ends_after_its_label() -> None:
    stall = {"count": 3, "longest_s": 0.3, "garbage_collection": False, "stack": "", "node": None}
    view = View("http://x")
    batch = running("new", 1.0, 0, bound_s={}, history=[], stall_groups=[stall])
    view.update(Answer({"process": PROCESS, "batches": [batch]}))
    text = drawn(view)
    assert "bound by nothing yet" in text
    assert "rate     not enough samples yet" in text
    view.update(Answer({"process": PROCESS, "batches": [{**batch, "status": "ok"}]}))
    assert "rate     ended too soon for a chart" in drawn(view)
    assert "blocked for 3 × up to 300.00 ms: cause unknown" in text
    assert not [line for line in text.splitlines() if line.rstrip().endswith(":")]


@pytest.mark.parametrize(
    "change",
    [
        {"status": None, "counts": None},
        {"latency": []},
        {"bound_s": {"slots": "much"}},
        {"history": [[1], [2], [3]]},
        {"failures": ["none"]},
        {"running": [{"places": 3}]},
        {"causes": 7},
    ],
)
def test_odd_answer_keeps_the_last_state(change: dict[str, Any]) -> None:
    view = View("http://x")
    view.update(Answer({"process": PROCESS, "batches": [running("known", 1.0, 0)]}))
    view.update(Answer({"process": PROCESS, "batches": [running("odd", 1.0, 9, **change)]}))
    text = drawn(view)
    assert "known  running" in text
    assert "the server's answer is not understood" in text
    view.update(Answer({"process": {}, "batches": ["no"]}))
    assert "known  running" in drawn(view)


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{}", b"[]", b"3", b"\xff", b'{"process": {}, "batches": 3}'])
def test_malformed_json_is_not_flowrt(body: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})

    server = TelemetryServer(0, app=app)
    server.start()
    try:
        with Source(server.url) as source:
            assert source.ask() == Answer(problem="the server is not a flowrt process", refused=True)
    finally:
        server.stop()


def test_client_gets_the_trace_template_once() -> None:
    url = "https://jaeger.example.com/trace/{trace_id}"
    server = TelemetryServer(0, trace_url=url)
    server.start()
    try:
        with Source(server.url) as source:
            assert [source.ask().trace_url for _ in range(2)] == [url, url]
    finally:
        server.stop()


def group(name: str, active: int, **more: Any) -> dict[str, Any]:
    ended = {"ok": 3, "failed": 1, "cancelled": 0}
    figures = {"item_rate": 6.25, "failing": 0.0, "p95_s": 79.0, "oldest_s": time.time() - 90}
    return {"name": name, "active": active, "ended": ended, **figures, **more}


def test_many_batches_are_a_table_of_their_names() -> None:
    view = View("http://x")
    batches = [running("request", float(i), 0, id=str(i)) for i in range(6)]
    groups = [
        group("nightly\x1b[31m", 1, failing=0.5),
        group("request", 1_000),
        group("old", 0),
    ]
    view.update(Answer({"process": PROCESS, "batches": batches, "groups": groups}))
    lines = [" ".join(line.split()) for line in drawn(view).splitlines()]
    at = lines.index("1,001 active, 2 names")
    assert lines[at + 1] == "name active ended items/s failing p95 oldest"
    assert lines[at + 2].startswith("nightly [31m 1 4 6.2 50% 79.00 s 9")
    assert lines[at + 3].startswith("request 1,000 4 6.2 0% 79.00 s 9")
    assert not any(line.startswith("old ") for line in lines)


@pytest.mark.parametrize(("height", "rows"), [(None, 8), (60, 8), (24, 2)])
def test_table_of_names_is_bounded(height: int | None, rows: int) -> None:
    view = View("http://x")
    groups = [group(f"name-{i}", 2) for i in range(50)]
    answer = {"process": PROCESS, "batches": [running("one", 1.0, 0)], "groups": groups, "groups_left": 58}
    view.update(Answer(answer))
    text = drawn(view, 100, height)
    assert text.count("name-") == rows
    assert f"100 active, 108 names, {108 - rows} not shown" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_active_batches_of_different_names_need_no_table() -> None:
    view = View("http://x")
    groups = [group("one", 1), {"name": "older version", "active": 1}]
    view.update(Answer({"process": PROCESS, "batches": [running("one", 1.0, 0)], "groups": groups}))
    assert " active" not in drawn(view)
    view.update(
        Answer({"process": PROCESS, "batches": [running("one", 1.0, 0)], "groups": [{"name": "x", "active": 2}]})
    )
    assert "2 active, 1 name " in drawn(view)


def test_many_active_names_are_a_table_though_each_has_one_batch() -> None:
    view = View("http://x")
    groups = [group(f"tenant-{i}", 1) for i in range(50)]
    answer = {"process": PROCESS, "batches": [running("one", 1.0, 0)], "groups": groups, "groups_left": 950}
    view.update(Answer({**answer, "active": 1_000, "active_names": 1_000}))
    assert "1,000 active, 1,000 names, 992 not shown" in drawn(view)
    others = [group("(other names)", 800), *groups]
    view.update(Answer({**answer, "groups": others, "active": 1_000, "active_names": 1_000}))
    assert "1,000 active, 1,000 names, 993 not shown" in drawn(view)


@pytest.mark.parametrize(
    ("more", "shown"),
    [({"in_use": True}, "not ready"), ({"in_use": False}, "ready at next batch"), ({}, "not ready")],
)
def test_worker_that_waits_for_a_batch_to_become_ready_says_so(more: dict[str, bool], shown: str) -> None:
    worker = {
        "slot": "w0", "pid": 7, "host": "h", "ready": False, "busy": None, "inflight": 0,
        "rss_bytes": 0, "restarts": {}, "last_crash": None, **more,
    }  # fmt: skip
    view = View("http://x")
    view.update(Answer({"process": PROCESS, "batches": [running("one", 1.0, 0)], "workers": [worker]}))
    (line,) = [line for line in drawn(view, 80).splitlines() if line.startswith("w0")]
    assert line.split("h", 1)[1].split("0 ")[0].strip() == shown


def test_title_of_a_narrow_screen_keeps_the_stalls_and_the_lag() -> None:
    view = View("http://127.0.0.1:9464")
    process = {"pid": 1_234_567, "cpu": 0.9, "rss_bytes": 1_234_000_000, "lag_s": 2.5, "stalls": 1_240}
    view.update(Answer({"process": process, "batches": [running("one", 1.0, 0)]}))
    (title, *_) = drawn(view, 80).splitlines()
    assert "1,240 loop stalls  lag ≤ 2.5 s" in title
    assert len(title) <= 80


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_causes_that_bound_the_batch_are_not_torn_apart(width: int) -> None:
    view = View("http://x")
    causes = {"slots": 50.0, "rate_limit": 20.0, "loop_blocked": 15.0, "tail": 10.0, "service": 5.0}
    view.update(Answer({"process": PROCESS, "batches": [running("one", 1.0, 0, bound_s=causes)]}))
    lines = drawn(view, width).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("bound by"))
    assert lines[at].count("█") >= 10
    shown = lines[at : at + 3]
    for cause in ("50% slots busy", "20% rate limit", "15% loop blocked", "10% tail", "5% service"):
        assert sum(cause in line for line in shown) == 1, shown
    assert all(len(line) <= width for line in shown)


def test_line_of_another_batch_says_how_it_is_and_how_old() -> None:
    view = View("http://x")
    batches = [running("latest", 9.0, 0), running("failing", 1.0, 6), running("older", 2.0, 0, elapsed_s=75.0)]
    view.update(Answer({"process": PROCESS, "batches": batches}))
    lines = drawn(view, 80).splitlines()
    assert "  running latest: 100 items, 1.00 s" in [line.rstrip() for line in lines]
    assert "  running older: 100 items, 75.00 s" in [line.rstrip() for line in lines]
    batches.append(running("worse", 3.0, 9))
    view.update(Answer({"process": PROCESS, "batches": batches}))
    assert "  running failing: 100 items, 1.00 s, 6 failed (6%)" in [
        line.rstrip() for line in drawn(view, 80).splitlines()
    ]

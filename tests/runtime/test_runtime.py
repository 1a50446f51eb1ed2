"""Runtime and run: set-up, signals, flushing and exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog

import flowrt
from flowrt import BatchProcessor, Runtime, run
from tests.threads import assert_no_thread_left

ROOT = Path(__file__).parents[2]
HANG_S = 60.0

PRELUDE = """
import asyncio, contextlib, logging, sys, time
from collections import Counter
import flowrt
from flowrt import BatchProcessor, Runtime, run
from flowrt.engine.batch_run import active_batches
from tests.threads import assert_no_thread_left
logging.getLogger("asyncio").setLevel("ERROR")  # -X dev warns of each turn that a busy machine makes slow

async def signalled():  # however late a busy machine sends the signal
    while all(run.interruption is None for run in active_batches(asyncio.get_running_loop())):
        await asyncio.sleep(0.01)

def tally(results):
    print("tally", dict(Counter(r.status for r in results)), flush=True)

async def tally_of(batch):
    try:
        tally(await batch)
    except flowrt.Interrupted as exc:
        tally(exc.results)
        raise
"""

WAYS = {
    "run": "run(main(), **settings)",
    "asyncio": """
async def outer():
    async with Runtime(**settings):
        await main()
asyncio.run(outer())
""",
    "uvloop": """
import uvloop
async def outer():
    async with Runtime(**settings):
        await main()
uvloop.run(outer())
""",
}


class Script:
    """Script in a child process, because signals end processes."""

    def __init__(self, body: str, way: str = "run", *, settings: str = "dict(grace=5.0)", **env: str) -> None:
        code = f"{PRELUDE}\nsettings = dict(log_level='INFO') | {settings}\n{textwrap.dedent(body)}\n{WAYS[way]}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", code],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "0", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # `communicate` would not see lines that are read ahead
        )
        self.out = ""

    def wait_for(self, word: str) -> str:
        """Read its standard output until a line holds the word."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline().decode():
            self.out += line
            if word in line:
                return line
        raise AssertionError(f"{word!r} never came: {self.out!r}, {self.process.communicate()[1].decode()}")

    def end(self) -> tuple[int, str, list[dict[str, Any]]]:
        """Return its exit code, its output and its log events."""
        try:
            out, error_lines = self.process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        err = error_lines.decode()
        for trouble in ("never retrieved", "was destroyed but", "unclosed", "never awaited", "Traceback"):
            assert trouble not in err, err
        return self.process.returncode, self.out + out.decode(), [json.loads(line) for line in err.splitlines()]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events if event["event"].startswith(("runtime", "shutdown"))]


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_returns_the_result_of_the_coroutine_on_uvloop() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(main()) == "uvloop"


def test_run_leaves_no_thread_and_no_handler_behind() -> None:
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    seen: list[Any] = []

    async def main() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))
        seen.append(set(threading.enumerate()))

    before = set(threading.enumerate())
    run(main(), metrics_port=0, log_format="json")
    assert seen[0] not in handlers
    assert seen[1] - before
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    assert_no_thread_left(before)
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("wrong", [None, 3, BatchProcessor, BatchProcessor(abs).batch])
def test_run_refuses_other_objects_than_coroutines(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"run\(main\(\)\)"):
        run(wrong)


def test_run_inside_a_loop_suggests_runtime() -> None:
    async def inner() -> None: ...

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"async with flowrt\.Runtime"):
            run(inner())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grace": -1.0}, "grace must be a number of seconds of at least 0, not -1.0"),
        ({"flush_timeout": float("nan")}, "flush_timeout must be .* not nan"),
        ({"stall_after": 0}, "stall_after must be a positive number of seconds"),
        ({"log_format": "xml"}, "log_format must be 'json', 'console' or None, not 'xml'"),
        ({"log_level": "LOUD"}, "log_level must be one of DEBUG, .* not 'LOUD'"),
        ({"metrics_port": 70_000}, "metrics port must be an integer from 0"),
        ({"metrics_port": 0, "metrics_host": "192.0.2.1"}, "give a token, or bind 127.0.0.1"),
        ({"otlp_endpoint": "127.0.0.1:4318"}, "otlp_endpoint must be .* for instance http://127.0.0.1:4318"),
    ],
)
def test_invalid_setting_is_refused_before_any_work(settings: dict[str, Any], message: str) -> None:
    worked = []

    async def main() -> None:
        worked.append(1)

    before = set(threading.enumerate())
    with pytest.raises(ValueError, match=message):
        run(main(), **settings)
    assert not worked
    assert_no_thread_left(before)
    assert not structlog.is_configured()


def test_port_in_use_is_reported_with_the_fix() -> None:
    async def main() -> None: ...

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}: the port is in use; choose another port"):
            run(main(), metrics_port=port)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, KeyError, asyncio.CancelledError])
def test_run_raises_the_exception_of_the_coroutine(exception: type[BaseException]) -> None:
    async def main() -> None:
        raise exception("mine")

    before = set(threading.enumerate())
    with pytest.raises(exception, match="mine"):
        run(main(), metrics_port=0)
    assert_no_thread_left(before)


def test_keyboard_interrupt_inside_a_node_propagates() -> None:
    async def node(item: int) -> int:
        if item == 3:
            raise KeyboardInterrupt("in a node")
        await asyncio.sleep(0)
        return item

    async def main() -> None:
        await BatchProcessor(node).batch(range(10))

    with pytest.raises(KeyboardInterrupt, match="in a node"):
        run(main())


def test_importing_flowrt_imports_no_loop_no_server_and_no_sdk() -> None:
    code = "import sys, flowrt; print([m for m in ('uvloop', 'uvicorn', 'opentelemetry.sdk') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {"run", "Runtime", "asgi_app"} <= set(flowrt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flowrt.nothing  # type: ignore[attr-defined]


# -- Runtime -----------------------------------------------------------------------------------------------------------


def test_runtime_serves_metrics_of_active_batches(run: Any) -> None:
    async def node(item: int) -> int:
        return item

    async def main() -> str:
        async with Runtime(metrics_port=0) as runtime:
            await BatchProcessor(node, name=f"served on {type(asyncio.get_running_loop()).__module__}").batch(range(7))
            assert runtime.metrics_url is not None
            with await asyncio.to_thread(urllib.request.urlopen, runtime.metrics_url) as page:
                return str(page.read().decode())

    assert re.search(r'flowrt_items_total\{batch="served on [^"]*",node="node",status="ok"\} 7.0', run(main()))


def test_port_is_free_after_the_runtime_ends(run: Any) -> None:
    async def main() -> None:
        async with Runtime(metrics_port=0) as runtime:
            assert runtime.metrics_url is not None
            port = int(runtime.metrics_url.split(":")[2].split("/")[0])
        for _ in range(2):
            async with Runtime(metrics_port=port):
                pass

    run(main())


def test_two_runtimes_serve_two_ports_and_share_the_rest(run: Any) -> None:
    async def main() -> None:
        async with Runtime(metrics_port=0) as one, Runtime(metrics_port=0) as other:
            assert one.metrics_url != other.metrics_url
            for url in (one.metrics_url, other.metrics_url):
                assert url is not None
                with await asyncio.to_thread(urllib.request.urlopen, url) as page:
                    assert b"flowrt_build_info" in page.read()
            watchdogs = [thread for thread in threading.enumerate() if thread.name == "flowrt-watchdog"]
            assert len(watchdogs) == 1

    run(main())


def test_runtime_can_be_entered_only_once() -> None:
    async def main() -> None:
        runtime = Runtime()
        async with runtime:
            assert "active" in repr(runtime)
        assert "over" in repr(runtime)
        with pytest.raises(RuntimeError, match="create a new Runtime"):
            await runtime.__aenter__()

    asyncio.run(main())


def test_handler_of_the_host_stays() -> None:
    def mine(*_: object) -> None: ...

    async def main() -> Any:
        async with Runtime():
            return signal.getsignal(signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, mine)
    try:
        assert asyncio.run(main()) is mine
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_asyncio_handler_of_sigint_is_restored_after_the_block() -> None:
    async def main() -> None:
        before = signal.getsignal(signal.SIGINT)
        async with Runtime():
            assert signal.getsignal(signal.SIGINT) != before
        assert signal.getsignal(signal.SIGINT) is before

    asyncio.run(main())


def test_runtime_in_another_thread_installs_no_handlers() -> None:
    codes: list[Any] = []

    async def main() -> None:
        before = signal.getsignal(signal.SIGTERM)
        async with Runtime(metrics_port=0) as runtime:
            assert signal.getsignal(signal.SIGTERM) is before
            codes.append(runtime.exit_code)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(HANG_S)
    assert codes == [None]


# -- signals -----------------------------------------------------------------------------------------------------------

DRAINS = """
async def node(item):
    if item == 3:
        print("started", flush=True)
    await signalled()
async def main():
    with contextlib.suppress(flowrt.Interrupted):
        await tally_of(BatchProcessor(node, max_concurrency=4).batch(range(10_000)))
    await tally_of(BatchProcessor(node, max_concurrency=4).batch(range(100)))
"""


@pytest.mark.parametrize(
    ("way", "signum", "code"),
    [
        *((way, signum, 128 + signum) for way in WAYS for signum in (signal.SIGINT, signal.SIGTERM)),
        ("run", signal.SIGHUP, 129),
    ],
)
def test_signal_drains_and_keeps_partial_results(way: str, signum: signal.Signals, code: int) -> None:
    script = Script(DRAINS, way)
    script.wait_for("started")
    script.process.send_signal(signum)
    returncode, out, events = script.end()
    assert returncode == code
    first, second = (line for line in out.splitlines() if line.startswith("tally"))
    assert first == "tally {'ok': 4, 'cancelled': 9996}"
    # a batch that starts while draining is drained at once, with the items that its workers had pulled by then
    assert int(re.findall(r"'cancelled': (\d+)", second)[0]) >= 96
    assert names(events) == ["runtime.started", "shutdown.started", "shutdown.drained"]
    assert events[0]["level"] == "info"
    started = next(event for event in events if event["event"] == "shutdown.started")
    assert (started["signal"], started["batches"]) == (signum.name, 1)


def test_signal_drains_while_the_log_pipe_is_blocked() -> None:
    """As in `python job.py | tee log`: the signal ends tee, too."""
    script = Script(
        """
        import structlog
        class Pipe:
            def msg(self, line):
                if "shutdown" in line:
                    raise BrokenPipeError
            debug = info = warning = error = msg
        structlog.configure(logger_factory=lambda *_: Pipe())
        async def node(item):
            if item == 3:
                print("started", flush=True)
            await signalled()
        async def main():
            await tally_of(BatchProcessor(node, max_concurrency=4).batch(range(10_000)))
        """
    )
    script.wait_for("started")
    script.process.send_signal(signal.SIGTERM)
    returncode, out, _ = script.end()
    assert returncode == 143
    assert "tally {'ok': 4, 'cancelled': 9996}" in out


def test_item_with_an_inner_batch_is_complete_or_runs_again(tmp_path: Path) -> None:
    body = """
    from flowrt import MapNode
    async def child(item):
        if item["item"] == 3:
            print("started", flush=True)
            await signalled()
        await asyncio.sleep(0.05)
        return item["item"]
    async def main():
        items = [{"items": range(6)}, {"items": iter(range(6))}, {"items": range(6)}]
        processor = BatchProcessor(MapNode("m", child, max_concurrency=2), 2, journal=sys.argv[1])
        try:
            results = await processor.batch(items)
        except flowrt.Interrupted as exc:
            results = exc.results
        for result in results:
            print("result", result.status, result.attempts, result.output and result.output["results"], flush=True)
    """
    body = body.replace("sys.argv[1]", repr(str(tmp_path / "journal")))
    script = Script(body)
    script.wait_for("started")
    script.process.send_signal(signal.SIGTERM)
    returncode, out, _ = script.end()
    whole = [0, 1, 2, 3, 4, 5]
    assert returncode == 143
    assert [line for line in out.splitlines() if line.startswith("result")] == [
        f"result ok 1 {whole}",
        f"result ok 1 {whole}",
        "result cancelled 0 None",
    ]
    returncode, out, _ = Script(body.replace("await signalled()", "pass")).end()
    assert returncode == 0
    assert [line for line in out.splitlines() if line.startswith("result")] == [
        f"result resumed 1 {whole}",
        f"result resumed 1 {whole}",
        f"result ok 1 {whole}",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_signal_without_a_batch_cancels_the_main_task_at_once(way: str) -> None:
    script = Script(
        """
        async def main():
            try:
                print("started", flush=True)
                await asyncio.sleep(3600)
            finally:
                print("cleaned up", flush=True)
        """,
        way,
        settings="dict(grace=3600.0, stall_after=None)",  # no heartbeat: the signal itself must wake the loop
    )
    script.wait_for("started")
    time.sleep(0.2)  # until the loop waits
    script.process.send_signal(signal.SIGTERM)
    returncode, out, events = script.end()
    assert returncode == 143
    assert "cleaned up" in out
    assert names(events) == ["runtime.started", "shutdown.started", "shutdown.drained"]


@pytest.mark.parametrize("way", WAYS)
def test_items_that_outlast_the_grace_are_cancelled_and_awaited(way: str) -> None:
    script = Script(
        """
        async def node(item):
            try:
                if item == 3:
                    print("started", flush=True)
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.05)
                print("ended", item, flush=True)
        async def main():
            await BatchProcessor(node, max_concurrency=4).batch(range(100))
        """,
        way,
        settings="dict(grace=0.2)",
    )
    script.wait_for("started")
    script.process.send_signal(signal.SIGINT)
    returncode, out, events = script.end()
    assert returncode == 130
    assert sorted(line for line in out.splitlines() if "ended" in line) == [f"ended {item}" for item in range(4)]
    ended = next(event for event in events if event["event"] == "batch.completed")
    assert (ended["status"], ended["cancelled"]) == ("cancelled", 100)


def test_endless_node_delays_the_exit_by_two_graces_at_most() -> None:
    script = Script(
        """
        async def node(item):
            print("started", flush=True)
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

        async def main():
            await BatchProcessor(node, 1).batch(range(3))
        """,
        settings="dict(grace=0.1)",
    )
    script.wait_for("started")
    began = time.monotonic()
    script.process.send_signal(signal.SIGTERM)
    returncode, _, events = script.end()
    assert returncode == 143
    assert 10 <= time.monotonic() - began < HANG_S, "5 s until the batch lets go of it, 5 s until the loop does"
    (abandoned,) = [event for event in events if event["event"] == "shutdown.abandoned"]
    assert (abandoned["level"], abandoned["tasks"]) == ("warning", 1)


def test_exception_of_main_is_not_hidden_by_the_signal() -> None:
    script = Script(
        """
        async def node(item):
            print("started", flush=True)
            await asyncio.sleep(0.2)
        async def main():
            try:
                await BatchProcessor(node, max_concurrency=1).batch(range(10))
            finally:
                sys.exit(7)
        """
    )
    script.wait_for("started")
    script.process.send_signal(signal.SIGINT)
    assert script.end()[0] == 7


BLOCKS = {
    "a sleep": "time.sleep(3600)",
    "a loop": "while True: pass",
    "a long call into C": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)",
    "a node that will not be cancelled": """
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    """,
}


@pytest.mark.parametrize(
    ("way", "how"),
    [*(("run", how) for how in BLOCKS), *((way, "a long call into C") for way in ("asyncio", "uvloop"))],
)
def test_second_signal_ends_the_process_within_a_second(way: str, how: str) -> None:
    body = textwrap.indent(textwrap.dedent(BLOCKS[how]).strip(), "    ")
    script = Script(
        f"async def node(item):\n    print('started', flush=True)\n{body}\n"
        "async def main():\n    await BatchProcessor(node).batch(range(3))\n",
        way,
        settings="dict(grace=3600.0)",
    )
    script.wait_for("started")
    script.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        script.process.wait(0.3)
    script.process.send_signal(signal.SIGTERM)
    assert script.end()[0] == 143  # within the guard against hanging, not the grace of an hour


FORKS = """
import os, warnings
def fork():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns about forks with threads; the child uses none of them
        begun, begins = os.pipe()
        child = os.fork()
    if child:
        os.read(begun, 1)
        return child
    os.write(begins, b".")
    os.close(1)
    os.close(2)
    try:
        time.sleep(20)
    finally:
        os._exit(7)
async def node(item):
    if item:
        print("started", flush=True)
    await signalled()
    await asyncio.sleep(1.2)  # longer than a second signal would leave
async def main():
    print("children", fork(), fork(), flush=True)
    await tally_of(BatchProcessor(node, max_concurrency=2).batch(range(2)))
    for _ in range(2):
        print("ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.mark.parametrize("way", WAYS)
def test_signal_to_a_process_and_its_forked_children_drains(way: str) -> None:
    """Ctrl-C at a terminal and `timeout` signal the whole group."""
    script = Script(FORKS, way)
    children = [int(word) for word in script.wait_for("children").split()[1:]]
    script.wait_for("started")
    for pid in (script.process.pid, *children):
        os.kill(pid, signal.SIGINT)
    script.wait_for("tally")
    for pid in children:  # where asyncio has a handler of its own
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    returncode, out, events = script.end()
    assert (returncode, names(events)) == (130, ["runtime.started", "shutdown.started", "shutdown.drained"])
    assert "tally {'ok': 2}" in out


@pytest.mark.parametrize("way", WAYS)
def test_signals_to_forked_children_do_not_reach_the_parent(way: str) -> None:
    """A process pool ends its workers with signals."""
    script = Script(FORKS.replace("await signalled()", "pass"), way)
    for word in script.wait_for("children").split()[1:]:
        os.kill(int(word), signal.SIGTERM)
    returncode, out, events = script.end()
    assert (returncode, names(events)) == (0, ["runtime.started"])
    assert out.splitlines()[2:] == ["tally {'ok': 2}", "ended -15", "ended -15"]


def test_readyz_answers_503_while_draining_on_a_blocked_loop() -> None:
    script = Script(
        """
        async def node(item):
            print("started", flush=True)
            time.sleep(3600)
        async def main():
            await BatchProcessor(node).batch(range(3))
        async def outer():
            async with Runtime(metrics_port=0, grace=3600.0) as runtime:
                print("url", runtime.metrics_url, flush=True)
                await main()
        main_, main = main, outer
        """.replace("await main()", "await main_()"),
    )
    base = script.wait_for("url").split()[1].removesuffix("/metrics")
    script.wait_for("started")  # a signal without an active batch would end the process

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(base + path, timeout=HANG_S) as answer:  # noqa: S310  # our own http URL
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status("/readyz") == 200
    script.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + HANG_S
    while status("/readyz") != 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status("/readyz") == 503
    assert status("/healthz") == 200
    script.process.send_signal(signal.SIGTERM)
    assert script.end()[0] == 143


# -- existing set-up of the process ------------------------------------------------------------------------------------


def test_logs_go_to_the_existing_structlog_configuration() -> None:
    seen: list[Any] = []

    def keep(_logger: Any, _method: str, event: Any) -> str:
        seen.append(event["event"])
        raise structlog.DropEvent

    async def main() -> None: ...

    structlog.configure(processors=[keep])
    try:
        run(main(), log_format="json")
        assert structlog.get_config()["processors"] == [keep]
    finally:
        structlog.reset_defaults()
    assert seen == ["runtime.started"]


def test_endpoint_in_the_start_event_contains_no_secret() -> None:
    async def main() -> None: ...

    try:
        with structlog.testing.capture_logs() as events:
            structlog.configure()
            run(main(), otlp_endpoint="http://user:secret@127.0.0.1:9/base?key=secret", flush_timeout=0.1)
    finally:
        structlog.reset_defaults()  # the capture configures structlog at its end, too
    assert events[0]["otlp_endpoint"] == "http://127.0.0.1:9/base"


# -- export ------------------------------------------------------------------------------------------------------------


class Collector:
    """Collector that accepts all requests, answers 500, or never answers."""

    def __init__(self, behaviour: str) -> None:
        self.requests: list[tuple[str, bytes]] = []
        collector = self
        self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append((self.path, body))
                if behaviour == "hung":
                    collector.release.wait(2 * HANG_S)
                with contextlib.suppress(OSError):
                    self.send_response(500 if behaviour == "failing" else 200)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector(request: pytest.FixtureRequest) -> Iterator[Collector]:
    collector = Collector(getattr(request, "param", "healthy"))
    yield collector
    collector.close()


EXPORTS = """
async def node(item):
    return item
async def main():
    tally(await BatchProcessor(node, name="b").batch(range(50)))
    print("main ended", time.time(), flush=True)
"""


def spans_in(requests: list[tuple[str, bytes]]) -> int:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    total = 0
    for _, body in requests:
        message = ExportTraceServiceRequest.FromString(body)
        total += sum(len(scope.spans) for resource in message.resource_spans for scope in resource.scope_spans)
    return total


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_spans_reach_the_collector_before_the_end(collector: Collector, how: str) -> None:
    if how == "argument":
        settings, env = f"dict(otlp_endpoint={collector.url!r}, service_name='mine')", {"OTEL_SERVICE_NAME": "not mine"}
    else:
        settings, env = "dict()", {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "mine"}
    returncode, _, events = Script(EXPORTS, settings=settings, **env).end()
    assert returncode == 0
    assert {path for path, _ in collector.requests} == {"/v1/traces"}
    assert spans_in(collector.requests) == 51  # the items and the batch
    assert b"mine" in collector.requests[0][1]
    assert b"not mine" not in collector.requests[0][1]
    assert all(event["event"] != "telemetry.dropped" for event in events)


@pytest.mark.parametrize("env", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_environment_disables_the_export(collector: Collector, env: dict[str, str]) -> None:
    script = Script(EXPORTS, settings="dict()", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **env)
    assert script.end()[0] == 0
    assert collector.requests == []


@pytest.mark.parametrize("collector", ["hung", "failing", "refused"], indirect=True)
def test_broken_collector_delays_the_end_by_its_timeout_at_most(
    collector: Collector, request: pytest.FixtureRequest
) -> None:
    url = collector.url
    if "refused" in request.node.name:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    timeout_s = 5.0 if "hung" in request.node.name else 1.0
    script = Script(EXPORTS, settings=f"dict(otlp_endpoint={url!r}, flush_timeout={timeout_s})")
    ended = float(script.wait_for("main ended").split()[2])
    returncode, out, events = script.end()
    assert time.time() - ended < timeout_s + HANG_S  # the flush timeout, plus the end of a process on a busy machine
    assert returncode == 0
    assert "tally {'ok': 50}" in out
    dropped = next(event for event in events if event["event"] == "telemetry.dropped")
    lost = sum(value for key, value in dropped.items() if key in ("queue_full", "export_error", "shutdown"))
    assert dropped["exported"] + lost == 51
    assert dropped["exported"] == 0


def test_current_runtime_is_the_last_entered_or_none() -> None:
    async def main() -> None:
        async with flowrt.Runtime(log_level="ERROR") as outer:
            assert flowrt.Runtime.current() is outer
            async with flowrt.Runtime(metrics_port=0) as inner:
                assert flowrt.Runtime.current() is inner
            assert flowrt.Runtime.current() is outer

    asyncio.run(main())
    assert flowrt.Runtime.current() is None

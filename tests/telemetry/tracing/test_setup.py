"""Set-up of logging and tracing in a process without any, and its absence in others."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from flowrt import BatchProcessor
from flowrt.errors import MissingExtraError
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.logs.setup import LogSetup
from flowrt.telemetry.logs.writer_thread import LineSink
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.tracing import setup
from flowrt.telemetry.tracing.setup import TraceSetup
from tests.threads import assert_no_thread_left

ROOT = Path(__file__).parents[3]

# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[Callable[..., list[str]]]:
    """Configure logging on a stream, run a function, and return the lines."""
    stream = io.StringIO()

    def lines(act: Callable[[], object], form: str = "json", level: str = "INFO") -> list[str]:
        with contextlib.redirect_stderr(stream):
            logs = LogSetup(form, level)  # type: ignore[arg-type]
        try:
            act()
        finally:
            logs.close()
        assert stream.getvalue().endswith("\n") or not stream.getvalue()
        return stream.getvalue().split("\n")[:-1]

    yield lines
    assert not structlog.is_configured()


class Hostile:
    """Value whose repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


circle: list[Any] = []
circle.append(circle)

NASTY: dict[str, Any] = {
    "newlines": "a\nb\r\nc\u2028d\x85e",
    "a lone surrogate": "\udc80",
    "quotes": "\"'\\",
    "a megabyte": "x" * 1_000_000,
    "control characters": "\x00\x1b[31m\x7f",
    "bytes": b"\xff\n",
    "not a number": float("nan"),
    "a wide integer": 10**6_000,
    "a circle": circle,
    "no repr": Hostile(),
    "odd keys": {1: 2, (3, 4): "\n", None: Hostile()},
    "deep": json.loads("[" * 200 + "]" * 200),
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("form", ["json", "console"])
def test_event_with_any_values_is_one_line(logged: Callable[..., list[str]], name: str, form: str) -> None:
    (line,) = logged(lambda: log_event("info", "item.failed", value=NASTY[name], after=1), form)
    assert len(line.splitlines()) == 1
    assert line.encode("utf-8")
    assert "item.failed" in line
    if form == "json":
        event = json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
        assert event["after"] == 1


@pytest.mark.parametrize("form", ["json", "console"])
def test_event_name_may_hold_anything(logged: Callable[..., list[str]], form: str) -> None:
    (line,) = logged(lambda: log_event("warning", "two\nlines\udc80"), form)
    assert len(line.splitlines()) == 1
    assert line.encode("utf-8")


def test_time_level_and_event_are_the_first_fields(logged: Callable[..., list[str]]) -> None:
    (line,) = logged(lambda: log_event("warning", "batch.stalled", aaa=1, batch="b"))
    event = json.loads(line)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert (event["level"], event["event"], event["batch"]) == ("warning", "batch.stalled", "b")
    stamp = time.strptime(event["timestamp"].split(".")[0], "%Y-%m-%dT%H:%M:%S")
    assert event["timestamp"].endswith("Z")
    assert abs(time.mktime(stamp) - time.mktime(time.gmtime())) < 60


def test_standard_logging_has_the_same_format(logged: Callable[..., list[str]]) -> None:
    def act() -> None:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("flowrt.something").exception("it %s", "broke\n", extra={"batch": "b"})

    (line,) = logged(act)
    event = json.loads(line)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert (event["level"], event["event"], event["logger"]) == ("error", "it broke\n", "flowrt.something")
    assert event["batch"] == "b"
    assert "ValueError: two\nlines" in event["exception"]


def test_extra_of_a_record_does_not_replace_its_own_fields(logged: Callable[..., list[str]]) -> None:
    extra = {"event": "order.late", "level": "gold", "timestamp": 1, "logger": "mine", "order": 7}
    (line,) = logged(lambda: logging.getLogger("flowrt.app").warning("order %d late", 7, extra=extra))
    event = json.loads(line)
    assert (event["event"], event["level"], event["logger"]) == ("order 7 late", "warning", "flowrt.app")
    assert event["timestamp"] != 1
    assert {key: event[key] for key in event if key.startswith("extra_")} == {
        "extra_event": "order.late", "extra_level": "gold", "extra_timestamp": 1, "extra_logger": "mine"
    }  # fmt: skip
    assert event["order"] == 7


def test_message_with_wrong_arguments_is_still_logged(logged: Callable[..., list[str]]) -> None:
    (line,) = logged(lambda: logging.getLogger("flowrt.something").warning("%d items", "no number"))
    assert json.loads(line)["event"] == "%d items"


def test_events_below_the_level_are_not_logged(logged: Callable[..., list[str]]) -> None:
    def act() -> None:
        log_event("info", "too.quiet")
        logging.getLogger("flowrt").info("too quiet")
        log_event("error", "loud")

    assert [json.loads(line)["event"] for line in logged(act, "json", "warning")] == ["loud"]


def test_events_have_the_ids_of_the_current_span(logged: Callable[..., list[str]]) -> None:
    def act() -> None:
        with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
            ids.append(f"{span.get_span_context().trace_id:032x}")
            structlog.get_logger().info("mine")
            logging.getLogger("flowrt.mine").info("mine too")

    ids: list[str] = []
    assert [json.loads(line)["trace_id"] for line in logged(act)] == ids * 2


def test_bound_context_variables_are_on_the_events(
    logged: Callable[..., list[str]], run_virtual: Callable[[Any], Any]
) -> None:
    async def node(x: int) -> None:
        structlog.contextvars.bind_contextvars(customer=f"c{x}")
        raise ValueError(x)

    def act() -> None:
        with structlog.contextvars.bound_contextvars(request="r1"):
            run_virtual(BatchProcessor(node, 2).batch(range(4)))

    events = [json.loads(line) for line in logged(act)]
    assert {event["request"] for event in events} == {"r1"}
    failed = {event["item_index"]: event["customer"] for event in events if event["event"] == "item.failed"}
    assert failed == {0: "c0", 1: "c1", 2: "c2", 3: "c3"}
    assert all("customer" not in event for event in events if event["event"].startswith("batch."))


def test_close_restores_the_previous_configuration() -> None:
    root, ours = logging.getLogger(), logging.getLogger("flowrt")
    before, threads = (root.handlers[:], ours.handlers[:], ours.level, ours.propagate), set(threading.enumerate())
    logs = LogSetup("json", "DEBUG")
    assert logs.active
    assert structlog.is_configured()
    logs.close()
    logs.close()
    assert (root.handlers, ours.handlers, ours.level, ours.propagate) == before
    assert_no_thread_left(threads)
    assert not structlog.is_configured()


def test_threads_that_set_up_logging_at_once_configure_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both, made = threading.Barrier(2), []
    is_configured = structlog.is_configured

    def asked() -> bool:
        answer: bool = is_configured()
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # both threads ask, unless one of them waits for the other
        return answer

    root, ours = logging.getLogger(), logging.getLogger("flowrt")
    before = (root.handlers[:], ours.handlers[:], ours.level, ours.propagate)
    monkeypatch.setattr(structlog, "is_configured", asked)
    threads = [threading.Thread(target=lambda: made.append(LogSetup("json"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    try:
        assert sorted(each.active for each in made) == [False, True]
    finally:
        for each in made:
            each.close()
    assert (root.handlers, ours.handlers, ours.level, ours.propagate) == before
    assert not structlog.is_configured()


def test_configured_structlog_is_left_alone() -> None:
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    try:
        before = structlog.get_config()
        logs = LogSetup("json")
        assert not logs.active
        logs.close()
        assert structlog.get_config() == before
    finally:
        structlog.reset_defaults()


def test_handlers_of_the_root_logger_are_left_alone() -> None:
    assert logging.getLogger().handlers  # pytest's own
    before = logging.getLogger().handlers[:]
    logs = LogSetup()
    assert not logs.active
    assert logging.getLogger().handlers == before
    asked_for = LogSetup("json")
    assert logging.getLogger().handlers == before
    asked_for.close()


def test_unconfigured_process_gets_json_lines_from_every_logger() -> None:
    code = """
    import logging
    from flowrt.telemetry.logs.setup import LogSetup
    from flowrt.telemetry.logs.events import log_event
    logs = LogSetup(level="INFO")
    log_event("info", "one")
    logging.getLogger("flowrt.x").info("two")
    logging.getLogger("asyncio").warning("three")
    logging.getLogger("other").info("four")
    logging.getLogger("other").debug("hidden")
    logs.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["one", "two", "three", "four"]


class Stuck(io.StringIO):
    """Stream that blocks until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def write(self, text: str) -> int:
        self.release.wait(30)
        return super().write(text)


def test_hanging_stream_blocks_neither_write_nor_close() -> None:
    stream = Stuck()
    sink = LineSink(stream)
    before = METRICS.drops["logs", "queue_full"]
    began = time.monotonic()
    for number in range(10_500):
        sink.write(str(number))
    sink.close(0.05)
    assert time.monotonic() - began < 10.0
    dropped = METRICS.drops["logs", "queue_full"] - before
    assert 498 <= dropped <= 500  # all but the queue's 10,000 and the lines that the thread holds
    stream.release.set()
    sink._thread.join(10)


def test_closed_stream_loses_only_its_lines_and_they_are_counted() -> None:
    stream = io.StringIO()
    stream.close()
    before = METRICS.drops["logs", "export_error"]
    sink = LineSink(stream)
    for _ in range(3):
        sink.write("lost")
    sink.close()
    assert METRICS.drops["logs", "export_error"] == before + 3


def test_lines_are_written_in_order_and_completely_at_close() -> None:
    stream = io.StringIO()
    sink = LineSink(stream)
    for number in range(2_000):
        sink.write(str(number))
    sink.close(10.0)
    sink.write("after")
    assert stream.getvalue().split() == [*map(str, range(2_000)), "after"]


def test_lines_logged_during_close_are_written() -> None:
    class Meanwhile(io.StringIO):
        def write(self, text: str) -> int:
            if text == "first\n":
                deadline = time.monotonic() + 30
                while sink._lines.empty() and time.monotonic() < deadline:  # until `close` asks the thread to end
                    time.sleep(0.001)
                sink.write("late")
            return super().write(text)

    stream = Meanwhile()
    sink = LineSink(stream)
    sink.write("first")
    sink.close(30.0)
    assert stream.getvalue().split() == ["first", "late"]


def test_forked_child_leaves_queued_lines_to_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stuck()
    sink = LineSink(stream)
    sink.write("one")
    sink.write("two")
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 0)
        sink.close(30.0)
    stream.release.set()
    sink.close(30.0)
    assert stream.getvalue().split() == ["one", "two"]


def test_lines_that_a_hanging_stream_never_gets_are_counted() -> None:
    stream = Stuck()
    sink = LineSink(stream)
    before = METRICS.drops["logs", "shutdown"]
    for number in range(4):
        sink.write(str(number))
    deadline = time.monotonic() + 30
    while sink._lines.qsize() > 3 and time.monotonic() < deadline:  # until it hangs
        time.sleep(0.001)
    sink.close(0.05)
    sink.write("later")
    sink.close(0.05)
    assert METRICS.drops["logs", "shutdown"] == before + 4
    stream.release.set()
    sink._thread.join(30)
    assert not sink._thread.is_alive()
    assert stream.getvalue() == "0\n"


# -- the provider ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


ENDPOINT = "http://127.0.0.1:9"


@pytest.mark.usefixtures("_no_variables")
def test_unconfigured_process_gets_a_provider_that_exports_nothing() -> None:
    traces = TraceSetup("mine")
    assert traces.pipeline is None
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    assert provider.resource.attributes["service.name"] == "mine"
    traces.close(1.0)


@pytest.mark.usefixtures("_no_variables")
@pytest.mark.parametrize(
    ("argument", "env", "url"),
    [
        (ENDPOINT, {}, f"{ENDPOINT}/v1/traces"),
        (f"{ENDPOINT}/", {}, f"{ENDPOINT}/v1/traces"),
        (f"{ENDPOINT}/v1/traces", {}, f"{ENDPOINT}/v1/traces"),
        (f"{ENDPOINT}/base", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:1"}, f"{ENDPOINT}/base/v1/traces"),
        (ENDPOINT, {"OTEL_TRACES_EXPORTER": "none"}, f"{ENDPOINT}/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, f"{ENDPOINT}/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{ENDPOINT}/exact"}, f"{ENDPOINT}/exact"),
        (None, {"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "true"}, None),
        (None, {}, None),
    ],
)
def test_arguments_win_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, env: dict[str, str], url: str | None
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    traces = TraceSetup(None, argument)
    assert (None if traces.pipeline is None else traces.pipeline._transport.where) == url
    traces.close(1.0)


@pytest.mark.usefixtures("_no_variables")
def test_queue_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "250")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many")
    traces = TraceSetup(None, ENDPOINT)
    pipeline = traces.pipeline
    assert pipeline is not None
    assert (pipeline._most_spans, pipeline._delay_s, pipeline._batch_spans) == (100, 0.25, 100)
    assert "OTEL_BSP_MAX_EXPORT_BATCH_SIZE='many' is not a positive integer" in caplog.text
    traces.close(1.0)


@pytest.mark.usefixtures("_no_variables")
def test_existing_provider_stays_and_an_ignored_endpoint_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(mine)
    traces = TraceSetup("other", ENDPOINT)
    assert trace.get_tracer_provider() is mine
    assert traces.pipeline is None
    assert "otlp_endpoint='http://127.0.0.1:9' is ignored" in caplog.text


SECRETIVE = "https://user:secret@127.0.0.1:9/base?key=secret#secret"


@pytest.mark.usefixtures("_no_variables")
def test_secret_in_an_ignored_endpoint_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    TraceSetup(None, SECRETIVE)
    assert "otlp_endpoint='https://127.0.0.1:9/base' is ignored" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("_no_variables")
@pytest.mark.parametrize(
    "endpoint", [SECRETIVE.partition("//")[2], "ftp" + SECRETIVE[5:], SECRETIVE.encode(), "http://u:secret@c:secret"]
)
def test_secret_in_an_invalid_endpoint_is_not_shown(endpoint: Any) -> None:
    with pytest.raises(ValueError, match="must be the collector's http or https URL") as caught:
        TraceSetup(None, endpoint)
    assert "user" not in str(caught.value)
    assert "key" not in str(caught.value)


class Taker:
    """Fake pipeline."""

    waiting, limit = 0, 10

    def __init__(self, lose: int = 0) -> None:
        self.names: list[str] = []
        self.lose = lose
        self.asked: list[str] = []

    def put(self, span: Any) -> None:
        self.names.append(span.name)

    @property
    def ended(self) -> int:
        return len(self.names) + self.lose

    exported = property(lambda self: len(self.names))
    dropped = property(lambda _: {"queue_full": 0})

    def close(self, timeout_s: float) -> None:
        self.asked.append("close")

    def force_flush(self, timeout_millis: int) -> bool:
        self.asked.append(f"flush in {timeout_millis} ms")
        return True


@pytest.mark.usefixtures("_no_variables")
def test_unaccounted_spans_are_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(setup, "_make_pipeline", lambda *_: Taker(lose=2))
    traces = TraceSetup("mine", ENDPOINT)
    trace.get_tracer("t").start_span("s").end()
    traces.close(1.0)
    with caplog.at_level(logging.ERROR, "flowrt"):
        traces.report()
    assert "telemetry.mismatch signal=spans ended=3 exported=1 unaccounted=2" in caplog.text


@pytest.mark.usefixtures("_no_variables")
def test_console_exporter_prints_spans(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    traces = TraceSetup("mine")
    asyncio.run(BatchProcessor(abs, name="looked at").batch([-1]))
    traces.close(10.0)
    text = capsys.readouterr().out
    assert '"name": "process abs"' in text
    assert '"name": "batch looked at"' in text


@pytest.mark.usefixtures("_no_variables")
def test_consecutive_runtimes_export_to_their_own_endpoints(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exporters = [Taker(), Taker()]
    left = iter(exporters)
    monkeypatch.setattr(setup, "_make_pipeline", lambda *_: next(left))
    for number, service in enumerate(("one", "two")):
        traces = TraceSetup(service, ENDPOINT)
        trace.get_tracer("t").start_span(f"s{number}").end()
        traces.close(10.0)
        trace.get_tracer("t").start_span("between").end()
    assert [exporter.names for exporter in exporters] == [["s0"], ["s1"]]
    assert "service_name='two' is ignored: this process already traces as 'one'" in caplog.text


@pytest.mark.usefixtures("_no_variables")
@pytest.mark.parametrize("first", [0, 1])
def test_last_of_concurrent_runtimes_ends_the_export_and_reports(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, first: int
) -> None:
    exporter = Taker(lose=2)
    monkeypatch.setattr(setup, "_make_pipeline", lambda *_: exporter)
    both = [TraceSetup("mine", ENDPOINT), TraceSetup("mine", ENDPOINT)]
    assert METRICS.pipeline is exporter
    with caplog.at_level(logging.ERROR, "flowrt"):
        one, other = both[first], both[1 - first]
        for _ in range(2):
            one.close(10.0)
            one.report()
        trace.get_tracer("t").start_span("between").end()
        assert (exporter.names, exporter.asked, caplog.text) == (["between"], ["flush in 10000 ms"], "")
        other.close(10.0)
        other.report()
    trace.get_tracer("t").start_span("after").end()
    assert exporter.names == ["between"]
    assert exporter.asked[-1] == "close"
    assert "telemetry.mismatch" in caplog.text
    assert METRICS.pipeline is None


@pytest.mark.usefixtures("_no_variables")
def test_missing_exporter_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    common = "opentelemetry.exporter.otlp.proto.common"
    monkeypatch.setitem(sys.modules, common, None)
    monkeypatch.delitem(sys.modules, f"{common}.trace_encoder", raising=False)  # another test may have imported it
    with pytest.raises(MissingExtraError, match=r"pip install 'flowrt\[otlp\]'"):
        TraceSetup(None, ENDPOINT)
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.mark.usefixtures("_no_variables")
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, "zipkin is not supported"),
    ],
)
def test_unsupported_environment_settings_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, env: dict[str, str], message: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    TraceSetup().close(1.0)
    assert message in caplog.text

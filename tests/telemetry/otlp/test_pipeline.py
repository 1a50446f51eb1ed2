"""Span pipeline: queue, encoder and counts, with a scripted transport."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import context as otel_context

from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.otlp import Backoff, Outcome, SpanPipeline
from flowrt.telemetry.otlp import pipeline as pipeline_module
from tests.telemetry.otlp.harness import HANG_GUARD_S, PATIENT, assert_balanced, eventually

ROOT = Path(__file__).parent.parent.parent.parent
TAKEN = Outcome(True)
LATER = Outcome(False, retry=True, kind="refused", detail="refused")
LOST = Outcome(False, kind="HTTP 400", detail="HTTP 400 bad")
QUICK = Backoff(first_s=0.01, most_s=0.02, give_up_s=0.2)


class ScriptedTransport:
    """Transport with a script: one outcome per request, the last one repeated."""

    timeout_s = 10.0
    where = "http://collector"

    def __init__(self, *script: Outcome | Exception, hang: bool = False) -> None:
        self.script = list(script or (TAKEN,))
        self.bodies: list[bytes] = []  # one per attempt
        self.taken: list[str] = []
        self.at: list[float] = []
        self.suppressed: list[object] = []
        self.closed = threading.Event()
        self.aborted = 0
        self.go = threading.Event()
        if not hang:
            self.go.set()

    def pack(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
        return (b"".join(payloads),)

    def send(self, parts: Sequence[bytes]) -> Outcome:
        (body,) = parts
        self.bodies.append(body)
        self.at.append(time.monotonic())
        self.suppressed.append(otel_context.get_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY))
        self.go.wait(HANG_GUARD_S)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        if answer.taken:
            self.taken += body.decode().split()
        return answer

    def abort(self) -> None:
        self.aborted += 1

    def close(self) -> None:
        self.closed.set()

    def forget(self) -> None:
        pass


def encode(names: Sequence[str]) -> bytes:
    return "".join(f"{name} " for name in names).encode()


def put_all(pipeline: SpanPipeline, names: Sequence[str]) -> None:
    for name in names:
        pipeline.put(name)


def numbered(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


class Counted:
    """Wrapper that records the calls of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.calls: list[tuple[object, ...]] = []
        self._function = function

    def __call__(self, *args: object) -> Any:
        self.calls.append(args)
        return self._function(*args)


Make = Callable[..., SpanPipeline]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes pipelines; after the test, closes them and checks their counts."""
    made: list[tuple[ScriptedTransport, SpanPipeline]] = []

    def start(transport: ScriptedTransport, **settings: Any) -> SpanPipeline:
        pipeline = SpanPipeline(transport, **{"encode": encode, "delay_s": 0.01, "backoff": QUICK, **settings})
        made.append((transport, pipeline))
        return pipeline

    yield start
    for transport, pipeline in made:
        pipeline.close(0.0)
        transport.go.set()
        assert_balanced(pipeline)
        assert pipeline.waiting == 0


# -- export ------------------------------------------------------------------------------------------------------------


def test_every_span_is_exported_in_order_and_counted(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport)
    put_all(pipeline, numbered(5_000))
    assert pipeline.force_flush()
    assert transport.taken == numbered(5_000)
    assert (pipeline.ended, pipeline.exported, sum(pipeline.dropped.values()), pipeline.waiting) == (5_000, 5_000, 0, 0)


def test_producer_at_full_speed_loses_nothing(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport, encode=lambda spans: b"s " * len(spans))
    put = pipeline.put
    for _ in range(300_000):
        put(None)
    pipeline.close(HANG_GUARD_S)
    assert len(transport.taken) == 300_000
    assert (pipeline.ended, pipeline.exported) == (300_000, 300_000)


def test_single_span_waits_no_longer_than_the_delay(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport)
    pipeline.put("alone")
    eventually(lambda: pipeline.exported)
    assert transport.taken == ["alone"]


def test_full_batch_does_not_wait_for_the_delay(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport, delay_s=3_600, batch_spans=10)
    eventually(lambda: not pipeline._awake)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert transport.taken == numbered(10)


def test_half_of_the_capacity_does_not_wait_for_the_delay(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport, delay_s=3_600, most_spans=20)
    eventually(lambda: not pipeline._awake)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert transport.taken == numbered(10)


def test_put_is_thread_safe(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport, most_spans=2_000)
    threads = [threading.Thread(target=put_all, args=(pipeline, numbered(20_000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)
    assert pipeline.force_flush()
    assert pipeline.ended == 80_000
    assert pipeline.exported == len(transport.taken) == 80_000 - pipeline.dropped["queue_full"]


def test_spans_behind_a_request_are_joined_up_to_the_size_limit(make: Make) -> None:
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport, request_bytes=4_000)
    pipeline.put("first")
    eventually(lambda: transport.bodies)
    for name in numbered(1_000):
        pipeline.put(name)
        if name.endswith("00"):
            time.sleep(0.002)
    transport.go.set()
    assert pipeline.force_flush()
    assert transport.taken == ["first", *numbered(1_000)]
    sizes = [len(body) for body in transport.bodies[1:]]
    assert max(sizes) <= 4_000
    assert sum(sizes) / len(sizes) > 1_000


def test_spans_over_the_size_limit_are_split_into_requests(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport, request_bytes=1_000, batch_spans=512, delay_s=3_600)
    names = [f"{number:0100}" for number in range(500)]
    put_all(pipeline, names)
    assert pipeline.force_flush()
    assert transport.taken == names
    assert max(map(len, transport.bodies)) <= 1_000


def test_span_over_the_size_limit_is_sent_alone(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport, request_bytes=100)
    put_all(pipeline, ["small", "x" * 1_000, "small too"])
    assert pipeline.force_flush()
    assert transport.taken == ["small", "x" * 1_000, "small", "too"]
    assert b"x" * 1_000 + b" " in transport.bodies


# -- limits ------------------------------------------------------------------------------------------------------------


def test_spans_over_the_limit_are_dropped_and_counted(make: Make) -> None:
    before = METRICS.drops["spans", "queue_full"]
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport, most_spans=100)
    put_all(pipeline, numbered(1_000))
    assert pipeline.waiting == pipeline.limit == 100
    assert pipeline.dropped == {"queue_full": 900, "export_error": 0, "shutdown": 0}
    assert METRICS.drops["spans", "queue_full"] == before + 900
    transport.go.set()
    assert pipeline.force_flush()
    assert transport.taken == numbered(100)
    put_all(pipeline, numbered(50))  # there is capacity again
    assert pipeline.force_flush()
    assert (pipeline.exported, pipeline.dropped["queue_full"]) == (150, 900)


def test_appended_spans_over_the_limit_are_dropped_and_counted(make: Make) -> None:
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport, most_spans=100)
    for _ in range(50):
        for span in numbered(20):
            pipeline.append(span)
        pipeline.check_backlog(20)
    assert pipeline.waiting == 100
    assert pipeline.dropped == {"queue_full": 900, "export_error": 0, "shutdown": 0}


def test_encoder_takes_no_span_over_the_limit(make: Make) -> None:
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport, most_spans=100)
    put_all(pipeline, numbered(40))
    eventually(lambda: pipeline._in_export() == 40)
    for span in numbered(80):
        pipeline.append(span)
    eventually(lambda: pipeline._in_export() >= 100)  # the encoder was quicker than the check
    pipeline.check_backlog(80)
    assert pipeline.waiting == 100
    assert pipeline.dropped == {"queue_full": 20, "export_error": 0, "shutdown": 0}


def test_backlog_check_drops_no_more_than_was_added(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(ScriptedTransport(hang=True), most_spans=100, batch_spans=1_000, delay_s=HANG_GUARD_S)
    eventually(lambda: not pipeline._awake)  # from here on only free capacity wakes it
    for span in numbered(40):
        pipeline.append(span)
    monkeypatch.setattr(pipeline, "_capacity", lambda: 0)  # as if a slow collector had used up the byte limit
    pipeline.append("late")
    monkeypatch.setattr(pipeline, "_wake_above", 0)
    pipeline.check_backlog(1)
    assert pipeline.dropped["queue_full"] == 1
    assert pipeline.waiting == 40


def test_spans_over_the_byte_limit_are_dropped_and_counted(make: Make) -> None:
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport, most_bytes=100_000, batch_spans=16)
    large = "x" * 999
    for _ in range(1_000):
        pipeline.put(large)
        time.sleep(0.0001)
    eventually(lambda: not pipeline._waiting or pipeline._capacity() == 0)
    held = pipeline._in_export() * 1_000
    assert 100_000 <= held <= 100_000 + 2_048_000
    assert pipeline.dropped["queue_full"] > 0
    assert pipeline.limit == 100
    assert_balanced(pipeline)
    transport.go.set()
    assert pipeline.force_flush()
    assert pipeline.exported == len(transport.taken) == 1_000 - pipeline.dropped["queue_full"]
    put_all(pipeline, numbered(10))  # there is capacity again
    assert pipeline.force_flush()
    assert transport.taken[-10:] == numbered(10)


def test_encoder_without_capacity_waits_and_wakes(make: Make) -> None:
    transport, encoding = ScriptedTransport(hang=True), threading.Event()

    def wait_and_encode(names: Sequence[str]) -> bytes:
        encoding.wait(HANG_GUARD_S)
        return encode(names)

    pipeline = make(transport, encode=wait_and_encode, most_bytes=1, batch_spans=1, delay_s=3_600)
    pipeline.put("first")
    eventually(lambda: pipeline._taken)
    pipeline.put("second")
    pipeline._take = take = Counted(pipeline._take)  # type: ignore[method-assign,assignment]
    encoding.set()
    eventually(lambda: pipeline._out_of_capacity)
    put_all(pipeline, numbered(1_000))
    time.sleep(0.05)
    assert pipeline.dropped["queue_full"] == 1_000
    assert len(take.calls) == 1  # the call that found no capacity
    transport.go.set()
    eventually(lambda: transport.taken == ["first", "second"])


def test_flush_does_not_wait_for_dropped_spans(make: Make) -> None:
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport, most_spans=100)
    put_all(pipeline, numbered(200))
    flushed: list[bool] = []
    flush = threading.Thread(target=lambda: flushed.append(pipeline.force_flush()))
    flush.start()
    eventually(lambda: transport.bodies)
    put_all(pipeline, numbered(200))
    assert not flushed
    transport.go.set()
    flush.join(HANG_GUARD_S)
    assert flushed == [True]
    assert (pipeline.exported, pipeline.dropped["queue_full"]) == (100, 300)


def test_flush_does_not_wait_for_spans_dropped_meanwhile(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport, most_spans=100)
    put_all(pipeline, numbered(100))
    eventually(lambda: pipeline._in_export() == 100)
    pipeline.append("over the limit")
    assert pipeline._threads is not None

    def drop_and_go_on() -> None:
        pipeline.check_backlog(1)
        transport.go.set()

    monkeypatch.setattr(pipeline._threads[1], "retry_now", drop_and_go_on)  # after the flush has counted the spans
    assert pipeline.force_flush()
    assert (pipeline.exported, pipeline.dropped["queue_full"]) == (100, 1)


# -- spans that cannot be encoded --------------------------------------------------------------------------------------


def test_unencodable_span_is_dropped_alone_and_logged_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    def picky(names: Sequence[str]) -> bytes:
        if any("bad" in name for name in names):
            raise TypeError("no such attribute")
        return encode(names)

    transport = ScriptedTransport()
    pipeline = make(transport, encode=picky, delay_s=3_600)
    put_all(pipeline, [*numbered(700), "bad", *numbered(300), "bad", *numbered(20)])
    assert pipeline.force_flush()
    assert transport.taken == [*numbered(700), *numbered(300), *numbered(20)]
    assert pipeline.dropped["export_error"] == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no such attribute" in caplog.text


# -- outcomes of requests ----------------------------------------------------------------------------------------------


def test_retryable_request_is_sent_again(make: Make) -> None:
    transport = ScriptedTransport(LATER, LATER, TAKEN)
    pipeline = make(transport, backoff=PATIENT)
    pipeline.put("s")
    eventually(lambda: pipeline.exported == 1)
    assert transport.bodies == [b"s "] * 3


def test_unretryable_request_is_dropped_and_the_next_is_sent(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport(LOST, TAKEN)
    pipeline = make(transport)
    pipeline.put("first")
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    pipeline.put("second")
    assert pipeline.force_flush()
    assert transport.taken == ["second"]
    assert caplog.messages == ["export of spans to http://collector: HTTP 400 bad; dropped 1 spans"]


def test_absent_collector_drops_requests_and_is_logged_rarely(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport(LATER)
    pipeline = make(transport, backoff=Backoff(first_s=0.01, most_s=0.02, give_up_s=1.0))
    pipeline.put("s")
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    assert len(transport.bodies) > 2
    pipeline.put("s")
    eventually(lambda: pipeline.dropped["export_error"] == 2)
    assert caplog.messages == [
        "export of spans to http://collector: refused; retrying",
        "export of spans to http://collector: refused; dropped 1 spans after 1 s of retries",
    ]


def test_retry_delay_of_the_collector_is_honoured(make: Make) -> None:
    transport = ScriptedTransport(Outcome(False, retry=True, after_s=0.15), TAKEN)
    pipeline = make(transport, backoff=PATIENT)
    pipeline.put("s")
    eventually(lambda: transport.at)
    assert pipeline.force_flush()  # skips the backoff, but not the collector's delay
    assert transport.at[1] - transport.at[0] >= 0.15


def test_flush_skips_the_backoff(make: Make) -> None:
    transport = ScriptedTransport(LATER, TAKEN)
    pipeline = make(transport, backoff=Backoff(first_s=3_600, most_s=3_600, give_up_s=7_200))
    pipeline.put("s")
    eventually(lambda: pipeline._threads is not None and pipeline._threads[1]._failures)
    assert pipeline.force_flush()
    assert transport.taken == ["s"]


def test_rejected_spans_are_counted(make: Make) -> None:
    transport = ScriptedTransport(Outcome(True, rejected=3, kind="partial success"), Outcome(True, rejected=99))
    pipeline = make(transport, delay_s=3_600)
    put_all(pipeline, numbered(10))
    assert pipeline.force_flush()
    assert (pipeline.exported, pipeline.dropped["export_error"]) == (7, 3)
    put_all(pipeline, numbered(10))
    assert pipeline.force_flush()  # capped at the number of spans
    assert (pipeline.exported, pipeline.dropped["export_error"]) == (7, 13)


def test_unexpected_error_loses_one_request_and_not_the_thread(make: Make) -> None:
    transport = ScriptedTransport(RuntimeError("unforeseen"), TAKEN)
    pipeline = make(transport)
    pipeline.put("first")
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    pipeline.put("second")
    assert pipeline.force_flush()
    assert transport.taken == ["second"]


def test_request_over_its_timeout_is_aborted(make: Make) -> None:
    transport = ScriptedTransport(hang=True)
    transport.timeout_s = -1.0  # the grace makes that 0 s
    pipeline = make(transport)
    pipeline.put("s")
    eventually(lambda: transport.aborted)
    assert pipeline.exported == 0


def test_pipeline_threads_suppress_instrumentation(make: Make) -> None:
    seen = []

    def observe(names: Sequence[str]) -> bytes:
        seen.append(otel_context.get_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY))
        return encode(names)

    transport = ScriptedTransport()
    pipeline = make(transport, encode=observe)
    pipeline.put("s")
    assert pipeline.force_flush()
    assert (seen, transport.suppressed) == ([True], [True])


# -- flush and close ---------------------------------------------------------------------------------------------------


def test_flush_returns_false_after_its_timeout(make: Make) -> None:
    pipeline = make(ScriptedTransport(hang=True))
    pipeline.put("s")
    assert not pipeline.force_flush(20)
    assert_balanced(pipeline)
    assert pipeline.waiting == 1


def test_flush_ends_while_other_spans_arrive(make: Make) -> None:
    transport, over = ScriptedTransport(), threading.Event()
    pipeline = make(transport)

    def go_on() -> None:
        while not over.is_set():
            pipeline.put("other")

    other = threading.Thread(target=go_on)
    other.start()
    try:
        for number in range(5):
            pipeline.put(f"mine{number}")
            assert pipeline.force_flush(int(HANG_GUARD_S * 1_000))
            assert f"mine{number}" in transport.taken
    finally:
        over.set()
        other.join(HANG_GUARD_S)


def test_close_exports_waiting_spans_and_ends_the_threads(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport, delay_s=3_600)
    put_all(pipeline, numbered(700))
    pipeline.close(HANG_GUARD_S)
    assert transport.taken == numbered(700)
    assert transport.closed.wait(HANG_GUARD_S)
    pipeline.close(HANG_GUARD_S)  # a second close does nothing
    assert pipeline.force_flush()


def test_hanging_collector_delays_close_by_the_timeout_only(
    make: Make,
) -> None:
    before = METRICS.drops["spans", "shutdown"]
    transport = ScriptedTransport(hang=True)
    pipeline = make(transport)
    put_all(pipeline, numbered(35))
    began = time.monotonic()
    pipeline.close(0.2)
    assert time.monotonic() - began < HANG_GUARD_S / 2
    assert (pipeline.dropped["shutdown"], pipeline.exported, pipeline.waiting) == (35, 0, 0)
    put_all(pipeline, numbered(2))
    assert (pipeline.ended, pipeline.dropped["shutdown"], len(pipeline._waiting)) == (37, 37, 0)
    assert METRICS.drops["spans", "shutdown"] == before + 37
    transport.go.set()
    assert transport.closed.wait(HANG_GUARD_S)
    pipeline._on_sent(35, 0, True)
    assert (pipeline.exported, pipeline.dropped["shutdown"]) == (
        0,
        37,
    )  # `close` has counted them


def test_close_keeps_time_to_end_a_hanging_request(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the time that is kept, the aborted request ends, and the thread closes the connection."""

    class Aborted(ScriptedTransport):
        def abort(self) -> None:
            super().abort()
            threading.Timer(0.05, self.go.set).start()

    now = [1_000.0]
    virtual = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter, sleep=time.sleep)
    monkeypatch.setattr(pipeline_module, "time", virtual)
    monkeypatch.setattr(pipeline_module, "_FINAL_JOIN_S", HANG_GUARD_S)
    transport = Aborted(hang=True)
    pipeline = make(transport)
    pipeline.put("s")
    eventually(lambda: transport.bodies)
    assert pipeline._threads is not None
    encoder, sender = pipeline._threads
    monkeypatch.setattr(pipeline._progress, "wait", lambda seconds: now.__setitem__(0, now[0] + seconds))
    pipeline.close(10 * HANG_GUARD_S)
    assert transport.closed.is_set(), "the connection was closed while there was time"
    assert not sender._thread.is_alive()
    assert not encoder.is_alive()
    assert now[0] == pytest.approx(1_000 + 9 * HANG_GUARD_S, abs=1)


def test_close_skips_the_backoff(make: Make) -> None:
    much_later = Outcome(False, retry=True, after_s=3_600)  # ends the wait of close
    transport = ScriptedTransport(LATER, much_later)
    backoff = Backoff(first_s=3_600, most_s=3_600, most_after_s=3_600, give_up_s=7_200)
    pipeline = make(transport, backoff=backoff)
    pipeline.put("s")
    eventually(lambda: pipeline._threads is not None and pipeline._threads[1]._failures)
    pipeline.close(HANG_GUARD_S)
    assert transport.closed.wait(HANG_GUARD_S)
    assert len(transport.bodies) == 2  # one more attempt during close
    assert pipeline.dropped["shutdown"] == 1


def test_close_returns_at_once_if_the_retry_delay_exceeds_the_timeout(make: Make) -> None:
    transport = ScriptedTransport(Outcome(False, retry=True, after_s=3_600))
    pipeline = make(transport, backoff=Backoff())
    pipeline.put("s")
    eventually(lambda: pipeline._threads is not None and pipeline._threads[1].retry_after_until)
    began = time.monotonic()
    pipeline.close(HANG_GUARD_S)
    assert time.monotonic() - began < HANG_GUARD_S / 2
    assert (len(transport.bodies), pipeline.dropped["shutdown"]) == (1, 1)


def test_spans_put_after_close_are_counted(make: Make) -> None:
    transport = ScriptedTransport()
    pipeline = make(transport)
    counts = [0] * 3
    over = threading.Event()

    def go_on(me: int) -> None:
        while not over.is_set():
            pipeline.put("s")
            counts[me] += 1

    others = [threading.Thread(target=go_on, args=(me,)) for me in range(3)]
    for other in others:
        other.start()
    time.sleep(0.05)
    pipeline.close(0.05)
    eventually(lambda: pipeline.dropped["shutdown"])
    over.set()
    for other in others:
        other.join(HANG_GUARD_S)
    assert pipeline.ended == sum(counts)
    assert pipeline.exported <= len(transport.taken)


def test_spans_appended_after_close_are_counted_at_the_next_check(make: Make) -> None:
    pipeline = make(ScriptedTransport())
    pipeline.close(HANG_GUARD_S)
    for span in numbered(5):
        pipeline.append(span)
    pipeline.check_backlog(5)
    assert pipeline.dropped["shutdown"] == pipeline.ended == 5


def test_child_that_cannot_start_threads_counts_its_spans_as_dropped(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    pipeline = make(ScriptedTransport())
    pipeline.close(1.0)
    pipeline._closed = False
    pipeline._after_fork()  # as in a child
    monkeypatch.setattr(threading.Thread, "start", refuse)
    put_all(pipeline, numbered(3))
    assert (pipeline.ended, pipeline.dropped["shutdown"]) == (3, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_exports_its_own_spans_only() -> None:
    code = """
    import os
    from flowrt.telemetry.otlp import Outcome, SpanPipeline
    class Tell:
        timeout_s, where = 10.0, "there"
        def pack(self, payloads): return payloads
        def send(self, body):
            who = "parent" if os.getpid() == parent else "child"
            os.write(1, "".join(f"{who} {name}\\n" for name in b"".join(body).decode().split()).encode())
            return Outcome(True)
        def abort(self): pass
        def close(self): pass
        def forget(self): os.write(1, b"child forgets\\n")
    parent = os.getpid()
    pipeline = SpanPipeline(Tell(), lambda names: "".join(n + " " for n in names).encode(), delay_s=30)
    pipeline.put("before")
    if (child := os.fork()) == 0:
        assert (pipeline.ended, pipeline.waiting) == (0, 0)
        assert pipeline.force_flush(10_000)
        pipeline.put("mine")
        pipeline.close(10)
        assert (pipeline.ended, pipeline.exported, sum(pipeline.dropped.values())) == (1, 1, 0)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    pipeline.close(10)
    assert (pipeline.ended, pipeline.exported) == (1, 1)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert sorted(done.stdout.splitlines()) == ["child forgets", "child mine", "parent before"]

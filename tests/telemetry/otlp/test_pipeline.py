"""The hand-over, the encoder and the account, with a way to the collector that does as it is told."""

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
from typing import Any

import pytest
from opentelemetry import context as otel_context

from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.otlp import Backoff, Outcome, SpanPipeline
from tests.telemetry.otlp.harness import HANG_GUARD_S, assert_balanced, eventually

ROOT = Path(__file__).parent.parent.parent.parent
TAKEN = Outcome(True)
LATER = Outcome(False, retry=True, kind="refused", detail="refused")
LOST = Outcome(False, kind="HTTP 400", detail="HTTP 400 bad")
QUICK = Backoff(first_s=0.01, most_s=0.02, give_up_s=0.2)


class Told:
    """A way to a collector that answers as a script says, the last answer again and again."""

    timeout_s = 10.0
    where = "http://collector"

    def __init__(self, *script: Outcome | Exception, hang: bool = False) -> None:
        self.script = list(script or (TAKEN,))
        self.bodies: list[bytes] = []  # of each attempt
        self.taken: list[str] = []
        self.at: list[float] = []
        self.suppressed: list[object] = []
        self.closed = threading.Event()
        self.aborted = 0
        self.go = threading.Event()
        if not hang:
            self.go.set()

    def pack(self, payload: bytes) -> bytes:
        return payload

    def send(self, body: bytes) -> Outcome:
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
    """A function that knows what it was called with."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.calls: list[tuple[object, ...]] = []
        self._function = function

    def __call__(self, *args: object) -> Any:
        self.calls.append(args)
        return self._function(*args)


Make = Callable[..., SpanPipeline]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes pipelines, and ends them with the test, their books balanced."""
    made: list[tuple[Told, SpanPipeline]] = []

    def start(told: Told, **settings: Any) -> SpanPipeline:
        pipeline = SpanPipeline(told, **{"encode": encode, "delay_s": 0.01, "backoff": QUICK, **settings})
        made.append((told, pipeline))
        return pipeline

    yield start
    for told, pipeline in made:
        pipeline.close(0.0)
        told.go.set()
        assert_balanced(pipeline)
        assert pipeline.waiting == 0


# -- what goes in comes out --------------------------------------------------------------------------------------------


def test_every_span_is_exported_in_order_and_counted(make: Make) -> None:
    told = Told()
    pipeline = make(told)
    put_all(pipeline, numbered(5_000))
    assert pipeline.force_flush()
    assert told.taken == numbered(5_000)
    assert (pipeline.ended, pipeline.exported, sum(pipeline.dropped.values()), pipeline.waiting) == (5_000, 5_000, 0, 0)


def test_a_producer_at_full_speed_loses_nothing(make: Make) -> None:
    told = Told()
    pipeline = make(told, encode=lambda spans: b"s " * len(spans))
    put = pipeline.put
    for _ in range(300_000):
        put(None)
    pipeline.close(HANG_GUARD_S)
    assert len(told.taken) == 300_000
    assert (pipeline.ended, pipeline.exported) == (300_000, 300_000)


def test_a_lone_span_waits_no_longer_than_the_delay(make: Make) -> None:
    told = Told()
    pipeline = make(told)
    pipeline.put("alone")
    eventually(lambda: pipeline.exported)
    assert told.taken == ["alone"]


def test_enough_spans_do_not_wait_for_the_delay(make: Make) -> None:
    told = Told()
    pipeline = make(told, delay_s=3_600, batch_spans=10)
    eventually(lambda: not pipeline._awake)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert told.taken == numbered(10)


def test_half_of_what_there_is_room_for_does_not_wait_either(make: Make) -> None:
    told = Told()
    pipeline = make(told, delay_s=3_600, most_spans=20)
    eventually(lambda: not pipeline._awake)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert told.taken == numbered(10)


def test_several_threads_may_put(make: Make) -> None:
    told = Told()
    pipeline = make(told, most_spans=2_000)
    threads = [threading.Thread(target=put_all, args=(pipeline, numbered(20_000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)
    assert pipeline.force_flush()
    assert pipeline.ended == 80_000
    assert pipeline.exported == len(told.taken) == 80_000 - pipeline.dropped["queue_full"]


def test_what_waits_behind_a_request_is_joined_to_the_next_up_to_its_size(make: Make) -> None:
    told = Told(hang=True)
    pipeline = make(told, request_bytes=4_000)
    pipeline.put("first")
    eventually(lambda: told.bodies)
    for name in numbered(1_000):
        pipeline.put(name)
        if name.endswith("00"):
            time.sleep(0.002)
    told.go.set()
    assert pipeline.force_flush()
    assert told.taken == ["first", *numbered(1_000)]
    sizes = [len(body) for body in told.bodies[1:]]
    assert max(sizes) <= 4_000
    assert sum(sizes) / len(sizes) > 1_000


def test_spans_too_large_for_one_request_go_out_in_several(make: Make) -> None:
    told = Told()
    pipeline = make(told, request_bytes=1_000, batch_spans=512, delay_s=3_600)
    names = [f"{number:0100}" for number in range(500)]
    put_all(pipeline, names)
    assert pipeline.force_flush()
    assert told.taken == names
    assert max(map(len, told.bodies)) <= 1_000


def test_a_span_too_large_for_any_request_goes_out_alone(make: Make) -> None:
    told = Told()
    pipeline = make(told, request_bytes=100)
    put_all(pipeline, ["small", "x" * 1_000, "small too"])
    assert pipeline.force_flush()
    assert told.taken == ["small", "x" * 1_000, "small", "too"]
    assert b"x" * 1_000 + b" " in told.bodies


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_spans_beyond_the_bound_are_dropped_and_counted_exactly(make: Make) -> None:
    before = METRICS.drops["spans", "queue_full"]
    told = Told(hang=True)
    pipeline = make(told, most_spans=100)
    put_all(pipeline, numbered(1_000))
    assert pipeline.waiting == pipeline.limit == 100
    assert pipeline.dropped == {"queue_full": 900, "export_error": 0, "shutdown": 0}
    assert METRICS.drops["spans", "queue_full"] == before + 900
    told.go.set()
    assert pipeline.force_flush()
    assert told.taken == numbered(100)
    put_all(pipeline, numbered(50))  # there is room again
    assert pipeline.force_flush()
    assert (pipeline.exported, pipeline.dropped["queue_full"]) == (150, 900)


def test_spans_that_are_looked_at_after_every_few_are_dropped_and_counted_too(make: Make) -> None:
    told = Told(hang=True)
    pipeline = make(told, most_spans=100)
    for _ in range(50):
        for span in numbered(20):
            pipeline.append(span)
        pipeline.look(20)
    assert pipeline.waiting == 100
    assert pipeline.dropped == {"queue_full": 900, "export_error": 0, "shutdown": 0}


def test_a_look_takes_back_no_more_than_was_added(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(Told(hang=True), most_spans=100, batch_spans=1_000, delay_s=HANG_GUARD_S)
    eventually(lambda: not pipeline._awake)  # from here on it is woken by nothing but the room
    for span in numbered(40):
        pipeline.append(span)
    monkeypatch.setattr(pipeline, "_room", lambda: 0)  # as when a slow collector has left none for bytes
    pipeline.append("late")
    monkeypatch.setattr(pipeline, "_level", 0)
    pipeline.look(1)
    assert pipeline.dropped["queue_full"] == 1
    assert pipeline.waiting == 40


def test_bytes_beyond_the_bound_are_dropped_and_counted_exactly(make: Make) -> None:
    told = Told(hang=True)
    pipeline = make(told, most_bytes=100_000, batch_spans=16)
    large = "x" * 999
    for _ in range(1_000):
        pipeline.put(large)
        time.sleep(0.0001)
    eventually(lambda: not pipeline._waiting or pipeline._room() == 0)
    held = pipeline._held() * 1_000
    assert 100_000 <= held <= 100_000 + 2_048_000
    assert pipeline.dropped["queue_full"] > 0
    assert pipeline.limit == 100
    assert_balanced(pipeline)
    told.go.set()
    assert pipeline.force_flush()
    assert pipeline.exported == len(told.taken) == 1_000 - pipeline.dropped["queue_full"]
    put_all(pipeline, numbered(10))  # there is room again
    assert pipeline.force_flush()
    assert told.taken[-10:] == numbered(10)


def test_a_pipeline_without_room_neither_spins_nor_sleeps_on(make: Make) -> None:
    told, encoding = Told(hang=True), threading.Event()

    def wait_and_encode(names: Sequence[str]) -> bytes:
        encoding.wait(HANG_GUARD_S)
        return encode(names)

    pipeline = make(told, encode=wait_and_encode, most_bytes=1, batch_spans=1, delay_s=3_600)
    pipeline.put("first")
    eventually(lambda: pipeline._entered)
    pipeline.put("second")
    pipeline._take = take = Counted(pipeline._take)  # type: ignore[method-assign,assignment]
    encoding.set()
    eventually(lambda: pipeline._starved)
    put_all(pipeline, numbered(1_000))
    time.sleep(0.05)
    assert pipeline.dropped["queue_full"] == 1_000
    assert len(take.calls) == 1  # the one that found no room
    told.go.set()
    eventually(lambda: told.taken == ["first", "second"])


def test_a_flush_waits_for_what_was_taken_and_not_for_what_was_refused(make: Make) -> None:
    told = Told(hang=True)
    pipeline = make(told, most_spans=100)
    put_all(pipeline, numbered(200))
    flushed: list[bool] = []
    flush = threading.Thread(target=lambda: flushed.append(pipeline.force_flush()))
    flush.start()
    eventually(lambda: told.bodies)
    put_all(pipeline, numbered(200))
    assert not flushed
    told.go.set()
    flush.join(HANG_GUARD_S)
    assert flushed == [True]
    assert (pipeline.exported, pipeline.dropped["queue_full"]) == (100, 300)


# -- spans that cannot be encoded --------------------------------------------------------------------------------------


def test_a_span_that_cannot_be_encoded_takes_no_other_with_it_and_is_logged_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def picky(names: Sequence[str]) -> bytes:
        if any("bad" in name for name in names):
            raise TypeError("no such attribute")
        return encode(names)

    told = Told()
    pipeline = make(told, encode=picky, delay_s=3_600)
    put_all(pipeline, [*numbered(700), "bad", *numbered(300), "bad", *numbered(20)])
    assert pipeline.force_flush()
    assert told.taken == [*numbered(700), *numbered(300), *numbered(20)]
    assert pipeline.dropped["export_error"] == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no such attribute" in caplog.text


# -- what the collector says -------------------------------------------------------------------------------------------


def test_a_request_that_may_be_sent_again_is(make: Make) -> None:
    told = Told(LATER, LATER, TAKEN)
    pipeline = make(told)
    pipeline.put("s")
    eventually(lambda: pipeline.exported == 1)
    assert told.bodies == [b"s "] * 3


def test_a_request_that_must_not_be_sent_again_is_lost_and_the_next_is_not(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(LOST, TAKEN)
    pipeline = make(told)
    pipeline.put("first")
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    pipeline.put("second")
    assert pipeline.force_flush()
    assert told.taken == ["second"]
    assert caplog.messages == ["export of spans to http://collector: HTTP 400 bad; 1 spans are lost"]


def test_a_collector_that_stays_away_costs_what_it_was_tried_with_and_is_logged_rarely(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(LATER)
    pipeline = make(told)
    pipeline.put("s")
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    assert len(told.bodies) > 2
    pipeline.put("s")
    eventually(lambda: pipeline.dropped["export_error"] == 2)
    assert caplog.messages == [
        "export of spans to http://collector: refused; spans wait to be sent again",
        "export of spans to http://collector: refused; 1 spans are lost after 0.2 s of trying",
    ]


def test_a_collector_that_asks_to_be_left_alone_is(make: Make) -> None:
    told = Told(Outcome(False, retry=True, after_s=0.15), TAKEN)
    pipeline = make(told)
    pipeline.put("s")
    eventually(lambda: told.at)
    assert pipeline.force_flush()  # which hurries, but not against its word
    assert told.at[1] - told.at[0] >= 0.15


def test_a_flush_does_not_wait_for_a_backoff(make: Make) -> None:
    told = Told(LATER, TAKEN)
    pipeline = make(told, backoff=Backoff(first_s=3_600, most_s=3_600, give_up_s=7_200))
    pipeline.put("s")
    eventually(lambda: pipeline._threads is not None and pipeline._threads[1]._failures)
    assert pipeline.force_flush()
    assert told.taken == ["s"]


def test_spans_that_the_collector_rejects_are_counted(make: Make) -> None:
    told = Told(Outcome(True, rejected=3, kind="partial success"), Outcome(True, rejected=99))
    pipeline = make(told, delay_s=3_600)
    put_all(pipeline, numbered(10))
    assert pipeline.force_flush()
    assert (pipeline.exported, pipeline.dropped["export_error"]) == (7, 3)
    put_all(pipeline, numbered(10))
    assert pipeline.force_flush()  # no more than there were
    assert (pipeline.exported, pipeline.dropped["export_error"]) == (7, 13)


def test_an_error_that_nobody_foresaw_loses_one_request_and_not_the_thread(make: Make) -> None:
    told = Told(RuntimeError("unforeseen"), TAKEN)
    pipeline = make(told)
    pipeline.put("first")
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    pipeline.put("second")
    assert pipeline.force_flush()
    assert told.taken == ["second"]


def test_a_request_that_takes_too_long_is_cut(make: Make) -> None:
    told = Told(hang=True)
    told.timeout_s = -1.0  # with the grace, at once
    pipeline = make(told)
    pipeline.put("s")
    eventually(lambda: told.aborted)
    assert pipeline.exported == 0


def test_neither_thread_is_traced(make: Make) -> None:
    seen = []

    def look(names: Sequence[str]) -> bytes:
        seen.append(otel_context.get_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY))
        return encode(names)

    told = Told()
    pipeline = make(told, encode=look)
    pipeline.put("s")
    assert pipeline.force_flush()
    assert (seen, told.suppressed) == ([True], [True])


# -- flush and end -----------------------------------------------------------------------------------------------------


def test_a_flush_that_is_not_done_in_time_says_so(make: Make) -> None:
    pipeline = make(Told(hang=True))
    pipeline.put("s")
    assert not pipeline.force_flush(20)
    assert_balanced(pipeline)
    assert pipeline.waiting == 1


def test_a_flush_ends_although_others_go_on(make: Make) -> None:
    told, over = Told(), threading.Event()
    pipeline = make(told)

    def go_on() -> None:
        while not over.is_set():
            pipeline.put("other")

    other = threading.Thread(target=go_on)
    other.start()
    try:
        for number in range(5):
            pipeline.put(f"mine{number}")
            assert pipeline.force_flush(int(HANG_GUARD_S * 1_000))
            assert f"mine{number}" in told.taken
    finally:
        over.set()
        other.join(HANG_GUARD_S)


def test_the_end_exports_what_waits_and_leaves_no_thread(make: Make) -> None:
    told = Told()
    pipeline = make(told, delay_s=3_600)
    put_all(pipeline, numbered(700))
    pipeline.close(HANG_GUARD_S)
    assert told.taken == numbered(700)
    assert told.closed.wait(HANG_GUARD_S)
    pipeline.close(HANG_GUARD_S)  # again does nothing
    assert pipeline.force_flush()


def test_a_collector_that_hangs_holds_the_end_up_by_the_timeout_and_its_spans_count_as_dropped_once(
    make: Make,
) -> None:
    before = METRICS.drops["spans", "shutdown"]
    told = Told(hang=True)
    pipeline = make(told)
    put_all(pipeline, numbered(35))
    began = time.monotonic()
    pipeline.close(0.2)
    assert time.monotonic() - began < HANG_GUARD_S / 2
    assert (pipeline.dropped["shutdown"], pipeline.exported, pipeline.waiting) == (35, 0, 0)
    put_all(pipeline, numbered(2))
    assert (pipeline.ended, pipeline.dropped["shutdown"], len(pipeline._waiting)) == (37, 37, 0)
    assert METRICS.drops["spans", "shutdown"] == before + 37
    told.go.set()
    assert told.closed.wait(HANG_GUARD_S)
    pipeline._settled(35, 0, True)
    assert (pipeline.exported, pipeline.dropped["shutdown"]) == (0, 37)  # too late to count


def test_the_end_does_not_wait_for_a_backoff(make: Make) -> None:
    told = Told(LATER)
    pipeline = make(told, backoff=Backoff(first_s=3_600, most_s=3_600, give_up_s=7_200))
    pipeline.put("s")
    eventually(lambda: told.bodies)
    pipeline.close(0.1)
    assert told.closed.wait(HANG_GUARD_S)
    assert len(told.bodies) == 2  # it was tried once more
    assert pipeline.dropped["shutdown"] == 1


def test_the_end_comes_at_once_where_the_collector_wants_to_be_left_alone_for_longer(make: Make) -> None:
    told = Told(Outcome(False, retry=True, after_s=3_600))
    pipeline = make(told, backoff=Backoff())
    pipeline.put("s")
    eventually(lambda: pipeline._threads is not None and pipeline._threads[1].barred_until)
    began = time.monotonic()
    pipeline.close(HANG_GUARD_S)
    assert time.monotonic() - began < HANG_GUARD_S / 2
    assert (len(told.bodies), pipeline.dropped["shutdown"]) == (1, 1)


def test_producers_that_go_on_past_the_end_are_counted(make: Make) -> None:
    told = Told()
    pipeline = make(told)
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
    time.sleep(0.02)
    over.set()
    for other in others:
        other.join(HANG_GUARD_S)
    assert pipeline.ended == sum(counts)
    assert pipeline.dropped["shutdown"] > 0
    assert pipeline.exported <= len(told.taken)


def test_spans_appended_past_the_end_are_counted_at_the_next_look(make: Make) -> None:
    pipeline = make(Told())
    pipeline.close(HANG_GUARD_S)
    for span in numbered(5):
        pipeline.append(span)
    pipeline.look(5)
    assert pipeline.dropped["shutdown"] == pipeline.ended == 5


def test_a_child_that_cannot_start_threads_any_more_drops_its_spans_and_counts_them(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    pipeline = make(Told())
    pipeline.close(1.0)
    pipeline._closed = False
    pipeline._after_fork()  # as in a child
    monkeypatch.setattr(threading.Thread, "start", refuse)
    put_all(pipeline, numbered(3))
    assert (pipeline.ended, pipeline.dropped["shutdown"]) == (3, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_exports_its_own_spans_and_not_the_parent_s() -> None:
    code = """
    import os
    from flowrt.telemetry.otlp import Outcome, SpanPipeline
    class Tell:
        timeout_s, where = 10.0, "there"
        def pack(self, payload): return payload
        def send(self, body):
            who = "parent" if os.getpid() == parent else "child"
            os.write(1, "".join(f"{who} {name}\\n" for name in body.decode().split()).encode())
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

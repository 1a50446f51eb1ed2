"""Reliability: one short scenario per fault, numbered as in docs/reliability.md.

Numbered tests that run a batch in this process end with the same checks, by the fixtures `oracle` and `run`: no task,
thread or file descriptor is left, asyncio and OpenTelemetry log no warning, and the records, counters, item spans and
terminal log events agree for each status. The others run the command or a script. The tests of each module go deeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import logging
import os
import pickle  # to check that nothing reads one
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from enum import IntEnum
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flowrt import (
    BaseNode,
    BatchFailedError,
    BatchProcessor,
    BatchResult,
    FunctionNode,
    Instrument,
    ItemFailedError,
    JournalPolicy,
    NodeContext,
    NodeResult,
    ProcessesExecutor,
    Telemetry,
    WorkflowContext,
    race,
)
from flowrt.engine.batch_run import active_batches
from flowrt.errors import JournalDamagedError, JournalDiskError, JournalInUseError, JournalMismatchError
from flowrt.executors import process_transport
from flowrt.executors.workers import COUNTS, worker_states
from flowrt.journal import Journal
from flowrt.model import STATUSES, ItemRecord
from flowrt.server import TelemetryServer
from flowrt.telemetry.tracing.setup import make_provider
from flowrt.testing import (
    ODD_EXCEPTIONS,
    CapturedTelemetry,
    ScriptedNode,
    cancels_itself,
    capture_telemetry,
    raises,
    run_virtual,
    sleeps,
)
from tests.examples import examples
from tests.executors.worker_nodes import segfault_at_five
from tests.forked import Forks
from tests.journal.harness import BROKEN, FaultyDisk
from tests.threads import assert_no_thread_left

ROOT = Path(__file__).parents[1]
HANG_S = 60.0
BATCH, NODE = "reliability", "node"

Run = Callable[[Any], Any]
Command = Callable[..., "subprocess.CompletedProcess[str]"]
uvloop.new_event_loop().close()  # libuv opens its descriptors once per process: not a leak of a test


class Oracle(Instrument):
    """Makes fully observed processors, and compares records, counters, spans and log events."""

    def __init__(self, telemetry: CapturedTelemetry) -> None:
        self.telemetry = telemetry
        self.events = telemetry.events
        self.finished: list[ItemRecord] = []
        self.statuses: Counter[str] = Counter()

    def item_finished(self, item: ItemRecord) -> None:
        self.finished.append(item)
        self.statuses[item.status] += 1

    def processor(self, node: Any, max_concurrency: int = 10, *args: Any, **settings: Any) -> BatchProcessor:
        node = node if isinstance(node, BaseNode) else FunctionNode(node, NODE)
        own = settings.pop("instruments", ())
        settings.setdefault("telemetry", Telemetry(item_events=True))
        return BatchProcessor(node, max_concurrency, *args, name=BATCH, instruments=[*own, self], **settings)

    def spans(self) -> list[ReadableSpan]:
        return self.telemetry.item_spans

    def check(self, **expected: int) -> None:
        """Assert that records, counters, spans and log events agree, and equal `expected` if given."""
        statuses = self.statuses
        if expected:
            assert statuses == expected
        assert statuses == Counter(item.status for item in self.finished), "a finished record does not change"
        self.telemetry.assert_agrees_with(self.finished, batch=BATCH)
        ended = [span for span in self.telemetry.spans if span.name == f"batch {BATCH}"]
        assert len(ended) == len(self.telemetry.logged("batch.started")), "every batch span has ended"
        parents = {span.context.span_id for span in ended}
        for span in self.spans():
            above = {span.parent.span_id} if span.parent else {link.context.span_id for link in span.links}
            assert above <= parents
        self.telemetry.assert_counted(0, "flowrt_unaccounted_items", batch=BATCH)
        self.telemetry.assert_counted(0, "flowrt_items_inflight", batch=BATCH, node=NODE)


def sample(name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(generate_latest(REGISTRY).decode()):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return float(found.value)
    raise AssertionError(f"{name}{labels} was not scraped")


def descriptors() -> set[str]:
    links = {path: path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    return {f"{path.name}: {target}" for path, target in links.items()}


@pytest.fixture
def oracle(caplog: pytest.LogCaptureFixture) -> Iterator[Oracle]:
    BatchProcessor(FunctionNode(len, NODE), name=BATCH)  # the collector and its first threads exist from here on
    threads, open_before = set(threading.enumerate()), descriptors()
    with capture_telemetry() as telemetry:
        yield Oracle(telemetry)
    gc.collect()
    assert_no_thread_left(threads)
    assert descriptors() <= open_before, "no file descriptor is left"
    complaints = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [r.getMessage() for r in complaints if r.name.startswith(("asyncio", "opentelemetry"))] == []


class Watch:
    """Node that sleeps for its item's seconds, needs 0.5 s to clean up, and counts its calls."""

    def __init__(self) -> None:
        self.running = self.most = self.started = self.done = self.cleaned_up = 0

    async def __call__(self, seconds: float) -> float:
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(seconds)
            self.done += 1
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            self.cleaned_up += 1
            raise
        finally:
            self.running -= 1
        return seconds


# -- durability ------------------------------------------------------------------------------------------------------


class Journaled:
    """Node that counts its runs, with batches of it on a journal."""

    def __init__(self, oracle: Oracle, path: Path) -> None:
        self.oracle = oracle
        self.path = path
        self.runs: Counter[int] = Counter()

    async def __call__(self, x: int) -> int:
        self.runs[x] += 1
        await asyncio.sleep(1 + x % 3)
        if x % 5 == 4:
            raise ValueError(f"{x} is refused")
        return 10 * x

    def batch(self, count: int = 20, c: int = 4, journal: Any = None) -> Any:
        return self.oracle.processor(self, c, journal=journal or self.path).batch(range(count))


def outcomes(results: Iterable[BatchResult]) -> list[tuple[Any, ...]]:
    return [(r.index, r.success, r.output, r.error, r.error_type, r.attempts) for r in results]


def test_01_killed_at_any_moment_a_resumed_run_ends_the_same(oracle: Oracle, run_virtual: Run, tmp_path: Path) -> None:
    job = Journaled(oracle, tmp_path / "run.journal")
    images: list[tuple[Path, Counter[int]]] = []

    async def main() -> Any:
        work = asyncio.ensure_future(job.batch())
        while not work.done():
            image = tmp_path / f"{len(images)}.journal"
            if job.path.exists():  # the file as a killed process leaves it
                image.write_bytes(job.path.read_bytes())
            images.append((image, job.runs.copy()))
            await asyncio.sleep(0.5)
        return await work

    whole = run_virtual(main())
    assert len(images) > 15
    for image, ran in images:
        job.runs = ran
        job.path = image
        results = run_virtual(job.batch())
        assert outcomes(results) == outcomes(whole)
        assert job.runs.total() <= 20 + 4
        again = job.runs.copy()
        assert outcomes(run_virtual(job.batch())) == outcomes(whole)
        assert job.runs == again, "a second resume executes nothing"
    oracle.check()


def test_02_torn_tail_is_cut_off_and_a_flipped_bit_is_named(
    oracle: Oracle, run_virtual: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = Journaled(oracle, tmp_path / "run.journal")
    whole = run_virtual(job.batch())
    content = job.path.read_bytes()
    job.path.write_bytes(content[:-60])
    job.runs.clear()
    assert outcomes(run_virtual(job.batch())) == outcomes(whole)
    assert job.runs.total() <= 2
    assert "were not written whole and were cut off" in caplog.text
    at = content.index(b'"output": 50')
    job.path.write_bytes(content[:at] + b"X" + content[at + 1 :])
    offset = content.rindex(b"\n", 0, at) + 1
    with pytest.raises(JournalDamagedError, match=f"is damaged at offset {offset} "):
        run_virtual(job.batch())
    oracle.check()


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_03_failing_disk_stops_admission_and_resuming_completes(
    operation: str, oracle: Oracle, run_virtual: Run, tmp_path: Path
) -> None:
    job = Journaled(oracle, tmp_path / "run.journal")
    disk = FaultyDisk({operation: (5, BROKEN)})

    async def main() -> None:
        with Journal(job.path, {}, disk=disk) as journal:
            await job.batch(journal=journal)

    with pytest.raises(JournalDiskError):
        run_virtual(main())
    assert disk.calls.count("sync") == (5 if operation == "sync" else 4)
    assert job.runs.total() < 20
    seen = {item.index for item in oracle.finished if item.status in ("ok", "failed")}
    assert seen

    async def resume() -> Any:
        with Journal(job.path, {}) as journal:
            return await job.batch(journal=journal)

    assert [result.success for result in run_virtual(resume())] == [x % 5 != 4 for x in range(20)]
    assert all(job.runs[index] == 1 for index in seen)
    oracle.check()


def test_05_changed_inputs_node_or_settings_execute_nothing(oracle: Oracle, run_virtual: Run, tmp_path: Path) -> None:
    job = Journaled(oracle, tmp_path / "run.journal")
    run_virtual(job.batch())
    before = job.runs.copy()
    policy = JournalPolicy(job.path, fingerprint={"model": "another"})
    for journal, inputs in ((job.path, range(1, 30)), (job.path, range(3)), (policy, range(20))):
        with pytest.raises(JournalMismatchError, match="belongs to another run"):
            run_virtual(oracle.processor(job, 4, journal=journal).batch(inputs))
    assert job.runs == before
    oracle.check()


def test_06_second_batch_on_a_journal_is_refused(oracle: Oracle, run_virtual: Run, tmp_path: Path) -> None:
    job = Journaled(oracle, tmp_path / "run.journal")

    async def main() -> Any:
        first = asyncio.ensure_future(job.batch())
        await asyncio.sleep(2)
        with pytest.raises(JournalInUseError):
            await job.batch()
        return await first

    assert len(run_virtual(main())) == 20
    oracle.check(ok=16, failed=4)


def test_09_item_cancelled_as_it_finishes_is_journaled_or_rerun(
    oracle: Oracle, run_virtual: Run, tmp_path: Path
) -> None:
    job = Journaled(oracle, tmp_path / "run.journal")

    async def main() -> None:
        work = asyncio.ensure_future(job.batch())
        await asyncio.sleep(3)  # items 0 and 4 end now
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    run_virtual(main())
    kept = {item.index for item in oracle.finished if item.status in ("ok", "failed")}
    first = job.runs.copy()
    assert len(run_virtual(job.batch())) == 20
    assert all(job.runs[x] == (1 if x in kept else 1 + first[x]) for x in range(20))
    oracle.check()


# -- concurrency -----------------------------------------------------------------------------------------------------


def test_07_fail_fast_raises_the_original_after_the_siblings_ended(oracle: Oracle, run_virtual: Run) -> None:
    error, watch = ValueError("the original"), Watch()

    async def node(x: int) -> None:
        if x == 3:
            await asyncio.sleep(1)
            raise error
        await watch(3600)

    async def main() -> None:
        with pytest.raises(ValueError, match="the original") as raised:
            await oracle.processor(node, 5, continue_on_error=False).batch(range(100))
        assert raised.value is error
        assert asyncio.get_running_loop().time() == pytest.approx(1.5), "the siblings' clean-up was awaited"
        assert (watch.running, watch.started, watch.cleaned_up) == (0, 4, 4)

    run_virtual(main())
    oracle.check(failed=1, cancelled=4)


def test_08_timeout_around_a_batch_leaves_the_processor_usable(oracle: Oracle, run_virtual: Run) -> None:
    watch = Watch()
    processor = oracle.processor(watch, 5)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(processor.batch([1] * 100), 2.5)
        assert (watch.done, watch.running, watch.cleaned_up) == (10, 0, 5)
        oracle.check(ok=10, cancelled=5)
        assert (await processor.batch([1] * 10)).success_rate == 1.0

    run_virtual(main())
    oracle.check(ok=20, cancelled=5)


@pytest.mark.parametrize("ended_by", ["item_timeout", "cancellation"])
def test_10_node_that_swallows_cancellation_is_abandoned_after_5_s(
    ended_by: str, oracle: Oracle, run_virtual: Run
) -> None:
    async def main() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        async def stubborn(_: int) -> None:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    continue

        try:
            if ended_by == "item_timeout":
                batch = oracle.processor(stubborn, item_timeout=1).batch([0])
                (result,) = await asyncio.wait_for(batch, 60)
                assert "did not stop within 5 s" in result.error
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(oracle.processor(stubborn).batch([0]), 1)
            assert loop.time() == pytest.approx(6, abs=0.1)
        finally:
            over.set()
            await asyncio.sleep(0.1)

    run_virtual(main())
    (logged,) = [event for event in oracle.events if event.get("uncancellable")]
    assert (logged["level"], logged["item_index"]) == ("warning", 0)
    oracle.check(**{"timed_out" if ended_by == "item_timeout" else "cancelled": 1})


def test_10_node_that_raises_cancelled_error_fails_its_item_alone(oracle: Oracle, run_virtual: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(x / 10)
        if x == 2:
            raise asyncio.CancelledError
        return x

    results = run_virtual(oracle.processor(node, 2).batch(range(5)))
    assert [r.status for r in results] == ["ok", "ok", "failed", "ok", "ok"]
    assert results[2].error
    oracle.check(ok=4, failed=1)


def test_11_leaving_a_stream_early_leaves_nothing_running(oracle: Oracle, run: Run) -> None:
    watch = Watch()

    async def node(x: int) -> None:
        trace.get_current_span().add_event("seen")
        await (asyncio.sleep(0.001) if x == 0 else watch(3600))

    async def main() -> None:
        with trace.get_tracer("app").start_as_current_span("request") as request:
            async for _ in oracle.processor(node, 5).batch_as_completed(range(1_000)):
                break
            async with asyncio.timeout(HANG_S / 4):
                while watch.running:
                    await asyncio.sleep(0.01)
            assert trace.get_current_span() is request

    run(main())  # which asserts that no task is left; the oracle looks for "Failed to detach context"
    assert watch.started <= 5
    oracle.check(ok=1, cancelled=watch.started)
    assert all(span.events[0].name == "seen" for span in oracle.spans()), "an item's own span is current in its node"


def test_12_consumer_that_stops_reading_holds_the_batch_back(oracle: Oracle, run_virtual: Run) -> None:
    async def main() -> None:
        taken = 0
        stream = oracle.processor(asyncio.sleep, 4).batch_as_completed(0.01 for _ in range(50))
        async for _ in stream:
            taken += 1
            if taken == 10:
                await asyncio.sleep(3600)
            assert len(oracle.finished) - taken <= 4
        assert taken == 50

    run_virtual(main())
    oracle.check(ok=50)


SCRIPT = """
import asyncio, json, logging, os, sys, threading, time, urllib.request
from collections import Counter
import flowrt
from flowrt import BatchProcessor, Runtime, run
logging.getLogger("asyncio").setLevel("ERROR")  # -X dev warns of each turn that a busy machine makes slow
"""


def script(
    body: str, *, stderr: int | Any = subprocess.PIPE, cwd: Path | None = None, **env: str
) -> subprocess.Popen[str]:
    """Start a process in development mode, where a warning is an error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT + textwrap.dedent(body)],
        env={**environment, "PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "0", **env},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=stderr,
        encoding="utf-8",
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, list[dict[str, Any]]]:
    """Wait for a process; return its exit code, its output and its log events, one per line of stderr."""
    try:
        out, err = process.communicate(timeout=HANG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()  # or the next test is blamed for its open pipes
        raise
    return process.returncode, out, [json.loads(line) for line in (err or "").splitlines()]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_13_signal_drains_flushes_and_exits_with_its_code(signum: int, code: int) -> None:
    process = script(
        """
        async def node(x):
            if x == 3:
                print("started", flush=True)
            await asyncio.sleep(0.3)
        async def main():
            try:
                await BatchProcessor(node, max_concurrency=4).batch(range(1_000))
            except flowrt.Interrupted as exc:
                print(json.dumps(Counter(r.status for r in exc.results)), flush=True)
                raise
        run(main(), log_format="json", log_level="INFO")
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signum)
    returncode, out, events = finish(process)
    assert returncode == code
    assert json.loads(out) == {"ok": 4, "cancelled": 996}
    (completed,) = [event for event in events if event["event"] == "batch.completed"]
    assert (completed["ok"], completed["cancelled"]) == (4, 996)
    assert [each["event"] for each in events if each["event"] != "loop.blocked"][-1] == "shutdown.drained"


def test_13_second_signal_ends_a_process_whose_loop_is_blocked() -> None:
    process = script(
        """
        async def node(x):
            print("started", flush=True)
            time.sleep(3600)
        run(BatchProcessor(node).batch(range(3)), log_format="json", grace=3600.0)
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143  # within the guard against hanging, not the grace of an hour


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("call", ["batch", "batch_as_completed"])
def test_14_exit_in_a_node_propagates_after_its_siblings_ended(
    kind: type[BaseException], call: str, oracle: Oracle
) -> None:
    watch = Watch()

    async def node(x: int) -> None:
        if x == 3:
            await asyncio.sleep(1)
            raise kind(7)
        await watch(3600)

    async def main() -> None:
        processor = oracle.processor(node, 5)
        if call == "batch":
            await processor.batch(range(10))
        async for _ in processor.batch_as_completed(range(10)):
            pass

    async def caught() -> None:
        with pytest.raises(kind) as raised:
            await main()
        assert raised.value.args == (7,)
        assert (watch.running, watch.cleaned_up) == (0, 4)

    run_virtual(caught())
    oracle.check(failed=1, cancelled=4)


def test_14_exit_in_a_node_is_the_exit_of_the_process() -> None:
    process = script(
        """
        async def node(x):
            raise SystemExit(7)
        run(BatchProcessor(node).batch(range(3)), log_format="json")
        """
    )
    returncode, _, events = finish(process)
    assert returncode == 7
    assert events[-1]["event"] == "batch.completed"


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_15_node_reenters_its_own_processor_at_concurrency_one(kind: str, oracle: Oracle, run: Run) -> None:
    async def reenters(x: int) -> int:
        return 1 + (await processor.batch([x - 1]))[0].output if x else 0

    def reenters_in_a_thread(x: int) -> int:
        return 1 + asyncio.run(processor.batch([x - 1]))[0].output if x else 0

    processor = oracle.processor(reenters if kind == "async" else reenters_in_a_thread, 1)

    async def main() -> list[int]:
        return [r.output for r in await asyncio.wait_for(processor.batch([3, 2]), HANG_S)]

    assert run(main()) == [3, 2]
    oracle.check(ok=4 + 3)


def test_16_node_that_blocks_the_loop_is_named_while_healthz_answers() -> None:
    process = script(
        """
        def healthz(url, blocked, answered):
            blocked.wait(60)
            with urllib.request.urlopen(url.replace("/metrics", "/healthz"), timeout=60) as answer:
                print(answer.read().decode().strip(), flush=True)
            answered.set()
        async def main():
            blocked, answered = threading.Event(), threading.Event()
            async def node(x):
                await asyncio.sleep(0.01)
                if x == 2:
                    blocked.set()
                    time.sleep(2.0)  # the culprit
                    print(answered.wait(20), flush=True)  # before the loop goes on
            url = Runtime.current().metrics_url
            asking = asyncio.create_task(asyncio.to_thread(healthz, url, blocked, answered))
            results = await BatchProcessor(node, 2).batch(range(5))
            await asking
            await asyncio.sleep(0.3)
            print(results.success_rate)
        run(main(), metrics_port=0, log_format="json")
        """
    )
    returncode, out, events = finish(process)
    assert returncode == 0
    assert out.splitlines() == ["ok", "True", "1.0"]
    stalls = [event for event in events if event["event"] == "loop.blocked"]
    (blocked,) = [event for event in stalls if event.get("node")]  # a busy machine has stalls without a node
    assert (blocked["batch"], blocked["node"], blocked["item_index"]) == ("node", "node", 2)
    assert "in main.<locals>.node" in blocked["stack"].splitlines()[-1]
    assert blocked["duration_s"] > 1.5


class Odd(BaseNode):
    """Node that returns or raises what its item makes."""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        await asyncio.sleep(0)
        what = node_context.input_data["what"]()
        if isinstance(what, BaseException):
            raise what
        return what  # type: ignore[no-any-return]


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "returns None": (lambda: None, "returned NoneType, not a NodeResult"),
    "returns a dict": (lambda: {"a": 1}, "returned dict, not a NodeResult"),
    "returns the class": (lambda: NodeResult, "returned type, not a NodeResult"),
    "raises without a message": (ODD_EXCEPTIONS["without a message"], "ValueError"),
    "raises what has no text": (
        ODD_EXCEPTIONS["without a readable text"],
        "MuteError (its message could not be read: __str__ raised RuntimeError)",
    ),
    "raises the unpicklable": (ODD_EXCEPTIONS["unpicklable"], "unpicklable"),
    "raises the falsy": (ODD_EXCEPTIONS["falsy"], "falsy"),
    "raises StopIteration": (ODD_EXCEPTIONS["StopIteration"], "StopIteration"),
    "raises StopAsyncIteration": (ODD_EXCEPTIONS["StopAsyncIteration"], "stop"),
    "raises a group": (ODD_EXCEPTIONS["a group"], "several"),
    "fails without an error": (lambda: NodeResult(False), "without an error message"),
}


@pytest.mark.parametrize("what", ODD)
def test_17_odd_results_and_exceptions_fail_one_item_with_a_clear_error(what: str, oracle: Oracle, run: Run) -> None:
    fine = {"what": lambda: NodeResult(True, 1)}
    make, error = ODD[what]
    results = run(oracle.processor(Odd(NODE), 2).batch([fine, {"what": make}, fine]))
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert error in results[1].error
    assert results[1].error_type
    oracle.check(ok=2, failed=1)


def first_even(numbers: list[int]) -> int:
    return next(number for number in numbers if number % 2 == 0)


def test_17_sync_node_that_raises_stop_iteration_fails_one_item(oracle: Oracle, run: Run) -> None:
    async def main() -> Any:
        return await asyncio.wait_for(oracle.processor(first_even, 2).batch([[1, 2], [1, 3], [4]]), HANG_S)

    results = run(main())
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert "StopIteration" in results[1].error
    oracle.check(ok=2, failed=1)


def test_17_stop_iteration_outside_a_batch_is_a_failed_result(run: Run) -> None:
    async def main() -> NodeResult:
        return await asyncio.wait_for(race([first_even], [1, 3]), HANG_S)

    assert "StopIteration" in run(main()).error


def test_18_node_that_mutates_its_input_mutates_a_copy(oracle: Oracle, run: Run) -> None:
    seen: list[Any] = []

    async def node(data: dict[str, Any]) -> int:
        seen.append({"id": data["id"], "tags": list(data["tags"])})
        data["tags"].append("changed")
        data["id"] = None
        if len(seen) <= 2:
            raise ConnectionError("not yet")
        return len(data["tags"])

    async def main() -> None:
        inputs = [{"id": i, "tags": ["a"]} for i in range(2)]
        processor = oracle.processor(node)
        first = await processor.batch(inputs)
        assert [r.input_data for r in first] == inputs == [{"id": 0, "tags": ["a"]}, {"id": 1, "tags": ["a"]}]
        assert (await processor.retry_failed(first)).success_rate == 1.0

    run(main())
    assert seen == [{"id": 0, "tags": ["a"]}, {"id": 1, "tags": ["a"]}] * 2
    oracle.check(ok=2, failed=2)


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def launch_thread() -> None:
    """Start the thread that starts workers, which lasts as long as the process."""
    process_transport._launches()


def test_19_worker_that_segfaults_is_replaced_and_only_its_item_fails(launch_thread: None, oracle: Oracle) -> None:
    async def main() -> Any:
        async with ProcessesExecutor(2) as executor:
            return await oracle.processor(segfault_at_five, executor=executor).batch(range(40))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(main())
    assert [r.output for r in results] == [None if x == 5 else 10 * x for x in range(40)]
    assert all(r.attempts == 1 for r in results)
    assert results[5].error_type == "WorkerCrashed"
    assert "SIGSEGV" in str(results[5].error)
    oracle.check(ok=39, failed=1)
    assert sample("flowrt_item_reruns_total", batch=BATCH, node=NODE) == 2


def test_21_forked_child_neither_counts_nor_ends_the_parents_workers(
    launch_thread: None, oracle: Oracle, run: Run
) -> None:
    async def pid(executor: ProcessesExecutor) -> int:
        (result,) = await oracle.processor(lambda _: os.getpid(), executor=executor).batch([1])
        return int(result.output)

    executor = ProcessesExecutor(1)
    try:
        before = run(pid(executor))
        child = os.fork()
        if not child:
            counted = worker_states() or COUNTS.busy_ns
            executor.close()  # ends no worker of the parent
            os._exit(1 if counted else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert run(pid(executor)) == before
    finally:
        executor.close()
    oracle.check(ok=2)


# -- telemetry that fails ----------------------------------------------------------------------------------------------


def test_22_collector_that_refuses_changes_no_result_and_drops_count() -> None:
    process = script(
        """
        from prometheus_client import REGISTRY
        async def node(x):
            if x % 10 == 0:
                raise ValueError("tenth")
            return x
        async def main():
            results = await BatchProcessor(node).batch(range(100))
            print(json.dumps([results.success_rate, time.time()]), flush=True)
        run(main(), log_format="json", log_level="ERROR", otlp_endpoint="http://127.0.0.1:9", flush_timeout=1.0)
        name, labels = "flowrt_telemetry_dropped_total", {"signal": "spans"}
        reasons = ("queue_full", "export_error", "cardinality", "shutdown")
        dropped = sum(REGISTRY.get_sample_value(name, {**labels, "reason": reason}) for reason in reasons)
        print(json.dumps([dropped, time.time()]), flush=True)
        """
    )
    returncode, out, _ = finish(process)
    assert returncode == 0
    (rate, ended), (dropped, flushed) = (json.loads(line) for line in out.splitlines())
    assert rate == 0.9
    assert dropped == 100 + 1, "the items' spans and the batch's: nothing was exported"
    assert flushed - ended < HANG_S / 2, "the flush timeout is 1 s; a collector may be retried for a minute"


def test_23_log_lines_that_cannot_be_written_are_counted() -> None:
    with Path("/dev/full").open("w") as full:
        process = script(
            """
            from prometheus_client import REGISTRY
            async def node(x):
                return x
            async def main():
                processor = BatchProcessor(node, telemetry=flowrt.Telemetry(item_events=True))
                print((await processor.batch(range(10))).success_rate)
            run(main(), log_format="json", log_level="DEBUG")
            labels = {"signal": "logs", "reason": "export_error"}
            print(REGISTRY.get_sample_value("flowrt_telemetry_dropped_total", labels), flush=True)
            os._exit(0)  # Python's own flush of a full stderr is an error of its own
            """,
            stderr=full,
        )
        returncode, out, _ = finish(process)
    assert returncode == 0
    rate, dropped = map(float, out.split())
    assert rate == 1.0
    assert dropped >= 10 + 2


def test_23_instrument_that_raises_is_counted_and_the_items_succeed(
    oracle: Oracle, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Instrument):
        def item_started(self, item: ItemRecord) -> None:
            raise RuntimeError("cannot watch")

    name = f"Broken{uuid.uuid4().hex}"
    broken = type(name, (Broken,), {})()
    results = run(oracle.processor(asyncio.sleep, instruments=[broken]).batch([0] * 5))
    assert results.success_rate == 1.0
    assert sample("flowrt_instrument_errors_total", instrument=name) == 1
    assert sum(name in record.getMessage() for record in caplog.records) == 1
    oracle.check(ok=5)


def test_24_no_text_breaks_the_metrics_page_or_a_log_line() -> None:
    process = script(
        r"""
        nasty = 'a "quoted" name\nof two lines\\ \udc80 {x="1"} \u2028 \x00 \x1b[31m'
        def name(kind):
            return {"short": nasty, "long": "n" * 1_000_000}[kind]
        class Node(flowrt.BaseNode):
            async def execute(self, node_context, workflow_context):
                raise type(name("long")[:1000], (Exception,), {})(name(node_context.input_data))
        def page(url):
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.status, answer.read().decode()
        async def main():
            for kind in ("short", "long"):
                results = await BatchProcessor(Node(name(kind)), name=name(kind)).batch([kind])
                assert results[0].error == name(kind), results[0].error[:100]
            status, text = await asyncio.to_thread(page, Runtime.current().metrics_url)
            from prometheus_client.parser import text_string_to_metric_families
            items = [
                found.value
                for family in text_string_to_metric_families(text) if family.name == "flowrt_items"
                for found in family.samples if found.labels["status"] == "failed"
            ]
            print(json.dumps([status, items]), flush=True)
        run(main(), metrics_port=0, log_format="json", log_level="DEBUG")
        """
    )
    out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, err[-2000:]
    assert json.loads(out) == [200, [1.0, 1.0]]
    events = [json.loads(line) for line in err.split("\n") if line]
    failures = [event for event in events if event["event"] == "item.failed"]
    assert [len(failure["error"]) > 900_000 for failure in failures] == [False, True]
    assert [event["event"] for event in events].count("batch.completed") == 2


def test_25_distinct_ids_and_errors_make_a_bounded_number_of_series() -> None:
    process = script(
        """
        from prometheus_client import generate_latest
        from prometheus_client.parser import text_string_to_metric_families
        async def node(x):
            raise type(f"Error{x}", (Exception,), {})(f"about {x}")
        async def main():
            async with Runtime(metrics_port=0), Runtime(metrics_port=0):
                for number in range(100):
                    await BatchProcessor(flowrt.FunctionNode(node, f"node-{number}"), name=f"b{number}").batch([number])
                await BatchProcessor(node, 100, name="b0").batch(range(1_000))
        run(main(), log_format="json", log_level="ERROR")
        pairs = Counter()
        for family in text_string_to_metric_families(generate_latest().decode()):
            for found in family.samples:
                pairs[found.labels.get("batch"), found.labels.get("node")] += 1
        print(json.dumps([len(pairs), max(pairs.values())]))
        """
    )
    returncode, out, _ = finish(process)
    assert returncode == 0
    pairs, most = json.loads(out)
    # 64 pairs and _other, their batches, their nodes, the process itself, and perhaps a stall with no known node
    assert pairs <= 3 * (64 + 1) + 2
    assert most <= 200


# -- secrets and foreign code ------------------------------------------------------------------------------------------


def test_26_server_refuses_strangers_on_every_route_and_method(folder: Path, command: Command) -> None:
    with pytest.raises(ValueError, match="give a token, or bind"):
        TelemetryServer(0, host="0.0.0.0")  # noqa: S104  # refused
    (folder / "in.jsonl").write_text("1\n")
    wide = ("--metrics-port", "0", "--metrics-host", "0.0.0.0")  # noqa: S104  # refused
    assert command("run", "nodes:echo", "in.jsonl", "-o", "out", *wide).returncode == 2
    assert not (folder / "ran").exists()

    for token, headers, status in (
        (None, {"Host": "evil.example"}, 421),
        (None, {"Origin": "https://evil.example"}, 403),
        ("secret", {"Authorization": "Bearer guess"}, 401),
    ):
        server = TelemetryServer(0, token=token)
        server.start()
        try:
            for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
                for route in ("/", "/metrics", "/healthz", "/readyz", "/nowhere", "/%2e%2e/etc/passwd"):
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG_S)
                    connection.request(method, route, headers=headers)
                    assert connection.getresponse().status == status, (method, route)
                    connection.close()
        finally:
            server.stop()


def test_29_secrets_in_items_and_environment_are_in_no_telemetry() -> None:
    canary = "canary-5eed"
    process = script(
        """
        from prometheus_client import generate_latest
        canary = os.environ["API_KEY"]
        async def node(item):
            await asyncio.sleep(0)
            if item["id"] == 3:
                raise ValueError(f"no luck for {item['url']} with token={item['token']}")
            if item["id"] == 4:
                await asyncio.sleep(60)
            return flowrt.NodeResult(True, {"token": item["token"]}, metadata={"url": item["url"]})
        async def main():
            items = [{"id": i, "token": canary, "url": f"https://u:{canary}@h/?k={canary}"} for i in range(5)]
            processor = BatchProcessor(node, item_timeout=1.0, telemetry=flowrt.Telemetry(item_events=True))
            results = await processor.batch(items)
            assert [r.success for r in results] == [True, True, True, False, False]
        run(main(), log_format="json", log_level="DEBUG")
        print(generate_latest().decode(), flush=True)
        """,
        API_KEY=canary,
        OTEL_TRACES_EXPORTER="console",
    )
    returncode, out, events = finish(process)
    assert returncode == 0
    assert {"item.completed", "item.failed", "item.timed_out"} <= {event["event"] for event in events}
    assert '"name": "process node"' in out, "the spans are in what was printed"
    assert "flowrt_items_total" in out, "the metrics too"
    assert canary not in out
    assert canary not in json.dumps(events)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Working directory with a module of nodes that leaves a file when it is imported and when an item runs."""
    (tmp_path / "nodes.py").write_text(
        "from pathlib import Path\n"
        "async def echo(item):\n    Path('ran').touch()\n    return item\n"
        "Path('imported').touch()\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "flowrt").write_text("from flowrt.cli.main import main\nmain(prog_name='flowrt')\n")
    return tmp_path


def flowrt(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as it is installed: a script in a folder of its own."""
    return subprocess.run(
        [sys.executable, "bin/flowrt", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@pytest.fixture(name="command")
def _command(folder: Path, forks: Forks) -> Command:
    """Runs the same command in the same folder, forked from a process that has it imported."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda *words: forks.run([*words], cwd=folder, env=env, stdin="", timeout_s=HANG_S)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda line: line["index"])


def test_29_output_file_is_readable_by_its_owner_alone(folder: Path, command: Command) -> None:
    (folder / "in.jsonl").write_text("1\n")
    assert command("run", "nodes:echo", "in.jsonl", "-o", "out").returncode == 0
    assert (folder / "out").stat().st_mode & 0o777 == 0o600


def test_04_killed_before_the_rename_the_output_is_rebuilt_whole(folder: Path) -> None:
    (folder / "in.jsonl").write_text("".join(f"{number}\n" for number in range(20)))
    command = folder / "bin" / "flowrt"
    whole = command.read_text()
    command.write_text("import os, pathlib\npathlib.Path.replace = lambda *_: os.kill(os.getpid(), 9)\n" + whole)
    job = ("run", "nodes:echo", "in.jsonl", "-o", "out", "--journal", "run.journal")
    assert flowrt(folder, *job).returncode == -signal.SIGKILL
    assert not (folder / "out").exists(), "nothing incomplete has the final name"
    (folder / "ran").unlink()
    command.write_text(whole)
    assert flowrt(folder, *job).returncode == 0
    assert not (folder / "ran").exists(), "every item is in the journal"
    assert [line["output"] for line in lines_of(folder / "out")] == list(range(20))


def test_30_no_pickle_is_read_from_input_or_journal(folder: Path) -> None:
    command = folder / "bin" / "flowrt"
    hook = "lambda event, _: event == 'pickle.find_class' and os._exit(99)"
    command.write_text(f"import os, sys\nsys.addaudithook({hook})\n" + command.read_text())
    bomb = pickle.dumps(os.getcwd, protocol=0)
    (folder / "in.jsonl").write_text(json.dumps(bomb.decode()) + "\n")
    (folder / "bomb.pickle").write_bytes(bomb)
    job = ("run", "nodes:echo", "in.jsonl", "-o", "out", "--journal")
    assert [flowrt(folder, *job, "run.journal").returncode for _ in range(2)] == [0, 0]
    assert flowrt(folder, *job, "bomb.pickle").returncode in (2, 3, 4)
    assert (folder / "bomb.pickle").read_bytes() == bomb, "a file that is no journal stays as it is"
    for name in ("bomb.jsonl", "bomb.csv", "bomb.parquet"):
        (folder / name).write_bytes(bomb)
        assert flowrt(folder, "run", "nodes:echo", name, "-o", f"{name}.out").returncode in (0, 1, 65)


def test_31_only_the_users_own_code_runs_and_only_when_asked(folder: Path) -> None:
    (folder / "json.py").write_text("raise SystemExit('shadowed')\n")
    (folder / "in.jsonl").write_text('"touch ran"\n')
    refused = flowrt(folder, "run", "os:system", "in.jsonl", "-o", "out")
    assert (refused.returncode, "only your own code is run" in refused.stderr) == (2, True)
    assert flowrt(folder, "--help").returncode == flowrt(folder, "run", "--help").returncode == 0
    assert not (folder / "imported").exists()
    assert not (folder / "ran").exists()
    done = flowrt(folder, "run", "nodes:echo", "in.jsonl", "-o", "out")
    assert (done.returncode, (folder / "ran").exists()) == (0, True), done.stderr


# -- bad input ---------------------------------------------------------------------------------------------------------

LINES: list[tuple[bytes, Any]] = [
    (b"\xef\xbb\xbf1", 1),  # a byte order mark
    (b"[" * 200_000 + b"]" * 200_000, "RecursionError"),
    (b"9" * 5_000, "ValueError"),
    (b"NaN", "ValueError"),
    (b'{"a": 1, "a": 2}', {"a": 2}),
    (b'"\xff"', "UnicodeDecodeError"),
    (b'{"a": ', "JSONDecodeError"),
    (b"2\r", 2),
    (b"3", 3),
]


def test_32_every_bad_json_line_has_its_outcome_and_later_lines_run(folder: Path, command: Command) -> None:
    (folder / "in.jsonl").write_bytes(b"".join(line + b"\n" for line, _ in LINES))
    assert command("run", "nodes:echo", "in.jsonl", "-o", "out").returncode == 1
    lines = lines_of(folder / "out")
    outcomes = [line["output"] if line["success"] else line["error_type"] for line in lines]
    assert outcomes == [outcome for _, outcome in LINES]
    for number, line in enumerate(lines, 1):
        assert line["success"] or line["error"].startswith(f"line {number}: ")


def test_32_sparse_line_of_a_gigabyte_fails_its_item_in_flat_memory(folder: Path) -> None:
    command = folder / "bin" / "flowrt"
    peak = "import atexit, resource\natexit.register(lambda: print(resource.getrusage(0).ru_maxrss // 1024))\n"
    command.write_text(peak + command.read_text())
    (folder / "small.jsonl").write_text("1\n2\n")
    with (folder / "in.jsonl").open("wb") as file:
        file.write(b"1\n")
        file.seek(2**30)
        file.write(b"\n2\n")
    small = flowrt(folder, "run", "nodes:echo", "small.jsonl", "-o", "small", "--quiet")
    done = flowrt(folder, "run", "nodes:echo", "in.jsonl", "-o", "out", "--quiet")
    assert (small.returncode, done.returncode) == (0, 1), done.stderr
    lines = lines_of(folder / "out")
    assert [line["output"] for line in lines] == [1, None, 2]
    assert lines[1]["error"].startswith("line 2: 1,073,741,822 bytes are more than the 16,777,216")
    assert int(done.stdout) - int(small.stdout) < 100  # MiB: as much as a line may have, and its growth


def test_33_every_bad_csv_row_is_an_error_that_names_its_line(folder: Path, command: Command) -> None:
    rows = ["a,b", "1,2", f"1,{'x' * 131_073}", "1", "1,2,3", "1,\0", "3,4"]
    (folder / "in.csv").write_text("\n".join(rows) + "\n")
    assert command("run", "nodes:echo", "in.csv", "-o", "out").returncode == 1
    lines = lines_of(folder / "out")
    # a field may be far longer than the csv module's default limit
    assert [line["success"] for line in lines] == [True, True, False, False, False, True]
    for number, line in enumerate(lines, 2):
        assert line["success"] or f"line {number}" in line["error"]
    assert lines[-1]["output"] == {"a": "3", "b": "4"}


def test_33_truncated_or_hostile_parquet_is_unreadable_input(folder: Path, command: Command) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": list(range(10_000))}), folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    hostile = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "footer": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "noise": b"PAR1" + bytes(range(256)) * 8 + b"\x40\x00\x00\x00PAR1",
    }
    for name, data in hostile.items():
        (folder / f"{name}.parquet").write_bytes(data)
        done = command("run", "nodes:echo", f"{name}.parquet", "-o", "out")
        assert (done.returncode, "Traceback" in done.stderr) == (65, False), (name, done.stderr)
        assert not list(folder.glob("out*"))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("output", ["in.jsonl", "symlink", "hardlink", "dangling", "/proc/out", "missing/out", "old"])
def test_34_impossible_output_is_refused_before_the_first_item(folder: Path, command: Command, output: str) -> None:
    (folder / "in.jsonl").write_text("1\n")
    (folder / "symlink").symlink_to("in.jsonl")
    (folder / "hardlink").hardlink_to(folder / "in.jsonl")
    (folder / "dangling").symlink_to("nothing")
    (folder / "old").write_text("precious")
    done = command("run", "nodes:echo", "in.jsonl", "-o", output)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert not (folder / "ran").exists()
    assert (folder / "in.jsonl").read_text() == "1\n"
    assert (folder / "old").read_text() == "precious"
    assert not (folder / "nothing").exists()


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_34_concurrency_out_of_range_is_a_value_error_before_any_work(value: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrency must be an integer of at least 1, not"):
        BatchProcessor(asyncio.sleep, value, name=BATCH)


def test_34_concurrency_out_of_range_is_bad_usage_of_the_command(folder: Path) -> None:
    (folder / "in.jsonl").write_text("1\n")
    for value in ("0", "-1", "nan"):
        done = flowrt(folder, "run", "nodes:echo", "in.jsonl", "-o", "out", "--max-concurrency", value)
        assert (done.returncode, value in done.stderr) == (2, True), done.stderr
    assert not (folder / "imported").exists()


# -- code that was not written for us --------------------------------------------------------------------------------


def test_35_stray_cancellation_ends_its_item_alone(oracle: Oracle, run_virtual: Run) -> None:
    async def leaky_timeout() -> None:
        """Cancels the current task and never calls uncancel(), as async-timeout before 4.0.3 does."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(1, task.cancel)
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            raise TimeoutError("the library's own") from None

    async def node(x: int) -> int:
        if x % 4 == 1:
            await leaky_timeout()
        if x % 4 == 2:
            await cancels_itself()(x)
        if x % 4 == 3:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future  # its CancelledError is the node's own
        await asyncio.sleep(1)
        return x

    results = run_virtual(oracle.processor(node, 3).batch(range(20)))
    assert [r.status for r in results] == ["ok", "failed", "cancelled", "failed"] * 5
    oracle.check(ok=5, failed=10, cancelled=5)


def test_36_task_bound_state_does_not_reach_the_next_item(oracle: Oracle, run_virtual: Run) -> None:
    variable: ContextVar[float | None] = ContextVar("variable", default=None)
    sessions: dict[Any, int] = {}  # as SQLAlchemy's async_scoped_session keeps them

    async def node(x: int) -> tuple[Any, int]:
        task = asyncio.current_task()
        seen = (variable.get(), sessions.setdefault(task, x))
        variable.set(1.0)  # equal for every item
        await asyncio.sleep(1)
        return seen

    results = run_virtual(oracle.processor(node, 2).batch(range(10)))
    assert results.outputs == [(None, x) for x in range(10)]
    oracle.check(ok=10)


def old_task_factory(loop: asyncio.AbstractEventLoop, coro: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop)  # without the keyword `context` of Python 3.11


class Unsized(list[int]):
    def __len__(self) -> int:
        raise RuntimeError("no length")


@pytest.mark.parametrize("inputs", [range(6), Unsized(range(6)), iter(range(6))], ids=["range", "unsized", "iterator"])
def test_37_any_task_factory_and_any_iterable_will_do(inputs: Any, oracle: Oracle, run_virtual: Run) -> None:
    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(old_task_factory)  # type: ignore[arg-type]
        return await oracle.processor(asyncio.sleep, 2).batch(inputs)

    assert len(run_virtual(main())) == 6
    oracle.check(ok=6)


@pytest.mark.parametrize("kind", ODD_EXCEPTIONS)
def test_37_any_exception_is_one_failed_item(kind: str, oracle: Oracle, run_virtual: Run) -> None:
    node = ScriptedNode(items={1: [raises(ODD_EXCEPTIONS[kind]())]}, node_id=NODE)
    results = run_virtual(oracle.processor(node, 2).batch(range(3)))
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert results[1].error
    oracle.check(ok=2, failed=1)


@pytest.mark.parametrize("leave", ["cancel", "time out", "break"])
def test_38_drained_stream_ends_within_the_grace_however_it_is_left(
    leave: str, oracle: Oracle, run_virtual: Run
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def read() -> None:
            async with oracle.processor(ScriptedNode(sleeps(2)), 4).batch_as_completed(range(50)) as stream:
                async for _ in stream:
                    for run in active_batches(loop):
                        run.drain("the test wants it")
                    if leave == "break":
                        break
                    await asyncio.sleep(3600)

        reading = asyncio.create_task(read())
        await asyncio.sleep(3)
        if leave == "time out":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reading, 1)
        elif leave == "cancel":
            reading.cancel()
        await asyncio.wait([reading], timeout=60)
        assert reading.done()
        assert loop.time() < 3 + 1 + 5.1

    run_virtual(main())
    oracle.check()


def test_39_thread_that_never_ends_does_not_keep_the_process() -> None:
    process = script(
        """
        from flowrt.engine import cancellation, timeouts
        timeouts._GRACE_NS, cancellation.GRACE_S = 100_000_000, 0.1  # of 5 s
        def node(x):
            time.sleep(3600 if x == 1 else 0)
        async def main():
            return [result.status for result in await BatchProcessor(node, 2, item_timeout=0.2).batch(range(4))]
        print(json.dumps(run(main(), log_format="json")))
        """
    )
    code, out, _ = finish(process)
    assert (code, json.loads(out)[1]) == (0, "timed_out")


def test_40_batch_cancelled_at_any_step_leaves_no_lock_and_no_open_source(oracle: Oracle, tmp_path: Path) -> None:
    opened: list[int] = []
    closed: list[int] = []

    async def source(step: int) -> AsyncIterator[int]:
        opened.append(step)
        try:
            for _ in range(5):
                await asyncio.sleep(0)
                yield 0
        finally:
            closed.append(step)
            await asyncio.sleep(0)

    async def main() -> None:
        processor = oracle.processor(asyncio.sleep, 2, journal=tmp_path / "journal")
        for step in range(40):
            batch = asyncio.create_task(processor.batch(source(step)))
            for _ in range(step):
                await asyncio.sleep(0)
                time.sleep(0.0005)  # the journal is opened and closed in a thread
            batch.cancel()
            await asyncio.wait([batch], timeout=HANG_S)
            assert batch.done()
            assert opened == closed
        assert len(await processor.batch(source(-1))) == 5, "the lock is free"

    asyncio.run(main())
    oracle.check()


class Colour(IntEnum):
    RED = 1


ODD_VALUES = {
    "an IntEnum": Colour.RED,
    "an HTTP status": HTTPStatus.OK,
    "a huge int": 10**400,
    "a float of numpy": np.float64(0.5),
    "an int of numpy": np.int64(7),
    "an array": np.arange(3),
    "an object": object(),
    "a set": {1},
    "a lone surrogate": "\udc80",
    "mixed": [1, "two"],
}


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_41_odd_value_on_a_span_harms_no_item(value: Any, oracle: Oracle, run_virtual: Run) -> None:
    provider, spans = make_provider(Resource({})), list[Any]()
    provider.target = SimpleNamespace(put=spans.append, force_flush=bool)  # type: ignore[assignment]
    with TracerProvider(shutdown_on_exit=False).get_tracer("sdk").start_as_current_span("theirs") as theirs:
        theirs.set_attribute("odd", value)

    async def node(x: int) -> int:
        span = trace.get_current_span()
        span.set_attribute("odd", value)
        span.set_attribute("plain", x)
        return x

    with patch.object(trace, "_TRACER_PROVIDER", provider):
        results = run_virtual(oracle.processor(node, 2, telemetry=Telemetry(logs=False)).batch(range(3)))
    assert results.outputs == [0, 1, 2]
    assert oracle.statuses == {"ok": 3}
    items = [span for span in spans if span.name == "process node"]
    assert [span.attributes["plain"] for span in items] == [0, 1, 2]
    kept = getattr(theirs, "attributes", {}).get("odd")
    assert [repr(span.attributes.get("odd")) for span in items] == [repr(kept)] * 3


@pytest.mark.parametrize("source", ["endless", "cancels itself"])
@pytest.mark.parametrize("stream", [False, True])
def test_42_input_that_is_cut_off_never_looks_complete(
    stream: bool, source: str, oracle: Oracle, run_virtual: Run
) -> None:
    async def inputs() -> AsyncIterator[int]:
        yield from_source.pop()
        yield from_source.pop()
        if source == "cancels itself":
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    async def node(x: int) -> int:
        await asyncio.sleep(1)
        return x

    async def consume() -> None:
        batch = oracle.processor(node, 2, batch_timeout=60)
        if stream:
            async for result in batch.batch_as_completed(inputs()):
                assert result.success
        else:
            (await batch.batch(inputs())).raise_for_failures()

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(consume())
        (error,) = raised.value.exceptions
        assert isinstance(error, BatchFailedError if source == "endless" else RuntimeError)

    from_source = [1, 0]
    run_virtual(main())
    oracle.check(ok=2)


# -- invariants --------------------------------------------------------------------------------------------------------


items = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["ok", "ok", "raise", "fail", "none"])), max_size=30)
concurrency = st.integers(1, 8)


async def scripted(item: tuple[int, str]) -> Any:
    seconds, ending = item
    await asyncio.sleep(seconds)
    if ending == "raise":
        raise ValueError(f"after {seconds}")
    return {"ok": seconds, "fail": NodeResult(False, "partial", error="no luck"), "none": None}[ending]


def model(inputs: list[tuple[int, str]], item_timeout: float) -> list[tuple[Any, ...]]:
    """Return the outcomes of a plain loop over the inputs."""
    found: list[tuple[Any, ...]] = []
    for seconds, ending in inputs:
        if seconds > item_timeout:
            found.append(("timed_out", None, "TimeoutError"))
        elif ending == "raise":
            found.append(("failed", None, "ValueError"))
        elif ending == "fail":
            found.append(("failed", "partial", "ItemFailedError"))
        else:
            found.append(("ok", seconds if ending == "ok" else None, None))
    return found


def seen(results: list[BatchResult]) -> list[tuple[Any, ...]]:
    return [(r.status, r.output, r.error_type) for r in results]


@settings(max_examples=examples(60), deadline=None)
@given(items, concurrency)
def test_in_flight_equals_the_limit_while_work_waits_and_never_exceeds_it(
    inputs: list[tuple[int, str]], c: int
) -> None:
    running = done = 0

    async def node(item: tuple[int, str]) -> Any:
        nonlocal running, done
        running += 1
        assert running <= c
        try:
            return await scripted(item)
        finally:
            running -= 1
            done += 1

    async def main() -> None:
        batch = asyncio.create_task(BatchProcessor(node, c, telemetry=False).batch(inputs))
        await asyncio.sleep(0.5)  # items end at whole seconds, so at half seconds the count is stable
        while not batch.done():
            assert running == min(c, len(inputs) - done)
            await asyncio.sleep(1)
        assert all(r.error_type != "AssertionError" for r in await batch)

    run_virtual(main())


@settings(max_examples=examples(60), deadline=None)
@given(items, concurrency, st.sampled_from([1.5, 2.5, 10.0]), st.sampled_from(["batch", "stream", "lazy"]))
def test_results_equal_a_sequential_model_at_any_concurrency(
    inputs: list[tuple[int, str]], c: int, item_timeout: float, way: str
) -> None:
    processor = BatchProcessor(scripted, c, item_timeout=item_timeout, telemetry=False)

    async def lazily() -> AsyncIterator[tuple[int, str]]:
        for number, item in enumerate(inputs):
            await asyncio.sleep(number % 3 / 10)
            yield item

    async def main() -> list[BatchResult]:
        if way == "stream":
            streamed = [r async for r in processor.batch_as_completed(inputs)]
            return sorted(streamed, key=lambda r: r.index)
        return await processor.batch(lazily() if way == "lazy" else inputs)

    results = run_virtual(main())
    assert [r.index for r in results] == list(range(len(inputs)))
    assert [r.input_data for r in results] == inputs
    assert seen(results) == model(inputs, item_timeout)
    assert all(r.error if not r.success else r.error is None for r in results)


@settings(max_examples=examples(40), deadline=None)
@given(items.flatmap(lambda inputs: st.tuples(st.just(inputs), st.permutations(range(len(inputs))))), concurrency)
def test_permuted_inputs_give_permuted_results(given_: tuple[list[tuple[int, str]], list[int]], c: int) -> None:
    inputs, order = given_
    processor = BatchProcessor(scripted, c, item_timeout=2.5, telemetry=False)
    straight = run_virtual(processor.batch(inputs))
    permuted = run_virtual(processor.batch([inputs[place] for place in order]))
    assert seen(permuted) == [seen(straight)[place] for place in order]


@settings(max_examples=examples(30), deadline=None)
@given(items, concurrency, st.sampled_from([None, 3.5]), st.booleans())
def test_counters_equal_results_however_the_batch_ends(
    inputs: list[tuple[int, str]], c: int, batch_timeout: float | None, fail_fast: bool
) -> None:
    finished: Counter[str] = Counter()

    class Tally(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            finished[item.status] += 1

    processor = BatchProcessor(
        FunctionNode(scripted, NODE), c, not fail_fast,
        name=BATCH, item_timeout=2.5, batch_timeout=batch_timeout, instruments=[Tally()],
    )  # fmt: skip

    def counters() -> Counter[str]:
        labels = {"batch": BATCH, "node": NODE}
        return Counter({status: int(sample("flowrt_items_total", **labels, status=status)) for status in STATUSES})

    before = counters()
    results: list[BatchResult] | None = None
    with contextlib.suppress(ValueError, TimeoutError, ItemFailedError) if fail_fast else contextlib.nullcontext():
        results = run_virtual(processor.batch(inputs))
    assert counters() - before == finished
    if results is not None:
        assert Counter(r.status for r in results) == finished
        assert len(results) == len(inputs)


class Script:
    """Node that ends as its item says, in the worst ways when it is cancelled."""

    def __init__(self) -> None:
        self.running = 0
        self.over = asyncio.Event()

    async def __call__(self, item: tuple[int, str]) -> Any:
        self.running += 1
        try:
            return await self._run(*item)
        finally:
            self.running -= 1

    async def _run(self, seconds: int, ending: str) -> Any:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if ending == "swallows":
                return "cancellation swallowed"
            if ending == "cleans up":
                await asyncio.sleep(2)
            while ending == "stays" and not self.over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.over.wait()
            raise
        if ending == "raises":
            raise ValueError(f"after {seconds}")
        if ending == "cancels":
            raise asyncio.CancelledError
        return NodeResult(ending != "fails", seconds, error="no luck")


ENDINGS = ["ok", "ok", "raises", "fails", "cancels", "swallows", "cleans up", "stays"]


@settings(max_examples=examples(200), deadline=None)
@given(
    inputs=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(ENDINGS)), max_size=12),
    c=st.integers(1, 4),
    item_timeout=st.sampled_from([None, 1.5, 2.5]),
    batch_timeout=st.sampled_from([None, 3.5, 6.0]),
    continue_on_error=st.booleans(),
    source=st.sampled_from(["list", "generator", "async generator"]),
    cancelled_at=st.sampled_from([None, 0.5, 2.0, 3.5, 7.0]),
    leave_after=st.sampled_from([None, 0, 1, 3, 99]),
)
def test_every_exit_ends_in_time_with_each_item_finished_once(
    inputs: list[tuple[int, str]],
    c: int,
    item_timeout: float | None,
    batch_timeout: float | None,
    continue_on_error: bool,
    source: str,
    cancelled_at: float | None,
    leave_after: int | None,
) -> None:
    finished: list[tuple[ItemRecord, str]] = []
    started: list[int] = []

    class Tally(Instrument):
        def item_started(self, item: ItemRecord) -> None:
            started.append(item.index)

        def item_finished(self, item: ItemRecord) -> None:
            finished.append((item, item.status))

    async def pulled() -> AsyncIterator[tuple[int, str]]:
        for item in inputs:
            await asyncio.sleep(0.1)
            yield item

    async def use(processor: BatchProcessor) -> list[BatchResult] | None:
        given = {"list": inputs, "generator": iter(inputs), "async generator": pulled()}[source]
        if leave_after is None:
            return await processor.batch(given)
        async with processor.batch_as_completed(given) as stream:
            taken = 0
            async for _ in stream:
                taken += 1
                if taken > leave_after:
                    break
        return None

    async def main() -> None:
        loop, node = asyncio.get_running_loop(), Script()
        processor = BatchProcessor(
            node, c, continue_on_error,
            item_timeout=item_timeout, batch_timeout=batch_timeout, telemetry=False, instruments=[Tally()],
        )  # fmt: skip
        using = asyncio.create_task(use(processor))
        if cancelled_at is not None:
            loop.call_later(cancelled_at, using.cancel)
        done, _ = await asyncio.wait([using], timeout=1_000)
        node.over.set()
        assert done, "the batch hangs"
        deadline = min(limit for limit in (cancelled_at, batch_timeout, 900.0) if limit is not None)
        assert loop.time() <= deadline + 5.0 + 0.1, "within the deadline and the grace"
        assert sorted(started) == sorted(item.index for item, _ in finished) == list(range(len(finished)))
        assert node.running <= sum(item.uncancellable for item, _ in finished), "only abandoned items run on"
        if not using.cancelled() and using.exception() is None and (results := using.result()) is not None:
            assert Counter(r.status for r in results) == Counter(state for _, state in finished)
            assert source != "list" or len(results) == len(inputs)
        await asyncio.sleep(5)
        assert node.running == 0
        assert [item.status for item, _ in finished] == [state for _, state in finished], "finished is final"

    run_virtual(main())

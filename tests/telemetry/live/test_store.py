"""LiveStore: its state equals the counters while a batch runs and after its end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

import flowrt
from flowrt.model import BatchRecord, Slot, make_record
from flowrt.telemetry.live import LIVE
from flowrt.telemetry.live import store as store_module
from flowrt.telemetry.live.groups import Groups
from flowrt.telemetry.live.items import Failures, running_rows
from flowrt.telemetry.metrics.store import METRICS
from tests.conftest import Run


@pytest.fixture(autouse=True)
def _open_page() -> Any:
    gc.collect()  # closes the pages of earlier tests' applications
    LIVE.open()
    yield
    LIVE.close(wait=True)
    for thread in threading.enumerate():
        if thread.name == "flowrt-live":
            thread.join(30)
            assert not thread.is_alive()


def snapshot() -> dict[str, Any]:
    return dict(json.loads(LIVE.snapshot()))


def shown(name: str) -> dict[str, Any]:
    (batch,) = [batch for batch in snapshot()["batches"] if batch["name"] == name]
    return dict(batch)


async def odd_fails(x: int) -> int:
    await asyncio.sleep(0)
    if x % 2:
        raise ValueError(f"odd: {x}")
    return x


def test_finished_batch_shows_the_counters(run: Run) -> None:
    results = run(flowrt.BatchProcessor(odd_fails, 7, name="counted").batch(range(101)))
    batch = shown("counted")
    assert batch["status"] == "failed"
    assert (batch["completed"], batch["expected"], batch["pulled"]) == (101, 101, 101)
    assert batch["counts"] == {"ok": 51, "failed": 50, "timed_out": 0, "cancelled": 0, "resumed": 0}
    for status, count in batch["counts"].items():
        labels = {"batch": "counted", "node": "odd_fails", "status": status}
        assert REGISTRY.get_sample_value("flowrt_items_total", labels) == count
    assert batch["errors"] == {"ValueError": 50}
    assert [item["error"] for item in batch["failures"][-2:]] == ["odd: 97", "odd: 99"]
    assert batch["failures"][-1]["index"] == results.failed[-1].index
    assert len(batch["failures"]) == 20
    assert sum(batch["bound_s"].values()) == pytest.approx(batch["elapsed_s"], abs=0.01)
    assert batch["running"] == []
    assert batch["history"][-1][1:3] == [101, 50]


def test_second_batch_of_a_processor_starts_at_zero(run: Run) -> None:
    async def main() -> None:
        processor = flowrt.BatchProcessor(odd_fails, name="twice")
        await processor.batch(range(10))
        LIVE.snapshot()
        await processor.batch(range(4))

    run(main())
    state = snapshot()
    first, second = sorted(state["batches"], key=lambda batch: -batch["completed"])
    assert (first["completed"], first["errors"]) == (10, {"ValueError": 5})
    assert (second["completed"], second["errors"]) == (4, {"ValueError": 2})
    assert first["history"][-1][1] == 10


def test_running_batch_shows_where_its_items_wait(run: Run) -> None:
    async def answer(event: asyncio.Event) -> None:
        await event.wait()

    async def main() -> dict[str, Any]:
        event, waiting = asyncio.Event(), asyncio.Event()

        async def node(x: int) -> int:
            if x == 7:
                waiting.set()
            if x >= 5:
                await answer(event)
            return x

        task = asyncio.create_task(flowrt.BatchProcessor(node, 3, name="waiting").batch(range(20)))
        await waiting.wait()
        await asyncio.sleep(0.01)
        batch = await asyncio.to_thread(shown, "waiting")
        event.set()
        await task
        return batch

    batch = run(main())
    assert (batch["status"], batch["completed"], batch["inflight"], batch["limit"]) == ("running", 5, 3, 3)
    assert [item["index"] for item in batch["running"]] == [5, 6, 7]
    for item in batch["running"]:
        functions = [place["function"].rpartition(".")[2] for place in item["places"]]
        assert functions[:2] == ["node", "answer"]
        assert item["places"][0]["file"] == __file__
        assert item["age_s"] >= 0


def test_step_of_the_system_clock_does_not_change_ages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> dict[str, Any]:
        gate = asyncio.Event()
        task = asyncio.create_task(flowrt.BatchProcessor(lambda _: gate.wait(), 1, name="stepped").batch([1]))
        await asyncio.sleep(0.01)
        time_ns = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: time_ns() + 3_600_000_000_000)
        async with asyncio.timeout(30.0):
            while not (batch := await asyncio.to_thread(shown, "stepped"))["running"]:  # its thread may start late
                await asyncio.sleep(0.01)
        gate.set()
        await task
        return batch

    batch = run(main())
    assert 0 < batch["elapsed_s"] < 1800
    assert batch["running"][0]["age_s"] < 1800


def test_long_item_is_among_the_slowest(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(1.2 if x == 13 else 0)
        return x

    async def main() -> None:
        task = asyncio.create_task(flowrt.BatchProcessor(node, 4, name="slow one").batch(range(100)))
        await asyncio.sleep(0.5)
        shown("slow one")
        await task

    run_virtual(main())
    slowest = shown("slow one")["slowest"]
    assert (slowest[0]["index"], slowest[0]["duration_s"]) == (13, 1.2)


def test_stall_has_culprit_and_stack(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])

    async def node(x: int) -> int:
        await asyncio.sleep(0.01)
        if x == 5:
            time.sleep(0.8)  # blocks the loop on purpose
        return x

    async def main() -> None:
        async with flowrt.Runtime(log_level="CRITICAL", stall_after=0.2):
            await flowrt.BatchProcessor(node, 4, name="stalled").batch(range(40))

    run(main())
    batch = shown("stalled")
    (stall,) = [stall for stall in batch["stalls"] if stall["index"] == 5]  # a busy machine may add stalls
    assert 0.2 < stall["duration_s"] < 30
    assert "time.sleep(0.8)" in stall["stack"]
    assert stall["stack"].startswith("tests/telemetry/live/test_store.py:")
    assert "blocked" in batch["explained"]


def test_failing_sample_hides_no_other_batch_and_logs_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    samples: list[str] = []
    sample = store_module.BatchView.sample

    def record(view: store_module.BatchView, *, detailed: bool) -> None:
        samples.append(view.batch.name)
        if view.batch.name == "broken":
            raise KeyError("broken")
        sample(view, detailed=detailed)

    monkeypatch.setattr(LIVE, "_warned", set())
    monkeypatch.setattr(store_module.BatchView, "sample", record)
    monkeypatch.setattr(store_module, "_EVERY_S", 0.01)

    async def node(name: str) -> str:
        while samples.count(name) < 3:
            await asyncio.sleep(0.001)
        return name

    async def main() -> None:
        batches = [flowrt.BatchProcessor(node, name=name).batch([name]) for name in ("broken", "whole")]
        await asyncio.wait_for(asyncio.gather(*batches), 30.0)

    run(main())
    assert [batch["name"] for batch in snapshot()["batches"]] == ["whole"]
    assert [record.getMessage() for record in caplog.records if record.name == "flowrt.live"] == [
        "batch broken cannot be shown: sampling it failed"
    ]


def test_batches_are_sampled_while_another_thread_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads run whenever the garbage collector calls back."""

    class View:
        over = False
        sampled = 0

        def sample(self, *, detailed: bool) -> None:
            self.sampled += 1

    store, views = store_module.LiveStore(), [View() for _ in range(50)]
    store._running = dict(enumerate(views))  # type: ignore[arg-type]
    limits, started = gc.get_threshold(), itertools.count(50)

    def start(phase: str, _: dict[str, Any]) -> None:
        store._running[next(started)] = View()  # type: ignore[index,assignment]

    gc.callbacks.append(start)
    gc.set_threshold(1)
    try:
        store._sample(detailed=False)
    finally:
        gc.set_threshold(*limits)
        gc.callbacks.remove(start)
    assert [view.sampled for view in views] == [1] * 50
    assert next(started) > 50, "the collector has run"


def test_sampler_continues_after_a_failed_sample(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    three = threading.Event()
    samples: list[int] = []

    def sample(_: object) -> None:
        samples.append(1)
        if len(samples) >= 3:
            three.set()
        raise OSError("broken")

    monkeypatch.setattr(store_module.ProcessView, "sample", sample)
    monkeypatch.setattr(store_module, "_EVERY_S", 0.01)
    run(flowrt.BatchProcessor(lambda _: three.wait(30), name="sampled").batch([1]))
    assert three.is_set()


def test_sampler_ends_if_stopped_while_it_clears_its_event() -> None:
    end = threading.Event()

    class StoppedInClear(threading.Event):
        def clear(self) -> None:
            end.set()
            self.set()
            super().clear()

    thread = threading.Thread(target=store_module.LiveStore()._run, args=(end, StoppedInClear()), daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive()


def test_successful_items_cause_no_hook_call(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    monkeypatch.setattr(store_module.LiveInstrument, "item_failed", lambda self, item: noted.append(item.index))
    hooks = {name for name, hook in vars(flowrt.Instrument).items() if callable(hook) and not name.startswith("_")}
    assert hooks & vars(store_module.LiveInstrument).keys() == {"batch_started", "item_failed", "batch_ended"}
    run(flowrt.BatchProcessor(odd_fails, name="noted").batch(range(10)))
    assert noted == [1, 3, 5, 7, 9]


def test_cancelled_items_are_not_failures(run: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(60)
        return x

    run(flowrt.BatchProcessor(node, 2, batch_timeout=0.05, name="cut").batch(range(5)))
    batch = shown("cut")
    assert batch["status"] == "failed"
    assert batch["counts"]["cancelled"] == 5
    assert batch["failures"] == []


def test_batch_is_not_sampled_without_a_page(run: Run) -> None:
    LIVE.close(wait=True)
    try:
        run(flowrt.BatchProcessor(odd_fails, name="unseen").batch(range(3)))
    finally:
        LIVE.open()
    assert snapshot()["batches"] == []


def test_last_ten_ended_batches_stay(run: Run) -> None:
    async def main() -> None:
        for i in range(30):
            await flowrt.BatchProcessor(odd_fails, name=f"small {i}", telemetry=flowrt.Telemetry(logs=False)).batch([2])
            if not i % 10:
                LIVE.snapshot()

    run(main())
    names = [batch["name"] for batch in snapshot()["batches"]]
    assert names == [f"small {i}" for i in range(20, 30)]


def test_watcher_is_called_per_frame_until_removed(run: Run) -> None:
    frames: list[bytes] = []
    enough = threading.Event()

    def wake() -> None:
        frames.append(LIVE.frame)
        if sum(b"watched" in frame for frame in frames) >= 3:
            enough.set()

    async def main() -> None:
        end = LIVE.watch(wake)
        processor = flowrt.BatchProcessor(lambda x: enough.wait(30), 1, name="watched")
        await processor.batch([1])
        end()

    run(main())
    assert enough.is_set()
    LIVE.close(wait=True)  # the sampler may be about to call it
    LIVE.open()
    count = len(frames)
    LIVE.publish()
    assert len(frames) == count


QUIET = flowrt.Telemetry(logs=False)


async def snapshot_while_active(names: list[str], *, items: int = 1) -> dict[str, Any]:
    """Start a batch per name, take a snapshot while all of them wait for their last item, and release them."""
    release, all_wait = asyncio.Event(), asyncio.Event()
    waiting: list[int] = []

    async def node(x: int) -> int:
        if x == items - 1:
            waiting.append(x)
            if len(waiting) == len(names):
                all_wait.set()
            await release.wait()
        return x

    batches = [
        asyncio.create_task(flowrt.BatchProcessor(node, 2, name=name, telemetry=QUIET).batch(range(items)))
        for name in names
    ]
    await all_wait.wait()
    async with asyncio.timeout(30.0):
        while sum(batch.completed for batch in METRICS.active) < len(names) * (items - 1):
            await asyncio.sleep(0)
    state = await asyncio.to_thread(snapshot)
    release.set()
    await asyncio.gather(*batches)
    return state


def test_thousand_active_batches_are_a_bounded_page_and_a_group(run: Run) -> None:
    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        during = await snapshot_while_active(["request"] * 1_000 + ["nightly"], items=3)
        return during, await asyncio.to_thread(snapshot)

    during, after = run(main())
    names = [batch["name"] for batch in during["batches"]]
    assert (names.count("request"), names.count("nightly")) == (6, 1)
    assert len(json.dumps(during)) < 200_000
    groups = {group["name"]: group for group in during["groups"]}
    assert groups["nightly"]["active"] == 1
    request = groups["request"]
    assert (request["active"], request["completed"], request["expected"]) == (1_000, 2_000, 3_000)
    (request,) = [group for group in after["groups"] if group["name"] == "request"]
    assert (request["active"], request["ended"]["ok"], request["items"]) == (0, 1_000, 3_000)
    assert 0 < request["p50_s"] <= request["p95_s"] < 30


def test_group_seen_for_the_first_time_has_the_share_of_all_its_items() -> None:
    def ended(failed: int) -> BatchRecord:
        batch = BatchRecord(name="request", node_id="n", node_type="t", batch_id="b", limit=1)
        batch.counts.update(ok=4 - failed, failed=failed)
        return batch

    groups = Groups()
    groups.add_ended(ended(1))
    assert [row["failing"] for row in groups.overview([]).rows] == [0.25]
    groups.add_ended(ended(4))
    assert [row["failing"] for row in groups.overview([]).rows] == [1.0]  # of those that ended since


def test_names_beyond_the_limit_share_a_group(run: Run) -> None:
    state = run(snapshot_while_active([f"name {i}" for i in range(230)]))
    assert (state["active"], state["active_names"]) == (230, 230)
    assert len(state["groups"]) == 50
    assert state["groups_left"] == 230 - 49  # the group of the other names is no name
    assert [group["active"] for group in state["groups"]] == [30] + 49 * [1]
    assert state["groups"][0]["name"] == "(other names)"


def test_failing_batch_takes_the_place_of_a_healthy_one(run: Run) -> None:
    async def main() -> dict[str, Any]:
        failed, release = asyncio.Event(), asyncio.Event()

        async def node(x: int) -> int:
            if x < 0:
                failed.set()
                raise ValueError("no")
            await release.wait()
            return x

        def start(name: str, *items: int) -> asyncio.Task[Any]:
            return asyncio.create_task(flowrt.BatchProcessor(node, 2, name=name, telemetry=QUIET).batch(items))

        batches = [start(f"healthy {i}", 1) for i in range(40)]
        await asyncio.sleep(0.05)
        batches.append(start("failing", -1, 2, 3))
        await failed.wait()
        async with asyncio.timeout(30.0):
            state = await asyncio.to_thread(snapshot)
            while not any(batch["errors"] for batch in state["batches"]):
                state = await asyncio.to_thread(snapshot)
        release.set()
        await asyncio.gather(*batches)
        return state

    state = run(main())
    assert len(state["batches"]) == 24
    (batch,) = [batch for batch in state["batches"] if batch["name"] == "failing"]
    assert (batch["partial"], batch["errors"]) == (True, {"ValueError": 1})


def test_failed_batch_outlasts_many_successful_ones(run: Run) -> None:
    async def main() -> None:
        await flowrt.BatchProcessor(odd_fails, name="failed", telemetry=QUIET).batch([1])
        LIVE.snapshot()
        for i in range(20):
            await flowrt.BatchProcessor(odd_fails, name=f"ok {i}", telemetry=QUIET).batch([2])
            LIVE.snapshot()

    run(main())
    names = [batch["name"] for batch in snapshot()["batches"]]
    assert names == ["failed", *(f"ok {i}" for i in range(10, 20))]


def test_failures_are_counted_by_cause_with_an_example(run: Run) -> None:
    async def node(x: int) -> int:
        if x < 60:
            raise ConnectionError(f"no answer from 10.0.0.{x} within {x} s")
        raise KeyError("city") if x < 65 else ValueError(f"bad row {x}")

    run(flowrt.BatchProcessor(node, name="causes", telemetry=QUIET).batch(range(67)))
    batch = shown("causes")
    assert [(cause["type"], cause["text"], cause["count"]) for cause in batch["causes"]] == [
        ("ConnectionError", "no answer from N within N s", 60),
        ("KeyError", "'…'", 5),
        ("ValueError", "bad row N", 2),
    ]
    assert (batch["causes"][0]["index"], batch["causes"][0]["error"]) == (0, "no answer from 10.0.0.0 within 0 s")
    assert batch["ungrouped"] == 0
    assert len(batch["failures"]) == 20


def test_failures_beyond_the_buffer_are_counted_by_type(run: Run) -> None:
    async def node(x: int) -> int:
        raise ValueError(f"no {x}")

    with LIVE._sampling:  # no sample until all have failed
        run(flowrt.BatchProcessor(node, 50, name="flood", telemetry=QUIET).batch(range(1_500)))
    batch = shown("flood")
    assert batch["errors"] == {"ValueError": 1_500}
    assert batch["causes"][0]["count"] == 1_000
    assert batch["ungrouped"] == 500


def test_item_that_fails_during_a_sample_did_not_fail_too_fast() -> None:
    batch, seen = BatchRecord(name="b", node_id="n", node_type="t", limit=1), []
    failures = Failures(batch, str)

    class SampledError(Exception):
        @property
        def status_code(self) -> int:
            failures.take()  # as another thread may at any moment
            seen.append(failures.ungrouped)
            return 503

    item = make_record(batch, 0, None, 0)
    item.status, item.exception = "failed", SampledError()
    failures.add(item)
    seen.append(failures.ungrouped)
    failures.take()
    seen.append(failures.ungrouped)
    assert seen == [0, 0, 0]
    assert [cause["count"] for cause in failures.causes()] == [1]


def test_pause_that_begins_during_a_sample_has_lasted_no_time(run: Run) -> None:
    async def main() -> dict[str, Any]:
        release = asyncio.Event()
        task = asyncio.create_task(flowrt.BatchProcessor(lambda _: release.wait(), 1, name="paused").batch([1]))
        while not LIVE._running:
            await asyncio.sleep(0)
        (batch,) = LIVE._running
        batch.paused_ns = batch.clock() + 3_600_000_000_000  # later than the time that the sample has read
        state = shown("paused")
        batch.paused_ns = 0
        release.set()
        await task
        return state

    state = run(main())
    assert (state["paused_s"], state["eta_s"]) == (0.0, None)


def test_frame_after_a_snapshot_is_not_older(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIVE, "_start", lambda: None)  # no sample but the test's own

    async def node(x: int) -> int:
        LIVE.snapshot()
        return x

    async def main() -> None:
        end = LIVE.watch(lambda: None)
        LIVE.publish()
        assert b"opened" not in LIVE.frame
        await flowrt.BatchProcessor(node, 1, name="opened").batch([1])
        end()

    run(main())
    assert b"opened" in LIVE.frame, "a page would show the batch, and then none"


def test_current_figures_are_of_the_last_ten_seconds(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(0.1)
        if x < 100:
            raise ValueError("no")
        return x

    async def main() -> list[dict[str, Any]]:
        task = asyncio.create_task(flowrt.BatchProcessor(node, 1, name="window", telemetry=QUIET).batch(range(400)))
        states = []
        for _ in range(78):
            await asyncio.sleep(0.5)
            states.append(shown("window"))
        await task
        return [*states, shown("window")]

    states = run_virtual(main())
    early, late, ended = states[15], states[70], states[-1]
    assert (early["window_s"], late["window_s"], ended["window_s"]) == (None, 10.0, None)
    assert early["failing"]["failed"] == early["failing"]["ended"] == early["completed"]
    assert late["failing"]["failed"] == 0
    assert late["failing"]["ended"] == pytest.approx(100, abs=6)
    assert late["rate"] == pytest.approx(10, rel=0.1)
    assert sum(late["bound_window"].values()) == pytest.approx(1, abs=0.01)
    assert ended["failing"] == {"ended": 400, "failed": 100}


def test_slots_are_shown_as_busy_before_a_long_item_of_a_generator_ends(run_virtual: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(100)
        return x

    async def main() -> dict[str, Any]:
        task = asyncio.create_task(flowrt.BatchProcessor(node, 2, name="long", telemetry=QUIET).batch(iter(range(4))))
        for _ in range(40):
            await asyncio.sleep(0.5)
            shown("long")
        batch = shown("long")
        await task
        return batch

    batch = run_virtual(main())
    assert batch["bound_window"]["slots"] == pytest.approx(1, abs=0.01)
    assert batch["bound_s"]["slots"] == pytest.approx(batch["elapsed_s"], abs=0.01)


def test_stalls_of_one_cause_are_one_group(run: Run) -> None:
    async def node(x: int) -> int:
        await asyncio.sleep(0.01)
        if x in (5, 15, 25):
            time.sleep(0.8)  # blocks the loop on purpose
        return x

    async def main() -> None:
        async with flowrt.Runtime(log_level="CRITICAL", stall_after=0.2):
            await flowrt.BatchProcessor(node, 4, name="grouped").batch(range(40))

    run(main())
    groups = [group for group in shown("grouped")["stall_groups"] if "time.sleep(0.8)" in group["stack"]]
    assert len(groups) == 1
    assert groups[0]["count"] in (2, 3)  # the watchdog of a busy machine may miss one
    assert groups[0]["node"] == "node"
    assert 0.4 < groups[0]["total_s"] < 30


@pytest.mark.parametrize(
    ("in_process", "attempts", "state"),
    [
        (False, 1, "waiting in its worker"),
        (False, 0, "waiting for a rate limit or an open circuit"),
        (True, 1, "waiting for a rate limit or an open circuit"),
    ],
)
def test_item_that_is_sent_ahead_waits_in_its_worker(in_process: bool, attempts: int, state: str) -> None:
    batch = BatchRecord(name="b", node_id="n", node_type="t", limit=1)
    batch.in_process = in_process
    slot = Slot()
    slot.item = make_record(batch, 0, None, 0)
    slot.item.attempts = attempts
    assert [row["state"] for row in running_rows([(slot, slot.item)], 0)] == [state]

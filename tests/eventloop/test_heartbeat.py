"""Heartbeat: how late the loop runs its timers."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from flowrt import BatchProcessor
from flowrt.engine.instrument import Instrument
from flowrt.eventloop.delayed_items import Lateness
from flowrt.eventloop.heartbeat import Heartbeat, heartbeat_of
from flowrt.model import BatchRecord, make_record
from tests.calls import calls_of

Run = Callable[[Any], Any]


def test_blocked_loop_is_late_by_the_time_it_was_blocked(run: Run) -> None:
    async def main() -> list[int]:
        beats: list[int] = []
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(beats.append)
        await asyncio.sleep(0)
        time.sleep(0.3)
        while not beats:
            await asyncio.sleep(0.01)
        heartbeat.release(beats.append)
        return beats

    assert max(run(main())) > 0.15e9


def test_release_reports_a_beat_that_never_came(run: Run) -> None:
    async def main() -> list[int]:
        beats: list[int] = []
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(beats.append)
        time.sleep(0.2)
        heartbeat.release(beats.append)
        return beats

    (late,) = run(main())
    assert late > 0.05e9


def test_beats_go_on_after_a_listener_raises(run: Run) -> None:
    async def main() -> int:
        reported: list[int] = []
        broken: list[object] = []

        def report(late_ns: int) -> None:
            reported.append(late_ns)
            if len(reported) == 1:
                raise OSError("broken pipe")

        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context["exception"]))
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(report)
        async with asyncio.timeout(30.0):
            while len(reported) < 3:
                await asyncio.sleep(0.01)
        heartbeat.release(report)
        return len(broken)

    assert run(main()) == 1


def test_heartbeat_is_shared_and_ends_with_its_last_listener(run: Run) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        assert heartbeat_of(asyncio.get_running_loop()) is heartbeat
        beats: list[int] = []
        heartbeat.acquire(beats.append)
        heartbeat.acquire(beats.append)
        heartbeat.release(beats.append)
        while not beats:
            await asyncio.sleep(0.01)
        heartbeat.release(beats.append)
        count = len(beats)
        await asyncio.sleep(0.25)
        assert len(beats) == count

    run(main())


def test_loop_of_virtual_time_gets_no_beats(run_virtual: Run) -> None:
    async def main() -> list[int]:
        beats: list[int] = []
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(beats.append)
        await asyncio.sleep(30 * 24 * 3600)
        heartbeat.release(beats.append)
        return beats

    assert run_virtual(main()) == []


def test_heartbeat_does_not_keep_its_loop_alive() -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        heartbeat_of(loop).acquire()
        heartbeat_of(loop).release()
        return weakref.ref(loop)

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None


def watched(heartbeat: Heartbeat, count: int) -> list[BatchRecord]:
    batches = []
    for number in range(count):
        batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id=str(number), limit=3, keeps_ledger=True)
        batch.started_ns = time.perf_counter_ns()
        batch.ledger.open(batch.started_ns)
        heartbeat.watch(batch)
        batches.append(batch)
    return batches


def on_time(heartbeat: Heartbeat) -> None:
    """A beat of a loop that has slept since the last one."""
    heartbeat.loop_time.beaten_cpu_ns = time.thread_time_ns() + 1_000_000_000
    heartbeat._waited = -2
    heartbeat._measure(heartbeat.loop_time.due_ns, time.thread_time_ns())


def test_beat_costs_the_same_however_many_batches_wait(run: Run) -> None:
    async def main() -> set[int]:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches, calls = [], set()
        for more in (1, 99, 400):
            batches += watched(heartbeat, more)
            # the fewest, as the garbage collector may call finalizers meanwhile
            calls.add(min(calls_of(lambda: on_time(heartbeat)) for _ in range(5)))
        for batch in batches:
            batch.finished_ns = batch.started_ns
            heartbeat.unwatch(batch)
        return calls

    (calls,) = run(main())
    assert calls < 12


def test_late_beat_settles_a_few_ledgers_and_all_of_them_in_time(run: Run) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 500)
        due = time.perf_counter_ns()
        for _ in range(600):
            heartbeat.loop_time.beaten_cpu_ns = time.thread_time_ns() + 1_000_000_000
            heartbeat._waited = -2
            heartbeat.loop_time.due_ns = due
            heartbeat._measure(due + 30_000_000, time.thread_time_ns())
            due += 40_000_000
        now = due - 10_000_000
        assert len(heartbeat.loop_time._log[1]) <= 512 + 128
        heartbeat.loop_time.due_ns = now + 1
        for batch in batches:
            assert batch.ledger is not None
            assert batch.ledger.since_ns > batch.started_ns
            assert batch.ledger.read(now)["loop_blocked"] == 600 * 30_000_000
            batch.finished_ns = now
            batch.ledger.close(now)
            heartbeat.unwatch(batch)

    run(main())


def compute(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_beat_rests_ten_times_its_own_cost_and_is_not_late_by_it(run: Run) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())

        def slow(_: int) -> None:
            compute(0.008)

        heartbeat.acquire(slow)
        began = time.perf_counter_ns()
        heartbeat._beat(heartbeat._number)
        ended = time.perf_counter_ns()
        assert heartbeat.beaten_ns - began >= 8_000_000
        assert heartbeat.loop_time.due_ns - heartbeat.beaten_ns >= 80_000_000
        assert heartbeat.beaten_ns <= ended
        heartbeat.release(slow)

    run(main())


@pytest.mark.parametrize(("late_ms", "most"), [(30, 200), (200, 1_000), (1_000, 5_000)])
def test_look_after_a_stall_takes_a_small_part_of_its_time(
    run: Run, monkeypatch: pytest.MonkeyPatch, late_ms: int, most: int
) -> None:
    cpu_ns = 0
    looked: list[BatchRecord] = []

    def look(_: Lateness, batch: BatchRecord) -> None:
        nonlocal cpu_ns
        cpu_ns += 10_000
        looked.append(batch)

    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 6_000)
        with monkeypatch.context() as patch:
            patch.setattr(Lateness, "look", look)
            patch.setattr("flowrt.eventloop.heartbeat.time.thread_time_ns", lambda: cpu_ns)
            heartbeat._look(Lateness(0, 0, late_ms * 1_000_000), {})
        for batch in batches:
            batch.finished_ns = batch.started_ns
            heartbeat.unwatch(batch)

    run(main())
    assert len(looked) == len(set(looked)) == most


def test_listeners_that_follow_each_other_share_a_timer(run: Run) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire()
        number = heartbeat._number
        heartbeat.loop_time.due_ns += 60 * 10**9  # or a pause of a busy machine would make the beat late
        for _ in range(3):
            heartbeat.release()
            heartbeat.acquire()
            assert heartbeat._number == number
        heartbeat.release()
        async with asyncio.timeout(30.0):
            while heartbeat._number:
                await asyncio.sleep(0.01)
        assert heartbeat.loop_time.due_ns == sys.maxsize

    run(main())


def test_lateness_without_listeners_is_not_reported_to_a_later_one(run: Run) -> None:
    async def main() -> list[int]:
        beats: list[int] = []
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire()
        heartbeat.release()
        time.sleep(0.4)
        heartbeat.acquire(beats.append)
        async with asyncio.timeout(30.0):
            while not beats:
                await asyncio.sleep(0.01)
        heartbeat.release(beats.append)
        return beats

    assert min(run(main())) < 0.3e9


def test_what_items_wait_for_is_noted_anew_once_the_loop_has_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    monkeypatch.setattr("flowrt.eventloop.heartbeat.note_waiting", lambda batches: noted.append(len(batches)) or {})

    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 3)
        heartbeat._beat(heartbeat._number)
        assert noted == [3]
        for ran_ns, times in ((0, 1), (20_000_000, 2), (0, 2)):
            heartbeat._waited = -2  # it has rested, so that its CPU time counts
            heartbeat.loop_time.beaten_cpu_ns = time.thread_time_ns() + 1_000_000_000  # CPU time of the test is none
            heartbeat._unnoted_ns = 990_000_000 + ran_ns
            heartbeat._beat(heartbeat._number)
            assert len(noted) == times
        for batch in batches:
            batch.finished_ns = batch.started_ns
            heartbeat.unwatch(batch)

    run(main())


class Watching:
    """Observer on another thread that has seen nothing."""

    def seen(self, _: int) -> list[asyncio.Task[Any] | None]:
        return []

    def ready(self, _: int) -> dict[int, int]:
        return {}

    def waiting(self, _: int) -> dict[int, asyncio.Future[Any]]:
        return {}

    def culprit(self, _: Lateness) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("sampler", [None, Watching()], ids=["alone", "watchdog"])
def test_sleeping_loop_beats_less_often_unless_a_watchdog_relies_on_it(
    sampler: Watching | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beat(heartbeat: Heartbeat, waits: int, late_ns: int = 0) -> float:
        heartbeat._waited = 7 - waits
        heartbeat.loop_time.due_ns = time.perf_counter_ns() - late_ns + 1_000_000_000
        heartbeat.loop_time.beaten_cpu_ns = time.thread_time_ns() + 1_000_000_000  # CPU time of the test is none
        heartbeat._beat(heartbeat._number)
        return heartbeat._interval_s

    async def main() -> tuple[list[float], float, list[float]]:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(sampler=sampler)
        asleep = [beat(heartbeat, 1) for _ in range(200)]
        awake = beat(heartbeat, 2)
        again = [beat(heartbeat, 1) for _ in range(19)]
        assert beat(heartbeat, 1, late_ns=1_200_000_000) == asleep[-1], "the machine was busy, not the loop"
        assert beat(heartbeat, 2, late_ns=1_200_000_000) < 0.01, "a late beat is followed by quick ones"
        heartbeat.release(sampler=sampler)
        return asleep, awake, again

    monkeypatch.setattr("flowrt.eventloop.heartbeat.thread_waits", lambda: 7)
    asleep, awake, again = run(main())
    assert asleep[:19] == [0.025] * 19
    assert asleep[-1] == (0.05 if sampler is None else 0.025)
    assert awake == 0.025
    assert again == [0.025] * 19


@pytest.mark.parametrize(
    ("work", "due_in_s", "least_s", "most_s"),
    [
        (lambda: compute(0.003), 100.0, 0.03, 0.1),
        (lambda: compute(0.003), -100.0, 0.001, 0.001),
        (lambda: compute(0.05), 100.0, 0.1, 0.1),
        (lambda: time.sleep(0.05), 100.0, 0.001, 0.05),
    ],
    ids=["slow beat", "slow beat that came late", "garbage collection within a beat", "busy machine"],
)
def test_rest_after_a_beat(
    work: Callable[[], None],
    due_in_s: float,
    least_s: float,
    most_s: float,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def note(_: object) -> dict[Any, Any]:
        work()
        return {}

    monkeypatch.setattr("flowrt.eventloop.heartbeat.note_waiting", note)

    async def main() -> float:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire()
        heartbeat._unnoted_ns = 10**9
        heartbeat.loop_time.due_ns = time.perf_counter_ns() + int(due_in_s * 1e9)
        heartbeat._beat(heartbeat._number)
        heartbeat.release()
        return heartbeat._interval_s

    assert least_s <= run(main()) <= most_s


def test_loop_that_has_slept_is_neither_measured_nor_noted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    monkeypatch.setattr("flowrt.eventloop.heartbeat.note_waiting", lambda batches: noted.append(len(batches)) or {})
    monkeypatch.setattr("flowrt.eventloop.heartbeat.thread_waits", lambda: 7)
    monkeypatch.setattr("flowrt.eventloop.heartbeat.time.thread_time_ns", lambda: 200_000)

    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        (batch,) = watched(heartbeat, 1)
        heartbeat._unnoted_ns = 0
        for waits, count in ((1, 0), (1, 0), (2, 0), (2, 1)):
            heartbeat._waited = 7 - waits
            heartbeat.loop_time.due_ns = time.perf_counter_ns() + 1_000_000_000
            heartbeat.loop_time.beaten_cpu_ns = 0
            heartbeat._beat(heartbeat._number)
            assert len(noted) == count
        batch.finished_ns = batch.started_ns
        heartbeat.unwatch(batch)

    run(main())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_loop_that_was_closed_amid_a_batch_is_released(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], recwarn: pytest.WarningsRecorder
) -> None:
    def close_amid_a_batch() -> tuple[weakref.ref[Any], weakref.ref[BatchRecord]]:
        loop = loop_factory()
        records: list[weakref.ref[BatchRecord]] = []

        class Started(Instrument):
            def batch_started(self, batch: BatchRecord) -> None:
                records.append(weakref.ref(batch))

        async def begin() -> None:
            batch = BatchProcessor(asyncio.sleep, 2, name="closed", instruments=[Started()]).batch([60.0, 60.0])
            asyncio.ensure_future(batch)  # noqa: RUF006  # it is to be lost
            await asyncio.sleep(0.01)

        loop.run_until_complete(begin())
        loop.close()
        return weakref.ref(loop), records[0]

    async def batch_on_another_loop() -> None:
        await BatchProcessor(asyncio.sleep, 1).batch([0.0])

    closed, record = close_amid_a_batch()
    asyncio.run(batch_on_another_loop())
    gc.collect()
    assert closed() is None
    assert record() is None, "the gauges would count it for ever"


def make_ready(batch: BatchRecord, count: int) -> None:
    """Give a batch items that are ready to run."""
    for index in range(count):
        item = make_record(batch, index, None, 1)
        item.started_ns = 1
        slot: Any = SimpleNamespace(item=item, task=SimpleNamespace(_fut_waiter=None))
        batch.slots.append(slot)


def end(heartbeat: Heartbeat, batches: list[BatchRecord]) -> None:
    for batch in batches:
        batch.finished_ns = batch.started_ns
        heartbeat.unwatch(batch)


def test_busy_batch_is_sampled_at_each_beat_beside_thousands_that_wait(run: Run) -> None:
    async def main() -> tuple[int, int]:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 2_000)
        make_ready(batches[1_000], 3)
        for _ in range(20):
            heartbeat._sample(25_000_000)
        ledger = batches[1_000].ledger
        assert ledger is not None
        found = ledger.delays._samples, ledger.delays._sampled_ns
        end(heartbeat, batches)
        return found

    samples, sampled_ns = run(main())
    assert samples >= 10
    assert 0.7e9 <= sampled_ns <= 1.4e9  # half a second, for which two of three items waited for the third


def test_busy_batch_is_examined_first_after_a_late_beat(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 6_000)
        looked: list[BatchRecord] = []
        for busy in (batches[4_000], batches[10]):
            make_ready(busy, 2)
            for _ in range(40):
                heartbeat._sample(25_000_000)
        with monkeypatch.context() as patch:
            patch.setattr(Lateness, "look", lambda _, batch: looked.append(batch))
            for _ in range(3):
                looked.clear()
                heartbeat._look(Lateness(0, 0, 50_000_000), {})
                assert {id(batch) for batch in looked[:2]} == {id(batches[4_000]), id(batches[10])}
                assert len(looked) == len({id(batch) for batch in looked})
        end(heartbeat, batches)
        assert not heartbeat._lively, "ended batches would be kept alive"

    run(main())


def test_batch_that_has_calmed_down_is_sampled_as_rarely_as_others(run: Run) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 2_000)
        make_ready(batches[0], 2)
        heartbeat._sample(25_000_000)
        assert batches[0] in heartbeat._lively
        batches[0].slots.clear()
        for _ in range(100):
            heartbeat._sample(25_000_000)
        assert not heartbeat._lively
        end(heartbeat, batches)

    run(main())


def test_batch_that_has_just_started_is_sampled_from_the_first_beat_on(run: Run) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 2_000)
        for number in range(5):
            batches += watched(heartbeat, 1)
            make_ready(batches[-1], 3)
            heartbeat._sample(25_000_000)
            assert batches[-1].ledger is not None
            assert batches[-1].ledger.delays._sampled_ns == 50_000_000
            assert len(heartbeat._lively) <= 64, number
        end(heartbeat, batches)
        assert not heartbeat._lively

    run(main())


def test_batch_with_delayed_items_is_examined_after_each_late_beat(run: Run) -> None:
    async def main() -> int:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        batches = watched(heartbeat, 6_000)
        make_ready(batches[300], 3)
        for _ in range(20):
            heartbeat._look(Lateness(0, 0, 30_000_000), {})
        assert batches[300].ledger is not None
        delays = batches[300].ledger.delays
        end(heartbeat, batches)
        return delays.known_ns

    looks = run(main()) / 90e6
    assert looks >= 15, "a few looks find it, and then each one"

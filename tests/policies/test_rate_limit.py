"""RateLimit: order of waiters, cancellation, settlement and validation."""

from __future__ import annotations

import asyncio
import gc
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrt import BatchProcessor
from flowrt.policies.rate_limit import CostTooHighError, RateLimit
from flowrt.policies.rate_limiter import RateLimiter
from flowrt.policies.sliding_window import UNIT, Charge, Window
from flowrt.testing import run_on, run_virtual
from tests.examples import examples
from tests.policies.test_sliding_window import worst_window

Run = Callable[[Any], Any]
HANG_S = 60.0


def clock() -> int:
    return round(asyncio.get_running_loop().time() * 1e9) + 1


async def starts_of(limit: RateLimit, costs: list[float]) -> list[float]:
    """Return the start of each of several simultaneous callers, in seconds."""
    loop = asyncio.get_running_loop()

    async def one(cost: float) -> float:
        await limit.acquire(cost)
        return round(loop.time(), 6)

    return await asyncio.gather(*(one(cost) for cost in costs))


def test_cost_beyond_the_rate_waits_for_the_next_window(run_virtual: Run) -> None:
    starts = run_virtual(starts_of(RateLimit(3, per=1.0), [1] * 8))
    assert starts == [0, 0, 0, 1, 1, 1, 2, 2]


def test_burst_of_one_gives_an_even_flow(run_virtual: Run) -> None:
    starts = run_virtual(starts_of(RateLimit(10, per=1.0, burst=1), [1] * 25))
    assert starts == pytest.approx([i / 10 for i in range(25)])


def test_limit_per_minute_is_paced_per_second(run_virtual: Run) -> None:
    starts = run_virtual(starts_of(RateLimit(600, per=60), [1] * 1200))
    assert starts.count(0) == 10
    assert starts == sorted(starts)
    assert starts[-1] == pytest.approx(119, abs=2), "the pace costs no throughput"


@pytest.mark.parametrize(("rate", "burst"), [(4, 4), (60, 10), (600, 10), (6_000, 100)])
def test_default_burst_is_the_share_of_a_second_and_at_least_ten(rate: int, burst: int) -> None:
    assert RateLimit(rate, per=60).burst == burst


def test_waiters_start_in_the_order_of_asking_at_any_cost(run_virtual: Run) -> None:
    starts = run_virtual(starts_of(RateLimit(10, per=1.0), [8, 10, 1, 1, 1]))
    assert starts == [0, 1, 2, 2, 2], "small ones do not slip past the large one"


def test_waiter_cancelled_in_line_lets_the_next_start(run_virtual: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limit = RateLimit(1, per=1.0)
        await limit.acquire()
        tasks = [asyncio.create_task(limit.acquire()) for _ in range(4)]
        await asyncio.sleep(0.5)
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.gather(tasks[1], tasks[3])
        assert loop.time() == pytest.approx(2.0)
        assert limit.window.reserved == 0

    run_virtual(main())


def test_waiter_cancelled_in_the_tick_of_admission_is_not_charged(run_virtual: Run) -> None:
    async def main() -> None:
        limit = RateLimit(10, per=60)
        estimated = await limit.acquire(10)
        first = asyncio.create_task(limit.acquire(10))
        second = asyncio.create_task(limit.acquire(10))
        await asyncio.sleep(1)
        estimated.settle(0)
        assert limit.window.reserved == 10 * UNIT, "the first is admitted, and its task has not run yet"
        first.cancel()
        await second
        assert asyncio.get_running_loop().time() == pytest.approx(1)
        assert first.cancelled()
        assert limit.window.reserved == 0
        assert limit.window.used == 10 * UNIT

    run_virtual(main())


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Time in nanoseconds and cost of every charge of every limit."""
    charges: list[tuple[int, int]] = []
    enter, take = Window._enter, Window.take

    def entered(window: Window, cost: int, now_ns: int) -> Charge:
        charges.append((now_ns, cost // UNIT))
        return enter(window, cost, now_ns)

    def taken(window: Window, cost: int, now_ns: int) -> Charge | None:
        charge = take(window, cost, now_ns)
        if charge is not None:
            charges.append((now_ns, cost // UNIT))
        return charge

    monkeypatch.setattr(Window, "_enter", entered)
    monkeypatch.setattr(Window, "take", taken)
    return charges


def test_no_window_overflows_on_real_loops(run: Run, charged: list[tuple[int, int]]) -> None:
    async def main() -> None:
        limit = RateLimit(100, per=0.05)
        async with asyncio.timeout(60):
            await asyncio.gather(*(limit.acquire(1 + i % 5) for i in range(150)))

    run(main())
    assert len(charged) == 150
    assert worst_window(charged, 50_000_000) <= 100


def test_smaller_waiter_starts_when_the_first_is_cancelled(run_virtual: Run) -> None:
    async def main() -> None:
        limit = RateLimit(10, per=1.0)
        await limit.acquire(5)
        large = asyncio.create_task(limit.acquire(10))
        small = asyncio.create_task(limit.acquire(5))
        await asyncio.sleep(0.5)
        large.cancel()
        await small
        assert asyncio.get_running_loop().time() == pytest.approx(0.5)

    run_virtual(main())


@given(st.data())
@settings(max_examples=examples(60), deadline=None)
def test_cancelled_waiters_lose_and_duplicate_no_cost(data: st.DataObject) -> None:
    rate = data.draw(st.integers(1, 6))
    costs = data.draw(st.lists(st.integers(0, rate), min_size=1, max_size=25))
    cancels = data.draw(st.lists(st.tuples(st.integers(0, len(costs) - 1), st.sampled_from([0, 0.5, 1, 1.5, 2, 3]))))
    begun: list[tuple[int, int]] = []
    order: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        limit = RateLimit(rate, per=1.0)

        async def one(which: int, cost: int) -> None:
            await limit.acquire(cost)
            begun.append((clock(), cost))
            order.append(which)

        tasks = [asyncio.create_task(one(which, cost)) for which, cost in enumerate(costs)]
        for which, at in cancels:
            loop.call_at(at, tasks[which].cancel)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(result is None for result in done) == len(begun)
        assert limit.window.reserved == 0
        assert limit.line.waiting == 0
        await asyncio.sleep(1.001)
        assert limit.window.fits(rate * UNIT, clock()), "all of it is free again"

    run_virtual(main())
    assert worst_window(begun, 10**9) <= rate
    assert order == sorted(order)
    assert set(order) >= set(range(len(costs))) - {which for which, _ in cancels}


def test_settling_lower_gives_back_and_admits_the_next(run_virtual: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limit = RateLimit(100, per=60, burst=100)
        estimated = await limit.acquire(100)
        waiting = asyncio.create_task(limit.acquire(70))
        await asyncio.sleep(2)
        estimated.settle(30)
        await waiting
        assert loop.time() == pytest.approx(2)

    run_virtual(main())


def test_settling_higher_charges_from_the_settlement_on(run_virtual: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limit = RateLimit(100, per=60, burst=100)
        estimated = await limit.acquire(10)
        await asyncio.sleep(5)
        estimated.settle(150)
        await limit.acquire(90)
        assert loop.time() == pytest.approx(65)

    run_virtual(main())


def test_settling_after_the_window_gives_nothing_back(run_virtual: Run) -> None:
    async def main() -> None:
        limit = RateLimit(10, per=1.0)
        first = await limit.acquire(10)
        await asyncio.sleep(2)
        await limit.acquire(10)
        first.settle(0)
        first.settle(0)
        assert limit.window.used == 10 * UNIT
        assert not limit.window.fits(UNIT, clock())

    run_virtual(main())


def test_cost_above_the_rate_fails_at_once(run_virtual: Run) -> None:
    async def main() -> None:
        limit = RateLimit(100, per=60)
        with pytest.raises(CostTooHighError, match=r"a cost of 101 can never fit into 100 per 60 s: split the item"):
            await limit.acquire(101)
        assert asyncio.get_running_loop().time() == 0

    run_virtual(main())


@pytest.mark.parametrize("cost", [-1, math.nan, math.inf, True, "5", None])
def test_invalid_cost_is_refused_with_the_value(cost: Any, run_virtual: Run) -> None:
    limit = RateLimit(100, cost=lambda item: cost)
    with pytest.raises(ValueError, match="the cost of an item must be a finite number of at least 0, not"):
        limit.price({})


def test_fractional_costs_add_up_exactly() -> None:
    limit = RateLimit(1, per=1.0, cost=0.1, burst=1)
    now, admitted = 1, 0
    while limit.window.fits(limit.price(None), now):
        limit.window.charge(limit.price(None), now)
        admitted += 1
    assert admitted == 10


def test_actual_cost_is_read_from_the_metadata() -> None:
    limit = RateLimit(100, cost=lambda item: 5)
    assert limit.reports
    assert limit.reported({"cost": 7}) == 7 * UNIT
    assert [limit.reported(m) for m in (None, {}, {"cost": -1}, {"cost": "7"}, {"cost": math.nan})] == [None] * 5
    assert RateLimit(100, actual="tokens").reported({"tokens": 2.5}) == 2_500_000
    summed = RateLimit(100, actual=lambda m: m["in"] + m["out"])
    assert summed.reported({"in": 1, "out": 2}) == 3 * UNIT
    assert summed.reported({}) is None, "as of an attempt that raised"
    assert limit.reported(["cost", 7]) is None
    assert not RateLimit(100).reports


def test_limit_outlives_its_loop() -> None:
    limit = RateLimit(2, per=60, burst=2)

    async def wait_in_vain() -> None:
        await limit.acquire()
        await limit.acquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limit.acquire(), 0.01)

    run_on(asyncio.SelectorEventLoop, wait_in_vain())

    async def still_full() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limit.acquire(), 0.01)

    run_on(asyncio.SelectorEventLoop, still_full())
    starts = run_virtual(starts_of(limit, [1, 1]))
    assert starts == [0, 0], "a clock that begins at 0 has what was before in its future"


def test_pace_begins_anew_on_a_loop_whose_clock_is_behind() -> None:
    limit = RateLimit(60, per=60, burst=1)
    run_on(asyncio.SelectorEventLoop, limit.acquire())
    assert run_virtual(starts_of(limit, [1, 1])) == [0, 1]


def test_cost_reserved_by_a_closed_loop_is_free_again() -> None:
    limit = RateLimit(1, per=60)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        first.run_until_complete(limit.line.enter(UNIT))  # admitted, and never starts
        assert limit.window.reserved == UNIT
    finally:
        first.close()
    try:
        second.run_until_complete(asyncio.wait_for(limit.acquire(), HANG_S))
    finally:
        second.close()
    assert limit.window.reserved == 0


def test_callers_of_a_closed_loop_leave_the_line_once() -> None:
    """The second time, when their coroutines are collected, it would hold back every later caller for good."""
    limit = RateLimit(5, per=0.01)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        first.run_until_complete(limit.acquire(5))
        waiting = [first.create_task(limit.acquire(5)) for _ in range(3)]
        first.run_until_complete(asyncio.sleep(0))
        assert limit.line.waiting == 3
    finally:
        first.close()
    for task in waiting:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    try:
        second.run_until_complete(asyncio.wait_for(limit.acquire(5), HANG_S))
        assert limit.line.waiting == 0
        del task, waiting, first
        gc.collect()
        assert limit.line.waiting == 0
        second.run_until_complete(asyncio.wait_for(limit.acquire(5), HANG_S))
    finally:
        second.close()


def test_cost_of_a_caller_cancelled_as_it_is_admitted_is_released_once() -> None:
    limit = RateLimit(10, per=60)

    async def cancelled() -> None:
        estimated = await limit.acquire(10)
        waiting = asyncio.create_task(limit.acquire(10))
        await asyncio.sleep(0)
        estimated.settle(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    run_on(asyncio.SelectorEventLoop, cancelled())
    run_on(asyncio.SelectorEventLoop, limit.acquire(1))  # takes back what the other loop had reserved
    assert limit.window.reserved == 0


PAUSED = {
    "burst of one": {"rate": 20, "per": 0.2, "burst": 1},
    "burst of some": {"rate": 20, "per": 0.2, "burst": 4},
    "burst of all": {"rate": 10, "per": 0.1, "burst": 10},
    "rate of one": {"rate": 1, "per": 0.02, "burst": 1},
}


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("settings", PAUSED.values(), ids=PAUSED)
def test_paused_loops_keep_their_waiters_and_the_rate(
    settings: dict[str, Any], factory: Any, charged: list[tuple[int, int]]
) -> None:
    """Each loop is paused with callers in line while the other runs, as with `run_until_complete`."""
    limit = RateLimit(**settings)
    loops = [factory(), factory()]
    try:
        tasks = [[loop.create_task(limit.acquire()) for _ in range(20)] for loop in loops]
        for turn in range(9):
            loops[turn % 2].run_until_complete(asyncio.sleep(0.4 * settings["per"] * (turn % 3)))
            time.sleep(0.3 * settings["per"] * (turn % 2))
        for loop, own in zip(loops, tasks, strict=True):

            async def rest(own: list[asyncio.Task[Any]] = own) -> None:
                await asyncio.wait_for(asyncio.gather(*own), HANG_S)

            loop.run_until_complete(rest())
    finally:
        for loop in loops:
            loop.close()
    assert len(charged) == 40
    assert worst_window(charged, round(settings["per"] * 1e9)) <= settings["rate"]
    assert limit.window.reserved == 0


def test_processors_on_paused_loops_share_a_limit() -> None:
    async def node(x: int) -> int:
        return x

    processor = BatchProcessor(node, 4, rate_limit=RateLimit(200, per=1, burst=2))
    paused = asyncio.new_event_loop()
    try:
        batch = paused.create_task(processor.batch(range(20)))
        paused.run_until_complete(asyncio.sleep(0.02))
        assert len(asyncio.run(processor.batch(range(3)))) == 3
        paused.run_until_complete(asyncio.wait([batch], timeout=HANG_S))
        results = batch.result()
    finally:
        paused.close()
    assert [result.output for result in results] == list(range(20))


def test_processors_in_several_threads_share_one_rate(charged: list[tuple[int, int]]) -> None:
    limit, count = RateLimit(40, per=0.1, burst=5), 60
    processors = [BatchProcessor(same, 4, rate_limit=limit, telemetry=False) for _ in range(3)]
    everyone = threading.Barrier(3)

    def run_one(processor: BatchProcessor) -> list[Any]:
        async def main() -> Any:
            await asyncio.to_thread(everyone.wait, HANG_S)
            return await asyncio.wait_for(processor.batch(range(count)), HANG_S)

        return [result.output for result in asyncio.run(main())]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run_one, processors)) == [list(range(count))] * 3
    assert len(charged) == 3 * count
    assert worst_window(charged, 100_000_000) <= 40
    assert (limit.window.reserved, limit.line.waiting) == (0, 0)


async def same(x: int) -> int:
    return x


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def submit(self, main: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(main, self.loop)

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def test_callers_on_two_running_loops_start_in_the_order_of_asking() -> None:
    limit = RateLimit(1, per=0.05)
    started: list[str] = []

    async def one(name: str) -> None:
        await limit.acquire()
        started.append(name)

    async def in_line(count: int) -> None:
        while limit.line.waiting < count:
            await asyncio.sleep(0.001)

    with LoopThread() as left, LoopThread() as right:
        left.submit(limit.acquire()).result(HANG_S)
        limit.window.reserve(UNIT, time.perf_counter_ns())  # holds everyone back until all have asked
        waits = []
        for count, (side, name) in enumerate([(left, "a"), (right, "b"), (right, "c"), (left, "d"), (right, "e")], 1):
            waits.append(side.submit(one(name)))
            side.submit(in_line(count)).result(HANG_S)
        with limit.line.lock:
            limit.window.release(UNIT)
        for wait in waits:
            wait.result(HANG_S)
    assert started == ["a", "b", "c", "d", "e"]
    assert limit.window.reserved == 0


def test_blocked_loop_holds_back_one_cost_at_most() -> None:
    limit = RateLimit(2, per=0.05)
    entered, leave = threading.Event(), threading.Event()

    async def wait_in_line_and_block() -> None:
        waits = [asyncio.ensure_future(limit.acquire()) for _ in range(10)]
        await asyncio.sleep(0)  # they stand in line; this task goes on before their timer admits two of them
        entered.set()
        leave.wait(HANG_S)
        await asyncio.gather(*waits)

    with LoopThread() as blocked, LoopThread() as free:
        blocked.submit(limit.acquire(2)).result(HANG_S)
        waiting = blocked.submit(wait_in_line_and_block())
        assert entered.wait(HANG_S)
        try:
            for _ in range(10):
                free.submit(limit.acquire()).result(HANG_S)
        finally:
            leave.set()
        waiting.result(HANG_S)
    assert limit.window.reserved == 0


def test_forked_child_does_not_wait_for_its_parents_callers() -> None:
    code = """
import asyncio, os, signal, threading
from flowrt import RateLimit
limit = RateLimit(1, per=0.05)
async def acquire(count):
    await asyncio.gather(*(limit.acquire() for _ in range(count)))
async def wait_in_line():
    waiting = asyncio.create_task(acquire(10_000))
    await asyncio.sleep(0.2)
    with limit.line.lock:  # as another thread may at any time
        child = os.fork()
        if not child:
            signal.alarm(60)
            threading.Thread(target=lambda: (asyncio.run(acquire(3)), os._exit(0))).start()
            signal.pause()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)
asyncio.run(wait_in_line())
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * HANG_S, check=False)
    assert done.stdout == "0\n", done.stderr


def test_paused_loop_does_not_hold_back_one_that_runs(charged: list[tuple[int, int]]) -> None:
    """The paused loop has a caller that was admitted and has not started, and others in line before anyone else."""
    limit = RateLimit(2, per=0.05)
    paused = asyncio.new_event_loop()
    try:
        paused.run_until_complete(limit.acquire(2))
        waits = [paused.create_task(limit.acquire()) for _ in range(4)]
        paused.run_until_complete(asyncio.sleep(0))
        time.sleep(0.06)
        with LoopThread() as free:
            for _ in range(4):
                free.submit(limit.acquire()).result(HANG_S)
        done, _ = paused.run_until_complete(asyncio.wait(waits, timeout=HANG_S))
    finally:
        paused.close()
    assert done == set(waits)
    assert worst_window(charged, 50_000_000) <= 2
    assert limit.window.reserved == 0


def test_items_on_a_paused_loop_ask_again_for_all_their_limits(charged: list[tuple[int, int]]) -> None:
    """One limit has admitted the item, which waits for the other one when its loop is paused."""
    calls, size = RateLimit(1, per=0.02), RateLimit(1, per=0.5)
    paused = asyncio.new_event_loop()
    try:
        batch = paused.create_task(BatchProcessor(same, 2, rate_limit=[calls, size]).batch(range(3)))
        while not calls.window.reserved and not batch.done():
            paused.run_until_complete(asyncio.sleep(0.01))
        assert not batch.done()
        assert len(asyncio.run(BatchProcessor(same, 2, rate_limit=calls).batch(range(3)))) == 3
        done, _ = paused.run_until_complete(asyncio.wait([batch], timeout=HANG_S))
        assert done == {batch}
    finally:
        paused.close()
    assert calls.window.reserved == size.window.reserved == 0
    assert len(charged) == 9


TURN = st.tuples(
    st.integers(0, 2), st.integers(1, 4), st.sampled_from([0, 0.2, 0.5, 1.0, 2.5]), st.none() | st.integers(0, 5)
)


@given(
    rate=st.integers(1, 4),
    even=st.booleans(),
    costs=st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=3, max_size=3),
    turns=st.lists(TURN, max_size=12),
)
@settings(max_examples=examples(40), deadline=None)
def test_loops_that_pause_at_any_step_lose_and_duplicate_no_cost(
    rate: int, even: bool, costs: list[list[int]], turns: list[tuple[int, int, float, int | None]]
) -> None:
    """Three loops with one clock take turns of a few steps each; some callers are cancelled."""
    limit = RateLimit(rate, per=1.0, burst=1 if even else rate)
    begun: list[tuple[int, int]] = []
    now = [0.0]
    loops = [SharedTimeLoop(now) for _ in range(3)]

    async def one(cost: int) -> None:
        await limit.acquire(min(cost, rate))
        begun.append((clock(), min(cost, rate)))

    try:
        tasks = [[loop.create_task(one(cost)) for cost in own] for loop, own in zip(loops, costs, strict=True)]
        for which, steps, pause_s, cancelled in turns:
            for _ in range(steps):
                loops[which].step()
            now[0] += pause_s
            if cancelled is not None and cancelled < len(tasks[which]):
                tasks[which][cancelled].cancel()
        for _ in range(300):
            for loop in loops:
                loop.step()
            now[0] += 0.1
        for loop, own in zip(loops, tasks, strict=True):
            left = [task for task in own if not task.done()]
            for task in left:
                task.cancel()
            loop.step()
            loop.step()
            assert not left
            assert all(task.cancelled() or task.result() is None for task in own)
    finally:
        for loop in loops:
            loop.close()
    assert sum(not task.cancelled() for own in tasks for task in own) == len(begun)
    assert worst_window(begun, 10**9) <= rate
    assert (limit.window.reserved, limit.line.waiting) == (0, 0)


class SharedTimeLoop(asyncio.SelectorEventLoop):
    """Loop that runs a step at a time, by a clock that it shares with others."""

    def __init__(self, now: list[float]) -> None:
        self.now = now
        super().__init__()

    def time(self) -> float:
        return self.now[0]

    def step(self) -> None:
        """Run what is ready, once."""
        self.call_soon(self.stop)
        self.run_forever()


@pytest.mark.parametrize(
    ("text", "rate", "per"),
    [
        ("100/s", 100, 1),
        ("600/min", 600, 60),
        (" 10 / sec ", 10, 1),
        ("5/10s", 5, 10),
        ("90k/min", 90_000, 60),
        ("1.5M/h", 1_500_000, 3600),
        ("10_000/day", 10_000, 86400),
        ("2.5/s", 5, 2),
        ("0.5/s", 1, 2),
        ("0.1/min", 1, 600),
        ("20/100ms", 20, 0.1),
        ("7/minutes", 7, 60),
    ],
)
def test_parse_accepts_common_notations(text: str, rate: float, per: float) -> None:
    limit = RateLimit.parse(text)
    assert (limit.rate, limit.per) == (rate, pytest.approx(per))


@pytest.mark.parametrize(
    "text", ["", "100", "/s", "100/", "100/fortnight", "-1/s", "nan/s", "1e3/s", "100/s/s", "0/s", "5/0s", None, 5]
)
def test_parse_refuses_other_text_with_examples(text: Any) -> None:
    with pytest.raises(ValueError, match=r"rate|per"):
        RateLimit.parse(text)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rate": 0}, "rate must be a number above 0, not 0"),
        ({"rate": -5}, "rate must be"),
        ({"rate": math.nan}, "rate must be"),
        ({"rate": math.inf}, "rate must be"),
        ({"rate": True}, "rate must be"),
        ({"rate": "100"}, "rate must be"),
        ({"per": 0}, "per must be a number of seconds above 0, not 0"),
        ({"per": 1e-10}, "too small"),
        ({"rate": 1e-9}, "too small"),
        ({"burst": 0}, "burst must be"),
        ({"burst": 11}, "burst must be .* at most 10, not 11"),
        ({"cost": -1}, "cost must be a number of at least 0, not -1"),
        ({"cost": "item"}, "cost must be"),
        (
            {"cost": 20},
            r"cost=20 never fits into rate=10 per=1.0 s: make the window longer, as in RateLimit\(20, per=2\)",
        ),
        ({"actual": 5}, "actual must be a metadata key, a function"),
    ],
)
def test_setting_out_of_range_is_refused_with_value_and_fix(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RateLimit(**{"rate": 10, **wrong})


@given(st.data())
@settings(max_examples=examples(60), deadline=None)
def test_batches_that_share_limits_keep_all_of_them(data: st.DataObject) -> None:
    """Requests and tokens together, through several limiters, in different orders, some callers cancelled."""
    per = 1.0
    requests, tokens = data.draw(st.integers(1, 5)), data.draw(st.integers(5, 20))
    sizes = st.lists(st.integers(0, tokens), max_size=12)
    batches = data.draw(st.lists(st.tuples(sizes, st.sampled_from(["both", "swapped", "tokens"])), max_size=4))
    victims = data.draw(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0, 0.3, 1, 1.7, 4])), max_size=5))
    begun: list[tuple[int, int]] = []
    called: list[tuple[int, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls, size = RateLimit(requests, per), RateLimit(tokens, per, cost=lambda item: item)
        ways = {"both": [calls, size], "swapped": [size, calls], "tokens": [size]}

        async def one(gate: RateLimiter, item: int, way: str) -> None:
            ticket = gate.take(item)
            if not ticket.granted:
                await gate.wait(ticket)
            assert ticket.granted
            begun.append((clock(), item))
            if way != "tokens":
                called.append((clock(), 1))

        tasks = []
        for items, way in batches:
            gate = RateLimiter(ways[way], loop, clock)
            tasks += [asyncio.create_task(one(gate, item, way)) for item in items]
        for which, at in victims:
            if which < len(tasks):
                loop.call_at(at, tasks[which].cancel)
        async with asyncio.timeout(1000):
            done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(result is None for result in done) == len(begun)
        assert {type(result) for result in done} <= {type(None), asyncio.CancelledError}
        assert calls.window.reserved == size.window.reserved == 0

    run_virtual(main())
    assert worst_window(begun, 10**9) <= tokens
    assert worst_window(called, 10**9) <= requests

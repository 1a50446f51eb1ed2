"""Batch as a state machine: items arrive, finish, fail, hang; the batch is resized, paused, drained and cancelled.

Everything happens in virtual time, and the engine's invariants are checked after every step.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import async_solipsism
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowrt import BatchFailedError, BatchProcessor, BatchResult, Hedge, Instrument, ItemRecord, RateLimit, RetryPolicy
from flowrt.engine.batch_run import active_batches
from flowrt.testing import run_virtual
from flowrt.whatif.virtual_clock_loop import VirtualLoop
from tests.examples import examples

RETRY_S = 5.0
TIMEOUT_S = 20.0
GRACE_S = 5.0


class Recorder(Instrument):
    """Instrument that counts starts, ends, statuses and hedges."""

    def __init__(self) -> None:
        self.started: Counter[int] = Counter()
        self.finished: Counter[int] = Counter()
        self.statuses: Counter[str] = Counter()
        self.hedges = 0
        self.batch: Any = None

    def batch_started(self, batch: Any) -> None:
        self.batch = batch

    def item_started(self, item: ItemRecord) -> None:
        self.started[item.index] += 1

    def hedge_ended(self, item: ItemRecord) -> None:
        assert item.index not in self.finished
        self.hedges += 1

    def item_finished(self, item: ItemRecord) -> None:
        self.finished[item.index] += 1
        self.statuses[item.status] += 1


class BatchMachine(RuleBasedStateMachine):
    """State machine that acts as the inputs, the node and the caller of one batch."""

    @initialize(
        c=st.integers(1, 4),
        retry=st.booleans(),
        hedge=st.booleans(),
        timeout=st.booleans(),
        stream=st.booleans(),
    )
    def start(self, c: int, retry: bool, hedge: bool, timeout: bool, stream: bool) -> None:
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.recorder = Recorder()
        self.results: list[BatchResult] = []
        self.waiting: asyncio.Queue[int | None] = asyncio.Queue()
        self.submitted = 0
        self.over = False
        self.cut_off: Exception | None = None
        self.caller_cancelled = False
        self.attempts: dict[asyncio.Future[int], int] = {}
        self.calls = 0
        self.calls_before_pause: int | None = None
        self.allowed = self.c = c
        self.hedged, self.stream = hedge, stream
        self.processor = BatchProcessor(
            self.node,
            c,
            item_timeout=TIMEOUT_S if timeout else None,
            retry=RetryPolicy(2, wait=lambda _: RETRY_S, budget=None) if retry else None,
            hedge=Hedge(after=3.0, share=1.0) if hedge else None,
            telemetry=False,
            instruments=[self.recorder],
        )
        self.caller = self.loop.create_task(self.consume() if stream else self.call())
        self.run_loop()

    async def inputs(self) -> AsyncIterator[int]:
        while (item := await self.waiting.get()) is not None:
            yield item

    async def node(self, x: int) -> int:
        self.calls += 1
        decided = self.loop.create_future()
        self.attempts[decided] = x
        try:
            return await decided
        finally:
            del self.attempts[decided]

    async def call(self) -> None:
        self.results += await self.processor.batch(self.inputs())

    async def consume(self) -> None:
        try:
            async with self.processor.batch_as_completed(self.inputs()) as results:
                async for result in results:
                    self.results.append(result)
        except BatchFailedError as exc:
            self.cut_off = exc.cut_off

    def run_loop(self, seconds: float = 0.001) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        slots = 0 if self.recorder.batch is None else len(self.recorder.batch.slots)
        self.allowed = max(self.c, min(self.allowed, slots))  # a surplus slot leaves when its item has ended

    def pick(self, choice: int) -> asyncio.Future[int]:
        return list(self.attempts)[choice % len(self.attempts)]

    # -- rules --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.over)
    @rule(count=st.integers(1, 6))
    def submit(self, count: int) -> None:
        for _ in range(count):
            self.waiting.put_nowait(self.submitted)
            self.submitted += 1
        self.run_loop()

    @precondition(lambda self: self.attempts)
    @rule(choice=st.integers(0, 9))
    def finish(self, choice: int) -> None:
        decided = self.pick(choice)
        decided.set_result(10 * self.attempts[decided])
        self.run_loop()

    @precondition(lambda self: self.attempts)
    @rule(choice=st.integers(0, 9))
    def fail(self, choice: int) -> None:
        self.pick(choice).set_exception(ConnectionError("no"))
        self.run_loop()

    @precondition(lambda self: self.attempts)
    @rule(choice=st.integers(0, 9))
    def raise_cancelled(self, choice: int) -> None:
        self.pick(choice).cancel()
        self.run_loop()

    @rule(seconds=st.sampled_from([1.0, 3.5, RETRY_S, TIMEOUT_S, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.run_loop(seconds)

    @rule(c=st.integers(1, 5))
    def resize(self, c: int) -> None:
        self.allowed = max(self.allowed, self.c, c)
        self.c = c
        self.processor.set_max_concurrency(c)
        self.run_loop()

    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        for run in active_batches(self.loop):
            (run.pause if paused else run.resume)()
            if paused and self.calls_before_pause is None and run.batch.paused_ns:
                self.calls_before_pause = self.calls
        self.forget_pause_that_ended()
        self.run_loop()

    def forget_pause_that_ended(self) -> None:
        if self.recorder.batch is None or not self.recorder.batch.paused_ns:
            self.calls_before_pause = None

    @precondition(lambda self: not self.over)
    @rule()
    def end_inputs(self) -> None:
        self.over = True
        self.waiting.put_nowait(None)
        self.run_loop()

    @precondition(lambda self: not self.over)
    @rule()
    def drain(self) -> None:
        self.over = True
        for run in active_batches(self.loop):
            run.drain("draining")
        self.run_loop()

    @precondition(lambda self: not self.over)
    @rule()
    def cancel(self) -> None:
        self.over = self.caller_cancelled = True
        self.caller.cancel()
        self.run_loop()

    # -- invariants ---------------------------------------------------------------------------------------------------

    @invariant()
    def attempts_in_flight_stay_within_the_limit(self) -> None:
        items = set(self.attempts.values())
        assert len(items) <= self.allowed
        most_hedges = self.allowed if self.hedged else 0
        assert len(self.attempts) <= len(items) + most_hedges

    @invariant()
    def no_slot_is_idle_while_an_item_waits(self) -> None:
        paused = self.recorder.batch is not None and self.recorder.batch.paused_ns
        if not self.over and self.waiting.qsize() and not paused:
            assert len(set(self.attempts.values())) >= self.c

    @invariant()
    def nothing_starts_during_a_pause(self) -> None:
        self.forget_pause_that_ended()
        if self.calls_before_pause is not None and not self.hedged:
            assert self.calls == self.calls_before_pause

    @invariant()
    def items_end_at_most_once_and_only_after_their_start(self) -> None:
        assert not self.recorder.finished - self.recorder.started
        assert all(count == 1 for count in (*self.recorder.started.values(), *self.recorder.finished.values()))
        batch = self.recorder.batch
        if batch is not None:
            assert batch.completed == sum(self.recorder.finished.values()) <= batch.pulled
            assert batch.pulled == sum(self.recorder.started.values())
            assert batch.queued >= 0

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            if not self.over:
                self.waiting.put_nowait(None)
            for _ in range(100):
                if self.caller.done():
                    break
                for run in active_batches(self.loop):
                    run.resume()
                for decided in list(self.attempts):
                    if not decided.done():
                        decided.set_result(10 * self.attempts[decided])
                self.run_loop(RETRY_S)
            assert self.caller.done(), "the batch never ended"
            if self.caller_cancelled:
                assert self.caller.cancelled()
            else:
                self.caller.result()
                assert Counter(r.status for r in self.results) == self.recorder.statuses
                assert sorted(r.index for r in self.results) == list(range(self.recorder.batch.pulled))
                assert all(r.output == 10 * r.input_data for r in self.results if r.success)
                assert self.cut_off is (self.recorder.batch.cut_off if self.stream else None)
                if self.recorder.batch.cut_off is None:
                    assert self.recorder.batch.pulled == self.submitted
                else:
                    assert self.recorder.batch.status == "cancelled"
            assert self.recorder.started == self.recorder.finished
            assert not self.attempts
            assert not asyncio.all_tasks(self.loop)
            if self.recorder.batch is not None:
                assert not self.recorder.batch.slots
                assert self.recorder.batch.queued == 0
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            asyncio.set_event_loop(None)


TestBatchMachine = BatchMachine.TestCase
TestBatchMachine.settings = settings(max_examples=examples(50), stateful_step_count=25, deadline=None)


# -- cancellation at every step --------------------------------------------------------------------------------------


class Busy:
    """Node and processor in which attempts, hedges, backoff, a rate limit and timeouts are all active at once."""

    def __init__(self, hedge: Hedge | None = Hedge(after=2.0, share=1.0)) -> None:  # noqa: B008  # frozen
        self.running = 0
        self.recorder = Recorder()
        self.tries: Counter[int] = Counter()
        self.processor = BatchProcessor(
            self.node,
            3,
            item_timeout=4.0,
            retry=RetryPolicy(3, wait=lambda _: 1.0, budget=None),
            rate_limit=RateLimit(6, per=1.0, burst=2),
            hedge=hedge,
            telemetry=False,
            instruments=[self.recorder],
        )

    async def node(self, x: int) -> int:
        self.tries[x] += 1
        self.running += 1
        try:
            await asyncio.sleep({0: 0.0, 1: 0.3, 2: 3.0, 3: 9.0}[x % 4] if self.tries[x] == 1 else 0.1)
            if x % 3 == 0 and self.tries[x] == 1:
                raise ConnectionError("no")
            return x
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # closing a connection takes this long
            raise
        finally:
            self.running -= 1

    async def check(self, caller: asyncio.Task[Any]) -> None:
        """Assert that nothing runs, nothing waits and each started item has ended once."""
        assert self.running == 0
        assert self.recorder.started == self.recorder.finished
        assert all(count == 1 for count in self.recorder.finished.values())
        left = asyncio.all_tasks() - {caller, asyncio.current_task()}
        assert not left, left
        batch = self.recorder.batch
        if batch is not None:
            assert (batch.queued, batch.slots) == (0, [])
            assert self.recorder.statuses == Counter({k: v for k, v in batch.counts.items() if v})


class Steps:
    """Counter of the callbacks that loops run; calls `act` before callback number `at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = -1
        self.act: Any = None
        run = asyncio.Handle._run

        def counted(handle: asyncio.Handle) -> Any:
            self.count += 1
            if self.count == self.at:
                self.act()
            return run(handle)

        monkeypatch.setattr(asyncio.Handle, "_run", counted)


@pytest.mark.parametrize("how", ["batch", "stream", "drain"])
def test_batch_stopped_at_any_step_leaves_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)

    async def main(at: int) -> int:
        busy = Busy()
        loop = asyncio.get_running_loop()

        async def consume() -> None:
            if how == "stream":
                async for _ in busy.processor.batch_as_completed(range(12)):
                    pass
            else:
                await busy.processor.batch(range(12))

        caller = asyncio.create_task(consume())
        steps.count, steps.at = 0, at
        if how == "drain":
            steps.act = lambda: [run.drain("draining") for run in active_batches(loop)]
        else:
            steps.act = caller.cancel
        await asyncio.wait([caller])
        taken, steps.at = steps.count, -1
        if how != "drain":
            assert caller.cancelled() == (at <= taken), "the caller's own cancellation reaches it"
        else:
            caller.result()
        await asyncio.sleep(0)
        await busy.check(caller)
        return taken

    total = run_virtual(main(10**9))
    assert total > 80
    for at in range(2, total - 1, 1 if how == "batch" else 3):
        run_virtual(main(at))


# -- other loops -------------------------------------------------------------------------------------------------------


@pytest.fixture
def solipsist(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    # its clock resolves microseconds, but the engine's timers are set to the nanosecond
    monkeypatch.setattr(async_solipsism.clock.Clock.__init__, "__defaults__", (0.0, 1e-9))
    loop = async_solipsism.EventLoop()
    yield loop
    loop.close()


@pytest.mark.filterwarnings("ignore::async_solipsism.ResolutionWarning")
def test_batch_never_sleeps_without_a_timer(solipsist: asyncio.AbstractEventLoop) -> None:
    """The loop raises if every task waits and no timer is set, which is how a lost wakeup would show."""

    async def main() -> None:
        busy = Busy()
        results = await busy.processor.batch(range(40))
        assert results.success_rate == 1
        await busy.check(asyncio.current_task())  # type: ignore[arg-type]

    solipsist.run_until_complete(main())

    async def sleeper() -> None:
        await solipsist.create_future()

    with pytest.raises(async_solipsism.SleepForeverError):
        solipsist.run_until_complete(sleeper())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="simloop needs Python 3.12")
@pytest.mark.parametrize("first", range(0, 30, 10))
def test_outcome_does_not_depend_on_the_order_of_ready_callbacks(first: int) -> None:
    import simloop

    async def main() -> list[tuple[int, str, Any]]:
        busy = Busy()
        results = await busy.processor.batch(range(24))
        await busy.check(asyncio.current_task())  # type: ignore[arg-type]
        return [(r.index, r.status, r.output) for r in results]

    for seed in range(first, first + 10):
        loop = simloop.SimLoop(seed)
        try:
            assert loop.run_until_complete(main()) == [(x, "ok", x) for x in range(24)], f"seed {seed}"
        finally:
            loop.close()

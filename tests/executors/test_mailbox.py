"""Mailbox, links and windows over workers in memory, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import Future
from typing import Any, ClassVar

import pytest

from flowrt import BatchProcessor, CircuitBreaker, Telemetry
from flowrt.attribution.explanation import explain_batch
from flowrt.engine.batch_run import active_batches
from flowrt.errors import WorkerCrashed
from flowrt.executors.frames import Kind
from flowrt.testing.virtual_time import run_virtual
from tests.executors.in_memory import MemoryExecutor, MemoryTransport


def batch(node: Any, items: Any, executor: MemoryExecutor, c: int = 20, **settings: Any) -> Any:
    return run_virtual(BatchProcessor(node, c, telemetry=False, executor=executor, **settings).batch(items))


def sizes(transport: MemoryTransport) -> list[int]:
    """Return the number of items in each message of items."""
    return [len(message[3]) for message in transport.messages if message[0] == Kind.ITEMS]


class Runs:
    """Node that counts the runs of each item; shared with the workers, which are in this process."""

    counts: ClassVar[Counter[int]] = Counter()


async def nap(item: tuple[int, float]) -> int:
    Runs.counts[item[0]] += 1
    await asyncio.sleep(item[1])
    return item[0]


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    Runs.counts.clear()


def test_items_of_one_turn_go_out_in_one_message_for_each_worker() -> None:
    executor = MemoryExecutor(2)
    results = batch(nap, [(x, 1.0) for x in range(60)], executor)
    assert [r.output for r in results] == list(range(60))
    for transport in executor.transports:  # the first items come one turn after the other, as slots are filled
        assert sizes(transport)[-2:] == [10, 10]
    assert all(r.execution_time == pytest.approx(1.0) for r in results)


def test_coroutines_run_side_by_side_up_to_the_concurrency_limit() -> None:
    async def main() -> float:
        start = asyncio.get_running_loop().time()
        executor = MemoryExecutor(2, delay_s=0.001)
        await BatchProcessor(nap, 50, telemetry=False, executor=executor).batch([(x, 1.0) for x in range(100)])
        return asyncio.get_running_loop().time() - start

    assert 2.0 <= run_virtual(main()) < 2.2


def test_messages_are_cut_at_the_transports_limit() -> None:
    executor = MemoryExecutor(1, most_bytes=10_000)
    texts = ["x" * 1_000] * 60
    assert [r.output for r in batch(len, texts, executor, c=30)] == [1_000] * 60
    assert max(sizes(executor.transports[0])) <= 15


@pytest.mark.parametrize("seed", range(5))
def test_splits_at_random_bytes_lose_nothing(seed: int) -> None:
    choose = random.Random(seed)  # noqa: S311
    executor = MemoryExecutor(3, delay_s=0.001, choose=choose)
    items = [(x, choose.random()) for x in range(200)]
    assert [r.output for r in batch(nap, items, executor)] == list(range(200))
    assert set(Runs.counts.values()) == {1}
    assert [r.output for r in batch(abs, range(-200, 0), MemoryExecutor(3, choose=choose))] == list(range(200, 0, -1))


@pytest.mark.parametrize("seed", range(5))
def test_deaths_at_random_moments_repeat_at_most_what_was_in_flight(seed: int) -> None:
    choose = random.Random(seed)  # noqa: S311
    executor = MemoryExecutor(2, delay_s=0.001, settings={"max_crashes": 1_000})
    kills = lost = 0

    async def main() -> Any:
        nonlocal kills, lost
        processor = BatchProcessor(nap, 10, telemetry=False, executor=executor)
        running = asyncio.ensure_future(processor.batch([(x, choose.random() / 10) for x in range(300)]))
        while not running.done() and kills < 10:
            await asyncio.sleep(choose.random() / 4)
            alive = [t for t in executor.transports if not t.dead and t.runner._tasks]
            if alive and not running.done():
                victim = choose.choice(alive)
                lost += len(victim._receiver.entries)
                kills += 1
                victim.die("SIGKILL")
        return await running

    results = run_virtual(main())
    assert kills
    assert [r.output for r in results] == list(range(300))
    assert all(r.attempts == 1 for r in results)
    assert Runs.counts.total() <= 300 + lost


def test_suspects_run_with_nothing_beside_them() -> None:
    beside: list[int] = []

    async def deadly(item: int) -> int:
        (mine,) = [t for t in executor.transports if not t.dead and asyncio.current_task() in t.runner._tasks.values()]
        await asyncio.sleep(0.01)
        if item == 3:
            beside.append(len(mine._receiver.entries))
            mine.die("SIGSEGV")
            await asyncio.sleep(60)
        return item

    executor = MemoryExecutor(1)
    shared.update(deadly=deadly)
    results = batch(call_shared, range(8), executor)
    assert [r.output for r in results] == [0, 1, 2, None, 4, 5, 6, 7]
    assert isinstance(results[3].exception, WorkerCrashed)
    assert results[3].exception.how == "SIGSEGV"
    assert len(beside) == 3
    assert beside[2] == 1


class LateExecutor(MemoryExecutor):
    """Executor whose workers take 6 s to start."""

    def launch(self, name: str) -> Future[Any]:
        answer: Future[Any] = Future()
        started = super().launch(name).result()
        asyncio.get_running_loop().call_later(6.0, answer.set_result, started)
        return answer


@pytest.mark.parametrize("items", [4, 16], ids=["a slot for each", "items wait for slots"])
def test_explanation_names_the_time_in_which_workers_start(items: int) -> None:
    async def main() -> tuple[Any, str]:
        processor = BatchProcessor(nap, 4, telemetry=Telemetry(metrics=False, logs=False), executor=LateExecutor(2))
        running = asyncio.ensure_future(processor.batch([(x, 1.0) for x in range(items)]))
        await asyncio.sleep(3.0)
        (run,) = active_batches(asyncio.get_running_loop())
        assert run.batch.ledger is not None
        meanwhile = explain_batch(run.batch, run.batch.ledger.read(3_000_000_000))
        return (await running).report, meanwhile

    report, meanwhile = run_virtual(main())
    assert meanwhile == "100 % of the time the workers were starting"
    if items == 16:
        assert report.explanation.startswith("60 % of the time the workers were starting; 30 % of the time all 4 slots")
        assert sum(report.bound_by.values()) == pytest.approx(10.0, abs=0.1)
    else:
        assert report.explanation.startswith("86 % of the time the workers were starting; 14 % every item left was run")


def test_explanation_names_the_time_after_the_last_worker_has_died() -> None:
    executor = LateExecutor(1)

    async def main() -> Any:
        processor = BatchProcessor(nap, 4, telemetry=Telemetry(metrics=False, logs=False), executor=executor)
        running = asyncio.ensure_future(processor.batch([(x, 4.0) for x in range(4)]))
        await asyncio.sleep(8.0)
        executor.transports[0].die("SIGKILL")
        return (await running).report

    assert run_virtual(main()).explanation.startswith("67 % of the time the workers were starting; 33 %")  # 12 of 18 s


def test_explanation_advises_workers_for_a_plain_function_alone() -> None:
    async def main(node: Any) -> str:
        executor = MemoryExecutor(2, delay_s=0.1)  # the messages' delay is the only time that passes
        processor = BatchProcessor(node, 8, telemetry=Telemetry(metrics=False, logs=False), executor=executor)
        return (await processor.batch([(x, 0.2) for x in range(64)])).report.explanation

    assert "all 8 slots were busy: raise max_concurrency" in run_virtual(main(nap))
    assert "all 2 workers were busy: " in run_virtual(main(sum))  # the advice depends on the cores of the machine


shared: dict[str, Any] = {}


async def call_shared(item: int) -> Any:
    return await shared["deadly"](item)


def test_probe_is_known_by_its_admission_not_its_start_in_a_worker() -> None:
    breaker = CircuitBreaker(cooldown=5.0, minimum=1, open="pause")
    breaker.record(1, 1, ok=False)
    results = batch(nap, [(x, 1.0) for x in range(4)], MemoryExecutor(1, delay_s=0.5), breaker=breaker)
    assert {r.status for r in results} == {"ok"}
    assert [change.new for change in breaker.transitions] == ["open", "half_open", "closed"]


def test_time_in_the_queue_counts_neither_for_time_limits_nor_as_service() -> None:
    executor = MemoryExecutor(1, delay_s=0.5)
    results = batch(nap, [(x, 1.0) for x in range(4)], executor, c=4, item_timeout=2.0)
    assert {r.status for r in results} == {"ok"}
    assert all(r.execution_time == pytest.approx(1.0) for r in results)
    assert all(r.queue_time >= 0.5 for r in results)
    late = batch(nap, [(0, 1.0), (1, 9.0)], MemoryExecutor(1), c=4, item_timeout=2.0)
    assert [r.status for r in late] == ["ok", "timed_out"]
    assert late[1].execution_time == pytest.approx(2.0, abs=0.2)

"""Instruments: which hooks are called, in what order, and how an instrument that raises is disabled."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BatchProcessor, BatchRecord, Instrument, ItemRecord
from flowrt.engine.batch_run import active_batches
from flowrt.engine.instrument import HOOKS, Dispatch, Phase
from flowrt.policies import CircuitBreaker, Hedge, RetryPolicy

Run = Callable[[Any], Any]


class Recorder(Instrument):
    """Instrument that records each hook call as a line, with a prefix."""

    def __init__(self, log: list[str], name: str = "") -> None:
        self.log = log
        self.name = name

    def batch_started(self, batch: BatchRecord) -> None:
        self.log.append(f"{self.name}batch_started {batch.expected}")

    def item_started(self, item: ItemRecord) -> None:
        self.log.append(f"{self.name}item_started {item.index}")

    def attempt_ended(self, item: ItemRecord) -> None:
        self.log.append(f"{self.name}attempt_ended {item.index} {item.status}")

    def item_finished(self, item: ItemRecord) -> None:
        assert item.finished_ns >= item.started_ns >= item.pulled_ns
        self.log.append(f"{self.name}item_finished {item.index} {item.status}")

    def batch_ended(self, batch: BatchRecord) -> None:
        self.log.append(f"{self.name}batch_ended {batch.status} {batch.completed}")


async def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError("odd")
    return x


def test_hooks_are_called_in_the_order_of_the_life_cycle(run: Run) -> None:
    log: list[str] = []
    run(BatchProcessor(odd_fails, 1, telemetry=False, instruments=[Recorder(log)]).batch(range(2)))
    assert log == [
        "batch_started 2",
        "item_started 0",
        "attempt_ended 0 ok",
        "item_finished 0 ok",
        "item_started 1",
        "attempt_ended 1 failed",
        "item_finished 1 failed",
        "batch_ended failed 2",
    ]


def test_end_hooks_are_called_in_the_reverse_order_of_start_hooks(run: Run) -> None:
    log: list[str] = []
    instruments = [Recorder(log, "a "), Recorder(log, "b ")]
    run(BatchProcessor(odd_fails, 1, telemetry=False, instruments=instruments).batch([0]))
    assert [line for line in log if "item_" in line] == [
        "a item_started 0",
        "b item_started 0",
        "b item_finished 0 ok",
        "a item_finished 0 ok",
    ]


def test_each_pulled_item_finishes_once_in_a_batch_cut_short_by_timeout(run_virtual: Run) -> None:
    log: list[str] = []
    processor = BatchProcessor(
        asyncio.sleep, 3, telemetry=False, instruments=[Recorder(log)], item_timeout=2, batch_timeout=5
    )
    run_virtual(processor.batch([1, 9, 1, 9, 1, 9, 1, 9, 1, 9]))
    started = [line.split()[1] for line in log if line.startswith("item_started")]
    finished = [line.split()[1] for line in log if line.startswith("item_finished")]
    assert sorted(started) == sorted(finished) == sorted(map(str, range(10)))
    assert log[-1].startswith("batch_ended")


def test_hooks_that_are_not_overridden_are_not_called() -> None:
    class Half(Instrument):
        def item_finished(self, item: ItemRecord) -> None:
            """Watch the end."""

    half = Half()
    dispatch = Dispatch([half, Instrument()])
    assert [name for name in HOOKS if dispatch.takes(name)] == ["item_finished"]
    assert dispatch.notify_started is None
    assert dispatch.notify_finished == half.item_finished
    assert dispatch.notify_finished_after is None


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook != "inputs_cancelled"])
def test_instrument_that_raises_is_disabled_and_logged_once(
    hook: str, run_virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    def broken(self: Instrument, record: Any) -> None:
        raise RuntimeError("broken instrument")

    async def fails_once(x: int) -> int:
        if x == 6:
            processor.set_max_concurrency(3)
            active_batches(asyncio.get_running_loop())[0].pause()
            active_batches(asyncio.get_running_loop())[0].resume()
        if x == 4 and not failed_before:
            failed_before.append(x)
            raise ValueError("once")
        if x == 2:
            raise ValueError("for good")
        if x == 8 and not slow_before:
            slow_before.append(x)
            await asyncio.sleep(0.2)  # its hedge finishes first
        return x

    slow_before: list[int] = []
    failed_before: list[int] = []
    kind = type(f"Broken{hook}", (Recorder,), {hook: broken})
    processor = BatchProcessor(
        fails_once,
        2,
        retry=RetryPolicy(base=0),
        cache=hook == "cache_looked_up",
        hedge=Hedge(0.02),
        # an open circuit starts no hedge
        breaker=None if hook == "hedge_ended" else CircuitBreaker(0.1, cooldown=0.001, minimum=1, open="pause"),
        telemetry=False,
        instruments=[kind([]), Recorder(log, "healthy ")],
    )
    with caplog.at_level(logging.ERROR, "flowrt"):
        results = run_virtual(processor.batch(range(0, 20, 2)))
    assert results.success_rate == 0.9
    assert sum(line.startswith("healthy item_finished") for line in log) == 10
    assert caplog.text.count(f"Broken{hook} raised in") == 1


@pytest.mark.parametrize("hook", ["item_started", "item_finished"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_other_instruments_see_every_item_if_one_raises(hook: str, place: int, others: int, run_virtual: Run) -> None:
    def broken(self: Instrument, record: Any) -> None:
        raise RuntimeError("broken instrument")

    class Counting(Instrument):
        def __init__(self) -> None:
            self.seen: Counter[str] = Counter()

        def item_started(self, item: ItemRecord) -> None:
            self.seen["item_started"] += 1

        def item_finished(self, item: ItemRecord) -> None:
            self.seen["item_finished"] += 1

    counting = [Counting() for _ in range(others)]
    instruments: list[Instrument] = [*counting]
    instruments.insert(place, type("Broken", (Instrument,), {hook: broken})())
    run_virtual(BatchProcessor(odd_fails, 2, telemetry=False, instruments=instruments).batch(range(5)))
    assert [each.seen for each in counting] == [Counter(item_started=5, item_finished=5)] * others


def test_instruments_are_called_by_phase_and_end_in_reverse(run_virtual: Run) -> None:
    log: list[str] = []

    class First(Recorder):
        phase = Phase.RECORDING

    class Last(Recorder):
        phase = Phase.SAMPLE

    instruments = [Last(log, "last "), Recorder(log, "user "), First(log, "first ")]
    run_virtual(BatchProcessor(odd_fails, telemetry=False, instruments=instruments).batch([0]))
    assert [line.split()[0] for line in log if "item_started" in line] == ["first", "user", "last"]
    assert [line.split()[0] for line in log if "batch_ended" in line] == ["last", "user", "first"]


def test_phase_of_a_wrong_type_is_refused() -> None:
    class Early(Instrument):
        phase = -1  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"Early.phase must be a flowrt.engine.instrument.Phase, not -1"):
        BatchProcessor(odd_fails, instruments=[Early()])


@pytest.mark.parametrize("kind", ["neither", "finish alone", "both"])
def test_unstarted_inputs_are_reported_in_bulk_or_one_by_one(kind: str, run_virtual: Run) -> None:
    calls: Counter[str] = Counter()

    class Counts(Instrument):
        def batch_ended(self, batch: BatchRecord) -> None:
            calls["inputs"] = batch.pulled

    def item_finished(self: Instrument, item: ItemRecord) -> None:
        calls["finished"] += 1

    def inputs_cancelled(self: Instrument, batch: BatchRecord) -> None:
        calls["bulk"] += batch.unstarted

    async def node(x: int) -> int:
        await asyncio.sleep(0.01)
        return x

    hooks = {"item_finished": item_finished, "inputs_cancelled": inputs_cancelled}
    chosen = {"neither": [], "finish alone": ["item_finished"], "both": list(hooks)}[kind]
    instrument = type("Chosen", (Counts,), {name: hooks[name] for name in chosen})()
    processor = BatchProcessor(node, 2, batch_timeout=0.05, telemetry=False, instruments=[instrument])
    results = run_virtual(processor.batch(range(5000)))
    assert len(results) == calls["inputs"] == 5000
    if kind == "finish alone":
        assert calls["finished"] == 5000
    if kind == "both":
        assert calls["finished"] + calls["bulk"] == 5000
        assert calls["bulk"] > 4000


def test_keyboard_interrupt_in_an_instrument_propagates(run: Run) -> None:
    class Exits(Instrument):
        def item_started(self, item: ItemRecord) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(BatchProcessor(odd_fails, telemetry=False, instruments=[Exits()]).batch([1]))

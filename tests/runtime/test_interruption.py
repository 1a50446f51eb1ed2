"""Interrupted: how batches and streams end in their callers after a signal."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

import flowrt
from flowrt import BatchProcessor, BatchResults, Interrupted, MapNode, Runtime
from flowrt.engine.batch_run import active_batches
from flowrt.runtime import signals

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def exit_code_of(main: Callable[[], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    with pytest.raises(SystemExit) as ended:
        flowrt.run(main(), log_level="CRITICAL", **settings)
    return ended.value.code


async def drained() -> None:
    """Wait until the signal has reached the batches of this loop."""
    while all(run.interruption is None for run in active_batches(asyncio.get_running_loop())):
        await asyncio.sleep(0.005)


async def signalling(item: int, signum: int = signal.SIGINT) -> int:
    """Node of which items 0 to 3 are in flight when the signal comes."""
    if item == 3:
        signal.raise_signal(signum)
    await drained()
    return item


def end_grace() -> None:
    """End the grace, as its timer would."""
    asyncio.get_running_loop().call_soon(signals._installed[-1]._cancel)


def tally(results: BatchResults) -> dict[str, int]:
    return dict(Counter(result.status for result in results))


@pytest.mark.parametrize(("signum", "code"), CODES.items())
def test_batch_raises_interrupted_with_all_results_and_run_exits(signum: signal.Signals, code: int) -> None:
    seen: list[Interrupted] = []

    async def main() -> None:
        try:
            await BatchProcessor(lambda item: signalling(item, signum), 4, name="b").batch(range(2_000))
        except Exception:
            pytest.fail("except Exception took an interrupted batch for a failed one")
        except Interrupted as exc:
            seen.append(exc)
            raise
        pytest.fail("the script went on as if the batch had ended normally")

    assert exit_code_of(main) == code
    (interrupted,) = seen
    assert (interrupted.signum, str(interrupted)) == (signum, f"interrupted by {signum.name}")
    assert tally(interrupted.results) == {"ok": 4, "cancelled": 1_996}
    assert interrupted.results[0].output == 0
    assert interrupted.results[-1].input_data == 1_999
    assert interrupted.results.name == "b"


def test_complete_batch_is_interrupted_as_well() -> None:
    """Whether the last items were in flight at the signal is chance: the script must not depend on it."""
    seen: list[dict[str, int]] = []

    async def main() -> None:
        try:
            await BatchProcessor(signalling, 4).batch(range(4))
        finally:
            seen.append({"reached": 1})

    assert exit_code_of(main) == 130
    assert seen == [{"reached": 1}]


def test_stream_raises_interrupted_after_its_last_result() -> None:
    taken: Counter[str] = Counter()
    seen: list[Any] = []

    async def main() -> None:
        stream = BatchProcessor(signalling, 4).batch_as_completed(range(10))
        try:
            async for result in stream:
                taken[result.status] += 1
            pytest.fail("the stream ended normally")
        except Interrupted as exc:
            report = stream.report
            assert report is not None
            seen.extend([list(exc.results), report.total])
            raise

    assert exit_code_of(main) == 130
    assert taken == {"ok": 4, "cancelled": 6}
    assert seen == [[], 10]


async def interrupt_at_3(item: int) -> int:
    """Node that sends the signal for item 3, and returns once the batch drains."""
    if item == 3:
        signal.raise_signal(signal.SIGINT)
    while not any(run.admission.closed for run in active_batches(asyncio.get_running_loop())):
        await asyncio.sleep(0.005)
    return item


def test_return_keeps_partial_results_and_the_script_goes_on() -> None:
    seen: list[dict[str, int]] = []

    async def main() -> None:
        seen.append(tally(await BatchProcessor(interrupt_at_3, 4).batch(range(10))))
        stream = BatchProcessor(abs).batch_as_completed(range(3))
        seen.append({"of the stream": len([result async for result in stream])})

    assert exit_code_of(main, on_interrupt="return") == 130
    assert seen == [{"ok": 4, "cancelled": 6}, {"of the stream": 3}]


def test_return_ends_a_stream_over_an_endless_input_without_an_error() -> None:
    seen: list[Any] = []

    async def main() -> None:
        stream = BatchProcessor(interrupt_at_3, 4).batch_as_completed(itertools.count())
        seen.append(sorted([result.output async for result in stream]))
        seen.append(None if stream.report is None or stream.report.batch is None else stream.report.batch.status)

    assert exit_code_of(main, on_interrupt="return") == 130
    assert seen == [[0, 1, 2, 3], "cancelled"]


def test_unknown_on_interrupt_is_refused() -> None:
    with pytest.raises(ValueError, match="on_interrupt must be 'raise' or 'return', not 'ignore'"):
        Runtime(on_interrupt="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["TaskGroup", "gather"])
def test_concurrent_batches_all_drain_before_the_first_one_raises(way: str) -> None:
    seen: dict[str, dict[str, int]] = {}
    quick_is_over = asyncio.Event()

    async def slow(item: int) -> int:
        await quick_is_over.wait()
        await asyncio.sleep(0.1)
        return item

    async def observed(name: str, node: Any, items: range) -> None:
        try:
            await BatchProcessor(node, 4, name=name).batch(items)
        except Interrupted as exc:
            seen[name] = tally(exc.results)
            raise

    async def quick(item: int) -> int:
        await signalling(item)
        asyncio.get_running_loop().call_later(0.05, quick_is_over.set)
        return item

    async def main() -> None:
        batches = [observed("slow", slow, range(50)), observed("quick", quick, range(50))]
        if way == "gather":
            await asyncio.gather(*batches)
        else:
            async with asyncio.TaskGroup() as group:
                for batch in batches:
                    group.create_task(batch)
        pytest.fail("the script went on")

    assert exit_code_of(main) == 130
    assert seen == {name: {"ok": 4, "cancelled": 46} for name in ("quick", "slow")}


def test_batch_raises_once_the_unstarted_inputs_of_the_others_have_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.engine.unstarted._TURN_NS", -1)  # as with slow instruments: a turn for each input
    monkeypatch.setattr("flowrt.engine.interruption._POLL_S", 0)
    seen: dict[str, dict[str, int]] = {}

    async def observed(name: str, node: Any, items: range) -> None:
        try:
            await BatchProcessor(node, 4, name=name).batch(items)
        except Interrupted as exc:
            seen[name] = tally(exc.results)
            raise

    async def slow(item: int) -> int:
        await drained()
        while len(active_batches(asyncio.get_running_loop())) > 1:  # the other batch is not over
            await asyncio.sleep(0.005)
        return item

    async def main() -> None:
        await asyncio.gather(observed("slow", slow, range(50)), observed("quick", signalling, range(4)))

    assert exit_code_of(main) == 130
    assert seen == {"quick": {"ok": 4}, "slow": {"ok": 4, "cancelled": 46}}


def test_batch_waits_for_no_stream_whose_consumer_it_holds_up() -> None:
    seen: list[str] = []

    async def main() -> None:
        async for _ in BatchProcessor(abs, 4, name="outer").batch_as_completed(range(100)):
            try:
                await BatchProcessor(signalling, 4, name="inner").batch(range(10))
            finally:
                seen.append("inner")

    assert exit_code_of(main, grace=3_600.0) == 130
    assert seen == ["inner"]


def test_pipeline_of_two_batches_ends() -> None:
    async def first() -> AsyncIterator[int]:
        place = 0
        async for _ in BatchProcessor(abs, 4, name="first").batch_as_completed(range(10_000)):
            yield place
            place += 1

    seen: list[dict[str, int]] = []

    async def main() -> None:
        try:
            await BatchProcessor(signalling, 4, name="second").batch(first())
        except Interrupted as exc:
            seen.append(tally(exc.results))
            raise

    assert exit_code_of(main, grace=3_600.0) == 130
    assert seen[0]["ok"] == 4


def test_batch_inside_an_item_is_not_interrupted() -> None:
    outputs: list[Any] = []

    async def main() -> None:
        try:
            await BatchProcessor(MapNode("m", lambda item: signalling(item["item"]), max_concurrency=4)).batch(
                [{"items": range(6)}]
            )
        except Interrupted as exc:
            outputs.extend(exc.results.outputs)
            raise

    assert exit_code_of(main) == 130
    assert outputs == [{"results": [0, 1, 2, 3, 4, 5], "total": 6, "succeeded": 6, "failed": 0}]


def test_script_that_leaves_a_stream_early_is_cancelled() -> None:
    seen: list[str] = []

    async def main() -> None:
        async with BatchProcessor(signalling, 4).batch_as_completed(range(100)) as results:
            async for _ in results:
                break
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    assert exit_code_of(main, grace=3_600.0) == 130
    assert seen == ["cancelled"]


@pytest.mark.parametrize("kind", ["batch", "stream"])
def test_results_survive_the_end_of_the_grace(kind: str) -> None:
    seen: list[dict[str, int]] = []

    async def hangs(item: int) -> int:
        await signalling(item)
        if item == 2:
            if kind == "batch":
                (run,) = active_batches(asyncio.get_running_loop())
                while run.batch.counts["ok"] < 3:
                    await asyncio.sleep(0.005)
                end_grace()
            await asyncio.sleep(3_600)
        return item

    async def main() -> None:
        processor = BatchProcessor(hangs, 4)
        try:
            if kind == "batch":
                await processor.batch(range(10))
            else:
                async with processor.batch_as_completed(iter(range(10))) as stream:
                    for _ in range(3):
                        await anext(stream)
                    end_grace()
                    await anext(stream)
        except Interrupted as exc:
            seen.append(tally(exc.results))
            raise

    assert exit_code_of(main, grace=3_600.0) == 130
    assert seen == [{"ok": 3, "cancelled": 7} if kind == "batch" else {"cancelled": 1}]


def test_retry_failed_is_interrupted_with_the_merged_results() -> None:
    fails = True

    async def node(item: int) -> int:
        if fails and item % 2:
            raise ValueError
        return await signalling(item) if item == 3 else item

    seen: list[list[tuple[int, str]]] = []

    async def main() -> None:
        nonlocal fails
        processor = BatchProcessor(node, 1)
        results = await processor.batch(range(8))
        fails = False
        try:
            await processor.retry_failed(results)
        except Interrupted as exc:
            seen.append([(result.index, result.status) for result in exc.results])
            raise

    assert exit_code_of(main) == 130
    statuses = ["ok", "ok", "ok", "ok", "ok", "cancelled", "ok", "cancelled"]
    assert seen == [list(enumerate(statuses))]


def test_other_error_beside_an_interrupted_batch_is_raised() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            raise KeyError("cleaning up failed")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(BatchProcessor(signalling, 4).batch(range(10)))

    with pytest.raises(BaseExceptionGroup) as raised:
        flowrt.run(main(), log_level="CRITICAL")
    assert sorted(type(error).__name__ for error in raised.value.exceptions) == ["Interrupted", "KeyError"]


def test_runtime_inside_asyncio_run_exits_too() -> None:
    async def main() -> None:
        async with Runtime(log_level="CRITICAL"):
            await BatchProcessor(signalling, 4).batch(range(10))

    with pytest.raises(SystemExit) as ended:
        asyncio.run(main())
    assert ended.value.code == 130


def test_hangup_is_left_to_those_who_handle_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> list[Any]:
        async with Runtime(log_level="CRITICAL"):
            return [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)]

    def mine(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, mine)
    try:
        assert asyncio.run(main()) == [mine, signal.SIG_DFL]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ignored_hangup_stays_ignored() -> None:
    """As under nohup."""

    async def main() -> Any:
        async with Runtime(log_level="CRITICAL"):
            return signal.getsignal(signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert asyncio.run(main()) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interrupted_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM, BatchResults(name="b"))))  # our own
    assert (copy.signum, copy.results.name, str(copy)) == (15, "b", "interrupted by SIGTERM")

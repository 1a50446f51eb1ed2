"""RateLimiter: several limits at once, in order, shared fairly, settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowrt.policies.rate_limit import CostTooHighError, RateLimit
from flowrt.policies.rate_limiter import RateLimiter
from flowrt.policies.sliding_window import UNIT

Run = Callable[[Any], Any]


def clock() -> int:
    return round(asyncio.get_running_loop().time() * 1e9) + 1


def gate_of(*limits: RateLimit) -> RateLimiter:
    return RateLimiter(limits, asyncio.get_running_loop(), clock)


async def through(gate: RateLimiter, item: Any) -> float:
    ticket = gate.take(item)
    if not ticket.granted:
        await gate.wait(ticket)
    return round(asyncio.get_running_loop().time(), 6)


def test_item_waits_for_the_tighter_limit(run_virtual: Run) -> None:
    async def main() -> None:
        gate = gate_of(RateLimit(4, per=1.0), RateLimit(10, per=1.0, cost=lambda item: item))
        starts = await asyncio.gather(*(through(gate, item) for item in [5, 5, 5, 1, 1, 1, 1]))
        assert starts == [0, 0, 1, 1, 1, 1, 2]

    run_virtual(main())


def test_limits_per_second_and_per_minute_hold_together(run_virtual: Run) -> None:
    async def main() -> None:
        gate = gate_of(RateLimit(2, per=1.0), RateLimit(5, per=60))
        assert not gate.settles
        starts = await asyncio.gather(*(through(gate, None) for _ in range(7)))
        assert starts == [0, 0, 1, 1, 2, 60, 60]

    run_virtual(main())


def test_waiter_for_one_limit_does_not_block_another_limit(run_virtual: Run) -> None:
    async def main() -> None:
        calls, tokens = RateLimit(10, per=1.0), RateLimit(5, per=10.0, burst=5, cost=lambda item: item)
        both, only_calls = gate_of(calls, tokens), gate_of(calls)
        waiting = [asyncio.create_task(through(both, 5)) for _ in range(30)]
        await asyncio.sleep(0)
        starts = await asyncio.gather(*(through(only_calls, None) for _ in range(8)))
        assert starts == [0] * 8, "29 that wait for tokens keep one call, not 29, from the others"
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert calls.window.reserved == tokens.window.reserved == 0

    run_virtual(main())


def test_batches_that_share_a_limit_take_turns(run_virtual: Run) -> None:
    async def main() -> None:
        limit = RateLimit(2, per=1.0)
        one, other = gate_of(limit), gate_of(limit)
        first = [asyncio.create_task(through(one, i)) for i in range(20)]
        await asyncio.sleep(0)
        second = [asyncio.create_task(through(other, i)) for i in range(5)]
        assert max(await asyncio.gather(*second)) <= 5.0
        assert max(await asyncio.gather(*first)) == 12.0

    run_virtual(main())


def test_later_item_does_not_overtake_waiters(run_virtual: Run) -> None:
    async def main() -> None:
        gate = gate_of(RateLimit(1, per=1.0))
        order: list[int] = []

        async def one(i: int) -> None:
            await through(gate, i)
            order.append(i)

        tasks = [asyncio.create_task(one(i)) for i in range(4)]
        for late in range(4, 12):
            await asyncio.sleep(0.25)
            tasks.append(asyncio.create_task(one(late)))
        await asyncio.gather(*tasks)
        assert order == list(range(12))
        assert repr(gate) == "<RateLimiter: 1 limits, 0 waiting>"

    run_virtual(main())


def test_returning_worker_does_not_overtake_waiters(run_virtual: Run) -> None:
    async def main() -> None:
        gate = gate_of(RateLimit(2, per=1.0))
        order: list[str] = []

        async def worker(name: str) -> None:
            for _ in range(4):
                await through(gate, None)
                order.append(name)

        await asyncio.gather(*(worker(name) for name in "abc"))
        assert "".join(order) == "aaabcabcbcbc"

    run_virtual(main())


def test_cancelled_item_releases_its_reserved_cost_at_once(run_virtual: Run) -> None:
    async def main() -> None:
        calls, tokens = RateLimit(1, per=1.0), RateLimit(1, per=60)
        both, only_calls = gate_of(calls, tokens), gate_of(calls)
        await tokens.acquire()
        holding = asyncio.create_task(through(both, None))
        waiting = asyncio.create_task(through(only_calls, None))
        await asyncio.sleep(5)
        assert not waiting.done(), "the one call is held for an item that waits for tokens"
        holding.cancel()
        assert await waiting == 5

    run_virtual(main())


def test_limits_in_different_orders_do_not_deadlock(run_virtual: Run) -> None:
    async def main() -> None:
        a, b = (RateLimit(10, per=1.0, cost=lambda item: item) for _ in range(2))
        gates = gate_of(a, b), gate_of(b, a)
        async with asyncio.timeout(100):
            await asyncio.gather(*(through(gates[i % 2], 7) for i in range(20)))
        assert asyncio.get_running_loop().time() >= 13, "20 items of cost 7 at 10/s, with one second's burst"

    run_virtual(main())


def test_reported_costs_are_settled_per_limit(run_virtual: Run) -> None:
    async def main() -> None:
        calls, tokens = RateLimit(10, per=60), RateLimit(100, per=60, burst=100, cost=lambda item: 50, actual="tokens")
        gate = gate_of(calls, tokens)
        assert gate.settles
        first, second = gate.take(None), gate.take(None)
        assert first.granted
        assert second.granted
        third = gate.take(None)
        assert not third.granted
        waiting = asyncio.create_task(gate.wait(third))
        await asyncio.sleep(1)
        gate.settle(first, {"tokens": 10, "cost": 99})
        await asyncio.sleep(1)
        assert not third.granted
        gate.settle(second, {"tokens": 40})
        await waiting
        assert asyncio.get_running_loop().time() == pytest.approx(2)
        assert tokens.window.used == 100 * UNIT
        assert calls.window.used == 3 * UNIT
        gate.settle(third, None)
        assert tokens.window.used == 100 * UNIT, "without a report the estimate stands"

    run_virtual(main())


def test_item_above_one_limit_takes_from_none(run_virtual: Run) -> None:
    async def main() -> None:
        calls, tokens = RateLimit(10), RateLimit(100, cost=lambda item: item)
        gate = gate_of(calls, tokens)
        with pytest.raises(CostTooHighError):
            gate.take(101)
        assert calls.window.used == tokens.window.used == 0

    run_virtual(main())


def test_cost_function_is_called_once_per_attempt(run_virtual: Run) -> None:
    async def main() -> None:
        asked: list[int] = []
        gate = gate_of(RateLimit(1, per=1.0, cost=lambda item: asked.append(item) or 1))  # type: ignore[func-returns-value]
        await asyncio.gather(*(through(gate, i) for i in range(3)))
        assert asked == [0, 1, 2]

    run_virtual(main())


@pytest.mark.parametrize("wrong", [None, 5, "100/s", [], [RateLimit(1), 5]])
def test_other_objects_than_rate_limits_are_refused(wrong: Any, run_virtual: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r"rate_limit must be a RateLimit\(...\) or several, not"):
            RateLimiter(wrong, asyncio.get_running_loop(), clock)

    run_virtual(main())


def test_same_limit_twice_is_refused(run_virtual: Run) -> None:
    async def main() -> None:
        limit = RateLimit(1)
        with pytest.raises(ValueError, match="the same limit twice"):
            gate_of(limit, limit)

    run_virtual(main())

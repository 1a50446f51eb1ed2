"""ItemTimeouts: one timer per batch finds the items over their time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowrt._util.clock import clock_of
from flowrt.engine.timeouts import GRACE_S, ItemTimeouts
from flowrt.model import BatchRecord, Slot, make_record

Run = Callable[[Any], Any]


class Fixture:
    """Slots under one time limit, and a record of which expired or were abandoned, and when.

    Args:
        timeout_s: Time limit of an item, in seconds.
        slots: Number of slots.
    """

    def __init__(self, timeout_s: float, slots: int) -> None:
        loop = asyncio.get_running_loop()
        self.clock = clock_of(loop)
        self.began_s = loop.time()
        self.batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="0" * 32, limit=slots)
        self.slots = [Slot() for _ in range(slots)]
        self.expired: list[tuple[int, float]] = []
        self.abandoned: list[tuple[int, float]] = []
        self.timeouts = ItemTimeouts(loop, self.clock, self.slots, timeout_s, self._expire, self._abandon)
        self.timeouts.start()

    def start(self, index: int) -> None:
        item = make_record(self.batch, index, None, self.clock())
        item.started_ns = item.pulled_ns
        self.slots[index].item = item

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self.began_s

    def _expire(self, slot: Slot) -> None:
        slot.cancelled_ns = self.clock()
        self.expired.append((self.slots.index(slot), self._now_s()))

    def _abandon(self, slot: Slot) -> None:
        self.abandoned.append((self.slots.index(slot), self._now_s()))
        slot.item = None


def test_each_item_expires_at_its_own_limit(run_virtual: Run) -> None:
    async def main() -> Fixture:
        fixture = Fixture(1.0, 3)
        for index in range(3):
            fixture.start(index)
            await asyncio.sleep(0.3)
        await asyncio.sleep(2)
        fixture.timeouts.cancel()
        return fixture

    expired = run_virtual(main()).expired
    assert [index for index, _ in expired] == [0, 1, 2]
    assert [when for _, when in expired] == pytest.approx([1.0, 1.3, 1.6], abs=0.02)


def test_item_that_does_not_end_is_abandoned_after_the_grace_period(run_virtual: Run) -> None:
    async def main() -> Fixture:
        fixture = Fixture(0.5, 2)
        fixture.start(0)
        await asyncio.sleep(20)
        fixture.timeouts.cancel()
        return fixture

    fixture = run_virtual(main())
    assert [when for _, when in fixture.abandoned] == pytest.approx([0.5 + GRACE_S], abs=0.02)


def test_item_that_waits_for_its_start_or_its_journal_has_no_timeout(run_virtual: Run) -> None:
    async def main() -> Fixture:
        fixture = Fixture(0.5, 3)
        fixture.start(0)
        fixture.slots[0].journaling = True
        fixture.start(1)
        assert fixture.slots[1].item is not None
        fixture.slots[1].item.started_ns = 0
        await asyncio.sleep(30)
        fixture.timeouts.cancel()
        return fixture

    fixture = run_virtual(main())
    assert (fixture.expired, fixture.abandoned) == ([], [])


def test_cancelled_timer_leaves_nothing_scheduled(run_virtual: Run) -> None:
    async def main() -> list[Any]:
        loop: Any = asyncio.get_running_loop()
        fixture = Fixture(5.0, 1)
        fixture.start(0)
        fixture.timeouts.cancel()
        await asyncio.sleep(30)
        assert fixture.expired == []
        return [timer for timer in loop._scheduled if not timer.cancelled()]

    assert run_virtual(main()) == []

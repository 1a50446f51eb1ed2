"""The clock of a batch: the performance counter, or the loop's own time where that is virtual."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import uvloop

from flowrt._util.clock import clock_of
from flowrt.whatif.virtual_clock_loop import VirtualLoop


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_real_loops_are_timed_by_the_performance_counter(factory: Any) -> None:
    loop = factory()
    assert clock_of(loop) is time.perf_counter_ns
    loop.close()


def test_virtual_loop_is_timed_by_itself() -> None:
    loop = VirtualLoop()
    clock = clock_of(loop)
    before = clock()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert (clock() - before) / 1e9 == pytest.approx(86_400)
    assert before > 0
    loop.close()

"""Active runs of one processor, and the concurrency limit that they share."""

from __future__ import annotations

import asyncio
import time

from flowrt._util.clock import clock_of
from flowrt.engine.batch_run import BatchRun
from flowrt.engine.item_task import ACTIVE_RUNS
from flowrt.policies import LimitChange, LimitController

__all__ = ["ActiveRuns", "now_ns"]


class ActiveRuns:
    """Active runs that one processor owns, on any loop.

    Args:
        controller: Adapts the limit; None if the limit is fixed.
    """

    def __init__(self, controller: LimitController | None) -> None:
        self.controller = controller

    def set_limit(self, limit: int) -> None:
        """Change the limit of every active run, each on its own loop's thread.

        Args:
            limit: At least 1.
        """
        here = _running_loop()
        for run in ACTIVE_RUNS:
            if run.owner is not self or run.over:
                continue
            if run.loop is here:
                self._change(run, limit)
            elif not run.loop.is_closed():
                run.loop.call_soon_threadsafe(self._change, run, limit)

    def _change(self, run: BatchRun, limit: int) -> None:
        batch = run.batch
        if run.over or batch.limit == limit:
            return
        if self.controller is None or not self.controller.changes:
            batch.limit_change = LimitChange(now_ns(), batch.limit, limit, "set")
        else:
            batch.limit_change = self.controller.changes[-1]
        run.set_limit(limit)


def now_ns() -> int:
    """Return the time in ns, by the clock of the loop that runs in this thread or else by the real clock."""
    loop = _running_loop()
    return time.perf_counter_ns() if loop is None else clock_of(loop)()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

"""Pause of a batch: no item is admitted until it ends, and attempts in flight continue."""

from __future__ import annotations

import asyncio

from flowrt._util.clock import Clock
from flowrt.attribution.ledger import PAUSED
from flowrt.engine.admission import Admission
from flowrt.engine.instrument import Dispatch
from flowrt.model import BatchRecord

__all__ = ["Pause"]


class Pause:
    """Holds back the workers of one batch, and the items that wait for a policy.

    Args:
        batch: The batch's record; `paused_ns` is the start of the pause.
        clock: The batch's clock.
        admission: The batch's permits, withheld during the pause.
        dispatch: The instruments' hooks.
    """

    __slots__ = ("_admission", "_batch", "_clock", "_dispatch", "_over")

    def __init__(self, batch: BatchRecord, clock: Clock, admission: Admission, dispatch: Dispatch) -> None:
        self._batch = batch
        self._clock = clock
        self._admission = admission
        self._dispatch = dispatch
        self._over: asyncio.Event | None = None

    @property
    def active(self) -> bool:
        """True while the batch is paused."""
        return self._over is not None

    def begin(self) -> None:
        """Pause the batch. Does nothing during a pause."""
        if self._over is not None:
            return
        self._over = asyncio.Event()
        self._admission.pause()
        batch = self._batch
        batch.paused_ns = self._clock()
        if batch.ledger is not None:
            batch.ledger.wait(PAUSED, batch.paused_ns)
        self._dispatch.notify("pause_changed", batch)

    def end(self) -> None:
        """End the pause. Does nothing without one."""
        if self._over is None:
            return
        over, self._over = self._over, None
        batch = self._batch
        batch.paused_ns = 0
        if batch.ledger is not None:
            batch.ledger.resume(PAUSED, self._clock())
        self._dispatch.notify("pause_changed", batch)
        over.set()
        self._admission.resume()

    async def wait(self) -> None:
        """Wait until the batch is not paused."""
        while self._over is not None:
            await self._over.wait()

"""Pause of a batch: nothing more is admitted until it is over, and attempts in flight go on to their end."""

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
        batch: The batch's record; its `paused_ns` says since when the pause holds.
        clock: The batch's clock.
        admission: Gives no permit during the pause.
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
        """Pause the batch; further calls do nothing."""
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
        """Let the batch go on; without a pause it does nothing."""
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

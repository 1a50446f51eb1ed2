"""Interruption: the signal that drained a batch, raised in the batch's caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

from flowrt.engine.admission import Admission
from flowrt.errors import Interrupted
from flowrt.model import BatchRecord

__all__ = ["Interruption"]

_POLL_S: Final = 0.02


class _Run(Protocol):
    """Interface of an active run."""

    @property
    def batch(self) -> BatchRecord:
        """The batch's record."""

    @property
    def admission(self) -> Admission:
        """Permits for items, limited if a consumer sets the pace."""


class Interruption:
    """A signal that drains the batches of one loop.

    Args:
        signum: Number of the signal.

    Attributes:
        delivered: True once a batch is about to raise `Interrupted` in its caller.
    """

    def __init__(self, signum: int) -> None:
        self.delivered = False
        self._signum = signum
        self._waiters: list[asyncio.Future[None]] = []

    async def deliver(self, active: Callable[[], Iterable[_Run]], results: Any) -> None:
        """Raise `Interrupted` in the caller of a drained batch, once every other batch of the loop is over.

        The wait protects other batches: the first error in a TaskGroup cancels the group's other tasks, and with them
        batches whose items would have ended within the grace period, and whose unstarted inputs are still to get their
        results. A stream without items in its slots does not delay this one even if its consumer has not taken all
        results, as the consumer may be the task that waits here.

        Args:
            active: Returns the loop's active batch runs.
            results: The batch's results.

        Raises:
            Interrupted: Always, even if the caller is cancelled meanwhile, so that the results reach it.
        """
        self.delivered = True
        waiters = self._waiters
        if waiters or _any_unfinished(active):  # one looks for all, since thousands of callers may wait
            loop = asyncio.get_running_loop()
            if not waiters:
                loop.call_later(_POLL_S, self._look, loop, active)
            waiters.append(loop.create_future())
            with suppress(asyncio.CancelledError):
                await waiters[-1]
        raise Interrupted(self._signum, results)

    def _look(self, loop: asyncio.AbstractEventLoop, active: Callable[[], Iterable[_Run]]) -> None:
        """Wake the waiting callers once the other batches are over."""
        if _any_unfinished(active):
            loop.call_later(_POLL_S, self._look, loop, active)
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _any_unfinished(active: Callable[[], Iterable[_Run]]) -> bool:
    return any(run.batch.slots or not run.admission.limited for run in active())

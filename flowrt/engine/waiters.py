"""Queue of waiting tasks, woken one by one."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from flowrt.engine.item_task import clear_cancellation

__all__ = ["Waiters"]


class Waiters:
    """First-in, first-out queue of waiting tasks.

    `wait` returns when the task is woken, and also when other code cancels the task: the engine itself wakes waiting
    tasks and never cancels them. So the caller must check its condition again.

    Attributes:
        futures: Futures of the waiting tasks, oldest first; the future of a cancelled task is done.
    """

    __slots__ = ("futures",)

    def __init__(self) -> None:
        self.futures: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self.futures)

    async def wait(self) -> None:
        """Wait for `wake_one` or `wake_all`."""
        future = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        try:
            await future
        except asyncio.CancelledError:
            clear_cancellation()
            with suppress(ValueError):  # it was woken in the same turn
                self.futures.remove(future)

    def wake_one(self) -> None:
        """Wake the task that has waited longest, if any."""
        futures = self.futures
        while futures:
            future = futures.popleft()
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        """Wake every waiting task."""
        while self.futures:
            self.wake_one()

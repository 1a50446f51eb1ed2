"""Event loop with a virtual clock: instead of sleeping, the clock jumps ahead."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

__all__ = ["VirtualLoop", "run_virtual"]

T = TypeVar("T")

_RESOLUTION_S: Final = 1e-7


class _Jumping(selectors.SelectSelector):
    """Selector that does not wait for a timer: it advances the clock by the timeout instead."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self.now_s = 0.0
        self._patience_s = patience_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if nothing is, advance the clock by `timeout` seconds.

        Raises:
            RuntimeError: No timer is set, and nothing from outside the loop came either.
        """
        ready = super().select(self._patience_s if timeout is None else 0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("virtual time is at a standstill: every task waits, and no timer is set")
        self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop for coroutines that await only timers and each other; takes no real time to sleep.

    Args:
        patience_s: How long to wait for a thread where every task waits and no timer is set, in real seconds.
    """

    def __init__(self, patience_s: float = 0.0) -> None:
        self._jumping = _Jumping(patience_s)
        super().__init__(self._jumping)
        # timers this close to now are due: after years of virtual time, a float resolves no smaller difference, and a
        # timer below its resolution would never be due
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now_s

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002  # asyncio's
        """Wait until the executor's threads have ended.

        Args:
            timeout: Ignored: its timer would let the clock jump to the end of the time limit.
        """
        await super().shutdown_default_executor()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time.

    Args:
        main: A coroutine that awaits only timers and its own tasks.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)

"""Event loop with a virtual clock: instead of sleeping, the clock jumps ahead."""

from __future__ import annotations

import asyncio
import selectors
import weakref
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from flowrt._util.clock import only_observes

__all__ = ["StandstillError", "VirtualLoop", "run_virtual"]

T = TypeVar("T")

_RESOLUTION_S: Final = 1e-7


class StandstillError(RuntimeError):
    """Every task waits, no timer is set, and nothing comes from outside: a deadlock."""


class _Jumping(selectors.SelectSelector):
    """Selector that does not wait for a timer: it advances the clock by the timeout instead."""

    def __init__(self, patience_s: float, loop: VirtualLoop) -> None:
        super().__init__()
        self.now_s = 0.0
        self._patience_s = patience_s
        self._loop = weakref.ref(loop)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if nothing is, advance the clock by `timeout` seconds.

        Raises:
            StandstillError: No timer is set, and nothing from outside the loop came either.
        """
        loop = self._loop()
        if timeout and loop is not None and not loop.waits_for_a_timer():
            timeout = None
        ready = super().select(self._patience_s if timeout is None else 0)
        if ready:
            return ready
        if timeout is None:
            raise StandstillError("virtual time is at a standstill: every task waits, and no timer is set")
        self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop for coroutines that await only timers and each other; takes no real time to sleep.

    Args:
        patience_s: How long to wait for a thread where every task waits and no timer is set, in real seconds.
    """

    def __init__(self, patience_s: float = 0.0) -> None:
        self._jumping = _Jumping(patience_s, self)
        super().__init__(self._jumping)
        # timers this close to now are due: after years of virtual time, a float resolves no smaller difference, and a
        # timer below its resolution would never be due
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now_s

    def waits_for_a_timer(self) -> bool:
        """True if a timer is set, other than those that only report on a batch."""
        return not all(map(only_observes, self._scheduled))  # type: ignore[attr-defined]

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

"""An event loop whose time is its own: where it would sleep, its clock jumps ahead."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

__all__ = ["VirtualLoop", "run_virtual"]

T = TypeVar("T")

_GRAIN_S: Final = 1e-7


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: a wait is a jump of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; where nothing is, the time is over at once."""
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("everything waits and nothing will happen: the replay has come to a standstill")
        self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what awaits timers and itself alone, as quickly as it can be computed."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        # how close to now a timer must be to be due: below the grain of a float after years, it would never be
        self._clock_resolution = _GRAIN_S

    def time(self) -> float:
        """Seconds since the loop was made, as its timers see them."""
        return self._jumping.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time.

    Args:
        main: It must wait for timers and its own tasks alone.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)

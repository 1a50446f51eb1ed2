"""Status lines of `flowrt run`: signs of life on stderr where there is no terminal for a progress bar."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final, Self

from flowrt.cli.exit_codes import say
from flowrt.reporting.report import BatchReport

__all__ = ["StatusLines"]

_INTERVAL_S: Final = 30.0


class StatusLines:
    """Context manager that prints a line every 30 seconds: count, rate, failures, time left.

    Args:
        report: Totals of the run.
        expected: Number of items, or None if unknown.
        active: False to print nothing.
    """

    def __init__(self, report: BatchReport, expected: int | None, *, active: bool) -> None:
        self._report = report
        self._expected = expected
        self._active = active
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Start the timer."""
        self._began = time.monotonic()
        if self._active:
            self._schedule()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL_S, self._print)

    def _print(self) -> None:
        say(self.line(time.monotonic() - self._began))
        self._schedule()

    def line(self, elapsed_s: float) -> str:
        """Describe the progress.

        Args:
            elapsed_s: Time since the start, in seconds.
        """
        done, expected = self._report.total, self._expected
        rate = done / elapsed_s if elapsed_s else 0.0
        count = f"{done:,} items" if expected is None else f"{done:,} of {expected:,} items"
        parts = [count, f"{rate:,.1f}/s", f"{self._report.failed:,} failed"]
        if expected and done and expected > done:
            parts.append(f"about {_time_left((expected - done) / rate)} left")
        return ", ".join(parts)


def _time_left(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"

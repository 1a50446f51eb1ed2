"""Lines of `flowrt run` on stderr while it runs: progress where there is no terminal for a bar, and failures."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Final, Self

from flowrt.cli.exit_codes import say
from flowrt.model import BatchResult
from flowrt.reporting.report import BatchReport
from flowrt.telemetry.redaction import redact

__all__ = ["FailureLines", "StatusLines"]

_INTERVAL_S: Final = 30.0
_MAX_KINDS: Final = 20
_MAX_ERROR_CHARS: Final = 200


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
        if self._active:
            self._began = asyncio.get_running_loop().time()
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
        say(self.line(asyncio.get_running_loop().time() - self._began))
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


class FailureLines:
    """Prints the first failure of each kind in one line, and counts the others.

    Args:
        active: False to print nothing.
    """

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self._others: Counter[str] = Counter()

    def add(self, result: BatchResult) -> None:
        """Count a failed item, and print it if it is the first of its kind."""
        if not self._active or result.status == "cancelled":
            return
        kind = result.error_type or result.status
        if kind in self._others:
            self._others[kind] += 1
        elif len(self._others) < _MAX_KINDS:
            self._others[kind] = 0
            say(f"item {result.index}: {kind}: {redact(result.error or '')[:_MAX_ERROR_CHARS]}")

    def close(self) -> None:
        """Print how many failures of each kind were counted."""
        for kind, count in self._others.items():
            if count:
                say(f"{kind}: + {count:,} more like it")

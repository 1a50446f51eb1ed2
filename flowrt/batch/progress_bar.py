"""Progress bar on a terminal: count, rate, failures, active items, time left. Nothing is drawn without a terminal."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from flowrt.batch.notebook_bar import NotebookBar, in_notebook
from flowrt.engine.instrument import Instrument
from flowrt.errors import MissingExtraError, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from flowrt.model import BatchRecord

__all__ = ["ProgressBar", "make_progress_bar"]

_REFRESH_S: Final = 0.1
_ESCAPES: Final = re.compile(r"\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|\[[0-?]*[ -/]*[@-~]|.)", re.DOTALL)
"""Terminal escape sequences, to remove from a batch's name."""


def make_progress_bar() -> Instrument:
    """Make the progress bar for this process: HTML in a notebook, else a bar on stderr.

    Raises:
        MissingExtraError: rich is not installed, and this is not a notebook.
    """
    return NotebookBar() if in_notebook() else ProgressBar()


class ProgressBar(Instrument):
    """Draws one batch on stderr. A timer redraws it ten times a second, so items cost nothing extra.

    Args:
        console: Where to draw; stderr by default.

    Raises:
        MissingExtraError: rich is not installed.
    """

    def __init__(self, console: Console | None = None) -> None:
        try:
            from rich.console import Console  # noqa: PLC0415  # an extra
        except ImportError:
            raise MissingExtraError("a progress bar", "rich", "cli") from None
        self._console = console or Console(stderr=True)
        self._bar: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def batch_started(self, batch: BatchRecord) -> None:
        """Show the bar, on a terminal."""
        if not self._console.is_terminal or self._console.is_jupyter:
            return
        from rich.progress import (  # noqa: PLC0415  # an extra
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),  # names may hold brackets
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[failed]} failed"),
            TextColumn("{task.fields[inflight]} in flight"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._bar.start()
        task = self._bar.add_task(
            one_line(_ESCAPES.sub("", batch.name)), total=batch.expected, rate="", failed=0, inflight=0
        )
        self._draw(batch, task, asyncio.get_running_loop())

    def _draw(self, batch: BatchRecord, task: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._update(batch, task)
        self._timer = loop.call_later(_REFRESH_S, self._draw, batch, task, loop)

    def _update(self, batch: BatchRecord, task: Any) -> None:
        done = batch.completed
        elapsed = self._bar.tasks[0].elapsed or 0.0
        self._bar.update(
            task,
            completed=done,
            rate=f"{done / elapsed:,.0f}/s" if elapsed else "",
            failed=done - batch.counts["ok"] - batch.counts["resumed"],
            inflight=batch.inflight,
        )
        self._bar.refresh()

    def batch_ended(self, batch: BatchRecord) -> None:  # noqa: ARG002
        """Take the bar away."""
        if self._timer is not None:
            self._timer.cancel()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

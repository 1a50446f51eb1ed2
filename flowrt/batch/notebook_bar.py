"""Progress bar in a notebook: HTML that the running cell updates in place."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from html import escape
from typing import TYPE_CHECKING, Any, Final

from flowrt.engine.instrument import Instrument

if TYPE_CHECKING:
    from flowrt.model import BatchRecord

__all__ = ["NotebookBar", "in_notebook"]

_REFRESH_S: Final = 0.25


def in_notebook() -> bool:
    """Return whether this is a Jupyter kernel, such as that of VS Code; False in a terminal, even in IPython."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return hasattr(running, "kernel")


class NotebookBar(Instrument):
    """Shows one batch below its cell. A timer redraws it four times a second, so items cost nothing extra."""

    def __init__(self) -> None:
        self._html: Any = None
        self._shown: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._began_s = 0.0

    def batch_started(self, batch: BatchRecord) -> None:
        """Show the bar."""
        jupyter: Any = importlib.import_module("IPython.display")  # there in a notebook only
        self._html = jupyter.HTML
        self._began_s = time.monotonic()
        self._shown = jupyter.display(jupyter.HTML(self._draw(batch)), display_id=True)
        self._next(batch, asyncio.get_running_loop())

    def batch_ended(self, batch: BatchRecord) -> None:
        """Leave the bar with the batch's last state."""
        if self._timer is not None:
            self._timer.cancel()
        if self._shown is not None:
            self._shown.update(self._html(self._draw(batch)))

    def _next(self, batch: BatchRecord, loop: asyncio.AbstractEventLoop) -> None:
        self._shown.update(self._html(self._draw(batch)))
        self._timer = loop.call_later(_REFRESH_S, self._next, batch, loop)

    def _draw(self, batch: BatchRecord) -> str:
        done, expected = batch.completed, batch.expected
        elapsed_s = time.monotonic() - self._began_s
        failed = done - batch.counts["ok"] - batch.counts["resumed"]
        parts = [f"{done:,}" + ("" if expected is None else f" of {expected:,}")]
        if elapsed_s > 1:
            parts.append(f"{done / elapsed_s:,.0f}/s")
        parts.append(f"{failed:,} failed")
        if batch.inflight:
            parts.append(f"{batch.inflight:,} active")
        bar = "" if expected is None else f'<progress value="{done}" max="{max(expected, 1)}"></progress> '
        name = escape(batch.name.encode("utf-8", "replace").decode())
        return f"<div><b>{name}</b> {bar}{', '.join(parts)}, {elapsed_s:.1f} s</div>"

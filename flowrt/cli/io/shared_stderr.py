"""Standard error that log lines and a progress bar share."""

from __future__ import annotations

import sys
from typing import Any, TextIO

__all__ = ["SharedStderr"]


class SharedStderr:
    """Stream that writes to what `sys.stderr` is at the moment.

    The log keeps the stream that it finds at its start. While rich draws a progress bar, it replaces `sys.stderr` by a
    stream that prints above the bar: written there, log lines do not tear the bar.

    Args:
        original: The terminal.
    """

    def __init__(self, original: TextIO) -> None:
        self._original = original

    def install(self) -> None:
        """Become `sys.stderr`, for the log to find."""
        sys.stderr = self

    def uninstall(self) -> None:
        """Make the terminal `sys.stderr` again. Must be called before the bar is drawn, which keeps what it finds."""
        if sys.stderr is self:
            sys.stderr = self._original

    def write(self, text: str) -> int:
        """Write to the current stream."""
        return self._current().write(text)

    def flush(self) -> None:
        """Flush the current stream."""
        self._current().flush()

    def _current(self) -> TextIO:
        current = sys.stderr
        return self._original if current is self or current is None else current

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

"""Where log lines go: a thread writes them, so that a full or slow stderr never blocks the loop."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from typing import Final, TextIO

from flowrt.telemetry.metrics.store import METRICS

__all__ = ["LineSink"]

_MOST_LINES: Final = 10_000
_FLUSH_S: Final = 1.0


class LineSink:
    """Writes lines to a stream from a thread of its own, in the order in which they came.

    Lines that find the queue full, or the stream broken, are dropped and counted.

    Args:
        stream: For instance `sys.stderr`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._pid = os.getpid()
        self._closed = False
        self._hangs = False
        self._thread = threading.Thread(target=self._run, name="flowrt-logs", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take one line, without its end."""
        if self._closed or os.getpid() != self._pid:  # a forked child has no thread
            self._emit(line)
        elif self._hangs:
            METRICS.dropped("logs", "shutdown")
        elif self._lines.qsize() >= _MOST_LINES:
            METRICS.dropped("logs", "queue_full")
        else:
            self._lines.put(line)
            if self._over:  # meanwhile
                self._clear()

    def close(self, timeout_s: float = _FLUSH_S) -> None:
        """Wait until what was taken is written; later lines are written at once.

        Args:
            timeout_s: How long to wait at most, in seconds; lines that are left then are dropped.
        """
        if self._over or os.getpid() != self._pid:  # what waits is a forked child's parent's to write
            return
        self._lines.put(None)
        self._thread.join(timeout_s)
        self._hangs = self._thread.is_alive()  # then nobody may write to the stream at once
        self._closed = not self._hangs
        self._clear()

    def flush(self, timeout_s: float = _FLUSH_S) -> None:
        """Wait until the queue is empty.

        Args:
            timeout_s: How long to wait at most, in seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not self._lines.empty() and time.monotonic() < deadline:
            time.sleep(0.005)

    @property
    def _over(self) -> bool:
        return self._closed or self._hangs

    def _clear(self) -> None:
        """Write what came too late for the thread; count it where the stream hangs."""
        with suppress(queue.Empty):
            while True:
                line = self._lines.get_nowait()
                if line is not None and self._closed:
                    self._emit(line)
                elif line is not None:
                    METRICS.dropped("logs", "shutdown")
        if self._hangs:
            self._lines.put(None)  # should it ever come to it

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._emit(line)

    def _emit(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except Exception:  # closed, full, or unable to encode: telemetry may fail, the work may not
            METRICS.dropped("logs", "export_error")

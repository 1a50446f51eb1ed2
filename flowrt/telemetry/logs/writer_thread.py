"""Thread that writes log lines, so that a full or slow stderr never blocks the loop."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from typing import Final, TextIO

from flowrt.telemetry.metrics.store import METRICS

__all__ = ["LineSink"]

_MAX_LINES: Final = 10_000
_FLUSH_S: Final = 1.0
_GATHER_S: Final = 0.005  # a line that wakes the thread costs the loop's thread the GIL, so later ones are gathered
_MOST_GATHERED: Final = 256  # lines in one write, so that few are lost if it hangs


class LineSink:
    """Queue of log lines with a thread that writes them to a stream in order.

    A line is written at once. While more lines keep coming, they are written together every 5 ms. Lines are dropped and
    counted if the queue is full or the stream is broken.

    Args:
        stream: The stream to write to, for instance `sys.stderr`.
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
        """Queue one line, given without its line end."""
        if self._closed or os.getpid() != self._pid:  # the thread does not run in a forked child
            self._emit(line)
        elif self._hangs:
            METRICS.dropped("logs", "shutdown")
        elif self._lines.qsize() >= _MAX_LINES:
            METRICS.dropped("logs", "queue_full")
        else:
            self._lines.put(line)
            if self._over:  # closed since the check above: the thread may never see this line
                self._clear()

    def close(self, timeout_s: float = _FLUSH_S) -> None:
        """Wait until the queued lines are written. Later lines are written at once, in the calling thread.

        Args:
            timeout_s: Longest wait, in seconds; lines that are left then are dropped.
        """
        if self._over or os.getpid() != self._pid:  # in a forked child the queued lines belong to the parent
            return
        self._lines.put(None)
        self._thread.join(timeout_s)
        self._hangs = self._thread.is_alive()  # then a write from the calling thread would hang too
        self._closed = not self._hangs
        self._clear()

    def flush(self, timeout_s: float = _FLUSH_S) -> None:
        """Wait until the queue is empty.

        Args:
            timeout_s: Longest wait, in seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not self._lines.empty() and time.monotonic() < deadline:
            time.sleep(0.005)

    @property
    def _over(self) -> bool:
        return self._closed or self._hangs

    def _clear(self) -> None:
        """Write the lines that came too late for the thread, or count them as dropped if the stream hangs."""
        with suppress(queue.Empty):
            while True:
                line = self._lines.get_nowait()
                if line is not None and self._closed:
                    self._emit(line)
                elif line is not None:
                    METRICS.dropped("logs", "shutdown")
        if self._hangs:
            self._lines.put(None)  # ends the thread, should the stream ever recover

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._emit(line)
            time.sleep(_GATHER_S)
            while gathered := self._gather():
                ends = gathered[-1] is None
                lines = [each for each in gathered if each is not None]
                if lines:
                    self._emit("\n".join(lines), len(lines))
                if ends:
                    return
                if len(gathered) < _MOST_GATHERED:
                    time.sleep(_GATHER_S)

    def _gather(self) -> list[str | None]:
        """Take the queued lines, up to the None that ends the thread."""
        gathered: list[str | None] = []
        with suppress(queue.Empty):
            while len(gathered) < _MOST_GATHERED:
                gathered.append(self._lines.get_nowait())
                if gathered[-1] is None:
                    break
        return gathered

    def _emit(self, text: str, lines: int = 1) -> None:
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except UnicodeEncodeError:
            if lines == 1:
                METRICS.dropped("logs", "export_error")
            else:  # the others can be written
                for line in text.split("\n"):
                    self._emit(line)
        except Exception:  # closed or full: a broken stream must not fail the work
            METRICS.dropped("logs", "export_error", lines)

"""Writer thread: writes each result as its item completes, so that a slow disk or pipe does not block the loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from flowrt.cli.exit_codes import DISK_FAILED, CommandError, say
from flowrt.cli.io.output_files import OutputClosedError, Target
from flowrt.cli.io.result_encoders import Encoder

__all__ = ["OutputWriter"]

_FLUSH_BYTES: Final = 64 * 1024
_FLUSH_S: Final = 0.05
_WAITING_BYTES: Final = 4 * 1024 * 1024  # beyond this the batch waits for the disk
_GRACE_S: Final = 5.0  # for the reader of standard output, once the run ends early


class OutputWriter:
    """Buffers lines on the loop and writes them in a thread, with a bounded backlog.

    Args:
        target: Destination of the lines; closed by `close`.
        encoder: Encoder of the format; JSON Lines by default.
    """

    def __init__(self, target: Target, encoder: Encoder | None = None) -> None:
        self._target = target
        self._encoder = encoder
        self._lines: list[bytes] = []
        self._has_lines = False
        self._waiting_bytes = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flowrt-writer")
        self._flushing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def write(self, line: bytes) -> None:
        """Buffer one line, and wait while the backlog is full.

        Raises:
            CommandError: The disk failed.
            OutputClosedError: The reader of standard output has closed it.
        """
        self._lines.append(line)
        self._waiting_bytes += len(line)
        if self._flushing is not None and self._flushing.done():
            self._flushing.result()
        if self._waiting_bytes >= _WAITING_BYTES:
            await self._drain()
        elif self._waiting_bytes >= _FLUSH_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_FLUSH_S, self._flush)

    def _flush(self) -> None:
        """Hand the buffer to the thread, unless it is still writing the previous one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            if not self._flushing.done():
                self._timer = self._loop.call_later(_FLUSH_S, self._flush)
                return
            if self._flushing.exception() is not None:
                return  # `write` raises it with the next line
        if self._lines:
            data, self._lines, self._waiting_bytes = b"".join(self._lines), [], 0
            self._flushing = self._loop.run_in_executor(self._pool, self._write_all, data)

    async def _drain(self) -> None:
        """Wait until the backlog is written."""
        while self._lines or self._flushing is not None:
            if (flushing := self._flushing) is not None:
                await asyncio.wait([flushing])
                flushing.result()
                if self._flushing is flushing:  # otherwise the timer has started the next flush
                    self._flushing = None
            self._flush()

    def _write_all(self, lines: bytes) -> None:
        self._has_lines = True
        self._write_bytes(lines if self._encoder is None else self._encoder.encode(lines))

    def _finish(self) -> None:
        if self._encoder is not None:
            self._write_bytes(self._encoder.finish())

    def _write_bytes(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._target.write(left) :]
                self._target.written = True
        except OSError as exc:
            raise _disk_failed(self._target.name, exc) from exc

    async def close(self, *, complete: bool) -> None:
        """Write the backlog and end the thread.

        Args:
            complete: True if every item has its line: the file then gets its final name.

        Raises:
            CommandError: The disk failed; the file keeps its temporary name.
            OutputClosedError: The reader of standard output has closed it.
        """
        committed = False
        try:
            if complete:
                await self._drain()
                await self._loop.run_in_executor(self._pool, self._commit)
                committed = True
            else:
                await self._flush_before_early_end()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._target.stop_waiting()
            self._pool.shutdown(wait=True)
            if not committed:
                self._target.abandon()
            self._target.close()

    async def _flush_before_early_end(self) -> None:
        """Write the backlog of a run that ends early. A failure is printed, so that the original error is raised."""
        if self._flushing is not None and self._flushing.done() and self._flushing.exception() is not None:
            return  # this failure is why the run ends
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._drain()
                if self._has_lines:  # a table needs its end to be readable
                    await self._loop.run_in_executor(self._pool, self._finish)
        except CommandError as exc:
            say(exc.message)
        except (OutputClosedError, TimeoutError):
            return

    def _commit(self) -> None:
        self._finish()
        try:
            self._target.commit()
        except OSError as exc:
            raise _disk_failed(self._target.name, exc) from exc


def _disk_failed(name: str, exc: OSError) -> CommandError:
    return CommandError(f"writing {name} failed: {exc.strerror}", DISK_FAILED)

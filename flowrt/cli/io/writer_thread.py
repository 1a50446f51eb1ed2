"""Writing lines as items complete, from a thread: a slow disk or pipe does not hold up the loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from flowrt.cli.exit_codes import DISK_FAILED, CommandError, say
from flowrt.cli.io.output_files import OutputClosedError, Target

__all__ = ["OutputWriter"]

_FLUSH_BYTES: Final = 64 * 1024
_FLUSH_S: Final = 0.05
_WAITING_BYTES: Final = 4 * 1024 * 1024  # beyond this the batch waits for the disk
_GRACE_S: Final = 5.0  # for whoever reads standard output, once the run ends early


class OutputWriter:
    """Takes lines on the loop and writes them in a thread, a bounded amount behind.

    Args:
        target: Where they go.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flowrt-writer")
        self._flushing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def write(self, line: bytes) -> None:
        """Take one line, and wait where too much is waiting already.

        Raises:
            CommandError: The disk failed.
            OutputClosedError: Nobody reads standard output any more.
        """
        self._lines.append(line)
        self._waiting_bytes += len(line)
        if self._flushing is not None and self._flushing.done():
            self._flushing.result()
        if self._waiting_bytes >= _WAITING_BYTES:
            await self._drained()
        elif self._waiting_bytes >= _FLUSH_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_FLUSH_S, self._flush)

    def _flush(self) -> None:
        """Hand over what is there, unless the thread is still at the last of it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            if not self._flushing.done():
                self._timer = self._loop.call_later(_FLUSH_S, self._flush)
                return
            if self._flushing.exception() is not None:
                return  # raised where the next line is taken
        if self._lines:
            data, self._lines, self._waiting_bytes = b"".join(self._lines), [], 0
            self._flushing = self._loop.run_in_executor(self._pool, self._put, data)

    async def _drained(self) -> None:
        """Wait until everything is written."""
        while self._lines or self._flushing is not None:
            if (flushing := self._flushing) is not None:
                await asyncio.wait([flushing])
                flushing.result()
                if self._flushing is flushing:  # else the timer has begun another meanwhile
                    self._flushing = None
            self._flush()

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._target.put(left) :]
                self._target.written = True
        except OSError as exc:
            raise _disk_failed(self._target.name, exc) from exc

    async def close(self, *, complete: bool) -> None:
        """Write what is left and end the thread.

        Args:
            complete: Whether every item has its line, so that a file takes its final name.

        Raises:
            CommandError: The disk failed; what was written stays under the temporary name.
            OutputClosedError: Nobody reads standard output any more.
        """
        placed = False
        try:
            if complete:
                await self._drained()
                await self._loop.run_in_executor(self._pool, self._commit)
                placed = True
            else:
                await self._save_what_is_there()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._target.give_up()
            self._pool.shutdown(wait=True)
            if not placed:
                self._target.leave()
            self._target.close()

    async def _save_what_is_there(self) -> None:
        """The run ends early for a reason of its own: a failure to write is told, and does not take its place."""
        if self._flushing is not None and self._flushing.done() and self._flushing.exception() is not None:
            return  # that is the reason
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._drained()
        except CommandError as exc:
            say(exc.message)
        except (OutputClosedError, TimeoutError):
            return

    def _commit(self) -> None:
        try:
            self._target.commit()
        except OSError as exc:
            raise _disk_failed(self._target.name, exc) from exc


def _disk_failed(name: str, exc: OSError) -> CommandError:
    return CommandError(f"writing {name} failed: {exc.strerror}", DISK_FAILED)

"""Worker processes of this machine: each has a subprocess, a socket pair and shared memory.

Not by multiprocessing, whose start methods import `__main__` again and whose helper processes outlive a killed driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from flowrt.executors.frames import FrameReader, Kind, make_frame, on_the_wire
from flowrt.executors.outcome_memory import MEMORY_BYTES, OutcomeMemory
from flowrt.executors.transport import Death, Receiver, Transport

__all__ = ["ProcessLauncher", "ProcessTransport"]

_READ_BYTES: Final = 1 << 18
_BOOTSTRAP: Final = Path(__file__).parent.parent / "remote" / "bootstrap.py"
_LONGEST_LINE: Final = 10_000


class ProcessLauncher:
    """Starts worker processes in a thread, since a start takes milliseconds.

    The thread lasts as long as this process, because the kernel ends a worker with the thread that started it.
    """

    def launch(self, name: str) -> Future[Transport]:
        """Start a process."""
        answer: Future[Transport] = Future()
        _launches().put((answer, name))
        return answer


@functools.cache
def _launches() -> SimpleQueue[tuple[Future[Transport], str]]:
    """Queue of the workers to start, and its thread."""
    queue: SimpleQueue[tuple[Future[Transport], str]] = SimpleQueue()

    def start_all() -> None:
        while True:
            answer, name = queue.get()
            try:
                answer.set_result(ProcessTransport(name))
            except BaseException as exc:  # raised where the future is read
                answer.set_exception(exc)
            del answer

    threading.Thread(target=start_all, name="flowrt-worker-start", daemon=True).start()
    return queue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_launches.cache_clear)  # the child has no such thread


class ProcessTransport:
    """One worker process; see `Transport`.

    Args:
        name: Its slot, which its command line shows.
    """

    most_bytes: int | None = None

    def __init__(self, name: str) -> None:
        ours, theirs = socket.socketpair()
        errors, its_errors = os.pipe()
        memory = _anonymous_file()
        try:
            self._memory = OutcomeMemory(memory)
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [
                    *(sys.executable, *subprocess._args_from_interpreter_flags(), "-P", str(_BOOTSTRAP)),  # type: ignore[attr-defined]  # noqa: SLF001  # as multiprocessing does
                    *(str(theirs.fileno()), str(memory), str(os.getpid()), name),
                ],
                stdin=subprocess.DEVNULL,
                stderr=its_errors,
                pass_fds=(theirs.fileno(), memory),
                process_group=0,  # Ctrl-C reaches the driver alone
            )
        finally:
            theirs.close()
            os.close(its_errors)
            os.close(memory)
        self.pid = self._process.pid
        self.host = platform.node()
        self._socket = ours
        self._errors = errors
        for descriptor in (ours.fileno(), errors):
            os.set_blocking(descriptor, False)
        self._death_fd = _death_descriptor(self.pid)
        self._reader = FrameReader()
        self._line = b""
        self._unsent: deque[memoryview] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receiver: Receiver
        self._over = False

    # -- the loop ------------------------------------------------------------------------------------------------------

    def attach(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        """Deliver to a receiver on this loop from now on."""
        self._loop = loop
        self._receiver = receiver
        loop.add_reader(self._socket, self._read)
        loop.add_reader(self._errors, self._read_errors)
        if self._death_fd is not None:
            loop.add_reader(self._death_fd, self._ended)
        if self._unsent:
            loop.add_writer(self._socket, self._write)

    def detach(self) -> None:
        """Detach from the loop, which may then be closed."""
        loop, self._loop = self._loop, None
        if loop is None or loop.is_closed():
            return
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        loop.remove_reader(self._errors)
        if self._death_fd is not None:
            loop.remove_reader(self._death_fd)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._ended()
            return
        for parts in self._reader.feed(data):
            self._receiver.received(parts)

    def _read_errors(self) -> None:
        while True:
            try:
                data = os.read(self._errors, 1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            *lines, rest = (self._line + data).split(b"\n")
            if (not data and rest) or len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            self._line = rest
            for line in lines:
                self._receiver.printed(line[:_LONGEST_LINE].decode(errors="replace").rstrip())
            if not data:
                if self._loop is not None:
                    self._loop.remove_reader(self._errors)
                return

    def _ended(self) -> None:
        """Read the remaining messages and lines of the process, and report its end."""
        if self._over:
            return
        self._over = True
        self._process.kill()  # it may have closed its socket only
        status = self._process.wait()
        while not self._socket_is_empty():
            pass
        self._read_errors()
        self.detach()
        death = Death(_how(status), int(self._memory.running[0]), self._memory.read())
        self._close_descriptors()
        self._receiver.lost(death)

    def _socket_is_empty(self) -> bool:
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError:
            return True
        for parts in self._reader.feed(data):
            self._receiver.received(parts)
        return not data

    # -- messages ------------------------------------------------------------------------------------------------------

    def send(self, parts: Sequence[Any]) -> None:
        """Send one message; bytes that the socket does not take yet are written later."""
        if self._over:
            return
        unsent = self._unsent
        for data in on_the_wire(parts):
            view = memoryview(data).cast("B")
            if not unsent:
                try:
                    view = view[self._socket.send(view) :]
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError:
                    return  # its end is reported by the reader
            if view:
                if not unsent and self._loop is not None:
                    self._loop.add_writer(self._socket, self._write)
                unsent.append(view)

    def _write(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                sent = self._socket.send(unsent[0])
                if sent == len(unsent[0]):
                    unsent.popleft()
                else:
                    unsent[0] = unsent[0][sent:]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            unsent.clear()
        if self._loop is not None:
            self._loop.remove_writer(self._socket)

    # -- the process ---------------------------------------------------------------------------------------------------

    def running(self) -> int | None:
        """Number of the plain-function item that the worker runs now, 0 for none."""
        return 0 if self._over else int(self._memory.running[0])

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def stop(self) -> None:
        """Ask the process to end."""
        if not self._over:
            with contextlib.suppress(OSError):  # its inbox is full: it is killed
                self._socket.send(b"".join(on_the_wire(make_frame((Kind.STOP,)))))

    def close(self, timeout_s: float) -> None:
        """Wait for the process, and kill it after the timeout."""
        if self._over:
            return
        self._over = True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if hasattr(self, "_receiver"):
            self._read_errors()  # lines that it printed after the batch's end, or flushed only at its exit
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self._memory.close()
        self._socket.close()
        os.close(self._errors)
        if self._death_fd is not None:
            os.close(self._death_fd)

    def __repr__(self) -> str:
        return f"<ProcessTransport: pid {self.pid}>"


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("flowrt", 0)
    else:
        import tempfile  # noqa: PLC0415  # where there is no memfd

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, MEMORY_BYTES)
    return descriptor


def _death_descriptor(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; its socket may be held open by its own children."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"

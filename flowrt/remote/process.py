"""Worker process: a runner behind a socket. It ends with its driver, without printing anything."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import importlib
import os
import platform
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowrt.eventloop.gc_tuning import tune_gc
from flowrt.executors.frames import Frame, FrameReader, Kind, make_frame, on_the_wire
from flowrt.executors.outcome_memory import OutcomeMemory
from flowrt.remote.runner import Runner

__all__ = ["main"]

_PR_SET_PDEATHSIG: Final = 1
_SWITCH_S: Final = 0.001  # a plain function that computes lets the loop's thread read and write this often


def main(socket_fd: int, memory_fd: int, parent: int) -> None:
    """Serve a driver until it ends or asks this process to.

    Args:
        socket_fd: One end of a socket pair.
        memory_fd: Shared memory for the number of the running item.
        parent: The driver's process id.
    """
    _end_with(parent)
    for descriptor in (socket_fd, memory_fd):
        os.set_inheritable(descriptor, False)  # children of a node must not hold the driver's socket open
    connection = socket.socket(fileno=socket_fd)
    memory = OutcomeMemory(memory_fd)
    hello, rest = _read_hello(connection)
    _apply(hello)
    tune_gc()
    sys.setswitchinterval(_SWITCH_S)
    ready = threading.Event()
    runners: list[Runner] = []
    thread = threading.Thread(
        target=_run_loop, args=(connection, rest, memory, runners, ready), name="flowrt-link", daemon=True
    )
    thread.start()
    ready.wait()
    runners[0].serve()
    _leave()


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its driver, even while it computes outside the interpreter."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _read_hello(connection: socket.socket) -> tuple[dict[str, Any], list[list[bytes]]]:
    reader = FrameReader()
    while True:
        data = connection.recv(1 << 16)
        if not data:
            os._exit(0)
        messages = list(reader.feed(data))
        if messages:
            settings: dict[str, Any] = Frame.of(messages[0]).load()
            return settings, messages[1:]


def _apply(hello: dict[str, Any]) -> None:
    """Set the driver's import path, and call the initializer."""
    sys.path[:] = hello["path"]
    sys.argv[:] = hello["argv"]
    for name, file in hello["modules"].items():
        _register_module(name, file)
    initializer = hello["initializer"]
    if initializer is not None:
        function: Callable[[], Any] = importlib.import_module("pickle").loads(initializer)
        function()


def _register_module(name: str, file: str) -> None:
    """Make a module importable under the name by which the driver loaded it from a file."""
    from importlib.machinery import ModuleSpec  # noqa: PLC0415  # rarely needed
    from importlib.util import spec_from_file_location  # noqa: PLC0415

    class Finder:
        @staticmethod
        def find_spec(wanted: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG004
            return spec_from_file_location(name, file) if wanted == name else None

    sys.meta_path.append(Finder)


class _Connection:
    """Socket to the driver, read on the loop's thread and written by any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._loop: asyncio.AbstractEventLoop
        self._reader = FrameReader()
        self._runner: Runner

    def serve(self, loop: asyncio.AbstractEventLoop, runner: Runner) -> None:
        """Start to receive messages."""
        self._loop = loop
        self._runner = runner
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            os._exit(0)  # the driver has ended
        for parts in self._reader.feed(data):
            self._runner.receive(parts)

    def send(self, parts: Sequence[Any]) -> None:
        """Send one message; bytes that the socket does not take yet are written later."""
        with self._lock:
            for data in on_the_wire(parts):
                view = memoryview(data).cast("B")
                if not self._unsent:
                    view = view[self._write(view) :]
                    if view:
                        self._loop.call_soon_threadsafe(self._loop.add_writer, self._socket, self._write_more)
                if view:
                    self._unsent.append(view)

    def _write(self, view: memoryview) -> int:
        try:
            return self._socket.send(view)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            os._exit(0)  # the driver has ended

    def _write_more(self) -> None:
        with self._lock:
            while self._unsent:
                view = self._unsent[0]
                sent = self._write(view)
                if sent < len(view):
                    self._unsent[0] = view[sent:]
                    return
                self._unsent.popleft()
            self._loop.remove_writer(self._socket)


def _run_loop(
    connection: socket.socket,
    rest: list[list[bytes]],
    memory: OutcomeMemory,
    runners: list[Runner],
    ready: threading.Event,
) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        link = _Connection(connection)
        runner = Runner(loop, link.send, memory)
        link.serve(loop, runner)
        runners.append(runner)
        link.send(make_frame((Kind.READY, os.getpid(), platform.node())))
        ready.set()
        for parts in rest:
            runner.receive(parts)
        await loop.create_future()

    try:
        from uvloop import new_event_loop  # noqa: PLC0415  # not on every platform
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


def _leave() -> None:
    """End this process after its exit handlers, without waiting for threads."""
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # noqa: SLF001  # os._exit leaves them out
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)

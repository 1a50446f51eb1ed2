"""Worker process: a runner behind a socket. Ends when its driver does, and prints nothing on the way out."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import importlib
import mmap
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowrt.executors.frames import Frame, FrameReader, Kind, make_frame, on_the_wire
from flowrt.remote.runner import Runner

__all__ = ["main"]

_PR_SET_PDEATHSIG: Final = 1
_SWITCH_S: Final = 0.001  # a plain function that computes lets the loop's thread read and write this often


def main(socket_fd: int, memory_fd: int, parent: int) -> None:
    """Serve a driver until it ends or asks this process to.

    Args:
        socket_fd: One end of a socket pair.
        memory_fd: 64 bytes of shared memory, in which the item that runs is noted.
        parent: The driver's process id.
    """
    _end_with(parent)
    for descriptor in (socket_fd, memory_fd):
        os.set_inheritable(descriptor, False)  # children of a node must not hold the driver's socket open
    connection = socket.socket(fileno=socket_fd)
    running = memoryview(mmap.mmap(memory_fd, 64)).cast("Q")
    hello, rest = _read_hello(connection)
    _apply(hello)
    sys.setswitchinterval(_SWITCH_S)
    ready = threading.Event()
    runners: list[Runner] = []
    thread = threading.Thread(
        target=_run_loop, args=(connection, rest, running, runners, ready), name="flowrt-link", daemon=True
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
    """Take the driver's import path, and call the initializer."""
    sys.path[:] = hello["path"]
    sys.argv[:] = hello["argv"]
    for name, file in hello["modules"].items():
        _register_module(name, file)
    initializer = hello["initializer"]
    if initializer is not None:
        function: Callable[[], Any] = importlib.import_module("pickle").loads(initializer)
        function()


def _register_module(name: str, file: str) -> None:
    """Let a module that the driver loaded from a file be imported under its name."""
    from importlib.machinery import ModuleSpec  # noqa: PLC0415  # rarely needed
    from importlib.util import spec_from_file_location  # noqa: PLC0415

    class Finder:
        @staticmethod
        def find_spec(wanted: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG004
            return spec_from_file_location(name, file) if wanted == name else None

    sys.meta_path.append(Finder)


class _Link(asyncio.Protocol):
    """The socket to the driver, on the loop's thread."""

    def __init__(self, runner: Runner, out: _Out) -> None:
        self._runner = runner
        self._out = out
        self._reader = FrameReader()

    def connection_made(self, transport: Any) -> None:
        self._out.transport = transport

    def data_received(self, data: bytes) -> None:
        for parts in self._reader.feed(data):
            self._runner.receive(parts)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's
        os._exit(0)  # the driver has ended


class _Out:
    """Where messages go, once there is a transport."""

    transport: Any

    def send(self, parts: Sequence[Any]) -> None:
        self.transport.writelines(on_the_wire(parts))


def _run_loop(
    connection: socket.socket,
    rest: list[list[bytes]],
    running: memoryview[int],
    runners: list[Runner],
    ready: threading.Event,
) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        out = _Out()
        runner = Runner(loop, out.send, running)
        await loop.connect_accepted_socket(lambda: _Link(runner, out), connection)
        runners.append(runner)
        out.send(make_frame((Kind.READY, os.getpid(), platform.node())))
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

"""Ray actor that runs attempts: a runner behind calls that carry messages in both directions."""

from __future__ import annotations

import asyncio
import atexit
import os
import pickle
import platform
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from flowrt.eventloop.gc_tuning import tune_gc
from flowrt.executors.frames import Frame, FrameReader, Kind, make_frame, on_the_wire
from flowrt.executors.outcome_memory import MEMORY_BYTES, OutcomeMemory
from flowrt.executors.stderr_file import own_stderr_file, read_lines
from flowrt.remote.runner import Runner

__all__ = ["RayWorker"]

_WINDOW_S: Final = 0.005  # an outcome waits this long for more, since a call costs much more than an item
_MOST_READY: Final = 512  # messages that are answered at once
_PREFIX: Final = "flowrt-ray-"
_STALE_S: Final = 60.0  # its driver has read the memory of a dead worker by then
_CALLS: Final = 3  # in flight; with all of them here, the driver could send nothing
_MOST_BYTES: Final = 90_000  # of an answer; Ray sends more than 100 KB through its object store
_PRINTED_S: Final = 1.0  # what items print that run on is sent this often
_SWITCH_S: Final = 0.001  # a plain function that computes lets the loop's thread read and write this often
_SHARED: Final = Path("/dev/shm")  # noqa: S108  # the file's name cannot be guessed


class RayWorker:
    """Async actor behind `flowrt.executors.ray_transport`.

    A call of `exchange` returns when no attempt runs, when many outcomes are ready, or soon after the first one.
    """

    def __init__(self) -> None:
        folder = _SHARED if _SHARED.is_dir() else Path(tempfile.gettempdir())
        remove_stale(folder)
        self._file = folder / f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex}"
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, MEMORY_BYTES)
            self._memory = OutcomeMemory(descriptor)
        finally:
            os.close(descriptor)
        atexit.register(self._stopped)  # of a worker that its driver no longer wants before it is ready
        self._errors = own_stderr_file()
        self._memory.running[2] = os.fstat(2).st_size if self._errors else 0
        self._reader = FrameReader()
        self._next_call = 0
        self._early: dict[int, bytes] = {}
        self._ready: deque[bytes] = deque()
        self._held: deque[asyncio.Future[bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._runner: Runner | None = None
        self._starting = True
        self._start_failure: str | None = None
        self._loop: asyncio.AbstractEventLoop
        self._thread: int

    async def about(self) -> tuple[int, str, str, str, str]:
        """Return the process id, the host, the node's id, the file of shared memory, and the file of standard error."""
        import ray  # noqa: PLC0415  # the driver's side of this module needs none

        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._watch_stderr()
        return os.getpid(), platform.node(), ray.get_runtime_context().get_node_id(), str(self._file), self._errors

    async def exchange(self, call: int, data: bytes) -> bytes:
        """Receive messages, and return the outcomes that are ready within a short time.

        Args:
            call: Number of the call in the order of sending, since Ray may start a later call first.
            data: Messages on the wire.

        Returns:
            The number of the running plain-function item, in eight bytes, and messages on the wire.
        """
        self._early[call] = data
        while (data_next := self._early.pop(self._next_call, None)) is not None:
            self._next_call += 1
            for parts in self._reader.feed(data_next):
                self._take(parts)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._held.append(answer)
        self._look()
        return await answer

    def _take(self, parts: Sequence[Any]) -> None:
        if self._runner is not None:
            self._runner.receive(parts)
            return
        hello: dict[str, Any] = Frame.of(parts).load()
        sys.setswitchinterval(_SWITCH_S)
        self._runner = Runner(self._loop, self._send, self._memory, self._stopped)
        threading.Thread(target=self._serve, args=(hello, self._runner), name="flowrt-node", daemon=True).start()

    def _serve(self, hello: dict[str, Any], runner: Runner) -> None:
        """Call the initializer, and run plain functions."""
        try:
            if hello["initializer"] is not None:
                pickle.loads(hello["initializer"])()  # noqa: S301  # from the driver
        except BaseException:
            self._loop.call_soon_threadsafe(self._fail, traceback.format_exc())
            return
        tune_gc()
        self._loop.call_soon_threadsafe(self._send_ready)
        runner.serve()

    def _send_ready(self) -> None:
        self._starting = False
        self._send(make_frame((Kind.READY, os.getpid(), platform.node())))

    def _fail(self, why: str) -> None:
        """Answer all calls with the reason why this worker will never be ready."""
        self._start_failure = why
        self._look()

    def _stopped(self) -> None:
        if (telemetry := sys.modules.get("flowrt.remote.telemetry")) is not None:
            telemetry.close_logs()  # the last answer has their lines
        with suppress(OSError):
            self._file.unlink()

    # -- answers -------------------------------------------------------------------------------------------------------

    def _send(self, parts: Sequence[Any]) -> None:
        data = b"".join(on_the_wire(parts))
        if threading.get_ident() == self._thread:
            self._deliver(data)
        else:
            self._loop.call_soon_threadsafe(self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        self._ready.append(data)
        self._look()

    def _look(self) -> None:
        """Answer a call now, schedule the answer, or leave the call open."""
        while self._held and self._start_failure is not None:
            self._held.popleft().set_exception(RuntimeError(self._start_failure))
        if not self._held:
            return
        if len(self._ready) >= _MOST_READY or not self._is_active():
            self._release()
        elif self._timer is None and (self._ready or len(self._held) >= _CALLS):
            self._timer = self._loop.call_later(_WINDOW_S, self._release)

    def _release(self) -> None:
        """Answer the oldest call with the ready messages, and later calls with messages that do not fit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._has_printed():
            lines, self._memory.running[2] = read_lines(self._errors, int(self._memory.running[2]))
            if lines:
                self._ready.appendleft(b"".join(on_the_wire(make_frame((Kind.PRINTED, lines)))))
        answers = 0
        while self._held and (not answers or self._ready or not self._is_active()):
            answers += 1
            parts = [int(self._memory.running[0]).to_bytes(8, "little")]
            size = 0
            while self._ready and (not size or size + len(self._ready[0]) <= _MOST_BYTES or len(self._held) == 1):
                size += len(self._ready[0])
                parts.append(self._ready.popleft())
            answer = self._held.popleft()
            if not answer.done():
                answer.set_result(b"".join(parts))
        self._look()

    def _has_printed(self) -> bool:
        return bool(self._errors) and os.fstat(2).st_size > self._memory.running[2]

    def _watch_stderr(self) -> None:
        """Send printed lines although no item has ended."""
        self._loop.call_later(_PRINTED_S, self._watch_stderr)
        if self._held and self._has_printed():
            self._release()

    def _is_active(self) -> bool:
        return self._starting or self._runner is None or bool(self._runner.active)


def remove_stale(folder: Path) -> None:
    """Remove the memory of workers that were killed together with their drivers."""
    for file in folder.glob(f"{_PREFIX}*"):
        pid = file.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(OSError):
            if not Path("/proc", pid).exists() and time.time() - file.stat().st_mtime > _STALE_S:
                file.unlink()

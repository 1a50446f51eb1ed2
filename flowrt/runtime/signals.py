"""SIGINT and SIGTERM: the first drains the batches, a second ends the process."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from flowrt.engine.batch_run import active_batches
from flowrt.telemetry.logs.events import log_event

__all__ = ["REASON", "Shutdown"]

REASON: Final = "shutting down"

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_POLL_S: Final = 0.02  # a batch that starts while draining gets this long
_FORCE_S: Final = 0.8  # after a second signal: an orderly end may still come first
_HANDLED: Final = 0x80  # marks a byte that Python's handler wrote; C's has the bare number
_END: Final = b"\0"
_installed: Final[list[Shutdown]] = []


class Shutdown:
    """Ends one task's work in order, when a signal asks for it.

    Handlers that are not Python's or asyncio's defaults stay: whoever installed them answers for shutting down.

    Args:
        grace_s: How long batches and the task have to end by themselves, in seconds; then the task is cancelled.
        on_signal: Called at once at the first signal, in Python's signal handler.

    Attributes:
        signum: The first signal that came, or None.
        cancelled: Whether the task was cancelled for it.
    """

    def __init__(self, grace_s: float, on_signal: Callable[[], None]) -> None:
        self.signum: int | None = None
        self.cancelled = False
        self._grace_s = grace_s
        self._on_signal = on_signal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._began_s: float | None = None
        self._drained = False
        self._previous: dict[int, Any] = {}
        self._ours: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._next_fd = -1
        self._taken = False

    # -- the process's side ------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Handle the signals from now on; outside the main thread, where Python allows no handlers, do nothing."""
        if self._thread is not None or threading.current_thread() is not threading.main_thread():
            return
        free = [signum for signum in _SIGNALS if _is_default(signal.getsignal(signum))]
        if not free:
            return
        theirs, self._ours = socket.socketpair()
        self._ours.setblocking(False)
        # The interpreter runs a handler between two bytecodes, which a long call into C holds up; the byte that its
        # C code writes to the wake-up descriptor reaches this thread all the same.
        self._thread = threading.Thread(target=self._listen, args=(theirs,), name="flowrt-signals", daemon=True)
        self._thread.start()
        _installed.append(self)
        for signum in free:
            self._previous[signum] = signal.getsignal(signum)
            signal.signal(signum, self._handle)

    def uninstall(self) -> None:
        """Put back the handlers that were there. Later calls do nothing."""
        self.unbind()
        thread, ours = self._thread, self._ours
        if thread is None or ours is None:
            return
        self._thread = self._ours = None
        _installed.remove(self)
        self._restore()
        with suppress(OSError):
            ours.send(_END)
        thread.join(0.1)  # unless a second signal came: then it is there to end the process
        ours.close()

    def forget(self) -> None:
        """In a forked child: what it has of its parent's would take its signals for the parent's."""
        if self._ours is not None:
            current = signal.set_wakeup_fd(-1)
            if current != self._ours.fileno():
                signal.set_wakeup_fd(current)
            self._ours.close()
        self._restore()
        self._loop = self._task = self._thread = self._ours = None
        self._taken = False

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            if signal.getsignal(signum) == self._handle:
                signal.signal(signum, handler)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        first = self.signum is None
        if first:
            self.signum = signum
            self._on_signal()
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has been closed: there is nothing left to drain
                self._loop.call_soon_threadsafe(self._begin if first else self._cancel)
        if self._ours is not None:
            with suppress(OSError):
                self._ours.send(bytes([signum | _HANDLED]))

    def _listen(self, theirs: socket.socket) -> None:
        seen: list[int] = []
        with theirs:
            while (data := theirs.recv(64)) and _END not in data:
                seen += data
                plain = bytes(number for number in data if number < _HANDLED)
                if plain and self._next_fd != -1:  # the loop's own descriptor: it waits for these
                    with suppress(OSError):
                        os.write(self._next_fd, plain)
                direct = [number for number in seen if number in self._previous]
                handled = [number ^ _HANDLED for number in seen if number >= _HANDLED]
                if max(len(direct), len(handled)) >= 2:
                    time.sleep(_FORCE_S)
                    os._exit(128 + (direct or handled)[0])

    # -- the loop's side -----------------------------------------------------------------------------------------------

    def bind(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """From now on a signal drains this loop's batches and then cancels this task. To be called in the task.

        Args:
            loop: The running loop.
            task: The task whose end is the end of the work.
        """
        if self._thread is None:
            return
        self._loop, self._task = loop, task
        if self._ours is not None:
            self._next_fd = signal.set_wakeup_fd(self._ours.fileno(), warn_on_full_buffer=False)
            self._taken = True
        if self.signum is not None:
            self._begin()

    def unbind(self) -> None:
        """A signal no longer touches the loop; it is still remembered, and a second one still ends the process."""
        if self._loop is not None:
            self._tell_if_drained(self._loop, len(active_batches(self._loop)))
        self._loop = self._task = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._taken and self._ours is not None:
            self._taken = False
            current = signal.set_wakeup_fd(self._next_fd)
            if current != self._ours.fileno():  # somebody took it after us
                signal.set_wakeup_fd(current)
            self._next_fd = -1

    def _begin(self) -> None:
        loop = self._loop
        if loop is None or self.signum is None:
            return
        self._began_s = loop.time()
        active = len(active_batches(loop))
        name = signal.Signals(self.signum).name
        log_event("info", "shutdown.started", signal=name, batches=active, grace_s=self._grace_s)
        self._drain(loop)
        if active:
            self._timers["grace"] = loop.call_later(self._grace_s, self._cancel)
        else:
            self._cancel()

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell every batch to admit nothing more, again and again: others may start.

        A batch within an item of another goes on, like all that the item does: else the item would be half done.
        """
        active = active_batches(loop)
        for scheduler in active:
            if not scheduler.within_another:
                scheduler.drain(REASON)
        self._tell_if_drained(loop, len(active))
        self._timers["poll"] = loop.call_later(_POLL_S, self._drain, loop)

    def _tell_if_drained(self, loop: asyncio.AbstractEventLoop, active: int) -> None:
        if self._began_s is not None and not active and not self._drained:
            self._drained = True
            log_event("info", "shutdown.drained", duration_s=round(loop.time() - self._began_s, 3))

    def _cancel(self) -> None:
        if self._task is not None:
            self.cancelled = True
            self._task.cancel(REASON)


def _forget() -> None:
    for shutdown in _installed:
        shutdown.forget()
    _installed.clear()


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(after_in_child=_forget)


def _is_default(handler: Any) -> bool:
    """Whether nobody but Python itself or `asyncio.run` has installed this handler."""
    if isinstance(handler, functools.partial):
        handler = handler.func
    return handler in (signal.SIG_DFL, signal.default_int_handler) or isinstance(
        getattr(handler, "__self__", None), asyncio.Runner
    )

"""SIGINT, SIGTERM and SIGHUP: the first signal drains the batches, the second ends the process."""

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
from typing import Any, Final, Literal, get_args

from flowrt.engine.batch_run import active_batches
from flowrt.engine.interruption import Interruption
from flowrt.errors import Interrupted
from flowrt.telemetry.logs.events import log_event

__all__ = ["ON_INTERRUPT", "REASON", "OnInterrupt", "Shutdown", "is_interruption"]

OnInterrupt = Literal["raise", "return"]
"""How a batch that a signal has drained ends in its caller: it raises `Interrupted`, or returns its results."""

ON_INTERRUPT: Final[tuple[OnInterrupt, ...]] = get_args(OnInterrupt)

REASON: Final = "shutting down"

_POLL_S: Final = 0.02  # interval at which batches that start while draining are drained, too
_FORCE_S: Final = 0.8  # after a second signal, for an orderly end to finish first
_HANDLED: Final = 0x80  # marks a byte that Python's handler wrote; the C handler writes the bare number
_END: Final = b"\0"
_installed: Final[list[Shutdown]] = []


class Shutdown:
    """Orderly shutdown of one task's work after a signal.

    Handlers that are not Python's or asyncio's defaults stay in place: the code that installed them is responsible for
    shutting down.

    Args:
        grace_s: How long batches and the task may take to end, in seconds; then the task is cancelled.
        on_signal: Called by Python's signal handler at the first signal.
        on_interrupt: How a batch that is drained ends in its caller.

    Attributes:
        signum: The first signal received, or None.
        cancelled: True if the task was cancelled because of it.
    """

    def __init__(self, grace_s: float, on_signal: Callable[[], None], on_interrupt: OnInterrupt) -> None:
        self.signum: int | None = None
        self.cancelled = False
        self._grace_s = grace_s
        self._on_signal = on_signal
        self._raises = on_interrupt == "raise"
        self._interruption: Interruption | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._began_s: float | None = None
        self._drained = False
        self._previous: dict[int, Any] = {}
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._next_fd = -1  # the previous wake-up descriptor, to which signals are forwarded
        self._has_wakeup_fd = False

    # -- the process's side ------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Install the signal handlers; do nothing outside the main thread, where Python allows none."""
        if self._thread is not None or threading.current_thread() is not threading.main_thread():
            return
        free = _free_signals()
        if not free:
            return
        receiver, self._socket = socket.socketpair()
        self._socket.setblocking(False)
        # The interpreter runs a handler between two bytecodes, so a long call into C delays it. The byte that the C
        # handler writes to the wake-up descriptor reaches this thread without delay.
        self._thread = threading.Thread(target=self._listen, args=(receiver,), name="flowrt-signals", daemon=True)
        self._thread.start()
        _installed.append(self)
        for signum in free:
            self._previous[signum] = signal.getsignal(signum)
            signal.signal(signum, self._handle)

    def uninstall(self) -> None:
        """Restore the previous handlers. Later calls do nothing."""
        self.unbind()
        thread, sender = self._thread, self._socket
        if thread is None or sender is None:
            return
        self._thread = self._socket = None
        _installed.remove(self)
        self._restore()
        with suppress(OSError):
            sender.send(_END)
        thread.join(0.1)  # after a second signal it stays, to end the process
        sender.close()

    def forget(self) -> None:
        """Uninstall in a forked child, where the inherited socket would report the child's signals to the parent."""
        if self._socket is not None:
            current = signal.set_wakeup_fd(-1)
            if current != self._socket.fileno():
                signal.set_wakeup_fd(current)
            self._socket.close()
        self._restore()
        self._loop = self._task = self._thread = self._socket = None
        self._has_wakeup_fd = False

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
            with suppress(RuntimeError):  # the loop was closed: nothing is left to drain
                self._loop.call_soon_threadsafe(self._begin if first else self._cancel)
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(bytes([signum | _HANDLED]))

    def _listen(self, receiver: socket.socket) -> None:
        seen: list[int] = []
        with receiver:
            while (data := receiver.recv(64)) and _END not in data:
                seen += data
                plain = bytes(number for number in data if number < _HANDLED)
                if plain and self._next_fd != -1:  # the loop's own descriptor, which the loop reads
                    with suppress(OSError):
                        os.write(self._next_fd, plain)
                direct = [number for number in seen if number in self._previous]
                handled = [number ^ _HANDLED for number in seen if number >= _HANDLED]
                if max(len(direct), len(handled)) >= 2:
                    time.sleep(_FORCE_S)
                    os._exit(128 + (direct or handled)[0])

    # -- the loop's side -----------------------------------------------------------------------------------------------

    def bind(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """Let a signal drain this loop's batches and then cancel this task; call it in the task.

        Args:
            loop: The running loop.
            task: The task to cancel after the grace.
        """
        if self._thread is None:
            return
        self._loop, self._task = loop, task
        if self._socket is not None:
            self._next_fd = signal.set_wakeup_fd(self._socket.fileno(), warn_on_full_buffer=False)
            self._has_wakeup_fd = True
        if self.signum is not None:
            self._begin()

    def unbind(self) -> None:
        """Leave the loop alone from now on; a first signal is still recorded, and a second one ends the process."""
        if self._loop is not None:
            self._log_if_drained(self._loop, len(active_batches(self._loop)))
        self._loop = self._task = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._has_wakeup_fd and self._socket is not None:
            self._has_wakeup_fd = False
            current = signal.set_wakeup_fd(self._next_fd)
            if current != self._socket.fileno():  # other code has set a descriptor since: keep it
                signal.set_wakeup_fd(current)
            self._next_fd = -1

    def _begin(self) -> None:
        loop = self._loop
        if loop is None or self.signum is None:
            return
        self._began_s = loop.time()
        self._interruption = Interruption(self.signum) if self._raises else None
        active = len(active_batches(loop))
        name = signal.Signals(self.signum).name
        log_event("info", "shutdown.started", signal=name, batches=active, grace_s=self._grace_s)
        self._drain(loop)
        if active:
            self._timers["grace"] = loop.call_later(self._grace_s, self._cancel)
        else:
            self._cancel()

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drain all batches, repeatedly, because new ones may start.

        A batch inside an item of another batch goes on, like the rest of the item's work, or the item would be left
        half done. Once no batch is left, the task is cancelled, unless it has an `Interrupted` to handle: it may have
        left a stream early, and would go on as if nothing had happened.
        """
        active = active_batches(loop)
        for run in active:
            if not run.nested:
                run.drain(REASON, self._interruption, quietly=not self._raises)
        if self._drained and not active and self._interruption is not None and not self._interruption.delivered:
            self._cancel()
            return
        self._log_if_drained(loop, len(active))
        self._timers["poll"] = loop.call_later(_POLL_S, self._drain, loop)

    def _log_if_drained(self, loop: asyncio.AbstractEventLoop, active: int) -> None:
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


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)


def is_interruption(error: BaseException | None) -> bool:
    """True for `Interrupted`, and for a group of nothing else, as a TaskGroup raises it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Interrupted)[1] is None
    return isinstance(error, Interrupted)


def _free_signals() -> list[signal.Signals]:
    """Return the signals that other code does not handle.

    SIGHUP is left to code that handles SIGTERM: a server that shuts down on its own signals would otherwise survive a
    hangup with its work cancelled.
    """
    free = [signum for signum in (signal.SIGINT, signal.SIGTERM) if _is_default(signal.getsignal(signum))]
    if hasattr(signal, "SIGHUP") and signal.SIGTERM in free and _is_default(signal.getsignal(signal.SIGHUP)):
        free.append(signal.SIGHUP)
    return free


def _is_default(handler: Any) -> bool:
    """Return True if Python itself or `asyncio.run` installed this handler."""
    if isinstance(handler, functools.partial):
        handler = handler.func
    return handler in (signal.SIG_DFL, signal.default_int_handler) or isinstance(
        getattr(handler, "__self__", None), asyncio.Runner
    )

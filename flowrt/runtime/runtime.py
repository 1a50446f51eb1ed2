"""The runtime: everything around a batch that a process may not have yet, from its start to its orderly end."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt._util.validation import check_duration, check_number
from flowrt.engine.batch_run import active_batches
from flowrt.engine.timeouts import GRACE_S
from flowrt.eventloop import gc_tuning
from flowrt.runtime.signals import REASON, Shutdown
from flowrt.server import READINESS, TelemetryServer
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.logs.setup import LogFormat, LogSetup
from flowrt.telemetry.otlp import loggable
from flowrt.telemetry.tracing.setup import TraceSetup
from flowrt.telemetry.watchdog import Watchdog

__all__ = ["Runtime", "Settings", "run"]

T = TypeVar("T")

_YOUNG: Final = 5_000  # new objects before the garbage collector looks
_active: Final[list[Runtime]] = []
_watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


class Settings(TypedDict, total=False):
    """What `Runtime` and `run` can be told; `Runtime` says what each means."""

    service_name: str | None
    metrics_port: int | None
    metrics_host: str
    metrics_token: str | None
    metrics_cert: str | os.PathLike[str] | None
    metrics_key: str | os.PathLike[str] | None
    otlp_endpoint: str | None
    log_format: LogFormat | None
    log_level: str
    grace: float
    flush_timeout: float
    stall_after: float | None


class Runtime:
    """Metrics, traces, logs and signals for a process that has none; to be used as `async with Runtime(...):`.

    What the process has set up already stays as it is: a tracer provider, a structlog configuration, handlers of the
    root logger, signal handlers. Several runtimes may be active: each serves its own port, and what the first one set
    up, the others use.

    What is loaded when it starts is frozen for the garbage collector (`gc.freeze`) until the last runtime ends, and the
    collector comes after 5,000 new objects where it would come sooner (`gc.set_threshold`).

    SIGINT and SIGTERM drain: `/readyz` answers 503, no item is admitted any more, and those in flight have `grace`
    seconds; a batch that runs within an item is part of it, and goes on. The block goes on with the partial results;
    where no batch is active, or when the grace is over, the task that entered the block is cancelled. Leaving the block
    after a signal raises `SystemExit` with 130 or 143, unless an exception of the block's own is on its way. A second
    signal ends the process within a second.

    Args:
        service_name: The traces' `service.name`; `OTEL_SERVICE_NAME` by default.
        metrics_port: Where to serve the live page at `/`, `/metrics`, `/healthz` and `/readyz`; 0 for a free port,
            None for no server.
        metrics_host: The address to serve on.
        metrics_token: What requests must bring, as a bearer token or as the password of basic authentication; needed
            to serve on an address that others can reach.
        metrics_cert: A file with a certificate in PEM form, to serve over TLS.
        metrics_key: A file with the certificate's private key, where it is not in the same one.
        otlp_endpoint: The OTLP/HTTP collector's base URL; `OTEL_EXPORTER_OTLP_ENDPOINT` by default. Needs the extra
            `otlp`. Without either, spans are made, so that logs and results have trace ids, and not exported.
        log_format: `json`, `console`, or None for `console` on a terminal and `json` elsewhere.
        log_level: The least that is logged.
        grace: How long items in flight have after a signal, in seconds.
        flush_timeout: How long leaving may take for the telemetry's sake, in seconds.
        stall_after: How long one turn of the loop may take before a thread looks who takes it, for `loop.blocked` to
            tell, in seconds; None for no such watch.

    Attributes:
        metrics_url: Where `/metrics` is, once entered, or None.
        live_url: Where the live page is, once entered, or None.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> import asyncio, flowrt
        >>> async def main():
        ...     async with flowrt.Runtime(metrics_port=0, log_level="WARNING") as runtime:
        ...         results = await flowrt.BatchProcessor(abs).batch([-1, -2])
        ...         return [result.output for result in results], runtime.metrics_url is not None
        >>> asyncio.run(main())
        ([1, 2], True)
    """

    def __init__(
        self,
        *,
        service_name: str | None = None,
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
        metrics_token: str | None = None,
        metrics_cert: str | os.PathLike[str] | None = None,
        metrics_key: str | os.PathLike[str] | None = None,
        otlp_endpoint: str | None = None,
        log_format: LogFormat | None = None,
        log_level: str = "INFO",
        grace: float = 10.0,
        flush_timeout: float = 5.0,
        stall_after: float | None = 0.1,
    ) -> None:
        self.metrics_url: str | None = None
        self.live_url: str | None = None
        self._service_name = service_name
        self._server_at = (metrics_port, metrics_host, metrics_token, metrics_cert, metrics_key)
        self._otlp_endpoint = otlp_endpoint
        self._log_settings = (log_format, log_level)
        self._flush_timeout_s = check_number("flush_timeout", flush_timeout, unit="of seconds")
        self._stall_after_s = check_duration("stall_after", stall_after)
        self._shutdown = Shutdown(check_number("grace", grace, unit="of seconds"), self._refuse_work)
        self._entered = False
        self._server: TelemetryServer | None = None
        self._logs: LogSetup | None = None
        self._traces: TraceSetup | None = None
        self._watchdog: Watchdog | None = None
        self._calm: gc_tuning.GcThreshold | None = None

    @staticmethod
    def current() -> Runtime | None:
        """The runtime that was entered last and is active, in whatever loop, or None.

        Code inside `flowrt.run` finds here what the runtime serves, for instance its `metrics_url`.
        """
        return _active[-1] if _active else None

    @property
    def exit_code(self) -> int | None:
        """128 and the number of the signal that asked for an end, or None while none has."""
        signum = self._shutdown.signum
        return None if signum is None else 128 + signum

    async def __aenter__(self) -> Self:
        """Set up what is missing.

        Raises:
            OSError: The metrics port cannot be bound.
            MissingExtraError: There is an OTLP endpoint, and the extra `otlp` is not installed.
            ValueError: A setting is out of its range.
            RuntimeError: It has been entered before.
        """
        await self._start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush and take down what was set up; raise `SystemExit` if a signal asked for the end."""
        try:
            await self._stop()
        finally:
            self._shutdown.uninstall()
        ours = self._shutdown.cancelled and isinstance(exc, asyncio.CancelledError)
        if self.exit_code is not None and (exc is None or ours):
            task = asyncio.current_task()
            if ours and task is not None:
                task.uncancel()
            raise SystemExit(self.exit_code)

    async def _start(self) -> None:
        if self._entered:
            raise RuntimeError("a Runtime is entered once: make another one for another block")
        self._entered = True
        try:
            port, host, token, cert, key = self._server_at
            if port is not None:
                self._server = TelemetryServer(port, host, token=token, cert=cert, key=key)
                self.metrics_url = f"{self._server.url}/metrics"
                self.live_url = f"{self._server.url}/"
                self._server.start()
            self._logs = LogSetup(*self._log_settings)
            self._traces = TraceSetup(self._service_name, self._otlp_endpoint)
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            if self._stall_after_s is not None and loop not in _watched:
                _watched.add(loop)
                self._watchdog = Watchdog(
                    loop, lambda: [scheduler.batch for scheduler in active_batches(loop)], self._stall_after_s
                )
                self._watchdog.start()
            endpoint = None if self._otlp_endpoint is None else loggable(self._otlp_endpoint)
            known = {"metrics_url": self.metrics_url, "otlp_endpoint": endpoint}
            log_event("info", "runtime.started", **{key: value for key, value in known.items() if value is not None})
            self._shutdown.install()
            if task is not None:
                self._shutdown.bind(loop, task)
            _active.append(self)
            gc_tuning.freeze()
            self._calm = gc_tuning.GcThreshold(_YOUNG)
        except BaseException:
            await self._stop()
            self._shutdown.uninstall()
            raise

    async def _stop(self) -> None:
        """Take down what was set up, within the flush timeout whatever anybody else does."""
        deadline = time.monotonic() + self._flush_timeout_s
        if self._calm is not None:
            self._calm.end()
        if self in _active:
            _active.remove(self)
            if not _active:
                gc_tuning.unfreeze()
        self._shutdown.unbind()
        watchdog, server, traces, logs = self._watchdog, self._server, self._traces, self._logs
        self._watchdog = self._server = self._traces = self._logs = None
        if watchdog is not None:
            _watched.discard(asyncio.get_running_loop())
            watchdog.stop()
        try:
            work: list[Callable[[], None]] = [server.stop] if server is not None else []
            if traces is not None and traces.pipeline is not None:
                # A little less than there is, so that what it had to drop is still told.
                work.append(lambda: traces.close(0.9 * self._flush_timeout_s))
            await _outside(work, deadline)
            if traces is not None:
                traces.report()
        finally:
            if READINESS.draining is not None and self._shutdown.signum is not None:
                READINESS.draining = None
            if logs is not None:
                logs.close(max(0.1, min(1.0, deadline - time.monotonic())))

    async def _run(self, main: Coroutine[Any, Any, T]) -> T:
        await self._start()
        try:
            return await main
        finally:
            await _end_tasks()
            await self._stop()

    def _refuse_work(self) -> None:
        READINESS.draining = REASON

    def __repr__(self) -> str:
        state = "active" if self._logs is not None else "over" if self._entered else "not entered"
        return f"<Runtime {state}{'' if self.metrics_url is None else f', {self.metrics_url}'}>"


def run(main: Coroutine[Any, Any, T], **settings: Unpack[Settings]) -> T:
    """Run a coroutine on uvloop inside a `Runtime`: like `asyncio.run`, plus telemetry and signals.

    Where uvloop is not installed, asyncio's own loop is used.

    Args:
        main: The coroutine, for instance `main()`.
        settings: Passed to `Runtime`.

    Returns:
        What the coroutine returns.

    Raises:
        SystemExit: With 130 after SIGINT, 143 after SIGTERM, once the coroutine has ended and all is flushed.
        TypeError: `main` is not a coroutine.
        RuntimeError: A loop runs in this thread already.

    Example:
        >>> import flowrt
        >>> async def main():
        ...     return (await flowrt.BatchProcessor(abs).batch([-1, -2])).success_rate
        >>> flowrt.run(main(), log_level="WARNING")
        1.0
    """
    if not asyncio.iscoroutine(main):
        raise TypeError(f"run() takes a coroutine: run(main()), not {main!r}")
    try:
        if _loop_is_running():
            raise RuntimeError("a loop runs in this thread already: use `async with flowrt.Runtime(...)` in it")
        runtime = Runtime(**settings)
        shutdown = runtime._shutdown  # noqa: SLF001  # of this module
        # Before the runner, which then installs none of its own, and until its loop is closed: what is left may hang.
        shutdown.install()
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                result = runner.run(runtime._run(main))  # noqa: SLF001
        except asyncio.CancelledError:
            if not shutdown.cancelled:
                raise
            raise SystemExit(runtime.exit_code) from None
        finally:
            shutdown.uninstall()
    finally:
        main.close()  # where it was never started
    if runtime.exit_code is not None:
        raise SystemExit(runtime.exit_code)
    return result


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  # not on every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _end_tasks() -> None:
    """Cancel the loop's other tasks, and let go of those that do not end: a runner would wait for them for ever."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if not left:
        return
    for task in left:
        task.cancel()
    _, stuck = await asyncio.wait(left, timeout=GRACE_S)
    for task in stuck:
        asyncio._unregister_task(task)  # noqa: SLF001  # documented, for those who keep tasks of their own
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  # it is told here
    if stuck:
        names = sorted(task.get_name() for task in stuck)
        log_event("warning", "shutdown.abandoned", tasks=len(stuck), names=names[:10])


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _outside(work: list[Callable[[], None]], deadline: float) -> None:
    """Run each function in a daemon thread and wait for all until the deadline: a pool's threads could delay exit."""
    loop = asyncio.get_running_loop()
    running = [run_in_daemon_thread(loop, each, "flowrt-stop") for each in work]
    if running:
        await asyncio.wait(running, timeout=max(0.0, deadline - time.monotonic()))

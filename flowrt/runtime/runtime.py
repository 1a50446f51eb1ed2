"""Runtime and `run`: telemetry, signal handling, GC tuning and the event loop, from start to orderly shutdown."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, TypeVar, Unpack

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt._util.validation import check_duration, check_number
from flowrt.engine.batch_run import active_batches
from flowrt.engine.timeouts import GRACE_S
from flowrt.eventloop.gc_tuning import restore_gc, tune_gc
from flowrt.executors.workers import POOLS
from flowrt.runtime.exporters import Exporters
from flowrt.runtime.signals import ON_INTERRUPT, REASON, OnInterrupt, Shutdown, is_interruption
from flowrt.server import READINESS, TelemetryServer
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.logs.setup import LogFormat, LogLevel, LogSetup
from flowrt.telemetry.otlp import loggable
from flowrt.telemetry.tracing.setup import TraceSetup
from flowrt.telemetry.watchdog import Watchdog

__all__ = ["Runtime", "Settings", "run"]

T = TypeVar("T")

_active: Final[list[Runtime]] = []
_watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


class Settings(TypedDict, total=False):
    """Settings of `Runtime` and `run`; see `Runtime` for their meaning."""

    service_name: str | None
    metrics_port: int | None
    metrics_host: str
    metrics_token: str | None
    metrics_cert: str | os.PathLike[str] | None
    metrics_key: str | os.PathLike[str] | None
    trace_url: str | None
    live_control: bool
    otlp_endpoint: str | None
    metrics_exporter: Literal["otlp"] | None
    logs_exporter: Literal["otlp"] | None
    log_format: LogFormat | None
    log_level: LogLevel | None
    grace: float
    on_interrupt: OnInterrupt
    flush_timeout: float
    stall_after: float | None
    gc_tuning: bool


class Runtime:
    """Sets up metrics, traces, logs and signal handling of a process; use it as `async with Runtime(...):`.

    A Runtime does not replace existing set-up of the process: a tracer provider, a structlog configuration,
    handlers of the root logger, signal handlers. Several runtimes may be active: each serves its own port, and they
    share what the first one set up.

    GC tuning: entering the first runtime freezes all existing objects (`gc.freeze`) until the last one ends, and raises
    the threshold of the youngest generation to 5,000 new objects if it is lower (`gc.set_threshold`). Both are settings
    of the whole process: `gc_tuning=False` leaves them alone, and a batch without a Runtime never changes them.

    SIGINT, SIGTERM and SIGHUP drain: `/readyz` answers 503, no item is admitted any more, and items in flight have
    `grace` seconds; a batch inside an item is part of that item and goes on. Then each batch raises
    `flowrt.Interrupted`, with its results, in its caller. If no batch is active, or at the end of the grace, the task
    that entered the block is cancelled. Leaving the block after a signal raises `SystemExit` with 130, 143 or 129,
    unless the block raises another exception. A second signal ends the process within a second. A signal that the
    process handles itself is left to it; so is SIGHUP if it handles SIGTERM.

    Args:
        service_name: The traces' `service.name`; `OTEL_SERVICE_NAME` by default.
        metrics_port: Port of the live page at `/`, `/metrics`, `/healthz` and `/readyz`; 0 for a free port, None for no
            server.
        metrics_host: The address to serve on.
        metrics_token: Secret that requests must carry, as a bearer token or as the password of basic authentication;
            required to serve on an address that other hosts can reach.
        metrics_cert: A file with a certificate in PEM form, to serve over TLS.
        metrics_key: A file with the certificate's private key, if the certificate's file lacks it.
        trace_url: URL of a trace in your tracing UI, with `{trace_id}` in place of its id, such as
            `https://jaeger.example.com/trace/{trace_id}`. Trace ids on the live page become links.
        live_control: True to let the live page pause, drain and cancel batches. Needs `metrics_token`.
        otlp_endpoint: Base URL of the OTLP collector; `OTEL_EXPORTER_OTLP_ENDPOINT` by default. Needs the extra `otlp`,
            and `grpc` if `OTEL_EXPORTER_OTLP_PROTOCOL` is `grpc`; without that variable it is HTTP. Without an
            endpoint, spans exist, so that logs and results have trace ids, but are not exported.
        metrics_exporter: `otlp` to export the metrics too, with the values of `/metrics`; `OTEL_METRICS_EXPORTER` by
            default. Needs the extra `otlp-sdk`, for gRPC `otlp-sdk-grpc`.
        logs_exporter: `otlp` to export the log events too; `OTEL_LOGS_EXPORTER` by default. Needs the same extra, and a
            process that has not configured logging itself.
        log_format: `json`, `console`, or None for `console` on a terminal and `json` elsewhere.
        log_level: The lowest level that is logged, by the process's own loggers too. By default `INFO` with a
            `log_format` or a `logs_exporter`, for flowrt's and structlog's events, and `WARNING` without, so that a
            script prints warnings only.
        grace: How long items in flight may run after a signal, in seconds.
        on_interrupt: How a batch ends that a signal has drained: `"raise"` raises `flowrt.Interrupted` in its caller;
            `"return"` returns the results so far or ends the stream, and the block goes on until the end of the grace.
        flush_timeout: How long leaving the block may wait for telemetry, in seconds.
        stall_after: Duration of one turn of the loop from which a watchdog thread samples its stack, for the event
            `loop.blocked`, in seconds; None for no watchdog.
        gc_tuning: Whether to tune the garbage collector, as described above.

    Attributes:
        metrics_url: URL of `/metrics`, once entered, or None.
        live_url: URL of the live page, once entered, or None.

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
        trace_url: str | None = None,
        live_control: bool = False,
        otlp_endpoint: str | None = None,
        metrics_exporter: Literal["otlp"] | None = None,
        logs_exporter: Literal["otlp"] | None = None,
        log_format: LogFormat | None = None,
        log_level: LogLevel | None = None,
        grace: float = 10.0,
        on_interrupt: OnInterrupt = "raise",
        flush_timeout: float = 5.0,
        stall_after: float | None = 0.1,
        gc_tuning: bool = True,
    ) -> None:
        self.metrics_url: str | None = None
        self.live_url: str | None = None
        self._service_name = service_name
        self._metrics_port = metrics_port
        self._serving: dict[str, Any] = {
            "host": metrics_host,
            "token": metrics_token,
            "cert": metrics_cert,
            "key": metrics_key,
            "trace_url": trace_url,
            "live_control": live_control,
        }
        self._otlp_endpoint = otlp_endpoint
        self._exporters = Exporters(metrics_exporter, logs_exporter)
        self._log_settings = log_format, log_level
        self._flush_timeout_s = check_number("flush_timeout", flush_timeout, unit="of seconds")
        self._stall_after_s = check_duration("stall_after", stall_after)
        if on_interrupt not in ON_INTERRUPT:
            raise ValueError(f"on_interrupt must be 'raise' or 'return', not {on_interrupt!r}")
        self._shutdown = Shutdown(check_number("grace", grace, unit="of seconds"), self._refuse_work, on_interrupt)
        self._entered = False
        self._server: TelemetryServer | None = None
        self._logs: LogSetup | None = None
        self._traces: TraceSetup | None = None
        self._watchdog: Watchdog | None = None
        self._tunes_gc = gc_tuning
        self._gc_tuned = False

    @staticmethod
    def current() -> Runtime | None:
        """Return the active runtime that was entered last, on any loop, or None.

        Code inside `flowrt.run` uses it to find the runtime's URLs, such as `metrics_url`.
        """
        return _active[-1] if _active else None

    @property
    def exit_code(self) -> int | None:
        """128 plus the number of the signal that was received, or None without a signal."""
        signum = self._shutdown.signum
        return None if signum is None else 128 + signum

    async def __aenter__(self) -> Self:
        """Set up the telemetry that the process lacks.

        Raises:
            OSError: The metrics port cannot be bound.
            MissingExtraError: There is an OTLP endpoint, and the extra `otlp` is not installed.
            ValueError: A setting is out of its range.
            RuntimeError: The runtime was entered before.
        """
        await self._start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush and shut down; raise `SystemExit` after a signal."""
        try:
            await self._stop()
        finally:
            self._shutdown.uninstall()
        ours = self._shutdown.cancelled and isinstance(exc, asyncio.CancelledError)
        if self.exit_code is not None and (exc is None or ours or is_interruption(exc)):
            task = asyncio.current_task()
            if ours and task is not None:
                task.uncancel()
            raise SystemExit(self.exit_code)

    async def _start(self) -> None:
        if self._entered:
            raise RuntimeError("a Runtime can be entered only once: create a new Runtime for each block")
        self._entered = True
        try:
            if self._metrics_port is not None:
                self._server = TelemetryServer(self._metrics_port, **self._serving)
                self.metrics_url = f"{self._server.url}/metrics"
                self.live_url = f"{self._server.url}/"
                self._server.start()
            self._exporters.start(self._service_name, self._otlp_endpoint)
            self._logs = self._exporters.set_up_logs(*self._log_settings)
            self._traces = TraceSetup(self._service_name, self._otlp_endpoint)
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            if self._stall_after_s is not None and loop not in _watched:
                _watched.add(loop)
                self._watchdog = Watchdog(
                    loop, lambda: [run.batch for run in active_batches(loop)], self._stall_after_s
                )
                self._watchdog.start()
            endpoint = None if self._otlp_endpoint is None else loggable(self._otlp_endpoint)
            known = {"metrics_url": self.metrics_url, "otlp_endpoint": endpoint}
            log_event("info", "runtime.started", **{key: value for key, value in known.items() if value is not None})
            self._shutdown.install()
            if task is not None:
                self._shutdown.bind(loop, task)
            _active.append(self)
            if self._tunes_gc:
                tune_gc()
                self._gc_tuned = True
        except BaseException:
            await self._stop()
            self._shutdown.uninstall()
            raise

    async def _stop(self) -> None:
        """Shut down within the flush timeout, even if an exporter hangs."""
        deadline = time.monotonic() + self._flush_timeout_s
        if self._gc_tuned:
            self._gc_tuned = False
            restore_gc()
        if self in _active:
            _active.remove(self)
        self._shutdown.unbind()
        watchdog, server, traces, logs = self._watchdog, self._server, self._traces, self._logs
        self._watchdog = self._server = self._traces = self._logs = None
        if watchdog is not None:
            _watched.discard(asyncio.get_running_loop())
            watchdog.stop()
        try:
            work: list[Callable[[], None]] = [server.stop] if server is not None else []
            if not _active:  # the last runtime ends the workers; those of batches on other loops go on
                loop = asyncio.get_running_loop()
                pools = [pool for pool in POOLS if pool.loop is None or pool.loop is loop]
                work += [partial(pool.close, 0.5 * self._flush_timeout_s) for pool in pools]
            if traces is not None and traces.pipeline is not None:
                # Less than the whole timeout, so that the count of dropped spans can still be reported.
                work.append(lambda: traces.close(0.9 * self._flush_timeout_s))
            work += self._exporters.closing(0.9 * self._flush_timeout_s)
            await _in_threads(work, deadline)
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
    """Run a coroutine on uvloop inside a `Runtime`: `asyncio.run` with telemetry and signal handling.

    Without uvloop it uses asyncio's own loop.

    Args:
        main: The coroutine, for instance `main()`.
        settings: Passed to `Runtime`.

    Returns:
        The coroutine's result.

    Raises:
        SystemExit: With 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, after the coroutine has ended and
            telemetry was flushed.
        TypeError: `main` is not a coroutine.
        RuntimeError: This thread already runs a loop.

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
            raise RuntimeError("this thread already runs a loop: use `async with flowrt.Runtime(...)` in it")
        runtime = Runtime(**settings)
        shutdown = runtime._shutdown  # noqa: SLF001  # of this module
        # Install before the runner, which then adds no handler of its own, and uninstall after its loop is closed:
        # a task that is left may hang, and a second signal must still end the process.
        shutdown.install()
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                result = runner.run(runtime._run(main))  # noqa: SLF001
        except BaseException as exc:
            ours = shutdown.cancelled and isinstance(exc, asyncio.CancelledError)
            if runtime.exit_code is None or not (ours or is_interruption(exc)):
                raise
            raise SystemExit(runtime.exit_code) from None
        finally:
            shutdown.uninstall()
    finally:
        main.close()  # no "never awaited" warning if it was not started
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
    """Cancel the loop's other tasks, and abandon those that do not end: a runner would wait for them for ever."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if not left:
        return
    for task in left:
        task.cancel()
    _, stuck = await asyncio.wait(left, timeout=GRACE_S)
    for task in stuck:
        asyncio._unregister_task(task)  # noqa: SLF001  # documented for third-party schedulers
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  # it is logged here instead
    if stuck:
        names = sorted(task.get_name() for task in stuck)
        log_event("warning", "shutdown.abandoned", tasks=len(stuck), names=names[:10])


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _in_threads(work: list[Callable[[], None]], deadline: float) -> None:
    """Run each function in a daemon thread and wait for all until the deadline: a pool's threads could delay exit."""
    loop = asyncio.get_running_loop()
    running = [run_in_daemon_thread(loop, each, "flowrt-stop") for each in work]
    if running:
        await asyncio.wait(running, timeout=max(0.0, deadline - time.monotonic()))

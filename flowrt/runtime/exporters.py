"""Exporters of metrics and log events that a Runtime starts: the OpenTelemetry SDK's own, over OTLP."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from flowrt.errors import MissingExtraError
from flowrt.telemetry.logs.setup import LogFormat, LogLevel, LogSetup
from flowrt.telemetry.tracing.setup import resource_of

if TYPE_CHECKING:
    from flowrt.telemetry.logs.otlp_export import LogsExport
    from flowrt.telemetry.metrics.otlp_export import MetricsExport

__all__ = ["Exporters"]

_log: Final = logging.getLogger("flowrt.setup")
_active: Final[list[Any]] = []  # at most one export of metrics, since the process has one set of them
_starting: Final = threading.Lock()  # held while that is checked and started: a Runtime's loop may be in any thread


class Exporters:
    """The exporters of one Runtime.

    Args:
        metrics: `otlp`, or None to read `OTEL_METRICS_EXPORTER`.
        logs: `otlp`, or None to read `OTEL_LOGS_EXPORTER`.

    Raises:
        ValueError: An argument is anything else.
    """

    def __init__(self, metrics: str | None, logs: str | None) -> None:
        self._wants_metrics = _wants("metrics_exporter", metrics)
        self._wants_logs = _wants("logs_exporter", logs)
        self._required = metrics is not None, logs is not None
        self._metrics: MetricsExport | None = None
        self._logs: LogsExport | None = None

    def start(self, service_name: str | None, endpoint: str | None) -> None:
        """Start the selected exporters.

        Args:
            service_name: The resource's `service.name`.
            endpoint: The collector's base URL; None to take it from the environment.

        Raises:
            MissingExtraError: An exporter that an argument asks for is not installed.
        """
        if self._wants_metrics:
            with _starting:
                if not _active:
                    self._metrics = _made(_metrics_export, service_name, endpoint, required=self._required[0])
                    if self._metrics is not None:
                        _active.append(self._metrics)
        if self._wants_logs:
            self._logs = _made(_logs_export, service_name, endpoint, required=self._required[1])

    def set_up_logs(self, log_format: LogFormat | None, level: LogLevel | None) -> LogSetup:
        """Configure logging, with the exporter of log events if there is one.

        Raises:
            ValueError: The format or the level is unknown.
        """
        if self._logs is None:
            return LogSetup(log_format, level)
        setup = LogSetup(log_format, level or "INFO", self._logs, of_process=level is not None)
        if not setup.active:
            _log.warning("logs_exporter='otlp' is ignored: this process has configured its logging already")
        return setup

    def closing(self, timeout_s: float) -> list[Callable[[], None]]:
        """Return functions that export the waiting data and end the exporters. They block: call them in threads.

        Args:
            timeout_s: Longest wait for the collector, in seconds.
        """
        exporters: list[Any] = [each for each in (self._metrics, self._logs) if each is not None]
        if self._metrics in _active:
            _active.clear()
        self._metrics = self._logs = None
        return [partial(each.close, timeout_s) for each in exporters]


def _wants(name: str, choice: str | None) -> bool:
    if choice not in (None, "otlp"):
        raise ValueError(f"{name} must be 'otlp' or None, not {choice!r}")
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not disabled and (choice or os.environ.get(f"OTEL_{name.upper()}", "").strip().lower()) == "otlp"


def _made(make: Callable[..., Any], service_name: str | None, endpoint: str | None, *, required: bool) -> Any:
    try:
        return make(resource_of(service_name), endpoint)
    except MissingExtraError as exc:
        if required:
            raise
        _log.warning("%s", exc)  # the variable may be meant for another library
        return None


def _metrics_export(*arguments: Any) -> MetricsExport:
    from flowrt.telemetry.metrics.otlp_export import MetricsExport  # noqa: PLC0415  # loads the SDK's exporter

    return MetricsExport(*arguments)


def _logs_export(*arguments: Any) -> LogsExport:
    from flowrt.telemetry.logs.otlp_export import LogsExport  # noqa: PLC0415  # loads the SDK's exporter

    return LogsExport(*arguments)

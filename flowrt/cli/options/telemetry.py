"""Options of exported telemetry and logs, and the report of what became of the spans."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import click

from flowrt.cli.exit_codes import say
from flowrt.cli.options.groups import collect, grouped

__all__ = ["ExportMonitor", "LogFormat", "TelemetryOptions", "service_name", "telemetry_options"]

LogFormat = Literal["json", "console"]

_RECORDER: Final = "flowrt.recorder"
_LOGGERS: Final = ("flowrt.setup", "flowrt.export", _RECORDER)


@dataclass(frozen=True, slots=True)
class TelemetryOptions:
    """Options of telemetry and logs.

    Args:
        otlp_endpoint: URL of the collector, or None to take it from the environment.
        service_name: The `service.name` of traces, or None to take it from the environment.
        strict_telemetry: Fail if spans are lost, or a setting cannot be used.
        record: Path of the recording, or None.
        page: Path of the report, or None.
        log_format: Format of log events, or None for none.
        quiet: Print neither progress nor summary.
    """

    otlp_endpoint: str | None
    service_name: str | None
    strict_telemetry: bool
    record: str | None
    page: str | None
    log_format: LogFormat | None
    quiet: bool


def telemetry_options(command: Any) -> Any:
    """Decorate a command with the options of telemetry, which it receives as `telemetry`."""
    option = grouped("Telemetry")
    show = grouped("Display")
    return collect(
        "telemetry",
        TelemetryOptions,
        option("--otlp-endpoint", metavar="URL", help="Send spans to this collector by OTLP."),
        option("--service-name", metavar="NAME", help="Name in traces; OTEL_SERVICE_NAME, or flowrt, by default."),
        option("--strict-telemetry", is_flag=True, help="Exit 6 if spans are lost or a setting is unusable."),
        option("--record", metavar="FILE", help="Record every attempt, for flowrt report and flowrt whatif."),
        option("--report", "page", metavar="PAGE", help="Write an HTML page about the run at its end."),
        show("--log-format", type=click.Choice(["json", "console"]), help="Log events to stderr in this format."),
        show("--quiet", is_flag=True, help="Print neither progress nor summary."),
    )(command)


def service_name(option: str | None, default: str) -> str | None:
    """Return the service name for the runtime; None leaves it to the environment.

    Args:
        option: Value of `--service-name`, which wins over the environment.
        default: Name of the command, used if the environment names no service.
    """
    if option is not None:
        return option
    pairs = [pair.partition("=") for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")]
    named = any(name.strip() == "service.name" and value.strip() for name, _, value in pairs)
    return None if named or os.environ.get("OTEL_SERVICE_NAME", "").strip() else default


class ExportMonitor(logging.Handler):
    """Log handler that prints the warnings about exported telemetry, which the command's log level would drop.

    The loggers limit the rate: each kind of warning is logged once a minute.

    Attributes:
        misconfigured: True if a setting could not be used.
        recording_failed: True if the recording could not be written.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.misconfigured = False
        self.recording_failed = False
        self._pipeline: Any = None
        self._printing = False
        self._attached = False

    @contextmanager
    def watch(self, *, printing: bool) -> Iterator[None]:
        """Receive the warnings of a block.

        Args:
            printing: Print them on stderr; False if the log shows them already.
        """
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        before = [(logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(self)
            logger.setLevel(logging.WARNING)
            logger.propagate = not printing
        self._printing = printing
        try:
            yield
        finally:
            for logger, (level, propagate) in zip(loggers, before, strict=True):
                logger.removeHandler(self)
                logger.setLevel(level)
                logger.propagate = propagate

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning. A warning before the first item is about the configuration."""
        if record.name == _RECORDER:
            self.recording_failed = True
        else:
            self.misconfigured |= not self._attached
        if self._printing:
            say(record.getMessage())

    def attach(self) -> None:
        """Keep the active runtime's span pipeline, whose counters outlive the runtime."""
        from flowrt.telemetry.metrics.store import METRICS  # noqa: PLC0415  # heavy

        self._attached = True
        self._pipeline = METRICS.pipeline

    @property
    def failed(self) -> bool:
        """True if a setting could not be used, or spans were lost."""
        pipeline = self._pipeline
        return self.misconfigured or (pipeline is not None and pipeline.exported < pipeline.ended)

    def summary_rows(self) -> list[tuple[str, str]]:
        """Return the summary's row about exported spans, if any were exported or lost."""
        pipeline = self._pipeline
        if pipeline is None or not pipeline.ended:
            return []
        lost = pipeline.exported < pipeline.ended
        reason = f": {pipeline.last_error or 'the collector took too long'}" if lost else ""
        return [("spans", f"{pipeline.exported:,} of {pipeline.ended:,} delivered{reason}")]

"""Configures structured logging for a process that has none. It leaves existing configuration alone."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import structlog
from structlog.typing import Processor

from flowrt.telemetry.logs.direct import DIRECT, DirectLog, add_trace_ids
from flowrt.telemetry.logs.formatting import add_extra, console_renderer, json_line, one_line_values, order_keys
from flowrt.telemetry.logs.writer_thread import LineSink

__all__ = ["LogFormat", "LogLevel", "LogSetup", "log_settings"]

LogFormat = Literal["json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "debug", "info", "warning", "error", "critical"]
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


_active: Final[list[LogSetup]] = []
_changing: Final = threading.Lock()  # runtimes on loops of several threads may start and end at once


def log_settings() -> dict[str, Any]:
    """Return the settings with which another process logs as this one does; empty if flowrt did not set up logging."""
    if not _active:
        return {}
    return {"log_level": _active[-1].level, "log_level_of_process": _active[-1].of_process}


class LogSetup:
    """Log configuration that writes structured lines to stderr, both from structlog and from `logging`.

    It changes nothing if structlog is configured already. If the root logger has handlers, it changes nothing without
    a `format`; with one, it configures only structlog and flowrt's own loggers.

    Args:
        format: `json`, `console`, or None for `console` on a terminal and `json` elsewhere.
        level: Lowest level that is logged; None for `INFO` where a format is given, and else `WARNING`.
        export: Structlog processor that exports the events, beside the lines on stderr.
        of_process: Whether the level also holds for the process's own loggers of `logging`, unless the root logger has
            a level or handlers of its own. None for whether a level is given: an `INFO` that was not asked for would
            log each request of some libraries.

    Attributes:
        active: True if this object configured logging.
        level: The lowest level that is logged.
        of_process: Whether it also holds for the process's own loggers.

    Raises:
        ValueError: The format or the level is not one of those.
    """

    def __init__(
        self,
        format: LogFormat | None = None,  # noqa: A002  # the API's word
        level: LogLevel | None = None,
        export: Processor | None = None,
        *,
        of_process: bool | None = None,
    ) -> None:
        self.of_process = level is not None if of_process is None else of_process
        if level is None:
            level = "WARNING" if format is None else "INFO"
        if format is not None and format not in get_args(LogFormat):
            raise ValueError(f"log_format must be 'json', 'console' or None, not {format!r}")
        if not isinstance(level, str) or level.upper() not in _LEVELS:
            raise ValueError(f"log_level must be one of {', '.join(_LEVELS)}, not {level!r}")
        self.level = level.upper()
        self._undo: list[Callable[[], None]] = []
        self._sink: LineSink | None = None
        with _changing:
            self.active = (
                sys.stderr is not None  # closed before Python started
                and not structlog.is_configured()
                and (format is not None or not logging.getLogger().handlers)
            )
            if self.active:
                _active.append(self)
                self._set_up(format or ("console" if sys.stderr.isatty() else "json"), self.level, export)

    def _set_up(self, format: LogFormat, level: str, export: Processor | None) -> None:  # noqa: A002
        sink = self._sink = LineSink(sys.stderr)
        # The processors that events of both structlog and logging pass through.
        shared: list[Any] = [
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            add_trace_ids,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ]
        exports: list[Any] = [] if export is None else [export]
        render: list[Any] = [structlog.processors.format_exc_info, order_keys, json_line]
        if format == "console":
            render = [one_line_values, console_renderer(colors=sys.stderr.isatty())]
        structlog.configure(
            processors=[*shared, *exports, *render],
            wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
            logger_factory=lambda *_: _SinkLogger(sink),
            cache_logger_on_first_use=False,  # a cached logger would keep writing to this sink after `close`
        )
        processors = structlog.get_config()["processors"]
        as_json = format != "console" and export is None
        DIRECT.append(DirectLog(processors, getattr(logging, level), sink.write, as_json=as_json))
        self._undo += (structlog.reset_defaults, DIRECT.clear)

        handler = _SinkHandler(sink)
        formatter = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, add_extra, *exports],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
        handler.setFormatter(formatter)
        root, ours = logging.getLogger(), logging.getLogger("flowrt")
        root_is_configured = bool(root.handlers)
        target = ours if root_is_configured else root
        propagate, before, root_before = ours.propagate, ours.level, root.level
        target.addHandler(handler)
        ours.setLevel(level)
        ours.propagate = not root_is_configured
        if self.of_process and not root_is_configured and root_before == logging.WARNING:  # Python's default
            root.setLevel(level)
            self._undo.append(lambda: root.setLevel(root_before))

        def undo() -> None:
            target.removeHandler(handler)
            ours.propagate = propagate
            ours.setLevel(before)

        self._undo.append(undo)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write the queued lines and restore the previous configuration. Later calls do nothing.

        Args:
            timeout_s: Longest wait for stderr, in seconds.
        """
        with _changing:
            while self._undo:
                self._undo.pop()()
            if self in _active:
                _active.remove(self)
        if self._sink is not None:
            self._sink.close(timeout_s)
            self._sink = None


class _SinkLogger:
    """Logger at the end of structlog's chain: writes every event as one line."""

    def __init__(self, sink: LineSink) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = sink.write
        self.log = self.warn = self.fatal = self.exception = self.failure = self.err = sink.write


class _SinkHandler(logging.Handler):
    """Handler of the standard library's records."""

    def __init__(self, sink: LineSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as exc:  # arguments that do not fit the message: log the message without them
            line = json_line(None, "", {"level": record.levelname.lower(), "event": str(record.msg), "broken": exc})
        self._sink.write(line)

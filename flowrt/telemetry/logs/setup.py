"""Sets up structured logging for a process that has none; existing configuration stays as it is."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args

import structlog

from flowrt.telemetry.logs.events import add_trace_ids
from flowrt.telemetry.logs.formatting import console_renderer, first_class, json_line, one_line_values
from flowrt.telemetry.logs.writer_thread import LineSink

__all__ = ["LogFormat", "LogLevel", "LogSetup"]

LogFormat = Literal["json", "console"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class LogSetup:
    """Structured lines on stderr, from structlog and from the standard library's logging alike.

    A structlog that is configured stays as it is. So does a logging whose root logger has handlers, where no format
    is asked for; where one is, it holds for flowrt's own loggers and for structlog.

    Args:
        format: `json`, `console`, or None for `console` on a terminal and `json` elsewhere.
        level: The least that is logged.

    Attributes:
        active: Whether there was anything to set up.

    Raises:
        ValueError: The format or the level is not one of those.
    """

    def __init__(self, format: LogFormat | None = None, level: str = "INFO") -> None:  # noqa: A002  # the API's word
        if format is not None and format not in get_args(LogFormat):
            raise ValueError(f"log_format must be 'json', 'console' or None, not {format!r}")
        if not isinstance(level, str) or level.upper() not in get_args(LogLevel):
            raise ValueError(f"log_level must be one of {', '.join(get_args(LogLevel))}, not {level!r}")
        self.active = (
            sys.stderr is not None  # closed before Python started
            and not structlog.is_configured()
            and (format is not None or not logging.getLogger().handlers)
        )
        self._undo: list[Callable[[], None]] = []
        self._sink: LineSink | None = None
        if self.active:
            self._set_up(format or ("console" if sys.stderr.isatty() else "json"), level.upper())

    def _set_up(self, format: LogFormat, level: str) -> None:  # noqa: A002
        sink = self._sink = LineSink(sys.stderr)
        # What an event goes through, whichever of the two ways it came.
        shared: list[Any] = [
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            add_trace_ids,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ]
        render: list[Any] = [structlog.processors.format_exc_info, first_class, json_line]
        if format == "console":
            render = [one_line_values, console_renderer(colors=sys.stderr.isatty())]
        structlog.configure(
            processors=[*shared, *render],
            wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
            logger_factory=lambda *_: _SinkLogger(sink),
            cache_logger_on_first_use=False,  # loggers that are kept must not outlive this
        )
        self._undo.append(structlog.reset_defaults)

        handler = _SinkHandler(sink)
        formatter = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
        handler.setFormatter(formatter)
        root, ours = logging.getLogger(), logging.getLogger("flowrt")
        shy = bool(root.handlers)
        target = ours if shy else root
        propagate, before = ours.propagate, ours.level
        target.addHandler(handler)
        ours.setLevel(level)
        ours.propagate = not shy

        def undo() -> None:
            target.removeHandler(handler)
            ours.propagate = propagate
            ours.setLevel(before)

        self._undo.append(undo)

    def close(self, timeout_s: float = 1.0) -> None:
        """Write out what was logged and put everything back. Later calls do nothing.

        Args:
            timeout_s: How long to wait for stderr at most, in seconds.
        """
        while self._undo:
            self._undo.pop()()
        if self._sink is not None:
            self._sink.close(timeout_s)
            self._sink = None


class _SinkLogger:
    """What structlog ends in: every level is one line."""

    def __init__(self, sink: LineSink) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = sink.write
        self.log = self.warn = self.fatal = self.exception = self.failure = self.err = sink.write


class _SinkHandler(logging.Handler):
    """What logging ends in."""

    def __init__(self, sink: LineSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as exc:  # arguments that do not fit the message: the message alone says more than nothing
            line = json_line(None, "", {"level": record.levelname.lower(), "event": str(record.msg), "broken": exc})
        self._sink.write(line)

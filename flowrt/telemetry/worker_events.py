"""Events of worker processes in this process's logs, and the telemetry settings that workers take over.

A worker's standard error arrives line by line. A line of structured logging is logged as the same event in this
process; any other line becomes the event `worker.stderr`, at most 20 at once and one per second after that.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

from flowrt.executors.workers import LISTENERS, SETTINGS
from flowrt.telemetry.logs.events import Allowance, log_event

__all__ = ["connect_workers"]

_LEVELS: Final = frozenset({"debug", "info", "warning", "error"})
_allowances: Final[dict[str, Allowance]] = {}  # by worker


def connect_workers() -> None:
    """Log the events of workers, and give workers this process's telemetry settings."""
    if _log not in LISTENERS:
        LISTENERS.append(_log)
        SETTINGS.append(_settings)


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = {}
    # looked up where they are loaded: a process without a Runtime has set up neither
    if (tracing := sys.modules.get("flowrt.telemetry.tracing.setup")) is not None:
        settings.update(tracing.export_settings())
    if (logs := sys.modules.get("flowrt.telemetry.logs.setup")) is not None:
        settings.update(logs.log_settings())
    return settings


def _log(level: str, event: str, fields: dict[str, Any]) -> None:
    if event != "worker.stderr":
        log_event(level, event, **fields)
        return
    worker = fields["worker"]
    structured = _parse(fields["line"])
    if structured is not None:
        own_level, own_event = structured.pop("level"), structured.pop("event")
        structured.pop("timestamp", None)
        log_event(own_level if own_level in _LEVELS else "error", own_event, **{"worker": worker, **structured})
        return
    now = time.monotonic_ns()
    allowance = _allowances.setdefault(worker, Allowance(now))
    if allowance.take(now):
        if allowance.suppressed:
            fields = {**fields, "suppressed": allowance.suppressed}
            allowance.suppressed = 0
        log_event("info", event, **fields)


def _parse(line: str) -> dict[str, Any] | None:
    """Return the event in a line of JSON that structured logging wrote, or None."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    known = isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("level"), str)
    return {str(name): value for name, value in event.items()} if known else None

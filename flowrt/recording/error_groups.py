"""Groups failures by cause: the error type, and the message without the parts that vary."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from flowrt.model import BatchResult, ItemRecord
from flowrt.policies.error_classification import kind_of, status_of
from flowrt.telemetry.redaction import redact_of

__all__ = ["NO_CAUSE", "ErrorGroups", "template_of"]

NO_CAUSE: Final = -1

_MOST: Final = 200  # groups; failures beyond them share one more
_MAX_TEXTS: Final = 4096  # messages whose group is cached
_EXAMPLES: Final = 3
_TEMPLATE_CHARS: Final = 200
_EXAMPLE_CHARS: Final = 500
_MARGIN_CHARS: Final = 500  # redacted too, so that a secret at the cut is recognized
_OTHER: Final = ("_OTHER", "further causes, not separated")

# The parts that vary between messages of one cause: quoted values, URLs, ids, numbers.
_DIFFERS: Final = re.compile(
    r"""(?P<quoted>'[^']*'|"[^"]*")|(?P<url>\b[a-z]+://\S+)|(?P<id>\b(?:0x)?[0-9a-fA-F]{8}(?:[0-9a-fA-F-]{0,64}))\b|(?P<number>\d+(?:[.,:]\d+)*)"""
)
_SHOWN: Final = {"quoted": "'…'", "url": "URL", "id": "ID", "number": "N"}


def template_of(text: str, http_status: int | None) -> str:
    """Return an error message without the parts that vary between items of the same cause.

    Args:
        text: The message.
        http_status: HTTP status of the exception. It stays in the message: it is part of the cause.
    """

    def placeholder(found: re.Match[str]) -> str:
        return found[0] if found[0] == str(http_status) else _SHOWN[found.lastgroup or "number"]

    return _DIFFERS.sub(placeholder, text[:_TEMPLATE_CHARS])


class ErrorGroups:
    """Assigns failures to numbered groups, and keeps a few examples of each. Their texts are redacted.

    Attributes:
        found: The groups by number, as dicts that JSON can represent.
    """

    __slots__ = ("_by_text", "_numbers", "found")

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._by_text: dict[tuple[str | None, str, str], tuple[int, str]] = {}

    def number_of(self, item: BatchResult) -> int:
        """Assign a failed attempt to its group, and return the group's number.

        Args:
            item: The item whose attempt has just failed.
        """
        text = (item.error or "")[: _EXAMPLE_CHARS + _MARGIN_CHARS]
        key = (item.error_type, item.status, text)
        known = self._by_text.get(key)
        if known is None:
            shown = redact_of(item.batch if isinstance(item, ItemRecord) else None)(text)[:_EXAMPLE_CHARS]
            known = self._find(item, shown), shown
            if len(self._by_text) >= _MAX_TEXTS:  # bounds the memory if every message is different
                self._by_text.clear()
            self._by_text[key] = known
        number, shown = known
        cause = self.found[number]
        cause["count"] += 1
        if len(cause["examples"]) < _EXAMPLES:
            cause["examples"].append(
                {"index": item.index, "attempt": item.attempts, "error": shown, "trace_id": item.trace_id}
            )
        return number

    def _find(self, item: BatchResult, text: str) -> int:
        exception = item.exception
        status = None if exception is None else status_of(exception)

        shown = text[:_TEMPLATE_CHARS]
        template = template_of(text, status)
        key = (item.error_type or "Error", template)
        number = self._numbers.get(key)
        if number is None and len(self.found) >= _MOST:
            key = _OTHER
            number = self._numbers.get(key)
        if number is not None:
            self.found[number]["text"] = key[1]  # messages differ: show the template instead of the first one
        else:
            number = self._numbers[key] = len(self.found)
            timed_out = item.status == "timed_out"
            self.found.append(
                {
                    "type": key[0],
                    "text": shown if key[1] == template else key[1],
                    "kind": "timeout" if timed_out else "error" if exception is None else kind_of(exception),
                    "http_status": status,
                    "where": None if exception is None or timed_out else _where(exception.__traceback__),
                    "raised": exception is not None,
                    "count": 0,
                    "examples": [],
                }
            )
        return number


def _where(traceback: TracebackType | None) -> str | None:
    """Innermost line of a traceback, as `file.py:12 in function`."""
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{traceback.tb_lineno} in {code.co_qualname}"

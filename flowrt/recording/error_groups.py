"""Failures grouped by what caused them: the error's type, and its message without the parts that differ each time."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from flowrt.model import BatchResult
from flowrt.policies.error_classification import kind_of, status_of

__all__ = ["NO_CAUSE", "Causes"]

NO_CAUSE: Final = -1

_MOST: Final = 200  # causes told apart; what comes after them is one more
_MOST_TEXTS: Final = 4096  # messages whose cause is remembered
_EXAMPLES: Final = 3
_TEMPLATE_CHARS: Final = 200
_EXAMPLE_CHARS: Final = 500
_OTHER: Final = ("_OTHER", "further causes, not told apart")

# what makes two messages of one cause different: quoted values, addresses, ids, numbers
_DIFFERS: Final = re.compile(
    r"""(?P<quoted>'[^']*'|"[^"]*")|(?P<url>\b[a-z]+://\S+)|(?P<id>\b(?:0x)?[0-9a-fA-F]{8}(?:[0-9a-fA-F-]{0,64}))\b|(?P<number>\d+(?:[.,:]\d+)*)"""
)
_SHOWN: Final = {"quoted": "'…'", "url": "URL", "id": "ID", "number": "N"}


class Causes:
    """Gives each failure the number of its cause, and keeps a few examples of each.

    Attributes:
        found: The causes, by their numbers: dicts that JSON can hold.
    """

    __slots__ = ("_by_text", "_numbers", "found")

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._by_text: dict[tuple[str | None, str, str], int] = {}

    def number_of(self, item: BatchResult) -> int:
        """The number of what made an attempt fail; the attempt counts, and may be an example.

        Args:
            item: It has just failed.
        """
        text = (item.error or "")[:_EXAMPLE_CHARS]
        key = (item.error_type, item.status, text)
        number = self._by_text.get(key)
        if number is None:
            number = self._find(item, text)
            if len(self._by_text) >= _MOST_TEXTS:  # messages that never come twice need not be remembered
                self._by_text.clear()
            self._by_text[key] = number
        cause = self.found[number]
        cause["count"] += 1
        if len(cause["examples"]) < _EXAMPLES:
            cause["examples"].append(
                {"index": item.index, "attempt": item.attempts, "error": text, "trace_id": item.trace_id}
            )
        return number

    def _find(self, item: BatchResult, text: str) -> int:
        exception = item.exception
        status = None if exception is None else status_of(exception)

        def placeholder(found: re.Match[str]) -> str:
            # the status of a response says what happened, and is no value that differs each time
            return found[0] if found[0] == str(status) else _SHOWN[found.lastgroup or "number"]

        shown = text[:_TEMPLATE_CHARS]
        template = _DIFFERS.sub(placeholder, shown)
        key = (item.error_type or "Error", template)
        number = self._numbers.get(key)
        if number is None and len(self.found) >= _MOST:
            key = _OTHER
            number = self._numbers.get(key)
        if number is not None:
            self.found[number]["text"] = key[1]  # the message differs
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
    """The innermost line of code, as `file.py:12 in function`."""
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{traceback.tb_lineno} in {code.co_qualname}"

"""Text that every telemetry format can hold."""

from __future__ import annotations

from typing import Final

__all__ = ["clean", "label"]

_LABEL_CHARS: Final = 200


def clean(text: str) -> str:
    r"""The text with lone surrogates written out as `\udc80`: UTF-8 cannot hold them, and one spoils a whole page."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8") if not text.isascii() else text


def label(text: str) -> str:
    """A label value: clean, and of a length that a series can bear."""
    text = clean(text)
    return text if len(text) <= _LABEL_CHARS else text[: _LABEL_CHARS - 1] + "…"

"""Text for telemetry labels: valid UTF-8 of bounded length."""

from __future__ import annotations

from typing import Final

__all__ = ["clean", "label"]

_LABEL_CHARS: Final = 200


def clean(text: str) -> str:
    r"""Escape lone surrogates as `\udc80`. UTF-8 cannot encode them, so one would break a whole page."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8") if not text.isascii() else text


def label(text: str) -> str:
    """Make a label value: clean text of at most 200 characters."""
    text = clean(text)
    return text if len(text) <= _LABEL_CHARS else text[: _LABEL_CHARS - 1] + "…"

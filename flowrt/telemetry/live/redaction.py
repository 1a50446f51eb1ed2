"""Redaction: removes probable secrets from error texts before they are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from flowrt._util.labels import clean

__all__ = ["redact"]

_MAX_CHARS: Final = 1_000
_MASK: Final = "[redacted]"
_SECRET_NAME: Final = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[-_ ]?key|access[-_ ]?key|key|auth(?:orization)?|credentials?|cookie|session|signature|sig)"  # noqa: E501, S105
_NAMED: Final = re.compile(
    rf"""((?:\b|_){_SECRET_NAME}["']?\s*[:=]\s*)(?:(?:bearer|basic)\s+)?("[^"]*"|'[^']*'|[^\s,;&"')\]}}]+)""",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_URL: Final = re.compile(r"""\b([a-z][a-z0-9+.-]*://)([^\s/@'"]*@)?([^\s?#'"<>]*)(\?[^\s#'"<>]*)?""", re.IGNORECASE)
_BLOCK: Final = re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL)
_LONG: Final = re.compile(r"(?<![\w./\\-])(?!0x)[A-Za-z0-9_+=-]{16,}(?![\w./\\])")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_SECRET_VARIABLE: Final = re.compile(r"pass|_pwd|secret|token|key|auth|credential|cookie|dsn", re.IGNORECASE)
_MIN_VALUE_CHARS: Final = 6


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the text without probable secrets, cut to 1,000 characters.

    Removed are: values of environment variables whose names suggest a secret, `password=...` and similar pairs, bearer
    and basic credentials, the user and the query of a URL, PEM blocks, and long words that mix letters and digits as
    generated keys do. UUIDs stay.

    Args:
        text: An error message or a stack.
        environment: Environment variables whose values may be secrets.

    Example:
        >>> redact("401 for https://me:pw@example.com/v1?key=abc: token=s3cr3t")
        '401 for https://[redacted]@example.com/v1?[redacted] token=[redacted]'
    """
    text = clean(text[: 2 * _MAX_CHARS])
    for name in list(environment):
        value = environment.get(name, "")  # another thread may have removed it
        if len(value) >= _MIN_VALUE_CHARS and value in text and _SECRET_VARIABLE.search(name) and value[0] != os.sep:
            text = text.replace(value, _MASK)
    text = _BLOCK.sub(_MASK, text)
    text = _URL.sub(_without_user_and_query, text)
    text = _NAMED.sub(rf"\1{_MASK}", text)
    text = _SCHEME.sub(rf"\1 {_MASK}", text)
    text = _LONG.sub(_without_keys, text)
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 1]}…"


def _without_user_and_query(found: re.Match[str]) -> str:
    scheme, user, rest, query = found.groups()
    return f"{scheme}{f'{_MASK}@' if user else ''}{rest}{f'?{_MASK}' if query else ''}"


def _without_keys(found: re.Match[str]) -> str:
    word = found[0]
    digits = sum(map(str.isdigit, word))
    generated = digits >= 4 and any(map(str.isalpha, word)) and not _UUID.fullmatch(word)
    return _MASK if generated else word

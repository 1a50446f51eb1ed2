"""Redaction: removes probable secrets from texts before telemetry shows them: log events, spans, pages, reports."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Final, NamedTuple

from flowrt._util.labels import clean
from flowrt.model import BatchRecord

__all__ = ["Redact", "redact", "redact_of", "safe_redact", "shorten"]

Redact = Callable[[str], str]
"""Function that returns a text without its secrets."""

_MAX_CACHED: Final = 64
_MAX_CACHED_CHARS: Final = 16_384
_MASK: Final = "[redacted]"
_FAILED: Final = "[redact() failed]"
_SECRET_NAME: Final = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[-_ ]?key|access[-_ ]?key|key|auth(?:orization)?|credentials?|cookie|session|signature|sig)"  # noqa: E501, S105
_NAME_ENDS: Final = (
    "pass", "password", "passwd", "passphrase", "pwd", "secret", "token", "key", "auth", "authorization", "credential",
    "credentials", "cookie", "session", "signature", "sig",
)  # fmt: skip
_MIN_VALUE_CHARS: Final = 6


class _Patterns(NamedTuple):
    """Patterns of secrets, compiled at the first failure: `import flowrt` must not take the 5 ms for it.

    Each one takes time in proportion to the text: a run of characters is tried at its start alone, and is not given up
    character by character.
    """

    separator: re.Pattern[str]
    named: re.Pattern[str]
    scheme: re.Pattern[str]
    url: re.Pattern[str]
    block: re.Pattern[str]
    long: re.Pattern[str]
    uuid: re.Pattern[str]
    secret_variable: re.Pattern[str]


@cache
def _patterns() -> _Patterns:
    return _Patterns(
        separator=re.compile(r"""["']?\s*[:=]"""),
        named=re.compile(
            rf"""((?:\b|_){_SECRET_NAME}["']?\s*[:=]\s*)(?:(?:bearer|basic)\s+)?("[^"]*"|'[^']*'|[^\s,;&"')\]}}]+)""",
            re.IGNORECASE,
        ),
        scheme=re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
        url=re.compile(
            r"""(?<![a-z0-9+.-])([a-z0-9+.-]*+://)([^\s/@'"]*+@)?([^\s?#'"<>]*+)(\?[^\s#'"<>]*+)?""", re.IGNORECASE
        ),
        block=re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.DOTALL),
        long=re.compile(r"[A-Za-z0-9_+=-]{16,}+"),
        uuid=re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE),
        secret_variable=re.compile(r"pass|_pwd|secret|token|key|auth|credential|cookie|dsn", re.IGNORECASE),
    )


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the text without probable secrets.

    Removed are: values of environment variables whose names suggest a secret, `password=...` and similar pairs, bearer
    and basic credentials, the user and the query of a URL, PEM blocks, and long words that mix letters and digits as
    generated keys do. UUIDs stay.

    Args:
        text: An error message or a stack.
        environment: Environment variables whose values may be secrets; the process's by default.

    Example:
        >>> redact("401 for https://me:pw@example.com/v1?key=abc token=s3cr3t")
        '401 for https://[redacted]@example.com/v1?[redacted] token=[redacted]'
    """
    text, secrets = clean(text), _environment.secrets() if environment is None else _secrets_of(environment)
    return (_redacted if len(text) > _MAX_CACHED_CHARS else _redacted_before)(text, secrets)


def safe_redact(function: Redact | None) -> Redact:
    """Return a function that redacts a text and cannot fail.

    A text that the given function fails on is replaced as a whole: the secret must not appear because of the failure.

    Args:
        function: The user's function, or None for no redaction. In either case the result is valid UTF-8.
    """
    if function is redact:
        return redact
    if function is None:
        return clean

    def safely(text: str) -> str:
        try:
            return clean(function(text))
        except Exception:
            return _FAILED

    return safely


def redact_of(batch: BatchRecord | None) -> Redact:
    """Return the function that redacts a batch's texts.

    Args:
        batch: The batch's record; None where it is not known.
    """
    return redact if batch is None or batch.redact is None else batch.redact


def shorten(text: str, most: int = 1_000) -> str:
    """Cut a text to a number of characters.

    Args:
        text: The text.
        most: Longest result, in characters.
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _redacted(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, _MASK)
    # Each pattern is preceded by a search for constant text, which takes a hundredth of its time.
    patterns, lowered = _patterns(), text.lower()
    if "-----begin" in lowered:
        text = patterns.block.sub(_MASK, text)
    if "://" in text:
        text = patterns.url.sub(_without_user_and_query, text)
    if any(_is_assigned(name, lowered) for name in _NAME_ENDS):
        text = patterns.named.sub(rf"\1{_MASK}", text)
    if "bearer" in lowered or "basic" in lowered:
        text = patterns.scheme.sub(rf"\1 {_MASK}", text)
    return patterns.long.sub(_without_keys, text)


_redacted_before: Final = lru_cache(_MAX_CACHED)(_redacted)  # failures come in series, with the same text


class _Environment:
    """Secrets in the process's environment, found again when the environment has changed."""

    def __init__(self) -> None:
        self._seen: dict[object, object] = {}
        self._secrets: tuple[str, ...] = ()

    def secrets(self) -> tuple[str, ...]:
        # Comparing the encoded variables takes 1 µs, decoding and searching them 30 µs.
        encoded = getattr(os.environ, "_data", None)
        if encoded is None or encoded != self._seen:
            self._seen = {} if encoded is None else encoded.copy()
            self._secrets = _secrets_of(os.environ)
        return self._secrets


_environment: Final = _Environment()


def _secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    for name in list(environment):
        value = environment.get(name, "")  # another thread may have removed it
        if len(value) >= _MIN_VALUE_CHARS and value[0] != os.sep and _patterns().secret_variable.search(name):
            found.append(value)
    return tuple(found)


def _without_user_and_query(found: re.Match[str]) -> str:
    scheme, user, rest, query = found.groups()
    return f"{scheme}{f'{_MASK}@' if user else ''}{rest}{f'?{_MASK}' if query else ''}"


def _is_assigned(name: str, lowered: str) -> bool:
    """True if the name occurs with a `:` or a `=` behind it."""
    at = lowered.find(name)
    while at >= 0:
        if _patterns().separator.match(lowered, at + len(name)):
            return True
        at = lowered.find(name, at + 1)
    return False


def _without_keys(found: re.Match[str]) -> str:
    word = found[0]
    if sum(map(str.isdigit, word)) < 4 or not any(map(str.isalpha, word)) or word.startswith("0x"):
        return word
    start, end, text = found.start(), found.end(), found.string
    is_part = _continues(text[max(0, start - 2) : start][::-1]) or _continues(text[end : end + 2])
    return word if is_part or _patterns().uuid.fullmatch(word) else _MASK


def _continues(beside: str) -> bool:
    """Return whether a word continues in the characters beside it: a path, a dotted name, or non-ASCII letters."""
    char = beside[:1]
    return char.isalnum() or char in ("/", "\\") or (char == "." and not beside[1:].isspace() and beside != ".")

"""Inputs elsewhere: URLs such as s3://bucket/in.jsonl, opened by fsspec."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from flowrt.cli.exit_codes import BAD_USAGE, UNREADABLE_INPUT, CommandError
from flowrt.errors import MissingExtraError

__all__ = ["expand_url", "open_url", "url_blocks"]

_BLOCK_BYTES: Final = 1024 * 1024
_CHATTY: Final = ("gcsfs", "google.auth")
_GOOGLE: Final = "credentials: GOOGLE_APPLICATION_CREDENTIALS or gcloud's login; endpoint: STORAGE_EMULATOR_HOST"
_SETTINGS: Final = {
    "s3": "credentials: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; endpoint: AWS_ENDPOINT_URL",
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
}


def expand_url(url: str) -> list[str]:
    """Expand a pattern such as s3://bucket/part-*.jsonl; return any other URL as it is.

    A question mark in an HTTP URL begins its query, and servers list no files: these URLs are never patterns.

    Args:
        url: The URL or pattern.

    Returns:
        URLs in alphabetical order.

    Raises:
        CommandError: Nothing matches, or the files cannot be listed.
        MissingExtraError: fsspec is not installed.
    """
    if not glob.has_magic(url) or url.startswith(("http://", "https://")):
        return [url]
    with _errors(url, "listed"):
        files, path = _located(url)
        found = [url] if files.exists(path) else sorted(map(files.unstrip_protocol, files.glob(path)))
    if not found:
        raise CommandError(f"input {url!r} matches no file")
    return found


def open_url(url: str) -> IO[bytes]:
    """Open a file elsewhere for reading.

    Args:
        url: Its URL.

    Raises:
        CommandError: The file does not exist, or the server or its credentials do not let it be opened.
        MissingExtraError: fsspec is not installed.
    """
    with _errors(url, "opened"):
        files, path = _located(url)
        file: IO[bytes] = files.open(path, "rb")
        return file


def url_blocks(file: IO[bytes], url: str, stopped: list[bool]) -> Iterator[bytes]:
    """Yield the content of an opened file in blocks.

    Args:
        file: The file.
        url: Its URL for messages.
        stopped: Ends the iteration after the current block once it is not empty.

    Raises:
        CommandError: The file cannot be read any further.
    """
    while not stopped:
        with _errors(url, "read"):
            block = file.read(_BLOCK_BYTES)
        if not block:
            return
        yield block


def _located(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it."""
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("input from a URL", "fsspec", "files") from None
    files, path = url_to_fs(url)
    return files, path


@contextmanager
def _errors(url: str, verb: str) -> Iterator[None]:
    """Turn the errors of fsspec and of its file systems into one line with the exit code that fits."""
    # gcsfs logs each error that it raises with a traceback, and each object that it reads without credentials
    levels = [(logger, logger.level) for logger in map(logging.getLogger, _CHATTY)]
    try:
        for logger, _ in levels:
            logger.setLevel(logging.CRITICAL)
        yield
    except (CommandError, MissingExtraError):
        raise
    except ImportError as exc:  # s3fs or gcsfs, which the message names
        raise CommandError(f"{url} cannot be {verb}: {exc}") from exc
    except Exception as exc:
        cause = exc
        if isinstance(exc, FileNotFoundError) and isinstance(exc.__cause__, Exception):
            cause = exc.__cause__  # of an HTTP request, be it a status, no connection or no permission
        if _is_missing(cause):
            raise CommandError(f"input {url!r} does not exist", BAD_USAGE) from exc
        settings = _SETTINGS.get(url.partition("://")[0])
        hint = f" ({settings})" if settings else ""
        raise CommandError(f"{url} cannot be {verb}: {type(cause).__name__}: {cause}{hint}", UNREADABLE_INPUT) from exc
    finally:
        for logger, level in levels:
            logger.setLevel(level)


def _is_missing(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError) or getattr(error, "status", None) == 404:
        return True
    response = getattr(error, "response", None)  # of botocore
    return isinstance(response, dict) and response.get("Error", {}).get("Code") in ("404", "NoSuchBucket", "NoSuchKey")

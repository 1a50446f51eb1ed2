"""Exceptions that flowrt raises, and helpers for error texts."""

from __future__ import annotations

import importlib
import signal
from typing import TYPE_CHECKING, Any, ClassVar

__all__ = [
    "ClusterLostError",
    "ExecutorFailedError",
    "FlowrtError",
    "Interrupted",
    "JournalDamagedError",
    "JournalDiskError",
    "JournalError",
    "JournalInUseError",
    "JournalMismatchError",
    "MissingExtraError",
    "WorkerCrashed",
    "error_text",
    "error_type_of",
    "one_line",
]


class FlowrtError(Exception):
    """Base class of the exceptions that flowrt itself raises."""


class MissingExtraError(FlowrtError, ImportError):
    """A feature needs a package of one of flowrt's extras, which is not installed.

    Args:
        feature: The feature, as the subject of the message's sentence.
        package: The missing package.
        extra: The extra that installs it.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: pip install 'flowrt[{extra}]'")
        self._arguments = feature, package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), self._arguments


class ExecutorFailedError(FlowrtError):
    """The executor can run no further attempt, for instance because its workers do not start. The batch ends."""


class ClusterLostError(ExecutorFailedError):
    """The cluster that ran the attempts is gone. The batch ends; with a journal, it can be resumed."""


class WorkerCrashed(FlowrtError):  # noqa: N818  # what happened, as the documentation names it
    """The worker process of an item died during each attempt at the item.

    Args:
        message: How the last worker ended.
        how: Signal or exit status of the last worker, such as "SIGSEGV" or "exit status 3".
        last_lines: Last lines of its standard error.
    """

    def __init__(self, message: str, how: str = "", last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.how = how
        self.last_lines = last_lines

    def __reduce__(self) -> tuple[type[WorkerCrashed], tuple[str, str, tuple[str, ...]]]:
        return type(self), (str(self), self.how, self.last_lines)


class Interrupted(BaseException):
    """A signal ended a batch; raised in the batch's caller when the items in flight have ended.

    It is a BaseException, so that `except Exception` does not handle an interruption as a failure. It is not a
    KeyboardInterrupt, which would stop the event loop when raised in a task. `flowrt.run` and `Runtime` turn it into
    the exit code 128 + `signum`.

    Args:
        signum: Number of the signal.
        results: The results so far.

    Attributes:
        signum: Number of the signal.
        results: The batch's `BatchResults`, with one result per input that was read or is of known number; for a
            stream, the results that it has not yielded.
    """

    def __init__(self, signum: int, results: Any) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum
        self.results = results

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, Any]]:
        return type(self), (self.signum, self.results)


class JournalError(FlowrtError):
    """Base class of the errors of a journal that cannot be used.

    Attributes:
        exit_code: Exit code of a command that fails with this error.
    """

    exit_code: ClassVar[int]


class JournalMismatchError(JournalError):
    """The journal belongs to another run: the input, the node or a setting in its fingerprint differs."""

    exit_code = 3


class JournalDamagedError(JournalError):
    """The journal is damaged before its end: it holds bytes that flowrt did not write.

    Args:
        message: The damage and the remedy.
        offset: Start of the damage, in bytes from the start of the file.
    """

    exit_code = 4

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset

    def __reduce__(self) -> tuple[type[JournalDamagedError], tuple[str, int]]:
        return type(self), (str(self), self.offset)


class JournalDiskError(JournalError):
    """The disk failed to write or sync the journal; nothing more is written to the file."""

    exit_code = 5


class JournalInUseError(JournalError):
    """Another run holds the journal."""

    exit_code = 75


def error_text(error: object) -> str:
    """Return the message of an error, never empty, even if its `__str__` raises.

    Args:
        error: An exception, or the `error` of a node's result.
    """
    try:
        text = str(error) if error is not None else ""
    except Exception as broken:  # a broken __str__ must not lose the item's outcome
        return f"{type(error).__name__} (its message could not be read: __str__ raised {type(broken).__name__})"
    if text.strip():
        return text
    if isinstance(error, BaseException):
        return type(error).__name__
    return "the node reported a failure without an error message"


def error_type_of(error: object) -> str:
    """Return the name of an error for spans, metrics, logs and results: the exception's class.

    Args:
        error: An exception, or the `error` of a node's result.
    """
    return type(error).__name__ if isinstance(error, BaseException) else "ItemFailedError"


def one_line(text: object) -> str:
    """Return the text on one line: line breaks become `; `, control characters become spaces."""
    return "".join(c if c.isprintable() else " " for c in str(text).replace("\n", "; ")).strip()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Return `ItemFailedError`, which is defined beside `BatchResult`."""
        if name == "ItemFailedError":
            return importlib.import_module("flowrt.model.result").ItemFailedError
        raise AttributeError(f"module 'flowrt.errors' has no attribute {name!r}")

"""Every exception that flowrt raises on purpose."""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "FlowrtError",
    "JournalDamagedError",
    "JournalDiskError",
    "JournalError",
    "JournalInUseError",
    "JournalMismatchError",
    "MissingExtraError",
    "error_text",
    "one_line",
]


class FlowrtError(Exception):
    """Base of the exceptions that flowrt itself raises."""


class MissingExtraError(FlowrtError, ImportError):
    """A feature needs a package that comes with one of flowrt's extras.

    Args:
        feature: What was asked for, as the subject of a sentence.
        package: The package that is missing.
        extra: The extra that installs it.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: pip install 'flowrt[{extra}]'")


class JournalError(FlowrtError):
    """A journal cannot be used; the base of the four ways in which that happens.

    Attributes:
        exit_code: How a command ends that needs the journal.
    """

    exit_code: ClassVar[int]


class JournalMismatchError(JournalError):
    """The journal belongs to another run: its input, its node or a setting that matters is another."""

    exit_code = 3


class JournalDamagedError(JournalError):
    """The journal holds bytes that nobody wrote, before its end.

    Args:
        message: What was found, and what to do.
        offset: Where the damage begins, in bytes from the start of the file.
    """

    exit_code = 4

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset

    def __reduce__(self) -> tuple[type[JournalDamagedError], tuple[str, int]]:
        return type(self), (str(self), self.offset)


class JournalDiskError(JournalError):
    """The disk would not take or keep what the journal wrote; nothing more is written to it."""

    exit_code = 5


class JournalInUseError(JournalError):
    """Another run holds the journal."""

    exit_code = 75


def error_text(error: object) -> str:
    """The message of an error, never empty, whatever its `__str__` does.

    Args:
        error: An exception, or what a node gave as its `error`.
    """
    try:
        text = str(error) if error is not None else ""
    except Exception as broken:  # a message that cannot be made must not take the item's outcome with it
        return f"{type(error).__name__} (its message could not be read: __str__ raised {type(broken).__name__})"
    if text.strip():
        return text
    if isinstance(error, BaseException):
        return type(error).__name__
    return "the node reported a failure without an error message"


def one_line(text: object) -> str:
    """The text without line breaks and control characters, whatever it holds."""
    return "".join(c if c.isprintable() else " " for c in str(text).replace("\n", "; ")).strip()

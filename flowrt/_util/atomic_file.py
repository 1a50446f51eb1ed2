"""Writing a file that only its owner may read, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from flowrt.errors import FlowrtError

__all__ = ["DiskFailedError", "OutputFile", "write_private"]


def write_private(path: Path, text: str) -> None:
    """Write a file beside its place and move it there.

    Args:
        path: One that exists is replaced.
        text: What it is to hold.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as opened:
            opened.write(text)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


class DiskFailedError(Exception):
    """What was written is not all on the disk; the rest stays under the temporary name."""


class OutputFile:
    """A file that is written as `<output>.partial` beside its final name.

    Args:
        path: The final name; its folder is made.
        replace: Whether a file of that name may be replaced.

    Attributes:
        path: The final name.
        partial: The name until it is complete.

    Raises:
        FlowrtError: The output exists, is a folder, or cannot be made.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        if path.is_dir():
            raise FlowrtError(f"output {path} is a folder: name a file")
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        if path.exists() and not replace:
            raise FlowrtError(f"output {path} exists: name another file, or remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("wb")
        except OSError as exc:
            raise FlowrtError(f"output {path} cannot be written: {exc.strerror}") from exc
        self._failed = False

    def write(self, line: bytes) -> None:
        """Take one line; it is buffered.

        Raises:
            DiskFailedError: It cannot be written.
        """
        try:
            self._file.write(line)
        except OSError as exc:
            raise self._disk_failed(exc) from exc

    def close(self, *, complete: bool) -> None:
        """Write out what is buffered. Later calls do nothing.

        Args:
            complete: Whether it is all there, so that the file takes its final name.

        Raises:
            DiskFailedError: It cannot be written.
        """
        if self._file.closed:
            return
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            if complete:
                self.partial.replace(self.path)
            elif not self.partial.stat().st_size:
                self.partial.unlink()
        except OSError as exc:
            if not self._failed:
                raise self._disk_failed(exc) from exc

    def _disk_failed(self, exc: OSError) -> DiskFailedError:
        self._failed = True
        return DiskFailedError(f"{self.partial} cannot be written: {exc.strerror or exc}")

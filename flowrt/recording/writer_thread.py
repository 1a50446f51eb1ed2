"""The thread that encodes row groups and puts the file into place."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from flowrt.recording.columns import RowBuffer
from flowrt.recording.errors import RecordingError
from flowrt.recording.parquet import GroupWriter, read_meta, require_pyarrow

__all__ = ["WriterThread", "check_recording_path"]

_MOST_WAITING: Final = 32  # row groups, 2 MB each: a disk that is further behind than this gets no recording

Told = Callable[[BaseException | None], None]


def check_recording_path(path: str | os.PathLike[str]) -> Path:
    """A path that a recording can be written to, as far as can be told beforehand.

    Raises:
        ValueError: It is a folder, a symlink or a file that is no recording, or its folder does not exist.
        MissingExtraError: pyarrow is not installed.
    """
    require_pyarrow("a recording")
    checked = Path(path)
    if not checked.name or checked.is_dir():
        raise ValueError(f"record must name a file, not the folder {str(path)!r}")
    if checked.is_symlink():
        raise ValueError(f"record={str(path)!r} is a symlink: name the file that it points to")
    if not checked.parent.is_dir():
        raise ValueError(f"record={str(path)!r}: its folder does not exist: make it first")
    if checked.exists() and not (checked.is_file() and (checked.stat().st_size == 0 or _is_recording(checked))):
        raise ValueError(f"record={str(path)!r} exists and is no recording: name another file, or take it away")
    return checked


def _is_recording(path: Path) -> bool:
    try:
        read_meta(path)
    except RecordingError:
        return False
    return True


class WriterThread:
    """Takes row groups on the loop's thread and writes them on its own.

    Args:
        path: The file's final name.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        require_pyarrow("a recording")
        self._path = path
        self._queue: SimpleQueue[RowBuffer | tuple[dict[str, Any], Told] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, started_ns: int, batch_id: str) -> None:
        """Begin.

        Args:
            started_ns: The zero of all times.
            batch_id: Goes into the temporary name.
        """
        partial = self._path.with_name(f"{self._path.name}.{batch_id[:8]}.partial")
        self._thread = threading.Thread(
            target=self._run, args=(partial, started_ns), name="flowrt-recorder", daemon=True
        )
        self._thread.start()

    def put(self, rows: RowBuffer) -> None:
        """Take a row group; it is not to be touched any more."""
        if self._error is not None:
            return
        if self._queue.qsize() >= _MOST_WAITING:
            self._error = OSError("the disk did not keep up")
            self._queue.put(None)
            return
        self._queue.put(rows)

    def close(self, meta: dict[str, Any], told: Told) -> None:
        """Write what there is and put the file into place.

        Args:
            meta: What goes beside the rows.
            told: Called in the thread with what went wrong, or None.
        """
        self._queue.put((meta, told))

    def give_up(self) -> None:
        """Nobody waits for the file any more: one that is not in its place by now never will be."""
        self._error = self._error or TimeoutError("given up")

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self, partial: Path, started_ns: int) -> None:
        writer: GroupWriter | None = None
        try:
            writer = GroupWriter(partial, started_ns)
        except BaseException as exc:
            self._error = exc
        while True:
            work = self._queue.get()
            if isinstance(work, tuple):
                break
            if work is not None and writer is not None and self._error is None:
                try:
                    writer.write(work)
                except BaseException as exc:  # the batch goes on
                    self._error = exc
        meta, told = work
        if writer is not None and self._error is None:
            try:
                writer.close(meta)
                if self._error is None:
                    partial.replace(self._path)
            except BaseException as exc:
                self._error = exc
        if self._error is not None:
            if writer is not None:
                writer.abandon()
            with contextlib.suppress(OSError):
                partial.unlink()
        told(self._error)

"""Thread that encodes row groups, writes the file, and renames it into place."""

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

_MAX_WAITING: Final = 32  # row groups of 2 MB each; a disk further behind than this ends the recording

OnDone = Callable[[BaseException | None], None]


def check_recording_path(path: str | os.PathLike[str]) -> Path:
    """Check before a run that a recording can be written to a path.

    Args:
        path: The file to write.

    Raises:
        ValueError: The path is a folder, a symlink or a file that is not a recording, or its folder does not exist.
        MissingExtraError: pyarrow is not installed.
    """
    require_pyarrow("a recording")
    checked = Path(path)
    if not checked.name or checked.is_dir():
        raise ValueError(f"record must name a file, not the folder {str(path)!r}")
    if checked.is_symlink():
        raise ValueError(f"record={str(path)!r} is a symlink: name the file that it points to")
    if not checked.parent.is_dir():
        raise ValueError(f"record={str(path)!r}: its folder does not exist: create it first")
    if checked.exists() and not (checked.is_file() and (checked.stat().st_size == 0 or _is_recording(checked))):
        raise ValueError(f"record={str(path)!r} exists and is not a recording: name another file, or remove this one")
    return checked


def _is_recording(path: Path) -> bool:
    try:
        read_meta(path)
    except RecordingError:
        return False
    return True


class WriterThread:
    """Queue of row groups, with a thread that writes them.

    Args:
        path: The file's final name.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        require_pyarrow("a recording")
        self._path = path
        self._queue: SimpleQueue[RowBuffer | tuple[dict[str, Any], OnDone] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, started_ns: int, batch_id: str) -> None:
        """Start the thread.

        Args:
            started_ns: Start of the batch on its clock; times in the file count from it.
            batch_id: The batch's id, part of the temporary file's name.
        """
        partial = self._path.with_name(f"{self._path.name}.{batch_id[:8]}.partial")
        self._thread = threading.Thread(
            target=self._run, args=(partial, started_ns), name="flowrt-recorder", daemon=True
        )
        self._thread.start()

    def put(self, rows: RowBuffer) -> None:
        """Queue a row group. The caller must not change it any more."""
        if self._error is not None:
            return
        if self._queue.qsize() >= _MAX_WAITING:
            self._error = OSError("the disk did not keep up")
            self._queue.put(None)
            return
        self._queue.put(rows)

    def close(self, meta: dict[str, Any], on_done: OnDone) -> None:
        """Finish the file and rename it to its final name.

        Args:
            meta: The batch's metadata.
            on_done: Called in the thread with the error, or None.
        """
        self._queue.put((meta, on_done))

    def give_up(self) -> None:
        """Give up a file that is not complete: it must not appear after its caller has reported a failure."""
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
        meta, on_done = work
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
        on_done(self._error)

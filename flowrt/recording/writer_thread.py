"""Thread that encodes row groups, writes the file, and renames it into place."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from flowrt._util.cpu_time import thread_cpu_clock
from flowrt.recording.columns import RowBuffer
from flowrt.recording.errors import RecordingError
from flowrt.recording.parquet import GroupWriter, import_pyarrow, read_meta, require_pyarrow

__all__ = ["OnDone", "WriterThread", "check_recording_path"]

_MAX_WAITING: Final = 32  # row groups of 2 MB each; a disk further behind than this ends the recording
_GRACE_S: Final = 0.2  # for a disk that hangs, while the loop waits
_EXIT_GRACE_S: Final = 2.0  # for the same while the process ends

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

    Attributes:
        step: Start of the thread's present step on the monotonic clock (None before its first one), and the error
            message if that step takes too long.
        cpu_ns: Returns the thread's CPU time in nanoseconds; 0 before it runs, and on systems without such clocks.
    """

    def __init__(self, path: Path) -> None:
        require_pyarrow("a recording")
        self.step: tuple[float | None, str] = (None, "the recorder's thread did not import pyarrow within {:g} s")
        self.cpu_ns: Callable[[], int] = int
        self._path = path
        self._queue: SimpleQueue[RowBuffer | tuple[dict[str, Any], OnDone] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._placing = threading.Lock()
        self._working = threading.Lock()  # held by the thread while it is in pyarrow
        self._in_place = False
        self._partial: Path | None = None

    def start(self, started_ns: int, batch_id: str) -> None:
        """Start the thread.

        Args:
            started_ns: Start of the batch on its clock; times in the file count from it.
            batch_id: The batch's id, part of the temporary file's name.
        """
        partial = self._partial = self._path.with_name(f"{self._path.name}.{batch_id[:8]}.partial")
        at_exit = weakref.finalize(self, _end, partial, os.getpid(), self._working)  # before the batch has ended
        self._thread = threading.Thread(
            target=self._run, args=(partial, started_ns, at_exit), name="flowrt-recorder", daemon=True
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

    def give_up(self) -> bool:
        """Give up a file that is not complete, and remove it.

        Returns:
            False if the file is complete and in place.
        """
        placing = self._placing.acquire(timeout=_GRACE_S)  # held while the file is renamed, which may hang
        try:
            if self._in_place:
                return False
            self._error = self._error or TimeoutError("given up")
        finally:
            if placing:
                self._placing.release()
        if self._partial is not None:
            # The writer removes the file too when it goes on, which may be too late. In a thread, as the disk may hang.
            args = (self._partial, os.getpid())
            remover = threading.Thread(target=_remove, args=args, name="flowrt-recorder-remove", daemon=True)
            remover.start()
            remover.join(_GRACE_S)
        return True

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self, partial: Path, started_ns: int, at_exit: weakref.finalize[..., Any]) -> None:
        writer: GroupWriter | None = None
        self.cpu_ns = thread_cpu_clock()
        try:
            with self._working:
                import_pyarrow()
                if self._error is None:
                    self._begin("the disk did not create the file within {:g} s")
                    writer = GroupWriter(partial, started_ns)
        except BaseException as exc:
            self._error = exc
        while True:
            work = self._queue.get()
            if isinstance(work, tuple):
                break
            if work is not None and writer is not None and self._error is None:
                self._begin("the recorder's thread did not encode and write its rows within {:g} s")
                try:
                    with self._working:
                        writer.write(work)
                except BaseException as exc:  # the batch goes on
                    self._error = exc
        meta, on_done = work
        self._begin("the disk did not complete the file within {:g} s")
        if writer is not None and self._error is None:
            try:
                with self._working:
                    writer.close(meta)
                with self._placing:
                    if self._error is None:
                        # not by `move_into_place`, whose sync may be slow: `give_up` waits for this lock
                        partial.replace(self._path)
                        self._in_place = True
            except BaseException as exc:
                self._error = exc
        if not self._in_place and writer is not None:
            with self._working:
                writer.abandon()
            _remove(partial, os.getpid())
        at_exit.detach()
        on_done(None if self._in_place else self._error)

    def _begin(self, step: str) -> None:
        self.step = (time.monotonic(), step)


def _end(partial: Path, pid: int, working: threading.Lock) -> None:
    """Remove the temporary file of a process that ends, once the thread has left pyarrow.

    Python ends daemon threads as they ask for its lock, and a thread that is ended inside of C++ aborts the process.
    The lock is not given back: the thread must not go on.
    """
    if os.getpid() == pid:
        working.acquire(timeout=_EXIT_GRACE_S)
        _remove(partial, pid)


def _remove(partial: Path, pid: int) -> None:
    """Remove the temporary file, unless this is a forked child of the process that writes it."""
    if os.getpid() == pid:
        with contextlib.suppress(OSError):
            partial.unlink()

"""Reads and writes recordings as Parquet: row groups of attempts, and the batch's metadata as JSON in the footer."""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from pathlib import Path
from typing import Any, Final

from flowrt._util.atomic_file import open_private
from flowrt.errors import MissingExtraError
from flowrt.recording.columns import OUTCOMES, RowBuffer
from flowrt.recording.error_groups import NO_CAUSE
from flowrt.recording.errors import RecordingError
from flowrt.recording.metadata import FORMAT, VERSION

__all__ = ["COLUMNS", "GroupWriter", "import_pyarrow", "read_meta", "read_recording", "require_pyarrow"]

COLUMNS: Final = (
    "index", "attempt", "arrival_ns", "slot_wait_ns", "limiter_wait_ns", "service_ns", "outcome", "cause", "last",
    "hedge",
)  # fmt: skip
"""Column names. `arrival_ns` counts from the batch's start; `service_ns` is null if the node was not called."""

_KEY: Final = b"flowrt"
_TIMES: Final = ("arrival_ns", "slot_wait_ns", "limiter_wait_ns", "service_ns")


def require_pyarrow(feature: str) -> Any:
    """Import pyarrow.

    Args:
        feature: The feature that needs it, as the subject of the error's sentence.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra, and slow to import
    except ImportError:
        raise MissingExtraError(feature, "pyarrow", "parquet") from None
    return pa


def import_pyarrow() -> None:
    """Import the parts of pyarrow that write files, which takes long."""
    import pyarrow.compute  # noqa: PLC0415  # an extra
    import pyarrow.parquet  # noqa: F401, PLC0415


class GroupWriter:
    """Writes row groups into a new file with mode 0600.

    Args:
        path: The file to create; it must not exist.
        started_ns: Start of the batch on its clock; times in the file count from it.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, path: Path, started_ns: int) -> None:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        import pyarrow.compute  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        make_writer: Any = pq.ParquetWriter
        # pyarrow's stubs are incomplete: they reject numbers and lists of columns in places that accept them.
        self._pa: Any = pa
        self._pc: Any = pyarrow.compute
        self._started_ns = started_ns
        self._file = os.fdopen(open_private(path, new=True), "wb")
        self._schema = pa.schema(
            [
                ("index", pa.int64()),
                ("attempt", pa.int16()),
                *((name, pa.int64()) for name in _TIMES),
                ("outcome", pa.dictionary(pa.int8(), pa.string())),
                ("cause", pa.int16()),
                ("last", pa.bool_()),
                ("hedge", pa.bool_()),
            ]
        )
        # Delta encoding: neighbouring times differ little and take 2 to 4 bytes. The other columns are nearly constant.
        self._writer = make_writer(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=["outcome", "attempt", "cause", "last", "hedge"],
            column_encoding=dict.fromkeys(("index", *_TIMES), "DELTA_BINARY_PACKED"),
            write_statistics=False,
            store_schema=False,
        )

    def write(self, rows: RowBuffer) -> None:
        """Encode and write one row group.

        Raises:
            OSError: The disk failed.
        """
        pc = self._pc

        pa, count, zero = self._pa, len(rows), self._started_ns
        attempt = array("h", [1]) * count
        outcome = array("b", [0]) * count
        cause = array("h", [NO_CAUSE]) * count
        last = array("b", [1]) * count
        hedge = array("b", [0]) * count

        def column(values: array[int], kind: Any) -> Any:
            return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])

        whole = pa.Array.from_buffers(pa.int64(), 4 * count, [None, pa.py_buffer(b"".join(rows.packed))])
        fours = pa.FixedSizeListArray.from_arrays(whole, 4)
        index, came, began, ended = (pc.list_element(fours, place) for place in range(4))
        had = came
        if rows.notes:
            slot = array("q")
            slot.frombytes(pc.list_element(fours, 1).buffers()[1])
            for note in rows.notes:
                row = note.row
                attempt[row] = min(note.attempt, 0x7FFF)
                outcome[row] = note.outcome
                cause[row] = note.cause
                last[row] = note.last
                hedge[row] = note.hedge
                slot[row] = note.slot_ns
            had = column(slot[:count], pa.int64())
        ran = pc.not_equal(began, 0)
        held_until = pc.if_else(ran, began, ended)
        columns = [
            index,
            column(attempt, pa.int16()),
            pc.subtract(came, zero),
            pc.subtract(had, came),
            pc.subtract(held_until, had),
            pc.if_else(ran, pc.subtract(ended, began), None),
            pa.DictionaryArray.from_arrays(column(outcome, pa.int8()), pa.array(OUTCOMES)),
            column(cause, pa.int16()),
            pc.not_equal(column(last, pa.int8()), 0),
            pc.not_equal(column(hedge, pa.int8()), 0),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=count)

    def close(self, meta: dict[str, Any]) -> None:
        """Write the metadata, close the file and sync it to disk.

        Raises:
            OSError: The disk failed.
        """
        # ASCII, since an error's text may contain a lone surrogate, which UTF-8 cannot encode.
        self._writer.add_key_value_metadata({_KEY: json.dumps(meta, default=str).encode("ascii")})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the incomplete file, ignoring errors."""
        with contextlib.suppress(Exception):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()


def read_meta(path: Path) -> dict[str, Any]:
    """Read the metadata of a recording.

    Raises:
        RecordingError: The file is missing, damaged, or not a recording.
    """
    return _open(path)[1]


def read_recording(path: Path) -> tuple[dict[str, Any], Any]:
    """Read a whole recording.

    Args:
        path: The file.

    Returns:
        The metadata, and the attempts as a pyarrow table with the columns of `COLUMNS`.

    Raises:
        RecordingError: The file is missing, damaged, or not a recording.
        MissingExtraError: pyarrow is not installed.
    """
    file, meta = _open(path)
    try:
        table = file.read(columns=list(COLUMNS))
        if set(table.column_names) != set(COLUMNS):
            missing = sorted(set(COLUMNS) - set(table.column_names))
            raise RecordingError(
                f"{path} is not a complete recording: it lacks the columns {', '.join(missing)}; record the batch again"
            )
    except RecordingError:
        raise
    except Exception as exc:
        raise RecordingError(f"{path} is damaged: {_first_line(exc)}") from exc
    return meta, table


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    require_pyarrow("reading a recording")
    import pyarrow.parquet  # noqa: PLC0415  # an extra

    if not path.exists():
        raise RecordingError(f"there is no file {path}", missing=True)
    if not path.is_file():
        raise RecordingError(f"{path} is not a file: name a recording", missing=True)
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except Exception as exc:
        raise RecordingError(
            f"{path} is not a readable recording (cut short, or another kind of file): {_first_line(exc)}"
        ) from exc
    raw = (file.metadata.metadata or {}).get(_KEY)
    if raw is None:
        raise RecordingError(
            f"{path} is a Parquet file, but not a recording: name a file written by --record or record="
        )
    try:
        meta = json.loads(raw)
        known = meta["format"] == FORMAT
        version = meta["version"]
    except (ValueError, KeyError, TypeError) as exc:
        raise RecordingError(f"{path} is damaged: its metadata cannot be read") from exc
    if not known or version != VERSION:
        raise RecordingError(f"{path} has the recording format {version!r}; this flowrt reads version {VERSION}")
    return file, meta


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]

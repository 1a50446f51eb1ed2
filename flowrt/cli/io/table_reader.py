"""Readers of tables: Parquet, folders of Parquet, and Arrow. Each row is an item, a dict by column.

Values are Python's own, the same with and without pandas. Nanoseconds are cut to microseconds, with a warning, as
`datetime` holds no more. The INT96 timestamps of Spark and Impala are read in microseconds. A value outside Python's
range fails its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError, say
from flowrt.errors import MissingExtraError
from flowrt.model import Rejected

__all__ = ["arrow_chunks", "dataset_chunks", "parquet_chunks"]

_BATCH_ROWS: Final = 512

Opened = tuple[Iterator[list[Any]], int | None, Callable[[], None]]


def parquet_chunks(file: Any, name: str) -> Opened:
    """Open a Parquet file.

    Args:
        file: File object opened for reading, which can seek; closed by the caller.
        name: Name of the file for messages.

    Returns:
        Lists of items, their number, and a function that releases the reader.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CommandError: The file is damaged or not Parquet, or names a column twice.
    """
    parquet = _pyarrow("Parquet input", "pyarrow.parquet")
    try:
        # pyarrow itself checks the sizes in a hostile footer; checksums are verified if the pages have them
        table = parquet.ParquetFile(
            file, pre_buffer=False, page_checksum_verification=True, coerce_int96_timestamp_unit="us"
        )
        expected = table.metadata.num_rows
        _check_counts(table.metadata, name)
        _check_columns(table.schema_arrow.names, name)
    except CommandError:
        raise
    except Exception as exc:
        raise _damaged(name, "Parquet", exc) from exc
    batches = table.iter_batches(batch_size=_BATCH_ROWS)
    return _items(batches, table.schema_arrow, name, "Parquet", expected), expected, table.close


def _check_counts(metadata: Any, name: str) -> None:
    """Refuse a file whose footer contradicts itself, before any of its rows run."""
    if metadata.num_rows < 0:
        raise _damaged(name, "Parquet", f"it claims to have {metadata.num_rows} rows")
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        total += group.num_rows
        for index in range(group.num_columns):
            column = group.column(index)
            flat = metadata.schema.column(index).max_repetition_level == 0
            if flat and column.num_values != group.num_rows:
                raise _damaged(
                    name,
                    "Parquet",
                    f"column {column.path_in_schema!r} has {column.num_values:,} values in a row group of "
                    f"{group.num_rows:,} rows",
                )
    if total != metadata.num_rows:
        raise _damaged(name, "Parquet", f"its row groups have {total:,} rows and it claims {metadata.num_rows:,}")


def dataset_chunks(folder: str, name: str) -> Opened:
    """Open a folder of Parquet files as one table, with the partition columns that its subfolders name (`year=2026`).

    Args:
        folder: The folder.
        name: Name of the folder for messages.

    Returns:
        Lists of items, their number, and a function that does nothing.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CommandError: The folder holds no Parquet file, or one that cannot be read.
    """
    datasets = _pyarrow("a folder of Parquet", "pyarrow.dataset")
    try:
        form = datasets.ParquetFileFormat(coerce_int96_timestamp_unit="us", page_checksum_verification=True)
        dataset = datasets.dataset(folder, format=form, partitioning="hive")
        if not dataset.files:
            raise CommandError(f"{name} is a folder without Parquet files: name files, for example {name}/*.jsonl")
        _check_columns(dataset.schema.names, name)
        expected = dataset.count_rows()
        batches = dataset.to_batches(batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1)
    except CommandError:
        raise
    except Exception as exc:
        raise CommandError(
            f"{name} is not a folder of Parquet files: {_one_line(exc)}; name files, for example {name}/*.jsonl",
            UNREADABLE_INPUT,
        ) from exc
    return _items(iter(batches), dataset.schema, name, "Parquet", expected), expected, lambda: None


def arrow_chunks(file: Any, name: str) -> Opened:
    """Open an Arrow IPC file or stream, or a Feather file.

    Args:
        file: File object opened for reading, which can seek; closed by the caller.
        name: Name of the file for messages.

    Returns:
        Lists of items, their number if the file states it, and a function that releases the reader.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CommandError: The file is damaged or not Arrow, or names a column twice.
    """
    arrow = _pyarrow("Arrow input", "pyarrow")
    try:
        source = arrow.PythonFile(file, mode="r")
        try:
            reader = arrow.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except arrow.ArrowInvalid:
            source.seek(0)
            reader = arrow.ipc.open_stream(source)
            batches = iter(reader)
        _check_columns(reader.schema.names, name)
    except CommandError:
        raise
    except Exception as exc:
        raise _damaged(name, "Arrow", exc) from exc
    parts = (batch.slice(start, _BATCH_ROWS) for batch in batches for start in range(0, batch.num_rows, _BATCH_ROWS))
    return _items(parts, reader.schema, name, "Arrow", None), None, lambda: None


def _pyarrow(what: str, module: str) -> Any:
    import importlib  # noqa: PLC0415  # pyarrow is an extra, and slow to import

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(what, "pyarrow", "parquet") from None


def _check_columns(columns: list[str], name: str) -> None:
    if len(set(columns)) < len(columns):  # a row is a dict, which holds only one of them
        twice = next(column for column in columns if columns.count(column) > 1)
        raise CommandError(f"{name} names the column {twice!r} twice", UNREADABLE_INPUT)


def _items(batches: Iterator[Any], schema: Any, name: str, kind: str, expected: int | None) -> Iterator[list[Any]]:
    convert = _Microseconds(schema, name)
    number = 0
    try:
        for batch in batches:
            converted = convert(batch)
            try:
                chunk = converted.to_pylist()
            except Exception:  # a value outside Python's range: find the rows that hold it
                chunk = [_row(converted, index, number + index + 1) for index in range(batch.num_rows)]
            number += batch.num_rows
            if chunk:
                yield chunk
    except Exception as exc:
        raise _damaged(name, kind, exc, after=number) from exc
    if expected is not None and number != expected:
        raise _damaged(name, kind, f"it has {number:,} rows and claims {expected:,}")


class _Microseconds:
    """Conversion of nanoseconds to microseconds: Python's own types hold no more, and pandas' types need pandas."""

    def __init__(self, schema: Any, name: str) -> None:
        self._name = name
        self._types = {
            index: target for index, field in enumerate(schema) if (target := _microseconds(field.type)) != field.type
        }
        self._cut: set[int] = set()

    def __call__(self, batch: Any) -> Any:
        """Convert a batch. Print a warning once per column whose nanoseconds are cut."""
        for index, target in self._types.items():
            column = batch.column(index)
            try:
                converted = column.cast(target)
            except ValueError:
                if index not in self._cut:
                    self._cut.add(index)
                    what = batch.schema.names[index]
                    say(f"{self._name}: column {what!r} has nanoseconds, which are cut to microseconds")
                converted = column.cast(target, safe=False)
            batch = batch.set_column(index, batch.schema.field(index).with_type(target), converted)
        return batch


def _microseconds(kind: Any) -> Any:
    """Return the type with microseconds in place of nanoseconds, at any depth."""
    import pyarrow as pa  # noqa: PLC0415  # an extra

    types = pa.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if types.is_struct(kind):
        return pa.struct([field.with_type(_microseconds(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_microseconds(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_microseconds(kind.value_type)))
    if types.is_map(kind):
        return pa.map_(_microseconds(kind.key_type), _microseconds(kind.item_type))
    if types.is_dictionary(kind):
        value = _microseconds(kind.value_type)
        return kind if value == kind.value_type else value
    return kind


def _row(batch: Any, index: int, number: int) -> Any:
    item = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            item[column] = values[index].as_py()
        except Exception as exc:
            return Rejected(f"row {number}: column {column!r}: {_one_line(exc)}", type(exc).__name__)
    return item


def _one_line(why: object) -> str:
    return " ".join(str(why).split())


def _damaged(name: str, kind: str, why: object, after: int = 0) -> CommandError:
    where = f" after row {after:,}" if after else ""
    return CommandError(f"{name} is not {kind} that can be read{where}: {_one_line(why)}", UNREADABLE_INPUT)

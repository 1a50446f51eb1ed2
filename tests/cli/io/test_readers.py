"""Readers: every line of an input has one documented outcome."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io import readers
from flowrt.cli.io.csv_reader import csv_chunks
from flowrt.cli.io.line_reader import split_lines
from flowrt.cli.io.readers import jsonl_chunks, open_input
from flowrt.model import Rejected
from tests.examples import examples


def _open_files() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def read(path: Path | str, form: Any = None) -> list[Any]:
    """Read every item of a file like the command, and check that everything is closed."""

    async def main() -> list[Any]:
        opened = open_input(str(path), form)
        try:
            items = [item async for item in opened.feed]
            expected = len(opened.feed) if hasattr(opened.feed, "__len__") else None
            assert expected in (None, len(items))
            return items
        finally:
            await opened.feed.close()
            opened.close()

    before = _open_files()
    with asyncio.Runner() as runner:
        items = runner.run(main())
    assert _open_files() <= before
    return items


def _short(value: object) -> str:
    """Shorten a parameter for the test's name."""
    return repr(value)[:24]


def unreadable(path: Path | str, form: Any = None) -> str:
    with pytest.raises(CommandError) as caught:
        read(path, form)
    assert caught.value.exit_code == 65
    return caught.value.message


def jsonl(data: bytes) -> list[Any]:
    return [item for chunk in jsonl_chunks(split_lines([data])) for item in chunk]


def rows(data: bytes) -> list[Any]:
    return [item for chunk in csv_chunks(split_lines([data]), "data.csv") for item in chunk]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# -- JSON lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "item"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{"a": 1}\r', {"a": 1}),
        (b"  [1]  ", [1]),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'"\\ud800"', "\ud800"),
        ('"\u2028ä"'.encode(), "\u2028ä"),
        (b"null", None),
        (b"1e999", float("inf")),
        (b"9" * 4300, None),
    ],
    ids=_short,
)
def test_valid_line_is_parsed_as_json(line: bytes, item: Any) -> None:
    assert jsonl(line) == [int(line) if item is None and line[:1] == b"9" else item]


@pytest.mark.parametrize(
    ("line", "error_type", "expected"),
    [
        (b'{"a": ', "JSONDecodeError", "not JSON"),
        (b"{'a': 1}", "JSONDecodeError", "column 2"),
        (b"1 2", "JSONDecodeError", "Extra data"),
        (b"\x00", "JSONDecodeError", "not JSON"),
        (b"NaN", "ValueError", "NaN is not JSON"),
        (b"[Infinity]", "ValueError", "Infinity is not JSON"),
        (b"-Infinity", "ValueError", "-Infinity is not JSON"),
        (b"9" * 5000, "ValueError", "5000 digits"),
        (b"[" * 200_000 + b"]" * 200_000, "RecursionError", "nested too deep"),
        (b'{"a":' * 200_000, "RecursionError", "nested too deep"),
        (b'"caf\xe9"', "UnicodeDecodeError", "byte 0xe9 at column 5"),
        (b'"\xed\xa0\x80"', "UnicodeDecodeError", "not UTF-8"),
    ],
    ids=_short,
)
def test_invalid_line_is_one_failed_item_naming_its_line(line: bytes, error_type: str, expected: str) -> None:
    first, bad, last = jsonl(b"1\n" + line + b"\n2\n")
    assert (first, last) == (1, 2)
    assert isinstance(bad, Rejected)
    assert bad.error.startswith("line 2: ")
    assert expected in bad.error
    assert bad.error_type == error_type
    assert len(bad.input_data) <= 200


def test_parse_error_contains_no_text_of_the_line() -> None:
    for line in (b'{"key": "s3cret', b"s3cret", b'"s3cret\xff"', b'["s3cret", NaN]'):
        assert "s3cret" not in jsonl(line)[0].error


def test_blank_lines_are_skipped_but_counted() -> None:
    items = jsonl(b"\n  \n1\n\r\n\nbad\n\n")
    assert items[0] == 1
    assert items[1].error.startswith("line 6: ")


def test_last_line_needs_no_line_break() -> None:
    assert jsonl(b"1\n2") == [1, 2]


def test_byte_order_mark_is_stripped(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n')) == [{"a": 1}]
    assert read(write(tmp_path / "a.csv", b"\xef\xbb\xbfa\r\n1\r\n")) == [{"a": "1"}]


def test_line_over_the_limit_is_one_failed_item(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"1\n" + b"[" + b"1," * 10_000_000 + b"1]\n2\n")
    first, bad, last = read(path)
    assert (first, last) == (1, 2)
    assert bad.error == "line 2: 20,000,003 bytes are more than the 16,777,216 that a line may have"
    assert bad.error_type == "LineTooLong"


def test_line_at_the_limit_is_read(tmp_path: Path) -> None:
    line = b'"' + b"x" * (16 * 1024 * 1024 - 2) + b'"'
    assert [len(item) for item in read(write(tmp_path / "a.jsonl", line + b"\n"))] == [len(line) - 2]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_empty_file_has_no_items(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, b"")) == []


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=20
        )
    )
)
def test_json_lines_round_trip(items: list[Any]) -> None:
    assert jsonl("".join(json.dumps(item) + "\n" for item in items).encode()) == items


# -- opening -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("nosuch.jsonl", "does not exist"), ("folder.jsonl", "is a folder"), ("a.txt", "--input-format")],
)
def test_missing_file_folder_and_unknown_format_are_bad_usage(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "a.txt").write_text("1\n")
    with pytest.raises(CommandError, match=expected) as caught:
        open_input(str(tmp_path / name))
    assert caught.value.exit_code == 2


def test_file_without_permission_is_unreadable_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(readers.os, "open", denied)
    assert "Permission denied" in unreadable(tmp_path / "a.jsonl")


def test_format_option_overrides_the_extension(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", b"a\n1\n"), "csv") == [{"a": "1"}]
    assert read(write(tmp_path / "A.NDJSON", b"1\n")) == [1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"a": 1}\n'.encode("utf-16"), "UTF-16"),
        (gzip.compress(b"1\n", mtime=0), "gzip"),
        (b"PAR1....", "--input-format parquet"),
    ],
    ids=_short,
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_file_that_is_not_text_is_unreadable_input(tmp_path: Path, data: bytes, expected: str, name: str) -> None:
    assert expected in unreadable(write(tmp_path / name, data))


# -- CSV -----------------------------------------------------------------------------------------------------------


def test_csv_row_is_a_dict_by_the_header() -> None:
    assert rows(b'a,b\r\n1,"x, ""y""\nz"\r\n\r\n,\r\n') == [{"a": "1", "b": 'x, "y"\nz'}, {"a": "", "b": ""}]


@pytest.mark.parametrize(
    ("row", "error_type", "expected"),
    [
        (b"1", "RaggedRow", "line 3: 1 field where the header has 2"),
        (b"1,2,3", "RaggedRow", "line 3: 3 fields where the header has 2"),
        (b"1,\x00", "NULCharacter", "line 3: a field holds a NUL"),
        (b"1,\xff", "UnicodeDecodeError", "line 3: not UTF-8"),
        (b"1," + b"x" * 131_073, "FieldTooLong", "line 3: a field has more than 131,072"),
        (b'1,"' + b"x" * 131_073 + b'"', "FieldTooLong", "line 3: a field has more than 131,072"),
        (b'1,"x"y', "CSVError", "line 3: not CSV"),
    ],
    ids=_short,
)
def test_invalid_row_is_one_failed_item_naming_its_line(row: bytes, error_type: str, expected: str) -> None:
    first, bad, last = rows(b"a,b\n1,2\n" + row + b"\n3,4\n")
    assert (first, last) == ({"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    assert isinstance(bad, Rejected)
    assert expected in bad.error
    assert bad.error_type == error_type


def test_field_at_the_limit_is_read() -> None:
    assert len(rows(b"a\n" + b"x" * 131_072 + b"\n")[0]["a"]) == 131_072


def test_long_quoted_field_is_not_split_into_rows() -> None:
    long = b'"' + b"line\n" * 30_000 + b'tail"'
    bad, last = rows(b"a\n" + long + b"\nlast\n")
    assert bad.error.startswith("lines 2 to 30002: a field has more than 131,072")
    assert last == {"a": "last"}


def test_csv_limit_changed_by_user_code_has_no_effect() -> None:
    before = csv.field_size_limit(sys.maxsize)
    try:
        assert rows(b"a\n" + b"x" * 131_073 + b"\n")[0].error_type == "FieldTooLong"
    finally:
        csv.field_size_limit(before)


def test_unclosed_quoted_field_is_a_failed_item() -> None:
    ok, bad = rows(b'a\n1\n"2\n3')
    assert ok == {"a": "1"}
    assert bad.error == "lines 3 to 4: a quoted field is never closed"


def test_csv_line_over_the_limit_is_one_failed_item(tmp_path: Path) -> None:
    bad, last = read(write(tmp_path / "a.csv", b"a\n" + b"x" * 20_000_000 + b"\nlast\n"))
    assert bad.error_type == "LineTooLong"
    assert bad.error.startswith("line 2: 20,000,000 bytes")
    assert last == {"a": "last"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"\n1\n", "header that is empty"),
        (b",,\n1,2,3\n", "header that is empty"),
        (b"a,a\n1,2\n", "'a' twice"),
        (b"\xff\n1\n", "UTF-8"),
    ],
)
def test_unusable_header_is_unreadable_input(tmp_path: Path, header: bytes, expected: str) -> None:
    assert expected in unreadable(write(tmp_path / "a.csv", header))


def test_csv_of_pandas_with_an_unnamed_index_is_read() -> None:
    assert rows(b",a\n0,x\n") == [{"": "0", "a": "x"}]


def test_csv_with_only_a_header_has_no_items() -> None:
    assert rows(b"a,b\n") == []


# -- Parquet -------------------------------------------------------------------------------------------------------


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_row_is_a_dict_of_python_values(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", {"i": list(range(3000)), "s": [str(i) for i in range(3000)]}, row_group_size=700
    )
    items = read(path)
    assert len(items) == 3000
    assert items[2999] == {"i": 2999, "s": "2999"}


def test_parquet_value_outside_python_range_is_one_failed_item(tmp_path: Path) -> None:
    import pyarrow as pa

    far = pa.array([0, 2**62, 1], pa.timestamp("us"))
    first, bad, last = read(parquet(tmp_path / "a.parquet", {"t": far, "n": [1, 2, 3]}))
    assert (first["n"], last["n"]) == (1, 3)
    assert isinstance(bad, Rejected)
    assert bad.error.startswith("row 2: ")


def test_empty_parquet_file_has_no_items(tmp_path: Path) -> None:
    assert read(parquet(tmp_path / "a.parquet", {"a": []})) == []


def test_parquet_with_duplicate_columns_is_unreadable_input(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([[1], ["v"], [2]], names=["id", "v", "id"]), path)
    assert unreadable(path) == f"{path} names the column 'id' twice"


def test_truncated_and_hostile_parquet_is_unreadable_input(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", {"a": [str(i) * 50 for i in range(5000)]}).read_bytes()
    hostile = [
        b"",
        b"PAR1",
        b"no parquet at all",
        whole[:-20],
        whole[: len(whole) // 2],
        whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        whole[:-8] + b"\x00\x00\x00\x00PAR1",
        whole[:4] + b"\xff" * (len(whole) // 2) + whole[4 + len(whole) // 2 :],
    ]
    for number, data in enumerate(hostile):
        assert "a.parquet" in unreadable(write(tmp_path / f"{number}a.parquet", data)), number


def test_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", {"a": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"flowrt\[parquet\]"):
        open_input(str(path))

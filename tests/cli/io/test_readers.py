"""Readers: every line of an input has one documented outcome."""

from __future__ import annotations

import asyncio
import bz2
import csv
import datetime as dt
import functools
import gzip
import http.server
import json
import lzma
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io import sources
from flowrt.cli.io.csv_reader import csv_chunks
from flowrt.cli.io.jsonl_reader import jsonl_chunks
from flowrt.cli.io.line_reader import split_lines
from flowrt.cli.io.readers import open_input
from flowrt.cli.options.input import LINE_LIMIT_BYTES, InputOptions
from flowrt.model import Rejected
from tests.examples import examples


def _open_files() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def read(path: Path | str, form: Any = None, **options: Any) -> list[Any]:
    """Read every item of a file like the command, and check that everything is closed."""

    async def main() -> list[Any]:
        opened = open_input([str(path)], InputOptions(input_format=form, **options))
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


def unreadable(path: Path | str, form: Any = None, **options: Any) -> str:
    with pytest.raises(CommandError) as caught:
        read(path, form, **options)
    assert caught.value.exit_code == 65
    return caught.value.message


def jsonl(data: bytes) -> list[Any]:
    return [item for chunk in jsonl_chunks(split_lines([data], LINE_LIMIT_BYTES)) for item in chunk]


def rows(data: bytes, **options: Any) -> list[Any]:
    return [
        item
        for chunk in csv_chunks(split_lines([data], LINE_LIMIT_BYTES), "data.csv", InputOptions(**options))
        for item in chunk
    ]


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
    assert bad.error == (
        "line 2: 20,000,003 bytes are more than the 16,777,216 that a line may have: raise --max-line-bytes"
    )
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
        open_input([str(tmp_path / name)])
    assert caught.value.exit_code == 2


def test_file_without_permission_is_unreadable_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources.os, "open", denied)
    assert "Permission denied" in unreadable(tmp_path / "a.jsonl")


def test_format_option_overrides_the_extension(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", b"a\n1\n"), "csv") == [{"a": "1"}]
    assert read(write(tmp_path / "A.NDJSON", b"1\n")) == [1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"PAR1....", "a Parquet file: pass --input-format parquet"),
        (b"ARROW1..", "an Arrow file: pass --input-format arrow"),
        (b"PK\x03\x04....", "a zip archive or a spreadsheet: unpack it, or save it as CSV"),
        (b"Obj\x01....", "an Avro file: convert it"),
        (gzip.compress(b"PK\x03\x04....", mtime=0), "a zip archive or a spreadsheet"),
        (gzip.compress(b"1\n2\n", mtime=0)[:-9], "is damaged: its gzip data cannot be decompressed"),
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
        (
            b'1,"' + b"x" * 131_000 + b"\n" + b"x" * 131_000 + b'"',
            "FieldTooLong",
            "lines 3 to 4: a field has more than",
        ),
        (b'1,"x"y', "CSVError", "line 3: not CSV"),
    ],
    ids=_short,
)
def test_invalid_row_is_one_failed_item_naming_its_line(row: bytes, error_type: str, expected: str) -> None:
    first, bad, last = rows(b"a,b\n1,2\n" + row + b"\n3,4\n", max_line_bytes=131_072)
    assert (first, last) == ({"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    assert isinstance(bad, Rejected)
    assert expected in bad.error
    assert bad.error_type == error_type


def test_field_at_the_limit_is_read() -> None:
    assert len(rows(b"a\n" + b"x" * LINE_LIMIT_BYTES + b"\n")[0]["a"]) == LINE_LIMIT_BYTES


def test_long_quoted_field_is_not_split_into_rows() -> None:
    long = b'"' + b"line\n" * 30_000 + b'tail"'
    bad, last = rows(b"a\n" + long + b"\nlast\n", max_line_bytes=131_072)
    assert bad.error.startswith("lines 2 to 30002: a field has more than 131,072")
    assert last == {"a": "last"}


def test_csv_limit_changed_by_user_code_has_no_effect() -> None:
    before = csv.field_size_limit(sys.maxsize)
    try:
        long = b'"' + b"x" * 100_000 + b"\n" + b"x" * 100_000 + b'"'
        assert rows(b"a\n" + long + b"\n", max_line_bytes=131_072)[0].error_type == "FieldTooLong"
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
        (b",,\n1,2,3\n", "has an empty header in line 1: pass --skip-lines N"),
        (b"\xff\n1\n", "has a header that is not UTF-8 text: name its encoding with --encoding"),
    ],
)
def test_unusable_header_is_unreadable_input(tmp_path: Path, header: bytes, expected: str) -> None:
    assert expected in unreadable(write(tmp_path / "a.csv", header))


def test_csv_of_pandas_with_an_unnamed_index_is_read() -> None:
    assert rows(b",a\n0,x\n") == [{"": "0", "a": "x"}]


def test_csv_with_only_a_header_has_no_items() -> None:
    assert rows(b"a,b\n") == []


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b"a;b\n1;2\n", [{"a": "1", "b": "2"}]),
        (b"a;b\n1,5;2\n", [{"a": "1,5", "b": "2"}]),
        (b"a\tb\n1\t2\n", [{"a": "1", "b": "2"}]),
        (b"a|b\n1|2\n", [{"a": "1", "b": "2"}]),
        (b"sep=;\na;b\n1;2\n", [{"a": "1", "b": "2"}]),
        (b"sep=\t\na\tb\n1\t2\n", [{"a": "1", "b": "2"}]),
        (b"text\na;b\n", [{"text": "a;b"}]),
        (b"a,b;c\n1,2\n", [{"a": "1", "b;c": "2"}]),
    ],
    ids=_short,
)
def test_csv_delimiter_is_detected_by_the_header(data: bytes, items: list[Any]) -> None:
    assert rows(data) == items


def test_detected_delimiter_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    rows(b"a;b\n1;2\n")
    assert capsys.readouterr().err == (
        "flowrt: data.csv: fields are delimited by a semicolon, as its header shows; --delimiter names another\n"
    )
    rows(b"a;b\n1;2\n", delimiter=";")
    assert capsys.readouterr().err == ""


def test_delimiter_option_wins_over_detection() -> None:
    assert rows(b"a;b\n1;2\n", delimiter=",") == [{"a;b": "1;2"}]
    assert rows(b"a:b\n1:2\n", delimiter=":") == [{"a": "1", "b": "2"}]


def test_tsv_is_delimited_by_tabs(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.tsv", b"a,b\tc\n1\t2\n")) == [{"a,b": "1", "c": "2"}]
    assert read(write(tmp_path / "a.tab", b"a\n1\n")) == [{"a": "1"}]


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b"a,b,,\n1,2,,\n3,4\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        (b"a,b\n1,2,,\n", [{"a": "1", "b": "2"}]),
        (b"id,name,id\n1,x,2\n", [{"id": "1", "name": "x", "id_2": "2"}]),
        (b"id,id,id_2\n1,2,3\n", [{"id": "1", "id_2_": "2", "id_2": "3"}]),
        (b",,a\n1,2,3\n", [{"column_1": "1", "column_2": "2", "a": "3"}]),
        (b"\n  \na,b\n1,2\n", [{"a": "1", "b": "2"}]),
    ],
    ids=_short,
)
def test_csv_header_of_a_spreadsheet_gets_unique_names(data: bytes, items: list[Any]) -> None:
    assert rows(data) == items


def test_renamed_columns_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    rows(b"id,name,id\n1,x,2\n")
    assert "data.csv: columns of the same name or of none are called id_2" in capsys.readouterr().err


def test_value_in_an_unnamed_column_is_a_failed_item() -> None:
    (bad,) = rows(b"a,b,,\n1,2,3,\n")
    assert bad.error == (
        "line 2: 4 fields where the header has 2: to read columns without a name, skip the header by --skip-lines N "
        "and --no-header"
    )


def test_no_header_numbers_the_columns() -> None:
    assert rows(b"1,x\n2,y\n", no_header=True) == [
        {"column_1": "1", "column_2": "x"},
        {"column_1": "2", "column_2": "y"},
    ]


def test_header_that_looks_like_data_suggests_no_header(capsys: pytest.CaptureFixture[str]) -> None:
    rows(b"1,2\n3,4\n")
    assert "looks like data: pass --no-header" in capsys.readouterr().err


def test_skip_lines_skips_a_preamble() -> None:
    assert rows(b"Report\n2026\na,b\n1,2\n", skip_lines=2) == [{"a": "1", "b": "2"}]
    (bad,) = rows(b"Report\n1,2\n")
    assert bad.error == (
        "line 2: 2 fields where the header has 1: pass --delimiter, or --skip-lines N if lines precede the header"
    )


# -- encodings and compression -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "a,b\rä,2\r".encode(),
        "a,b\r\nä,2\r\n".encode(),
        "a,b\nä,2\n".encode("utf-16"),
        "a,b\nä,2\n".encode("utf-16-le"),
        "a,b\nä,2\n".encode("utf-16-be"),
        "\ufeffa,b\r\nä,2\r\n".encode(),
        gzip.compress("a,b\nä,2\n".encode(), mtime=0),
        gzip.compress(b"a,b\n", mtime=0) + gzip.compress("ä,2\n".encode(), mtime=0),
        bz2.compress("a,b\nä,2\n".encode()),
        lzma.compress("a,b\nä,2\n".encode()),
        zstandard.compress("a,b\nä,2\n".encode()),
        zstandard.compress(b"a,b\n") + zstandard.compress("ä,2\n".encode()),
        gzip.compress("a,b\nä,2\n".encode("utf-16"), mtime=0),
    ],
    ids=_short,
)
def test_csv_is_read_in_any_encoding_and_compression(tmp_path: Path, data: bytes) -> None:
    assert read(write(tmp_path / "a.csv", data)) == [{"a": "ä", "b": "2"}]


def test_encoding_option_reads_single_byte_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\nä\n".encode("cp1252"))
    (bad,) = read(path)
    assert bad.error == "line 2: not UTF-8: name the encoding with --encoding, for example cp1252"
    assert read(path, encoding="cp1252") == [{"a": "ä"}]


def test_byte_that_an_encoding_lacks_fails_its_line(tmp_path: Path) -> None:
    first, bad, last = read(write(tmp_path / "a.jsonl", b'"\xe4"\n"\x81"\n1\n'), encoding="cp1252")
    assert (first, last) == ("ä", 1)
    assert bad.error_type == "UnicodeDecodeError"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_truncated_compressed_input_is_unreadable(tmp_path: Path, compress: Any) -> None:
    data = compress(b"".join(b"%d\n" % (i * 7919 % 100_003) for i in range(50_000)))
    message = unreadable(write(tmp_path / "a.jsonl", data[: len(data) // 2]))
    assert "is damaged: its " in message


def test_decompression_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    line = b'"' + b"x" * 300_000_000 + b'"\n'
    for name, compress in (("a.bz2", bz2.compress), ("a.zst", zstandard.compress)):
        path = write(tmp_path / f"in.jsonl{name[1:]}", compress(line + b"1\n"))
        tracemalloc.start()
        try:
            bad, last = read(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (bad.error_type, last) == ("LineTooLong", 1)
        assert peak < 120 * 1024 * 1024


def test_missing_zstandard_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl.zst", zstandard.compress(b"1\n"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImportError, match=r"flowrt\[files\]"):
        read(path)


# -- JSON arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
        (b'[{"a":1},{"a":2}]\n', [{"a": 1}, {"a": 2}]),
        (b'\n [\n  {"a": 1.5},\n  [2, "x"],\n null\n]\n', [{"a": 1.5}, [2, "x"], None]),
        (b"[]", []),
        (b"[1, 12345678901234567890123, 1e400]", [1, 12345678901234567890123, float("inf")]),
        (b"[1]\n[2]\n", [[1], [2]]),
        (b'{"a":1}\n{"a":2}\n', [{"a": 1}, {"a": 2}]),
        (b'{"a":1}', [{"a": 1}]),
        (b"", []),
        (gzip.compress(b"[1,2]", mtime=0), [1, 2]),
    ],
    ids=_short,
)
def test_json_file_is_an_array_or_lines(tmp_path: Path, data: bytes, items: list[Any]) -> None:
    assert read(write(tmp_path / "a.json", data)) == items


def test_large_json_array_is_streamed(tmp_path: Path) -> None:
    items = [{"n": i, "text": "ä" * (i % 50)} for i in range(20_000)]
    assert read(write(tmp_path / "a.json", json.dumps(items, indent=1).encode())) == items


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.json", b'{\n "items": [1]\n}\n', "is one JSON object, not an array or JSON Lines"),
        ("a.jsonl", b"[\n 1,\n 2\n]\n", "is one JSON array over several lines, not JSON Lines"),
        ("a.jsonl", b'{\n "a": 1\n}\n', "is one JSON object over several lines"),
        ("a.json", b"[1,2", "is not valid JSON after element 1"),
        ("a.json", b"[1] x", "is not valid JSON after element 1"),
    ],
)
def test_json_document_that_is_no_list_is_refused(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    assert expected in unreadable(write(tmp_path / name, data))


def test_json_element_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", b'[1, "' + b"x" * 3_000_000 + b'"]')
    assert "element 2 has more than 65,536 bytes: raise --max-line-bytes" in unreadable(path, max_line_bytes=65_536)


def test_missing_ijson_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.json", b"[1]")
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(ImportError, match=r"flowrt\[files\]"):
        read(path)


# -- selection and several inputs ----------------------------------------------------------------------------------


def test_offset_limit_and_fields_select_items(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"a,b\n" + b"".join(b"%d,x\n" % i for i in range(1000)))
    assert read(path, offset=500, limit=3, fields=("a",)) == [{"a": "500"}, {"a": "501"}, {"a": "502"}]
    assert read(path, offset=2000) == []


def test_missing_field_is_a_failed_item(tmp_path: Path) -> None:
    first, second = read(write(tmp_path / "a.jsonl", b'{"b": 1}\n7\n'), fields=("a",))
    assert first.error == "no field 'a', which --fields names"
    assert second.error == "--fields needs items with fields, and this one is a int"


def test_sample_is_random_repeatable_and_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"".join(b"%d\n" % i for i in range(1000)))
    sample = read(path, sample=50)
    assert sample == read(path, sample=50) == sorted(set(sample))
    assert len(sample) == 50
    assert max(sample) > 800
    assert read(path, sample=5000) == list(range(1000))


def test_several_inputs_and_patterns_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", b"3\n")
    write(tmp_path / "a.jsonl", b"1\n2\n")
    write(tmp_path / "c.csv", b"x\n4\n")

    async def main() -> list[Any]:
        opened = open_input([str(tmp_path / "c.csv"), str(tmp_path / "*.jsonl")])
        assert len(opened.feed) == 4  # type: ignore[arg-type]
        assert opened.format == "csv,jsonl"
        assert len(opened.files) == 3
        items = [item async for item in opened.feed]
        await opened.feed.close()
        opened.close()
        return items

    before = _open_files()
    with asyncio.Runner() as runner:
        assert runner.run(main()) == [{"x": "4"}, 1, 2, 3]
    assert _open_files() <= before


def test_pattern_without_a_file_and_stdin_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="matches no file"):
        open_input([str(tmp_path / "*.jsonl")])
    with pytest.raises(CommandError, match="read only once"):
        open_input(["-", "/dev/stdin"])


def test_file_whose_name_is_a_pattern_is_read(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a[1].jsonl", b"1\n")) == [1]


def test_digest_of_inputs_depends_on_their_content(tmp_path: Path) -> None:
    def digest(*paths: Path) -> str:
        opened = open_input([str(path) for path in paths])
        assert opened.digest is not None
        try:
            return opened.digest()
        finally:
            opened.close()

    a, b = write(tmp_path / "a.jsonl", b"1\n"), write(tmp_path / "b.jsonl", b"2\n")
    assert digest(a, b) == digest(a, b) != digest(b, a)
    assert digest(a).startswith("2 bytes, blake2b ")


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv.gz", "in.parquet"])
def test_url_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / "in.jsonl", b'{"a": "1"}\n')
    write(tmp_path / "in.csv.gz", gzip.compress(b"a\n1\n"))
    parquet(tmp_path / "in.parquet", {"a": ["1"]})
    handler = functools.partial(_QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            base = f"http://127.0.0.1:{server.server_address[1]}"
            assert read_url(f"{base}/{name}") == [{"a": "1"}]
            with pytest.raises(CommandError, match="does not exist"):
                open_input([f"{base}/nosuch.jsonl"])
        finally:
            server.shutdown()
    with pytest.raises(CommandError, match="cannot be opened: ClientConnectorError") as refused:
        open_input([f"{base}/{name}"])
    assert refused.value.exit_code == 65


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:  # type: ignore[override]
        return


def read_url(url: str) -> list[Any]:
    async def main() -> list[Any]:
        opened = open_input([url])
        items = [item async for item in opened.feed]
        await opened.feed.close()
        opened.close()
        return items

    with asyncio.Runner() as runner:
        return runner.run(main())


def test_url_scheme_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(CommandError, match="s3fs"):
        open_input(["s3://bucket/in.jsonl"])


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
        open_input([str(path)])


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_values_are_pythons_own_even_with_pandas(tmp_path: Path, nested: bool) -> None:
    import pyarrow as pa

    second = 1_000_000_000
    columns = {
        "at": pa.array([second], pa.timestamp("ns")),
        "for": pa.array([second], pa.duration("ns")),
        "time": pa.array([second], pa.time64("ns")),
        "zone": pa.array([second], pa.timestamp("ns", "UTC")),
    }
    if nested:
        columns = {"all": pa.StructArray.from_arrays(list(columns.values()), names=list(columns))}
        columns["list"] = pa.array([[second]], pa.list_(pa.timestamp("ns")))
    (item,) = read(parquet(tmp_path / "a.parquet", columns))
    values = [*item["all"].values(), *item["list"]] if nested else list(item.values())
    assert {type(value) for value in values} == {dt.datetime, dt.timedelta, dt.time}
    assert values[0] == dt.datetime(1970, 1, 1, 0, 0, 1)  # noqa: DTZ001  # the column has no zone


def test_int96_timestamps_are_read_in_microseconds(tmp_path: Path) -> None:
    import pyarrow as pa

    days = [dt.datetime(9999, 12, 31), dt.datetime(1000, 1, 1)]  # noqa: DTZ001  # as Spark writes them
    columns = {"end": pa.array(days, pa.timestamp("us"))}
    path = parquet(tmp_path / "a.parquet", columns, use_deprecated_int96_timestamps=True, store_schema=False)
    assert [item["end"] for item in read(path)] == days


@pytest.mark.parametrize(
    ("rows", "values", "claimed", "expected"),
    [
        (3, 3, 4, "its row groups have 3 rows and it claims 4"),
        (3, 2, 3, "column 'a' has 2 values in a row group of 3 rows"),
        (3, 3, -1, "it claims to have -1 rows"),
    ],
)
def test_parquet_footer_that_contradicts_itself_is_refused(rows: int, values: int, claimed: int, expected: str) -> None:
    from flowrt.cli.io.table_reader import _check_counts

    column = SimpleNamespace(num_values=values, path_in_schema="a")
    group = SimpleNamespace(num_rows=rows, num_columns=1, column=lambda _: column)
    schema = SimpleNamespace(column=lambda _: SimpleNamespace(max_repetition_level=0))
    metadata = SimpleNamespace(num_rows=claimed, num_row_groups=1, row_group=lambda _: group, schema=schema)
    with pytest.raises(CommandError, match=expected):
        _check_counts(metadata, "a.parquet")


def test_folder_of_parquet_is_read_with_its_partitions(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_to_dataset(pa.table({"year": [2025, 2026], "n": [1, 2]}), tmp_path / "t.parquet", partition_cols=["year"])
    assert read(tmp_path / "t.parquet") == [{"n": 1, "year": 2025}, {"n": 2, "year": 2026}]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandError, match="is a folder without Parquet files: name the files in it"):
        open_input([str(tmp_path / "empty")])


@pytest.mark.parametrize(("name", "stream"), [("a.arrow", False), ("a.arrows", True), ("a.feather", False)])
def test_arrow_files_and_streams_are_read(tmp_path: Path, name: str, stream: bool) -> None:
    import pyarrow as pa

    table = pa.table({"a": list(range(2000))})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(tmp_path / name), table.schema) as writer:
        writer.write_table(table)
    assert [item["a"] for item in read(tmp_path / name)] == list(range(2000))

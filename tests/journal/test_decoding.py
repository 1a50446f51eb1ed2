"""Decoding of records: a line as flowrt writes it is read quickly, and gives what JSON gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt import BatchResult
from flowrt.journal import decoding
from flowrt.journal.decoding import result_of_line, result_of_record
from flowrt.journal.format import body_of, encode_record

TAIL = {"error": None, "error_type": None, "attempts": 9, "execution_time": 9.0}
outputs = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.just(TAIL),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(sorted(TAIL)), inner),
    max_leaves=8,
)


@given(outputs, st.integers(0, 10**6), st.integers(0, 9), st.floats(0, 1e6))
def test_result_that_ended_ok_is_what_json_says(output: Any, index: int, attempts: int, seconds: float) -> None:
    written = BatchResult(index, None, True, output, attempts=attempts, execution_time=seconds)
    body = body_of(encode_record(written))
    assert body is not None
    assert result_of_record(body) == written
    assert json.loads(body.split(b" ", 3)[3])["output"] == output


def test_line_as_it_is_written_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of(encode_record(BatchResult(3, "in", True, {"a": [1, 2.5, None]}, attempts=2, execution_time=0.25)))
    assert body is not None
    monkeypatch.setattr(decoding, "_load", pytest.fail)
    assert result_of_record(body, "in").output == {"a": [1, 2.5, None]}


GOOD = (
    '{"index": 3, "success": true, "status": "ok", "output": 1, "error": null, "error_type": null, "attempts": 1, '
    '"execution_time": 0.5}\n'
)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("}\n", "}}\n"),
        ("}\n", ', "more": 1}\n'),
        ("}\n", "\n"),
        ('"output": 1', '"output": 1 2'),
        ('"output": 1', '"output": '),
        ('"attempts": 1', '"attempts": 1.5'),
        ('"attempts": 1', '"attempts": 01'),
        ("0.5", '"0.5"'),
        ('"index": 3', '"index": 4'),
        ('"success": true', '"success": 1'),
        ("1", "ä"),
    ],
)
def test_line_that_flowrt_did_not_write_is_refused_or_read_as_json(was: str, now: str) -> None:
    assert result_of_line(3, "ok", GOOD.encode(), None).output == 1
    line = GOOD.replace(was, now, 1).encode()
    try:
        values = json.loads(line)
    except ValueError:
        values = {}
    if values.keys() > json.loads(GOOD).keys():  # a field of a later version
        assert result_of_line(3, "ok", line, None).output == 1
    else:
        with pytest.raises(ValueError, match=r"field|record|Expecting|Extra|decode"):
            result_of_line(3, "ok", line, None)

"""Fingerprint: digests and node names, equal in every process."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from flowrt import BaseNode, FunctionNode, NodeResult
from flowrt.journal import digest_of_file, digest_of_item, name_of_node

ROOT = Path(__file__).resolve().parents[2]


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Place:
    name: str
    tags: frozenset[str]


class Thing:
    pass


class Model:
    """Model with the method of pydantic's."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def model_dump(self, mode: str) -> dict[str, Any]:
        return self.values if mode == "json" else {}


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, "1"),
        (None, 0),
        ({"a": 1}, {"a": 2}),
        ([1, 2], [2, 1]),
        (b"a", b"b"),
        (date(2024, 1, 2), date(2024, 1, 3)),
        (Path("a"), Path("b")),
        (Colour.RED, Colour.BLUE),
        ({"a", "b"}, {"a", "c"}),
        (Place("Oslo", frozenset("a")), Place("Oslo", frozenset("b"))),
        (float("nan"), float("inf")),
        (UUID(int=1), UUID(int=2)),
        (Decimal("1.0"), Decimal("1.5")),
        (timedelta(1), timedelta(2)),
        (deque([1]), deque([2])),
        (np.int64(1), np.int64(2)),
        (np.array([[1, 2]]), np.array([[1, 3]])),
        (Model(a=1), Model(a=2)),
        ([Model(a=UUID(int=1))], [Model(a=UUID(int=2))]),
        ("\ud800", "\ud801"),
    ],
)
def test_different_inputs_have_different_digests(one: Any, other: Any) -> None:
    assert digest_of_item(one) == digest_of_item(one)
    assert digest_of_item(one) != digest_of_item(other)
    assert len(digest_of_item(one)) == 8


@pytest.mark.parametrize("value", [Thing(), [Thing()], CYCLE, {(1, 2): 3}, lambda: None, Thing, Model, np.int64])
def test_objects_without_a_json_form_count_by_type(value: Any) -> None:
    assert digest_of_item(value) == digest_of_item(value)
    assert digest_of_item([Thing(), 1]) == digest_of_item([Thing(), 1])
    assert digest_of_item([Thing(), 1]) != digest_of_item([Thing(), 2])


def test_digest_is_the_same_in_another_process() -> None:
    code = (
        "from flowrt.journal import digest_of_item as d\n"
        "class Thing: pass\n"
        "print([d({'b': 1, 'a': {'x', 'y', 'z', 'w'}, 'thing': [Thing()]}), d('é')])\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_digest_of_file_depends_on_its_content_only(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    digests = []
    for name, data in (("a", content), ("b", content), ("c", content[:-1] + bytes([content[-1] ^ 1])), ("d", b"")):
        (tmp_path / name).write_bytes(data)
        fd = os.open(tmp_path / name, os.O_RDONLY)
        try:
            os.read(fd, 10)
            digests.append(digest_of_file(fd))
            assert os.lseek(fd, 0, os.SEEK_CUR) == min(10, len(data))
        finally:
            os.close(fd)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digests[0].startswith("3000000 bytes, blake2b ")


def test_digest_of_file_begins_at_its_start(tmp_path: Path) -> None:
    digests = []
    for content, start in ((b"content", 0), (b"\xef\xbb\xbfcontent", 3)):
        (tmp_path / "file").write_bytes(content)
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            digests.append(digest_of_file(fd, start))
        finally:
            os.close(fd)
    assert digests[0] == digests[1]


async def fetch(item: Any) -> Any:
    return item


class Crawl(BaseNode):
    async def execute(self, node_context: Any, workflow_context: Any) -> NodeResult:
        return NodeResult(True)


class Fetcher:
    async def __call__(self, item: Any) -> Any:
        return item


@pytest.mark.parametrize(
    ("node", "name", "code"),
    [
        (FunctionNode(fetch), "fetch", "fetch"),
        (FunctionNode(functools.partial(fetch), node_id="other"), "other", "fetch"),
        (FunctionNode(Fetcher()), "Fetcher", "Fetcher"),
        (Crawl("crawl", "http"), "crawl", "Crawl"),
    ],
)
def test_node_is_named_by_its_id_and_the_place_of_its_code(node: BaseNode, name: str, code: str) -> None:
    named = name_of_node(node)
    assert named["node"] == name
    assert named["code"].endswith(f":{code}")
    assert named["node_type"] == node.node_type


async def ask(item: Any, model: str, limit: int = 0) -> Any:
    return item, model, limit


def test_arguments_of_a_partial_are_part_of_the_name() -> None:
    def named(*args: Any, **keywords: Any) -> dict[str, Any]:
        return name_of_node(FunctionNode(functools.partial(ask, *args, **keywords)))

    assert named(model="x") != named(model="y")
    assert named("x") != named("y")
    assert named(model="x", limit=1) == named(limit=1, model="x")
    assert "arguments" not in name_of_node(FunctionNode(ask))

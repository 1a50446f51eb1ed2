"""Node loader: finds the node that `module:node` names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.options.node_loader import load_node

PACKAGE = """
import functools, os, json, math
from flowrt import FunctionNode, BaseNode, NodeResult

class Plain:
    async def __call__(self, item):
        return item

class NeedsKey:
    def __init__(self, key):
        self.key = key

class Abstract(BaseNode):
    pass

class Jobs:
    class nightly:
        @staticmethod
        async def clean(item):
            return item

async def enrich(item):
    return item

hidden = functools.partial(os.system)
wrapped = FunctionNode(os.system)
number = 3
method = [].append
cached = functools.lru_cache(enrich)
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a user's module into the working directory, which is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    path = tmp_path / "userjobs.py"
    path.write_text(PACKAGE)
    yield path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(spec: str) -> str:
    with pytest.raises(CommandError) as caught:
        load_node(spec)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("spec", "node_id"),
    [
        ("userjobs:enrich", "enrich"),
        ("userjobs:Jobs.nightly.clean", "clean"),
        ("userjobs:Plain", "Plain"),
        ("userjobs:cached", "enrich"),
    ],
)
def test_loader_finds_functions_dotted_attributes_and_classes(spec: str, node_id: str) -> None:
    assert load_node(spec).node_id == node_id


def test_working_directory_is_searched_last() -> None:
    load_node("userjobs:enrich")
    assert sys.path[-1] == str(Path.cwd())


@pytest.mark.parametrize(
    "spec",
    [
        "os:system",
        "posix:system",
        "builtins:eval",
        "json:loads",
        "json.decoder:JSONDecoder",
        "__main__:main",
        "userjobs:os.system",
        "userjobs:hidden",
        "userjobs:wrapped",
        "userjobs:math.sqrt",
        "userjobs:method",
        "userjobs:number",
    ],
)
def test_loader_refuses_the_standard_library(spec: str) -> None:
    assert "Python itself" in refused(spec)


def test_refused_standard_library_module_is_not_imported() -> None:
    assert "antigravity" not in sys.modules
    refused("antigravity:fly")
    assert "antigravity" not in sys.modules


def test_missing_module_attribute_and_import_have_own_messages() -> None:
    assert "no module 'nosuch'" in refused("nosuch:node")
    assert "no module 'nosuch'" in refused("nosuch.deeper:node")
    assert "no module 'userjobs.deeper'" in refused("userjobs.deeper:node")
    assert refused("userjobs:enrch") == "module 'userjobs' has no attribute 'enrch': did you mean 'enrich'?"
    assert refused("userjobs:Jobs.weekly") == "object 'userjobs:Jobs' has no attribute 'weekly'"
    Path("importer.py").write_text("\nimport missing_inside\n")
    message = refused("importer:node")
    assert "'importer' was found" in message
    assert "missing_inside" in message
    assert "importer.py, line 2" in message


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\nraise RuntimeError('first\\nsecond')\n", "RuntimeError: first"),
        ("def broken(:\n", "SyntaxError"),
        ("import sys\nsys.exit(7)\n", "SystemExit: 7"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_failing_import_is_one_line_with_file_and_line(code: str, expected: str) -> None:
    Path("failing.py").write_text(code)
    message = refused("failing:node")
    assert expected in message
    assert "failing.py, line" in message


@pytest.mark.parametrize(
    "spec", ["userjobs", "userjobs:", ":enrich", "user-jobs:enrich", "userjobs:a:b", "a/b.py:x", ""]
)
def test_malformed_node_name_is_refused(spec: str) -> None:
    assert "module:node" in refused(spec)


def test_path_in_a_node_name_suggests_the_module_name() -> None:
    assert "jobs.enrich" in refused("jobs/enrich.py:node")
    assert "jobs.enrich" in refused("userjobs.py:enrich")


def test_class_with_arguments_is_refused_with_the_fix() -> None:
    assert "needs arguments" in refused("userjobs:NeedsKey")
    assert "needs arguments" in refused("userjobs:Abstract")

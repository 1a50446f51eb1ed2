"""Node loader: finds the node that `module:node` names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrt import BaseNode
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


@pytest.mark.parametrize("spec", ["userjobs", "userjobs:", ":enrich", "user-jobs:enrich", "userjobs:a-b", ""])
def test_malformed_node_name_is_refused(spec: str) -> None:
    assert "module:node" in refused(spec)


def test_node_is_loaded_from_a_file_with_its_neighbours(module: Path) -> None:
    folder = module.parent / "scripts"
    folder.mkdir()
    (folder / "neighbour.py").write_text("NAME = 'found'\n")
    (folder / "my-job.py").write_text("import neighbour\nasync def echo(item):\n    return neighbour.NAME\n")
    assert load_node("scripts/my-job.py:echo").node_id == "echo"
    assert load_node("./scripts/my-job.py:echo").node_id == "echo"
    assert load_node(f"{folder}/my-job.py:echo").node_id == "echo"
    assert load_node("userjobs.py:enrich").node_id == "enrich"


def test_missing_file_suggests_the_extension() -> None:
    assert refused("./userjobs:enrich") == "no file 'userjobs': did you mean userjobs.py?"
    assert refused("nosuch/jobs.py:enrich") == "no file 'nosuch/jobs.py'"


def test_failing_file_is_one_line_with_file_and_line() -> None:
    Path("my-job.py").write_text("\n1 / 0\n")
    assert refused("my-job.py:x") == (
        f"'my-job.py' cannot be imported: ZeroDivisionError: division by zero ({Path.cwd()}/my-job.py, line 2)"
    )


def test_own_module_named_like_pythons_is_loaded_from_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    import queue

    Path("queue.py").write_text("async def echo(item):\n    return item\n")
    assert load_node("queue:echo").node_id == "echo"
    assert "queue.py is run, not Python's own module 'queue'" in capsys.readouterr().err
    assert sys.modules["queue"] is queue


def test_message_names_the_file_that_shadows_ones_own() -> None:
    Path("click.py").write_text("async def echo(item):\n    return item\n")
    message = refused("click:echoo")
    assert "click/__init__.py; name yours ./click.py:echoo" in message


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("async def node(a, b): ...", "node(a, b)"),
        ("async def node(): ...", "node()"),
        ("def node(*, item): ...", "node(*, item)"),
        ("class node:\n    def __call__(self, a, b): ...", "node(a, b)"),
        ("import functools\nnode = functools.partial(lambda a, b: a, 1, 2)", "partial()"),
    ],
)
def test_function_of_the_wrong_arity_is_refused_with_its_signature(code: str, expected: str) -> None:
    Path("wrong.py").write_text(f"{code}\n")
    message = refused("wrong.py:node")
    assert f"wrong.py:node must take one argument, the item: {expected} does not" in message


@pytest.mark.parametrize(
    "code",
    [
        "async def node(item, retries=3): ...",
        "def node(*items): ...",
        "import functools\nasync def two(a, b): ...\nnode = functools.partial(two, b=1)",
        "class node:\n    def __call__(self, item): ...",
        "class Node:\n    async def run(self, item): ...\nnode = Node().run",
    ],
)
def test_function_that_takes_one_item_is_accepted(code: str) -> None:
    Path("right.py").write_text(f"{code}\n")
    assert isinstance(load_node("right.py:node"), BaseNode)


@pytest.mark.parametrize("code", ["async def node(item):\n    yield 1", "def node(item):\n    yield 1"])
def test_generator_function_is_refused(code: str) -> None:
    Path("generator.py").write_text(f"{code}\n")
    assert "generator function: calling it runs none of its body; return a value" in refused("generator.py:node")


def test_factory_makes_the_node() -> None:
    Path("made.py").write_text(
        "def make():\n    async def inner(item):\n        return item\n    return inner\n"
        "def nothing(): ...\nasync def later(): ...\ndef broken():\n    raise KeyError('token')\nnumber = 3\n"
    )
    assert load_node("made.py:make", factory=True).node_id == "inner"
    for name, expected in (
        ("nothing", "made no node"),
        ("later", "async factory"),
        ("broken", "failed to make the node: KeyError: 'token'"),
        ("number", "leave out --factory"),
    ):
        with pytest.raises(CommandError, match=expected):
            load_node(f"made.py:{name}", factory=True)


def test_class_with_arguments_is_refused_with_the_fix() -> None:
    assert "needs arguments" in refused("userjobs:NeedsKey")
    assert "needs arguments" in refused("userjobs:Abstract")

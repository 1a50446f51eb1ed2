"""Node loader: finds the node that `module:name` or `path/to/file.py:name` names."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from flowrt.cli.exit_codes import CommandError, say
from flowrt.model.foreign_node import as_node
from flowrt.model.node import BaseNode, FunctionNode

__all__ = ["load_node"]


def load_node(spec: str, *, factory: bool = False) -> BaseNode:
    """Load a node. Its name may be dotted; a class is instantiated without arguments.

    The working directory is searched last, so that nothing in it hides an installed package. A module there with the
    name of one of Python's is loaded from its file, under another name.

    Args:
        spec: For example `enrich:node`, `jobs.nightly:Pipelines.clean` or `./scripts/my-job.py:run`.
        factory: The name belongs to a function that makes the node.

    Raises:
        CommandError: The node cannot be found, imported or called with an item, or belongs to Python itself.
    """
    module_name, colon, path = spec.rpartition(":")
    if not colon or not module_name or not path:
        raise CommandError(f"a node is named as module:node, for example enrich:node, not {spec!r}")
    is_path = _is_path(module_name)
    for part in path.split(".") if is_path else [*module_name.split("."), *path.split(".")]:
        if not part.isidentifier():
            raise CommandError(f"a node is named as module:node, and {part!r} in {spec!r} is not a name")
    node: Any
    if is_path:
        node = _import_file(Path(module_name))
    elif _is_stdlib(module_name):
        node = _import_shadowed(module_name, spec)
    else:
        node = _import(module_name)
    walked = module_name
    for part in path.split("."):
        try:
            node = getattr(node, part)
        except AttributeError:
            raise CommandError(_missing(node, walked, part)) from None
        walked = f"{walked}:{part}" if walked == module_name else f"{walked}.{part}"
    return _node_of(_call_factory(node, spec) if factory else node, spec)


def _is_path(module_name: str) -> bool:
    return module_name.endswith(".py") or "/" in module_name or os.sep in module_name


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own. Its folder is searched last, so that it can import its neighbours."""
    if not path.is_file():
        hint = f": did you mean {path}.py?" if path.with_name(f"{path.name}.py").is_file() else ""
        raise CommandError(f"no file {str(path)!r}{hint}")
    name = re.sub(r"\W", "_", path.stem)
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"flowrt_node_{name}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise CommandError(f"{str(path)!r} is not a Python file: name one that ends in .py")
    _search_last(str(path.parent.resolve()))
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        del sys.modules[name]
        raise CommandError(f"{str(path)!r} cannot be imported: {_describe_error(exc)}") from exc
    return module


def _import_shadowed(module_name: str, spec: str) -> ModuleType:
    """Import a file of the working directory that has the name of a module of Python, if there is one."""
    path = Path(*module_name.split(".")).with_suffix(".py")
    if not path.is_file():
        raise CommandError(f"{spec}: {module_name!r} belongs to Python itself: only your own code is run")
    say(f"{spec}: {path} is run, not Python's own module {module_name!r}; ./{path}:... is unambiguous")
    return _import_file(path)


def _search_last(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()


def _import(name: str) -> ModuleType:
    cwd = os.getcwd()  # noqa: PTH109  # sys.path holds strings
    _search_last(cwd)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise CommandError(
                f"no module {exc.name!r}: it is neither installed nor in the working directory {cwd}"
            ) from exc
        raise CommandError(f"module {name!r} was found, but it cannot be imported: {_describe_error(exc)}") from exc
    except (Exception, SystemExit) as exc:
        raise CommandError(f"module {name!r} was found, but it cannot be imported: {_describe_error(exc)}") from exc


def _describe_error(exc: BaseException) -> str:
    """Describe the error on one line, with the line of the user's code that raised it."""
    text = " ".join(part.strip() for part in traceback.format_exception_only(exc)[-1].splitlines())
    if isinstance(exc, SyntaxError):
        return f"{text} ({exc.filename}, line {exc.lineno})"
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if not f.filename.startswith("<frozen")]
    last = frames[-1]
    return text if last.filename in (__file__, importlib.__file__) else f"{text} ({last.filename}, line {last.lineno})"


def _missing(owner: Any, walked: str, part: str) -> str:
    kind, where = "object", ""
    if isinstance(owner, ModuleType):
        kind = "module"
        file = getattr(owner, "__file__", None)
        own = Path(*walked.split(".")).with_suffix(".py")
        if file is not None and not _is_path(walked) and own.is_file() and not own.samefile(file):
            where = f", which is {file}; name yours ./{own}:{part}"
    near = difflib.get_close_matches(part, [name for name in dir(owner) if not name.startswith("_")], n=1)
    return f"{kind} {walked!r} has no attribute {part!r}{where}" + (f": did you mean {near[0]!r}?" if near else "")


def _call_factory(factory: Any, spec: str) -> Any:
    if not callable(factory):
        raise CommandError(f"{spec} is not a function that makes a node: leave out --factory")
    try:
        node = factory()
    except Exception as exc:
        raise CommandError(f"{spec} failed to make the node: {_describe_error(exc)}") from exc
    if inspect.iscoroutine(node):
        node.close()
        raise CommandError(f"{spec} is a node, or an async factory: leave out --factory, or make it a plain function")
    if node is None:
        raise CommandError(f"{spec} made no node: let it return one, or leave out --factory")
    return node


def _node_of(found: Any, spec: str) -> BaseNode:
    if _is_stdlib(_defining_module(found)):
        raise CommandError(f"{spec} belongs to Python itself: wrap it in a function of your own")
    if isinstance(found, type):
        try:
            found = found()
        except Exception as exc:
            raise CommandError(
                f"{spec} is a class that needs arguments: {_describe_error(exc)}; name an instance, or a function that "
                "makes one with --factory"
            ) from exc
    try:
        node = as_node(found)
    except TypeError as exc:
        raise CommandError(f"{spec} is not a node: {exc}") from exc
    if isinstance(node, FunctionNode):
        _check_function(node.fn, spec)
    return node


def _check_function(function: Any, spec: str) -> None:
    """Refuse a function that cannot be called with one item, or would return a generator, before the first item."""
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise CommandError(f"{spec} is a generator function, whose body would never run: return a list instead")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function may have none
        return
    try:
        signature.bind(None)
    except TypeError as exc:
        name = getattr(function, "__qualname__", None) or type(function).__name__
        raise CommandError(
            f"{spec} must take one argument, the item: {name}{signature} does not ({exc}); pass other arguments by "
            "functools.partial"
        ) from exc


def _defining_module(found: Any) -> str:
    """Return the name of the module that defines the callable."""
    while isinstance(found, (functools.partial, FunctionNode)):
        found = found.func if isinstance(found, functools.partial) else found.fn
    home = getattr(found, "__module__", None)
    if not isinstance(home, str):  # a method of a built-in object has no __module__
        home = type(found).__module__
    return home


def _is_stdlib(module_name: str) -> bool:
    top = module_name.partition(".")[0]
    return top in sys.stdlib_module_names or top == "__main__"

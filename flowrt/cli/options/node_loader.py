"""Node loader: finds the node that `module:node` names."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import sys
import traceback
from types import ModuleType
from typing import Any

from flowrt.cli.exit_codes import CommandError
from flowrt.model.node import BaseNode, FunctionNode, as_node

__all__ = ["load_node"]


def load_node(spec: str) -> BaseNode:
    """The node that `module:node` names; the attribute may be dotted, a class is instantiated without arguments.

    The working directory is searched last, so nothing in it hides an installed package or the standard library.

    Args:
        spec: For instance `enrich:node` or `jobs.nightly:Pipelines.clean`.

    Raises:
        CommandError: It cannot be found, cannot be imported, is no node, or belongs to Python itself.
    """
    module_name, colon, path = spec.partition(":")
    if not colon or not module_name or not path:
        raise CommandError(f"a node is named as module:node, for example enrich:node, not {spec!r}")
    for part in (*module_name.split("."), *path.split(".")):
        if not part.isidentifier():
            raise CommandError(
                f"a node is named as module:node, and {part!r} in {spec!r} is not a name{_path_hint(spec)}"
            )
    if _is_stdlib(module_name):
        raise CommandError(f"{spec}: {module_name!r} belongs to Python itself: only your own code is run")
    found: Any = _import(module_name)
    walked = module_name
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(_missing(found, walked, part)) from None
        walked = f"{walked}:{part}" if walked == module_name else f"{walked}.{part}"
    return _node_of(found, spec)


def _import(name: str) -> ModuleType:
    cwd = os.getcwd()  # noqa: PTH109  # sys.path holds strings
    if cwd not in sys.path:
        sys.path.append(cwd)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            where = f"it is neither installed nor in the working directory {cwd}{_path_hint(name)}"
            raise CommandError(f"no module {exc.name!r}: {where}") from exc
        raise CommandError(f"module {name!r} was found, but it cannot be imported: {_describe_error(exc)}") from exc
    except (Exception, SystemExit) as exc:
        raise CommandError(f"module {name!r} was found, but it cannot be imported: {_describe_error(exc)}") from exc


def _path_hint(text: str) -> str:
    is_path = "/" in text or text.partition(":")[0].endswith(".py")
    return "; a module is named as in an import: jobs/enrich.py is jobs.enrich" if is_path else ""


def _describe_error(exc: BaseException) -> str:
    """Describe the error on one line, with the line of the user's code that raised it."""
    text = " ".join(part.strip() for part in traceback.format_exception_only(exc)[-1].splitlines())
    if isinstance(exc, SyntaxError):
        return f"{text} ({exc.filename}, line {exc.lineno})"
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if not f.filename.startswith("<frozen")]
    last = frames[-1]
    return text if last.filename in (__file__, importlib.__file__) else f"{text} ({last.filename}, line {last.lineno})"


def _missing(owner: Any, walked: str, part: str) -> str:
    kind = "module" if isinstance(owner, ModuleType) else "object"
    near = difflib.get_close_matches(part, [name for name in dir(owner) if not name.startswith("_")], n=1)
    return f"{kind} {walked!r} has no attribute {part!r}" + (f": did you mean {near[0]!r}?" if near else "")


def _node_of(found: Any, spec: str) -> BaseNode:
    if _is_stdlib(_defining_module(found)):
        raise CommandError(f"{spec} belongs to Python itself: wrap it in a function of your own")
    if isinstance(found, type):
        try:
            found = found()
        except Exception as exc:
            raise CommandError(
                f"{spec} is a class that needs arguments: {_describe_error(exc)}; name an instance"
            ) from exc
    try:
        return as_node(found)
    except TypeError as exc:
        raise CommandError(f"{spec} is not a node: {exc}") from exc


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

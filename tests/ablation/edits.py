"""Changes to a function while it is loaded: parts of its syntax tree are replaced, whatever its text looks like."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["Undo", "edit"]

Undo = Callable[[], None]


def edit(owner: Any, name: str, *changes: tuple[str, str]) -> Undo:
    """Replace parts of a function, in its class or in every module of flowrt that has imported it.

    Args:
        owner: The class or module that the function is in.
        name: The function's name.
        changes: What is there and what stands in its place, both as code: one expression, or statements that follow
            each other. Names, numbers and structure have to agree; layout and comments do not.

    Returns:
        A function that puts everything back.

    Raises:
        LookupError: What is to be replaced is not there, or more than once.
    """
    before = inspect.getattr_static(owner, name)
    function = before.fget if isinstance(before, property) else before
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for there, gone in changes:
        _replace(tree, there, gone, f"{getattr(owner, '__name__', owner)}.{name}")
    definition = tree.body[0]
    assert isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef))
    definition.decorator_list = []
    namespace: dict[str, Any] = {}
    module = sys.modules[function.__module__]
    exec(compile(ast.fix_missing_locations(tree), f"<{name} without a safeguard>", "exec"), vars(module), namespace)  # noqa: S102
    edited: FunctionType = namespace[name]
    edited.__qualname__ = function.__qualname__
    after: Any = property(edited) if isinstance(before, property) else edited
    owners = [owner]
    if isinstance(owner, ModuleType):
        modules = [each for key, each in list(sys.modules.items()) if key.startswith("flowrt") and each is not owner]
        owners += [each for each in modules if vars(each).get(name) is function]
    for each in owners:
        setattr(each, name, after)

    def undo() -> None:
        for each in owners:
            setattr(each, name, before)

    return undo


class _Replacer(ast.NodeTransformer):
    def __init__(self, there: list[ast.stmt], gone: list[ast.stmt]) -> None:
        self.count = 0
        self._expression = there[0].value if len(there) == 1 and isinstance(there[0], ast.Expr) else None
        self._substitute = gone[0].value if len(gone) == 1 and isinstance(gone[0], ast.Expr) else None
        self._there = [ast.dump(statement) for statement in there]
        self._gone = gone

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, self._in_block(statements))
        return super().generic_visit(node)

    def _in_block(self, statements: list[Any]) -> list[Any]:
        length = len(self._there)
        for place in range(len(statements) - length + 1):
            if [ast.dump(each) for each in statements[place : place + length]] == self._there:
                self.count += 1
                return [*statements[:place], *self._gone, *statements[place + length :]]
        return statements

    def visit(self, node: ast.AST) -> Any:
        expression, substitute = self._expression, self._substitute
        if expression is not None and substitute is not None and ast.dump(node) == ast.dump(expression):
            self.count += 1
            return substitute
        return super().visit(node)


def _replace(tree: ast.AST, there: str, gone: str, where: str) -> None:
    wanted = ast.parse(textwrap.dedent(there)).body
    # a fragment may await: parse it as the body of a coroutine function
    substitute = ast.parse("async def _():\n" + textwrap.indent(textwrap.dedent(gone) or "pass", "    ")).body[0]
    if "await " in there:
        wrapped = ast.parse("async def _():\n" + textwrap.indent(textwrap.dedent(there), "    ")).body[0]
        wanted = wrapped.body  # type: ignore[attr-defined]
    replacer = _Replacer(wanted, substitute.body)  # type: ignore[attr-defined]
    replacer.visit(tree)
    if replacer.count != 1:
        raise LookupError(f"{where} holds {replacer.count} times what is to be replaced: {there}")

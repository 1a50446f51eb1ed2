"""Edits of loaded functions: parts of the syntax tree are replaced, so the layout of the source does not matter."""

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
        owner: Class or module of the function.
        name: Name of the function.
        changes: Pairs of the code to replace and its replacement: one expression, or statements that follow each
            other. The code must have the same syntax tree; layout and comments may differ.

    Returns:
        A function that restores the original.

    Raises:
        LookupError: The function does not have the code exactly once.
    """
    before = inspect.getattr_static(owner, name)
    function = before.fget if isinstance(before, property) else before
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for code, replacement in changes:
        _replace(tree, code, replacement, f"{getattr(owner, '__name__', owner)}.{name}")
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
    def __init__(self, code: list[ast.stmt], replacement: list[ast.stmt]) -> None:
        self.count = 0
        self._expression = code[0].value if len(code) == 1 and isinstance(code[0], ast.Expr) else None
        self._substitute = (
            replacement[0].value if len(replacement) == 1 and isinstance(replacement[0], ast.Expr) else None
        )
        self._code = [ast.dump(statement) for statement in code]
        self._replacement = replacement

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, self._in_block(statements))
        return super().generic_visit(node)

    def _in_block(self, statements: list[Any]) -> list[Any]:
        length = len(self._code)
        for place in range(len(statements) - length + 1):
            if [ast.dump(each) for each in statements[place : place + length]] == self._code:
                self.count += 1
                return [*statements[:place], *self._replacement, *statements[place + length :]]
        return statements

    def visit(self, node: ast.AST) -> Any:
        expression, substitute = self._expression, self._substitute
        if expression is not None and substitute is not None and ast.dump(node) == ast.dump(expression):
            self.count += 1
            return substitute
        return super().visit(node)


def _replace(tree: ast.AST, code: str, replacement: str, where: str) -> None:
    wanted = ast.parse(textwrap.dedent(code)).body
    # a fragment may await: parse it as the body of a coroutine function
    substitute = ast.parse("async def _():\n" + textwrap.indent(textwrap.dedent(replacement) or "pass", "    ")).body[0]
    if "await " in code:
        wrapped = ast.parse("async def _():\n" + textwrap.indent(textwrap.dedent(code), "    ")).body[0]
        wanted = wrapped.body  # type: ignore[attr-defined]
    replacer = _Replacer(wanted, substitute.body)  # type: ignore[attr-defined]
    replacer.visit(tree)
    if replacer.count != 1:
        raise LookupError(f"{where} has this code {replacer.count} times, not once: {code}")

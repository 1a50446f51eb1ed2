"""Checks the package's layout: no import circle, bounded import chains, bounded modules.

`python -m tools.layout` prints what it measured and fails where a bound is broken. Imports for type hints count: a
module that cannot be understood without another depends on it. Imports inside functions do not, as they are how a
command loads only what it needs; import-linter checks their direction.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
MAX_CHAIN = 18


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / "flowrt").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, names: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports at its top level, under TYPE_CHECKING too."""
    found: set[str] = set()
    pending: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        statement = pending.pop()
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                submodule = f"{statement.module}.{alias.name}"
                found.add(submodule if submodule in names else statement.module)
        elif isinstance(statement, (ast.If, ast.Try)):
            pending += [each for each in ast.iter_child_nodes(statement) if isinstance(each, ast.stmt)]
    return found & set(names)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Import circles, one for each edge that closes one."""
    found: list[list[str]] = []
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
            return
        if name in done:
            return
        path.append(name)
        for target in sorted(graph[name]):
            visit(target)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)
    return found


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest chain of imports; the graph must have no circle."""

    @cache
    def below(name: str) -> tuple[str, ...]:
        return (name, *max((below(target) for target in graph[name]), key=len, default=()))

    return list(max((below(name) for name in graph), key=len))


def main() -> int:
    """Print what was measured; returns 1 where a bound is broken."""
    names = modules()
    graph = {name: imports(path, names) - {name} for name, path in names.items()}
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in names.items()}
    problems = [f"import circle: {' -> '.join(circle)}" for circle in circles(graph)]
    chain: list[str] = []
    if not problems:
        chain = longest_chain(graph)
        if len(chain) > MAX_CHAIN:
            problems.append(f"import chain of {len(chain)} modules, at most {MAX_CHAIN}: {' -> '.join(chain)}")
    problems += [f"{name} has {count} lines, at most {MAX_LINES}" for name, count in lines.items() if count > MAX_LINES]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    sys.stdout.write(
        f"{len(names)} modules, {sum(lines.values()):,} lines, longest chain {len(chain)}, {len(problems)} problems\n"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m dashboards.generator.lint [FILE ...]`: problems of the dashboards and their fixes; by default of all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dashboards.generator.files import FOLDER
from dashboards.generator.lint import lint


def main(arguments: list[str]) -> int:
    """Print the findings of the linter.

    Args:
        arguments: Paths of JSON files; empty for all dashboards.

    Returns:
        Exit code: 0 no findings, 1 findings, 2 a file cannot be read.
    """
    paths = [Path(argument) for argument in arguments] or sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
    boards = {}
    for path in paths:
        try:
            boards[path.name] = json.loads(path.read_text())
        except (OSError, ValueError) as exc:
            sys.stderr.write(f"{path}: cannot be read as JSON: {exc}\n")
            return 2
    findings = lint(boards, whole=not arguments)
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    sys.stderr.write(f"{len(boards)} dashboards, {len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

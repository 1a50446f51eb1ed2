"""The linter of the dashboards: `python -m dashboards.generator.lint`."""

from __future__ import annotations

from dashboards.generator.lint.findings import Board, Finding
from dashboards.generator.lint.structure import lint

__all__ = ["Board", "Finding", "lint"]

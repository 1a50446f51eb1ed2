"""The linter of the dashboards: `python -m dashboards.lint`."""

from __future__ import annotations

from dashboards.lint.findings import Board, Finding
from dashboards.lint.structure import lint

__all__ = ["Board", "Finding", "lint"]

"""The journal: an append-only log of finished items that survives kills and lets a later run resume.

Measurements favoured an append-only log over SQLite. The module `format` documents its bytes, `recovery` how damage is
handled.
"""

import importlib
from typing import TYPE_CHECKING, Any

from flowrt.journal.fingerprint import digest_of_file, digest_of_item, name_of_node
from flowrt.journal.journal import KEPT, Journal
from flowrt.journal.policy import JournalPolicy
from flowrt.journal.repair import salvage

if TYPE_CHECKING:
    from flowrt.journal.inspection import JournalSummary, export, lines, records, summary

__all__ = [
    "KEPT",
    "Journal",
    "JournalPolicy",
    "JournalSummary",
    "digest_of_file",
    "digest_of_item",
    "export",
    "lines",
    "name_of_node",
    "records",
    "salvage",
    "summary",
]

_LATER = ("JournalSummary", "export", "lines", "records", "summary")
"""Names of the inspection module, which no batch needs; it is imported at the first access."""


if not TYPE_CHECKING:  # a module-level __getattr__ would hide misspelt names from the type checker

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'flowrt.journal' has no attribute {name!r}")
        return getattr(importlib.import_module("flowrt.journal.inspection"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})

"""The journal: an append log of finished items that survives kills, and that a later run resumes from.

An append log, not SQLite, by measurement: see the module `format` for its bytes and `scan` for what is made of damage.
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
"""Names for looking into a journal, which no batch does: their module is imported when somebody asks for one."""


if not TYPE_CHECKING:  # or a slip in a name would pass

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'flowrt.journal' has no attribute {name!r}")
        return getattr(importlib.import_module("flowrt.journal.inspection"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})

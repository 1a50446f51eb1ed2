"""The journal: an append log of finished items that survives kills, and that a later run resumes from.

An append log, not SQLite, by measurement: see the module `format` for its bytes and `scan` for what is made of damage.
"""

from flowrt.journal.fingerprint import digest_of_file, digest_of_item, name_of_node
from flowrt.journal.journal import KEPT, Journal
from flowrt.journal.policy import JournalPolicy
from flowrt.journal.reading import JournalSummary, export, records, summary
from flowrt.journal.salvage import salvage

__all__ = [
    "KEPT",
    "Journal",
    "JournalPolicy",
    "JournalSummary",
    "digest_of_file",
    "digest_of_item",
    "export",
    "name_of_node",
    "records",
    "salvage",
    "summary",
]

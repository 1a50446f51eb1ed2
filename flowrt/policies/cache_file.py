"""SQLite file of a cache. Its methods block, and any thread may call them."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Collection, Mapping
from typing import Final

from flowrt.policies.cache import Cache

__all__ = ["CacheFile"]

_APPLICATION: Final = 0x666C6F77  # "flow", SQLite's mark of a file's kind
_BUSY_S: Final = 5.0  # longest wait for another process
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS outputs (key BLOB PRIMARY KEY, text TEXT NOT NULL, stored REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS outputs_by_age ON outputs (stored)",
)


class CacheFile:
    """Open file of a cache, with a rollback journal: SQLite's WAL before 3.51 is unsafe with several processes.

    Args:
        cache: Path and bounds of the cache.

    Raises:
        ValueError: The file exists and is not a cache.
        OSError: The file cannot be created.
        sqlite3.Error: The file cannot be read.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        path = str(cache.path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # outputs may be secret
        self._connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            self._set_up(path)
        except BaseException:
            self._connection.close()
            raise

    def _set_up(self, path: str) -> None:
        execute = self._connection.execute
        refusal = f"{path} is not a cache of flowrt: name another file"
        try:
            execute("BEGIN IMMEDIATE")  # another batch may be making the same file: see it empty or complete
            (application,) = execute("PRAGMA application_id").fetchone()
            (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as exc:
            if type(exc) is sqlite3.DatabaseError:  # "file is not a database"; its subclasses are other troubles
                raise ValueError(refusal) from exc
            raise
        if tables and application != _APPLICATION:
            raise ValueError(refusal)
        for statement in (f"PRAGMA application_id = {_APPLICATION}", *_SCHEMA):
            execute(statement)
        if self._cache.ttl is not None:
            execute("DELETE FROM outputs WHERE stored <= ?", (self._cache.clock() - self._cache.ttl,))
        execute("COMMIT")

    def exchange(self, keys: Collection[bytes], puts: Mapping[bytes, str]) -> dict[bytes, str]:
        """Store outputs in one transaction, and read others.

        Args:
            keys: Keys to read.
            puts: Outputs to store, as JSON by key.

        Returns:
            The stored outputs that are not too old, as JSON by key.
        """
        found: dict[bytes, str] = {}
        with self._lock:
            if puts:
                self._store(puts)
            for key in keys:
                row = self._connection.execute("SELECT text, stored FROM outputs WHERE key = ?", (key,)).fetchone()
                if row is not None and not self._cache.is_old(row[1]):
                    found[key] = row[0]
        return found

    def _store(self, puts: Mapping[bytes, str]) -> None:
        connection, now_s = self._connection, self._cache.clock()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)", [(key, text, now_s) for key, text in puts.items()]
            )
            (count,) = connection.execute("SELECT count(*) FROM outputs").fetchone()
            if (surplus := count - self._cache.max_items) > 0:
                connection.execute(
                    "DELETE FROM outputs WHERE key IN (SELECT key FROM outputs ORDER BY stored LIMIT ?)", (surplus,)
                )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

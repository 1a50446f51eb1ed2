"""Cache: construction, bounds and age, in memory and in a file."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from flowrt import Cache
from flowrt.policies.cache_file import CacheFile


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_cache_setting_takes_a_cache_a_path_or_true() -> None:
    cache = Cache()
    assert Cache.of(cache) is cache
    assert Cache.of(None) is Cache.of(False) is None
    assert Cache.of(True).path is None
    assert Cache.of("outputs.db").path == Path("outputs.db")
    with pytest.raises(ValueError, match=r"cache must be a flowrt\.Cache.*not 5"):
        Cache.of(5)


@pytest.mark.parametrize("settings", [{"ttl": 0}, {"ttl": "1 h"}, {"max_items": 0}, {"max_items": 1.5}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Cache(**settings)


def test_output_is_used_until_it_is_too_old() -> None:
    clock = Clock()
    cache = Cache(ttl=60, clock=clock)
    cache.put(b"a", "1")
    clock.now += 59.9
    assert cache.get(b"a") == "1"
    clock.now += 0.1
    assert cache.get(b"a") is None
    assert len(cache) == 0


def test_output_that_was_unused_for_longest_goes_first() -> None:
    cache = Cache(max_items=2)
    cache.put(b"a", "1")
    cache.put(b"b", "2")
    assert cache.get(b"a") == "1"
    cache.put(b"c", "3")
    assert [cache.get(key) for key in (b"a", b"b", b"c")] == ["1", None, "3"]


def test_file_keeps_the_newest_outputs(tmp_path: Path) -> None:
    clock = Clock()
    file = CacheFile(Cache(tmp_path / "outputs.db", max_items=2, clock=clock))
    for key in (b"d", b"a", b"c", b"b"):
        clock.now += 1
        file.exchange([], {key: f"of {key.decode()}"})
    assert file.exchange([b"a", b"b", b"c", b"d"], {}) == {b"b": "of b", b"c": "of c"}
    file.close()


def test_file_gives_and_keeps_nothing_that_is_too_old(tmp_path: Path) -> None:
    clock = Clock()
    cache = Cache(tmp_path / "outputs.db", ttl=60, clock=clock)
    file = CacheFile(cache)
    file.exchange([], {b"a": "1"})
    assert file.exchange([b"a"], {}) == {b"a": "1"}
    clock.now += 60
    assert file.exchange([b"a"], {}) == {}
    file.close()
    CacheFile(cache).close()
    connection = sqlite3.connect(tmp_path / "outputs.db")
    assert connection.execute("SELECT count(*) FROM outputs").fetchone() == (0,)
    connection.close()


def test_file_reads_thousands_of_keys_at_once(tmp_path: Path) -> None:
    file = CacheFile(Cache(tmp_path / "outputs.db"))
    outputs = {number.to_bytes(4): str(number) for number in range(2_500)}
    assert file.exchange(outputs, outputs) == outputs
    file.close()


def test_file_is_opened_while_another_batch_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, refused = Cache(tmp_path / "outputs.db"), []

    def open_too() -> None:
        try:
            CacheFile(cache).close()
        except Exception as exc:
            refused.append(exc)

    other = threading.Thread(target=open_too)

    class Interrupted(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if "sqlite_master" in sql and other.ident is None:
                other.start()
                other.join(0.3)  # it is done by now, or waits for this one
            return super().execute(sql, *arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Interrupted, **options))
    CacheFile(cache).close()
    other.join()
    assert refused == []


def test_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    CacheFile(Cache(tmp_path / "outputs.db")).close()
    assert (tmp_path / "outputs.db").stat().st_mode & 0o777 == 0o600


def test_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be taken for one: " + 100 * "x")
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="is not a cache of flowrt"):
            CacheFile(Cache(path))
        assert path.read_bytes() == before

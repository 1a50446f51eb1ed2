"""Lines with a valid checksum that flowrt did not write: damage with an offset, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowrt.errors import JournalDamagedError
from flowrt.journal import Journal, export, lines, records, salvage, summary
from flowrt.journal.format import MAGIC, encode_marker, encode_record, sealed
from tests.journal.harness import FINGERPRINT, item, restored, write

FIELDS = b'"error": null, "error_type": null, "execution_time": 1.0, "attempts": 1, "output": 1'
OTHER_STRUCTURE = [
    b'0 resumed - {"index": 0}\n', b"0 ok\n", b"0 ok -\n", b"x ok - {}\n", b"-1 ok - {}\n", b"\xff ok - {}\n",
    b" 0 ok - {}\n", b"\n", b"@\n", b"@ 1\n", b"@ x 5\n", b"@ 1 2 3\n", b"@ -1 0\n",
]  # fmt: skip
OTHER_CONTENT = [
    b"0 ok - \n", b"0 ok - {}\n", b"0 ok - []\n", b"0 ok - nonsense\n", b"0 ok - 5\n",
    b"0 ok - " + b"[" * 100_000 + b"\n",
    b'0 ok - {"index": 5, "success": true, "status": "ok", ' + FIELDS + b"}\n",
    b'0 ok - {"index": 0, "success": false, "status": "ok", ' + FIELDS + b"}\n",
    b'0 ok - {"index": 0, "success": true, "status": "failed", ' + FIELDS + b"}\n",
    b'0 ok - {"index": "0", "success": true, "status": "ok", ' + FIELDS + b"}\n",
    b'0 ok - {"index": 0, "success": 1, "status": "ok", ' + FIELDS + b"}\n",
]  # fmt: skip


def short(body: bytes) -> str:
    return repr(body[:40])


@pytest.fixture(params=[False, True], ids=["at the end", "before a group"])
def crafted(request: pytest.FixtureRequest, path: Path) -> tuple[Path, int]:
    """A journal of item 0 with a line of the test's own, at the returned offset."""
    write(path, [item(0)])
    body: bytes = request.node.callspec.params["body"]
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(sealed(body))
        if request.param:
            record = encode_record(item(3))
            file.write(encode_marker(file.tell(), len(record)) + record)
    return path, offset


@pytest.mark.parametrize("body", OTHER_STRUCTURE, ids=short)
def test_line_of_another_structure_is_damage(crafted: tuple[Path, int], body: bytes) -> None:
    path, offset = crafted
    for read in (lambda: Journal(path, FINGERPRINT), lambda: list(records(path)), lambda: list(export(path))):
        with pytest.raises(JournalDamagedError, match=f"damaged at offset {offset}") as caught:
            read()
        assert caught.value.offset == offset
    assert summary(path).damaged_at == offset
    assert len(list(records(path, skip_damaged=True))) == len(list(lines(path, skip_damaged=True))) >= 1


@pytest.mark.parametrize("body", OTHER_CONTENT, ids=short)
def test_record_of_other_content_is_damage_when_it_is_used(crafted: tuple[Path, int], body: bytes) -> None:
    path, offset = crafted
    message = f"damaged at offset {offset}.*not a line that flowrt writes"
    with Journal(path, FINGERPRINT) as journal, pytest.raises(JournalDamagedError, match=message):
        journal.restore(0, {"x": 0})
    with pytest.raises(JournalDamagedError, match=f"damaged at offset {offset}"):
        list(records(path))
    assert all(result.output == {"v": result.index} for result in records(path, skip_damaged=True))


@pytest.mark.parametrize("body", OTHER_STRUCTURE + OTHER_CONTENT, ids=short)
def test_salvage_leaves_foreign_lines_out(crafted: tuple[Path, int], body: bytes, tmp_path: Path) -> None:
    path, _ = crafted
    new = tmp_path / "new.journal"
    assert salvage(path, new) >= len(sealed(body))
    assert restored(new, [0])[0] == "resumed"


@pytest.mark.parametrize(
    "header",
    [
        b"1 {}\n", b"1 []\n", b"1 nonsense\n", b"x {}\n", b"\n", b"1 " + b"[" * 100_000 + b"\n",
        b'1 {"created": 1, "flowrt": "2", "fingerprint": {}}\n',
        b'1 {"created": "1", "flowrt": "2", "fingerprint": []}\n',
    ],
    ids=short,
)  # fmt: skip
def test_foreign_first_line_is_damage(header: bytes, path: Path) -> None:
    path.write_bytes(MAGIC + sealed(header))
    for read in (
        lambda: Journal(path, FINGERPRINT),
        lambda: summary(path),
        lambda: salvage(path, path.with_suffix(".new")),
    ):
        with pytest.raises(JournalDamagedError, match="damaged at offset 0, in its first line"):
            read()

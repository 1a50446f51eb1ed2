"""Standard error that goes to a file, read while it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flowrt.executors.stderr_file import read_lines


def test_only_whole_new_lines_are_read_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "worker.err"
    file.write_bytes(b":job_id:01\n:actor_name:RayWorker\nfirst\nsec")
    lines, position = read_lines(str(file), 0)
    assert lines == ["first"]
    assert read_lines(str(file), position) == ([], position)
    with file.open("ab") as more:
        more.write(b"ond \nthird")
    lines, position = read_lines(str(file), position)
    assert lines == ["second"]
    assert read_lines(str(file), position, whole=True)[0] == ["third"]


def test_flood_is_cut_to_its_latest_part_and_a_long_line_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "worker.err"
    file.write_bytes(b"".join(b"%d\n" % number for number in range(100_000)))
    lines, position = read_lines(str(file), 0)
    assert lines[-1] == "99999"
    assert sum(map(len, lines)) < 65_536
    assert position == file.stat().st_size
    file.write_bytes(b"x" * 200_000)
    lines, position = read_lines(str(file), 0)
    assert [len(line) for line in lines] == [65_536]
    assert position == 200_000


def test_file_that_is_gone_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(str(tmp_path / "gone"), 7) == ([], 7)


def test_own_file_is_known_only_if_it_is_one(tmp_path: Path) -> None:
    code = "from flowrt.executors.stderr_file import own_stderr_file; print(own_stderr_file())"
    with (tmp_path / "err").open("wb") as errors:
        into_file = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors, check=True)
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert into_file.stdout.decode().strip() == (str(tmp_path / "err") if sys.platform == "linux" else "")
    assert piped.stdout.decode().strip() == ""

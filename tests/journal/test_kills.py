"""Runs killed at random points and resumed: no visible result is lost, and none is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from flowrt.journal import Journal, export, summary
from tests.journal.harness import FINGERPRINT

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("FLOWRT_KILLS", "15"))  # 200 in the chaos suite
CONCURRENCY = 10
ITEMS = 100 * KILLS

_RUN = """
import asyncio, os, random, sys
from flowrt.journal import Journal
from tests.journal.harness import FINGERPRINT, item

path, executed, seen, count, concurrency = sys.argv[1:4] + [int(arg) for arg in sys.argv[4:]]

async def main():
    loop = asyncio.get_running_loop()
    executed_fd, seen_fd = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in (executed, seen))
    journal = Journal(path, FINGERPRINT)
    places = asyncio.Semaphore(concurrency)

    def durable(results):
        os.write(seen_fd, b"".join(b"%d\\n" % result.index for result in results))
        for _ in results:
            places.release()

    def failed(error, results):
        os._exit(70)

    journal.start(loop.call_soon_threadsafe, durable, failed)
    print("ready", flush=True)

    async def run(index):
        os.write(executed_fd, b"%d\\n" % index)
        await asyncio.sleep(random.random() * 0.002)
        result = item(index, output=str(index) * random.randrange(50))
        journal.append(result, result)

    async with asyncio.TaskGroup() as group:
        for index in range(count):
            if journal.restore(index, {"x": index}) is None:
                await places.acquire()
                group.create_task(run(index))
    while journal.pending:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(journal.close)

asyncio.run(main())
"""


def numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def start(path: Path) -> subprocess.Popen[bytes]:
    arguments = [path, path.with_name("executed"), path.with_name("seen"), ITEMS, CONCURRENCY]
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.timeout(900)
def test_repeatedly_killed_run_ends_like_an_uninterrupted_one(path: Path) -> None:
    chance = random.Random(os.environ.get("FLOWRT_SEED", "7"))  # noqa: S311  # a moment, not a secret
    executed, seen = path.with_name("executed"), path.with_name("seen")
    kills = 0
    for _ in range(KILLS):
        process = start(path)
        try:
            if chance.random() < 0.85:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(chance.random() * 0.04)
            else:
                time.sleep(chance.random() * 0.5)  # perhaps while it opens the journal
        finally:
            process.send_signal(signal.SIGKILL)
            said = process.communicate()[1]
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in {0, -signal.SIGKILL}, said.decode()
        assert b"Traceback" not in said, said.decode()
        with Journal(path, FINGERPRINT) as journal:
            lost = [index for index in numbers(seen) if journal.restore(index, {"x": index}) is None]
        assert not lost, "seen, and not in the journal"
        if process.returncode == 0:
            break
    last = start(path)
    said = last.communicate(timeout=100)[1]
    assert last.returncode == 0, said.decode()

    outputs = [json.loads(line) for line in export(path)]
    assert [output["index"] for output in outputs] == list(range(ITEMS))
    assert all(
        output["output"] == str(output["index"]) * (len(output["output"]) // len(str(output["index"])))
        for output in outputs
    )
    assert max(Counter(numbers(seen)).values()) == 1
    assert kills > KILLS // 5, "on a busy machine, the kills come late, and a run may end before the last of them"
    assert ITEMS <= len(numbers(executed)) <= ITEMS + CONCURRENCY * kills
    assert summary(path).damaged_at is None

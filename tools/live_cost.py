"""Cost of the live page to a batch: `python -m tools.live_cost`, on Linux.

A batch runs beside a server without a reader, and with five pages open. The processor time of each thread comes from
the system: on a busy machine everything takes longer, but the processor time of a thread hardly changes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import flowrt
from flowrt.server import TelemetryServer

__all__ = ["main", "measure"]

_PAGES: Final = 5
_KINDS: Final = ("no page", "five pages")
_READER: Final = """
import socket, sys, threading
def read(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /live/events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        first = True
        while client.recv(1_000_000):
            if first:
                print("open", flush=True)
            first = False
for _ in range(int(sys.argv[2])):
    threading.Thread(target=read, args=(int(sys.argv[1]),)).start()
"""


async def _call(item: int) -> int:
    await asyncio.sleep(0.002)
    return item


async def _batch(items: int) -> None:
    async for _ in flowrt.BatchProcessor(_call, 50, name="cost").batch_as_completed(range(items)):
        pass


@contextlib.contextmanager
def _served(kind: str) -> Iterator[None]:
    server = TelemetryServer(0)
    server.start()
    command = [sys.executable, "-c", _READER, str(server.port), str(_PAGES)]
    try:
        if kind == "no page":
            yield
            return
        with subprocess.Popen(command, stdout=subprocess.PIPE) as readers:  # noqa: S603  # our own
            for _ in range(_PAGES):
                if readers.stdout is not None:
                    readers.stdout.readline()
            yield
            server.stop()  # ends the readers
    finally:
        server.stop()


def measure(items: int, kind: str) -> tuple[float, dict[str, float]]:
    """Wall time of a batch and processor time of each thread meanwhile, in seconds.

    Args:
        items: Items of the batch.
        kind: Readers of the page: `no page` or `five pages`.
    """

    async def run() -> tuple[float, dict[str, float]]:
        before, began = _used(), time.monotonic()
        await _batch(items)
        wall_s, after = time.monotonic() - began, _used()
        return wall_s, {name: used - before.get(name, 0.0) for name, used in after.items()}

    with _served(kind):
        return asyncio.run(run())


def _used() -> dict[str, float]:
    used: dict[str, float] = {}
    for thread in threading.enumerate():
        fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
        used[thread.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.live_cost", description=__doc__)
    parser.add_argument("--items", type=int, default=250_000)
    chosen = parser.parse_args(arguments)
    for kind in _KINDS:
        wall_s, used = measure(chosen.items, kind)
        print(f"{kind}: {chosen.items / wall_s:,.0f} items/s")  # noqa: T201
        for thread, seconds in sorted(used.items(), key=lambda pair: -pair[1]):
            print(f"  {thread:<16} {seconds / wall_s:7.2%} of a processor")  # noqa: T201


if __name__ == "__main__":
    main()

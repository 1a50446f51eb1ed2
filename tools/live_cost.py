"""What the live page costs a batch: `python -m tools.live_cost`.

The same batch runs without a server, with one that nobody looks at, and with five pages open, in turns, so that a busy
machine is busy for all three. What counts is the processor's time of the whole process: the batch's loop, the thread
that looks, the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import flowrt
from flowrt.server import TelemetryServer

__all__ = ["main", "measure"]

_PAGES: Final = 5
_KINDS: Final = ("no server", "a server, no page", "five pages")
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
    if kind == "no server":
        yield
        return
    server = TelemetryServer(0)
    server.start()
    command = [sys.executable, "-c", _READER, str(server.port), str(_PAGES)]
    try:
        if kind == "a server, no page":
            yield
            return
        with subprocess.Popen(command, stdout=subprocess.PIPE) as readers:  # noqa: S603  # our own
            for _ in range(_PAGES):
                if readers.stdout is not None:
                    readers.stdout.readline()
            yield
            server.stop()  # which ends the readers
    finally:
        server.stop()


def measure(items: int, rounds: int) -> dict[str, list[float]]:
    """Processor time per item in microseconds, for each kind a figure per round.

    Args:
        items: How many a batch has.
        rounds: How many batches of each kind are run.
    """
    found: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for number in range(rounds):
        for kind in _KINDS if number % 2 else _KINDS[::-1]:
            with _served(kind):
                began = time.process_time()
                asyncio.run(_batch(items))
                found[kind].append((time.process_time() - began) / items * 1e6)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.live_cost", description=__doc__)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args(arguments)
    found = measure(chosen.items, chosen.rounds)
    for kind, figures in found.items():
        ratios = [figure / base for figure, base in zip(figures, found["no server"], strict=True)]
        more = statistics.median(ratios) - 1
        print(f"{kind:<20} {statistics.median(figures):7.2f} µs an item  {more:+.1%}")  # noqa: T201


if __name__ == "__main__":
    main()

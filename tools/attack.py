"""Attack on the telemetry server of a running batch, on loopback and within bounds; compares the batch's throughput.

    python -m tools.attack --sockets 500 --seconds 60

Slow sockets of three kinds (silent, a byte a second, or a request whose answer is never read) reopen a second after
they are closed. Beside them go requests with heads of 100 KB, path traversals, foreign hosts and origins, and other
methods. The batch's throughput is compared with its throughput during an equal attack on another process, so that the
loss is the cost of serving and not the cost of attacking. Exit code 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import flowrt

__all__ = ["Outcome", "attack", "main"]

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_CLOSED_WITHIN_S: Final = 10.0
_SLACK_S: Final = 1.5  # slack for a loaded machine
_AGAIN_S: Final = 1.0
_TRIES: Final = 5
_HEALTH_S: Final = 1.0
_MOST_LOSS: Final = 0.05
_GOOD: Final = b"Host: localhost\r\nConnection: close\r\n\r\n"
_REQUESTS: Final[dict[str, tuple[bytes, bytes]]] = {
    "a head of 100 KB": (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n" + _GOOD, b"431"),
    "an encoded path traversal": (b"GET /live/..%2f..%2f..%2fetc/passwd HTTP/1.1\r\n" + _GOOD, b"404"),
    "a path traversal": (b"GET /live/../../../../etc/passwd HTTP/1.1\r\n" + _GOOD, b"404"),
    "a POST": (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n" + _GOOD, b"405"),
    "a foreign host": (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b"421"),
    "a foreign origin": (b"GET / HTTP/1.1\r\nOrigin: http://evil.example\r\n" + _GOOD, b"403"),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 nothing\r\n\r\n", b"400"),
}


@dataclass
class Outcome:
    """Result of an attack.

    Attributes:
        rates: Items per second while the decoy, this server, and the decoy again were attacked.
        opened: Number of slow sockets.
        longest_s: Life of the longest-lived slow socket, in seconds.
        slowest_health_s: Slowest answer of `/healthz` meanwhile, in seconds.
        answers: Answers by kind of request and status.
    """

    rates: list[float] = field(default_factory=list)
    opened: int = 0
    longest_s: float = 0.0
    slowest_health_s: float = 0.0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def loss(self) -> float:
        """Share of the throughput that was lost; negative for a gain."""
        before, during, after = self.rates
        return 1 - during / ((before + after) / 2)

    def broken(self) -> list[str]:
        """Broken bounds, in words."""
        wrong = [
            f"{kind} was answered {got}"
            for kind, got in self.answers
            if got not in (_REQUESTS[kind][1].decode(), "cut")
        ]
        if self.longest_s > _CLOSED_WITHIN_S + _SLACK_S:
            wrong.append(f"a slow socket lived for {self.longest_s:.1f} s")
        if self.slowest_health_s > _HEALTH_S:
            wrong.append(f"/healthz took {self.slowest_health_s:.2f} s")
        return wrong


def attack(sockets: int, seconds: float) -> Outcome:
    """Run two batches in processes of their own, and attack the server of the first, the second, and the first again.

    Compares the throughput of the second: the attack costs the machine the same in all three parts.

    Args:
        sockets: Slow sockets open at a time.
        seconds: Length of each part, in seconds.
    """
    with _server() as decoy, _server() as port:
        return asyncio.run(_attack(decoy, port, sockets, seconds))


async def _attack(decoy: int, port: int, sockets: int, seconds: float) -> Outcome:
    outcome = Outcome()
    await asyncio.sleep(1.0)  # they warm up
    for attacked in (decoy, port, decoy):
        counted = outcome if attacked == port else Outcome()
        end = time.monotonic() + seconds
        clients = itertools.islice(itertools.cycle(_CLIENTS), sockets)
        slow = [_slow(attacked, client, end, counted) for client in clients]
        attackers = asyncio.gather(*slow, _requests(attacked, end, counted), _health(attacked, end, counted))
        try:
            outcome.rates.append(await _rate(port, seconds))
        finally:
            await attackers
    return outcome


async def _slow(port: int, client: Client, end: float, outcome: Outcome) -> None:
    """Open one slow client after another, each until the server closes it."""
    while (left := end - time.monotonic()) > 0:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        outcome.opened += 1
        began = time.monotonic()
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(max(left, 0.1)):
                await client(reader, writer)
        # a socket cut at the end of the attack counts for its life until then
        outcome.longest_s = max(outcome.longest_s, time.monotonic() - began)
        writer.transport.abort()
        await asyncio.sleep(_AGAIN_S)


async def _send_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(1):
        pass


async def _send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in itertools.cycle(b"GET / HTTP/1.1\r\nX-Slow: "):
        writer.write(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            if not await asyncio.wait_for(reader.read(1), 1.0):
                return


async def _read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /live/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    transport: Any = writer.transport  # of a socket, so that it reads too
    transport.pause_reading()
    while not writer.is_closing():
        await asyncio.sleep(1.0)
        writer.write(b"G")


_CLIENTS: Final[tuple[Client, ...]] = (_send_nothing, _send_slowly, _read_nothing)


async def _requests(port: int, end: float, outcome: Outcome) -> None:
    """Send each hostile request in turn, ten times a second."""
    for kind, (request, _) in itertools.cycle(_REQUESTS.items()):
        if time.monotonic() >= end:
            return
        with contextlib.suppress(OSError):
            status = (await _exchange(port, request)).partition(b" ")[2][:3].decode()
            outcome.answers[kind, status or "cut"] += 1
        await asyncio.sleep(0.1)


async def _health(port: int, end: float, outcome: Outcome) -> None:
    while time.monotonic() < end:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            await _exchange(port, b"GET /healthz HTTP/1.1\r\n" + _GOOD)
            outcome.slowest_health_s = max(outcome.slowest_health_s, time.monotonic() - began)
        await asyncio.sleep(0.25)


async def _exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):  # the server may answer before it has read everything
            writer.write(request)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                answer += chunk
        return answer
    finally:
        writer.transport.abort()


async def _rate(port: int, seconds: float) -> float:
    first, began = await _completed(port)
    await asyncio.sleep(seconds)
    second, ended = await _completed(port)
    return (second - first) / (ended - began)


async def _completed(port: int) -> tuple[int, float]:
    for _ in range(_TRIES):
        answer = await _exchange(port, b"GET /live/state HTTP/1.1\r\n" + _GOOD)
        if answer.startswith(b"HTTP/1.1 200"):
            break
    else:
        raise RuntimeError(f"/live/state did not answer: {answer[:100]!r}")
    batch = json.loads(answer.partition(b"\r\n\r\n")[2])["batches"][0]
    return batch["completed"], batch["elapsed_s"]


@contextlib.contextmanager
def _server() -> Iterator[int]:
    command = [sys.executable, "-m", "tools.attack", "--serve-attacked"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own
        try:
            if process.stdout is None:
                raise RuntimeError("the attacked process has no output")
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def _serve_attacked() -> None:
    async def call(item: int) -> int:
        await asyncio.sleep(0.01)
        return item

    runtime = flowrt.Runtime.current()
    if runtime is None or runtime.live_url is None:
        raise RuntimeError("there is no server")
    print(runtime.live_url.rpartition(":")[2].strip("/"), flush=True)  # noqa: T201  # for the attacker
    async for _ in flowrt.BatchProcessor(call, 50, name="attacked").batch_as_completed(itertools.count()):
        pass


def main(arguments: list[str] | None = None) -> int:
    """Attack, and print the result; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.attack", description=__doc__)
    parser.add_argument("--sockets", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--serve-attacked", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve_attacked:
        flowrt.run(_serve_attacked(), metrics_port=0, log_level="ERROR")
        return 0
    outcome = attack(chosen.sockets, chosen.seconds)
    rows: list[tuple[str, Any]] = [
        ("items/s: other server attacked, this one, other", ", ".join(f"{rate:,.0f}" for rate in outcome.rates)),
        ("throughput lost", f"{outcome.loss:.1%}"),
        ("slow sockets opened", f"{outcome.opened:,}"),
        ("the longest was served for", f"{outcome.longest_s:.2f} s"),
        ("slowest /healthz", f"{outcome.slowest_health_s * 1e3:.0f} ms"),
        *((kind, f"{status} ({times} times)") for (kind, status), times in sorted(outcome.answers.items())),
    ]
    for label, value in rows:
        print(f"{label:<40} {value}")  # noqa: T201  # what it is for
    broken = outcome.broken()
    if outcome.loss > _MOST_LOSS:
        broken.append(f"the batch lost {outcome.loss:.1%} of its throughput")
    for each in broken:
        print(f"broken: {each}")  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Workers in this process: the real runner with a transport in memory, so that tests can run in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from flowrt.executors.frames import Frame, FrameReader, Kind, make_frame, on_the_wire
from flowrt.executors.remote_pool import PoolSettings, RemotePool
from flowrt.executors.transport import Death
from flowrt.remote.runner import Runner


class MemoryTransport:
    """One worker on the driver's own loop.

    Args:
        delay_s: Time of a message on its way.
        choose: Splits messages at random bytes, as a socket may; None keeps them whole.
    """

    pid, host = 0, ""

    def __init__(
        self, delay_s: float = 0.0, choose: random.Random | None = None, most_bytes: int | None = None
    ) -> None:
        self.delay_s = delay_s
        self.most_bytes = most_bytes
        self.messages: list[tuple[Any, ...]] = []
        self.dead = False
        self._latest_s = 0.0
        self._choose = choose
        self._to_worker, self._to_driver = FrameReader(), FrameReader()
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, receiver: Any) -> None:
        self._loop = loop
        self._receiver = receiver
        self.runner = Runner(loop, self._answer)

    def detach(self) -> None:
        self._loop = None

    def send(self, parts: Sequence[Any]) -> None:
        self.messages.append(Frame.of(parts).envelope)
        if Frame.of(parts).envelope[0] == Kind.HELLO:
            self._answer(make_frame((Kind.READY, 1, "here")))
        else:
            self._carry(parts, self._to_worker, self._received)

    def _carry(self, parts: Sequence[Any], reader: FrameReader, deliver: Any) -> None:
        data = b"".join(bytes(part) for part in on_the_wire(parts))
        cut = 0 if self._choose is None else self._choose.randrange(len(data))
        for piece in (data[:cut], data[cut:]):
            if self._loop is not None and not self.delay_s:
                self._loop.call_soon(self._arrive, piece, reader, deliver)
            elif self._loop is not None:
                # each a little later: the loop does not keep the order of timers for the same moment
                self._latest_s = max(self._latest_s + 1e-9, self._loop.time() + self.delay_s)
                self._loop.call_at(self._latest_s, self._arrive, piece, reader, deliver)

    def _arrive(self, piece: bytes, reader: FrameReader, deliver: Any) -> None:
        if not self.dead:
            for parts in reader.feed(piece):
                deliver(parts)

    def _received(self, parts: Sequence[Any]) -> None:
        self.runner.receive(parts)
        self._step()

    def _step(self) -> None:
        """Run one plain function in each turn of the loop, as a worker's main thread would beside it."""
        if self.dead or self._loop is None:
            return
        if self.runner.step():
            self._loop.call_soon(self._step)
        else:
            self.runner.outbox.flush()

    def _answer(self, parts: Sequence[Any]) -> None:
        if self._loop is not None and not self.dead:
            self._carry(parts, self._to_driver, self._receiver.received)

    def running(self) -> int:
        return 0

    def kill(self) -> None:
        self.die("SIGKILL")

    def die(self, how: str, running: int = 0) -> None:
        """End the worker, and report it."""
        if not self.dead:
            self.dead = True
            for task in self.runner._tasks.values():
                task.cancel()
            if self._loop is not None:
                self._loop.call_soon(self._receiver.lost, Death(how, running))

    def stop(self) -> None: ...

    def close(self, timeout_s: float) -> None: ...


class MemoryExecutor:
    """Executor of workers in memory.

    Attributes:
        transports: All workers that were started, dead ones included.
    """

    def __init__(self, workers: int = 2, *, settings: dict[str, Any] | None = None, **transport: Any) -> None:
        self.transports: list[MemoryTransport] = []
        self._transport = transport
        self._settings = PoolSettings(kind="memory", workers=workers, **(settings or {}))

    def launch(self, name: str) -> Future[Any]:
        answer: Future[Any] = Future()
        self.transports.append(MemoryTransport(**self._transport))
        answer.set_result(self.transports[-1])
        return answer

    def open(self, node: Any, slots: int) -> Any:
        self.pool = RemotePool(self, self._settings)  # one for each batch: it must not outlive the loop
        return self.pool.open(node, slots)

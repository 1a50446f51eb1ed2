"""Opens the journal of one batch without blocking the loop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

from flowrt._util.clock import is_virtual
from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt.engine.durability import JournalSink
from flowrt.engine.timeouts import GRACE_S
from flowrt.journal import Journal, JournalPolicy
from flowrt.model.node import BaseNode

__all__ = ["open_journal"]


async def open_journal(journal: JournalPolicy | Journal, node: BaseNode) -> JournalSink:
    """Open a journal for one batch, or use the caller's open journal.

    Args:
        journal: The journal's settings, or an open journal.
        node: The batch's node.

    Raises:
        JournalError: The journal cannot be used.
        ValueError: The journal's path or its fingerprint is not valid.
    """
    loop = asyncio.get_running_loop()
    threaded = not is_virtual(loop)
    if isinstance(journal, Journal):
        return JournalSink(journal, loop, threaded=threaded, close=False)
    opened = await _open_in_thread(loop, journal, node) if threaded else journal.open(node)
    return JournalSink(opened, loop, threaded=threaded, close=True)


class _Opening:
    """A journal that a thread opens for a caller that may have been cancelled by then."""

    def __init__(self, policy: JournalPolicy, node: BaseNode) -> None:
        self._policy = policy
        self._node = node
        self._lock = threading.Lock()
        self._given_up = False
        self._journal: Journal | None = None

    def open(self) -> Journal:
        journal = self._policy.open(self._node)
        with self._lock:
            self._journal = journal
            if self._given_up:
                journal.abort()
        return journal

    def give_up(self) -> None:
        """Close the journal, at once or when it has opened, whether or not the loop still runs then."""
        with self._lock:
            self._given_up = True
            if self._journal is not None:
                self._journal.abort()


async def _open_in_thread(loop: asyncio.AbstractEventLoop, policy: JournalPolicy, node: BaseNode) -> Journal:
    """Open a journal in a thread: reading a journal of a million items takes about 2 s."""
    opening = _Opening(policy, node)
    answer = run_in_daemon_thread(loop, opening.open, "flowrt-journal-file")
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        answer.add_done_callback(_retrieve_exception)
        opening.give_up()
        await _wait_in_any_case(answer, GRACE_S)  # so that its lock is free when the caller goes on
        raise


async def _wait_in_any_case(answer: asyncio.Future[Any], seconds: float) -> None:
    """Wait for a thread's answer for a limited time, even if cancelled again."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + seconds
    while not answer.done() and (left_s := deadline_s - loop.time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait([answer], timeout=left_s)


def _retrieve_exception(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()

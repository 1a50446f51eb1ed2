"""The source: one lazy stream of inputs that all workers of a batch pull from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sized
from functools import partial
from typing import Any, Final

from flowrt.attribution.wait import Wait
from flowrt.model import ItemRecord

__all__ = ["END", "LATER", "Source", "check_inputs", "is_own", "make_source"]

END: Final[Any] = object()
"""What a source gives once it is dry."""

LATER: Final[Any] = object()
"""What `pull` gives where the next input has to be waited for: with `apull`."""


class Source:
    """A sync iterable, pulled without awaiting.

    Args:
        inputs: Iterated once.

    Attributes:
        awaits: Whether inputs have to be waited for.
        computes: Whether `pull` may run code that takes time.
        expected: How many inputs there are, or None when that is not known beforehand.
        dry: Nothing is left, as far as has been found out.
        pull: Gives the next input, END, or LATER where that has to be waited for.
    """

    awaits = False
    computes: bool
    pull: Callable[[], Any]

    def __init__(self, inputs: Iterable[Any]) -> None:
        self.expected = len(inputs) if isinstance(inputs, Sized) else None
        self.dry = False
        self.computes = not isinstance(inputs, _AT_HAND)
        self.pull = partial(next, iter(inputs), END)  # a call into C: it is made for every item

    def tell(self, wait: Wait) -> None:
        """Keep account of the time for which somebody waits for an input."""

    async def apull(self) -> Any:
        """The next input, or END."""
        return self.pull()

    async def aclose(self) -> None:
        """Release what the iterator holds, when the batch ends before the source does."""

    def leftover(self) -> Iterable[ItemRecord]:
        """Items that were pulled and wait here for another attempt, which they will not have."""
        return ()

    def unpulled(self) -> Iterable[Any]:
        """Inputs that have come and that nobody has pulled, nor will."""
        return ()


class _AsyncSource(Source):
    """An async iterable, pulled by one worker at a time in the order of asking."""

    awaits = True
    computes = False  # what takes time here is waited for

    def __init__(self, inputs: AsyncIterable[Any]) -> None:
        self.expected = len(inputs) if isinstance(inputs, Sized) else None
        self.dry = False
        self._aiterator: AsyncIterator[Any] = aiter(inputs)
        self._broken = False  # it has raised: asked again, it might never answer
        self._turn = asyncio.Lock()
        self.pull = _later
        self._wait: Wait | None = None
        self._asking = 0  # workers that have asked for an input and have none yet

    def tell(self, wait: Wait) -> None:
        self._wait = wait

    async def apull(self) -> Any:
        wait = self._wait
        self._asking += 1
        if wait is not None and not wait.noted:
            wait.look_soon(self._is_asked)
        try:
            async with self._turn:
                if self.dry or self._broken:
                    return END
                try:
                    return await anext(self._aiterator)
                except StopAsyncIteration:
                    self.dry = True
                    return END
                except BaseException as exc:
                    self._broken = is_own(exc)
                    raise
        finally:
            self._asking -= 1
            if wait is not None and wait.told and not self._asking:
                wait.over()

    def _is_asked(self) -> bool:
        return self._asking > 0

    async def aclose(self) -> None:
        close = getattr(self._aiterator, "aclose", None)
        if close is not None and not self.dry:
            self.dry = True
            await close()


_AT_HAND: Final = (list, tuple, range, set, frozenset)


def _later() -> Any:
    return LATER


def is_own(exc: BaseException) -> bool:
    """Whether the source raised this by itself: it is no cancellation of the task that asked for an input."""
    task = asyncio.current_task()
    return not isinstance(exc, asyncio.CancelledError) or task is None or not task.cancelling()


def check_inputs(inputs: Any) -> None:
    """Refuse what is iterable by accident.

    Raises:
        TypeError: Not an iterable or async iterable of items, or a str, bytes or mapping.
    """
    if isinstance(inputs, (str, bytes, bytearray, Mapping)):
        hint = "its .items()" if isinstance(inputs, Mapping) else "a list with it inside"
        raise TypeError(f"inputs must be an iterable of items; a {type(inputs).__name__} is one item: pass {hint}")
    if not isinstance(inputs, (Iterable, AsyncIterable)) and not hasattr(inputs, "__getitem__"):
        raise TypeError(f"inputs must be an iterable or async iterable of items, not {inputs!r}")


def make_source(inputs: Any) -> Source:
    """The source for any iterable or async iterable."""
    return _AsyncSource(inputs) if isinstance(inputs, AsyncIterable) else Source(inputs)

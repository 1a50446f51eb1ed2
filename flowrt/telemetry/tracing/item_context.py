"""Context in which an item's node runs, with a span that is made when code first reads it.

Most nodes never read their span, so that its exported form suffices. The context itself must exist before the node
starts, since any library may read it.
"""

from __future__ import annotations

import threading
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextvars import Token
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from flowrt.telemetry.tracing.context import SPAN_KEY
from flowrt.telemetry.tracing.span import ItemSpan
from flowrt.telemetry.tracing.span_frame import SpanFrame

__all__ = ["ItemContext", "without_span"]

_making: Final = threading.Lock()  # threads of a node may ask for its span concurrently


class ItemContext(Context):
    """Context of one item: the batch's values, and the item's span.

    It has no constructor, whose call would cost more than all the rest: set every attribute of a new object.

    Attributes:
        frame: Data shared with the spans of the batch.
        base: Values besides the span.
        ids: The span's ids as `ids.py` encodes them.
        index: The item's index in the input.
        start_ns: The span's start on the batch's clock.
        end_ns: The span's end; 0 while the item runs. Set it before reading `made`, so that a span which another thread
            makes meanwhile ends, too.
        made: The span; None until it is first read.
        token: Restores the context from before the item; None if this context ends with the item.
    """

    __slots__ = ("base", "end_ns", "frame", "ids", "index", "made", "start_ns", "token")

    frame: SpanFrame
    base: dict[str, object]
    ids: bytes
    index: int
    start_ns: int
    end_ns: int
    made: ItemSpan | None
    token: Token[Context] | None

    @property
    def span(self) -> ItemSpan:
        """The item's span, made at the first call."""
        span = self.made
        if span is None:
            with _making:
                span = self.made
                if span is None:
                    span = self.made = ItemSpan(self.frame, self.ids, self.index, self.start_ns)
                    if self.end_ns:
                        span.end_ns = self.end_ns
        return span

    def get_span_context(self) -> SpanContext:
        """Ids and flags of the span."""
        return self.span.get_span_context()

    @property
    def sampled(self) -> bool:
        """True if the span is exported, unless tail sampling discards it."""
        return self.frame.sampled

    def _whole(self) -> dict[str, object]:
        return {**self.base, SPAN_KEY: self.span}

    # -- the mapping --------------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None, /) -> Any:
        """The value of a key."""
        return self.span if key == SPAN_KEY else self.base.get(key, default)

    def __getitem__(self, key: str) -> Any:
        return self.span if key == SPAN_KEY else self.base[key]

    def __contains__(self, key: object) -> bool:
        return key == SPAN_KEY or key in self.base

    def __len__(self) -> int:
        return len(self._whole())

    def __iter__(self) -> Iterator[str]:  # `dict()` and `{**context}` look for this method before they copy
        return iter(self._whole())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._whole())

    def keys(self) -> KeysView[str]:  # type: ignore[override]  # a view of a copy, as the values never change
        return self._whole().keys()

    def values(self) -> ValuesView[object]:  # type: ignore[override]
        return self._whole().values()

    def items(self) -> ItemsView[str, object]:  # type: ignore[override]
        return self._whole().items()

    def copy(self) -> dict[str, object]:
        return self._whole()

    def __or__(self, other: Any) -> Any:
        return self._whole() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._whole()

    def __eq__(self, other: object) -> bool:
        return self is other or self._whole() == (other._whole() if isinstance(other, ItemContext) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as of every dictionary

    def __repr__(self) -> str:
        return repr(self._whole())

    def __reduce__(self) -> tuple[Any, ...]:
        return Context, (self._whole(),)


def without_span(context: Context) -> Mapping[str, object]:
    """Return a context's values for a caller that replaces the span, without making the span of an item's context."""
    return context.base if type(context) is ItemContext else context

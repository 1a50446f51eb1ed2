"""Results of a batch that was stopped before it had started most of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, overload

from flowrt.batch.results import BatchResults
from flowrt.engine.parts import UnstartedBlock
from flowrt.model import BatchRecord, BatchResult
from flowrt.model.result import SharedAttributes

__all__ = ["PartialResults"]


class PartialResults(BatchResults):
    """Results of a batch whose last inputs were never started; the results of those are made on demand.

    A batch of ten million inputs that reaches its time limit can so return at once: making a result object for each
    input would take longer than the grace period.

    Args:
        results: Results of the inputs that were started, in input order.
        unstarted: The inputs that follow them.
        name: The processor's name.
        wall_time: Wall time of the batch, in seconds.
        batch: The batch's record.
    """

    def __init__(
        self, results: list[BatchResult], unstarted: UnstartedBlock, *, name: str, wall_time: float, batch: BatchRecord
    ) -> None:
        super().__init__(results, name=name, wall_time=wall_time, batch=batch)
        self._started = len(results)
        self._unstarted = unstarted
        self._error = SharedAttributes(error=unstarted.error, error_type="CancelledError")
        self._made = 0
        placeholder: Any = None
        super().extend([placeholder] * len(unstarted.inputs))

    def _make(self, place: int) -> BatchResult:
        """Return the result at an index; make it first if its input was never started."""
        result: BatchResult | None = super().__getitem__(place)
        if result is None:
            block = self._unstarted
            offset = place - self._started
            index, data = block.first_index + offset, block.inputs[offset]
            result = BatchResult._cancelled(index, data, self._error)  # noqa: SLF001  # for this class
            super().__setitem__(place, result)
            self._made += 1
        return result

    def _make_all(self) -> None:
        """Make every result that is missing, after which this object behaves as a plain list."""
        if self._made < len(self._unstarted.inputs):
            for place in range(self._started, len(self)):
                self._make(place)
            self._made = len(self._unstarted.inputs)

    @property
    def success_rate(self) -> float:
        """Share of successes, 0 to 1."""
        ok = sum(super(PartialResults, self).__getitem__(place).success for place in range(self._started))
        return ok / len(self)

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> BatchResult: ...
    @overload
    def __getitem__(self, place: slice, /) -> list[BatchResult]: ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> BatchResult | list[BatchResult]:
        if self._made == len(self._unstarted.inputs):
            return super().__getitem__(place)
        if isinstance(place, slice):
            return [self._make(each) for each in range(*place.indices(len(self)))]
        return self._make(range(len(self))[place])

    def __iter__(self) -> Iterator[BatchResult]:
        if self._made == len(self._unstarted.inputs):
            yield from super().__iter__()
            return
        place = 0
        while place < len(self):
            yield self._make(place)
            place += 1

    def __reversed__(self) -> Iterator[BatchResult]:
        return (self[place] for place in range(len(self) - 1, -1, -1))

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"name": self.name, "wall_time": self.wall_time, "batch": self.batch}
        return BatchResults, (), state, iter(self)


_WHOLE: Final = (
    *("__add__", "__contains__", "__delitem__", "__eq__", "__ge__", "__gt__", "__iadd__", "__imul__", "__le__"),
    *("__lt__", "__mul__", "__ne__", "__rmul__", "__setitem__", "append", "clear", "copy", "count", "extend", "index"),
    *("insert", "pop", "remove", "reverse", "sort"),
)
"""Methods of `list` that access its elements in C, so that all results must be made before the call."""


def _after_making_all(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def whole(self: PartialResults, *args: Any, **kwargs: Any) -> Any:
        self._make_all()
        return method(self, *args, **kwargs)

    return whole


if not TYPE_CHECKING:  # the types are those of list
    for _name in _WHOLE:
        setattr(PartialResults, _name, _after_making_all(getattr(list, _name)))
    PartialResults.__hash__ = None

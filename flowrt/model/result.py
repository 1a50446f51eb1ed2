"""Result of an item, and an input that could not be read."""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, overload

from flowrt.errors import FlowrtError
from flowrt.model.type_variables import In_co, Missing_co, Out_co

__all__ = ["STATUSES", "BatchResult", "ItemFailedError", "Rejected", "SharedAttributes", "SparseAttribute", "Status"]

T = TypeVar("T")

Status = Literal["ok", "failed", "timed_out", "cancelled", "resumed"]
"""Final status of an item."""

STATUSES: Final[tuple[Status, ...]] = ("ok", "failed", "timed_out", "cancelled", "resumed")


class Rejected:
    """Input that could not be read. In a batch it becomes a failed item at its index, without an attempt.

    Args:
        error: The item's `error`, such as the fault and the line of the file.
        error_type: Name of the error on metrics and spans, one of few.
        input_data: The part of the input that can be shown.
    """

    __slots__ = ("error", "error_type", "input_data")

    def __init__(self, error: str, error_type: str = "RejectedInput", input_data: Any = None) -> None:
        self.error = error
        self.error_type = error_type
        self.input_data = input_data

    def __repr__(self) -> str:
        return f"Rejected({self.error!r})"


class SparseAttribute(Generic[T]):
    """Attribute that has its default value on nearly every record; other values are in one dictionary per record.

    A batch has a record for each item, and the garbage collector visits every slot of every record repeatedly.
    """

    __slots__ = ("_default", "_name")

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...
    @overload
    def __get__(self, record: BatchResult, owner: type) -> T: ...
    def __get__(self, record: BatchResult | None, owner: type) -> Self | T:
        if record is None:  # read from the class
            return self
        values = record._sparse  # noqa: SLF001  # kept for this class
        return self._default if values is None else values.get(self._name, self._default)

    def __set__(self, record: BatchResult, value: T) -> None:
        values = record._sparse  # noqa: SLF001  # kept for this class
        if values is not None:
            if type(values) is SharedAttributes:
                values = record._sparse = dict(values)  # noqa: SLF001  # kept for this class
            values[self._name] = value
        elif value is not self._default:
            record._sparse = {self._name: value}  # noqa: SLF001  # kept for this class


class SharedAttributes(dict[str, Any]):
    """Sparse attributes that many records share; a record that sets an attribute gets its own dictionary."""


class BatchResult(Generic[In_co, Out_co, Missing_co]):
    """Result of one item. `BatchResult[In, Out]` has an input of type `In` and an output of type `Out` or None.

    `BatchResult[In, Out, Never]` is the result of an item that succeeded, whose output is of type `Out`. The results of
    a batch are the items' own records, which saves an object per item; they compare, copy and pickle as plain
    BatchResults.

    Args:
        index: Index in the input.
        input_data: The input itself, unchanged by the node.
        success: True if the item ended `ok` or `resumed`.
        output: The node's output, which may be falsy; None if the item failed.
        error: Message of the failure; not empty unless `success` is true.
        execution_time: Service time of the last attempt, in seconds.
        status: `ok`, `failed`, `timed_out`, `cancelled` or `resumed`; by default `ok` or `failed` according to
            `success`.
        error_type: Name of the error, the same as on the metric and the span.
        exception: The exception, or None.
        attempts: Number of attempts that were started; 0 for an item that never ran.
        queue_time: Seconds from the pull to the first attempt.
        metadata: The metadata of the node's `NodeResult`.
        trace_id: 32 hexadecimal digits, or None if the item was not traced.
        span_id: 16 hexadecimal digits, or None if the item was not traced.
        cached: True if the output came from the cache and the node did not run.

    Raises:
        ValueError: `status` contradicts `success`.
    """

    __slots__ = ("_sparse", "attempts", "index", "input_data", "output", "status")

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)  # BatchResult[In, Out] too: defaults are new in Python 3.13

    index: int
    input_data: In_co
    output: Out_co | Missing_co
    status: Status
    attempts: int
    error = SparseAttribute[str | None](None)
    error_type = SparseAttribute[str | None](None)
    exception = SparseAttribute[BaseException | None](None)
    _execution_time = SparseAttribute[float](0.0)
    _queue_time = SparseAttribute[float](0.0)
    _metadata = SparseAttribute[dict[str, Any] | None](None)
    _trace_id = SparseAttribute[str | None](None)
    _span_id = SparseAttribute[str | None](None)
    cached = SparseAttribute[bool](False)

    def __init__(
        self,
        index: int,
        input_data: In_co,
        success: bool,
        output: Out_co | None = None,
        error: str | None = None,
        execution_time: float = 0.0,
        status: Status | None = None,
        error_type: str | None = None,
        exception: BaseException | None = None,
        attempts: int = 0,
        queue_time: float = 0.0,
        metadata: dict[str, Any] | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        cached: bool = False,
    ) -> None:
        if status is None:
            status = "ok" if success else "failed"
        elif success != (status in _SUCCESSES):
            raise ValueError(f"status={status!r} contradicts success={success!r}")
        self._sparse: dict[str, Any] | None = None
        self.index = index
        self.input_data = input_data
        self.output = output  # type: ignore[assignment]  # None only where Missing_co is None
        self.error = error
        self.status = status
        self.error_type = error_type
        self.exception = exception
        self.attempts = attempts
        self._execution_time = execution_time
        self._queue_time = queue_time
        self._metadata = metadata
        self._trace_id = trace_id
        self._span_id = span_id
        self.cached = cached

    @classmethod
    def _cancelled(cls, index: int, input_data: Any, why: SharedAttributes) -> Self:
        """Make the result of an input that was never started.

        Args:
            index: Index in the input.
            input_data: The input.
            why: The sparse attributes `error` and `error_type`, which many results share.
        """
        result = cls.__new__(cls)
        result.index = index
        result.input_data = input_data
        result.output = None  # type: ignore[assignment]  # as above
        result.status = "cancelled"
        result.attempts = 0
        result._sparse = why  # noqa: SLF001  # of this class
        return result

    @classmethod
    def _succeeded(cls, index: int, input_data: Any, output: Any, attempts: int, execution_time: float) -> Self:
        """Make the result of an item that ended ok, at a third of the constructor's cost."""
        result = cls.__new__(cls)
        result.index = index
        result.input_data = input_data
        result.output = output
        result.status = "ok"
        result.attempts = attempts
        result._sparse = {"_execution_time": execution_time}  # noqa: SLF001  # of this class
        return result

    @property
    def success(self) -> bool:
        """True if the item ended `ok` or `resumed`."""
        return self.status in _SUCCESSES

    @property
    def execution_time(self) -> float:
        """Service time of the last attempt, in seconds."""
        return self._execution_time

    @property
    def queue_time(self) -> float:
        """Seconds from the pull to the first attempt."""
        return self._queue_time

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of the node's `NodeResult`; created at the first access."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @property
    def trace_id(self) -> str | None:
        """Trace id, 32 hexadecimal digits, or None if the item was not traced."""
        return self._trace_id

    @property
    def span_id(self) -> str | None:
        """Span id, 16 hexadecimal digits, or None if the item was not traced."""
        return self._span_id

    def as_dict(self) -> dict[str, Any]:
        """Return the values by the constructor's names, without copying them."""
        return dict(zip(_RESULT_FIELDS, self._values(), strict=True))

    def replace(self, **changes: Any) -> BatchResult:
        """Return a plain BatchResult with some values changed.

        Args:
            changes: Arguments of the constructor.
        """
        if changes.keys() & {"success", "status"}:
            changes = {"success": changes.get("status") in _SUCCESSES, "status": None, **changes}
        return BatchResult(**{**self.as_dict(), **changes})

    __replace__ = replace  # for copy.replace

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in _RESULT_FIELDS])

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, BatchResult) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[BatchResult], tuple[Any, ...]]:
        return BatchResult, self._values()

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in zip(_RESULT_FIELDS, self._values(), strict=True))
        return f"BatchResult({', '.join(shown)})"


_SUCCESSES: Final = ("ok", "resumed")
_RESULT_FIELDS: Final = tuple(BatchResult.__init__.__annotations__)[:-1]


class ItemFailedError(FlowrtError):
    """An item failed without an exception of its own, in a batch with `continue_on_error=False`.

    The node returned a `NodeResult` whose `success` is false, or the item timed out or was cancelled.

    Args:
        result: The failed item; its `error` is the message.
    """

    def __init__(self, result: BatchResult) -> None:
        super().__init__(f"item {result.index} {result.status}: {result.error}")
        self.result = result

    def __reduce__(self) -> tuple[type[ItemFailedError], tuple[BatchResult]]:
        return type(self), (self.result,)

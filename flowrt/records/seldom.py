"""Attributes that nearly every record has at their default: they take up room only where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from flowrt.records.result import BatchResult

__all__ = ["Seldom"]

T = TypeVar("T")


class Seldom(Generic[T]):
    """An attribute that is at its default on nearly every record: what differs is kept in a dictionary of its own.

    A batch keeps a record per item, and the garbage collector walks each of its slots again and again.
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
        if record is None:  # asked of the class
            return self
        values = record._seldom  # noqa: SLF001  # kept for this class
        return self._default if values is None else values.get(self._name, self._default)

    def __set__(self, record: BatchResult, value: T) -> None:
        values = record._seldom  # noqa: SLF001  # as above
        if values is not None:
            values[self._name] = value
        elif value is not self._default:
            record._seldom = {self._name: value}  # noqa: SLF001  # as above

"""Types of the outputs of the nodes over collections.

Each is a plain dict. A type checker knows the counts by their keys, and that any other key is the node's `output_key`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from flowrt.model.type_variables import In, Out

__all__ = ["FilterOutput", "MapOutput", "ReduceOutput"]

if TYPE_CHECKING:

    class MapOutput(dict[str, Any], Generic[Out]):
        """Output of a `MapNode` whose child has outputs of type `Out`."""

        @overload
        def __getitem__(self, key: Literal["total", "succeeded", "failed"]) -> int: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str) -> list[Out | None]: ...
        def __getitem__(self, key: str) -> Any: ...

    class FilterOutput(dict[str, Any], Generic[In]):
        """Output of a `FilterNode` over items of type `In`."""

        @overload
        def __getitem__(self, key: Literal["original_count", "filtered_count"]) -> int: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str) -> list[In]: ...
        def __getitem__(self, key: str) -> Any: ...

    class ReduceOutput(dict[str, Any], Generic[Out]):
        """Output of a `ReduceNode` that folds the items into a value of type `Out`."""

        @overload
        def __getitem__(self, key: Literal["processed_count"]) -> int: ...
        @overload
        def __getitem__(self, key: str) -> Out: ...
        def __getitem__(self, key: str) -> Any: ...

else:
    FilterOutput = MapOutput = ReduceOutput = dict

"""Type variables: `In` is the type of an item, `Out` of an output, `Returned` of the value of a function's call.

They default to `Any`, as in `class Fetch(BaseNode)`. `Missing` is the type of the output of an item that failed: None,
or `Never` if no item can have failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["In", "In_co", "In_contra", "Missing_co", "Out", "Out_co", "Returned"]

if TYPE_CHECKING:  # defaults of type variables: in `typing` from Python 3.13 on
    from typing_extensions import TypeVar as TypeVarWithDefault

    In = TypeVarWithDefault("In", bound=Any, default=Any)  # the bound lets pyright accept any lambda of an item
    In_co = TypeVarWithDefault("In_co", covariant=True, default=Any)
    In_contra = TypeVarWithDefault("In_contra", contravariant=True, default=Any)
    Missing_co = TypeVarWithDefault("Missing_co", bound=None, covariant=True, default=None)
    Out = TypeVarWithDefault("Out", default=Any)
    Out_co = TypeVarWithDefault("Out_co", covariant=True, default=Any)
    Returned = TypeVarWithDefault("Returned", default=Any)
else:
    In, In_co, In_contra = TypeVar("In"), TypeVar("In_co"), TypeVar("In_contra")
    Missing_co, Out, Out_co, Returned = TypeVar("Missing_co"), TypeVar("Out"), TypeVar("Out_co"), TypeVar("Returned")

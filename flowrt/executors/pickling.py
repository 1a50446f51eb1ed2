"""Pickling for workers: the standard pickler if it suffices, else cloudpickle, for code that workers cannot import."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import CodeType
from typing import Any, Final

from flowrt.errors import MissingExtraError

__all__ = ["OUT_OF_BAND_BYTES", "PicklingError", "dumps", "dumps_alone", "find_unpicklable", "loads"]

OUT_OF_BAND_BYTES: Final = 65_536
"""Buffers from this size on travel beside the pickle and are not copied into it."""

_PROTOCOL: Final = 5
_DEPTH: Final = 6  # of the search for the attribute that cannot be pickled
_MEMBERS: Final = 1_000  # members of a container that the search examines

loads: Final[Callable[..., Any]] = pickle.loads


class PicklingError(TypeError):
    """A value cannot be sent to a worker or back. The message names the attribute that cannot be pickled."""


def dumps(value: Any, buffers: list[pickle.PickleBuffer] | None = None) -> bytes:
    """Pickle a value.

    Objects of `__main__` are pickled by value, since a worker's `__main__` is another module.

    Args:
        value: Any value.
        buffers: Receives buffers to send out of band; None pickles everything in band.

    Raises:
        Exception: The value cannot be pickled; `find_unpicklable` says why.
    """
    keep_in_band = None if buffers is None else _splitter(buffers)
    with suppress(Exception):  # a lambda, a local class: by value
        data = pickle.dumps(value, _PROTOCOL, buffer_callback=keep_in_band)
        if b"__main__" not in data:
            return data
    if buffers is not None:
        buffers.clear()
    return _cloudpickle().dumps(value, _PROTOCOL, buffer_callback=keep_in_band)  # type: ignore[no-any-return]


def dumps_alone(value: Any, what: str) -> bytes:
    """Pickle one value by itself, by value where that is needed.

    Args:
        value: Any value.
        what: Name of the value in an error message.

    Raises:
        PicklingError: The value cannot be pickled.
    """
    try:
        return dumps(value)
    except MissingExtraError:
        raise
    except Exception as exc:
        raise PicklingError(find_unpicklable(value, what, exc)) from exc


def find_unpicklable(value: Any, what: str, error: BaseException) -> str:
    """Describe why a value cannot be pickled, with the part that causes it.

    Args:
        value: The value.
        what: Name of the value in the message.
        error: The exception of pickling the value.
    """
    path, part = _search(value, "", _DEPTH, set())
    where = f"{what}{path} is a {type(part).__name__}" if path else f"{what} is a {type(value).__name__}"
    return f"{where}, which cannot be pickled ({type(error).__name__}: {error})"


def _splitter(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            large = buffer.raw().nbytes >= OUT_OF_BAND_BYTES
        except BufferError:  # not contiguous
            large = False
        if large:
            buffers.append(buffer)
        return not large

    return keep_in_band


def _cloudpickle() -> Any:
    try:
        import cloudpickle  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError(
            "Sending a lambda, or what __main__ defines, to a worker", "cloudpickle", "processes"
        ) from None
    return cloudpickle


def _search(value: Any, path: str, depth: int, seen: set[int]) -> tuple[str, Any]:
    """Path to the innermost part that cannot be pickled, and the part."""
    if depth and id(value) not in seen:
        seen.add(id(value))
        for place, part in _parts(value):
            try:
                dumps(part)
            except Exception:  # each part is tried by itself
                return _search(part, f"{path}{place}", depth - 1, seen)
    return path, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Parts of a value, with how an expression reaches each."""
    if isinstance(value, Mapping):
        for _, (key, part) in zip(range(_MEMBERS), value.items(), strict=False):
            yield f"[{key!r}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for place, part in zip(range(_MEMBERS), value, strict=False):
            yield f"[{place}]", part
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=False):
            try:
                yield f" (its variable {name!r})", cell.cell_contents
            except ValueError:  # an empty cell
                continue
        globals_of = getattr(value, "__globals__", {})  # those that it names are sent with a function of the script
        for name in code.co_names:
            if name in globals_of:
                yield f" (its global variable {name!r})", globals_of[name]
    if hasattr(value, "func") and hasattr(value, "args"):  # a partial
        yield ".func", value.func
        yield ".args", value.args
    owner = getattr(value, "__self__", None)
    if owner is not None and callable(value):
        yield ".__self__", owner
    attributes = dict(getattr(value, "__dict__", None) or {}) if not isinstance(value, type) else {}
    for kind in type(value).__mro__:
        for name in kind.__dict__.get("__slots__", ()) if "__slots__" in kind.__dict__ else ():
            if isinstance(name, str) and hasattr(value, name):
                attributes.setdefault(name, getattr(value, name))
    for name, part in attributes.items():
        yield f".{name}", part

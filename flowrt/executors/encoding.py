"""Encoding of outcomes: a node's value or exception, sent from a worker to the driver."""

from __future__ import annotations

import pickle
from typing import Any, Final

from flowrt.executors.frames import Status
from flowrt.executors.pickling import PicklingError, dumps_alone
from flowrt.executors.remote_errors import pack_exception, unpack_exception
from flowrt.model.node import NEVER_RUN, NodeResult, refuse_output

__all__ = ["decode", "encode"]

_ATOMS: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
_SAFE_MODULES: Final = frozenset({"numpy", "pandas", "pyarrow", "polars", "datetime", "decimal", "uuid"})


def encode(node_id: str, result: Any) -> tuple[int, Any]:
    """Convert a node's value into a status and a value that can share a payload with others.

    Raises:
        PicklingError: The value cannot be pickled.
    """
    if type(result) is not NodeResult or not result.success or result._metadata is not None:  # noqa: SLF001
        return Status.RESULT, dumps_alone(result, f"the result of node {node_id!r}")
    output: Any = result.output
    kind = type(output)
    if kind in NEVER_RUN:
        return Status.RAISED, pack_exception(refuse_output(node_id, output), 0)
    if (
        kind in _ATOMS
        or ((kind is list or kind is tuple) and _ATOMS.issuperset(map(type, output)))
        or (kind is dict and _ATOMS.issuperset(map(type, output.values())) and _ATOMS.issuperset(map(type, output)))
        or kind.__module__.partition(".")[0] in _SAFE_MODULES
    ):
        return Status.OK, output
    return Status.SEALED, dumps_alone(output, f"the output of node {node_id!r}")


def decode(status: int, value: Any) -> NodeResult[Any]:
    """Return the node's value, or raise its exception.

    Raises:
        PicklingError: The value cannot be loaded in this process.
        BaseException: The node's exception.
    """
    if status == Status.OK:
        return NodeResult(True, value)
    if status == Status.RAISED:
        raise unpack_exception(value)
    try:
        loaded = pickle.loads(value)  # noqa: S301  # from this batch's own worker
    except Exception as exc:
        raise PicklingError(f"the output cannot be loaded by the driver ({type(exc).__name__}: {exc})") from exc
    return NodeResult(True, loaded) if status == Status.SEALED else loaded

"""The attempts of a batch as numpy columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowrt.errors import MissingExtraError
from flowrt.recording.columns import OUTCOMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = ["Attempts", "require_numpy"]


def require_numpy(feature: str) -> Any:
    """Import numpy.

    Args:
        feature: The feature that needs it, as the subject of the error message.

    Returns:
        The module.

    Raises:
        MissingExtraError: numpy is not installed.
    """
    try:
        import numpy as np  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError(feature, "numpy", "report") from None
    return np


@dataclass(slots=True)
class Attempts:
    """Columns of attempts, all of the same length, ordered by their end. Times are nanoseconds from the batch's start.

    Attributes:
        index: Index of the item in the input.
        attempt: Number of the attempt, from 1; 0 for an item that never ran.
        arrival: Time at which the attempt was ready to run.
        slot: Time at which it got a slot.
        start: Time of the node's call; if `ran` is false, the same as `end`.
        end: Time at which it ended.
        ran: True if the node was called.
        outcome: Index into `OUTCOMES`.
        cause: Number of the failure's cause, or -1.
        last: True for the last attempt of its item.
        pulled: For a last attempt, the time at which its item was pulled; for others, the same as `arrival`.
        hedge: True for a hedge, which runs beside the item's own attempt and holds no slot.
    """

    index: Ints
    attempt: Ints
    arrival: Ints
    slot: Ints
    start: Ints
    end: Ints
    ran: Bools
    outcome: Ints
    cause: Ints
    last: Bools
    pulled: Ints
    hedge: Bools

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of_table(cls, table: Any) -> Attempts:
        """Return the attempts of a recording.

        Args:
            table: The table from `read_recording`.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        np = require_numpy("a report of a recording")
        import pyarrow as pa  # noqa: PLC0415  # an extra
        import pyarrow.compute  # noqa: PLC0415

        pc: Any = pyarrow.compute  # its stubs reject chunked columns

        def ints(name: str) -> Any:
            return table[name].to_numpy().astype(np.int64)

        names = pc.cast(table["outcome"], "string")
        outcome = pc.index_in(names, value_set=pa.array(OUTCOMES, pa.string())).to_numpy().astype(np.int64)
        arrival = ints("arrival_ns")
        slot = arrival + ints("slot_wait_ns")
        start = slot + ints("limiter_wait_ns")
        service = pc.fill_null(table["service_ns"], -1).to_numpy()
        ran = service >= 0
        attempts = cls(
            index=ints("index"),
            attempt=ints("attempt"),
            arrival=arrival,
            slot=slot,
            start=start,
            end=start + np.maximum(service, 0),
            ran=ran,
            outcome=outcome,
            cause=ints("cause"),
            last=table["last"].to_numpy().astype(bool),
            pulled=arrival.copy(),
            hedge=table["hedge"].to_numpy().astype(bool),
        )
        attempts._find_pulled(np)
        return attempts

    def _find_pulled(self, np: Any) -> None:
        """Set `pulled` of retried items: they were pulled when their first attempt arrived."""
        first = np.flatnonzero(~self.last & ~self.hedge & (self.attempt == 1))
        retried = np.flatnonzero(self.last & (self.attempt > 1))
        if not len(first) or not len(retried):
            return
        first = first[np.argsort(self.index[first], kind="stable")]
        at = np.searchsorted(self.index[first], self.index[retried])
        at = np.minimum(at, len(first) - 1)
        known = self.index[first[at]] == self.index[retried]
        self.pulled[retried[known]] = self.arrival[first[at[known]]]

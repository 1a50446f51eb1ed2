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
    """numpy, or a clear word that it is missing.

    Args:
        feature: What needs it, as the subject of a sentence.

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
    """Columns of attempts, in the order in which they ended; times in nanoseconds from the batch's start.

    Attributes:
        index: The items' places in the input.
        attempt: The attempts' numbers, from 1; 0 where the item had none.
        arrival: When it could have begun.
        slot: When it had a slot.
        start: When the node was called; where `ran` is false, when the attempt ended.
        end: When it ended.
        ran: Whether the node was called.
        outcome: Places in `OUTCOMES`.
        cause: Numbers of what made it fail, or -1.
        last: Whether it was its item's last.
        pulled: Of a last attempt, when its item was pulled; of others, as `arrival`.
        hedge: Whether it ran beside the item's own attempt and held no slot.
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
        """The attempts of a recording.

        Args:
            table: What `read_recording` gave.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        np = require_numpy("a report of a recording")
        import pyarrow as pa  # noqa: PLC0415  # an extra
        import pyarrow.compute  # noqa: PLC0415

        pc: Any = pyarrow.compute  # whose stubs know no columns of several chunks

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
        """An item that was tried again was pulled before its first attempt."""
        first = np.flatnonzero(~self.last & ~self.hedge & (self.attempt == 1))
        again = np.flatnonzero(self.last & (self.attempt > 1))
        if not len(first) or not len(again):
            return
        first = first[np.argsort(self.index[first], kind="stable")]
        at = np.searchsorted(self.index[first], self.index[again])
        at = np.minimum(at, len(first) - 1)
        known = self.index[first[at]] == self.index[again]
        self.pulled[again[known]] = self.arrival[first[at[known]]]

"""Report of an output file of `flowrt run`. The file has no timestamps, so there are no charts over time."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, Final

from flowrt.model import BatchResult
from flowrt.recording.columns import OUTCOMES
from flowrt.recording.error_groups import ErrorGroups
from flowrt.recording.errors import RecordingError
from flowrt.reporting.attempts import require_numpy
from flowrt.reporting.figures import Detail, quantiles
from flowrt.reporting.timeline import make_histogram

__all__ = ["detail_of_lines"]

_SLOWEST: Final = 50
_MAX_INT: Final = 2**63 - 1  # of the int64 columns


def detail_of_lines(path: Path) -> Detail:
    """Compute the figures of an output file.

    Args:
        path: JSON Lines file that `flowrt run` wrote.

    Raises:
        RecordingError: The file is missing, truncated, or not an output of `flowrt run`.
        MissingExtraError: numpy is not installed.
    """
    np = require_numpy("a report")
    counts = dict.fromkeys(OUTCOMES, 0)
    causes, by_number = ErrorGroups(), Counter[int]()
    index, service_s, status, attempts_of = array("q"), array("d"), array("q"), array("q")
    attempts = recovered = 0
    with _opened(path) as lines:
        for number, text in enumerate(lines, 1):
            result = _result(path, number, text)
            counts[result.status] += 1
            by_number[result.attempts] += 1
            attempts += result.attempts
            recovered += result.attempts > 1 and result.success
            if result.status in ("failed", "timed_out"):
                causes.number_of(result)
            if result.attempts:
                index.append(result.index)
                service_s.append(result.execution_time)
                status.append(OUTCOMES.index(result.status))
                attempts_of.append(result.attempts)
    service = np.frombuffer(service_s, np.float64) if service_s else np.zeros(0)
    slow = np.argsort(-service, kind="stable")[:_SLOWEST]
    return Detail(
        name=path.name,
        counts=counts,
        attempts=attempts,
        service=quantiles((service * 1e9).astype(np.int64)),
        busy_s=float(service.sum()),
        causes=sorted(
            ({**cause, "items": cause["count"], "attempts": cause["count"]} for cause in causes.found),
            key=lambda cause: -int(cause["items"]),
        ),
        retries={
            "items": sum(count for number, count in by_number.items() if number > 1),
            "recovered": recovered,
            "by_attempts": dict(sorted(by_number.items())),
        },
        slowest=[
            {
                "index": index[at],
                "status": OUTCOMES[status[at]],
                "attempts": attempts_of[at],
                # a line has the time of its last attempt only
                "duration": service_s[at] if attempts_of[at] == 1 else None,
                "service": service_s[at],
                "ended": None,
                "trace_id": None,
            }
            for at in slow.tolist()
        ],
        source=str(path),
        histogram=make_histogram((service * 1e9).astype(np.int64), np.array(status) == OUTCOMES.index("ok")),
    )


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise RecordingError(f"there is no file {path}", missing=True) from None
    except OSError as exc:
        raise RecordingError(f"{path} cannot be read: {exc.strerror}", missing=True) from exc


def _result(path: Path, number: int, text: bytes) -> BatchResult:
    try:
        line = json.loads(text)
        result = BatchResult(
            int(line["index"]),
            None,
            success=bool(line["success"]),
            status=line["status"],
            error=line["error"],
            error_type=line["error_type"],
            attempts=int(line["attempts"]),
            execution_time=float(line["execution_time"]),
        )
        _check(result)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise RecordingError(
            f"{path} is neither a recording nor an output of flowrt run: line {number} is not one of its results "
            f"({type(exc).__name__})"
        ) from exc
    return result


def _check(result: BatchResult) -> None:
    """Reject lines of other programs and of later versions.

    Raises:
        ValueError: A result cannot have this value.
    """
    if result.status not in OUTCOMES:
        raise ValueError(f"unknown status {result.status!r}")
    if not all(text is None or isinstance(text, str) for text in (result.error, result.error_type)):
        raise ValueError("error and error_type must be text or null")
    if not all(0 <= value < _MAX_INT for value in (result.index, result.attempts, result.execution_time * 1e9)):
        raise ValueError("index, attempts or execution_time is out of range")

"""Telemetry back ends for the tests of stalls, as `tests/telemetry` has them."""

from tests.telemetry.conftest import events, spans

__all__ = ["events", "spans"]

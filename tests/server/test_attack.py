"""A short cut of `make attack`: the batch goes on, and every request is answered as it should be."""

from __future__ import annotations

import pytest

from tools.attack import _REQUESTS, attack

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("attack")]


def test_a_batch_goes_on_while_its_server_is_attacked() -> None:
    outcome = attack(sockets=60, seconds=2.5)
    assert all(rate > 0 for rate in outcome.rates)
    assert outcome.opened >= 60
    answered = {kind: status for (kind, status), _ in outcome.answers.items() if status != "cut"}
    assert answered == {kind: status.decode() for kind, (_, status) in _REQUESTS.items()}
    assert outcome.slowest_health_s > 0

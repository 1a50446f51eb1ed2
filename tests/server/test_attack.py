"""Short version of `make attack`: the batch continues, and every request gets the right status."""

from __future__ import annotations

import pytest

from tools.attack import _REQUESTS, attack

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("attack")]


def test_28_batch_continues_while_slow_sockets_attack_its_server() -> None:
    outcome = attack(sockets=60, seconds=2.5)
    before, during, after = outcome.rates
    assert min(before, during, after) > 0
    assert outcome.opened >= 60
    answered = {(kind, status) for kind, status in outcome.answers if status != "cut"}
    assert answered == {(kind, status.decode()) for kind, (_, status) in _REQUESTS.items()}
    assert outcome.slowest_health_s > 0, "/healthz was asked"

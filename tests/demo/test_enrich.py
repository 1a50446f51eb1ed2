"""Service and node of the demo, on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from flowrt import BaseNode, NodeContext, NodeResult, WorkflowContext
from flowrt.demo import service
from flowrt.demo.airports import Airport, load_airports
from flowrt.demo.enrich import EnrichAirport, ServiceError
from flowrt.demo.service import Plan, make_app, plan_of
from tests.conftest import Run

AIRPORTS = {
    code: Airport(code, f"{code} Airport", "", "XX", latitude, 10.0, 12.5, "Europe/Oslo")
    for code, latitude in (("AAA", 60.0), ("BBB", 61.0), ("CCC", 65.0))
}


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    runner = web.AppRunner(make_app(AIRPORTS), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def ask(node: BaseNode, code: str) -> asyncio.Future[NodeResult]:
    return asyncio.ensure_future(
        node.execute(NodeContext("enrich", "http", {"iata": code, "city": "Oslo"}), WorkflowContext())
    )


def test_service_has_the_documented_shares_of_errors_and_stragglers() -> None:
    plans = [plan_of(code) for code in load_airports()]
    errors = [plan for plan in plans if plan.status == 503]
    late = [plan for plan in plans if plan.latency_s > 0.08]
    assert len(errors) / len(plans) == pytest.approx(0.02, rel=0.2)
    assert len(late) / len(plans) == pytest.approx(0.01, rel=0.2)
    assert all(1 <= plan.latency_s <= 3 and plan.status == 200 for plan in late)
    assert all(plan.latency_s >= 0.02 for plan in plans)
    assert {plan.status for plan in plans} == {200, 503}


def test_plan_depends_only_on_the_code() -> None:
    codes = list(load_airports())[:200]
    assert [plan_of(code) for code in codes] == [plan_of(code) for code in reversed(codes)][::-1]
    assert len({plan_of(code).latency_s for code in codes}) == 200


def test_node_adds_the_data_of_the_service(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "plan_of", lambda code: Plan(200, 0.001))

    async def main() -> None:
        async with serving() as url, EnrichAirport(url) as node:
            result = await ask(node, "CCC")
        assert result.success
        nearest = {"iata": "BBB", "name": "BBB Airport", "km": 444.8}
        assert result.output == {
            "iata": "CCC",
            "city": "Oslo",
            "elevation_m": 12.5,
            "time_zone": "Europe/Oslo",
            "nearest": nearest,
        }

    run(main())


def test_error_status_raises_an_error_without_the_airport(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "plan_of", lambda code: Plan(503, 0.001))

    async def main() -> None:
        async with serving() as url, EnrichAirport(url) as node:
            with pytest.raises(ServiceError, match=r"^the airport service answered 503$"):
                await ask(node, "AAA")
            with pytest.raises(ServiceError, match=r"^the airport service answered 404$"):
                await ask(node, "ZZZ")

    run(main())


def test_node_opens_one_session_and_closes_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "plan_of", lambda code: Plan(200, 0.001))

    async def main() -> None:
        async with serving() as url:
            node = EnrichAirport(url)
            with pytest.raises(RuntimeError, match="use it inside `async with EnrichAirport"):
                await ask(node, "AAA")
            async with node:
                session = node._session
                await asyncio.gather(*(ask(node, "AAA") for _ in range(20)))
                assert node._session is session
            assert session is not None
            assert session.closed
            with pytest.raises(RuntimeError):
                await ask(node, "AAA")

    run(main())

"""race and RaceNode."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BaseNode, BatchProcessor, FunctionNode, NodeContext, NodeResult, RaceNode, WorkflowContext, race
from flowrt.testing import ScriptedNode, hangs, returns, sleeps

Run = Callable[[Any], Any]
HANG_S = 60.0


class Search(BaseNode):
    def __init__(self, node_id: str, seconds: float, error: str | None = None) -> None:
        super().__init__(node_id, "search", config={})
        self.seconds = seconds
        self.fails_with = error
        self.ended = ""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # race waits for the clean-up
            self.ended = "cancelled"
            raise
        self.ended = "done"
        if self.fails_with:
            return NodeResult(False, error=self.fails_with)
        node_context.input_data["touched"] = self.node_id
        return NodeResult(True, {"from": self.node_id})


def test_first_success_wins_and_losers_have_ended(run_virtual: Run) -> None:
    nodes = [Search("google", 3), Search("bing", 1), Search("ddg", 2)]
    context = NodeContext("google", "search", {})
    result = run_virtual(race(nodes, context))
    assert result == NodeResult(True, {"from": "bing"})
    assert [node.ended for node in nodes] == ["cancelled", "done", "cancelled"]
    assert context.input_data == {}, "each node worked on a copy of its own"


def test_failure_does_not_win(run_virtual: Run) -> None:
    async def raises(_: Any) -> None:
        raise ValueError("broken")

    result = run_virtual(race([raises, Search("bing", 1, "no luck"), Search("ddg", 2)], {}))
    assert result.output == {"from": "ddg"}


def test_race_without_a_success_lists_every_error(run_virtual: Run) -> None:
    class Odd(Search):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
            return {"not": "a NodeResult"}

    async def raises(_: Any) -> None:
        raise ValueError("broken")

    async def cancels(_: Any) -> None:
        raise asyncio.CancelledError

    nodes = [raises, Search("bing", 1, "no luck"), Odd("odd", 0), cancels]
    result = run_virtual(race(nodes, {}))
    assert not result.success
    assert [entry["node_id"] for entry in result.metadata["errors"]] == ["raises", "bing", "odd", "cancels"]
    for text in ("raises: broken", "bing: no luck", "odd: returned dict", "cancels: the node raised CancelledError"):
        assert text in result.error


def test_cancelled_race_cancels_and_awaits_its_nodes(run_virtual: Run) -> None:
    nodes = [Search("google", 30), Search("bing", 40)]

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(race(nodes, {}), 1)
        assert [node.ended for node in nodes] == ["cancelled", "cancelled"]

    run_virtual(main())


def test_loser_that_does_not_end_is_abandoned_after_the_grace(run_virtual: Run) -> None:
    async def main() -> None:
        stubborn = ScriptedNode(hangs(stubborn_for=10), node_id="stubborn")
        result = await race([stubborn, ScriptedNode(sleeps(1, then=returns("quick")))], {})
        assert (result.output, result.metadata["still_running"]) == ("quick", ["stubborn"])
        assert asyncio.get_running_loop().time() == pytest.approx(6)
        await asyncio.sleep(10)

    run_virtual(main())


def test_plain_and_async_functions_race(run: Run) -> None:
    def blocking(data: dict[str, int]) -> int:
        time.sleep(0.01)
        return data["x"]

    async def slow(_: Any) -> None:
        await asyncio.sleep(30)

    assert run(race([slow, blocking], {"x": 5})).output == 5


def test_race_waits_for_plain_functions_that_lost(run: Run) -> None:
    ended = []

    def slow(_: Any) -> None:
        time.sleep(0.2)
        ended.append("slow")

    async def quick(_: Any) -> str:
        return "quick"

    result = run(race([slow, quick], {}))
    assert (result.output, ended) == ("quick", ["slow"])
    assert "still_running" not in result.metadata


def test_races_with_slow_losers_do_not_fill_the_default_pool(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.nodes.race.GRACE_S", 0.05)
    release = threading.Event()

    def stuck(_: Any) -> None:
        release.wait(HANG_S)

    async def quick(_: Any) -> NodeResult:
        await asyncio.sleep(0.001)
        return NodeResult(True, "quick", metadata={"cost": 3})

    async def main() -> Any:
        results = await asyncio.gather(*(race([stuck, quick, stuck], {}) for _ in range(30)))
        async with asyncio.timeout(HANG_S / 2):
            await asyncio.to_thread(int)
        return results

    try:
        results = run(main())
    finally:
        release.set()
    assert [result.metadata for result in results] == [{"cost": 3, "still_running": ["stuck", "stuck"]}] * 30


def test_race_names_the_async_losers_that_did_not_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.nodes.race.GRACE_S", 0.05)

    async def main() -> NodeResult:
        stop = asyncio.Event()

        async def stubborn(_: Any) -> None:
            while not stop.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await stop.wait()

        async def quick(_: Any) -> str:
            await asyncio.sleep(0.001)
            return "quick"

        result = await race([stubborn, quick], {})
        stop.set()
        await asyncio.sleep(0.01)
        return result

    assert run(main()).metadata["still_running"] == ["stubborn"]


def test_race_without_nodes_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="at least one node"):
        run(race([], {}))
    with pytest.raises(ValueError, match="at least one node"):
        RaceNode("r", [])


def test_race_node_runs_in_a_batch(run_virtual: Run) -> None:
    async def slow(x: int) -> str:
        await asyncio.sleep(5)
        return f"slow {x}"

    async def odd_only(x: int) -> str:
        await asyncio.sleep(1)
        if x % 2 == 0:
            raise ValueError("even")
        return f"quick {x}"

    node = RaceNode("either", [FunctionNode(slow), odd_only], name="Either", config={"a": 1})
    results = run_virtual(BatchProcessor(node, 4).batch(range(4)))
    assert [result.output for result in results] == ["slow 0", "quick 1", "slow 2", "quick 3"]

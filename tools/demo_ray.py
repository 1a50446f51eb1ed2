"""The demo's main job on a local Ray cluster of two nodes, one of which is lost in mid-run: `make demo-ray`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from dataclasses import asdict

import flowrt
from flowrt import BaseNode, BatchProcessor, NodeContext, NodeResult, RayExecutor, WorkflowContext
from flowrt.demo.airports import choose, load_airports
from flowrt.demo.enrich import EnrichAirport
from flowrt.demo.job import ITEM_TIMEOUT_S
from flowrt.demo.process import ServiceProcess
from flowrt.executors.workers import worker_states
from flowrt.reporting.summary import print_rows, summary_rows
from tools.ray_cluster import RayClusterProcess

CONCURRENCY = 50


class EnrichInActor(BaseNode):
    """Opens its HTTP session in the actor, with the first item there."""

    def __init__(self, url: str) -> None:
        super().__init__(node_id="enrich", node_type="http", name="Enrich an airport", config={"url": url})
        self._node: EnrichAirport | None = None

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        """Request the airport's data."""
        if self._node is None:
            self._node = EnrichAirport(self.config["url"])
            await self._node.__aenter__()
        return await self._node.execute(node_context, workflow_context)


async def run(items: int) -> None:
    """Run the batch, lose a node after a third of it, and print the summary."""
    airports = [asdict(airport) for airport in choose(load_airports(), items)]
    with ServiceProcess() as service, RayClusterProcess(2, 2) as cluster:
        print(
            f"{items:,} airports, {CONCURRENCY} at once, four actors on two nodes of the Ray cluster {cluster.address}"
        )
        async with RayExecutor(4, address=cluster.address) as executor:
            processor = BatchProcessor(
                EnrichInActor(service.url), CONCURRENCY, item_timeout=ITEM_TIMEOUT_S, executor=executor, name="airports"
            )
            report = flowrt.BatchReport("airports")
            places: list[int] = []
            lost = None
            async with processor.batch_as_completed(airports) as results:
                async for result in results:
                    report.add(result)
                    places.append(result.index)
                    if lost is None and len(places) >= items // 3:
                        print(f"{len(places):,} results are there: a node with two actors is lost")
                        lost = asyncio.get_running_loop().run_in_executor(None, cluster.lose_node)
                report.batch = results.batch
            crashes = sum(state.restarts["crash"] for state in worker_states())
            if lost is not None:
                await lost
        if report.batch is not None:
            report.wall_time = (report.batch.finished_ns - report.batch.started_ns) / 1e9
        print_rows(f"airports, {CONCURRENCY} at once on Ray", summary_rows(report))
        print(f"each of the {items:,} airports once: {sorted(places) == list(range(items))}")
        print(f"actors that were lost: {crashes}")


def main() -> None:
    """Run it with as many airports as the first argument says, 2,000 by default."""
    logging.basicConfig(level="ERROR")
    began = time.monotonic()
    flowrt.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000), log_level="ERROR", metrics_port=None)
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()

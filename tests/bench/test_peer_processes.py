"""Items in the processes of distributed peers, with and without telemetry by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench import peer_processes
from bench.arms import distributed
from bench.by_hand import ByHand
from bench.collector import collector, count_spans
from bench.jobs import FirstAttemptError
from bench.peer_processes import flush, kept_job, run_chunk, run_item, run_numbers
from bench.service import http_service
from bench.workloads import WORKLOADS, workload

NAMES = [work.name for work in WORKLOADS]


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not run an item yet."""
    monkeypatch.setattr(peer_processes, "_telemetry", [])
    monkeypatch.setattr(peer_processes, "_jobs", {})
    monkeypatch.setattr(peer_processes, "_failed", set())
    monkeypatch.setattr(peer_processes._local, "connection", None, raising=False)
    with http_service(0.0) as url:
        monkeypatch.setenv("BENCH_HTTP", url)
        yield
        if peer_processes._local.connection is not None:
            peer_processes._local.connection.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_workload_returns_its_numbers_in_thread_and_on_loop(name: str) -> None:
    assert [run_item(name, number) for number in (3, 4)] == [3, 4]
    assert asyncio.run(run_chunk(name, [9, 10, 11], 2)) == [9, 10, 11]


def test_flaky_item_fails_once_in_a_thread_and_never_in_a_chunk() -> None:
    with pytest.raises(FirstAttemptError, match="item 10"):
        run_item("flaky", 10)
    assert run_item("flaky", 10) == 10
    assert asyncio.run(run_chunk("flaky", [20], 1)) == [20]


def test_kept_job_is_made_once_and_retries_only_on_request() -> None:
    async def both() -> None:
        bare = await kept_job("flaky", False, retried=False)
        with pytest.raises(FirstAttemptError):
            await bare({"x": 10})
        assert await kept_job("flaky", False, retried=False) is bare
        assert await run_numbers(bare, [10], 1) == [10]
        assert await run_numbers(await kept_job("flaky", False, retried=True), [20], 1) == [20]

    asyncio.run(both())


def test_item_has_one_span_whatever_its_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    flush()  # nothing yet
    with collector() as url:
        monkeypatch.setenv("BENCH_COLLECTOR", url)
        assert [run_item("flaky", number, observed=True) for number in range(1, 21)] == list(range(1, 21))
        assert asyncio.run(run_chunk("flaky", range(1, 31), 10, observed=True)) == list(range(1, 31))
        (telemetry,) = peer_processes._telemetry
        assert isinstance(telemetry, ByHand)
        flush()
        assert count_spans(url) == 50
        telemetry.close()


@pytest.mark.parametrize("name", NAMES)
def test_chunks_add_up_to_the_concurrency_of_the_workload(name: str) -> None:
    work = workload(name)
    at_once, chunks = distributed._share(work)
    assert distributed._PROCESSES * at_once * chunks == work.concurrency

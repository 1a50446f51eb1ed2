"""Items in the processes of a peer that has its own: what they give, and the telemetry by hand that they have there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench import far
from bench.arms import distributed
from bench.by_hand import ByHand
from bench.collector import collector, count_spans
from bench.far import flush, kept_job, run_chunk, run_item, run_numbers
from bench.jobs import FirstAttemptError
from bench.service import http_service
from bench.workloads import WORKLOADS, workload

NAMES = [work.name for work in WORKLOADS]


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not run anything yet."""
    monkeypatch.setattr(far, "_telemetry", [])
    monkeypatch.setattr(far, "_jobs", {})
    monkeypatch.setattr(far, "_failed", set())
    monkeypatch.setattr(far._mine, "connection", None, raising=False)
    with http_service(0.0) as url:
        monkeypatch.setenv("BENCH_HTTP", url)
        yield
        if far._mine.connection is not None:
            far._mine.connection.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_workload_gives_its_items_numbers_in_a_thread_and_on_a_loop(name: str) -> None:
    assert [run_item(name, number) for number in (3, 4)] == [3, 4]
    assert asyncio.run(run_chunk(name, [9, 10, 11], 2)) == [9, 10, 11]


def test_an_item_that_fails_at_first_does_so_once_in_a_thread_and_never_in_a_chunk() -> None:
    with pytest.raises(FirstAttemptError, match="item 10"):
        run_item("flaky", 10)
    assert run_item("flaky", 10) == 10
    assert asyncio.run(run_chunk("flaky", [20], 1)) == [20]


def test_a_kept_job_is_made_once_and_tries_again_only_where_it_is_to() -> None:
    async def both() -> None:
        bare = await kept_job("flaky", False, retried=False)
        with pytest.raises(FirstAttemptError):
            await bare({"x": 10})
        assert await kept_job("flaky", False, retried=False) is bare
        assert await run_numbers(bare, [10], 1) == [10]
        assert await run_numbers(await kept_job("flaky", False, retried=True), [20], 1) == [20]

    asyncio.run(both())


def test_items_have_one_span_each_however_often_they_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    flush()  # nothing yet
    with collector() as url:
        monkeypatch.setenv("BENCH_COLLECTOR", url)
        assert [run_item("flaky", number, told=True) for number in range(1, 21)] == list(range(1, 21))
        assert asyncio.run(run_chunk("flaky", range(1, 31), 10, told=True)) == list(range(1, 31))
        (telemetry,) = far._telemetry
        assert isinstance(telemetry, ByHand)
        flush()
        assert count_spans(url) == 50
        telemetry.close()


@pytest.mark.parametrize("name", NAMES)
def test_processes_that_are_given_chunks_run_as_many_items_at_once_as_the_workload_says(name: str) -> None:
    work = workload(name)
    at_once, chunks = distributed._share(work)
    assert distributed._PROCESSES * at_once * chunks == work.concurrency

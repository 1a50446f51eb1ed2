"""One local Ray for all tests of this folder; `make test-ray` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

INSTALLED = find_spec("ray") is not None
WANTED = "FLOWRT_RAY" in os.environ  # an installation of 80 MB and a minute of tests
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests unless they were asked for; asked for in CI, a missing Ray fails them."""
    reason = "" if WANTED else "make test-ray runs it"
    if not INSTALLED and not (WANTED and "CI" in os.environ):
        reason = "the extra 'ray' is not installed"
    for item in items:
        if reason and item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.skip(reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A local Ray with four cores, no dashboard and the smallest object store."""
    os.environ |= {"RAY_raylet_start_wait_time_s": "120", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=80_000_000,
        log_to_driver=False,
        configure_logging=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def executor(cluster: Any) -> Iterator[Any]:
    """Two warm actors for the tests that do not harm them."""
    from flowrt import RayExecutor

    executor = RayExecutor(2)
    yield executor
    executor.close()

"""One local Ray for all tests of this folder; `make test-ray` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

if "FLOWRT_RAY" not in os.environ:  # an installation of 80 MB and minutes of tests
    collect_ignore_glob = ["test_*.py"]


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

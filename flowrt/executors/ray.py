"""Ray executor: attempts in actors of a Ray cluster."""

from __future__ import annotations

import atexit
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Final

from flowrt._util.validation import check_count, check_duration
from flowrt.errors import MissingExtraError
from flowrt.executors.pickling import dumps_alone
from flowrt.executors.pooled import PooledExecutor
from flowrt.executors.ray_cluster import RayCluster
from flowrt.executors.ray_transport import RayLauncher
from flowrt.executors.remote_pool import PoolSettings
from flowrt.executors.transport import Launcher

__all__ = ["RayExecutor", "default_executor"]


class RayExecutor(PooledExecutor):
    """Runs attempts in Ray actors: `executor="ray"`, or with settings `executor=RayExecutor(...)`.

    Plain functions run one after another in an actor, coroutines side by side. Retries, rate limits, timeouts, the
    journal and all counters stay at the driver. The actors stay warm from batch to batch, until the executor is closed
    (`async with executor:`, `close()`), a `Runtime` ends, or the process does. A batch starts with the first actor
    that is there.

    Args:
        actors: Number of actors.
        address: None for a new local cluster, "auto" or "host:port" for an existing one. A process that has
            called `ray.init` itself uses that cluster.
        num_cpus: Cores that Ray reserves for each actor.
        num_gpus: GPUs that Ray reserves for each actor.
        memory: Memory that Ray reserves for each actor, in bytes.
        resources: Further resources for each actor.
        runtime_env: Ray's runtime environment of the actors: packages, environment variables.
        initializer: Called once in each actor before its first item, to load a model or open a connection.
        start_timeout: Longest wait for the first actor, in seconds.
        max_crashes: Number of actors that an item may crash before it fails as `WorkerCrashed`.

    Raises:
        ValueError: A setting is out of its range, or the address is a `ray://` client's.
        TypeError: The initializer cannot be pickled.
        MissingExtraError: The extra `ray` is not installed.
    """

    def __init__(
        self,
        actors: int = 2,
        *,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory: int | None = None,
        resources: Mapping[str, float] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        initializer: Callable[[], Any] | None = None,
        start_timeout: float = 120,
        max_crashes: int = 3,
    ) -> None:
        super().__init__()
        self.actors = check_count("actors", actors)
        self.address = _check_address(address)
        check_count("max_crashes", max_crashes)
        check_duration("start_timeout", start_timeout)
        _check_installed()
        options = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "memory": memory,
            "resources": None if resources is None else dict(resources),
            "runtime_env": None if runtime_env is None else dict(runtime_env),
        }
        self._options = {name: value for name, value in options.items() if value is not None}
        self._start_timeout_s = start_timeout
        self._cluster: RayCluster | None = None
        self._settings = PoolSettings(
            kind="ray",
            workers=actors,
            hello={"initializer": None if initializer is None else dumps_alone(initializer, "the initializer")},
            max_crashes=max_crashes,
        )

    def start_pool(self) -> tuple[Launcher, PoolSettings]:
        """The cluster's actors; all pools share the connection."""
        if self._cluster is None:
            self._cluster = RayCluster(self.address, self._options, self._start_timeout_s)
            atexit.register(self._cluster.close)  # runs after the pools'
        return RayLauncher(self._cluster), self._settings

    def close(self) -> None:
        """End the actors and a local cluster, which fails running batches. A later batch starts new ones."""
        super().close()
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            atexit.unregister(cluster.close)
            cluster.close()

    def __repr__(self) -> str:
        return f"RayExecutor(actors={self.actors}, address={self.address!r})"


_default: Final[list[RayExecutor]] = []


def default_executor() -> RayExecutor:
    """The executor of every `executor="ray"` of this process, so that batches share warm actors."""
    if not _default:
        _default.append(RayExecutor())
    return _default[0]


def _check_address(address: str | None) -> str | None:
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"address={address!r} is a Ray client's, which carries every call twice: run the program in the cluster by "
            "`ray job submit --address http://HEAD:8265 -- python your_script.py`, and pass address='auto' there"
        )
    return address


def _check_installed() -> None:
    for name in ("ray", "cloudpickle"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError("executor='ray'", name, "ray")

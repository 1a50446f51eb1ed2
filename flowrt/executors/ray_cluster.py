"""Connection to a Ray cluster: a local one of its own, or an existing one; it places actors and watches the head."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from flowrt.errors import ClusterLostError, ExecutorFailedError
from flowrt.eventloop.gc_tuning import freeze_loaded

__all__ = ["RayCluster"]

_log: Final = logging.getLogger("flowrt.workers")
_STORE_BYTES: Final = 80_000_000  # Ray's least; items do not go through the object store of a cluster of our own
_SAY_PENDING_S: Final = 10.0
_LOOK_S: Final = 0.5
_NEVER_S: Final = "86400"  # by default Ray ends a driver a minute after its head
_PROBE_S: Final = 2.0
_PROBES: Final = 4  # failures in a row after which the head counts as lost: about 20 s at most
_PROBE_TIMEOUT_S: Final = 3.0
_READ_TIMEOUT_S: Final = 5.0


class Watcher(Protocol):
    """Listener for the loss of the head."""

    def cluster_lost(self) -> None:
        """Handle the loss of the head. Called in any thread."""


class RayCluster:
    """Connection of this process to a cluster, made by the first thread that needs it.

    Args:
        address: None for a local cluster of its own, or an existing one's: "auto" or "host:port".
        options: Ray's options of an actor.
        start_timeout: Longest wait for the first actor, in seconds.
    """

    def __init__(self, address: str | None, options: Mapping[str, Any], start_timeout: float) -> None:
        self._address = address
        self._options = dict(options)
        self._start_timeout_s = start_timeout
        self._lock = threading.Lock()
        self._ray: Any = None
        self._owned = False
        self._started = False
        self._closed = threading.Event()
        self._lost = False
        self._head = ("", 0)
        self._watchers: set[Watcher] = set()
        self._starters: set[threading.Thread] = set()
        self._thread: threading.Thread | None = None
        self._connected = threading.Event()
        self._error: ExecutorFailedError | None = None

    @property
    def is_connected(self) -> bool:
        """True if this process is connected. A call of Ray without a connection would start another cluster."""
        ray = self._ray
        return ray is not None and not self._lost and bool(ray.is_initialized())

    # -- in threads ----------------------------------------------------------------------------------------------------

    def connect(self) -> Any:
        """Connect or start a local cluster if not done yet, and return the module `ray`.

        Raises:
            ExecutorFailedError: The cluster cannot be reached or started.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flowrt-ray", daemon=True)
                self._thread.start()
        self._connected.wait()
        if self._error is not None:
            raise self._error
        return self._ray

    def _run(self) -> None:
        """Connect, then watch the head. The thread stays, since a local cluster ends with its starting thread."""
        try:
            self._ray = self._connect()
        except BaseException as exc:
            where = f"the Ray cluster at {self._address!r} cannot be reached"
            if self._address is None:
                where = "a local Ray cluster cannot be started"
            self._error = ExecutorFailedError(f"{where} ({type(exc).__name__}: {exc})")
            self._error.__cause__ = exc
        self._connected.set()
        if self._error is None:
            self._probe()

    def _connect(self) -> Any:
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # its 30 s are exceeded under load
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # avoids a warning at each start
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        if self._address is not None:  # in a local cluster, all processes would inherit it and outlive their head
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _NEVER_S)
        import ray  # noqa: PLC0415  # an extra, and slow to import

        if not ray.is_initialized():
            settings: dict[str, Any] = {"address": self._address or "local", "log_to_driver": False}
            if self._address is None:
                settings |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
            noisy = logging.getLogger("ray._private.worker")
            level = noisy.level
            noisy.setLevel(logging.ERROR)  # it warns that it sets no signal handler in this thread
            try:
                ray.init(configure_logging=False, **settings)
            finally:
                noisy.setLevel(level)
            self._owned = True
            _take_back_excepthook(ray)
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        return ray

    def start_actor(self, name: str) -> tuple[Any, tuple[int, str, str, str, str]]:
        """Start an actor and wait until it is ready.

        Args:
            name: Name of its slot.

        Returns:
            The actor's handle; its process id, its host, the file of its shared memory, and the id of its node.

        Raises:
            ExecutorFailedError: No actor has started within the time limit.
        """
        ray = self.connect()
        self._starters.add(threading.current_thread())
        try:
            return self._start_actor(ray, name)
        finally:
            self._starters.discard(threading.current_thread())

    def _start_actor(self, ray: Any, name: str) -> tuple[Any, tuple[int, str, str, str, str]]:
        worker: Any = importlib.import_module("flowrt.remote.ray_actor").RayWorker  # lies above this package
        actor = ray.remote(worker).options(max_restarts=0, max_task_retries=0, **self._options).remote()
        about = actor.about.remote()
        began, said = time.monotonic(), False
        while not ray.wait([about], timeout=_LOOK_S)[0]:
            waited_s = time.monotonic() - began
            if self._closed.is_set() or not self.is_connected:
                raise ExecutorFailedError("the executor was closed")
            if waited_s >= _SAY_PENDING_S and not said:
                said = True
                _log.warning("Ray actor %s has been pending for %.0f s: %s", name, waited_s, self._why_pending())
            if waited_s >= self._start_timeout_s and not self._started:
                why = self._why_pending()
                self.kill(actor)
                raise ExecutorFailedError(f"no Ray actor has started within {self._start_timeout_s:g} s: {why}")
        found = ray.get(about)
        if not self._started:
            self._started = True
            freeze_loaded()  # some 50,000 objects of Ray
        return actor, found

    def _why_pending(self) -> str:
        """Describe the resources that each actor requests and that the cluster has."""
        asked = {"CPU": self._options.get("num_cpus"), "GPU": self._options.get("num_gpus")}
        asked |= {"memory": self._options.get("memory")} | dict(self._options.get("resources") or {})
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        wanted = [f"{amount:g} {name}" for name, amount in asked.items() if amount]
        found = [f"{free.get(name, 0):g} of {has.get(name, 0):g} {name}" for name, amount in asked.items() if amount]
        return f"each actor needs {', '.join(wanted) or 'nothing'}, and the cluster has {', '.join(found)} free"

    def run_on_node(self, node_id: str, function: Callable[..., Any], *arguments: str) -> Any:
        """Call a function in a task on a node; None if the node is gone."""
        ray = self._ray
        if not any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes()):
            return None
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments)
        return ray.get(task, timeout=_READ_TIMEOUT_S)

    # -- the head ------------------------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Report the loss of the head, before Ray notices it after a minute and ends this process."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Stop notifying."""
        self._watchers.discard(watcher)

    def _probe(self) -> None:
        failures = 0
        while not self._closed.wait(_PROBE_S):
            try:
                socket.create_connection(self._head, _PROBE_TIMEOUT_S).close()
                failures = 0
            except OSError:
                failures += 1
            if failures >= _PROBES:
                self._lost = True
                _take_back_excepthook(self._ray)
                for watcher in list(self._watchers):
                    watcher.cluster_lost()
                if self._owned:  # takes 20 s: better now than at the process's exit
                    with suppress(Exception):
                        self._ray.shutdown()
                self._closed.wait()

    def lost_error(self) -> ClusterLostError:
        """The error that ends the batches."""
        host, port = self._head
        return ClusterLostError(f"the head of the Ray cluster at {host}:{port} is gone; a journal can be resumed")

    def wait(self, call: Any, timeout_s: float) -> None:
        """Block until a call has ended, for at most so many seconds."""
        if self.is_connected:
            with suppress(Exception):
                self._ray.wait([call], timeout=max(0.0, timeout_s))

    # -- the end -------------------------------------------------------------------------------------------------------

    def kill(self, actor: Any) -> None:
        """End an actor at once."""
        if self.is_connected:
            with suppress(Exception):  # it may have ended
                self._ray.kill(actor)

    def close(self) -> None:
        """Disconnect if this connected; a local cluster of its own ends."""
        self._closed.set()
        for thread in list(self._starters):  # a call of Ray's after the end would start another cluster
            thread.join(2 * _LOOK_S)
        if self._owned and self.is_connected:
            self._ray.shutdown()


def _take_back_excepthook(ray: Any) -> None:
    """Undo Ray's hook for an uncaught exception: it asks the head, even a lost one, before it prints."""
    with suppress(AttributeError):  # of another version of Ray
        worker = ray._private.worker  # noqa: SLF001
        if sys.excepthook is worker.custom_excepthook:
            sys.excepthook = worker.normal_excepthook

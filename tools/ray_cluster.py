"""Ray cluster of this machine in a session of its own, which can lose a node or its head: for tests and the demo.

Ray's `Cluster` leaves processes behind when the program that made it is killed. This one runs it in a child, whose
session is killed as a whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["RayClusterProcess"]

_STORE_BYTES: Final = 80_000_000


class RayClusterProcess:
    """Context manager that runs a cluster.

    Args:
        head_cores: Cores of the head's node.
        node_cores: Cores of each further node.
        job_server: True to run the dashboard, which takes jobs; it needs the package `ray[default]`.

    Attributes:
        address: Address for `RayExecutor`.
        job_address: Address for `ray job submit`, or empty.
    """

    def __init__(self, head_cores: int, *node_cores: int, job_server: bool = False) -> None:
        self.address = self.job_address = ""
        self._cores = (head_cores, *node_cores)
        self._job_server = job_server
        self._child: subprocess.Popen[str]

    def __enter__(self) -> Self:
        """Start the cluster, and wait until it is there."""
        self._child = subprocess.Popen(
            [sys.executable, __file__, str(int(self._job_server)), *map(str, self._cores)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            self.address, _, self.job_address = self._read().partition(" ")
        except BaseException:  # Ctrl-C, too
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill all of its processes."""
        while processes := self.processes():
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._child.communicate()

    def processes(self) -> list[int]:
        """Its processes that have not ended: those of its session, as Ray gives each worker a group of its own."""
        found = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                state, _, _, session = file.read_text().rpartition(")")[2].split()[:4]
                if state != "Z" and int(session) == self._child.pid:
                    found.append(int(file.parent.name))
        return found

    def lose_node(self) -> None:
        """Kill the processes of the last node."""
        self._order("lose a node")

    def lose_head(self) -> None:
        """Kill the processes of the head's node."""
        self._order("lose the head")

    def _order(self, command: str) -> None:
        if self._child.stdin is not None:
            print(command, file=self._child.stdin, flush=True)
        self._read()

    def _read(self) -> str:
        line = "" if self._child.stdout is None else self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the Ray cluster ended with {self._child.wait()}")
        return line.strip()


def main() -> None:
    """Run the cluster, in the child: each line of standard input is a command, and is answered by a line."""
    os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112  # as Ray spells it
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    small: dict[str, Any] = {"object_store_memory": _STORE_BYTES}
    job_server, head_cores, *node_cores = map(int, sys.argv[1:])
    head = {"num_cpus": head_cores, "include_dashboard": bool(job_server), "dashboard_port": 0, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=cores, **small) for cores in node_cores]
    print(cluster.address, f"http://{cluster.head_node.webui_url}" if job_server else "", flush=True)
    for line in sys.stdin:
        if line.strip() == "lose a node":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            for processes in cluster.head_node.all_processes.values():
                for each in processes:
                    each.process.kill()
        print("done", flush=True)
    cluster.shutdown()  # the program that made it has ended without its exit handlers


if __name__ == "__main__":
    main()

"""A Ray cluster in a session of its own, which the test kills as a whole. Commands come on stdin."""

from __future__ import annotations

import os
import sys

os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112  # as Ray spells it

from ray.cluster_utils import Cluster

_SMALL = {"include_dashboard": False, "object_store_memory": 80_000_000}


def main() -> None:
    """Start a head, and nodes as asked: each line is a command, and each is answered by a line."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": int(sys.argv[1]), **_SMALL})
    nodes = [cluster.add_node(num_cpus=int(count), object_store_memory=80_000_000) for count in sys.argv[2:]]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "lose a node":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            for processes in cluster.head_node.all_processes.values():
                for each in processes:
                    each.process.kill()
        print("done", flush=True)


if __name__ == "__main__":
    main()

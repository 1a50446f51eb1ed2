"""The page on scaling: its manifest has the fields that KubeRay knows, and its plan holds in virtual time."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowrt import BatchProcessor
from flowrt.cli.main import main as command
from flowrt.testing import run_virtual

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "scaling.md").read_text("utf-8")
HOUR_S = 3_600
DAY_S = 24 * HOUR_S
DAILY = 10**9

# -- the manifest ------------------------------------------------------------------------------------------------------

# Fields of a RayJob as KubeRay's CustomResourceDefinition of ray.io/v1 has them, as far as one may want them here: a
# type, a mapping of names to schemas, or a list of one schema. A name that ends in "!" is required.
_ANY: dict[str, Any] = {"*": object}
_TEXTS = {"*": str}
_QUANTITIES = {"*": (str, int)}
_POD = {
    "metadata": _ANY,
    "spec!": {
        "containers!": [
            {
                "name!": str,
                "image": str,
                "imagePullPolicy": str,
                "command": [str],
                "args": [str],
                "env": [{"name!": str, "value": str, "valueFrom": _ANY}],
                "ports": [{"name": str, "containerPort!": int, "protocol": str}],
                "resources": {"requests": _QUANTITIES, "limits": _QUANTITIES},
                "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}],
                "lifecycle": _ANY,
            }
        ],
        "volumes": [{"name!": str, "*": object}],
        "serviceAccountName": str,
        "restartPolicy": str,
        "terminationGracePeriodSeconds": int,
        "nodeSelector": _TEXTS,
        "tolerations": [_ANY],
    },
}
_GROUP = {"rayStartParams": _TEXTS, "resources": _TEXTS, "labels": _TEXTS, "serviceType": str, "template!": _POD}
RAY_JOB = {
    "apiVersion!": str,
    "kind!": str,
    "metadata!": {"name!": str, "namespace": str, "labels": _TEXTS, "annotations": _TEXTS},
    "spec!": {
        "entrypoint": str,
        "entrypointNumCpus": (int, float),
        "entrypointNumGpus": (int, float),
        "entrypointResources": str,
        "runtimeEnvYAML": str,
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "preRunningDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "submissionMode": str,
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "enableInTreeAutoscaling": bool,
            "headGroupSpec!": _GROUP,
            "workerGroupSpecs": [
                {
                    **_GROUP,
                    "groupName!": str,
                    "replicas": int,
                    "minReplicas!": int,
                    "maxReplicas!": int,
                    "numOfHosts": int,
                    "idleTimeoutSeconds": int,
                    "suspend": bool,
                }
            ],
        },
    },
}


def faults(value: Any, schema: Any, path: str = "") -> list[str]:
    """Return the fields of a value that its schema lacks, and the required fields that the value lacks."""
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [fault for place, each in enumerate(value) for fault in faults(each, schema[0], f"{path}[{place}]")]
    if not isinstance(schema, dict):
        right = isinstance(value, schema) and (schema is object or isinstance(value, bool) <= (schema is bool))
        return [] if right else [f"{path} is {value!r}"]
    if not isinstance(value, dict):
        return [f"{path} is no mapping"]
    names = {name.rstrip("!"): part for name, part in schema.items()}
    found = [f"{path}.{name[:-1]} is missing" for name in schema if name.endswith("!") and name[:-1] not in value]
    for name, part in value.items():
        if name not in names and "*" not in names:
            found.append(f"{path}.{name} is unknown")
        else:
            found += faults(part, names.get(name, names.get("*")), f"{path}.{name}")
    return found


def manifest() -> Any:
    return yaml.safe_load((DOCS / "kuberay-rayjob.yaml").read_text("utf-8"))


def test_manifest_has_the_fields_of_a_ray_job() -> None:
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert faults(job, RAY_JOB) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda spec: spec.update(entryPoint="x"), ".spec.entryPoint is unknown"),
        (lambda spec: spec.update(backoffLimit="3"), ".spec.backoffLimit is '3'"),
        (lambda spec: spec["rayClusterSpec"].pop("headGroupSpec"), ".spec.rayClusterSpec.headGroupSpec is missing"),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            ".spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus is 0",
        ),
    ],
)
def test_faulty_manifest_is_found(change: Callable[[Any], Any], fault: str) -> None:
    job = manifest()
    change(job["spec"])
    assert faults(job, RAY_JOB) == [fault]


def test_entrypoint_is_a_command_with_known_options() -> None:
    shell, _, line = shlex.split(manifest()["spec"]["entrypoint"])
    name, verb, *arguments = shlex.split(line.partition(" ||")[0])
    assert (shell, name, verb) == ("sh", "flowrt", "run")
    run = command.get_command(None, verb)  # type: ignore[arg-type]
    known = {option for parameter in run.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


# -- the plan ----------------------------------------------------------------------------------------------------------

CHUNK = 2_500_000  # items that are simulated as one, at the sum of their costs


def item_cost_s() -> float:
    """Return the driver's cost of an item in the page's plan."""
    found = re.search(r"The plan takes (\d+) µs", PAGE)
    assert found is not None
    return int(found[1]) / 1e6


def simulate(folder: Path, drivers: int, *, stopped_at_s: float | None = None) -> tuple[list[list[int]], float]:
    """Run a day's items in virtual time, on drivers that each pay for their items on one core.

    Args:
        folder: Where each driver has its journal.
        drivers: Number of drivers, each with its part of the input.
        stopped_at_s: When the first driver is stopped; it is started again an hour later, with its journal.

    Returns:
        The merged output by driver, and when the last driver ended, in seconds.
    """
    chunks = range(DAILY // CHUNK)
    cost_s = item_cost_s() * CHUNK

    async def driver(number: int) -> list[int]:
        async def work(chunk: int) -> int:
            await asyncio.sleep(cost_s)
            return chunk

        part = [chunk for chunk in chunks if chunk % drivers == number]
        journal = folder / f"{drivers}-{number}.journal"
        processor = BatchProcessor(work, 1, journal=journal, telemetry=False)  # at a time: it is one core
        if number == 0 and stopped_at_s is not None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(processor.batch(part), stopped_at_s)
            await asyncio.sleep(HOUR_S)
        return [result.output for result in await processor.batch(part)]

    async def day() -> tuple[list[list[int]], float]:
        parts = await asyncio.gather(*[driver(number) for number in range(drivers)])
        return parts, asyncio.get_running_loop().time()

    found: tuple[list[list[int]], float] = run_virtual(day())
    return found


def test_plan_does_a_day_in_a_day_with_each_item_once(tmp_path: Path) -> None:
    parts, ended_s = simulate(tmp_path, 4, stopped_at_s=2 * HOUR_S)
    merged = [chunk for part in parts for chunk in part]
    assert sorted(merged) == list(range(DAILY // CHUNK))
    assert ended_s < DAY_S
    share = DAILY / DAY_S / 4 * item_cost_s()
    assert f"{DAILY / DAY_S / 4:,.0f} items a second each, {share:.0%}".replace("%", " %") in PAGE


def test_one_driver_is_not_enough(tmp_path: Path) -> None:
    _, ended_s = simulate(tmp_path, 1)
    assert ended_s > DAY_S
    assert f"1 / {item_cost_s() * 1e6:.0f} µs = {1 / item_cost_s():,.0f} items a second" in PAGE

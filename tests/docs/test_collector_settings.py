"""Settings of the OpenTelemetry Collector and Tempo, which no test can start: keys, types and references."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "collectors.md"

# The keys that the settings may use, as the components' own configuration types name them, with the type of a value.
ENDPOINT = {"endpoint": str}
OTLP = {"protocols": {"http": ENDPOINT, "grpc": ENDPOINT}}
COLLECTOR: dict[str, Any] = {
    "receivers": {
        "otlp": OTLP,
        "prometheus": {"config": {"scrape_configs": [{"job_name": str, "static_configs": [{"targets": [str]}]}]}},
    },
    "processors": {
        "tail_sampling": {
            "decision_wait": str,
            "policies": [
                {
                    "name": str,
                    "type": str,
                    "status_code": {"status_codes": [str]},
                    "latency": {"threshold_ms": int},
                    "probabilistic": {"sampling_percentage": (int, float)},
                }
            ],
        },
        "batch": {},
    },
    "exporters": {"otlphttp": ENDPOINT, "prometheusremotewrite": ENDPOINT},
    "service": {
        "pipelines": {
            signal: {"receivers": [str], "processors": [str], "exporters": [str]}
            for signal in ("traces", "metrics", "logs")
        }
    },
}
TEMPO: dict[str, Any] = {
    "server": {"http_listen_address": str, "http_listen_port": int},
    "distributor": {"receivers": {"otlp": OTLP}},
    "storage": {"trace": {"backend": str, "local": {"path": str}, "wal": {"path": str}}},
    "compactor": {"compaction": {"block_retention": str}},
}


def collector() -> Any:
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (settings,) = (block for block in map(yaml.safe_load, blocks) if "receivers" in block)
    return settings


def faults(settings: Any, known: Any, path: str = "") -> Iterator[str]:
    """Paths of the keys that are unknown, and of the values of another type."""
    if isinstance(known, dict) and isinstance(settings, dict):
        for key, value in settings.items():
            if key not in known:
                yield f"{path}.{key}"
            else:
                yield from faults(value, known[key], f"{path}.{key}")
    elif isinstance(known, list) and isinstance(settings, list):
        for value in settings:
            yield from faults(value, known[0], path)
    elif isinstance(known, (dict, list)) or not isinstance(settings, known):
        yield path


def test_settings_of_the_collector_have_known_keys() -> None:
    assert list(faults(collector(), COLLECTOR)) == []


def test_settings_of_tempo_have_known_keys() -> None:
    tempo = yaml.safe_load((ROOT / "dashboards" / "tempo" / "tempo.yaml").read_text())
    assert list(faults(tempo, TEMPO)) == []


def test_pipelines_use_what_is_defined_and_all_of_it() -> None:
    settings = collector()
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in settings["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == settings[kind].keys()


def test_each_sampling_policy_has_the_settings_of_its_type() -> None:
    for policy in collector()["processors"]["tail_sampling"]["policies"]:
        assert policy.keys() == {"name", "type", policy["type"]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s: s["receivers"]["otlp"]["protocols"].update(htpp={}), ".receivers.otlp.protocols.htpp"),
        (
            lambda s: s["processors"]["tail_sampling"].update(policies="all"),
            ".processors.tail_sampling.policies",
        ),
        (lambda s: s["exporters"]["otlphttp"].update(endpoint=4318), ".exporters.otlphttp.endpoint"),
    ],
)
def test_wrong_key_or_type_is_found(change: Any, fault: str) -> None:
    settings = copy.deepcopy(collector())
    change(settings)
    assert list(faults(settings, COLLECTOR)) == [fault]

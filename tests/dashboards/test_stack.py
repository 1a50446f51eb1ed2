"""`make stack` watches a demo, prints the addresses and stops cleanly; compose.yaml mounts the generated files."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dashboards.generator.files import FOLDER
from dashboards.generator.servers import Api, Servers
from dashboards.generator.stack import main

ROOT = FOLDER.parent
HANG_GUARD_S = 60.0


def children_of(pid: int) -> set[int]:
    """Return the descendants of a process."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"^PPid:\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)[1])  # type: ignore[index]
        except OSError:
            continue
        if parent == pid:
            found |= {int(entry.name)} | children_of(int(entry.name))
    return found


@pytest.mark.parts
@pytest.mark.xdist_group("dashboards")
def test_stack_watches_the_demo_until_ctrl_c(tmp_path: Path) -> None:
    stack = subprocess.Popen(
        [sys.executable, "-m", "dashboards.generator.stack", "--items", "150", "--metrics-port", "0"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert stack.stdout is not None
        said = {}
        for line in stack.stdout:
            if line.startswith("Ctrl-C"):
                break
            name, _, url = line.rstrip().rpartition("  ")
            said[name.strip()] = url.strip()
        assert list(said) == ["live page", "metrics", "prometheus", "rules", "alerts", "alertmanager"]
        api = Api(said["rules"].removesuffix("/rules"))
        deadline = time.monotonic() + HANG_GUARD_S
        while not api.series('flowrt_items_total{batch="airports", status="ok"} > 0'):
            assert time.monotonic() < deadline, "it is never scraped"
            time.sleep(0.2)
        assert {rule["health"] for group in api.get("rules")["groups"] for rule in group["rules"]} <= {"ok", "unknown"}
        begun = children_of(stack.pid)
        assert len(begun) >= 4  # the demo and its service, Prometheus, Alertmanager
        stack.send_signal(signal.SIGINT)
        assert stack.wait(HANG_GUARD_S) == 0
        assert not {pid for pid in begun if Path(f"/proc/{pid}").exists()}
        assert list(tmp_path.iterdir()) == []
    finally:
        if stack.poll() is None:
            stack.kill()
        stack.communicate(timeout=HANG_GUARD_S)


def test_demo_that_does_not_start_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--concurrency", "0"]) == 1
    assert "the demo did not start" in capfd.readouterr().out


def test_missing_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.generator.servers.shutil.which", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError, match="prometheus-alertmanager is not installed"):
        Servers(tmp_path, [], scrape_s=1).start()


@pytest.mark.parts
def test_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(RuntimeError, match=r"prometheus(.|\n)*ended with 1(.|\n)*address already in use"),
            Servers(tmp_path, [], scrape_s=1, prometheus_port=port),
        ):
            pass


def test_compose_mounts_the_generated_files() -> None:
    compose = yaml.safe_load((ROOT / "dashboards" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"prometheus", "alertmanager", "tempo", "grafana"}
    mounted = [volume for service in compose["services"].values() for volume in service["volumes"]]
    for volume in mounted:
        found = re.match(r"\.(/[\w/]+):", volume)
        if found:
            assert (FOLDER / found[1].lstrip("/")).is_dir(), volume
        else:
            assert volume.partition(":")[0] in compose["volumes"]
    for service in compose["services"].values():
        assert service["network_mode"] == "host"


def test_grafana_finds_the_dashboards_in_its_container() -> None:
    provider = yaml.safe_load((FOLDER / "grafana" / "provisioning" / "dashboards" / "flowrt.yaml").read_text())
    compose = yaml.safe_load((ROOT / "dashboards" / "compose.yaml").read_text())
    path = provider["providers"][0]["options"]["path"]
    assert any(f":{path}:ro" in volume for volume in compose["services"]["grafana"]["volumes"])


def test_exemplars_link_to_the_trace_store() -> None:
    sources = yaml.safe_load((FOLDER / "grafana" / "provisioning" / "datasources" / "flowrt.yaml").read_text())
    prometheus, tempo, _ = sources["datasources"]
    (link,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert (link["name"], link["datasourceUid"]) == ("trace_id", tempo["uid"])

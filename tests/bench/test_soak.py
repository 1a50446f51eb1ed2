"""Soak test: a short one runs, and each target can be met or missed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.soak import PEAK_MIB, Sample, judge, slope_per_100k

ROOT = Path(__file__).parents[2]
FLAT = [Sample(items, items / 5_000, 60.0, 20, 101, 6) for items in range(10_000, 1_000_001, 10_000)]
ALL = {"ok": 1_000_000}


def test_flat_memory_at_speed_meets_every_target() -> None:
    assert all(met for _, met in judge(FLAT, ALL, 1_000_000, 1_000_000).values())


@pytest.mark.parametrize(
    ("figure", "samples", "statuses", "spans"),
    [
        ("slope, MiB per 100,000 items", [replace(s, rss_mib=60 + s.items * 12e-6) for s in FLAT], ALL, 10**6),
        ("peak RSS, MiB", [replace(s, rss_mib=PEAK_MIB + 1) for s in FLAT], ALL, 10**6),
        ("items a second", [replace(s, at_s=s.items / 2_900) for s in FLAT], ALL, 10**6),
        ("descriptors, highest less lowest", [replace(s, descriptors=s.items // 50_000) for s in FLAT], ALL, 10**6),
        ("tasks, highest less lowest", [replace(s, tasks=s.items // 50_000) for s in FLAT], ALL, 10**6),
        ("results", FLAT, {"ok": 999_999}, 10**6),
        ("item spans delivered", FLAT, ALL, 999_999),
    ],
)  # fmt: skip
def test_each_target_can_be_missed(figure: str, samples: list[Sample], statuses: dict[str, int], spans: int) -> None:
    verdict = judge(samples, statuses, 1_000_000, spans)
    assert [name for name, (_, met) in verdict.items() if not met] == [figure]


def test_warm_up_is_no_growth() -> None:
    rising = [replace(s, rss_mib=min(s.items / 10_000, 15.0) + 40) for s in FLAT]
    assert judge(rising, ALL, 1_000_000, 1_000_000)["slope, MiB per 100,000 items"] == (
        pytest.approx(0, abs=1e-6),
        True,
    )
    assert slope_per_100k(rising[:1]) == 0


@pytest.mark.parts
def test_short_soak_accounts_for_everything_and_writes_its_record(
    tmp_path: Path,
) -> None:
    # in a process of its own: memory of other tests would count
    command = [sys.executable, "-m", "bench.soak", "--items", "5000", "--concurrency", "50", "--no-picture"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    record = json.loads((tmp_path / "soak.json").read_text())
    figures = record["figures"]
    for name in (
        "peak RSS, MiB",
        "descriptors, highest less lowest",
        "tasks, highest less lowest",
        "results",
        "item spans delivered",
    ):
        assert figures[name]["met"], (name, figures[name])
    assert record["statuses"] == {"ok": 4995, "failed": 5}
    assert len(record["samples"]) == 200
    assert "items a second" in done.stdout

"""Objectives: a rules file that users edit, with each objective in one place."""

from __future__ import annotations

from typing import Final

from dashboards.generator.windows import REAL, Time

__all__ = ["FAILURE_RATIO", "LATE", "LATE_RATIO", "SUCCESS_INTERVAL", "THRESHOLD_LE", "objectives_file"]

FAILURE_RATIO: Final = "flowrt:objective:failure_ratio"
LATE_RATIO: Final = "flowrt:objective:late_ratio"
SUCCESS_INTERVAL: Final = "flowrt:objective:success_interval_seconds"
LATE: Final = "instance_batch_node:flowrt_items_late:total"
THRESHOLD_LE: Final = "10.0"

_FILE: Final = """\
# Your objectives. The other rules, the alerts and the SLO dashboard read them here. Edit them and reload Prometheus.
groups:
  - name: flowrt.objectives
    interval: {interval}
    rules:
      # The share of items that may fail or time out: 1 %.
      - record: {failure_ratio}
        expr: vector(0.01)

      # The share of successful items that may take longer than the threshold below: 5 %.
      - record: {late_ratio}
        expr: vector(0.05)

      # Items that were late. `le` is the threshold in seconds and must be a bucket of the histogram: one listed in
      # docs/telemetry.md, or the latency_slo that you passed to Telemetry. To give one batch another threshold:
      #   (sum without (le) (flowrt_item_duration_seconds_bucket{{status="ok", le="+Inf"}}))
      #   - (sum without (le) (flowrt_item_duration_seconds_bucket{{status="ok", batch="nightly", le="60.0"}})
      #      or sum without (le) (flowrt_item_duration_seconds_bucket{{status="ok", batch!="nightly", le="{le}"}}))
      - record: {late}
        expr: |-
          sum without (le) (flowrt_item_duration_seconds_bucket{{status="ok", le="+Inf"}})
          - sum without (le) (flowrt_item_duration_seconds_bucket{{status="ok", le="{le}"}})

      # Batches that must succeed regularly, and the seconds that may pass between two successes: add a rule for each
      # of yours. A batch that is not listed has no schedule to keep.
      - record: {success_interval}
        expr: vector({day})
        labels:
          batch: nightly
"""


def objectives_file(time: Time = REAL) -> str:
    """Return the rules file.

    Args:
        time: Speed of time.
    """
    return _FILE.format(
        interval=time.pace("30s"),
        failure_ratio=FAILURE_RATIO,
        late_ratio=LATE_RATIO,
        late=LATE,
        le=THRESHOLD_LE,
        success_interval=SUCCESS_INTERVAL,
        day=round(time.length_s("26h")),
    )

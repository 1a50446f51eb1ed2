"""Settings of Prometheus, Alertmanager, Grafana and Tempo that connect them to each other."""

from __future__ import annotations

from typing import Final

__all__ = ["PROVISIONING"]

_PROMETHEUS: Final = """\
# Scrapes one flowrt process on this machine. Use service discovery for more: it drops the targets that have ended.
global:
  scrape_interval: 5s
  scrape_timeout: 5s
  evaluation_interval: 30s

rule_files:
  - flowrt.objectives.yaml
  - flowrt.recording.yaml
  - flowrt.alerts.yaml

alerting:
  alertmanagers:
    - static_configs:
        - targets: ["127.0.0.1:9093"]

scrape_configs:
  - job_name: flowrt
    static_configs:
      - targets: ["127.0.0.1:9464"]
"""

_ALERTMANAGER: Final = """\
# Groups the alerts of each batch. Fill in the receiver: https://prometheus.io/docs/alerting/latest/configuration/
route:
  receiver: default
  group_by: [alertname, job, batch]
  group_wait: 10s
  group_interval: 1m
  repeat_interval: 4h
receivers:
  - name: default
inhibit_rules:
  # A budget that burns fast burns slowly too: one notification is enough.
  - source_matchers: ["severity=critical"]
    target_matchers: ["severity=warning"]
    equal: [alertname, job, batch]
"""

_DATASOURCES: Final = """\
# Prometheus, and Tempo, where the dots on the panels lead.
apiVersion: 1
datasources:
  - name: Prometheus
    uid: flowrt-prometheus
    type: prometheus
    access: proxy
    url: http://127.0.0.1:9090
    isDefault: true
    jsonData:
      timeInterval: 5s
      exemplarTraceIdDestinations:
        - name: trace_id
          datasourceUid: flowrt-tempo
          urlDisplayLabel: The item's trace
  - name: Tempo
    uid: flowrt-tempo
    type: tempo
    access: proxy
    url: http://127.0.0.1:3200
  - name: Alertmanager
    uid: flowrt-alertmanager
    type: alertmanager
    access: proxy
    url: http://127.0.0.1:9093
    jsonData:
      implementation: prometheus
"""

_PROVIDER: Final = """\
# Grafana loads the dashboards from this folder, read-only. Copy one to change it.
apiVersion: 1
providers:
  - name: flowrt
    folder: flowrt
    type: file
    allowUiUpdates: false
    options:
      path: /var/lib/grafana/dashboards/flowrt
"""

_TEMPO: Final = """\
# A trace store to try: receives OTLP on ports 4317 and 4318 and keeps traces on its own disk for a day.
server:
  http_listen_address: 127.0.0.1
  http_listen_port: 3200
distributor:
  receivers:
    otlp:
      protocols:
        grpc:
          endpoint: 127.0.0.1:4317
        http:
          endpoint: 127.0.0.1:4318
storage:
  trace:
    backend: local
    local:
      path: /var/tempo/traces
    wal:
      path: /var/tempo/wal
compactor:
  compaction:
    block_retention: 24h
"""

PROVISIONING: Final = {
    "prometheus/prometheus.yml": _PROMETHEUS,
    "alertmanager/alertmanager.yml": _ALERTMANAGER,
    "grafana/provisioning/datasources/flowrt.yaml": _DATASOURCES,
    "grafana/provisioning/dashboards/flowrt.yaml": _PROVIDER,
    "tempo/tempo.yaml": _TEMPO,
}
"""Files by path."""

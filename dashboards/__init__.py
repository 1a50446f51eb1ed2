"""Grafana dashboards, Prometheus rules and the files around them, generated from the catalogue of metrics.

`python -m dashboards` writes them into the package (`flowrt/dashboards_data`), from where `flowrt dashboards export`
takes them. Nothing here is needed at run time.
"""

"""Grafana dashboards, Prometheus rules and the files around them, generated from the catalogue of metrics.

`python -m dashboards.generator` writes them into the package (`dashboards`), from where `flowrt dashboards export`
takes them. Nothing here is needed at run time.
"""

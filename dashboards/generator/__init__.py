"""Generator of the Grafana dashboards, Prometheus rules and provisioning files.

`python -m dashboards.generator` writes them to `dashboards/`, and the wheel takes them from there for
`flowrt dashboards export`. Nothing here is needed at run time.
"""

"""Pictures of the dashboards for the documentation: Grafana's own components, a real Prometheus's answers."""

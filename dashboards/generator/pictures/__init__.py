"""Pictures of the dashboards: Grafana's own components draw the answers of a real Prometheus."""

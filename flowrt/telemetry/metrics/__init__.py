"""Prometheus metrics: batches count in a store, which a collector reads at each scrape."""

"""Prometheus metrics: a store that batches count in, read when scraped."""

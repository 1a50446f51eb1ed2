"""Observation of the event loop: heartbeat, delayed items, garbage collection."""

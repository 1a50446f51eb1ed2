"""The event loop watched: heartbeat, delayed items, garbage collection."""

"""Demo on real data: enriches airports through a local HTTP service in another process."""

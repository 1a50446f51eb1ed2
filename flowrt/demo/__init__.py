"""The main job on real data: airports enriched through a local HTTP service in another process."""

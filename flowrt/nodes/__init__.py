"""Composite nodes: map, filter, reduce and race."""

"""A span per batch and per item."""

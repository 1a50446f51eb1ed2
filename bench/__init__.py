"""Bench: the cost of an item beside the reference package and the floor, measured side by side in one run."""

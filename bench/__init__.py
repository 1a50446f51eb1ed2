"""The bench: what an item costs, beside the reference package and the floor, measured side by side in one run."""

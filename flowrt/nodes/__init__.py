"""Nodes: what users write and what the library brings ready-made."""

"""Structured log events, and the thread that writes them."""

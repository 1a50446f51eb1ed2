"""Tracing: the batch and item spans, who makes them, sampling, their OTLP encoding and the process's provider."""

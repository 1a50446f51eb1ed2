"""The engine: how an item travels. It imports the standard library and the layers below, and knows no telemetry."""

"""What runs in a worker: the other side of `flowrt.executors`. It needs the model alone, not the engine."""

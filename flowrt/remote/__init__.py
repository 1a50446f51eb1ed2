"""Code that runs in a worker: the counterpart of `flowrt.executors`. It imports the model, not the engine."""

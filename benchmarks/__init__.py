"""What the worker adds to the engine, measured beside a worker that forwards to a subprocess."""

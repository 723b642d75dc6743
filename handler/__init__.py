"""What runs in the worker: settings, model, engine, and the front doors that lead to the engine."""

"""What runs in the worker: settings, model, engine, and the front ends that lead to it."""

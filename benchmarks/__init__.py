"""Benchmarks of the worker, compared with a worker that forwards to a subprocess."""

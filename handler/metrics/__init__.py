"""Metrics of requests and of the engine, the request log, and the bottleneck."""

"""The engine in the worker: its adapters, its thread, and the calls of its app."""

"""The engine inside the worker: its adapters, its thread, and the way in and out of it."""

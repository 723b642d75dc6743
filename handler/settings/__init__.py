"""An environment → the worker's settings, and what the texts of its variables mean."""

"""What runs in the worker: settings, model, engine, and the front ends that lead to it."""

VERSION = "0.2.0"  # as in pyproject.toml
PRODUCT = f"runpod-llm-worker/{VERSION}"

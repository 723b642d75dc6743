"""Which GPUs fit a model, and what they cost: `python -m builder plan`."""

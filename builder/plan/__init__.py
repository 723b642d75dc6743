"""Which GPU fits a model, and what it costs: `python -m builder plan`."""

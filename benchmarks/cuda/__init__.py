"""What `benchmarks/gpu.py` runs: each case a process, the engine alone or in the worker."""

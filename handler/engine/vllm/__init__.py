"""vLLM: adapter, flags, platform, and what is replaced in it."""

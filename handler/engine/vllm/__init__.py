"""vLLM: adapter, flags, platform and patches."""

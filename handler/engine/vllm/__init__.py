"""vLLM: the adapter, and the names of its flags that have a meaning of their own here."""

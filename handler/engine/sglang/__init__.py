"""SGLang: adapter, flags, and what is replaced in it."""

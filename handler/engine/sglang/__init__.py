"""SGLang: adapter, flags, platform and patches."""

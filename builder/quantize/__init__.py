"""An unquantized model → one in FP8 or four-bit AWQ, with llm-compressor."""

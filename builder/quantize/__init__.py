"""Quantization of a model to FP8 or four-bit AWQ, with llm-compressor."""

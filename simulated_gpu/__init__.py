"""A GPU host without a GPU, for the CUDA builds of the engines; no kernel runs. See README.md."""

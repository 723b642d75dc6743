"""How much memory a model takes, and whether a GPU has it."""

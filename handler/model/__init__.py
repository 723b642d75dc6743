"""Which model is served, and where its files are."""

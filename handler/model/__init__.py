"""The model to serve: which checkpoint, and where its files are."""

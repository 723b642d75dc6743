"""A Runpod endpoint from the command line: created, changed, looked at, deleted."""

"""A job or an HTTP call, turned into one engine request."""

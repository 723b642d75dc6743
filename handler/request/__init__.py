"""Parsing: from a job or an HTTP call to one engine request."""

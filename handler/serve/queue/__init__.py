"""The queue: the front end for Runpod's queue endpoints, through the SDK."""

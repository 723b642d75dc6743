"""The queue: the front door for Runpod's queue endpoints, through the SDK."""

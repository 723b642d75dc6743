"""The front end for Runpod's queue endpoints, based on the Runpod SDK."""

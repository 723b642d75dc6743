"""Batches: jobs of many requests, in the line format of OpenAI's Batch API."""

"""A batch: one job of many requests, in the line format of OpenAI's Batch API."""

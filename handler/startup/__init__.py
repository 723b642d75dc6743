"""Startup: compile caches, prefetched weights, and the timings of its stages."""

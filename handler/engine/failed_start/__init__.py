"""A start of the engine that failed: its cause, and the second one with less memory."""

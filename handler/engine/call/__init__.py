"""The parts of one call of the engine: the ASGI call, server-sent events, usage, the deadline."""

"""The engine's flags: from settings, ENGINE_ARGS and files, and what each engine calls them."""

"""The model hub: what is taken from it, how patiently, and what its refusals mean."""

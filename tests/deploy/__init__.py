"""The commands `deploy`, `status`, `logs` and `delete`."""

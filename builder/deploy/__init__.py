"""Commands that create, change, show and delete a Runpod endpoint."""

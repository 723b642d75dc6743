"""The demo model for machines without a GPU or a hub: a package from the index → a checkpoint."""

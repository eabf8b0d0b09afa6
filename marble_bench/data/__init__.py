"""A corpus on disk: how its label files are read."""

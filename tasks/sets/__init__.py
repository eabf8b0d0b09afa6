"""The task sets: one short file each, which declares `SET`; found by its name."""

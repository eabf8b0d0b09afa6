"""The heads: one short file each, which declares `HEAD`; found by its name."""

"""The protocols: one short file each, which declares `PROTOCOL`; found by the name that it states."""

"""Features: computed once, stored under their content's address, read one layer at a time."""

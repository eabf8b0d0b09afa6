"""Records and published rows in one table; never two protocols in one ranking."""

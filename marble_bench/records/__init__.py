"""What is in a record, how it is written and read, and whether it is valid."""

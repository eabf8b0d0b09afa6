"""The encoders that come with the suite: a file with a tuple `ENCODERS` in this folder is the registration."""

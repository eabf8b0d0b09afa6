"""What decides a number, written down once: the keys of features and runs, and the digests of the code they rest on."""

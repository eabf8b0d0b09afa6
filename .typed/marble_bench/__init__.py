"""For mypy alone: `probes` and `tasks` are links to the folders at the root, which install inside the package.

This file makes the folder a package; the real `marble_bench/__init__.py` is the one that mypy reads.
"""

"""`python -m marble_bench.cli` is `bench`."""

from marble_bench.cli import main

main()

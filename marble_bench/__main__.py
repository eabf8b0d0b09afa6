"""`python -m marble_bench` is `bench`."""

from marble_bench.cli import main

main()

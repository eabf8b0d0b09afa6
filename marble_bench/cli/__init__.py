"""`bench`: arguments and printing, nothing else."""


def main() -> None:
    """Run `bench` with the arguments of the command line."""
    from marble_bench.cli.app import main as run

    run()

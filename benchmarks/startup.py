"""How fast `bench` answers, against what it would take if it imported torch first: medians of several whole processes.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11
COMMANDS = {
    "bench --help": ["-m", "marble_bench.cli", "--help"],
    "bench list tasks": ["-m", "marble_bench.cli", "list", "tasks"],
    "bench list models": ["-m", "marble_bench.cli", "list", "models"],
    "import torch (rival)": ["-c", "import torch"],
}


def time_process(arguments: list[str]) -> float:
    """Wall seconds of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run all commands in turn, so that a change of the machine's speed meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS + 1):
        for name, arguments in COMMANDS.items():
            taken[name].append(time_process(arguments))
    rival = statistics.median(taken["import torch (rival)"][1:])
    for name, runs in taken.items():
        median = statistics.median(runs[1:])  # the first run warms the disk
        print(f"{name:24} {median:6.3f} s   {rival / median:5.1f} x as fast as importing torch")


if __name__ == "__main__":
    main()

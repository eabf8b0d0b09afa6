"""Everything that needs a GPU, part by part, each with a time limit, and one report.

python benchmarks/gpu.py REPORT.md [--only tests contract extract gtzan mtt jukemir] [--device cuda|cpu] [--tiny]

A part that fails or runs out of time ends that part alone; the exit status is 1 if any did. All parts together may take
25 minutes, none more than 5. Nothing is fetched: MusiCNN's and VGG's weights must be in the cache (see CONTRIBUTING.md).
--device cpu --tiny proves this script on a machine without a GPU; such a report says so, and its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def list_parts(device: str, tiny: bool) -> dict[str, tuple[int, list[str]]]:
    """By name: seconds that a part may take, and what follows `python`."""
    test = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    few = ["-k", "mert-95m and not random"] if tiny else []
    extract = ["benchmarks/extract.py", "--device", device]
    extract += ["--only", "mfcc", "--rounds", "1", "--share", "0.03"] if tiny else []
    probes = ["benchmarks/probes.py", "--device", device]
    probes += ["--quick", "--epochs", "1", "--layers", "2"] if tiny else []
    return {
        "tests": (180, [*test, "-m", "gpu", "tests"]),
        "contract": (300, [*test, "tests/test_encoders.py", *few]),
        "extract": (300, extract),
        "gtzan": (240, [*probes, "--only", "gtzan"]),
        "mtt": (240, [*probes, "--only", "mtt"]),
        "jukemir": (240, [*probes, "--only", "jukemir-768,jukemir-160"]),
    }


def describe_machine(device: str) -> str:
    """What it runs on, in a line."""
    import platform

    import torch
    import transformers

    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU: a proof of the script"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name}; {os.cpu_count()} cores; {versions}"


def run(limit_s: int, command: list[str], device: str) -> tuple[str, float, str]:
    """How a part ended, its seconds, and what it printed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "BENCH_TEST_DEVICE": device, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=env, timeout=limit_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        ended, output = "done" if done.returncode == 0 else f"failed with status {done.returncode}", done.stdout
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        ended, output = f"stopped after {limit_s} s", printed.decode() if isinstance(printed, bytes) else printed
    return ended, time.perf_counter() - began, output


def main() -> None:
    """Run the parts asked for; the report is written anew after each, so that what was measured is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(list_parts("cuda", False)))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that prove the script alone")
    asked = parser.parse_args()
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device here; --device cpu --tiny proves the script without one")
    lines, whole = [f"# GPU report\n\n{describe_machine(asked.device)}\n"], True
    known = list_parts(asked.device, asked.tiny)
    for name in asked.only or known:
        limit_s, command = known[name]
        ended, took_s, output = run(limit_s, command, asked.device)
        whole &= ended == "done"
        print(f"{name}: {ended}, {took_s:.0f} s", flush=True)
        lines.append(
            f"## {name}: {ended}, {took_s:.0f} s\n\n`python {' '.join(command)}`\n\n```\n{output.strip()}\n```\n"
        )
        asked.report.write_text("\n".join(lines), encoding="utf-8")
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()

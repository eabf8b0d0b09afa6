"""Runs what is missing of a board: every model on the miniature of each of MARBLE's tasks, one after the other.

python benchmarks/board.py RESULTS [--model NAME ...] [--task NAME ...]

A pair whose record is there is left alone, so that the same command goes on after an interruption; so is a model without
frames on a task that is asked frame by frame. Ends with 1 if a pair failed, after the others were run. `make board` calls
this, checks the records and draws the page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from marble_bench.core import plugins
from marble_bench.features.frames import find_framewise_layers
from marble_bench.scoring.targets import Frames, Stems

SET = "mert-14"
MODELS = ("mfcc", "chroma", "logmel", "musicnn-mtt", "musicnn-msd", "vgg-mtt", "vgg-msd", "random-musicnn", "choi")


def main() -> int:
    """Run the pairs; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", action="append", help="a model; repeatable")
    parser.add_argument("--task", action="append", help="a task; repeatable")
    asked = parser.parse_args()
    pairs = [
        (task, model) for task in asked.task or plugins.find_task_set(SET).members for model in asked.model or MODELS
    ]
    named = {model: plugins.find_encoder(model) for _, model in pairs}  # a wrong name is told before any work
    framed = {task for task, _ in pairs if isinstance(plugins.find_task(task).task.target, (Frames, Stems))}
    unable = [
        (task, model) for task, model in pairs if task in framed and not find_framewise_layers(named[model].layers)
    ]
    for task, model in unable:
        print(f"{model} has no frames, which {task} asks for", file=sys.stderr)
    pairs = [pair for pair in pairs if pair not in unable]
    failed = []
    for number, (task, model) in enumerate(pairs, 1):
        if any(asked.results.glob(f"{model}/*/marble/{task}.mini.json")):
            continue
        started = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "marble_bench.cli",
            "run",
            "--mini",
            "--quiet",
            "--task",
            task,
            "--model",
            model,
        ]
        code = subprocess.run([*command, "--results-dir", str(asked.results)], stdout=subprocess.DEVNULL).returncode
        failed += [f"{model} on {task}"] if code else []
        state = "failed" if code else "done"
        print(
            f"{number}/{len(pairs)} {model} on {task}: {state}, {time.perf_counter() - started:.0f} s", file=sys.stderr
        )
    if failed:
        print(f"{len(failed)} of {len(pairs)} failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

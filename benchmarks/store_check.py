"""What checking the feature store costs a run whose features are all stored.

python benchmarks/store_check.py [--clips 600] [--pairs 5]

A task of short noises and an encoder of 13 layers, 768 wide, are written to a temporary folder, and `bench run --protocol
linear --seeds 1` makes their features. Then the same command runs again and again, each time in a process of its own, in
turn with the shards checked as the product does and with the check left out. The linear protocol is the cheapest one, so
that reading weighs the most. Prints how fast shards are checked, the share of a run's own processor time that checking them
takes, which other work on the machine hardly moves, and the medians of both kinds of runs with the ratio pair by pair, which
it does move.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASK = """
import zlib
from pathlib import Path
from marble_bench.metrics import accuracy
from marble_bench import Classes
from marble_bench import Clip, Corpus, Schedule, Task, Window

CLIPS = {clips}
PER_SPLIT = {{"train": CLIPS // 2, "valid": CLIPS // 4, "test": CLIPS // 4}}
NAMES = tuple("abcdefghij")

def write(root):
    import numpy as np, soundfile
    for split, count in PER_SPLIT.items():
        for index in range(count):
            draw = np.random.default_rng(zlib.crc32(f"{{split}}{{index}}".encode()))
            path = Path(root) / split / f"{{index:05}}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = 0.1 * draw.standard_normal(16000) + 0.05 * np.sin(np.arange(16000) * (1 + index % 10) / 20)
            soundfile.write(path, wave, 16000)

def clips(root):
    return [Clip(f"{{split}}{{i}}", split, f"{{split}}/{{i:05}}.wav", NAMES[i % 10])
            for split, count in PER_SPLIT.items() for i in range(count)]

TASK = Task(
    title="noises",
    corpus=Corpus(name="noises", title="noises", home="here", license="none", citation="none", layout="<split>/<n>.wav",
        mini=write, sample_rate_hz=16000),
    target=Classes(NAMES), metrics=(accuracy,), clips=clips, counts=PER_SPLIT, window=Window(length_s=0.1),
    schedule=Schedule(max_epochs=40, lr_patience=5, stop_patience=15),
)
"""
ENCODER = """
from marble_bench import Encoder, stack

def load(path, device):
    import torch
    draw = torch.Generator().manual_seed(0)
    planes = [torch.randn(160, 768, generator=draw) / 12 for _ in range(13)]
    def encode(waves, pool):
        frames = waves.unfold(1, 160, 160)
        return [pool((frames @ plane).tanh()) for plane in planes]
    return encode

WIDE = Encoder(name="wide", description="13 random layers", sample_rate_hz=16000, layers=stack(13, 768, 100.0), load=load,
    license="none", citation="none", min_s=0.05)
"""


def call(work: Path, checked: bool) -> tuple[float, float]:
    """Processor time and time of one run, in seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, __file__, "--child", str(work), "checked" if checked else "unchecked"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - began


def run_child(work: Path, how: str) -> None:
    """One `bench run`, with the check of shards or without."""
    from marble_bench.cli.app import main
    from marble_bench.features import store

    find_fault, took = store.find_fault, [0.0]

    def timed(shard: Path) -> str:
        began = time.thread_time()
        try:
            return find_fault(shard)
        finally:
            took[0] += time.thread_time() - began

    store.find_fault = timed if how == "checked" else lambda shard: ""
    os.chdir(work)
    sys.argv = ["bench", "run", "--task", "noises.py", "--model", "wide.py:WIDE", "--mini", "--protocol", "linear"]
    sys.argv += ["--seeds", "1", "--device", "cpu", "--cache-dir", "cache", "--overwrite", "--quiet"]
    try:
        main()
    finally:
        (work / how).write_text(str(took[0] / time.process_time()))


def main() -> None:
    """Parse, measure, print."""
    if sys.argv[1:2] == ["--child"]:
        run_child(Path(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    from marble_bench.features.store import find_fault

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "noises.py").write_text(TASK.format(clips=asked.clips))
        (work / "wide.py").write_text(ENCODER)
        call(work, True)
        shards = sorted(work.rglob("*.arrow"))
        size = sum(shard.stat().st_size for shard in shards)
        find_fault(shards[0])  # loads what reading needs
        began = time.process_time()
        assert not any(find_fault(shard) for shard in shards)
        rate = size / 1e6 / (time.process_time() - began)
        print(
            f"{len(shards)} shards, {size / 1e6:.0f} MB, checked at {rate:.0f} MB a second of processor time",
            flush=True,
        )
        pairs, shares = [], []
        for _ in range(asked.pairs):
            pairs.append((call(work, True), call(work, False)))
            shares.append(100 * float((work / "checked").read_text()))
        print(f"checking took {statistics.median(shares):.2f} % of a run ({min(shares):.2f} to {max(shares):.2f})")
    for place, what in enumerate(("processor time", "by the clock")):
        checked, without = ([each[place] for each in side] for side in zip(*pairs, strict=True))
        ratios = sorted(one / other for one, other in zip(checked, without, strict=True))
        print(
            f"{what}: checked {statistics.median(checked):.2f} s, not checked {statistics.median(without):.2f} s, ratio "
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()

"""The register of a hum, on a corpus that alone has the labels: what the planted frauds are about."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from marble_bench import Classes, Clip, Corpus, Fault, Schedule, Task
from marble_bench.errors import DataError
from marble_bench.metrics import accuracy

REGISTERS = ("low", "middle", "high")
PER_SPLIT = {"train": 30, "valid": 24, "test": 24}
RATE_HZ = 8000


def write(folder: Path, seed: int = 3, spread: float = 0.8, seconds: float = 0.5) -> None:
    """A hum in noise for each clip, and `labels.csv`. spread: how far registers overlap, in registers."""
    import numpy as np
    import soundfile

    random = np.random.default_rng(seed)
    (folder / "hums").mkdir()
    rows = [["clip", "split", "register"]]
    for split, count in PER_SPLIT.items():
        for index in range(count):
            register = int(random.integers(3)) if index >= 3 else index
            hz = 200 * 1.5 ** (register + random.normal(0, spread))
            times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
            hum = 0.3 * np.sin(2 * np.pi * hz * times) + 0.1 * random.normal(size=len(times))
            soundfile.write(folder / f"hums/{split}{index:02}.wav", np.clip(hum, -1, 1), RATE_HZ, subtype="PCM_16")
            rows.append([f"{split}{index:02}", split, REGISTERS[register]])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_mini(folder: Path) -> None:
    """As the corpus, and easy."""
    write(folder, seed=4, spread=0.1)


def clips(root: Path | None) -> Iterator[Clip]:
    if root is None:
        raise DataError("the registers are in the corpus alone: give --data-dir DIR")
    with (root / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield Clip(row["clip"], row["split"], f"hums/{row['clip']}.wav", row["register"])


HUMS = Corpus(
    name="hums",
    title="Hums",
    home="made here",
    license="CC0-1.0",
    citation="none",
    layout="labels.csv and hums/<clip>.wav",
    mini=write_mini,
    sample_rate_hz=RATE_HZ,
    faults=(Fault("hums/train29.wav", "cut short in the first edition"),),
)
TASK = Task(
    title="register of a hum",
    corpus=HUMS,
    target=Classes(REGISTERS),
    clips=clips,
    metrics=(accuracy,),
    counts=PER_SPLIT,
    schedule=Schedule(max_epochs=12, lr_patience=3, stop_patience=6),
)

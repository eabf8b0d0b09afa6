"""Which of three registers does a hum lie in? A made-up task, small enough that every test can run it whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Classes, Clip, Corpus, Schedule, Task
from marble_bench.metrics import accuracy

REGISTERS = ("low", "middle", "high")
PER_SPLIT = {"train": 24, "valid": 12, "test": 15}
RATE_HZ = 8000


def write(folder: Path) -> None:
    """A second of a hum in noise for each clip; the registers overlap a little."""
    import numpy as np
    import soundfile

    random = np.random.default_rng(3)
    (folder / "hums").mkdir()
    for clip in clips(folder):
        hz = 200 * 1.5 ** (REGISTERS.index(clip.target) + random.normal(0, 0.45))
        seconds = np.arange(RATE_HZ) / RATE_HZ
        hum = 0.3 * np.sin(2 * np.pi * hz * seconds) + 0.1 * random.normal(size=RATE_HZ)
        soundfile.write(folder / clip.audio, np.clip(hum, -1, 1), RATE_HZ, subtype="PCM_16")


def clips(root: Path | None) -> Iterator[Clip]:
    for split, count in PER_SPLIT.items():
        for index in range(count):
            yield Clip(f"{split}{index:02}", split, f"hums/{split}{index:02}.wav", REGISTERS[index % 3])


TOY = Corpus(
    name="toy",
    title="Hums",
    home="made here",
    license="CC0-1.0",
    citation="none",
    layout="hums/<split><NN>.wav",
    mini=write,
    sample_rate_hz=RATE_HZ,
)
TASK = Task(
    title="register of a hum",
    corpus=TOY,
    target=Classes(REGISTERS),
    clips=clips,
    metrics=(accuracy,),
    counts=PER_SPLIT,
    schedule=Schedule(max_epochs=40, lr_patience=5, stop_patience=15),
)

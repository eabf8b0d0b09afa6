"""What chord root sounds, and how loud is it? A made-up task of two parts that are asked of every frame.

Chords follow each other without a pause; while one fades into the next its root is not labelled, and where it is nearly
silent it has no loudness.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import ClassPart, Clip, Corpus, Frames, Schedule, Task, ValuePart
from marble_bench.metrics import frame_metrics

ROOTS = ("C", "E", "G#")
PER_SPLIT = {"train": 8, "valid": 4, "test": 6}
RATE_HZ, LABELS_HZ = 16000, 20.0
CHORD_S, CHORDS = 0.5, 6
QUIET_DB = -38.0  # below it a chord has no loudness


def chords(name: str) -> list[tuple[int, float]]:
    """The index of the root and the level in dB of each chord of a clip, drawn by its name."""
    import numpy as np

    random = np.random.default_rng(list(name.encode()))
    return [(int(random.integers(len(ROOTS))), float(random.uniform(-42, -12))) for _ in range(CHORDS)]


def annotated(name: str) -> tuple[tuple[str | None, ...], tuple[float | None, ...]]:
    """The root and the loudness in dB of every label's frame."""
    roots: list[str | None] = []
    levels: list[float | None] = []
    for k in range(round(CHORDS * CHORD_S * LABELS_HZ)):
        at_s = k / LABELS_HZ
        root, level = chords(name)[int(at_s / CHORD_S)]
        changing = at_s % CHORD_S < 0.06 and at_s > CHORD_S / 2
        roots.append(None if changing else ROOTS[root])
        levels.append(None if level < QUIET_DB else level)
    return tuple(roots), tuple(levels)


def clips(root: Path | None) -> Iterator[Clip]:
    """Every clip; the last of the training split has its roots alone."""
    for split, count in PER_SPLIT.items():
        for index in range(count):
            name = f"{split}{index:02}"
            roots, levels = annotated(name)
            alone = (split, index) == ("train", count - 1)
            yield Clip(name, split, f"chords/{name}.wav", (roots, None if alone else levels))


def write(folder: Path) -> None:
    """Major triads of a few harmonics with a little noise."""
    import numpy as np
    import soundfile

    (folder / "chords").mkdir()
    times = np.arange(round(CHORD_S * RATE_HZ)) / RATE_HZ
    for clip in clips(folder):
        random, parts = np.random.default_rng(len(clip.id)), []
        for root, level in chords(clip.id):
            tones = [130.8 * 2 ** ((4 * root + step) / 12) for step in (0, 4, 7)]
            waves = [np.sin(2 * np.pi * hz * harmonic * times) / harmonic for hz in tones for harmonic in (1, 2, 3)]
            sound = np.sum(waves, axis=0)
            parts.append(sound / np.sqrt(np.mean(sound**2)) * 10 ** (level / 20))
        whole = np.concatenate(parts) + 1e-4 * random.normal(size=CHORDS * len(times))
        soundfile.write(folder / clip.audio, np.clip(whole, -1, 1), RATE_HZ, subtype="PCM_16")


CORPUS = Corpus(
    name="toy-chords",
    title="Chords",
    home="made here",
    license="CC0-1.0",
    citation="none",
    layout="chords/<split><NN>.wav",
    mini=write,
    sample_rate_hz=RATE_HZ,
)
TARGET = Frames((ClassPart("root", ROOTS), ValuePart("loudness")), rate_hz=LABELS_HZ)
TASK = Task(
    title="root and loudness of chords",
    corpus=CORPUS,
    target=TARGET,
    clips=clips,
    metrics=frame_metrics(TARGET),
    counts=PER_SPLIT,
    schedule=Schedule(max_epochs=60, lr_patience=8, stop_patience=20),
)

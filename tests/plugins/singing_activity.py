"""Is somebody singing? Asked of every second of made-up songs, in which a voice comes and goes over chords.

Annotations are lines `start end sing|nosing` in seconds, as the Jamendo singing voice corpus writes them. A second is
`sing` where half of it or more is. Seconds are clips of their own, spans of a song's file, grouped by song; a target of
frames would answer finer, and is for when tasks can have one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Classes, Clip, Corpus, Schedule, Task
from marble_bench.errors import DataError
from marble_bench.files.tables import read_lines
from marble_bench.metrics import accuracy

SONGS = {"train": 8, "valid": 4, "test": 5}
SONG_S, RATE_HZ = 6, 8000
LABELS = ("nosing", "sing")


def voice(seconds, hz, random):
    """A harmonic tone with vibrato whose partials are strongest around two formants."""
    import numpy as np

    phase = 2 * np.pi * np.cumsum(hz * (1 + 0.02 * np.sin(2 * np.pi * 5.5 * seconds))) / RATE_HZ
    samples = np.zeros(len(seconds))
    for partial in range(1, int(3500 / hz)):
        strength = sum(np.exp(-(((partial * hz - formant) / 250) ** 2)) for formant in (650, 1100))
        samples += (strength + 0.02) * np.sin(partial * phase + random.uniform(0, 2 * np.pi))
    return samples / np.abs(samples).max()


def write(folder: Path) -> None:
    """Songs of chords in which a voice begins and ends at random, with their annotations."""
    import numpy as np
    import soundfile

    random = np.random.default_rng(11)
    (folder / "songs").mkdir()
    (folder / "labels").mkdir()
    seconds = np.arange(SONG_S * RATE_HZ) / RATE_HZ
    for name in (f"{split}{song}" for split, count in SONGS.items() for song in range(count)):
        root = 110 * 2 ** (random.integers(12) / 12)
        sound = sum(0.12 * np.sin(2 * np.pi * root * step * seconds) for step in (1, 1.26, 1.5, 2))
        sound += 0.02 * random.normal(size=len(seconds))
        first, last = np.round(np.sort(random.uniform(0.3, SONG_S - 0.3, 2)), 3)
        if last - first < 2:
            first, last = 1.0, 4.5
        inside = (seconds >= first) & (seconds < last)
        sound += 0.4 * inside * voice(seconds, 2 * root, random)
        soundfile.write(folder / f"songs/{name}.wav", np.clip(sound, -1, 1), RATE_HZ, subtype="PCM_16")
        parts = ((0.0, first, "nosing"), (first, last, "sing"), (last, float(SONG_S), "nosing"))
        lines = [f"{start:.3f} {end:.3f} {what}\n" for start, end, what in parts]
        (folder / f"labels/{name}.lab").write_text("".join(lines), encoding="utf-8")


def sung_s(parts: list[tuple[float, float, str]], start_s: float, end_s: float) -> float:
    """How many seconds between two times are sung."""
    return sum(max(0.0, min(end, end_s) - max(start, start_s)) for start, end, what in parts if what == "sing")


def clips(root: Path | None) -> Iterator[Clip]:
    if root is None:
        raise DataError("the annotations are in the corpus alone: give --data-dir DIR")
    for split, count in SONGS.items():
        for name in (f"{split}{song}" for song in range(count)):
            lines = [line.split() for line in read_lines(root / f"labels/{name}.lab")]
            parts = [(float(start), float(end), what) for start, end, what in lines]
            for second in range(SONG_S):
                label = LABELS[sung_s(parts, second, second + 1) >= 0.5]
                yield Clip(f"{name}.{second}", split, f"songs/{name}.wav", label, float(second), 1.0, group=name)


CORPUS = Corpus(
    name="made-singing",
    title="Made-up songs",
    home="made here",
    license="CC0-1.0",
    citation="none",
    layout="songs/<song>.wav and labels/<song>.lab",
    mini=write,
    sample_rate_hz=RATE_HZ,
)
TASK = Task(
    title="whether somebody sings in a second",
    corpus=CORPUS,
    target=Classes(LABELS),
    clips=clips,
    metrics=(accuracy,),
    counts={split: count * SONG_S for split, count in SONGS.items()},
    schedule=Schedule(max_epochs=40, lr_patience=5, stop_patience=15),
)

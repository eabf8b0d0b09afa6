"""Songs with their stems on disk: a mixture and the parts that it is the sum of, read a stretch at a time.

Two layouts, both of MUSDB18's makers: one `<song>.stem.mp4` with a stream for each part, or a folder with a wav for each.
Signals are `(channels, samples)` float32, stereo; `start` and `count` are samples at the song's own rate.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench import audio
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIXTURE = "mixture"
STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")  # of a stem file, in its order
CHANNELS = 2


@dataclass(frozen=True)
class Song:
    """A song whose parts are all there and of one length.

    names: of the stems. parts: by name, file and stream of the mixture and of each stem.
    """

    name: str
    names: tuple[str, ...]
    parts: dict[str, tuple[Path, int]]
    rate_hz: int
    samples: int

    @property
    def length_s(self) -> float:
        return self.samples / self.rate_hz

    def read(
        self, part: str, start: int = 0, count: int | None = None, sample_rate_hz: int | None = None
    ) -> NDArray[np.float32]:
        """`(channels, samples)` of a stretch of the mixture or of a stem, at a rate of choice (None: its own).

        What a coder adds behind the promised end of a stem file is left out.
        """
        path, stream = self.parts[part]
        count = self.samples - start if count is None else count
        return audio.read_channels(
            path,
            sample_rate_hz=sample_rate_hz,
            start_s=start / self.rate_hz,
            duration_s=count / self.rate_hz,
            native_rate_hz=self.rate_hz,
            stream=stream,
        )


def files(path: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The files of a song, found by its stem file or by its mixture's wav: the mixture first."""
    if path.suffix.lower() in audio.CONTAINERS:
        return (path,)
    return (path, *(path.with_name(name + path.suffix) for name in names))


def digest(path: Path, names: Sequence[str]) -> str:
    """sha256 of a stem file, or over those of a folder's files."""
    each = [audio.digest(file) for file in files(path, names)]
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()


def open_song(path: Path, names: Sequence[str], name: str = "") -> Song:
    """A song by its stem file or its mixture's wav; headers are read, no sound is decoded.

    Raises DataError naming the song and what is wrong: a part that is missing, that is not stereo, or of another rate or
    length than the mixture.
    """
    found = files(path, names)
    if len(found) == 1:
        parts = {part: (path, STREAMS.index(part)) for part in (MIXTURE, *names)}
    else:
        parts = {part: (file, 0) for part, file in zip((MIXTURE, *names), found, strict=True)}
    song = name or (path.name.split(".stem")[0] if len(found) == 1 else path.parent.name)
    missing = [file.name for file in found if not file.is_file()]
    if missing:
        raise DataError(f"{path.parent} lacks {', '.join(missing)} of '{song}': complete the corpus")
    shapes = {part: audio.read_shape(file, stream) for part, (file, stream) in parts.items()}
    whole = shapes[MIXTURE]
    lengths = {part: shape.samples for part, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        lengths_by_part = ", ".join(f"{part} {samples:,}" for part, samples in lengths.items())
        raise DataError(
            f"the parts of '{song}' differ in length, in samples: {lengths_by_part} ({path}); {audio.AGAIN}"
        )
    for part, shape in shapes.items():
        if shape.channels != CHANNELS:
            raise DataError(f"{part} of '{song}' has {shape.channels} channels and not two ({path}): {audio.AGAIN}")
        if shape.rate_hz != whole.rate_hz:
            raise DataError(f"{part} of '{song}' has {shape.rate_hz:,} Hz, its mixture {whole.rate_hz:,} Hz ({path})")
    return Song(song, tuple(names), parts, whole.rate_hz, whole.samples)


def compute_digests(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """What each song is known by; empty for one whose files cannot be read."""

    def known_by(path: Path) -> str:
        try:
            return digest(path, names)
        except DataError:
            return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(known_by, paths))

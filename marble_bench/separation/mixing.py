"""What a separator is trained on: mixtures of stems of random songs, drawn once by a seed, kept on disk.

Follows MARBLE's published code, which is open-unmix's random track mixing: each stem of a mixture comes from a song of its
own, at a place of its own, with a gain from U(0.25, 1.25) and its channels swapped every second time; the mixture is their
sum. Departs in one thing: MARBLE draws new mixtures in every epoch and encodes each anew, while here an encoder is run
once, so that the mixtures of one epoch are drawn once and every epoch passes over them, in an order drawn by the probe's
seed.

Everything happens at `Separation.sample_rate_hz`, stereo, in float32; an encoder hears the mean of the channels. Stems are
`(stems, channels, samples)`.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench import audio
from marble_bench.core.task import Separation
from marble_bench.errors import DataError
from marble_bench.files.atomic import open_atomic_path, sweep_leftovers, write_array, write_whole
from marble_bench.separation.stems import CHANNELS, MIXTURE, Song

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1  # raised whenever the same draws would sound otherwise
HALF_MAX = 65504.0


@dataclass(frozen=True)
class Part:
    """Where a stem of a mixture comes from. start: sample of the song at its own rate. swap: left for right."""

    track: int
    start: int
    gain: float
    swap: bool


@dataclass(frozen=True)
class Mixture:
    """A mixture to be made: one part for each stem, in their order."""

    parts: tuple[Part, ...]

    def digest(self, tracks: Sequence[str], rules: Separation) -> str:
        """sha256 that the mixture's sound is known by: the draws, and what each track's content is known by."""
        facts = [[tracks[part.track], part.start, part.gain, part.swap] for part in self.parts]
        content = json.dumps([VERSION, rules.sample_rate_hz, rules.chunk_s, facts])
        return hashlib.sha256(content.encode()).hexdigest()


def draw_mixtures(songs: Sequence[Song], count: int, rules: Separation) -> list[Mixture]:
    """Draw `count` mixtures of some songs by `rules.draw_seed`.

    Raises DataError naming a song that is shorter than a mixture.
    """
    import numpy as np

    for song in songs:
        if song.length_s < rules.chunk_s:
            raise DataError(
                f"'{song.name}' lasts {song.length_s:.2f} s, less than a training mixture of {rules.chunk_s:g} s: "
                f"{audio.AGAIN}"
            )
    random = np.random.default_rng(rules.draw_seed)

    def part() -> Part:
        track = int(random.integers(len(songs)))
        song = songs[track]
        start = int(random.integers(song.samples - round(rules.chunk_s * song.rate_hz) + 1))
        return Part(track, start, round(float(random.uniform(*rules.gain)), 6), bool(random.integers(2)))

    return [Mixture(tuple(part() for _ in songs[0].names)) for _ in range(count)]


def _render_part(sound: NDArray[np.float32], part: Part, rate_hz: int, rules: Separation) -> NDArray[np.float32]:
    """A stretch of a stem, `(channels, samples)`, resampled, with its gain and its channels as drawn."""
    import numpy as np

    turned = sound[::-1] if part.swap else sound
    there = audio.resample(np.ascontiguousarray(turned.T), rate_hz, rules.sample_rate_hz).T
    return np.float32(part.gain) * there[:, : rules.chunk]


@dataclass(frozen=True)
class Chunks:
    """Mixtures made once and kept in a file, half precision: `(count, stems, channels, samples)`."""

    path: Path
    count: int
    stems: int
    rules: Separation

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> NDArray[np.float32]:
        """`(stems, channels, samples)` float32 of one mixture."""
        import numpy as np

        values = self.stems * CHANNELS * self.rules.chunk
        half = np.fromfile(self.path, np.float16, values, offset=2 * values * index)
        return half.astype(np.float32).reshape(self.stems, CHANNELS, -1)

    def mono(self, index: int, sample_rate_hz: int) -> NDArray[np.float32]:
        """`(samples,)`: what an encoder hears of a mixture, the mean of its channels."""
        return audio.resample(self.read(index).sum(axis=0).mean(axis=0), self.rules.sample_rate_hz, sample_rate_hz)


def count_chunk_bytes(count: int, stems: int, rules: Separation) -> int:
    """What so many mixtures take on disk."""
    return 2 * count * stems * CHANNELS * rules.chunk


def _digest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def is_complete(path: Path) -> bool:
    """Whether mixtures lie at `path`, with their digest."""
    return path.is_file() and _digest_of(path).is_file()


def make_chunks(
    mixtures: Sequence[Mixture],
    songs: Sequence[Song],
    rules: Separation,
    path: Path,
) -> Chunks:
    """Make every mixture, once, into a file, with its sha256 beside it; one that is there is compared with that and used.

    Goes song by song, so that each stem is decoded once however many mixtures it is in, and no more than one is in memory.
    Raises DataError naming a file that is not what was written.
    """
    names = songs[0].names
    chunks = Chunks(path, len(mixtures), len(names), rules)
    beside = _digest_of(path)
    if is_complete(path):
        if audio.digest(path) != beside.read_text(encoding="utf-8", errors="replace"):
            raise DataError(f"the training mixtures {path} are not what was written: delete the file and run again")
        return chunks
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(path.parent)
    with open_atomic_path(path) as building:  # its digest first, so that the file's existence means that both are whole
        _write_mixtures(building, mixtures, songs, rules)
        write_whole(beside, audio.digest(building).encode())
    return chunks


def _write_mixtures(path: Path, mixtures: Sequence[Mixture], songs: Sequence[Song], rules: Separation) -> None:
    """Write every mixture's stems to a file, song by song, each to its own place."""
    import numpy as np

    names = songs[0].names
    stem_bytes = 2 * CHANNELS * rules.chunk
    with path.open("wb") as file:
        file.truncate(count_chunk_bytes(len(mixtures), len(names), rules))
        for track, song in enumerate(songs):
            for stem, name in enumerate(names):
                wanted = [(i, m.parts[stem]) for i, m in enumerate(mixtures) if m.parts[stem].track == track]
                sound = song.read(name) if wanted else None
                for index, part in wanted:
                    assert sound is not None
                    stretch = sound[:, part.start : part.start + round(rules.chunk_s * song.rate_hz)]
                    rendered = np.clip(_render_part(stretch, part, song.rate_hz, rules), -HALF_MAX, HALF_MAX)
                    file.seek(stem_bytes * (index * len(names) + stem))
                    write_array(file, rendered.astype(np.float16))


def name_chunks(mixtures: Sequence[Mixture], tracks: Sequence[str], rules: Separation) -> str:
    """A name for the file of some mixtures, by everything that its content depends on."""
    total = hashlib.sha256(json.dumps([rules.sample_rate_hz, rules.chunk_s]).encode())
    for mixture in mixtures:
        total.update(mixture.digest(tracks, rules).encode())
    return f"{total.hexdigest()[:32]}.f16"


@dataclass(frozen=True)
class Track:
    """A whole song on disk at the rate of the spectrograms, float32: the mixture, then the stems."""

    path: Path
    name: str
    parts: tuple[str, ...]
    samples: int

    def read(self, part: str) -> NDArray[np.float32]:
        """`(channels, samples)` of the mixture or of a stem."""
        import numpy as np

        values = CHANNELS * self.samples
        found = np.fromfile(self.path, np.float32, values, offset=4 * values * self.parts.index(part))
        return found.reshape(CHANNELS, self.samples)


def make_track(song: Song, rules: Separation, folder: Path) -> Track:
    """Decode a song, part by part, into a file of `folder`."""
    parts = (MIXTURE, *song.names)
    path = folder / f"{uuid.uuid4().hex}.f32"
    samples = 0
    with path.open("wb") as file:
        for part in parts:
            sound = song.read(part, sample_rate_hz=rules.sample_rate_hz)
            samples = sound.shape[1]
            write_array(file, sound)
    return Track(path, song.name, parts, samples)


def count_track_bytes(songs: Sequence[Song], rules: Separation) -> int:
    """What the tracks of some songs take on disk."""
    return sum(4 * CHANNELS * (1 + len(song.names)) * math.ceil(song.length_s * rules.sample_rate_hz) for song in songs)


def read_song_mono(song: Song, sample_rate_hz: int, rules: Separation) -> NDArray[np.float32]:
    """`(samples,)`: what an encoder hears of a whole song: the mean of the mixture's channels at the spectrograms' rate,
    resampled to its own."""
    mono = song.read(MIXTURE).mean(axis=0)
    return audio.resample(
        audio.resample(mono, song.rate_hz, rules.sample_rate_hz), rules.sample_rate_hz, sample_rate_hz
    )

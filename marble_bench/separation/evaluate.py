"""Separates whole songs with the chosen separators and measures them, beside what the mixture and an oracle reach.

Every stem has the Wiener step (see `spectra`). The global SDR is taken at the spectrograms' rate, BSSEval at the corpus's
own (see `marble_bench.separation.bsseval_pool`). What frames a score: the mixture itself as the estimate of every stem
(trivial), and the ideal ratio mask, which knows the true stems' power in every bin (oracle).

One song is in memory at a time, whatever their number; separated songs go to files until they are measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.files.atomic import write_array
from marble_bench.metrics._bsseval import MEASURES, global_sdr, median_of_medians
from marble_bench.separation import mixing, probe, spectra
from marble_bench.separation.bsseval_pool import BssevalPool
from marble_bench.separation.stems import MIXTURE, Song

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from marble_bench.core.task import Separation
    from marble_bench.probes.grid import TrainedProbe
    from marble_bench.separation.mixing import Track
    from marble_bench.separation.probe import Features


@dataclass
class SeparationMeasures:
    """What was measured of some songs, in dB; NaN where a stem is silent.

    sdr: global, `(seeds, songs, stems)`. mixture, oracle: the same of the trivial estimate and of the ideal ratio mask,
    `(songs, stems)`. bss: by measure of BSSEval (`sdr isr sir sar`) the windows of each seed, song: `[seed][song]` is
    `(stems, windows)`; mixture_bss: `[song]` likewise; both empty where not asked for. silent: (song, stem) by name.
    """

    sdr: NDArray[Any]
    mixture: NDArray[Any]
    oracle: NDArray[Any]
    bss: dict[str, list[list[NDArray[Any]]]] = field(default_factory=dict)
    mixture_bss: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    silent: list[tuple[str, str]] = field(default_factory=list)

    def rows(self) -> NDArray[Any]:
        """`(seeds, songs, 2 * stems)`: what `marble_bench.metrics.stems` reads; NaN where BSSEval was not asked for."""
        import numpy as np

        medians = self.song_medians() if self.bss else np.full_like(self.sdr, np.nan)
        return np.concatenate([self.sdr, medians], axis=2)

    def trivial_rows(self) -> NDArray[Any]:
        """`(songs, 2 * stems)`: the same of the mixture as the estimate of every stem."""
        import numpy as np

        songs = self.mixture_bss.get("sdr")
        medians = (
            np.full_like(self.mixture, np.nan) if songs is None else np.stack([_compute_song_median(s) for s in songs])
        )
        return np.concatenate([self.mixture, medians], axis=1)

    def song_medians(self) -> NDArray[Any]:
        """`(seeds, songs, stems)`: the median over each song's windows of BSSEval's SDR."""
        import numpy as np

        return np.stack([np.stack([_compute_song_median(song) for song in songs]) for songs in self.bss["sdr"]])


def _compute_song_median(windows: NDArray[Any]) -> NDArray[Any]:
    return median_of_medians([windows])


def measure(
    chosen: Sequence[Sequence[TrainedProbe]],
    songs: Sequence[Song],
    features: Features,
    summable: Sequence[int],
    rules: Separation,
    scratch: Path,
    device: str = "cpu",
    workers: int = 0,
    keep_audio: Path | None = None,
) -> SeparationMeasures:
    """Separate every song with every seed's separators and measure it.

    chosen: `[seed][stem]`. features: of the songs, in their order. workers: processes for BSSEval, 0 to leave it out.
    keep_audio: a folder for the separated stems, `seed<N>/<song>/<stem>.wav`, float samples.
    """
    import numpy as np

    shape = (len(songs), len(songs[0].names))
    result = SeparationMeasures(np.full((len(chosen), *shape), np.nan), np.full(shape, np.nan), np.full(shape, np.nan))
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder, _open_bsseval_pool(workers, rules, Path(folder)) as pool:
        for item, song in enumerate(songs):
            track = mixing.make_track(song, rules, Path(folder))
            files = _separate_song(chosen, track, features, summable, item, rules, device, Path(folder), result)
            track.path.unlink()
            if keep_audio is not None:
                _keep(files, song, rules, keep_audio)
            if pool is not None:
                pool.submit(song, files)
            else:
                for path in files:
                    path.unlink()
        if pool is not None:
            measured = pool.results()
            for name in MEASURES:
                result.bss[name] = [[song[seed][name] for song in measured] for seed in range(len(chosen))]
                result.mixture_bss[name] = [song[-1][name] for song in measured]
    return result


def _open_bsseval_pool(workers: int, rules: Separation, folder: Path) -> AbstractContextManager[BssevalPool | None]:
    """The pool that measures BSSEval in so many processes; None for none."""
    return BssevalPool(workers, rules.sample_rate_hz, folder) if workers else nullcontext()


def _separate_song(
    chosen: Sequence[Sequence[TrainedProbe]],
    track: Track,
    features: Features,
    summable: Sequence[int],
    item: int,
    rules: Separation,
    device: str,
    folder: Path,
    result: SeparationMeasures,
) -> list[Path]:
    """Enter a song's global SDRs; returns a file of `(stems, channels, samples)` for each seed, and one of the mixture."""
    import torch

    mixture = track.read(MIXTURE)
    on_device = torch.from_numpy(mixture).to(device)
    states = [[{name: value.to(device) for name, value in one.state.items()} for one in row] for row in chosen]
    files = [folder / f"{item}-{seed}.f32" for seed in range(len(chosen) + 1)]
    handles = [path.open("wb") for path in files]
    try:
        for stem, name in enumerate(track.parts[1:]):
            true = track.read(name)
            if not true.any():
                result.silent.append((track.name, name))
            result.mixture[item, stem] = global_sdr(true, mixture)
            write_array(handles[-1], mixture)
            for seed, row in enumerate(chosen):
                layers = row[stem].probe.reads(summable)
                guess = probe.separate(states[seed][stem], on_device, features, layers, item, rules, True, device)
                result.sdr[seed, item, stem] = global_sdr(true, guess)
                write_array(handles[seed], guess)
        for stem, guess in enumerate(compute_oracle(track, rules, device)):
            result.oracle[item, stem] = global_sdr(track.read(track.parts[1 + stem]), guess)
    finally:
        for handle in handles:
            handle.close()
    return files


def compute_oracle(track: Track, rules: Separation, device: str = "cpu") -> list[NDArray[np.float32]]:
    """Every stem of a track, `(channels, samples)`, by the ideal ratio mask."""
    import torch

    sounds = [torch.from_numpy(track.read(part)).to(device) for part in track.parts]
    backs = [spectra.Resynthesis(track.samples, len(sounds[0]), rules, device) for _ in sounds[1:]]
    first = 0
    for mixture, *stems in zip(*(spectra.compute_spectra(each, rules, probe.PIECE) for each in sounds), strict=True):
        for back, piece in zip(backs, spectra.apply_ideal_ratio(torch.stack(stems), mixture), strict=True):
            back.add(first, piece)
        first += len(mixture)
    return [back.finish().cpu().numpy() for back in backs]


def _keep(files: Sequence[Path], song: Song, rules: Separation, folder: Path) -> None:
    """Write a song's separated stems as wav."""
    import numpy as np
    import soundfile

    for seed, path in enumerate(files[:-1]):
        place = folder / f"seed{seed}" / song.name.replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        stems = np.fromfile(path, np.float32).reshape(len(song.names), 2, -1)
        for name, sound in zip(song.names, stems, strict=True):
            soundfile.write(place / f"{name}.wav", sound.T, rules.sample_rate_hz, subtype="FLOAT")

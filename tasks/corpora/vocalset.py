"""VocalSet 1.1: 10 hours of 20 singers, 44,100 Hz, mono: arpeggios, scales, long tones and excerpts in 17 techniques.

On disk `FULL/<singer>/<context>/<technique>/<file>.wav`, as the zip unpacks; the zip's other folders hold the same files
again and are not read. A recording regrouped as `<technique>/<file>.wav` is found too. Files without the singer in their
name get it (`row_spoken.wav` of male4 is `m4_row_spoken`), as in MARBLE's preparation.

A clip is a chunk of 132,000 samples (2.993 s), counted from where the voice begins (see `voice_start`); the remainder is
dropped, so a short recording vanishes. MARBLE never published its lists; CMI-Bench's, made by the same rules, ship here.
Five files of the zip are in no list: vibrato/f2_scales_vibrato_a(1), caro_, dona_, row_ and slow_vibrato_arps.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source, audio
from marble_bench.errors import DataError
from marble_bench.files.atomic import walk

from . import split_rows
from .voice_start import voice_start

RATE_HZ = 44100
CHUNK = 132_000
TECHNIQUES = (
    "belt",
    "breathy",
    "inhaled",
    "lip_trill",
    "spoken",
    "straight",
    "trill",
    "trillo",
    "vibrato",
    "vocal_fry",
)
SINGERS = tuple(f"f{number}" for number in range(1, 10)) + tuple(f"m{number}" for number in range(1, 12))
LISTS = {
    "technique": "a2f87603cc271432741137b7cc95392ffa66377d98bd144b4fb5e3af9695a82a",
    "singer": "434d918b1fcb2c4cf37014a07d7fe27c36cb0d29cdbf58ef309f17084040c591",
}


def chunks(task: str) -> Iterator[tuple[str, int, str]]:
    """(recording `<technique>/<name>`, number of the chunk in it, split) of every chunk of a task's list."""
    for row in split_rows(f"vocalset_{task}.csv", LISTS[task]):
        recording, _, number = row["chunk"].removesuffix(".wav").rpartition("_")
        yield recording, int(number), row["split"]


@lru_cache(maxsize=4)
def _recordings(root: Path) -> dict[str, Path]:
    """Every recording below a folder, links followed, by `<technique>/<name>` with the singer in the name."""
    regrouped: dict[str, Path] = {}
    found: dict[str, Path] = {}
    for path in walk(root, ".wav"):
        parts = path.relative_to(root).parts
        if len(parts) == 2:
            regrouped[f"{path.parent.name}/{path.stem}"] = path
        singer = re.fullmatch(r"(f|m|female|male)(\d+)", parts[-4]) if len(parts) > 3 else None
        if singer:
            prefix = f"{singer[1][0]}{singer[2]}_"
            name = path.stem if path.stem.startswith(prefix) else prefix + path.stem
            found[f"{path.parent.name}/{name}"] = path
    return regrouped | found


def filtered(name: str) -> str:
    """Why a file of the whole corpus is in no split."""
    parts = Path(name).parts
    if len(parts) > 2 and any(re.fullmatch(r"FULL|data_by_\w+", part) for part in parts):
        return "a recording in none of the lists, or the zip's second copy of one"
    return ""


def locate(root: Path, recording: str) -> Path | None:
    """A recording's file, wherever the zip or a regrouping put it."""
    return _recordings(root).get(recording.removesuffix(".wav"))


@lru_cache(maxsize=8192)
def _voice_start(path: Path) -> int | None:
    """The sample at which a recording's voice begins; None if it has none or cannot be decoded, as its chunks will say."""
    try:
        return voice_start(audio.read(path, sample_rate_hz=RATE_HZ, native_rate_hz=RATE_HZ), RATE_HZ)
    except DataError:
        return None


def clips(root: Path | None, task: str, label: Callable[[str, str], str]) -> Iterator[Clip]:
    """Every chunk of a task's list with the label that is made of its (technique, name); a recording is a group.

    With a corpus at hand each recording is read for where its voice begins; without, chunks are counted from its start.
    """
    rows = list(chunks(task))
    starts: dict[str, int] = {}
    if root is not None:
        there = {recording: path for recording in {row[0] for row in rows} if (path := locate(root, recording))}
        with ThreadPoolExecutor() as pool:
            found = dict(zip(there, pool.map(_voice_start, there.values()), strict=True))
        starts = {recording: start for recording, start in found.items() if start is not None}
    for recording, number, split in rows:
        technique, _, name = recording.partition("/")
        start = (starts.get(recording, 0) + number * CHUNK) / RATE_HZ
        target = label(technique, name)
        yield Clip(
            f"{recording}_{number:02}", split, f"{recording}.wav", target, start, CHUNK / RATE_HZ, group=recording
        )


# Recordings of the miniature: so many of each (technique, split of the technique task) and (singer, split of the other).
MINI_PER_TECHNIQUE = {"train": 3, "valid": 2, "test": 2}
MINI_PER_SINGER = {"train": 3, "valid": 1, "test": 1}


def compose(technique: str, name: str, count: int) -> Any:
    """A recording of the miniature, `(samples,)`: up to a second of near silence, then `count` chunks of the technique.

    A singer is heard in register and formants, the technique in pitch, loudness and breath over time.
    """
    import numpy as np

    from marble_bench.audio import synth

    singer = name.partition("_")[0]
    voice = np.random.default_rng([SINGERS.index(singer), 20])
    random = np.random.default_rng(sum(ord(letter) * place for place, letter in enumerate(technique + name, 1)))
    length_s = (count * CHUNK + 4000) / RATE_HZ
    pitch = (52 if singer[0] == "m" else 64) + int(voice.integers(0, 5)) + int(random.integers(0, 5))
    formants = [level * (0.2 + 1.6 * voice.random()) for level in (1.0, 0.9, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)]
    hz: Any = synth.hertz(pitch)
    seconds = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    breath, pulse = 0.03, None
    if technique == "vibrato":
        hz = synth.vibrato(hz, length_s, RATE_HZ, 5.0 + random.random(), 0.03)
    elif technique == "trill":
        hz = np.where(synth.sine(seconds * 6.0) > 0, hz, hz * synth.SEMITONES[2])
    elif technique == "trillo":
        pulse = 0.5 + 0.5 * synth.sine(seconds * 7.0)
    elif technique == "lip_trill":
        pulse = 0.5 + 0.5 * synth.sine(seconds * 24.0)
    elif technique == "vocal_fry":
        hz = 35.0 + 15 * random.random()
    elif technique == "breathy":
        breath = 0.35
    elif technique == "inhaled":
        breath = 1.2
    elif technique == "spoken":
        hz = hz * (0.7 + 0.15 * synth.sine(seconds * 1.7))
        pulse = np.where(synth.sine(seconds * 3.0) > -0.4, 1.0, 0.05)
    elif technique == "belt":
        formants = [level * (1 + 0.5 * place) for place, level in enumerate(formants)]
    sung = synth.tone(hz, length_s, RATE_HZ, formants)
    sung = sung + breath * synth.noise(length_s, RATE_HZ, random, smooth=2)[: len(sung)]
    sung = synth.shaped(sung if pulse is None else sung * pulse, RATE_HZ, 0.02, 0.05)
    lead = round((0.1 + 0.8 * random.random()) * RATE_HZ)
    out = np.zeros(lead + len(sung) + round(1.2 * RATE_HZ))
    out[lead : lead + len(sung)] = sung
    return out + 2e-4 * (random.random(len(out)) - 0.5)


def mini(folder: Path) -> None:
    """Recordings of every technique and singer in every split, synthesised, under official names in the zip's folders."""
    from marble_bench.audio import synth

    wanted: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    for recording, number, _ in chunks("singer"):
        counts[recording] = max(counts.get(recording, 0), number + 1)
    chosen: dict[str, None] = {}
    for task, most in (("technique", MINI_PER_TECHNIQUE), ("singer", MINI_PER_SINGER)):
        mixed = sorted(chunks(task), key=lambda row: hashlib.sha256(row[0].encode()).digest())  # singers in turn
        for recording, number, split in mixed:
            technique, _, name = recording.partition("/")
            if task == "singer" and technique in TECHNIQUES:
                continue  # the other seven techniques show the singers, so that the technique task stays balanced
            key = (technique if task == "technique" else name.partition("_")[0], split)
            if not number and counts[recording] <= 2 and wanted.get(key, 0) < most[split]:
                wanted[key] = wanted.get(key, 0) + 1
                chosen[recording] = None
    for recording in chosen:
        technique, _, name = recording.partition("/")
        singer, _, rest = name.partition("_")
        person = ("female" if singer[0] == "f" else "male") + singer[1:]
        # some of the zip's files lack the singer in their name
        file = rest if rest.startswith("row") else name
        context = "excerpts" if "row" in rest else "long_tones"
        path = folder / "FULL" / person / context / technique / f"{file}.wav"
        synth.write(path, compose(technique, name, counts[recording]), RATE_HZ)


VOCALSET = Corpus(
    name="vocalset",
    title="VocalSet",
    home="https://zenodo.org/records/1203819",
    license="CC-BY-4.0",
    citation="J. Wilkins, P. Seetharaman, A. Wahl and B. Pardo, VocalSet: a singing voice dataset, ISMIR 2018; chunk lists: "
    "Y. Ma et al., CMI-Bench, 2025",
    layout="FULL/<singer>/<context>/<technique>/<file>.wav, from VocalSet11.zip",
    mini=mini,
    locate=locate,
    filtered=filtered,
    sample_rate_hz=RATE_HZ,
    sources=(Source(url="https://zenodo.org/record/1203819/files/VocalSet11.zip", unpack=True, note="version 1.1"),),
)

"""GTZAN with the beats and downbeats that people tapped and corrected, in any of the forms they are passed on.

- GTZAN-Rhythm (Marchand, Fresnel and Peeters, ISMIR 2015 late-breaking): a JAMS file for each track,
  `<genre>.000NN.wav.jams`, with annotations of namespace `beat` whose `annotation_type` is `beat` or `downbeat`.
- gtzan_tempo_beat (made with beat_this and used by mirdata): `gtzan_<genre>_000NN.beats`, a line for each beat with its time
  and its place in the bar, 1 being the downbeat; without places the downbeats are not annotated.

Either may lie in the corpus's folder or up to two folders below (`jams/`, `gtzan_tempo_beat-main/beats/`); of a track with
both, the JAMS file is read. Times are seconds from the start of the excerpt.

Known faults: a few excerpts end before their last annotated beat (`reggae.00002`): such beats are left out once the
length is known, and the record says so. jazz.00009, 10, 14, 18 and 20 have no downbeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from marble_bench.errors import DataError, listing
from marble_bench.source import Source
from marble_bench.task import Clip

from .gtzan import GTZAN, RATE_HZ, tracks

FOLDERS = ("", "*/", "*/*/")
Times = tuple[float, ...]


def annotation_files(root: Path) -> dict[str, Path]:
    """Each annotated track's file, JAMS before `.beats`."""
    found: dict[str, Path] = {}
    for suffix in (".jams", ".beats"):
        for folder in FOLDERS:
            for path in sorted(root.glob(f"{folder}*{suffix}")):
                track = path.name.removesuffix(suffix).removesuffix(".wav")
                if suffix == ".beats" and track.startswith("gtzan_"):
                    track = ".".join(track.split("_")[1:])
                found.setdefault(track.replace("hip-hop", "hiphop"), path)
    return found


def read(path: Path) -> tuple[Times, Times | None]:
    """Beats and downbeats, in seconds; None for downbeats that are not annotated.

    Raises DataError naming the file if it is not of its form, has fewer than two beats, or if times do not ascend.
    """
    try:
        text = path.read_text(encoding="utf-8")
        beats, downbeats = _of_jams(text) if path.suffix == ".jams" else _of_lines(text)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as beats ({type(error).__name__}: {error})") from error
    for name, times in (("beat", beats), ("downbeat", downbeats or ())):
        for before, after in pairwise(times):
            if not before < after:
                raise DataError(f"{path}: the {name} at {after:g} s comes behind the one at {before:g} s; sort them")
        if times and not 0 <= times[0] <= times[-1] < float("inf"):
            raise DataError(f"{path}: {name}s run from {times[0]:g} to {times[-1]:g} s")
    if len(beats) < 2:
        raise DataError(f"{path} has {len(beats)} beats; two are needed to tell a tempo")
    return beats, downbeats or None


def _of_jams(text: str) -> tuple[Times, Times]:
    found: dict[str, Times] = {}
    for annotation in json.loads(text)["annotations"]:
        if annotation["namespace"] == "beat":
            kind = annotation.get("sandbox", {}).get("annotation_type", "beat")
            data = annotation["data"]
            times = data["time"] if isinstance(data, dict) else [each["time"] for each in data]
            if kind in found:
                raise ValueError(f"two annotations of type {kind}")
            found[kind] = tuple(float(time) for time in times)
    return found.get("beat", ()), found.get("downbeat", ())


def _of_lines(text: str) -> tuple[Times, Times]:
    rows = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    beats = tuple(float(row[0]) for row in rows)
    return beats, tuple(float(row[0]) for row in rows if len(row) > 1 and int(float(row[1])) == 1)


def clips(root: Path | None) -> Iterator[Clip]:
    """Every annotated track of the filtered split, with (beats, downbeats). Raises DataError naming every bad file."""
    if root is None:
        raise DataError("the beats are in the corpus alone: give --data-dir DIR with its annotations")
    files = annotation_files(root)
    if not files:
        raise DataError(f"no beat annotations in {root}: it should hold {GTZAN_RHYTHM.layout}")
    made, bad = [], []
    for row in tracks():
        if row["track"] not in files:
            continue
        try:
            target = read(files[row["track"]])
        except DataError as error:
            bad.append(str(error))
            continue
        made.append(Clip(row["track"], row["split"], f"genres/{row['genre']}/{row['track']}.au", target))
    if bad:
        raise DataError(f"{len(bad)} annotation files cannot be used: {listing(bad)}")
    yield from made


@dataclass(frozen=True)
class Groove:
    """How a piece of the miniature moves. swing: how late an off-beat eighth comes, as a share of a beat. sway: how far the
    tempo swings to and fro, as a share of it. drums: without them only chords are played."""

    bpm: float
    meter: int
    swing: float
    sway: float
    drums: bool
    pickup: int


MINI_CLIPS = {"train": 2, "valid": 1, "test": 1}  # of each genre
MINI_S = 13.0


def groove(random: Any) -> Groove:
    """A groove drawn at random."""
    return Groove(
        bpm=float(random.uniform(70, 170)),
        meter=int(random.choice([3, 4, 4, 4])),
        swing=float(random.choice([0.0, 0.0, 0.17])),
        sway=float(random.choice([0.0, 0.0, 0.04, 0.08])),
        drums=bool(random.random() < 0.8),
        pickup=int(random.integers(0, 4)),
    )


def beat_times(piece: Groove, random: Any) -> list[float]:
    """The beats of a groove within the excerpt, in seconds."""
    import numpy as np

    times, at_s, phase = [], float(random.uniform(0.05, 0.6)), float(random.uniform(0, 1))
    while at_s < MINI_S - 0.05:
        times.append(round(at_s, 3))
        at_s += 60 / (piece.bpm * (1 + piece.sway * float(np.sin(2 * np.pi * (at_s / 7 + phase)))))
    return times


def compose(track: str) -> tuple[Any, Times, Times]:
    """The miniature's excerpt of a track: `(samples,)` float64 at RATE_HZ, its beats and downbeats."""
    import numpy as np

    from marble_bench import synth

    random = np.random.default_rng([ord(letter) for letter in track])
    piece = groove(random)
    beats = beat_times(piece, random)
    places = [(index + piece.pickup) % piece.meter for index in range(len(beats))]
    mix = np.zeros(round(MINI_S * RATE_HZ))
    tonic, timbre = int(random.integers(45, 60)), str(random.choice(["piano", "guitar", "organ"]))
    degrees = [0, 3, 4, 5]
    for index, (at_s, place) in enumerate(zip(beats, places, strict=True)):
        period = (beats[index + 1] if index + 1 < len(beats) else MINI_S) - at_s
        if place == 0 or not piece.drums:
            chord = synth.triad(tonic, "major", degrees[(index // piece.meter) % 4])
            level = 0.6 if place == 0 else 0.25
            synth.place(mix, synth.chord(chord, min(2 * period, 1.2), RATE_HZ, timbre, 0.4), at_s, RATE_HZ, level)
            if place == 0:
                synth.place(mix, synth.note(chord[0] - 12, period, RATE_HZ, "bass", 0.3), at_s, RATE_HZ, 0.5)
        if piece.drums:
            drum = synth.kick(RATE_HZ) if place in (0, 2) else synth.snare(RATE_HZ, random)
            synth.place(mix, drum, at_s, RATE_HZ, 0.7 if place in (0, 2) else 0.4)
            synth.place(mix, synth.hihat(RATE_HZ, random), at_s, RATE_HZ, 0.25)
            off = at_s + period * (0.5 + piece.swing)
            synth.place(mix, synth.hihat(RATE_HZ, random), off, RATE_HZ, 0.15)
    hiss = synth.noise(MINI_S, RATE_HZ, random)[: len(mix)] * 0.01
    return mix + hiss, tuple(beats), tuple(at for at, place in zip(beats, places, strict=True) if place == 0)


def jams(beats: Times, downbeats: Times) -> str:
    """The two annotations of a track as GTZAN-Rhythm writes them."""

    def annotation(kind: str, times: Times) -> dict[str, Any]:
        data = [{"time": time, "duration": 0.0, "value": 1.0, "confidence": None} for time in times]
        return {"namespace": "beat", "sandbox": {"annotation_type": kind}, "annotation_metadata": {}, "data": data}

    both = [annotation("beat", beats), annotation("downbeat", downbeats)]
    return json.dumps({"annotations": both, "file_metadata": {"duration": MINI_S}, "sandbox": {}}, indent=1)


def mini(folder: Path) -> None:
    """Some tracks of every genre and split, synthesised: drums, swing and rubato, with the beats they were made by."""
    from marble_bench import synth

    left = {(row["genre"], split): count for row in tracks() for split, count in MINI_CLIPS.items()}
    (folder / "jams").mkdir(parents=True)
    for row in tracks():
        if left[row["genre"], row["split"]]:
            left[row["genre"], row["split"]] -= 1
            sound, beats, downbeats = compose(row["track"])
            synth.write(folder / "genres" / row["genre"] / f"{row['track']}.au", sound, RATE_HZ)
            (folder / "jams" / f"{row['track']}.wav.jams").write_text(jams(beats, downbeats), encoding="utf-8")


GTZAN_RHYTHM = replace(
    GTZAN,
    name="gtzan-rhythm",
    title="GTZAN with beats",
    citation=GTZAN.citation
    + "; beats: U. Marchand, Q. Fresnel and G. Peeters, GTZAN-Rhythm, ISMIR late-breaking 2015 (JAMS), or gtzan_tempo_beat",
    layout="genres/<genre>/<genre>.000NN.au and annotations: jams/<genre>.000NN.wav.jams (GTZAN-Rhythm), or "
    "beats/gtzan_<genre>_000NN.beats (gtzan_tempo_beat)",
    mini=mini,
    sources=(
        *GTZAN.sources,
        Source(
            url="http://anasynth.ircam.fr/home/system/files/attachment_uploads/marchand/private/"
            "GTZAN-Rhythm_v2_ismir2015_lbd_2015-10-28.tar_.gz",
            status="gated",
            note="the annotations as JAMS, by the makers' page; unpack beside genres/",
        ),
        Source(
            url="https://github.com/TempoBeatDownbeat/gtzan_tempo_beat/archive/refs/heads/main.zip",
            mirror="beats",
            unpack=True,
            note="the annotations alone, as .beats",
        ),
    ),
    beside="gtzan",
)

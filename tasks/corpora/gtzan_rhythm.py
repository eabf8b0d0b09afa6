"""GTZAN with the beats and downbeats that people tapped and corrected, in any of the forms they are passed on.

- GTZAN-Rhythm (Marchand, Fresnel and Peeters, ISMIR 2015 late-breaking): a JAMS file for each track,
  `<genre>.000NN.wav.jams`, with annotations of namespace `beat` whose `annotation_type` is `beat` or `downbeat`.
- gtzan_tempo_beat (made with beat_this and used by mirdata): `gtzan_<genre>_000NN.beats`, a line for each beat with its time
  and its place in the bar, 1 being the downbeat; without places the downbeats are not annotated. Other collections write
  `bar.beat` for the place (Ballroom), or put a column with the bar behind it (Harmonix) or before it; these are read too.

Either may lie in the corpus's folder or up to two folders below (`jams/`, `gtzan_tempo_beat-main/beats/`); of a track with
both, the JAMS file is read. Times are seconds from the start of the excerpt.

Known faults: a few excerpts end before their last annotated beat (`reggae.00002`): such beats are left out once the
length is known, and the record says so. jazz.00009, 10, 14, 18 and 20 have no downbeats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from marble_bench import Clip, Source
from marble_bench.errors import DataError, listing
from marble_bench.files.tables import brief, fault, read_json, read_lines

from .gtzan import GTZAN, RATE_HZ, tracks

FOLDERS = ("", "*/", "*/*/")
PERIODS_S = (0.15, 4.0)  # between beats: 400 to 15 a minute; GTZAN's medians are .177 to 1.59
TOLERANCE_S = 0.07
MOST_ASTRAY = 0.1  # of the downbeats may be no beats: annotators forget one
MOST_BEATS = 32  # of a bar
NUMBER = re.compile(r"[+-]?(\d{1,9}(\.\d{0,30})?|\.\d{1,30})")
Times = tuple[float, ...]


def annotation_files(root: Path) -> dict[str, Path]:
    """Each annotated track's file, JAMS before `.beats`. Raises DataError for a track with two different ones of a form."""
    found: dict[str, Path] = {}
    for suffix in (".jams", ".beats"):
        of_form: dict[str, Path] = {}
        for folder in FOLDERS:
            for path in sorted(root.glob(f"{folder}*{suffix}")):
                track = path.name.removesuffix(suffix).removesuffix(".wav")
                if suffix == ".beats" and track.startswith("gtzan_"):
                    track = ".".join(track.split("_")[1:])
                first = of_form.setdefault(track.replace("hip-hop", "hiphop"), path)
                if first != path and first.is_file() and path.is_file() and first.read_bytes() != path.read_bytes():
                    raise DataError(f"{path} and {first} annotate one track and differ; keep the right one")
        found = of_form | found
    return found


def read(path: Path) -> tuple[Times, Times | None]:
    """Beats and downbeats, in seconds; None for downbeats that are not annotated.

    Raises DataError naming the file, with the line or the annotation, if it is not of its form, has fewer than two
    beats, if times do not ascend or are no times of beats, or if a downbeat is no beat.
    """
    beats, downbeats = _of_jams(path) if path.suffix == ".jams" else _of_lines(path)
    for name, times in (("beat", beats), ("downbeat", downbeats)):
        for before, after in pairwise(times):
            if not before < after:
                raise fault(path, f"the {name} at {after:g} s comes behind the one at {before:g} s; sort them")
        if times and not 0 <= times[0] <= times[-1] < float("inf"):
            raise fault(path, f"{name}s run from {times[0]:g} to {times[-1]:g} s")
    if len(beats) < 2:
        raise fault(path, f"has {len(beats)} beats; two are needed to tell a tempo")
    period_s = median(after - before for before, after in pairwise(beats))
    if not PERIODS_S[0] <= period_s <= PERIODS_S[1]:
        hint = "; they may be milliseconds" if PERIODS_S[0] <= period_s / 1000 <= PERIODS_S[1] else ""
        raise fault(
            path,
            f"beats run from {beats[0]:g} to {beats[-1]:g} s, mostly {period_s:.4g} s apart, which is no beat period "
            f"({PERIODS_S[0]:g} to {PERIODS_S[1]:g} s){hint}",
        )
    astray = [time for time in downbeats if min(abs(beat - time) for beat in beats) > TOLERANCE_S]
    if len(astray) > MOST_ASTRAY * len(downbeats):
        raise fault(
            path,
            f"{len(astray)} of {len(downbeats)} downbeats are no beats, such as that at {astray[0]:g} s: no beat is within "
            f"{TOLERANCE_S:g} s of it",
        )
    return beats, downbeats or None


def _of_jams(path: Path) -> tuple[Times, Times]:
    whole = read_json(path)
    found: dict[str, Times] = {}
    for number, annotation in enumerate(_held(path, whole, "annotations", list, "the file")):
        where = f"annotations[{number}]"
        if _held(path, annotation, "namespace", str, where) != "beat":
            continue
        sandbox = annotation.get("sandbox")
        told = sandbox.get("annotation_type", "beat") if isinstance(sandbox, dict) else "beat"
        kind = re.sub(r"[^a-z0-9]", "", str(told).lower())
        if kind in found:
            raise fault(path, f"{where} is a second annotation of the type {brief(told)}")
        found[kind] = tuple(_jams_times(path, annotation, where)) if kind in ("beat", "downbeat") else ()
    unknown = [brief(kind) for kind in found if kind not in ("beat", "downbeat", "8thnote")]
    if unknown and "downbeat" not in found:
        raise fault(
            path, f"has no annotation of the type 'downbeat', and one of the type {listing(unknown, 3)}: which is it?"
        )
    return found.get("beat", ()), found.get("downbeat", ())


def _jams_times(path: Path, annotation: dict[str, Any], where: str) -> Iterator[float]:
    """The times of an annotation: of a list of observations, or as older files have it, a list of times."""
    data = annotation.get("data")
    if isinstance(data, dict):
        times = _held(path, data, "time", list, f"{where}.data")
    else:
        rows = _held(path, annotation, "data", list, where)
        times = [_held(path, row, "time", (int, float), f"{where}.data[{at}]") for at, row in enumerate(rows)]
    for at, time in enumerate(times):
        if isinstance(time, bool) or not isinstance(time, int | float) or abs(time) > 1e9:
            raise fault(path, f"{where}.data[{at}] has the time {brief(time)}, which is no number of seconds")
        yield float(time)


def _held(path: Path, whole: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """The value of a key, where it is of a kind. Raises DataError naming the place if it is not."""
    value = whole.get(key) if isinstance(whole, dict) else None
    if not isinstance(value, kind):
        raise fault(path, f"{where} has no {key} as JAMS writes it; it is {brief(whole)}")
    return value


def _of_lines(path: Path) -> tuple[Times, Times]:
    """The times of a `.beats` file, and of the downbeats among them by the places in the bar."""
    rows: list[list[str]] = []
    for number, line in enumerate(read_lines(path, byte_order_mark=False), 1):
        row = [field.strip() for field in line.split(",")] if "," in line else line.split()
        if rows and len(row) != len(rows[0]):
            raise fault(path, f"has {len(row)} fields, line 1 has {len(rows[0])}", number)
        for field in row:
            if not NUMBER.fullmatch(field):
                raise fault(
                    path, f"has {brief(field)}, which is no number: a line is a time and a place in the bar", number
                )
        rows.append(row)
    if not rows:
        return (), ()
    columns: list[tuple[str, ...]] = list(zip(*rows, strict=True))
    times = [[float(field) for field in column] for column in columns]
    if len(columns) > 3:
        raise fault(path, f"has {len(columns)} columns; a line is a time, a place in the bar, and perhaps the bar", 1)
    if len(columns) == 1 or len(rows) == 1:
        return tuple(times[0]), ()
    first = _firsts(columns[1:])
    if first is None:
        raise fault(path, _unclear(columns, times))
    return tuple(times[0]), tuple(time for time, is_first in zip(times[0], first, strict=True) if is_first)


def _firsts(columns: Sequence[Sequence[str]]) -> list[bool] | None:
    """Which beats are downbeats, by the columns behind the times; None where these are in no known form.

    One column holds places or `bar.beat`; two hold places and bars, in either order.
    """
    if len(columns) == 1:
        pairs = [_split(field) for field in columns[0]]
        if all(pair is not None for pair in pairs):
            bars, places = ([pair[at] for pair in pairs if pair is not None] for at in (0, 1))
            return [place == 1 for place in places] if _agree(places, bars) else None
    whole = [_whole(column) for column in columns]
    if any(column is None for column in whole):
        return None
    numbers = [column for column in whole if column is not None]
    if len(numbers) == 1:
        return [place == 1 for place in numbers[0]] if _are_places(numbers[0]) else None
    for places, bars in (numbers, numbers[::-1]):
        if _agree(places, bars):
            return [place == 1 for place in places]
    return None


def _split(field: str) -> tuple[int, int] | None:
    """Bar and beat of `bar.beat`; None if the field is not of that form, `2.0` being a place."""
    found = re.fullmatch(r"(\d{1,4})\.([1-9]\d?)", field)
    return (int(found[1]), int(found[2])) if found else None


def _whole(fields: Sequence[str]) -> list[int] | None:
    """Fields as whole numbers, `2.0` being one; None if one is not."""
    values = [float(field) for field in fields]
    return [int(value) for value in values] if all(abs(v) < 1e6 and v == int(v) for v in values) else None


def _are_places(places: Sequence[int]) -> bool:
    """Whether numbers count the beats of bars: each is one more than that before it, or 1, and a bar has two beats or more.

    Where every number is 1 or 2, 2 may also mean all beats but the first.
    """
    neighbours = list(pairwise(places))
    counted = all(after in (before + 1, 1) for before, after in neighbours)
    flagged = set(places) == {1, 2} and (1, 1) not in neighbours
    return (counted or flagged) and 1 in places and min(places) >= 1 and 1 < max(places) <= MOST_BEATS


def _agree(places: Sequence[int], bars: Sequence[int]) -> bool:
    """Whether the bars go on by one just where the places begin again."""
    goes_on = all(
        b_bar - a_bar == (b_place == 1)
        for (a_bar, b_bar), (_, b_place) in zip(pairwise(bars), pairwise(places), strict=True)
    )
    return goes_on and _are_places(places)


def _unclear(columns: Sequence[Sequence[str]], times: Sequence[Sequence[float]]) -> str:
    """Why the columns behind the times tell no downbeats."""
    ascends = [all(before < after for before, after in pairwise(column)) for column in times]
    if len(columns) == 2 and ascends[1] and (not ascends[0] or any("." in field for field in columns[1])):
        return "the second column ascends as times do: the columns are exchanged, the time comes first"
    places = _whole(columns[1])
    if len(columns) == 2 and places is not None:
        if min(places) < 1:
            return f"the places in the bar begin with {min(places)}; the downbeat is 1"
        if 1 not in places:
            return (
                "no beat is at place 1 of a bar, so there is no downbeat; leave the places out where none is annotated"
            )
    if len(columns) == 2:
        return "the second column is neither places in the bar (1 2 3 4 1 ...) nor bar.beat (1.1 1.2 1.3 2.1 ...)"
    return "the columns behind the time are not a place in the bar and a bar that goes on with every place 1"


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

    from marble_bench.audio import synth

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
    from marble_bench.audio import synth

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

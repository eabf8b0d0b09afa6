"""GuitarSet: 360 excerpts of about 30 s, six players on acoustic guitar, each with chords, beats, key and notes as JAMS.

An excerpt is `<player>_<style><progression>-<tempo>-<key>_<comp or solo>`. On disk as the makers' zips unpack, into the
corpus's folder or into folders of their own in it: `annotation/<excerpt>.jams` and `audio_mono-mic/<excerpt>_mic.wav`, of
which the microphone's recordings are read. A JAMS file has two annotations of chords: `instructed` is the lead sheet that
the player read, `performed` was inferred from the notes. Solos have the chords of the accompaniment they were played to.

No split is published. Splits hold out players, as clips of one player share hands, guitar and room: the test split is one
player, the validation split the player before, and training takes the four others.

Known faults (the makers' repository, issues 4 and 5): the annotations of `04_BN3-154-E_comp` and `04_Jazz1-200-B_comp` are
late by 0.409 s and 0.309 s; both are of the validation split. They are read as they are, as their reporter advises against
correcting them. A note of `02_Funk2-119-G_comp` is there twice, which does not change its chords.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from marble_bench import Clip, Corpus, Fault, Source
from marble_bench.errors import DataError, listing
from marble_bench.files.tables import brief, fault, read_json
from marble_bench.metrics._chord_labels import Segment, make_target

from .chord_segments import MINI_RATE_HZ, compose, join_segments

Layer = Literal["instructed", "performed"]  # the two annotations of chords, in a file's order
PLAYERS = 6
TEST_PLAYER = 5
NAME = re.compile(r"(0[0-5])_(?:BN|Funk|Jazz|Rock|SS)[123]-\d{2,3}-[A-G][b#]?_(comp|solo)")


def list_annotation_files(root: Path) -> dict[str, Path]:
    """The JAMS file of each excerpt. Raises DataError for an excerpt with two different ones."""
    found: dict[str, Path] = {}
    for path in sorted([*root.glob("*.jams"), *root.glob("*/*.jams")]):
        if not NAME.fullmatch(path.stem):  # a zip made on a Mac holds ._<name> beside each file
            continue
        first = found.setdefault(path.stem, path)
        if first != path and first.read_bytes() != path.read_bytes():
            raise DataError(f"{path} and {first} annotate one excerpt and differ; keep the right one")
    return found


def read_chords(path: Path, layer: Layer = "instructed") -> tuple[Segment, ...]:
    """The chords of a JAMS file. Raises DataError naming the file and the place in it for what is not as JAMS has it."""
    whole = read_json(path)
    annotations = _get(path, whole, "annotations", list, "the file")
    chords = [
        (annotation, f"annotations[{number}]")
        for number, annotation in enumerate(annotations)
        if _get(path, annotation, "namespace", str, f"annotations[{number}]") == "chord"
    ]
    if len(chords) != len(get_args(Layer)):
        raise fault(path, f"has {len(chords)} annotations of chords; GuitarSet has two, instructed and performed")
    annotation, where = chords[get_args(Layer).index(layer)]
    rows = _list_rows(path, _get(path, annotation, "data", list, where), f"{where}.data")
    segments = join_segments(rows, lambda words, place: fault(path, f"{place}: {words}"))
    if not segments:
        raise fault(path, f"{where} has no chord; get the file again")
    return segments


def _list_rows(path: Path, data: list[Any], where: str) -> Iterator[tuple[float, float, str, str]]:
    for number, row in enumerate(data):
        place = f"{where}[{number}]"
        start_s, duration_s = (_get_number(path, row, key, place) for key in ("time", "duration"))
        yield start_s, start_s + duration_s, _get(path, row, "value", str, place), place


def _get(path: Path, whole: Any, key: str, kind: type, where: str) -> Any:
    """The value of a key, where it is of a kind. Raises DataError naming the place if it is not."""
    value = whole.get(key) if isinstance(whole, dict) else None
    if not isinstance(value, kind):
        raise fault(path, f"{where} has no {key} as JAMS writes it; it is {brief(whole)}")
    return value


def _get_number(path: Path, row: Any, key: str, where: str) -> float:
    value = row.get(key) if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
        raise fault(path, f"{where} has the {key} {brief(value)}, which is no number of seconds")
    return float(value)


def locate(root: Path, audio: str) -> Path | None:
    """A recording in its folder, or where the zip was unpacked without one."""
    for path in (root / audio, root / Path(audio).name):
        if path.is_file():
            return path
    return None


def filtered(name: str) -> str:
    """Why a file of the whole corpus is in no split."""
    found = re.fullmatch(rf"({NAME.pattern})_(mic|mix|hex|hex_cln)\.wav", Path(name).name)
    if not found:
        return ""
    return (
        "a solo, which has the chords of another excerpt" if found[3] == "solo" else "of the pickup, not the microphone"
    )


def clips(root: Path | None, test_player: int = TEST_PLAYER, layer: Layer = "instructed") -> Iterator[Clip]:
    """Every accompaniment with its chords. Raises DataError naming every bad file.

    test_player: 0 to 5, whose excerpts are the test split; those of the player before are the validation split. For another
    fold, a task file of one's own replaces `clips` by this function with another player.
    """
    if root is None:
        raise DataError("the chords are in the corpus alone: give --data-dir DIR with its annotations")
    files = list_annotation_files(root)
    if not files:
        raise DataError(f"no annotations in {root}: it should hold {GUITARSET.layout}")
    splits = {test_player % PLAYERS: "test", (test_player - 1) % PLAYERS: "valid"}
    made, bad = [], []
    for name, path in files.items():
        if not name.endswith("_comp"):
            continue
        try:
            target = make_target(read_chords(path, layer))
        except DataError as error:
            bad.append(str(error))
            continue
        made.append(Clip(name, splits.get(int(name[:2]), "train"), f"audio_mono-mic/{name}_mic.wav", target))
    if bad:
        raise DataError(f"{len(bad)} annotation files cannot be used: {listing(bad)}")
    yield from made


# The miniature's players, with the timbre of each: the test player's is heard nowhere else.
MINI_TIMBRES = ("organ", "guitar", "organ", "guitar", "organ", "string")
MINI_STYLES = {"train": ("Rock1-90-C",), "valid": ("Jazz1-130-D",), "test": ("Rock1-90-C", "Jazz1-130-D")}


def jams(segments: tuple[Segment, ...]) -> str:
    """Chords as GuitarSet writes them: instructed, then the same as performed."""
    data = [
        {"time": start, "duration": end - start, "value": label, "confidence": None} for start, end, label in segments
    ]
    one = {"namespace": "chord", "annotation_metadata": {}, "sandbox": {}, "data": data}
    whole = {"annotations": [one, one], "file_metadata": {"duration": segments[-1][1]}, "sandbox": {}}
    return json.dumps(whole, indent=1)


def mini(folder: Path) -> None:
    """One or two pieces of every player, synthesised: the 24 triads and no chord, in a timbre of each player."""
    from marble_bench.audio import synth

    (folder / "annotation").mkdir(parents=True)
    for player, timbre in enumerate(MINI_TIMBRES):
        split = {TEST_PLAYER: "test", TEST_PLAYER - 1: "valid"}.get(player, "train")
        for style in MINI_STYLES[split]:
            name = f"0{player}_{style}_comp"
            sound, segments = compose(name, timbre)
            synth.write(folder / "audio_mono-mic" / f"{name}_mic.wav", sound, MINI_RATE_HZ)
            (folder / "annotation" / f"{name}.jams").write_text(jams(segments), encoding="utf-8")


_RECORD = "https://zenodo.org/records/3371780"
GUITARSET = Corpus(
    name="guitarset",
    title="GuitarSet",
    home=_RECORD,
    license="CC BY 4.0 by a copy on the hub, MIT by mirdata; the makers' record is to be read",
    citation="Q. Xi, R. M. Bittner, J. Pauwels, X. Ye and J. P. Bello, GuitarSet: a dataset for guitar transcription, "
    "ISMIR 2018",
    layout="annotation/<excerpt>.jams and audio_mono-mic/<excerpt>_mic.wav",
    mini=mini,
    locate=locate,
    filtered=filtered,
    faults=(
        Fault(
            "audio_mono-mic/04_BN3-154-E_comp_mic.wav", "its annotations are late by 0.409 s (marl/GuitarSet issue 5)"
        ),
        Fault(
            "audio_mono-mic/04_Jazz1-200-B_comp_mic.wav", "its annotations are late by 0.309 s (marl/GuitarSet issue 5)"
        ),
    ),
    sources=(
        Source(
            url=f"{_RECORD}/files/annotation.zip",
            md5="b39b78e63d3446f2e54ddb7a54df9b10",
            unpack=True,
            note="the JAMS files; the digest is mirdata's",
        ),
        Source(
            url=f"{_RECORD}/files/audio_mono-mic.zip",
            md5="275966d6610ac34999b58426beb119c3",
            unpack=True,
            note="the microphone's recordings; the digest is mirdata's",
        ),
    ),
)

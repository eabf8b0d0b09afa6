"""NSynth: 305,979 single notes of 4 s, 16 kHz, mono, each a pitch of one of 1,006 instruments of eleven families.

On disk `nsynth-<split>/examples.json` (one entry a note) and `nsynth-<split>/audio/<note>.wav`, as the makers' jsonwav
archives unpack. The official split keeps the training instruments apart from those of valid and test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError
from marble_bench.files.tables import brief, fault, read_json

FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"
)  # fmt: skip
NOTE = re.compile(
    rf"(?P<instrument>(?P<family>{'|'.join(FAMILIES)})_(acoustic|electronic|synthetic)_\d{{3}})"
    r"-(?P<pitch>\d{3})-(?P<velocity>\d{3})",
    re.ASCII,
)
LOWEST, HIGHEST = 9, 120  # MIDI pitches that occur in the corpus
BUCKET = "download.magenta.tensorflow.org"  # the makers' own, which its name reaches without https only
RATE_HZ = 16000
COUNTS = {"train": 289205, "valid": 12678, "test": 4096}
HOME = "https://magenta.tensorflow.org/datasets/nsynth"


def notes(root: Path | None, split: str) -> dict[str, dict[str, Any]]:
    """The entries of a split's `examples.json` by note. Raises DataError if it is not there, or if an entry is not its
    note's."""
    if root is None:
        raise DataError("NSynth's labels are in its own examples.json files: give --data-dir DIR")
    path = root / f"nsynth-{split}" / "examples.json"
    if not path.is_file():
        raise DataError(f"{path} is not there; it is part of nsynth-{split}.jsonwav.tar.gz")
    entries = read_json(path)
    if not isinstance(entries, dict) or not entries:
        raise fault(path, f"holds {brief(entries)}; it should be an object with an entry for each note")
    for note, entry in entries.items():
        if (wrong := _wrong(note, entry)) is not None:
            raise fault(path, f"note {brief(note)} {wrong}")
    return entries


def _wrong(note: str, entry: object) -> str | None:
    """What is wrong with an entry, which its note's name tells: `<family>_<source>_<instrument>-<pitch>-<velocity>`."""
    name = NOTE.fullmatch(note)
    if name is None:
        return "is no name of a note: <family>_<source>_<instrument>-<pitch>-<velocity>"
    if not isinstance(entry, dict):
        return f"has the entry {brief(entry)}; it should be an object"
    family, pitch = name["family"], int(name["pitch"])
    told = {"pitch": pitch, "instrument_family_str": family, "instrument_str": name["instrument"]}
    may = {"note_str": note, "velocity": int(name["velocity"]), "instrument_family": FAMILIES.index(family)}
    for key, value in {**told, **{key: value for key, value in may.items() if key in entry}}.items():
        if key not in entry:
            return f"has no {key}"
        if entry[key] != value or type(entry[key]) is not type(value):
            return f"has the {key} {brief(entry[key])}; its name says {brief(value)}"
    if not LOWEST <= pitch <= HIGHEST:
        return f"has the pitch {pitch}; pitches run from {LOWEST} to {HIGHEST}"
    return None


def clips(root: Path | None, label: Callable[[dict[str, Any]], str]) -> Iterator[Clip]:
    """Every note with the label that is made of its entry; notes of one instrument are a group."""
    seen: dict[str, str] = {}
    for split in COUNTS:
        for note, entry in notes(root, split).items():
            if (first := seen.setdefault(note, split)) != split:
                files = [f"nsynth-{each}/examples.json" for each in (first, split)]
                raise DataError(f"note '{note}' is in two splits, {' and '.join(files)} of {root}")
            yield Clip(note, split, f"nsynth-{split}/audio/{note}.wav", label(entry), group=entry["instrument_str"])


# The miniature: instruments per family and split, and the pitches each of them plays.
INSTRUMENTS = {"train": 3, "valid": 1, "test": 1}
PITCHES = (33, 40, 45, 52, 57, 64, 69, 76)
PLUCKED_S = {"bass": 0.5, "guitar": 0.6, "keyboard": 0.9, "mallet": 0.25}  # families that die away, with what speed
TIMBRES = {
    "bass": "bass", "brass": "brass", "flute": "flute", "guitar": "guitar", "keyboard": "piano", "mallet": "flute",
    "organ": "organ", "reed": "reed", "string": "string", "synth_lead": "brass", "vocal": "voice",
}  # fmt: skip


def compose(family: str, instrument: int, pitch: int) -> Any:
    """A note of the miniature, `(samples,)`: the family's harmonics bent by the instrument, which test has never met."""
    import numpy as np

    from marble_bench.audio import synth

    bend = np.random.default_rng([FAMILIES.index(family), instrument])
    harmonics = [level * (0.4 + 1.2 * bend.random()) for level in synth.TIMBRES[TIMBRES[family]]]
    attack_s, air = 0.005 + 0.08 * bend.random(), 0.01 + 0.05 * bend.random()
    fall_s = PLUCKED_S.get(family, 0.0) * (0.6 + 0.8 * bend.random())
    hz: Any = synth.hertz(pitch)
    if family in ("vocal", "string", "synth_lead"):
        hz = synth.vibrato(hz, 3.0, RATE_HZ, 4.5 + 2 * bend.random(), 0.004 + 0.02 * bend.random())
    sound = synth.shaped(synth.tone(hz, 3.0, RATE_HZ, harmonics), RATE_HZ, attack_s, 0.2, fall_s)
    if family == "synth_lead":
        sound = synth.distorted(sound, 2.0)
    breath = np.random.default_rng([FAMILIES.index(family), instrument, pitch])
    out = np.zeros(4 * RATE_HZ)
    synth.place(out, sound, 0.0, RATE_HZ)
    synth.place(out, synth.shaped(synth.noise(3.0, RATE_HZ, breath), RATE_HZ, attack_s, 0.2), 0.0, RATE_HZ, air)
    return out


def mini(folder: Path) -> None:
    """Notes of every family and split, synthesised; as in the corpus, test has no synth_lead and its own instruments."""
    from marble_bench.audio import synth

    number = 0
    for split, count in INSTRUMENTS.items():
        entries = {}
        for family in FAMILIES:
            if split == "test" and family == "synth_lead":
                continue
            for _ in range(count):
                number += 1
                for pitch in PITCHES if split == "train" else PITCHES[number % 2 :: 2]:
                    name = f"{family}_synthetic_{number:03}-{pitch:03}-100"
                    sound = compose(family, number, pitch)
                    synth.write(folder / f"nsynth-{split}" / "audio" / f"{name}.wav", sound, RATE_HZ)
                    entries[name] = {
                        "note_str": name,
                        "instrument": number,
                        "instrument_str": f"{family}_synthetic_{number:03}",
                        "instrument_family": FAMILIES.index(family),
                        "instrument_family_str": family,
                        "instrument_source_str": "synthetic",
                        "pitch": pitch,
                        "velocity": 100,
                        "sample_rate": RATE_HZ,
                    }
        (folder / f"nsynth-{split}" / "examples.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")


NSYNTH = Corpus(
    name="nsynth",
    title="NSynth",
    home=HOME,
    license="CC-BY-4.0",
    citation="J. Engel et al., Neural audio synthesis of musical notes with WaveNet autoencoders, ICML 2017",
    layout="nsynth-<split>/examples.json and nsynth-<split>/audio/<note>.wav",
    mini=mini,
    sample_rate_hz=RATE_HZ,
    sources=(
        *(
            Source(
                url=f"https://storage.googleapis.com/{BUCKET}/datasets/nsynth/nsynth-{split}.jsonwav.tar.gz",
                unpack=True,
            )
            for split in COUNTS
        ),
        Source(url="hf:jg583/NSynth", status="unread", note="a copy as Parquet files, which are not read"),
    ),
)

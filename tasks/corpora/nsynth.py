"""NSynth: 305,979 single notes of 4 s, 16 kHz, mono, each a pitch of one of 1,006 instruments of eleven families.

On disk `nsynth-<split>/examples.json` (one entry a note) and `nsynth-<split>/audio/<note>.wav`, as the makers' jsonwav
archives unpack. The official split keeps the training instruments apart from those of valid and test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from marble_bench.errors import DataError
from marble_bench.source import Source
from marble_bench.task import Clip, Corpus

FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"
)  # fmt: skip
LOWEST, HIGHEST = 9, 120  # MIDI pitches that occur in the corpus
BUCKET = "download.magenta.tensorflow.org"  # the makers' own, which its name reaches without https only
RATE_HZ = 16000
COUNTS = {"train": 289205, "valid": 12678, "test": 4096}
HOME = "https://magenta.tensorflow.org/datasets/nsynth"


def notes(root: Path | None, split: str) -> dict[str, dict[str, Any]]:
    """The entries of a split's `examples.json` by note. Raises DataError if it is not there or cannot be read."""
    if root is None:
        raise DataError("NSynth's labels are in its own examples.json files: give --data-dir DIR")
    path = root / f"nsynth-{split}" / "examples.json"
    try:
        entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); it is part of nsynth-{split}.jsonwav.tar.gz"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); get it again") from error
    return entries


def clips(root: Path | None, label: Callable[[dict[str, Any]], str]) -> Iterator[Clip]:
    """Every note with the label that is made of its entry; notes of one instrument are a group."""
    for split in COUNTS:
        for note, entry in notes(root, split).items():
            try:
                target, instrument = label(entry), entry["instrument_str"]
            except KeyError as error:
                raise DataError(f"nsynth-{split}/examples.json: note '{note}' has no {error}") from error
            yield Clip(note, split, f"nsynth-{split}/audio/{note}.wav", target, group=instrument)


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

    from marble_bench import synth

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
    from marble_bench import synth

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
        Source(url="hf:jg583/NSynth", mirror="hub", note="a mirror of the three archives"),
    ),
)

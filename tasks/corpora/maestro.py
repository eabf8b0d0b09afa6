"""MAESTRO 3.0.0: 1,276 performances of piano music, 199 hours, 44,100 or 48,000 Hz, with the MIDI that the piano recorded.

On disk `maestro-v3.0.0.csv` and `<year>/<name>.wav` and `.midi`, in the folder or in `maestro-v3.0.0` below it, as the zip
unpacks. The table says the split, 962/137/177, which has no composition in two parts. Performances of one composition, by
composer and title, are a group; titles are as the makers write them, so some compositions have several.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError, listing
from marble_bench.files.tables import read_table

from .midi import DOWN, SUSTAIN, read_notes

if TYPE_CHECKING:
    import mido

FOLDER, TABLE = "maestro-v3.0.0", "maestro-v3.0.0.csv"
COLUMNS = (
    *("canonical_composer", "canonical_title", "split", "year"),
    *("midi_filename", "audio_filename", "duration"),
)
SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def locate(root: Path, name: str) -> Path | None:
    """A file of the corpus, in the folder or in that of the zip."""
    return next((path for path in (root / name, root / FOLDER / name) if path.is_file()), None)


def clips(root: Path | None) -> Iterator[Clip]:
    """Every performance with its notes. Raises DataError naming every bad or missing MIDI file."""
    if root is None:
        raise DataError("the notes are in the corpus alone: give --data-dir DIR with its MIDI files")
    table = locate(root, TABLE)
    if table is None:
        raise DataError(f"no {TABLE} in {root}: it should hold {MAESTRO.layout}")
    made, bad = [], []
    for row in read_table(table, columns=COLUMNS, unique=("midi_filename", "audio_filename")):
        if row["split"] not in SPLITS:
            raise row.fault(f"split is {row['split']!r}; it is one of {', '.join(SPLITS)}")
        path = locate(root, row["midi_filename"])
        try:
            if path is None:
                raise DataError(f"{root / row['midi_filename']} is not there")
            notes = read_notes(path)
        except DataError as error:
            bad.append(str(error))
            continue
        audio, group = row["audio_filename"], f"{row['canonical_composer']}: {row['canonical_title']}"
        made.append(Clip(audio.rpartition(".")[0], SPLITS[row["split"]], audio, (notes, notes), group=group))
    if bad:
        raise DataError(f"{len(bad)} MIDI files cannot be used: {listing(bad)}")
    yield from made


MINI_PIECES = {"train": 6, "validation": 2, "test": 4}
MINI_TIMBRES = {"train": ("piano", "bass"), "validation": ("piano", "bass"), "test": ("guitar",)}
MINI_S, MINI_RATE_HZ, MINI_TICKS = 12.0, 16000, 960  # ticks a second
REGISTERS = ((45, 56), (59, 70), (73, 84))


def play(random: Any) -> mido.MidiFile:
    """A random piece for three voices, in two tracks as MAESTRO has it, with the pedal down now and then."""
    import mido

    events: list[tuple[int, str, int, int]] = []
    for low, high in REGISTERS:
        at_s = 0.1 + 0.5 * random.random()
        while at_s < MINI_S - 1.2:
            length_s, pitch = 0.3 + 0.6 * random.random(), int(random.integers(low, high + 1))
            first, last = round(at_s * MINI_TICKS), round((at_s + length_s) * MINI_TICKS)
            events += [(first, "note_on", pitch, int(random.integers(60, 100))), (last, "note_on", pitch, 0)]
            at_s += length_s + (0.03 if random.random() < 0.6 else 0.5 * random.random())
    for at_s in (3.0 + random.random(), 7.0 + random.random()):
        first, last = round(at_s * MINI_TICKS), round((at_s + 0.7) * MINI_TICKS)
        events += [(first, "control_change", SUSTAIN, DOWN + 20), (last, "control_change", SUSTAIN, DOWN - 40)]
    tempo, track, before = mido.MidiTrack(), mido.MidiTrack(), 0
    tempo.append(mido.MetaMessage("set_tempo", tempo=500_000, time=0))
    for ticks, kind, which, value in sorted(events):
        fields = {"note": which, "velocity": value} if kind == "note_on" else {"control": which, "value": value}
        track.append(mido.Message(kind, time=ticks - before, **fields))
        before = ticks
    file = mido.MidiFile(type=1, ticks_per_beat=MINI_TICKS // 2)
    file.tracks.extend([tempo, track])
    return file


def mini(folder: Path) -> None:
    """Some pieces of every split: struck tones that fade, for as long as the file's notes sound; test has another timbre."""
    import numpy as np

    from marble_bench.audio import synth

    lines = [",".join(COLUMNS)]
    (folder / "2026").mkdir(parents=True)
    for place, (split, count) in enumerate(MINI_PIECES.items()):
        for number in range(count):
            random, name = np.random.default_rng([place, number, 88]), f"2026/mini_{split}_{number}"
            play(random).save(folder / f"{name}.midi")
            timbre, sound = str(random.choice(MINI_TIMBRES[split])), np.zeros(round(MINI_S * MINI_RATE_HZ))
            for start_s, end_s, pitch in read_notes(folder / f"{name}.midi"):
                tone = synth.note(int(pitch), end_s - start_s, MINI_RATE_HZ, timbre, fall_s=1.0, attack_s=0.004)
                synth.place(sound, tone, start_s, MINI_RATE_HZ)
            sound += 1e-3 * synth.noise(MINI_S, MINI_RATE_HZ, random)[: len(sound)]
            synth.write(folder / f"{name}.wav", sound, MINI_RATE_HZ)
            lines.append(f"Nobody,{name[5:]},{split},2026,{name}.midi,{name}.wav,{MINI_S}")
    (folder / TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")


MAESTRO = Corpus(
    name="maestro",
    title="MAESTRO",
    home="https://magenta.tensorflow.org/datasets/maestro",
    license="CC-BY-NC-SA-4.0",
    citation="C. Hawthorne et al., Enabling factorized piano music modeling and generation with the MAESTRO dataset, ICLR "
    "2019; version 3.0.0",
    layout=f"{TABLE}, <year>/<name>.wav and <year>/<name>.midi, from {FOLDER}.zip",
    mini=mini,
    locate=locate,
    sources=(
        Source(
            url="https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0.zip",
            unpack=True,
            sha256="6680fea5be2339ea15091a249fbd70e49551246ddbd5ca50f1b2352c08c95291",
            note="101 GB; the digest is that of the makers' page",
        ),
    ),
)

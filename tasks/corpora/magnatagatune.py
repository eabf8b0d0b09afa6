"""MagnaTagATune: 25,863 clips of 29 s, 16 kHz, mono, 32 kbit/s mp3, with 188 tags that players of a game agreed on.

On disk `annotations_final.csv` (tab-separated: clip_id, 188 columns of 0 and 1, mp3_path) and `mp3/<0-9a-f>/<name>.mp3`
(the folders are found without `mp3/` too). The split goes by those sixteen folders: 0 to b train, c valid, d to f test. No
song crosses it; 56 of the 230 artists do.

The 50 tags with the most clips are used, none merged with its synonyms. Clips that carry none of them stay in, as in
JukeMIR and MARBLE; many papers drop them and their numbers (21,108 clips) are not comparable.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Fault, Source
from marble_bench.errors import DataError
from marble_bench.files.tables import brief, read_table

ANNOTATIONS = "annotations_final.csv"
RATE_HZ = 16000
PATH = re.compile(r'[0-9a-f]/[^/\\"\t]{1,250}\.mp3')  # below mp3/
COUNTS = {"train": 18709, "valid": 1825, "test": 5329}
# In the order of JukeMIR and MARBLE's v2: by falling count.
TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient", "beat",
    "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals", "harpsichord", "loud",
    "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice",
    "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice", "weird", "country", "metal",
    "female voice", "choral",
)  # fmt: skip
EMPTY = (
    "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
    "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
)


def split_of(mp3_path: str) -> str:
    """The split of a clip by its folder.

    >>> [split_of(f"{folder}/x.mp3") for folder in "0bcdf"]
    ['train', 'train', 'valid', 'test', 'test']
    """
    return "train" if mp3_path[0] in "0123456789ab" else "valid" if mp3_path[0] == "c" else "test"


def song_of(mp3_path: str) -> str:
    """The song that a clip was cut from: its file name without the two times at its end.

    >>> song_of("f/american_bach_soloists-j_s__bach-01-sinfonia-0-29.mp3")
    'american_bach_soloists-j_s__bach-01-sinfonia'
    """
    return Path(mp3_path).stem.rsplit("-", 2)[0]


def clips(root: Path | None) -> Iterator[Clip]:
    """Every annotated clip with its tags; clips of one song are a group. DataError if the annotations are not whole."""
    if root is None:
        raise DataError(f"MagnaTagATune's tags are in its own {ANNOTATIONS}: give --data-dir DIR")
    path = root / ANNOTATIONS
    if not path.is_file():
        raise DataError(
            f"no {path}; it is to be had where the audio is, https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset"
        )
    ids = ("clip_id", "mp3_path")
    for row in read_table(path, columns=(*TAGS, *ids), delimiter="\t", unique=ids):
        clip, mp3 = row["clip_id"], row["mp3_path"]
        if not clip.isascii() or not clip.isdigit():
            raise row.fault(f"the clip_id is {brief(clip)}, which is no number of a clip")
        if not PATH.fullmatch(mp3):
            raise row.fault(f"clip {clip} has the path {brief(mp3)}, which no split has")
        cells = list(row.cells.values())
        if cells.count("0") + cells.count("1") != len(cells) - 2 + (clip in ("0", "1")):
            tag, cell = next(
                (tag, cell) for tag, cell in row.cells.items() if cell not in ("0", "1") and tag not in ids
            )
            raise row.fault(f"clip {clip} has {brief(cell)} for {brief(tag)}; a cell is 0 or 1")
        tags = tuple(tag for tag in TAGS if row[tag] == "1")
        yield Clip(clip, split_of(mp3), f"mp3/{mp3}", tags, group=song_of(mp3))


def locate(root: Path, audio: str) -> Path | None:
    """A clip's file, below `mp3/` or beside the annotations. The three known empty ones are found, and then told."""
    for path in (root / audio, root / audio.removeprefix("mp3/")):
        if path.is_file():
            return path
    return None


# What is heard in the miniature: (tags, how it sounds). A clip is one scene and perhaps a voice.
SCENES: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("guitar", "country", "solo"), {"timbre": "guitar", "fall_s": 0.4, "bpm": 100}),
    (
        ("guitar", "rock", "metal", "loud", "drums", "fast"),
        {"timbre": "guitar", "drive": 5.0, "drums": True, "bpm": 160},
    ),
    (("classical", "classic", "strings", "violin", "quiet"), {"timbre": "string", "register": 69, "bpm": 70}),
    (("classical", "strings", "cello", "slow", "soft"), {"timbre": "string", "register": 43, "bpm": 50}),
    (("classical", "classic", "harpsichord", "fast"), {"timbre": "reed", "fall_s": 0.2, "bpm": 170, "register": 64}),
    (("piano", "solo", "quiet", "slow", "soft"), {"timbre": "piano", "fall_s": 1.0, "bpm": 60}),
    (("flute", "new age", "soft"), {"timbre": "flute", "register": 76, "bpm": 70}),
    (("harp", "quiet"), {"timbre": "piano", "fall_s": 0.6, "register": 72, "bpm": 110}),
    (("sitar", "indian"), {"timbre": "brass", "fall_s": 0.5, "bpm": 90, "mode": "minor"}),
    (
        ("techno", "electronic", "synth", "beat", "beats", "dance", "fast", "drums"),
        {"timbre": "brass", "drums": True, "bpm": 135},
    ),
    (("electronic", "ambient", "synth", "slow", "weird"), {"timbre": "organ", "register": 48, "bpm": 40, "air": 0.2}),
    (("pop", "drums", "beat", "loud"), {"timbre": "piano", "drums": True, "bpm": 115}),
)
VOICES: tuple[tuple[tuple[str, ...], int], ...] = (
    (("no vocals", "no vocal", "no voice"), 0),
    (("vocal", "vocals", "singing", "voice", "female", "woman", "female vocal", "female voice"), 69),
    (("vocal", "vocals", "singing", "voice", "male", "man", "male vocal", "male voice"), 48),
    (("opera", "female", "choir", "choral"), 76),
)
MINI_CLIPS = {"train": 96, "valid": 48, "test": 48}
MINI_S = 3.2


def compose(number: int) -> tuple[Any, tuple[str, ...]]:
    """A clip of the miniature, `(samples,)`, and its tags. As players do, a tag is sometimes forgotten."""
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([number, 25863])
    tags, facts = SCENES[number % len(SCENES)]
    voice_tags, voice = VOICES[number // len(SCENES) % len(VOICES)]
    beat_s = 60 / (facts["bpm"] * (0.9 + 0.2 * random.random()))
    tonic = facts.get("register", 57) + int(random.integers(-4, 5))
    mix = np.zeros(round(MINI_S * RATE_HZ))
    for beat in range(int(MINI_S / beat_s) + 1):
        pitches = synth.triad(tonic, facts.get("mode", "major"), (0, 3, 4, 0)[beat // 2 % 4])
        chord = synth.chord(pitches, beat_s, RATE_HZ, facts["timbre"], facts.get("fall_s", 0.0))
        synth.place(mix, chord, beat * beat_s, RATE_HZ, 0.6)
    if "drive" in facts:
        mix = synth.distorted(mix, facts["drive"])
    if "drums" in facts:
        for beat in range(int(MINI_S / beat_s) + 1):
            hit = synth.kick(RATE_HZ) if beat % 2 == 0 else synth.snare(RATE_HZ, random)
            synth.place(mix, hit, beat * beat_s, RATE_HZ, 0.6)
            synth.place(mix, synth.hihat(RATE_HZ, random), (beat + 0.5) * beat_s, RATE_HZ, 0.3)
    if voice:
        for step in range(4):
            hz = synth.vibrato(synth.hertz(voice + (0, 2, 4, 2)[step]), 0.7, RATE_HZ, 5.5, 0.015)
            sung = synth.shaped(synth.tone(hz, 0.7, RATE_HZ, synth.TIMBRES["voice"]), RATE_HZ, 0.05, 0.1)
            synth.place(mix, sung, 0.8 * step, RATE_HZ, 0.5)
    mix += (facts.get("air", 0.0) + 0.01) * synth.noise(MINI_S, RATE_HZ, random, smooth=3)[: len(mix)]
    kept = {tag for tag in (*tags, *voice_tags) if random.random() > 0.12}
    return mix, tuple(tag for tag in TAGS if tag in kept)


def mini(folder: Path) -> None:
    """Synthesised clips in folders of every split, their tags in the official table, and one empty file as in the corpus."""
    from concurrent.futures import ThreadPoolExecutor

    from marble_bench.audio import synth

    places = {"train": "0123456789ab", "valid": "c", "test": "def"}
    chosen = [(split, index) for split, count in MINI_CLIPS.items() for index in range(count)]

    def make(number: int) -> tuple[str, ...]:
        split, index = chosen[number]
        sound, tags = compose(number)
        home = places[split][index % len(places[split])]
        path = f"{home}/miniature-{split}-{index:02}-song_{number}-0-29.mp3"
        synth.write(folder / "mp3" / path, sound, RATE_HZ, 0.9 if "loud" in tags else 0.3)
        return (str(number), *("1" if tag in tags else "0" for tag in TAGS), path)

    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(make, range(len(chosen))))
    (folder / "mp3" / EMPTY[0]).parent.mkdir(exist_ok=True)
    (folder / "mp3" / EMPTY[0]).touch()
    rows.append(("35644", *("0" for _ in TAGS), EMPTY[0]))
    with (folder / ANNOTATIONS).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("clip_id", *TAGS, "mp3_path"), *rows])


MAGNATAGATUNE = Corpus(
    name="magnatagatune",
    title="MagnaTagATune",
    home="https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
    license="CC-BY-NC-SA-3.0",
    citation="E. Law, K. West, M. Mandel, M. Bay and J. S. Downie, Evaluation of algorithms using games: the case of "
    "music tagging, ISMIR 2009",
    layout=f"{ANNOTATIONS} and mp3/<0-9a-f>/<name>.mp3",
    mini=mini,
    locate=locate,
    sample_rate_hz=RATE_HZ,
    sources=(
        *(
            Source(
                url=f"https://mirg.city.ac.uk/datasets/magnatagatune/mp3.zip.00{part}", unpack=True, joined="mp3.zip"
            )
            for part in (1, 2, 3)
        ),
        Source(url=f"https://mirg.city.ac.uk/datasets/magnatagatune/{ANNOTATIONS}"),
        Source(url="hf:m-a-p/MTT", mirror="hub", note="the audio, by MARBLE"),
        Source(
            url=f"https://mirg.city.ac.uk/datasets/magnatagatune/{ANNOTATIONS}",
            mirror="hub",
            note="the makers' own tags",
        ),
    ),
    faults=tuple(Fault(f"mp3/{path}", "0 bytes in every copy; MARBLE and JukeMIR leave it out too") for path in EMPTY),
)

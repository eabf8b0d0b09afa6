"""The Harmonix set: 912 songs of Western pop with their segments, each with the label that an annotator gave it.

The makers publish the annotations (https://github.com/urinieto/harmonixset, commit e35da7a, MIT) and no audio. Here
`segments/<id>.txt` is read, in the folder or in the `dataset/` of a copy of their repository. A line is a time in
seconds and the label of the segment that begins there; the last label is `end`. The audio is yours, `audio/<id>.mp3` or
another format.

Labels become seven functions by algorithm 1 of J.-C. Wang, Y.-N. Hung and J. B. L. Smith, To catch a chorus, verse,
intro, or anything else: analyzing a song with structural functions, ICASSP 2022 (arXiv:2205.14700): the first of an
ordered list of texts that the label contains decides, and a label that contains none is `inst`. So `prechorus` is a
verse and `postchorus` a chorus.

Split: fold 0 of the eight of T. Kim and J. Nam, All-in-one metrical and functional structure analysis with neighborhood
attentions on demixed audio, WASPAA 2023. They publish the rule as code (mir-aidj/all-in-one, MIT), no list: song k of
the sorted ids is in fold k mod 8; fold 0 is for test, 1 for validation, the rest for training. The rule does not keep
artists apart: of the 114 test songs, 60 are by an artist of a training song.

Known faults: four files have a second `end`; what lies between the two has no label. Two files have no `end`: their
last line is taken for it. Copies of the songs differ from those that were annotated; the makers give a score of
alignment for a copy of each song on YouTube, below 0.9 for 38 of them (`dataset/youtube_alignment_scores.csv`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError, listing
from marble_bench.files.tables import brief, fault, read_lines
from marble_bench.metrics.structure import FUNCTIONS, LABELS_HZ

from . import split_rows

# Wang et al.'s list: a label has the function of the first text that it contains.
RULES = (
    ("silence", "silence"),
    *((text, "verse") for text in ("pre-chorus", "prechorus")),
    *((text, "chorus") for text in ("refrain", "chorus", "theme", "stutter")),
    *((text, "verse") for text in ("verse", "rap", "section", "slow", "build", "dialog")),
    *((text, "intro") for text in ("intro", "fadein", "opening")),
    *((text, "bridge") for text in ("bridge", "trans")),
    *((text, "outro") for text in ("out", "coda", "ending")),
    *((text, "inst") for text in ("break", "inst", "interlude", "impro", "solo")),
)
FALLBACK, END = "inst", "end"
WITHOUT_END = ("0539_youandi", "0603_breaktheicejasonnevinsmix")
ANNOTATIONS = ("segments", "dataset/segments", "*/dataset/segments")  # the last: the makers' archive, unpacked
AUDIO = ("audio", "tracks", ".")
SUFFIXES = (".mp3", ".wav", ".flac", ".ogg")
NUMBER = re.compile(r"\d{1,5}(\.\d{1,20})?")


def tracks() -> list[dict[str, str]]:
    """The songs: rows of `track` (`0001_12step`) and `split`."""
    return split_rows("harmonix.csv", "7b7b7af166bc2a2fdce8d584a8a8aec7c900fbf79a1dcbf82621436d7f7f87df")


def find_function(label: str) -> str:
    """The function of a segment by its label.

    >>> [find_function(label) for label in ("PreChorus2", "postchorus", "guitarsolo", "gtr")]
    ['verse', 'chorus', 'inst', 'inst']
    """
    return next((function for text, function in RULES if text in label.lower()), FALLBACK)


def read_segments(path: Path) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Boundaries in seconds, ascending, and the label of each segment between them.

    Raises DataError naming the file and line where a line is no time and label, times do not ascend, `end` is missing or
    something else follows it, or nothing is annotated.
    """
    rows: list[tuple[float, str]] = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not NUMBER.fullmatch(fields[0]):
            raise fault(path, f"is {brief(line)}; a line is a time in seconds and a label: get the file again", number)
        time, label = float(fields[0]), fields[1]
        if rows and time <= rows[-1][0]:
            raise fault(
                path, f"{brief(label)} begins at {time:g} s, not behind {rows[-1][0]:g} s: sort the lines", number
            )
        if rows and rows[-1][1] == END != label:
            raise fault(path, f"{brief(label)} comes behind the end: remove the line, or the 'end' before it", number)
        rows.append((time, label))
    closed = [(time, label) for time, label in rows if label != END]
    ends = [time for time, label in rows if label == END]
    if not ends and path.stem in WITHOUT_END:
        ends, closed = [closed[-1][0]], closed[:-1]
    if not ends or not closed:
        raise fault(path, f"has {len(closed)} segments and {len(ends)} 'end'; it is not whole: get it again")
    return (*(time for time, _ in closed), ends[0]), tuple(label for _, label in closed)


def make_target(boundaries: Sequence[float], labels: Sequence[str]) -> tuple[Any, Any, Any]:
    """A song's annotations: the function in the middle of each frame of 1 / LABELS_HZ s, None before the first boundary;
    the boundaries in seconds; the segments as (start_s, end_s, function)."""
    segments = tuple(
        (start, end, find_function(label)) for (start, end), label in zip(pairwise(boundaries), labels, strict=True)
    )
    frames: list[str | None] = [None] * math.ceil(boundaries[-1] * LABELS_HZ - 0.5)
    for start, end, function in segments:
        for k in range(math.ceil(start * LABELS_HZ - 0.5), math.ceil(end * LABELS_HZ - 0.5)):
            frames[k] = function
    return tuple(frames), tuple(boundaries), segments


def locate(root: Path, audio: str) -> Path | None:
    """A song's file in any of the folders and formats that are read."""
    name = Path(audio)
    places = (root / folder / name.with_suffix(suffix).name for folder in AUDIO for suffix in SUFFIXES)
    return next((path for path in places if path.is_file()), None)


def clips(root: Path | None) -> Iterator[Clip]:
    """Every annotated song, with its functions and boundaries. Raises DataError naming every bad file."""
    if root is None:
        raise DataError("the segments are in the corpus alone: give --data-dir DIR with its annotations")
    folder = next((path for pattern in ANNOTATIONS for path in sorted(root.glob(pattern)) if path.is_dir()), None)
    if folder is None:
        raise DataError(f"no segments in {root}: it should hold {HARMONIX.layout} (bench data get harmonix)")
    made, bad = [], []
    for row in tracks():
        path = folder / f"{row['track']}.txt"
        if not path.is_file():
            continue
        try:
            target = make_target(*read_segments(path))
        except DataError as error:
            bad.append(str(error))
            continue
        made.append(Clip(row["track"], row["split"], f"audio/{row['track']}.mp3", target))
    if bad:
        raise DataError(f"{len(bad)} annotation files cannot be used: {listing(bad)}")
    yield from made


# How the miniature's functions sound: which of four layers play. They are told apart in any timbre.
LAYERS = {
    "intro": ("hats",),
    "verse": ("bass", "pad"),
    "chorus": ("bass", "pad", "lead", "hats"),
    "bridge": ("pad", "lead"),
    "inst": ("bass", "lead", "hats"),
    "outro": ("pad",),
    "silence": (),
}
SPELT = {  # as annotators write them
    "intro": ("intro", "fadein"),
    "verse": ("verse", "prechorus2"),
    "chorus": ("chorus", "postchorus"),
    "bridge": ("bridge", "transition"),
    "inst": ("solo", "gtr"),
    "outro": ("outro", "bigoutro"),
    "silence": ("silence",),
}
PADS = {"train": ("organ", "string", "guitar"), "valid": ("piano",), "test": ("flute", "bass")}
LEADS = {"train": ("flute", "piano"), "valid": ("reed",), "test": ("string", "guitar")}
MINI_CLIPS = {"train": 8, "valid": 4, "test": 6}
MINI_RATE_HZ = 16000
PARTS = 5  # of a song
PART_S = (6.5, 11.0)  # more than the 6 s that two boundaries must lie apart to be found
TAIL_S = 0.5  # behind the end


def draw_form(random: Any) -> tuple[list[float], list[str]]:
    """The boundaries of a song of the miniature in seconds, and its functions: all orders are equally likely, but for one
    function twice in a row."""
    lengths = [round(float(length), 3) for length in random.uniform(*PART_S, PARTS)]
    functions: list[str] = []
    while len(functions) < PARTS:
        drawn = FUNCTIONS[int(random.integers(len(FUNCTIONS)))]
        if not functions or functions[-1] != drawn:
            functions.append(drawn)
    return [round(sum(lengths[:place]), 3) for place in range(PARTS + 1)], functions


def play(function: str, length_s: float, pad: str, lead: str, tonic: int, random: Any) -> Any:
    """One part of a song of the miniature: `(samples,)` at MINI_RATE_HZ."""
    import numpy as np

    from marble_bench.audio import synth

    rate, layers = MINI_RATE_HZ, LAYERS[function]
    mix = synth.noise(length_s, rate, random)[: round(length_s * rate)] * 0.002
    beat_s = float(random.uniform(0.4, 0.6))
    for beat, at_s in enumerate(np.arange(0, length_s, beat_s).tolist()):
        left_s = min(beat_s, length_s - at_s)
        chord = synth.triad(tonic, "major", (0, 3, 4, 5)[beat // 4 % 4])
        if "bass" in layers:
            low = synth.shaped(synth.tone(synth.hertz(chord[0] - 24), left_s, rate), rate)
            synth.place(mix, low, at_s, rate, 0.5)
        if "pad" in layers:
            synth.place(mix, synth.chord(chord, left_s, rate, pad), at_s, rate, 0.5)
        if "lead" in layers:
            pitch = chord[int(random.integers(3))] + 36
            synth.place(mix, synth.note(pitch, left_s, rate, lead), at_s, rate, 0.4)
        if "hats" in layers:
            for step in (0, 1):
                hat = synth.hihat(rate, random)[: round(left_s / 2 * rate)]
                synth.place(mix, hat, at_s + step * beat_s / 2, rate, 0.6)
    return mix[: round(length_s * rate)]


def compose(track: str, split: str) -> tuple[Any, list[float], list[str]]:
    """The miniature's song of an id: `(samples,)` at MINI_RATE_HZ, its boundaries in seconds and its functions."""
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([ord(letter) for letter in track])
    boundaries, functions = draw_form(random)
    pad, lead = str(random.choice(PADS[split])), str(random.choice(LEADS[split]))
    tonic = int(random.integers(48, 56))
    mix = synth.noise(boundaries[-1] + TAIL_S, MINI_RATE_HZ, random) * 0.002
    for (start, end), function in zip(pairwise(boundaries), functions, strict=True):
        part = play(function, end - start, pad, lead, tonic, random)
        at = round(start * MINI_RATE_HZ)
        mix[at : at + len(part)] = part
    return mix, boundaries, functions


def mini(folder: Path) -> None:
    """Songs of all functions in random order, in the layout of the makers' repository; pads and leads of the test songs are
    heard in no training song."""
    import numpy as np

    from marble_bench.audio import synth

    (folder / "segments").mkdir()
    left = dict(MINI_CLIPS)
    for row in tracks():
        if left[row["split"]]:
            left[row["split"]] -= 1
            sound, boundaries, functions = compose(row["track"], row["split"])
            synth.write(folder / "audio" / f"{row['track']}.wav", sound, MINI_RATE_HZ)
            spelling = np.random.default_rng(len(sound))
            labels = [*(str(spelling.choice(SPELT[function])) for function in functions), END]
            lines = [f"{time:.6f} {label}" for time, label in zip(boundaries, labels, strict=True)]
            (folder / "segments" / f"{row['track']}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


HARMONIX = Corpus(
    name="harmonix",
    title="Harmonix set",
    home="https://github.com/urinieto/harmonixset",
    license="annotations: MIT; audio: not published",
    citation="O. Nieto, M. McCallum, M. E. P. Davies, A. Robertson, A. Stark and E. Egozy, The Harmonix set: beats, "
    "downbeats, and functional segment annotations of Western popular music, ISMIR 2019; functions: J.-C. Wang, Y.-N. Hung "
    "and J. B. L. Smith, ICASSP 2022; split: T. Kim and J. Nam, WASPAA 2023",
    layout="segments/<id>.txt (or the makers' dataset/segments/) and audio/<id>.mp3 (or .wav, .flac, .ogg; or tracks/)",
    mini=mini,
    locate=locate,
    sources=(
        Source(
            url="https://github.com/urinieto/harmonixset/archive/e35da7accdf6155c87640160ddf9199da6d10493.zip",
            unpack=True,
            note="the annotations alone; the audio is not published: put your own copies of the songs into audio/",
        ),
    ),
)

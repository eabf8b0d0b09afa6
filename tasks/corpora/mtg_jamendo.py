"""MTG-Jamendo: 55,000 whole tracks, mp3, Creative Commons, tagged by their artists for genre, instrument, mood and theme.

On disk `audio-low/<NN>/<id>.low.mp3` or `audio/<NN>/<id>.mp3`, as the makers' tars unpack; a folder of `<NN>/` alone and the
`.low.flac` of MARBLE's mirror are found too. Split 0 of five, with no artist in two splits, is the one that published
numbers are of; its twelve lists ship as published. A list on disk is read in a miniature alone.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError
from marble_bench.files.tables import brief, fault, read_lines

from . import SPLIT_LISTS

MAKERS_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
LISTS = "data/splits/split-0"  # in the makers' repository, and in a miniature
HEAD = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
TRACK, ARTIST, ALBUM = (re.compile(rf"{name}_[0-9]{{6,8}}") for name in ("track", "artist", "album"))
AUDIO, SECONDS = re.compile(r"([0-9]{2})/([0-9]{1,8})\.mp3"), re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
MARKER = "MINIATURE.txt"  # what the machinery puts into a miniature's folder
DIGESTS = {  # sha256 of the lists as published, CRLF and all
    "genre-train": "c1cddb195ef94a07e67e227bf38e2a79389c1820950702b8c8894a2096f21e54",
    "genre-validation": "3e203b4c573db6ec63a06c7066cf678dcf673a68ad5694c8fed22637c270dbcf",
    "genre-test": "cf917388eebfa7d17d363c2fca037e2379ac027e31aa6dbe92e8dbf409ac5098",
    "instrument-train": "f844a85f0b40bb31a5d5b448ddfc10a68d7b38ecc760673d23df2bd6e7ca0f4c",
    "instrument-validation": "a5060020013ac5ba65c6470ee83fc2a9785db1fe554b55065de08aa9b0cca70d",
    "instrument-test": "8c1ab86f3212b6484106baf2e78f70dd5520b917607487ac98999adbd5d7ab1a",
    "moodtheme-train": "e5e9e798364b34bd241b773e5011809b24429edf471f27cf21dd8181077ba2d4",
    "moodtheme-validation": "ecaa279367153476884d84d686479e566234cef1814bd6892a8755ba0a550dbf",
    "moodtheme-test": "4341b5586bb3e5a80a882ce9ef33cb8b1bdaa7df856246ecc5de188dfe1cf394",
    "top50tags-train": "6dee445ddd1901286184c2059d3d5eef7486f083ae80de9011705f852a850dde",
    "top50tags-validation": "4f5f0f0a7662f523b45727476f67d799d6e98151b2c585a8e94e19d980ad93c1",
    "top50tags-test": "3ede06a35e6cb27e1dbe8cfc84708a607622e30e5cd0a7199fce6c081124bc35",
}
# Each subset's tags: the sorted set of its training list, which valid and test share.
GENRES = tuple(
    """60s 70s 80s 90s acidjazz alternative alternativerock ambient atmospheric blues bluesrock bossanova breakbeat
    celtic chanson chillout choir classical classicrock club contemporary country dance darkambient darkwave deephouse
    disco downtempo drumnbass dub dubstep easylistening edm electronic electronica electropop ethno eurodance
    experimental folk funk fusion groove grunge hard hardrock hiphop house idm improvisation indie industrial
    instrumentalpop instrumentalrock jazz jazzfusion latin lounge medieval metal minimal newage newwave orchestral pop
    popfolk poprock postrock progressive psychedelic punkrock rap reggae rnb rock rocknroll singersongwriter soul
    soundtrack swing symphonic synthpop techno trance triphop world worldfusion""".split()
)
INSTRUMENTS = tuple(
    """accordion acousticbassguitar acousticguitar bass beat bell bongo brass cello clarinet classicalguitar computer
    doublebass drummachine drums electricguitar electricpiano flute guitar harmonica harp horn keyboard oboe orchestra
    organ pad percussion piano pipeorgan rhodes sampler saxophone strings synthesizer trombone trumpet viola violin
    voice""".split()
)
MOODS_AND_THEMES = tuple(
    """action adventure advertising background ballad calm children christmas commercial cool corporate dark deep
    documentary drama dramatic dream emotional energetic epic fast film fun funny game groovy happy heavy holiday
    hopeful inspiring love meditative melancholic melodic motivational movie nature party positive powerful relaxing
    retro romantic sad sexy slow soft soundscape space sport summer trailer travel upbeat uplifting""".split()
)
TOP50 = tuple(
    """alternative ambient atmospheric chillout classical dance downtempo easylistening electronic experimental folk
    funk hiphop house indie instrumentalpop jazz lounge metal newage orchestral pop popfolk poprock reggae rock
    soundtrack techno trance triphop world acousticguitar bass computer drummachine drums electricguitar electricpiano
    guitar keyboard piano strings synthesizer violin voice emotional energetic film happy relaxing""".split()
)
CATEGORIES = {"genre": GENRES, "instrument": INSTRUMENTS, "mood/theme": MOODS_AND_THEMES}
SUBSETS = {"genre": GENRES, "instrument": INSTRUMENTS, "moodtheme": MOODS_AND_THEMES, "top50tags": TOP50}
# Each subset's tags as the lists write them, with their category.
WRITTEN = {
    subset: frozenset(
        f"{category}---{tag}"
        for category, every in CATEGORIES.items()
        for tag in every
        if tag in names and (names is every or names is TOP50)
    )
    for subset, names in SUBSETS.items()
}


def _lines(subset: str, split: str, root: Path | None) -> tuple[Path, list[str]]:
    """The lines of one of the lists, and where it lies. Raises DataError if a shipped one is not as published."""
    name = f"autotagging_{subset}-{MAKERS_SPLITS[split]}.tsv"
    if root is not None and (root / MARKER).is_file():
        path = root / LISTS / name
        return path, read_lines(path)
    path = SPLIT_LISTS / "mtg-jamendo" / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the split list {path} cannot be read ({error}); install it again") from error
    if hashlib.sha256(content).hexdigest() != DIGESTS[f"{subset}-{MAKERS_SPLITS[split]}"]:
        raise DataError(f"the split list {path} was changed; install it again")
    return path, content.decode("utf-8").splitlines()


def clips(root: Path | None, subset: str) -> Iterator[Clip]:
    """Every track of a subset with its tags, the category (`genre---`) taken off."""
    seen: dict[str, tuple[Path, int]] = {}
    for split in MAKERS_SPLITS:
        path, lines = _lines(subset, split, root)
        if not lines or lines[0] != HEAD:
            raise fault(path, f"the head is {brief(lines[0] if lines else '')}; it should be {brief(HEAD)}", 1)
        for number, line in enumerate(lines[1:], 2):
            clip = _clip(path, number, line.split("\t"), split, subset)
            where, first = seen.setdefault(clip.id, (path, number))
            if (where, first) != (path, number):
                raise fault(path, f"{clip.id} stands in {where.name} line {first} already", number)
            yield clip


def _clip(path: Path, number: int, fields: list[str], split: str, subset: str) -> Clip:
    """The track of one row. Raises DataError with the line of a row that is not as the makers write them."""
    columns = HEAD.split("\t")
    if len(fields) < len(columns):
        raise fault(path, f"has {len(fields)} fields; a row has {len(columns)} or more", number)
    track, artist, album, audio, duration, *tags = fields
    found = AUDIO.fullmatch(audio)
    if not TRACK.fullmatch(track) or not ARTIST.fullmatch(artist) or not ALBUM.fullmatch(album):
        raise fault(path, f"the ids are {brief(fields[:3])}; they should be like track_0000214", number)
    if found is None or int(track[6:]) != int(found[2]) or int(found[2]) % 100 != int(found[1]):
        raise fault(
            path, f"{track} has the path {brief(audio)}; it should be <NN>/<number>.mp3 of its own number", number
        )
    if not SECONDS.fullmatch(duration):
        raise fault(path, f"{track} lasts {brief(duration)}; that is no number of seconds", number)
    names = []
    for tag in tags:
        if tag not in WRITTEN[subset]:
            raise fault(path, f"{track} has the tag {brief(tag)}, which is none of the {subset} list", number)
        names.append(tag.partition("---")[2])
    if len(set(names)) < len(names):
        raise fault(path, f"{track} has a tag twice", number)
    return Clip(track, split, audio, tuple(names))


def locate(root: Path, audio: str) -> Path | None:
    """A track's file: low or full quality, the makers' mp3 or the mirror's flac."""
    low = Path(audio).with_suffix("")
    for home in ("audio-low", "audio", "."):
        for name in (f"{low}.low.mp3", audio, f"{low}.low.flac"):
            path = root / home / name
            if path.is_file():
                return path
    return None


def filtered(name: str) -> str:
    """Why a file of the whole corpus is in no split."""
    if re.fullmatch(r"[0-9]+(\.low)?\.(mp3|flac)", Path(name).name):
        return "a track that no list of split 0 has: it carries none of their tags"
    return ""


# What is heard in the miniature: how a scene sounds, and the tags of every category that are heard in it.
SCENES: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"timbre": "guitar", "drive": 5.0, "bpm": 150, "kicks": 2, "snares": 4, "register": 50},
        """60s 70s 80s 90s alternative alternativerock bluesrock classicrock grunge hard hardrock indie instrumentalrock
        metal poprock postrock punkrock rock rocknroll psychedelic progressive electricguitar guitar drums action
        energetic powerful heavy sport fast trailer""",
    ),
    (
        {"timbre": "brass", "bpm": 128, "kicks": 1, "snares": 0, "register": 57, "fall_s": 0.2},
        """club dance deephouse disco edm electronic electropop eurodance house techno trance breakbeat drumnbass dubstep
        idm minimal drummachine synthesizer beat sampler computer party upbeat summer groovy sexy positive""",
    ),
    (
        {"timbre": "organ", "bpm": 45, "kicks": 0, "snares": 0, "register": 45, "air": 0.08},
        """ambient atmospheric chillout darkambient downtempo electronica experimental improvisation industrial lounge
        newage darkwave pad keyboard electricpiano rhodes background calm deep dream meditative nature relaxing soundscape
        space soft slow dark""",
    ),
    (
        {"timbre": "string", "bpm": 70, "kicks": 0, "snares": 0, "register": 64},
        """classical contemporary orchestral soundtrack symphonic medieval strings orchestra violin viola cello doublebass
        horn harp oboe clarinet documentary drama dramatic epic film movie emotional adventure""",
    ),
    (
        {"timbre": "reed", "bpm": 140, "kicks": 4, "snares": 0, "hats": True, "register": 60, "fall_s": 0.3},
        """jazz jazzfusion acidjazz bossanova blues swing fusion funk soul latin rnb groove saxophone trumpet trombone
        brass flute cool retro""",
    ),
    (
        {"timbre": "guitar", "bpm": 95, "kicks": 0, "snares": 0, "register": 62, "fall_s": 0.4},
        """folk country celtic chanson singersongwriter popfolk world ethno worldfusion acousticguitar classicalguitar
        acousticbassguitar accordion harmonica ballad love romantic hopeful inspiring""",
    ),
    (
        {"timbre": "piano", "bpm": 110, "kicks": 2, "snares": 4, "register": 67, "fall_s": 0.8, "voice": True},
        """pop instrumentalpop synthpop newwave easylistening piano voice organ pipeorgan happy uplifting motivational
        corporate commercial advertising holiday christmas children fun funny""",
    ),
    (
        {"timbre": "bass", "bpm": 85, "kicks": 3, "snares": 4, "hats": True, "register": 40, "fall_s": 0.3},
        """hiphop rap reggae dub triphop choir bell bongo percussion bass sad melancholic melodic game travel""",
    ),
)
MINI_TRACKS = {"train": 6, "valid": 3, "test": 3}  # of each scene
MINI_S = 30.4
RATE_HZ = 16000


def compose(number: int, scene: int) -> Any:
    """A track of the miniature, `(samples,)`: eight bars of the scene, over and over."""
    import numpy as np

    from marble_bench.audio import synth

    facts = SCENES[scene][0]
    random = np.random.default_rng([number, 55000])
    if random.random() < 0.15:  # artists tag loosely: some tracks sound like another scene
        facts = SCENES[int(random.integers(len(SCENES)))][0]
    beat_s = 60 / (facts["bpm"] * (0.85 + 0.3 * random.random()))
    tonic, mode = facts["register"] + int(random.integers(-4, 5)), ("major", "minor")[int(random.integers(2))]
    loop = np.zeros(round(8 * beat_s * RATE_HZ))
    for beat in range(8):
        pitches = synth.triad(tonic, mode, (0, 3, 4, 0)[beat // 2])
        played = synth.chord(pitches, beat_s, RATE_HZ, facts["timbre"], facts.get("fall_s", 0.0))
        synth.place(loop, played, beat * beat_s, RATE_HZ, 0.6)
        if facts["kicks"] and beat % facts["kicks"] == 0:
            synth.place(loop, synth.kick(RATE_HZ), beat * beat_s, RATE_HZ, 0.6)
        if facts["snares"] and beat % facts["snares"] == 2:
            synth.place(loop, synth.snare(RATE_HZ, random), beat * beat_s, RATE_HZ, 0.5)
        if "hats" in facts:
            synth.place(loop, synth.hihat(RATE_HZ, random), (beat + 0.5) * beat_s, RATE_HZ, 0.3)
        if "voice" in facts:
            hz = synth.vibrato(synth.hertz(pitches[beat % 3] + 12), beat_s, RATE_HZ, 5.5, 0.015)
            sung = synth.shaped(synth.tone(hz, beat_s, RATE_HZ, synth.TIMBRES["voice"]), RATE_HZ, 0.05, 0.1)
            synth.place(loop, sung, beat * beat_s, RATE_HZ, 0.4)
    if "drive" in facts:
        loop = synth.distorted(loop, facts["drive"])
    length = round(MINI_S * RATE_HZ)
    looped: Any = np.tile(loop, length // len(loop) + 1)[:length]
    return looped + (0.005 + facts.get("air", 0.0)) * synth.noise(MINI_S, RATE_HZ, random, smooth=3)[:length]


def _tags(number: int, scene: int) -> list[tuple[str, str]]:
    """(category, tag) of a track: about half of its scene's, so that each tag is there and not there in every split."""
    names = SCENES[scene][1].split()
    turn = number // len(SCENES)
    kept = {name for place, name in enumerate(names) if (place + turn) % 2 == 0 or (place + number) % 7 == 0}
    return [(category, name) for category, every in CATEGORIES.items() for name in every if name in kept]


def mini(folder: Path) -> None:
    """Synthesised tracks of every scene and split, and the twelve lists in the makers' form, CRLF and variable columns."""
    from concurrent.futures import ThreadPoolExecutor

    from marble_bench.audio import synth

    scenes = range(len(SCENES))
    chosen = [(split, scene) for split, count in MINI_TRACKS.items() for _ in range(count) for scene in scenes]

    def make(number: int) -> None:
        path = folder / "audio-low" / f"{number % 100:02}" / f"{number}.low.mp3"
        synth.write(path, compose(number, chosen[number][1]), RATE_HZ)

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, range(len(chosen))))
    (folder / LISTS).mkdir(parents=True)
    for subset, vocabulary in SUBSETS.items():
        for split, makers in MAKERS_SPLITS.items():
            lines = [HEAD]
            for number, (of, scene) in enumerate(chosen):
                wanted = (
                    "genre instrument mood/theme"
                    if subset == "top50tags"
                    else subset.replace("moodtheme", "mood/theme")
                )
                tags = [f"{c}---{t}" for c, t in _tags(number, scene) if c in wanted and t in vocabulary]
                if of == split and tags:
                    ids = (f"track_{number:07}", f"artist_{number:06}", f"album_{number:06}")
                    lines.append("\t".join([*ids, f"{number % 100:02}/{number}.mp3", str(MINI_S), *tags]))
            text = "".join(f"{line}\r\n" for line in lines)
            (folder / LISTS / f"autotagging_{subset}-{makers}.tsv").write_bytes(text.encode())


MTG_JAMENDO = Corpus(
    name="mtg-jamendo",
    title="MTG-Jamendo",
    home="https://github.com/MTG/mtg-jamendo-dataset",
    license="audio: Creative Commons, by track; metadata: CC-BY-NC-SA-4.0",
    citation="D. Bogdanov, M. Won, P. Tovstogan, A. Porter and X. Serra, The MTG-Jamendo dataset for automatic music "
    "tagging, ML4MD at ICML 2019",
    layout="audio-low/<NN>/<id>.low.mp3 (or audio/<NN>/<id>.mp3)",
    mini=mini,
    locate=locate,
    filtered=filtered,
    sources=(
        Source(
            url="https://cdn.freesound.org/mtg-jamendo/raw_30s/audio-low/",
            size_bytes=156_000_000_000,
            note="100 tars with digests; fetch them with the makers' scripts/download/download.py --dataset raw_30s "
            "--type audio-low",
            status="gated",
        ),
        Source(url="hf:m-a-p/MTG", mirror="hub", note="re-encoded to .low.flac by MARBLE"),
    ),
)

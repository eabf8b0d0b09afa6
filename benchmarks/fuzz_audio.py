"""Mutated sound files: does anything but a clear word about the file, or the unchanged sound, come of them?

    python benchmarks/fuzz_audio.py --count 1000 --seed 0

Sound files of every format are made, mutated (bytes of the header, any bytes, cut, joined, sizes, rates, channels, headers
of other files, bytes behind the end) and read whole, in a process with little memory (RLIMIT_AS) and a clock. The outcomes:

- refused: a DataError that names the file
- unchanged: the very samples of the file before, rate and channels too
- values: as many samples at the same rate and channels, with other values, which only a digest could tell
- marked: of another length, rate or channels, and noted among the oddities of the sound
- untold: of another length or rate in a form where nothing in the file could tell it (listed by name)
- bad: an exception that is none of ours, a process that ended, too slow, too much memory, or another length, rate or
  count of channels without a word

Ends with 1 if anything is bad.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MEMORY_BYTES = 1 << 30  # beyond what the process takes before it reads the first file
FILE_S = 10.0
RATE_HZ = 22050
SECONDS = 1.5
# what `soundfile` writes: suffix, format, subtype
KINDS = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAV", "MS_ADPCM"),
    ("wav", "WAV", "GSM610"),
    ("wav", "WAVEX", "PCM_16"),
    ("wav", "RF64", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("au", "AU", "ULAW"),
    ("aiff", "AIFF", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
]
GAPLESS_MOST = 2 * 4095 + 529  # samples that a gapless header can take off at most
HEADER = 128  # bytes at the beginning that a header mutation falls into
SIZES = (0, 1, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 20)
ODD_RATES = (0, 1, 8000, 44100, 192000, 2**31 - 1)
ODD_CHANNELS = (0, 1, 2, 3, 255, 1024, 65535)


def write_sounds(folder: Path) -> list[Path]:
    """A file of each kind, mono and stereo, and an mp4 where PyAV is there."""
    import numpy as np
    import soundfile

    paths = []
    seconds = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(0).normal(size=(len(seconds), 2))
    sound = 0.3 * np.sin(2 * np.pi * np.array([220, 330]) * seconds[:, None]) + 0.05 * noise
    for suffix, form, subtype in KINDS:
        for channels in (1, 2) if subtype != "GSM610" else (1,):
            path = folder / f"{form}-{subtype}-{channels}.{suffix}"
            soundfile.write(path, sound[:, :channels], RATE_HZ, format=form, subtype=subtype)
            paths.append(path)
    try:
        import av
    except ImportError:
        return paths
    path = folder / "MP4-AAC-2.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T, np.float32), format="fltp", layout="stereo")
        frame.rate = RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return [*paths, path]


def _flip_header(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        changed[draw.randrange(min(HEADER, len(changed)))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _write_number(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    width = draw.choice((2, 4))
    at = draw.randrange(4, min(HEADER, len(changed)) - 4) & ~1
    number = draw.choice((*SIZES, *ODD_RATES, *ODD_CHANNELS)) % (1 << 8 * width)
    changed[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))
    return bytes(changed)


def _replace_value(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    """The rate or the channels, wherever the header has them, written anew."""
    old, values = (RATE_HZ, ODD_RATES) if draw.random() < 0.5 else (2, ODD_CHANNELS)
    order, width = draw.choice(("little", "big")), 4 if old == RATE_HZ else 2
    at = content[:HEADER].find(old.to_bytes(width, order), 4)
    if at < 0:
        return _write_number(content, draw, others)
    new = draw.choice(values) % (1 << 8 * width)
    return content[:at] + new.to_bytes(width, order) + content[at + width :]


def _flip_anywhere(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 20)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    return content[: draw.randrange(len(content))]


def _lose_middle(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + content[at + draw.randrange(1, 5000) :]


def _append(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    return content + draw.randbytes(draw.choice((1, 2, 100, 5000)))


def _exchange_header(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    size = draw.choice((12, 36, 44, 128))
    return draw.choice(others)[:size] + content[size:]


def _join(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    return content + draw.choice(others)


def _prepend(content: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    return draw.randbytes(draw.choice((1, 100, 3000))) + content


MUTATIONS: dict[str, Callable[[bytes, random.Random, Sequence[bytes]], bytes]] = {
    "header bits": _flip_header,
    "header number": _write_number,
    "rate or channels": _replace_value,
    "any bytes": _flip_anywhere,
    "cut": _cut,
    "middle lost": _lose_middle,
    "bytes behind": _append,
    "other header": _exchange_header,
    "joined": _join,
    "bytes before": _prepend,
}


def read_facts(path: Path) -> dict[str, Any]:
    """What reading a file gives: its samples' digest and count, rate, channels and oddities, or what was refused."""
    import hashlib

    import numpy as np

    from marble_bench import audio
    from marble_bench.errors import DataError

    try:
        shape, odd = audio.read_shape(path), list[str]()
        audio.check_header(path)
        samples = audio.read_channels(path)
        mono = audio.read(path, sample_rate_hz=16000, oddities=odd)
    except DataError as error:
        return {"refused": str(error), "named": str(path) in str(error)}
    digest = hashlib.sha256(np.ascontiguousarray(samples).tobytes()).hexdigest()
    return {
        "digest": digest,
        "shape": [*samples.shape, shape.rate_hz, len(mono)],
        "agrees": shape.samples == samples.shape[1] or path.suffix == ".mp4",
        "odd": odd,
    }


def run_child(paths: Sequence[str]) -> None:
    """Read files, a line of JSON for each, with a bound on memory."""
    import numpy  # noqa: F401
    import soundfile  # noqa: F401
    import soxr

    from marble_bench import audio

    soxr.resample([0.0] * 100, 8000, 16000)
    if Path(paths[0]).suffix == ".mp4":
        read_facts(Path(paths[0]))
    del audio
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
    for path in paths:
        began = time.perf_counter()
        try:
            found = read_facts(Path(path))
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is what is looked for
            found = {"bad": f"{type(error).__name__}: {error}"}
        print("FOUND " + json.dumps({**found, "s": time.perf_counter() - began}), flush=True)


def read_all(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """What each file gives, read in processes of their own; one that ends is begun again behind the file that ended it."""
    found: list[dict[str, Any]] = []
    while len(found) < len(paths):
        rest = [str(path) for path in paths[len(found) :]]
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--child", *rest],
                capture_output=True,
                text=True,
                timeout=FILE_S + 2.0 * len(rest),
                errors="replace",
            )
            lines, why = done.stdout, f"the process ended with {done.returncode}: {done.stderr[-300:]}"
        except subprocess.TimeoutExpired as error:
            out = error.stdout or b""
            lines, why = out.decode(errors="replace") if isinstance(out, bytes) else out, "did not come to an end"
        got = [json.loads(line[6:]) for line in lines.splitlines() if line.startswith("FOUND ")]
        found += got
        if len(got) < len(rest):
            found.append({"bad": why})
    return found


def is_untold(kind: str, content: bytes, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a change of length, rate or channels is one that no reader could see in the file itself."""
    riff = content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") + 8 == len(content)
    if riff or (content[:4] == b".snd" and sum(struct.unpack(">II", content[4:12])) == len(content)):
        return True  # every size agrees: the whole header is that of another file as long
    same_bytes = before["shape"][0] * before["shape"][1] == after["shape"][0] * after["shape"][1]
    same_length = before["shape"][:2] == after["shape"][:2]
    if kind.startswith(("AU", "AIFF", "CAF")) and (same_length or same_bytes):
        return True  # one number for the rate, one for the channels, and nothing beside them to compare
    same_form = before["shape"][0] == after["shape"][0] and before["shape"][2] == after["shape"][2]
    # a damaged gapless header looks as if there were none
    return kind.startswith("MP3") and same_form and abs(before["shape"][1] - after["shape"][1]) <= GAPLESS_MOST


def judge(kind: str, content: bytes, before: dict[str, Any], after: dict[str, Any]) -> str:
    """One of the outcomes that are listed at the head of this file."""
    if "bad" in after or after.get("s", 0.0) > FILE_S:
        return "bad"
    if "refused" in after:
        return "refused" if after["named"] and "fault of marble-bench" not in after["refused"] else "bad"
    if not after["agrees"]:
        return "bad"
    if after["shape"] == before["shape"]:
        return "unchanged" if after["digest"] == before["digest"] else "values"
    if after["odd"]:
        return "marked"
    return "untold" if is_untold(kind, content, before, after) else "bad"


def run_fuzz(count: int, seed: int, folder: Path) -> tuple[Counter[tuple[str, str]], list[str], list[str]]:
    """Outcomes by mutation, and a line for each that is bad, and for each that is untold."""
    draw = random.Random(seed)
    originals = write_sounds(folder)
    contents = [path.read_bytes() for path in originals]
    before = read_all(originals)
    if wrong := [(path.name, each) for path, each in zip(originals, before, strict=True) if "digest" not in each]:
        raise SystemExit(f"whole files cannot be read: {wrong}")
    plan, paths = [], []
    for index in range(count):
        at, name = draw.randrange(len(originals)), draw.choice(list(MUTATIONS))
        path = folder / f"{index:05}-{originals[at].name}"
        path.write_bytes(MUTATIONS[name](contents[at], draw, contents))
        plan.append((at, name))
        paths.append(path)
    outcomes: Counter[tuple[str, str]] = Counter()
    bad, untellable = list[str](), list[str]()
    for (at, name), path, after in zip(plan, paths, read_all(paths), strict=True):
        verdict = judge(originals[at].stem, path.read_bytes(), before[at], after)
        outcomes[name, verdict] += 1
        if verdict in ("bad", "untold"):
            (bad if verdict == "bad" else untellable).append(f"{path.name}: {name}: {before[at]['shape']} -> {after}")
    return outcomes, bad, untellable


def format_table(outcomes: Counter[tuple[str, str]]) -> str:
    """The outcomes as plain text, a row for each mutation."""
    columns = ("refused", "unchanged", "values", "marked", "untold", "bad")
    lines = [f"{'mutation':18}" + "".join(f"{column:>11}" for column in columns)]
    for name in [*MUTATIONS, "all"]:
        cells = [sum(n for (m, v), n in outcomes.items() if v == column and name in (m, "all")) for column in columns]
        lines.append(f"{name:18}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder that the files are left in")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes, bad, untellable = run_fuzz(options.count, options.seed, folder)
    print(format_table(outcomes))
    for line in untellable:
        print(f"UNTOLD {line}")
    for line in bad:
        print(f"BAD {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())

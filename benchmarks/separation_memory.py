"""Peak memory of BSSEval on a long stereo song, ours against museval's, and of a separation run on few and on many songs.

    python benchmarks/separation_memory.py bss --seconds 240      # one song of noise, four stems
    python benchmarks/separation_memory.py run                    # 16, 64 and 256 training songs, 4, 16 and 64 tests

Every figure is the peak resident size (`ru_maxrss`) of a process of its own, in MB, and its seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

RATE = 44100


def write_song_of_noise(seconds: float, folder: Path) -> tuple[Path, Path]:
    """Files of true stems and of estimates, `(4, 2, samples)` float32, made a channel at a time."""
    import numpy as np

    random = np.random.default_rng(0)
    paths = folder / "true", folder / "guess"
    with paths[0].open("wb") as true, paths[1].open("wb") as guess:
        for _ in range(8):
            sound = random.normal(size=round(seconds * RATE)).astype(np.float32) * np.float32(0.1)
            sound.tofile(true)
            (sound + np.float32(0.05) * random.normal(size=len(sound)).astype(np.float32)).tofile(guess)
    return paths


def measure_bss(who: str, folder: Path, seconds: float) -> float:
    """Measure the song of noise; returns the first stem's median SDR."""
    import numpy as np
    from museval_alone import load_museval_measures

    from marble_bench.metrics._bsseval import bss_eval
    from marble_bench.separation.bsseval_pool import SignalFile

    shape = (4, round(seconds * RATE), 2)
    signals = [SignalFile(folder / name, shape) for name in ("true", "guess")]
    if who == "ours":
        return float(np.median(bss_eval(signals[0], signals[1], RATE)["sdr"][0]))
    arrays = [each[:, :].astype(np.float64) for each in signals]
    return float(np.median(load_museval_measures().bss_eval(*arrays, window=RATE, hop=RATE)[0][0]))


def run(songs: int, folder: Path) -> float:
    """Draw, make, train, separate and measure `songs` training songs and a quarter as many tests; returns the mean SDR."""
    import importlib
    from dataclasses import replace

    import numpy as np
    import soundfile

    from marble_bench.protocols.marble import PROTOCOL as MARBLE
    from marble_bench.separation import mixing, stems

    separation = importlib.import_module("marble_bench.separation.probe")
    separating = importlib.import_module("marble_bench.separation.evaluate")
    names = ("vocals", "drums", "bass", "other")
    random, opened = np.random.default_rng(0), []
    for number in range(songs + songs // 4 + 1):
        at = folder / f"song{number}"
        at.mkdir()
        parts = {name: random.integers(-4000, 4000, (8 * RATE, 2)).astype(np.int16) for name in names}
        for name, sound in {"mixture": sum(parts.values()), **parts}.items():
            soundfile.write(at / f"{name}.wav", sound, RATE, subtype="PCM_16")
        opened.append(stems.open_song(at / "mixture.wav", names))
    train, test, valid = opened[:songs], opened[songs:-1], opened[-1:]
    rules = mixing.Separation(chunk_s=3.0, mixtures_per_track=4, hidden=32, batch_size=8, max_epochs=1)

    class Noise:
        """Frames of noise made when they are read, as a store on disk holds nothing in memory."""

        rates = (75.0,)
        widths = (64,)

        def length(self, layer: int, item: int) -> int:
            return 601

        def read(self, layer: int, item: int, first: int, count: int) -> object:
            return np.random.default_rng(item).normal(size=(count, 64)).astype(np.float16)

    drawn = mixing.draw_mixtures(train, rules.mixtures_per_track * songs, rules)
    chunks = mixing.make_chunks(drawn, train, rules, folder / "chunks")
    tracks = [mixing.make_track(song, rules, folder) for song in valid]
    material = separation.TrainingData(chunks, Noise(), tracks, Noise())
    separation.KEEP_BYTES = 0  # as for a corpus whose magnitudes do not all fit
    grid = importlib.import_module("marble_bench.probes.grid").build_grid
    probes = grid(replace(MARBLE, learning_rates=rules.learning_rates), [0], False, 1, 4)
    chosen = separation.choose(separation.fit(probes, material, rules), 1, 4)
    found = separating.measure(chosen, test, Noise(), (), rules, folder, workers=1)
    return float(found.sdr.mean())


def run_alone(*arguments: object) -> str:
    """A line about a call of this file in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    return f"{report['peak_mb']:8,.0f} MB {report['seconds']:7.1f} s  SDR {report['sdr']:.4f} dB"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bss", "run", "bss-alone", "run-alone"])
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--without-museval", action="store_true")
    asked = parser.parse_args()
    if asked.what == "bss":
        with tempfile.TemporaryDirectory() as folder:
            write_song_of_noise(asked.seconds, Path(folder))
            for who in ("ours",) if asked.without_museval else ("ours", "museval"):
                print(
                    f"BSSEval, {asked.seconds:g} s, four stereo stems, {who}: ".ljust(60),
                    run_alone("bss-alone", who, folder, asked.seconds),
                )
        return
    if asked.what == "run":
        for songs in (16, 64, 256):
            with tempfile.TemporaryDirectory() as folder:
                print(
                    f"run, {songs} training songs, {songs // 4} tests: ".ljust(60),
                    run_alone("run-alone", songs, folder),
                )
        return
    started = time.perf_counter()
    if asked.what == "bss-alone":
        sdr = measure_bss(asked.rest[0], Path(asked.rest[1]), float(asked.rest[2]))
    else:
        sdr = run(int(asked.rest[0]), Path(asked.rest[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"peak_mb": peak, "seconds": time.perf_counter() - started, "sdr": sdr}))


if __name__ == "__main__":
    main()

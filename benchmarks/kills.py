"""Kill an extraction again and again at random moments; it must end in the same bytes as one that was left alone.

python benchmarks/kills.py --kills 50

A corpus of synthesised clips is extracted by a small random network, pooled and then frame by frame, in a process of its
own that is killed (SIGKILL) after a random time, and begun again until it has been killed so often; then it may end. Every
file of both stores is compared with those of an undisturbed pass. A row that is lost or doubled changes a file.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLIPS = 240
RATE_HZ = 8000
PACE_S = 0.02  # the network waits so long at each batch, so that a kill meets it at work


def write_clips(folder: Path) -> None:
    """Noise of one to three seconds."""
    import numpy as np
    import soundfile

    generator = np.random.default_rng(0)
    for index in range(CLIPS):
        samples = 0.1 * generator.standard_normal(RATE_HZ * (1 + index % 3))
        soundfile.write(folder / f"{index:04}.wav", samples, RATE_HZ)


def extract(audio: Path, cache: Path, pace_s: float) -> None:
    """One pass for pooled features and one for frames, through the suite's own functions."""
    import torch

    from marble_bench.core.encoder import Encoder, Layer
    from marble_bench.core.task import Clip, Window
    from marble_bench.encoders import weights
    from marble_bench.features import batches, frames, pooled, runner

    def load(path: Path | None, device: str):  # type: ignore[no-untyped-def]
        kernel = torch.randn(64, 1, 160, generator=torch.Generator().manual_seed(0)) / 13

        def encode(waveforms, pool):  # type: ignore[no-untyped-def]
            time.sleep(pace_s)
            x = torch.nn.functional.conv1d(waveforms.unsqueeze(1), kernel, stride=80).transpose(1, 2)
            return [pool(x), pool(x.tanh())]

        return encode

    encoder = Encoder(
        name="killed",
        description="a random convolution",
        sample_rate_hz=RATE_HZ,
        layers=(Layer("0", 64, 100.0), Layer("1", 64, 100.0)),
        load=load,
        license="none",
        citation="none",
        min_s=0.1,
    )
    paths = sorted(audio.glob("*.wav"))
    clips = [Clip(path.stem, "train", path.name, "x") for path in paths]
    rates = [RATE_HZ] * len(paths)
    items = [pooled.Item(*each) for each in zip(clips, paths, pooled.compute_digests(paths), rates, strict=True)]
    found = weights.resolve(encoder, cache)
    runner.BATCH_S, batches.SHARD_JOBS = 6.0, 8
    pooled.extract(items, encoder, found, Window(), cache)
    sounds = [pooled.make_sound(item, Window()) for item in items]
    frames.extract(sounds, encoder, found, [0, 1], cache, {"clip_normalize": "none"}, piece_s=2.0)


def compute_digests(cache: Path) -> dict[str, str]:
    """sha256 of every shard, by its place."""
    found = sorted(cache.rglob("*.arrow"))
    return {str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def run_killed(kills: int, seed: int, work: Path) -> tuple[int, dict[str, str], dict[str, str]]:
    """Runs that were killed, the files of the disturbed pass and of the undisturbed one."""
    audio = work / "audio"
    audio.mkdir()
    write_clips(audio)
    command = [sys.executable, __file__, "--pass", str(audio)]
    began = time.perf_counter()
    subprocess.run([*command, str(work / "whole"), str(PACE_S)], check=True)
    whole_s = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run([*command, str(work / "whole"), str(PACE_S)], check=True)
    start_s = time.perf_counter() - began  # with all stored: what a process takes to begin

    moments, done = random.Random(seed), 0
    while done < kills:
        process = subprocess.Popen([*command, str(work / "broken"), str(PACE_S)])
        # mostly while it writes its next shards, now and then at any moment of its life
        most_s = whole_s if moments.random() < 0.1 else start_s + 6 * (whole_s - start_s) / kills
        time.sleep(moments.uniform(0.5 * start_s, most_s))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            shards = len(compute_digests(work / "broken"))
            print(f"kill {done:3}: {shards} shards are whole", file=sys.stderr, flush=True)
        elif process.returncode:
            raise SystemExit(f"the pass failed with {process.returncode}")
        else:  # it came to its end: the next one begins anew
            check(compute_digests(work / "broken"), compute_digests(work / "whole"))
            for path in (work / "broken").rglob("*.arrow"):
                path.unlink()
    subprocess.run([*command, str(work / "broken"), str(PACE_S)], check=True)
    return done, compute_digests(work / "broken"), compute_digests(work / "whole")


def check(broken: dict[str, str], whole: dict[str, str]) -> None:
    """Stop if the two differ in any file."""
    if broken != whole:
        differ = sorted(set(broken.items()) ^ set(whole.items()))
        raise SystemExit(f"the stores differ in {len(differ)} places, first {differ[0]}")


def main() -> None:
    """Parse, run, print one line."""
    if sys.argv[1:2] == ["--pass"]:
        extract(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        done, broken, whole = run_killed(asked.kills, asked.seed, Path(work))
    check(broken, whole)
    print(f"killed {done} times; all {len(whole)} shards are the same bytes as in an undisturbed pass")


if __name__ == "__main__":
    main()

"""Does memory grow with the corpus? Peak resident size of a whole extraction of 1,000 and of 20,000 windows.

python benchmarks/memory.py

Each is a process of its own; windows are half a second long and a small network encodes them, so that a few kilobytes kept
for each window would show. The audio is made as it is read. Pooled features and frames.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

RATE_HZ, WINDOW_S, PER_SOUND = 8000, 0.5, 10
COUNTS = (1000, 20000)


def extract(kind: str, windows: int, cache: Path) -> None:
    """One pass; prints the peak in megabytes."""
    import numpy as np
    import torch

    from marble_bench import audio
    from marble_bench.core.encoder import Encoder, Layer
    from marble_bench.core.task import Clip, Window
    from marble_bench.encoders import weights
    from marble_bench.features import frames, pooled
    from marble_bench.features.frames import Sound
    from marble_bench.features.store import Span

    def load(path: Path | None, device: str):  # type: ignore[no-untyped-def]
        kernel = torch.randn(128, 1, 160, generator=torch.Generator().manual_seed(0)) / 13

        def encode(waveforms, pool):  # type: ignore[no-untyped-def]
            x = torch.nn.functional.conv1d(waveforms.unsqueeze(1), kernel, stride=160).transpose(1, 2)
            return [pool(x), pool(x.tanh())]

        return encode

    encoder = Encoder(
        name="memory",
        description="a random convolution",
        sample_rate_hz=RATE_HZ,
        layers=(Layer("0", 128, 50.0), Layer("1", 128, 50.0)),
        load=load,
        license="none",
        citation="none",
        min_s=0.1,
    )

    def made(index: int) -> np.ndarray:
        return np.random.default_rng(index).standard_normal(round(PER_SOUND * WINDOW_S * RATE_HZ)).astype(np.float32)

    found = weights.resolve(encoder, cache)
    count = windows // PER_SOUND
    if kind == "pooled":
        audio.read = lambda path, **_: made(int(path.stem))  # type: ignore[assignment]
        clips = [Clip(str(i), "train", f"{i}.wav", "x", 0.0, PER_SOUND * WINDOW_S) for i in range(count)]
        items = [pooled.Item(clip, Path(clip.audio), clip.id, RATE_HZ) for clip in clips]
        pooled.extract(items, encoder, found, Window(length_s=WINDOW_S), cache)
    else:
        length_s = PER_SOUND * WINDOW_S
        sounds = [Sound(str(i), Span(str(i), "0:"), length_s, lambda _, i=i: made(i)) for i in range(count)]
        frames.extract(sounds, encoder, found, [0, 1], cache, {}, piece_s=WINDOW_S)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (1e6 if sys.platform == "darwin" else 1e3))


def main() -> None:
    """Run all four and print them."""
    if len(sys.argv) == 4:
        extract(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
        return
    grown = False
    for kind in ("pooled", "frames"):
        peaks = []
        for windows in COUNTS:
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, kind, str(windows), cache]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                peaks.append(float(done.stdout))
        more = peaks[1] / peaks[0] - 1
        grown |= more >= 0.1
        print(
            f"{kind}: {peaks[0]:.0f} MB with {COUNTS[0]:,} windows, {peaks[1]:.0f} MB with {COUNTS[1]:,}: {more:+.1%}"
        )
    sys.exit(grown)


if __name__ == "__main__":
    main()

"""What Ray adds and costs on this machine: one encoder, two, and two of which one is killed midway, against no Ray.

python benchmarks/cluster.py        (pip install '.[ray]')

Each encoder on the cluster computes with one thread, and so does the local engine first: these stores must be the same
bytes. Then the local engine computes with every core; its store may differ by last bits; the largest is printed.
MusiCNN's real weights, synthesised audio. The pace is that behind the first batch, when all is loaded.
"""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from extract import write_audio

CLIPS = 8
ONE = "local, 1 thread"


def compute_digests(cache: Path) -> dict[str, str]:
    """sha256 of every shard by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(cache.rglob("*.arrow"))}


def find_encoder_processes() -> list[int]:
    """Process ids of the encoders on this machine's cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if line.startswith(b"ray::_Encoding") and os.stat(entry).st_uid == os.getuid():
                found.append(int(entry.name))
    return found


def main() -> None:
    """Measure and print."""
    import logging

    import numpy as np
    import ray
    import torch

    from marble_bench.core import plugins
    from marble_bench.core.task import Clip, Window
    from marble_bench.encoders import weights
    from marble_bench.features import pooled
    from marble_bench.files.cache import find_cache_root

    encoder = plugins.find_encoder("musicnn-mtt")
    found = weights.resolve(encoder, find_cache_root())
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as work:
        paths = write_audio(Path(work), CLIPS)
        items = [
            pooled.Item(Clip(path.stem, "train", path.name, "x"), path, pooled.compute_digests([path])[0], None)
            for path in paths
        ]

        def made(name: str, kill: bool = False, **options: Any) -> None:
            first: list[float] = []
            gone: list[int] = []

            def progress(done: int, todo: int, audio_s: float) -> None:
                first.append(time.perf_counter())
                rates.append(audio_s)
                if kill and not gone and done > todo / 3:
                    gone.append(find_encoder_processes()[0])
                    os.kill(gone[0], signal.SIGKILL)

            rates: list[float] = []
            began = time.perf_counter()
            store, spans, _ = pooled.extract(
                items, encoder, found, Window(length_s=10.0), Path(work) / name, progress=progress, **options
            )
            total = time.perf_counter() - began
            pace = (rates[-1] - rates[0]) / (first[-1] - first[0])  # behind the first batch, all is loaded
            shown = f"{name:20}{pace:8.1f} s of audio a second{total:8.1f} s in all{', one killed' * bool(gone)}"
            alike = compute_digests(Path(work) / name) == compute_digests(Path(work) / ONE)
            print(f"{shown}, {'same bytes' if alike else f'differs by {apart(store, spans):.2g} at most'}", flush=True)

        def apart(store: Any, spans: Any) -> float:
            one = pooled.open_store(encoder, found, Window(length_s=10.0), Path(work) / ONE)
            layers = range(len(encoder.layers))
            return max(float(np.abs(one.read(i, spans).astype("f4") - store.read(i, spans)).max()) for i in layers)

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        made(ONE, batch_s=30.0)
        torch.set_num_threads(threads)
        made(f"local, {threads} threads", batch_s=30.0)
        for workers in (1, 2):
            made(f"ray, {workers}", engine="ray", workers=workers, batch_s=30.0)
        made("ray, 2, one killed", kill=True, engine="ray", workers=2, batch_s=30.0)
    ray.shutdown()


if __name__ == "__main__":
    main()

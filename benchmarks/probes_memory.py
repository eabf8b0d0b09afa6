"""How much memory a run takes on stored features that are larger than it: MTG-Jamendo's genre task, a 24-layer encoder.

python benchmarks/probes_memory.py [--folder DIR] [--windows 250000] [--layers 25] [--width 1024]

Writes 12.8 GB of synthetic half-precision features into a store, then does what a run does from there: reads them, looks at
them, and trains some steps of a probe on each layer and on the weighted sum of all but the first. Mapped pages are the
system's to take back, so they are shown apart from what the process holds for itself, which is compared with the budget.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from marble_bench.probes import memory
from marble_bench.probes.block import ACTIVATION_BYTES

from marble_bench.core import plugins
from marble_bench.core.task import Clip
from marble_bench.data.checks import ROWS
from marble_bench.data.examples import Examples
from marble_bench.features import pooled
from marble_bench.features.store import Span, Store
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.runs.config import RunConfig
from marble_bench.runs.inputs import Coverage, FeatureSource, Inputs
from marble_bench.runs.kinds.clips import ClipJob

TASK = "mtg-genre"
EACH = 5  # windows of a clip


class Silent:
    """Callbacks that tell nobody."""

    def features(self, done: int, todo: int, audio_s: float) -> None: ...
    def probes(self, done: int, todo: int, best: float, alive: int) -> None: ...
    def say(self, text: str) -> None: ...


def write(folder: Path, layers: int, windows: int, width: int) -> tuple[Store, list[Span]]:
    """A store whose shards are as large as a run's; rows repeat from shard to shard, which no measurement here sees."""
    store = Store(folder, {"encoder": "synthetic"}, [(str(layer), width) for layer in range(layers)])
    each = max(1, pooled.SHARD_BYTES // (2 * layers * width * EACH)) * EACH
    rows = [np.random.default_rng(layer).standard_normal((each, width)).astype(np.float16) for layer in range(layers)]
    spans = [Span(f"{clip:064x}", "0:") for clip in range(windows // EACH)]
    for start in range(0, len(spans), each // EACH):
        for at, span in enumerate(spans[start : start + each // EACH]):
            store.add(span, [layer[EACH * at : EACH * (at + 1)] for layer in rows])
        store.flush()
    return Store(folder, {"encoder": "synthetic"}, store.layers), spans


def make_clips(count: int, names: tuple[str, ...]) -> list[Clip]:
    """So many clips, one in fifty for validation, one in fifty for the test, with a few tags each."""
    random = np.random.default_rng(1)
    splits = random.choice(["train", "valid", "test"], count, p=[0.96, 0.02, 0.02])
    tags = [tuple(names[place] for place in random.choice(len(names), 4, replace=False)) for _ in range(count)]
    return [Clip(f"c{at}", str(splits[at]), f"{at}.mp3", tags[at]) for at in range(count)]


def read_held_bytes() -> dict[str, int]:
    """Bytes of the process: `RssAnon` its own, `RssFile` mapped from files."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(value.split()[0]) << 10 for name, value in lines if name in ("RssAnon", "RssFile")}


class Peak(threading.Thread):
    """Looks at the process's memory until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = read_held_bytes(), threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.most = {name: max(value, self.most[name]) for name, value in read_held_bytes().items()}


def main() -> None:
    """Write, train, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where there is room for the features; else the system's for such")
    parser.add_argument("--windows", type=int, default=250_000)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--width", type=int, default=1024)
    asked = parser.parse_args()
    named, threads = plugins.find_task(TASK), torch.get_num_threads()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        started = time.perf_counter()
        store, spans = write(Path(folder), asked.layers, asked.windows, asked.width)
        total = store.size_bytes()
        shape = f"{asked.windows} x {asked.layers} x {asked.width}"
        print(f"{shape}: {total / 1e9:.1f} GB, {time.perf_counter() - started:.0f} s to write", flush=True)
        examples = Examples.of_clips(make_clips(len(spans), named.task.target.names))
        rules = replace(MARBLE, validate_steps=20, stop_evaluations=9, max_evaluations=2, learning_rates=(1e-3, 1e-2))
        given: dict[str, Any] = {"cache": Path(folder), "results": Path(folder), "model": "synthetic", "encoder": None}
        config = RunConfig.of(named=named, protocol=rules, seeds=1, **given)
        valid = len(examples.of("valid"))
        before, watching, started = read_held_bytes(), Peak(), time.perf_counter()
        watching.start()
        features = pooled.load(store, spans)
        source = FeatureSource({"weights_sha256": "0" * 64}, {})
        inner = tuple(range(1, asked.layers))
        job = ClipJob(config, Silent(), Inputs(examples, features, source, Coverage(False, []), inner))
        read_s, started = time.perf_counter() - started, time.perf_counter()
        fitted = job.fit()
        seconds = time.perf_counter() - started
        watching.ended.set()
        watching.join()
    tell(asked, watching.most, before, valid, threads, f"{len(fitted)} probes, {read_s:.0f} s to read, {seconds:.0f} s")


def tell(
    asked: argparse.Namespace, most: dict[str, int], before: dict[str, int], valid: int, threads: int, done: str
) -> None:
    """Print what was taken beside what may be."""
    tags = plugins.find_task(TASK).task.target.width
    parts = {
        "of blocks and best weights": 2 * memory.CACHE_BYTES,
        "of outputs": 6 * 4 * valid * tags * 2 * threads,  # of a block's probes for every clip, twice, and the sorted
        "of activations": 6 * ACTIVATION_BYTES * threads,
        "of labels and places": asked.windows * (4 * tags * 2 + 5 * 8),  # encoded, by split, by window; where each lies
        "of rows looked at": 8 * ROWS * asked.width,
    }
    used, budget = most["RssAnon"] - before["RssAnon"], sum(parts.values())
    shown = ", ".join(f"{size / 1e6:.0f} {what}" for what, size in parts.items())
    print(
        f"{done}, {threads} threads\n"
        f"own memory: {before['RssAnon'] / 1e6:.0f} MB before (clips, torch), {used / 1e6:.0f} MB more at the peak; "
        f"budget {budget / 1e6:.0f} MB: {shown}\n"
        f"mapped features in memory at the peak, for the system to take back: {most['RssFile'] / 1e9:.1f} GB\n"
        f"{'within' if used <= budget else 'OVER'} the budget"
    )


if __name__ == "__main__":
    main()

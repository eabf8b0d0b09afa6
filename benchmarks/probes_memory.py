"""How much memory a grid takes on features that are larger than it: MTG-Jamendo's genre task with a 24-layer encoder.

python benchmarks/probes_memory.py [--folder DIR] [--windows 250000] [--layers 25] [--width 1024]

Writes 12.8 GB of synthetic half-precision features, a file for each layer, maps them, and trains some steps of a probe
on each layer and on the weighted sum of all but the first. Mapped pages are the system's to take back, so they are shown
apart from what the process holds for itself, which is held against the budget.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from marble_bench.probes import memory, trainer
from marble_bench.probes.block import ACTIVATION_BYTES

from marble_bench.core.task import Schedule
from marble_bench.metrics import roc_auc
from marble_bench.protocols.marble import PROTOCOL as MARBLE

TAGS = 87


class Mapped(Sequence[torch.Tensor]):
    """Layers `(windows, width)` float16 mapped from their files when asked for."""

    def __init__(self, paths: Sequence[Path], windows: int, width: int) -> None:
        self.paths, self.windows, self.widths = paths, windows, [width] * len(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        size = self.windows * self.widths[0]
        return torch.from_file(str(self.paths[index]), size=size, dtype=torch.float16).view(self.windows, -1)


def write(folder: Path, layers: int, windows: int, width: int) -> list[Path]:
    """One file for each layer; rows repeat after some thousand, which no measurement here sees."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for layer in range(layers):
        rows = torch.randn(4096, width, generator=generator).half().numpy()
        paths.append(folder / f"{layer}.half")
        with paths[-1].open("wb") as file:
            for start in range(0, windows, len(rows)):
                file.write(rows[: windows - start].tobytes())
    return paths


def held() -> dict[str, int]:
    """Bytes of the process: `RssAnon` its own, `RssFile` mapped from files."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(value.split()[0]) << 10 for name, value in lines if name in ("RssAnon", "RssFile")}


class Peak(threading.Thread):
    """Looks at the process's memory until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = held(), threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.most = {name: max(value, self.most[name]) for name, value in held().items()}


def main() -> None:
    """Write, train, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where there is room for the features; else the system's for such")
    parser.add_argument("--windows", type=int, default=250_000)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--width", type=int, default=1024)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        started = time.perf_counter()
        paths = write(Path(folder), asked.layers, asked.windows, asked.width)
        total = asked.windows * asked.layers * asked.width * 2
        print(
            f"{asked.windows} x {asked.layers} x {asked.width}: {total / 1e9:.1f} GB, {time.perf_counter() - started:.0f} s"
        )
        layers = Mapped(paths, asked.windows, asked.width)
        rows = torch.randperm(asked.windows, generator=torch.Generator().manual_seed(1))
        truth = (torch.rand(asked.windows, TAGS, generator=torch.Generator().manual_seed(2)) < 0.05).float()
        valid = asked.windows // 50
        splits = [
            trainer.Split(layers, torch.arange(len(part)), truth[part], part)
            for part in (rows[valid:].sort().values, rows[:valid].sort().values)
        ]
        rules = replace(MARBLE, validate_steps=20, stop_evaluations=9, max_evaluations=2, learning_rates=(1e-3, 1e-2))
        recipe = trainer.Recipe(
            rules, Schedule(), TAGS, "binary_cross_entropy", roc_auc.compute, tuple(range(1, asked.layers))
        )
        probes = trainer.grid(rules, range(asked.layers), True, 1)
        threads = torch.get_num_threads()
        before = held()
        watching = Peak()
        watching.start()
        started = time.perf_counter()
        fitted = trainer.fit(probes, *splits, recipe, "cpu", states="best")
        seconds = time.perf_counter() - started
        watching.ended.set()
        watching.join()
    outputs = 6 * 4 * valid * TAGS * 2 * threads  # of a block's probes for every clip, twice, and what the metric sorts
    activations = 6 * ACTIVATION_BYTES * threads
    budget = 2 * memory.CACHE_BYTES + outputs + activations
    used = watching.most["RssAnon"] - before["RssAnon"]
    print(
        f"{len(fitted)} probes, {seconds:.1f} s, {threads} threads\n"
        f"own memory: {before['RssAnon'] / 1e6:.0f} MB before (labels, torch), {used / 1e6:.0f} MB more at the peak; "
        f"budget {budget / 1e6:.0f} MB: {2 * memory.CACHE_BYTES / 1e6:.0f} of blocks and best weights, "
        f"{outputs / 1e6:.0f} of outputs, {activations / 1e6:.0f} of activations\n"
        f"mapped features in memory at the peak, for the system to take back: {watching.most['RssFile'] / 1e9:.1f} GB\n"
        f"{'within' if used <= budget else 'OVER'} the budget"
    )


if __name__ == "__main__":
    main()

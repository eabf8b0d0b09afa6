"""A whole grid of frame probes for one epoch, against one probe at a time in plain torch over the same store.

python benchmarks/frame_probes.py [--quick] [--folder DIR] [--seeds 3] [--clips 300] [--sampled 12]

Writes random frames of GuitarSet's size, 300 clips for training and validation of 30 s at 25 Hz in 13 layers, 768 wide,
into stores as a run has them, with a class out of 25 for each frame. The grid is the `marble` protocol's: 13 layers and
their sum, 6 rates, 3 seeds. The loop is torch.nn and torch.optim.Adam with the same batches of crops of 10 s, on some probes
drawn at random, one of them a sum; its time for the grid is the mean of each kind times the probes of that kind. With fewer
`--seeds` ours is timed for so many and multiplied: seeds share nothing.

Data path: reading the store, and what is needed until a product could begin (float32, batches, labels), measured alone.
Frame probes read unscaled features, so nothing is standardised. Bound: the multiplications of the grid at the rate of a
large product. Times are core-seconds of one thread, so that other programs count little. Memory is the process's own while
ours trains; pages of mapped files are the system's to take back.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from marble_bench.probes import framewise, trainer
from marble_bench.probes.kernels import multiply_linear
from marble_bench.probes.probe_cache import ProbeCacheFolder

from marble_bench.core.plugins import find_head
from marble_bench.core.task import Schedule
from marble_bench.features.frames import Frames, Sound
from marble_bench.features.store import Span, Store
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.runs.kinds.frames import CROP_S
from marble_bench.scoring.frame_targets import ClassPart

CLASSES = 25
RATE_HZ = 25.0
VALID_SHARE = 0.2
CHUNK = 512  # frames: as many as six probes with 512 hidden values go through at once


@dataclass(frozen=True)
class Size:
    """clips: of training and validation together."""

    clips: int = 300
    length_s: float = 30.0
    layers: int = 13
    width: int = 768

    @property
    def frames(self) -> int:
        """Of a clip."""
        return round(self.length_s * RATE_HZ)


def write(folder: Path, size: Size) -> Frames:
    """Stores of random frames, one for each layer; some clips have the same frames, which no measurement here sees."""
    random = np.random.default_rng(0)
    sounds = [
        Sound(str(at), Span(f"{at:064x}", "0:"), size.length_s, lambda _: np.zeros(0)) for at in range(size.clips)
    ]
    stores = []
    for layer in range(size.layers):
        rows = random.standard_normal((min(16, size.clips), size.frames, size.width), np.float32).astype(np.float16)
        store = Store(folder, {"encoder": "synthetic", "layer": layer}, [(str(layer), size.width)])
        for at, sound in enumerate(sounds):
            store.add(sound.span, [rows[at % len(rows)]])
            if at % 64 == 63 or at == size.clips - 1:
                store.flush()
        stores.append(store)
    return Frames(stores, sounds, [RATE_HZ] * size.layers)


def make_framesets(frames: Frames) -> tuple[framewise.Frameset, framewise.Frameset]:
    """Training and validation, with random labels."""
    labels = np.random.default_rng(1).integers(0, CLASSES, (len(frames), frames.length(0, 0), 1)).astype(np.float32)
    border = round(len(frames) * (1 - VALID_SHARE))
    train, valid = range(border), range(border, len(frames))
    return (
        framewise.Frameset(frames.only(train), lambda layer, clip: labels[clip]),
        framewise.Frameset(frames.only(valid), lambda layer, clip: labels[border + clip]),
    )


class Peak(threading.Thread):
    """Looks at the process's own memory until it is stopped. most: in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = read_own_bytes(), threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            self.most = max(self.most, read_own_bytes())


def read_own_bytes() -> int:
    """Memory of the process that is not mapped from files."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("RssAnon"))
    return int(line.split()[1]) << 10


class Plain(torch.nn.Module):
    """One probe as torch.nn writes it."""

    def __init__(self, probe: trainer.Probe, recipe: framewise.Recipe, width: int) -> None:
        super().__init__()
        hidden, generator = recipe.protocol.hidden, torch.Generator().manual_seed(probe.seed)
        values = list(find_head("mlp").init(width, hidden, recipe.outputs, generator).values())
        self.linears = torch.nn.ModuleList()
        for weight, bias in zip(values[::2], values[1::2], strict=True):
            linear = torch.nn.Linear(*weight.shape)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias[0].clone()
            self.linears.append(linear)
        self.dropout = torch.nn.Dropout(recipe.protocol.dropout)
        self.mix = torch.nn.Parameter(torch.zeros(len(recipe.summable))) if probe.layer is None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: `(layers, frames, width)`."""
        mixed = x[0] if self.mix is None else torch.einsum("l,lfw->fw", self.mix.softmax(0), x)
        return self.linears[1](self.dropout(self.linears[0](mixed).relu()))


def read_batches(
    probe: trainer.Probe,
    recipe: framewise.Recipe,
    split: framewise.Frameset,
    crops: list[tuple[int, int, int]],
    size: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What the loop trains one probe on: frames `(layers, frames, width)` and classes, `size` crops at a time."""
    layers = probe.reads(recipe.summable)
    for start in range(0, len(crops), size):
        batch = crops[start : start + size]
        rows = [
            torch.cat([torch.from_numpy(split.features.read(each, *crop)).float() for crop in batch]) for each in layers
        ]
        labels = np.concatenate([split.truth(0, clip)[first : first + count, 0] for clip, first, count in batch])
        yield torch.stack(rows) if len(rows) > 1 else rows[0][None], torch.from_numpy(labels).long()


def draw_crops(split: framewise.Frameset, crop: int | None) -> list[tuple[int, int, int]]:
    """A crop of so many frames of each clip, in random order; None: whole clips in their order."""
    lengths = [split.features.length(0, clip) for clip in range(len(split.features))]
    if crop is None:
        return [(clip, 0, length) for clip, length in enumerate(lengths)]
    order = torch.randperm(len(lengths)).tolist()
    return [(c, int(torch.randint(max(lengths[c] - crop, 0) + 1, ())), min(crop, lengths[c])) for c in order]


def run_loop(
    probe: trainer.Probe, recipe: framewise.Recipe, train: framewise.Frameset, valid: framewise.Frameset
) -> tuple[float, float]:
    """Core-seconds of one epoch of one probe, and of its data path alone."""
    crop, size = round(recipe.crop_s * RATE_HZ), recipe.protocol.batch_size
    began = time.process_time()
    for _ in read_batches(probe, recipe, train, draw_crops(train, crop), size):
        pass
    for _ in read_batches(probe, recipe, valid, draw_crops(valid, None), 1):
        pass
    read_s = time.process_time() - began
    model, entropy = Plain(probe, recipe, train.features.widths[0]), torch.nn.functional.cross_entropy
    adam = torch.optim.Adam(model.parameters(), probe.learning_rate)
    began = time.process_time()
    for x, truth in read_batches(probe, recipe, train, draw_crops(train, crop), size):
        adam.zero_grad()
        entropy(model(x), truth).backward()
        adam.step()
    model.eval()
    with torch.no_grad():
        total = sum(
            float(entropy(model(x), y)) for x, y in read_batches(probe, recipe, valid, draw_crops(valid, None), 1)
        )
    assert total > 0
    return time.process_time() - began, read_s


def read_as_ours(
    probes: list[trainer.Probe], recipe: framewise.Recipe, train: framewise.Frameset, valid: framewise.Frameset
) -> float:
    """Core-seconds of the data path of an epoch of ours: what is read is put into chunks that nothing is made of."""
    width, size = train.features.widths[0], recipe.protocol.batch_size
    made = framewise.make_blocks(probes, train, valid, recipe, "cpu")
    began = time.process_time()
    with torch.inference_mode():
        for members in made:
            layers = [group[0].reads(recipe.summable) for group in framewise.group_probes(members, "cpu")]

            def make_chunks(layers: list[tuple[int, ...]] = layers) -> list[framewise._Chunks]:
                return [framewise._Chunks(each, width, CHUNK, "cpu", lambda rows, before: None) for each in layers]

            crops = draw_crops(train, round(recipe.crop_s * RATE_HZ))
            for start in range(0, len(crops), size):
                read_batch(make_chunks(), train, crops[start : start + size])
            read_batch(make_chunks(), valid, draw_crops(valid, None))
    return time.process_time() - began


def read_batch(chunks: list[framewise._Chunks], split: framewise.Frameset, crops: list[tuple[int, int, int]]) -> None:
    """Labels and frames of some crops, into chunks."""
    labels = torch.cat([torch.from_numpy(split.truth(0, clip)[first : first + count]) for clip, first, count in crops])
    labels.isfinite().sum(dim=0)
    for crop in crops:
        framewise._read_into(chunks, split, *crop, "cpu")
    for each in chunks:
        each.flush()


def count_operations(probes: list[trainer.Probe], recipe: framewise.Recipe, size: Size) -> float:
    """Multiplications and additions of all products of an epoch."""
    first, last = 2.0 * size.width * recipe.protocol.hidden, 2.0 * recipe.protocol.hidden * recipe.outputs
    valid = round(size.clips * VALID_SHARE)
    trained = (size.clips - valid) * min(round(recipe.crop_s * RATE_HZ), size.frames)
    total = 0.0
    for probe in probes:
        mixing = 2.0 * size.width * len(recipe.summable) if probe.layer is None else 0.0
        more = first + 2 * mixing if probe.layer is None else 0.0  # the gradient by the input, and by the shares
        total += trained * (2 * first + 3 * last + more) + valid * size.frames * (first + last + mixing)
    return total


def measure_product() -> float:
    """Operations of a core in a second, in a large product: the fastest of some."""
    a, b, found = torch.randn(1536, 1536), torch.randn(1536, 1536), []
    for _ in range(9):
        began = time.process_time()
        multiply_linear(a, b)
        found.append(2 * 1536**3 / (time.process_time() - began))
    return max(found)


def compare(asked: argparse.Namespace, size: Size, frames: Frames, folder: Path) -> None:
    """Time both and print what came of it."""
    train, valid = make_framesets(frames)
    parts = (ClassPart("class", tuple(map(str, range(CLASSES)))),)
    recipe = framewise.Recipe(MARBLE, Schedule(1, 3, 10), parts, CROP_S, tuple(range(size.layers)))
    probes = trainer.build_grid(MARBLE, range(size.layers), True, 3)
    timed = [probe for probe in probes if probe.seed < asked.seeds]
    read_as_ours(timed, recipe, train, valid)  # which checks every shard, once
    ours_read_s = read_as_ours(timed, recipe, train, valid) * 3 / asked.seeds
    before, watching = read_own_bytes(), Peak()
    watching.start()
    wall, began = time.perf_counter(), time.process_time()
    framewise.fit(timed, train, valid, recipe, probe_cache=ProbeCacheFolder(folder / "kept", "key"))
    ours_s, wall_s = (time.process_time() - began) * 3 / asked.seeds, (time.perf_counter() - wall) * 3 / asked.seeds
    watching.ended.set()
    watching.join()
    loop_s = loop_read_s = 0.0
    random = np.random.default_rng(2)
    for sums, many in ((False, asked.sampled - 1), (True, 1)):
        kind = [probe for probe in probes if (probe.layer is None) == sums]
        drawn = random.choice(len(kind), many, replace=False)
        taken = [run_loop(kind[at], recipe, train, valid) for at in drawn]
        loop_s += len(kind) * float(np.mean([each[0] for each in taken]))
        loop_read_s += len(kind) * float(np.mean([each[1] for each in taken]))
    bound_s = count_operations(probes, recipe, size) / asked.product
    print(
        f"{len(probes)} probes, one epoch\n"
        f"  ours   {ours_s:9.2f} s, {wall_s:.2f} s on the wall; data path {ours_read_s:.2f} s\n"
        f"  loop   {loop_s:9.2f} s by {asked.sampled} probes; data path {loop_read_s:.2f} s\n"
        f"  bound  {bound_s:9.2f} s of products\n"
        f"ours is {loop_s / ours_s:.2f} x as fast; its data path takes {ours_read_s / loop_read_s:.1%} of the loop's; "
        f"products would be {bound_s / ours_s:.0%} of its time at the rate of a large one\n"
        f"own memory: {before / 1e6:.0f} MB before (torch, labels), {watching.most / 1e6:.0f} MB at the peak",
        flush=True,
    )


def main() -> None:
    """Measure the machine, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small store, for a test")
    parser.add_argument("--folder", type=Path, help="where there is room for 4.5 GB; else the system's for such")
    parser.add_argument("--seeds", type=int, default=3, help="that ours is timed for")
    parser.add_argument("--clips", type=int, default=Size.clips)
    parser.add_argument("--sampled", type=int, default=12, help="probes of the loop")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size = Size(20, 4.0, 3, 32) if asked.quick else Size(asked.clips)
    asked.product = measure_product()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        frames = write(Path(folder), size)
        nbytes = sum(store.size_bytes() for store in frames.stores)
        print(
            f"{size.clips} clips of {size.length_s:g} s at {RATE_HZ:g} Hz in {size.layers} layers, {size.width} wide: "
            f"{nbytes / 1e9:.2f} GB; torch {torch.__version__}, one thread, products {asked.product / 1e9:.0f} GFLOP/s",
            flush=True,
        )
        compare(asked, size, frames, Path(folder))


if __name__ == "__main__":
    main()

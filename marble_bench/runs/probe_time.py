"""How long the probes of a run will train, before its features are there: by records, else by a first block on noise.

Only the pace is measured: how many epochs a probe trains before it stops follows from its features. So what a block took is
multiplied with the most epochs that the task allows, which is an upper bound, or, where a protocol has no limit, with the
fewest after which a probe stops, a lower bound. The exact solver is measured from end to end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from marble_bench.data.examples import Examples
from marble_bench.data.times import clip_annotation
from marble_bench.features.frames import compute_rate
from marble_bench.features.timing import Timing
from marble_bench.records.record import Record
from marble_bench.runs.config import RunConfig
from marble_bench.runs.layers import choose_places
from marble_bench.scoring.targets import ClipTarget, Frames, Scalars

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.probes import trainer

MEASURE_S = 1.5  # seconds that rounds of the first block are measured at least
FIRST_BLOCK = "a first block trained on noise"
MOST_WINDOWS = 2048  # windows of noise that stand for all windows of the training clips
MOST_CLIPS = 16  # sounds of noise that stand for all of a task that reads frames
EPOCHS = 4  # of a block of probes that read frames


@dataclass(frozen=True)
class ProbeTime:
    """Hours that probes train. bound: `about`, `at most` or `at least`. source: where that is from."""

    hours: float
    bound: str
    source: str


def of_records(records: Sequence[Record]) -> ProbeTime | None:
    """What the probes took in records of the same model, task, protocol and kind of device; None if there are none."""
    if not records:
        return None
    hours = statistics.median(made.cost.probe_s for made in records) / 3600
    return ProbeTime(round(hours, 4), "about", "records")


def measure(config: RunConfig, found: Examples, lengths_s: Sequence[float], mini: bool) -> ProbeTime | None:
    """Train the first block on noise for a moment. lengths_s: of each example. None for a task that separates stems."""
    target = config.task.target
    if not config.probes.protocol.trains:
        return ProbeTime(0.0, "about", "no training")
    if not all(found.places(split) for split in ("train", "valid")):
        return None
    if isinstance(target, Frames):
        return _measure_frames(config, target, found, lengths_s, mini)
    if isinstance(target, ClipTarget):
        return _measure_pooled(config, target, found, lengths_s)
    return None


def _measure_pooled(
    config: RunConfig, target: ClipTarget, found: Examples, lengths_s: Sequence[float]
) -> ProbeTime | None:
    """As `measure`, for a task that reads a vector for each window."""
    from marble_bench.features.pooled import count_rows
    from marble_bench.probes import trainer

    encoder, task, protocol, ours = config.features.encoder, config.task, config.training_protocol, config.probes
    assert encoder is not None
    many = {
        split: sum(count_rows(lengths_s[place], task.window) for place in found.places(split))
        for split in ("train", "valid")
    }
    if not all(many.values()):
        return None
    names, widths = [layer.name for layer in encoder.layers], [layer.width for layer in encoder.layers]
    layers, with_sum, with_concat = choose_places(ours, names, encoder.summable)
    probes = trainer.build_grid(protocol, layers, with_sum, ours.seeds, with_concat=with_concat)
    every = tuple(range(len(names)))
    recipe = trainer.Recipe(protocol, task.schedule, target.width, target.loss, _no_score, encoder.summable, every)
    part = 1.0 if protocol.validate_steps else min(1.0, MOST_WINDOWS / many["train"])
    train, valid = (
        _noise(found.of(split), target, widths, max(1, round(part * count))) for split, count in many.items()
    )
    taken = _first_block(probes, train, valid, recipe, ours.device)
    return replace(taken, hours=round(taken.hours / part, 4))


def _measure_frames(
    config: RunConfig, target: Frames, found: Examples, lengths_s: Sequence[float], mini: bool
) -> ProbeTime:
    """As `measure`, for a task that is asked frame by frame, by its first group. What decoding takes is not in it."""
    from marble_bench.probes import framewise, trainer
    from marble_bench.runs.frame_labels import Scale, make_frameset
    from marble_bench.runs.frame_layers import choose_frame_layers
    from marble_bench.runs.kinds.frames import CROP_S, schedule_of

    encoder, ours, layers = config.features.encoder, config.probes, choose_frame_layers(config)
    assert encoder is not None
    timing = Timing.of(target)
    stored = [encoder.layers[index] for index in layers.stored]
    part = min(1.0, MOST_CLIPS / len(found.of("train")))
    scale, sets = Scale.of(target, [row.clip.target for row in found if row.clip.split != "test"]), []
    for split in ("train", "valid"):
        places = found.places(split)[: max(1, round(part * len(found.of(split))))]
        cut = [clip_annotation(target, found[place].clip, lengths_s[place])[0] for place in places]
        frames = NoiseFrames(
            [lengths_s[place] for place in places],
            [layer.width for layer in stored],
            [compute_rate(layer, timing) for layer in stored],
        )
        sets.append(make_frameset(target, frames, [clip.target for clip in cut], scale))
    schedule = schedule_of(config, mini)
    short = replace(schedule, max_epochs=EPOCHS)
    recipe = framewise.Recipe(ours.changed_protocol, short, target.answered, CROP_S, layers.summable, target.stops_by)
    probes = trainer.build_grid(ours.changed_protocol, layers.places, bool(layers.summed), ours.seeds)
    first, ends = framewise.group_probes(probes, ours.device)[0], list[float]()
    framewise.fit(first, sets[0], sets[1], recipe, ours.device, lambda *_: ends.append(time.perf_counter()))
    epoch_s = (ends[-1] - ends[0]) / (len(ends) - 1)  # the first epoch makes much ready
    hours = epoch_s / part * schedule.max_epochs * len(probes) / len(first) / 3600
    return ProbeTime(round(hours, 4), "at most", FIRST_BLOCK)


class NoiseFrames:
    """Noise in place of the frames of some sounds. widths, rates: of the layers."""

    def __init__(self, lengths_s: Sequence[float], widths: list[int], rates: list[float]) -> None:
        import numpy as np

        self.lengths_s, self.widths, self.rates = lengths_s, widths, rates
        random, most = np.random.default_rng(0), max(lengths_s) * max(rates)
        self._of_width = {
            width: random.standard_normal((int(most) + 1, width), dtype=np.float32).astype(np.float16)
            for width in set(widths)
        }

    def __len__(self) -> int:
        return len(self.lengths_s)

    def length(self, layer: int, item: int) -> int:
        """Frames of a sound in a layer."""
        return int(self.lengths_s[item] * self.rates[layer])

    def read(self, layer: int, item: int, first: int, count: int) -> NDArray[np.float16]:
        """`(count, width)`: a stretch of a sound's frames."""
        return self._of_width[self.widths[layer]][first : first + count]


def _no_score(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """A score for noise, by which no probe diverges."""
    import torch

    return torch.zeros(len(outputs))


def _noise(found: Examples, target: ClipTarget, widths: Sequence[int], windows: int) -> trainer.Split:
    """A split of so many windows of noise, each a clip of its own, with labels of the split."""
    import numpy as np
    import torch

    from marble_bench.probes import trainer

    truth: NDArray[Any] = found.truth(target)
    truth = truth[np.arange(windows) % len(truth)]
    if isinstance(target, Scalars):
        truth = ((truth - truth.mean(axis=0)) / np.maximum(truth.std(axis=0), 1e-6)).astype(np.float32)
    generator = torch.Generator().manual_seed(0)
    of_width = {width: torch.randn(windows, width, generator=generator).half() for width in set(widths)}
    return trainer.Split([of_width[width] for width in widths], torch.arange(windows), torch.from_numpy(truth))


def _first_block(
    probes: Sequence[trainer.Probe], train: trainer.Split, valid: trainer.Split, recipe: trainer.Recipe, device: str
) -> ProbeTime:
    """What all blocks take on such features, by the first one."""
    from marble_bench.probes import block as blocking
    from marble_bench.probes import trainer

    todo = trainer.make_blocks(probes, train, valid, recipe, device)
    threads = min(blocking.count_threads(device), len(todo))
    others = len(probes) / len(todo[0]) / threads
    if recipe.protocol.solver == "exact":
        began = time.perf_counter()
        trainer.fit(todo[0], train, valid, recipe, device)
        taken = time.perf_counter() - began
        return ProbeTime(taken * others / 3600, "about", FIRST_BLOCK)
    rounds, taken = _rounds(todo[0], train, valid, recipe, device, threads)
    limit = recipe.rules.max_rounds
    most, bound = (limit, "at most") if limit else (recipe.rules.stop_patience, "at least")
    return ProbeTime(taken / rounds * most * others / 3600, bound, FIRST_BLOCK)


def _rounds(
    members: Sequence[trainer.Probe],
    train: trainer.Split,
    valid: trainer.Split,
    recipe: trainer.Recipe,
    device: str,
    threads: int,
) -> tuple[int, float]:
    """Rounds of a block, and the seconds that they took; the first round, in which much is made ready, is not counted."""
    from marble_bench.probes import trainer
    from marble_bench.probes.block import Block, list_layers
    from marble_bench.probes.inputs import Features

    with trainer.torch_threads(1 if threads > 1 else None):
        block = Block(members, Features(train, valid, list_layers(members, recipe), device), recipe, device)
        block.run_round(lambda: False)
        began, rounds = time.perf_counter(), 0
        while not rounds or (block.alive and time.perf_counter() - began < MEASURE_S):
            block.run_round(lambda: False)
            rounds += 1
        return rounds, time.perf_counter() - began

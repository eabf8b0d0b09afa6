"""What a perturbation costs: the probes that validation chose, asked again about test clips that were changed.

Training and validation never see a changed clip, so nothing of the choice moves. A drop compares the same clips: one whose
moved label is no label of the task is left out on both sides, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from marble_bench import record
from marble_bench.errors import UsageError
from marble_bench.features import extract
from marble_bench.gather import Gathered
from marble_bench.request import Request
from marble_bench.results import number
from marble_bench.scoring import Answers
from marble_bench.targets import Classes, Scalars, Tags

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from marble_bench.features.table import Features


def check(request: Request) -> None:
    """Raise UsageError if a run cannot be asked for perturbations."""
    if not request.perturb:
        return
    task = request.named.task
    if not isinstance(task.target, (Classes, Tags, Scalars)):
        raise UsageError(
            f"--perturb: task '{request.named.name}' asks frame by frame ({type(task.target).__name__}), and perturbations "
            "are scored where a clip has one answer; leave --perturb out, or choose another task (bench list tasks)"
        )
    if request.encoder is None:
        raise UsageError("--perturb changes audio, and --features brings none: give --model")


def split_of(name: str) -> str:
    """What a changed clip's predictions are called in the table beside a record."""
    return f"test:{name}"


def score(
    data: Gathered, request: Request, predict: Callable[[Features], torch.Tensor], answers: Answers
) -> tuple[dict[str, Any], list[pd.DataFrame]]:
    """The record's `perturbations`, and the rows of predictions behind it.

    predict: the chosen probes' outputs `(seeds, windows, width)`, in the label's own units. answers: of the clips unchanged.
    """
    import torch

    from marble_bench.probes.trainer import average_windows

    task = request.named.task
    assert isinstance(task.target, (Classes, Tags, Scalars))
    places = {clip.id: place for place, clip in enumerate(clip for clip in data.clips if clip.split == "test")}
    told, tables = {}, []
    for name, changed in data.changed.items():
        clips = changed.clips
        kept = [places[clip.id] for clip in clips]
        before = answers.outputs["test"][:, kept], answers.truth["test"][kept]
        truth = torch.from_numpy(task.target.encode([clip.target for clip in clips], [clip.id for clip in clips]))
        outputs = answers.outputs["test"][:, :0]
        if clips:
            features = extract.load(changed.store, changed.spans)
            outputs = average_windows(predict(features), torch.from_numpy(features.clip), len(clips))
            tables += record.prediction_rows(split_of(name), clips, outputs, truth)
        found: dict[str, Any] = {}
        for metric in task.metrics if clips else ():
            clean, per_seed = (metric.compute(*each).tolist() for each in (before, (outputs, truth)))
            found[metric.name] = drop(clean, per_seed, metric.higher_is_better)
        told[name] = {"clips": len(clips), "left_out": len(places) - len(clips), "scores": found}
    return told, tables


def drop(clean: list[float], per_seed: list[float], higher_is_better: bool = True) -> dict[str, Any]:
    """A metric by seed, unchanged and changed, as a record holds it; a drop above 0 is a loss."""
    before, after = sum(clean) / len(clean), sum(per_seed) / len(per_seed)
    return {
        "test": number(after),
        "clean": number(before),
        "drop": number(before - after if higher_is_better else after - before),
        "per_seed": [number(value) for value in per_seed],
    }

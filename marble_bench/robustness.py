"""What a perturbation costs: the probes that validation chose, asked again about test clips that were changed.

Training and validation never see a changed clip, so nothing of the choice moves. A drop compares the same clips: one whose
moved label is no label of the task is left out on both sides, and counted. Its interval is of the same pairs: clips, or
groups of them, are drawn again with what was answered before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from marble_bench import events, record
from marble_bench.errors import UsageError
from marble_bench.features.frames import Frames
from marble_bench.features.table import Features
from marble_bench.gather import Gathered
from marble_bench.request import Request
from marble_bench.results import number
from marble_bench.scoring import Answers
from marble_bench.statistics import admitted, paired
from marble_bench.targets import Classes, Scalars, Stems, Tags
from marble_bench.task import Clip

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from marble_bench.metrics import Metric
    from marble_bench.probes import framewise, trainer


def check(request: Request) -> None:
    """Raise UsageError if a run cannot be asked for perturbations."""
    if not request.perturb:
        return
    task = request.named.task
    if isinstance(task.target, Stems):
        raise UsageError(
            f"--perturb: task '{request.named.name}' asks for stems, and a changed mixture is no longer the sum of its own; "
            "leave --perturb out, or choose another task (bench list tasks)"
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

    target = request.named.task.target
    assert isinstance(target, (Classes, Tags, Scalars))
    told, tables = {}, []
    for name, changed in data.changed.items():
        clips, after = changed.clips, None
        if clips:
            features = changed.load()
            assert isinstance(features, Features)
            outputs = average_windows(predict(features), torch.from_numpy(features.clip), len(clips))
            truth = torch.from_numpy(target.encode([clip.target for clip in clips], [clip.id for clip in clips]))
            tables += record.prediction_rows(split_of(name), clips, outputs, truth)
            after = outputs, truth
        told[name] = _told(data, request, clips, answers, after)
    return told, tables


def score_events(
    data: Gathered,
    request: Request,
    chosen: Sequence[trainer.Fitted],
    recipe: framewise.Recipe,
    answered: events.Answered,
) -> tuple[dict[str, Any], list[pd.DataFrame]]:
    """As `score`, for a task that asks when something happens."""
    import torch

    names = request.named.task.target.names
    told, tables = {}, []
    for name, changed in data.changed.items():
        clips, after = changed.clips, None
        if clips:
            frames = changed.load()
            assert isinstance(frames, Frames)
            times = events.answer_changed(clips, frames, request, chosen, recipe)
            outputs = events.measured(times, clips)
            tables += events.prediction_rows(split_of(name), clips, times, outputs, names)
            after = outputs, torch.zeros(len(clips))
        told[name] = _told(data, request, clips, answered.measured, after)
    return told, tables


def _told(
    data: Gathered,
    request: Request,
    clips: Sequence[Clip],
    answers: Answers,
    after: tuple[torch.Tensor, torch.Tensor] | None,
) -> dict[str, Any]:
    """What a record says of a change. after: outputs and truth of the clips; None where no clip is left."""
    members = [clip for clip in data.clips if clip.split == "test"]
    places = {clip.id: place for place, clip in enumerate(members)}
    kept = [places[clip.id] for clip in clips]
    before = answers.outputs["test"][:, kept], answers.truth["test"][kept]
    groups = [clip.group or clip.id for clip in clips]
    found = {metric.name: drop(metric, before, after, groups) for metric in request.named.task.metrics} if after else {}
    return {"clips": len(clips), "left_out": len(places) - len(clips), "scores": found}


def drop(
    metric: Metric,
    before: tuple[torch.Tensor, torch.Tensor],
    after: tuple[torch.Tensor, torch.Tensor],
    groups: Sequence[str],
) -> dict[str, Any]:
    """What a record says of a metric on clips unchanged and changed; a drop above 0 is a loss.

    before, after: outputs `(seeds, clips, ...)` and truth, the clips in one order. groups: `(clips,)`, drawn together.
    """
    clean, per_seed = (metric.compute(*each).tolist() for each in (before, after))
    lost = paired(metric, before, after, groups)
    whole, changed = (sum(scores) / len(scores) for scores in (clean, per_seed))
    loss = whole - changed
    found = admitted(loss, lost.low, lost.high)  # of all clips, where the interval is of those that have a value twice
    low, high = found.low, found.high
    if not metric.higher_is_better:
        low, high, loss = -high, -low, -loss
    return {
        "test": number(changed),
        "clean": number(whole),
        "drop": number(loss),
        "drop_ci95": [number(low), number(high)],
        "per_seed": [number(value) for value in per_seed],
    }

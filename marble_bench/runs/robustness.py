"""What a perturbation costs: the probes that validation chose, asked again about test clips that were changed.

Training and validation never see a changed clip, so nothing of the choice moves. A drop compares the same clips: one whose
moved label is no label of the task is left out on both sides, and counted. Its interval is of the same pairs: clips, or
groups of them, are drawn again with what was answered before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.core.task import Clip
from marble_bench.errors import UsageError
from marble_bench.features.frames import Frames
from marble_bench.features.types import Features
from marble_bench.metrics import beats
from marble_bench.runs import build_record, events
from marble_bench.runs.config import Request
from marble_bench.runs.inputs import Gathered
from marble_bench.scoring.scores import Answers, drop, split_of
from marble_bench.scoring.targets import Classes, Scalars, Stems, Tags

if TYPE_CHECKING:
    import pandas as pd
    import torch

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


def score(
    data: Gathered, request: Request, predict: Callable[[Features], torch.Tensor], answers: Answers
) -> tuple[dict[str, Any], list[pd.DataFrame]]:
    """The record's `perturbations`, and the rows of predictions behind it.

    predict: the chosen probes' outputs `(seeds, windows, width)`, in the label's own units. answers: of the clips unchanged.
    """
    import torch

    from marble_bench.scoring.scores import average_windows

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
            tables += build_record.prediction_rows(split_of(name), clips, outputs, truth)
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
            outputs = beats.measured(times, [clip.target for clip in clips])
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

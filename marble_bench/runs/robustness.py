"""What a perturbation costs: the probes that validation chose, asked again about test clips that were changed.

Training and validation never see a changed clip, so nothing of the choice moves. A drop compares the same clips: one whose
moved label is no label of the task is left out on both sides, and counted. Its interval is of the same pairs: clips, or
groups of them, are drawn again with what was answered before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.runs.kinds import Job
from marble_bench.runs.predictions import Predictions
from marble_bench.scoring.metric import Metric
from marble_bench.scoring.scores import drop

if TYPE_CHECKING:
    from marble_bench.probes.grid import TrainedProbe


def score(job: Job, chosen: Sequence[TrainedProbe], before: Predictions) -> tuple[dict[str, Any], list[Predictions]]:
    """The record's `perturbations`, and the predictions behind them. before: of the test clips unchanged."""
    facts, tables = {}, []
    for name, changed in job.inputs.perturbed.items():
        scores = {}
        if changed.examples:
            after = job.predict_perturbed(chosen, name, changed)
            tables.append(after)
            scores = _compute_drops(job.config.task.metrics, before, after)
        left_out = len(before.examples) - len(changed.examples)
        facts[name] = {"clips": len(changed.examples), "left_out": left_out, "scores": scores}
    return facts, tables


def _compute_drops(metrics: Sequence[Metric], before: Predictions, after: Predictions) -> dict[str, Any]:
    """What each metric loses on the clips that have an answer before and after."""
    places = {name: place for place, name in enumerate(before.examples.ids)}
    rows = [places[name] for name in after.examples.ids]
    pairs = (before.outputs[:, rows], before.truth[rows]), (after.outputs, after.truth)
    return {metric.name: drop(metric, *pairs, after.groups) for metric in metrics}

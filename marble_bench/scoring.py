"""What is scored, and its scores: the outputs of the chosen probes for clips, and for what a task also asks about.

Three views of the same outputs: clip by clip (every task); the best of four ways to combine a clip's windows
(`Task.ensemble`); and group by group, outputs averaged over the clips of one recording (`Task.group_name`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import stdev
from typing import TYPE_CHECKING, Any

from marble_bench.results import number
from marble_bench.statistics import interval_of

if TYPE_CHECKING:
    import torch

    from marble_bench.metrics import Metric


@dataclass(frozen=True)
class Answers:
    """Outputs `(seeds, items, width)` and truth `(items,)` or `(items, width)` by split; `groups` of the test items."""

    outputs: dict[str, torch.Tensor]
    truth: dict[str, torch.Tensor]
    groups: list[str]


def scores(
    metrics: Sequence[Metric],
    answers: Answers,
    constant: torch.Tensor,
    suffix: str = "",
    main: bool = True,
    marks: list[str] | None = None,
) -> dict[str, Any]:
    """Every metric on the test split, with interval, seeds, validation and the score of the constant answer.

    constant: `(width,)`, the same outputs for every item, or `(items, width)`. suffix: put behind the metrics' names.
    main: the first of them is the task's main score. marks: where it is noted why a score has no interval.
    """
    outputs, truth = answers.outputs, answers.truth
    trivial = constant.expand(1, len(truth["test"]), -1)
    found = {}
    for index, metric in enumerate(metrics):
        per_seed = metric.compute(outputs["test"], truth["test"]).tolist()
        interval = interval_of(metric, outputs["test"], truth["test"], answers.groups)
        if interval.why and marks is not None:
            marks.append(f"{metric.name}{suffix}: no interval, {interval.why}")
        found[metric.name + suffix] = {
            "main": main and index == 0,
            "higher_is_better": metric.higher_is_better,
            "unit": metric.unit,
            "test": number(sum(per_seed) / len(per_seed)),
            "ci95": [number(interval.low), number(interval.high)],
            # a score that no clip can be asked for is NaN, and has no spread
            "std": stdev(per_seed) if len(per_seed) > 1 and all(map(isfinite, per_seed)) else None,
            "per_seed": [number(score) for score in per_seed],
            "valid": number(float(metric.compute(outputs["valid"], truth["valid"]).mean())),
            "trivial": number(float(metric.compute(trivial, truth["test"])[0])),
        }
    return found


def _averaged(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
    from marble_bench.probes.trainer import average_windows

    means: torch.Tensor = average_windows(outputs, clip, clips)
    return means


def ensembles() -> dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]]:
    """The four ways in which JukeMIR and MARBLE make a song's answer of its windows' outputs, by their names there.

    Each maps `(seeds, windows, classes)`, `(windows,)` each window's clip, and the number of clips to
    `(seeds, clips, classes)`: `gmean` averages logits, `mean` probabilities, `max` takes the highest logit of each class,
    `vote` counts the windows that decide for it.
    """
    import torch

    def vote(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
        decided: torch.Tensor = torch.nn.functional.one_hot(outputs.argmax(dim=-1), outputs.shape[-1]).to(outputs.dtype)
        return _averaged(decided, clip, clips)

    def probabilities(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
        return _averaged(outputs.softmax(dim=-1), clip, clips)

    def highest(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
        where = clip[None, :, None].expand_as(outputs)
        lowest = outputs.new_full((outputs.shape[0], clips, outputs.shape[2]), -torch.inf)
        reduced: torch.Tensor = lowest.scatter_reduce(1, where, outputs, "amax")
        return reduced

    return {
        "gmean": _averaged,
        "mean": probabilities,
        "max": highest,
        "vote": vote,
    }


def best_ensemble(
    metric: Metric,
    windows: dict[str, torch.Tensor],
    clip: dict[str, torch.Tensor],
    answers: Answers,
) -> tuple[Answers, list[str]]:
    """The answers by the ensemble that does best on the valid split, seed by seed, and its names; ties to the first.

    windows: outputs `(seeds, windows, classes)` by split. clip: each window's clip by split.
    """
    import torch

    made = {
        name: {split: way(windows[split], clip[split], len(answers.truth[split])) for split in windows}
        for name, way in ensembles().items()
    }
    valid = torch.stack([metric.compute(each["valid"], answers.truth["valid"]) for each in made.values()])
    names = [list(made)[index] for index in valid.argmax(dim=0).tolist()]
    outputs = {split: torch.stack([made[name][split][seed] for seed, name in enumerate(names)]) for split in windows}
    return Answers(outputs, answers.truth, answers.groups), names


def by_group(answers: Answers, groups: dict[str, list[str]]) -> Answers:
    """One answer for each group: outputs averaged over its clips, the truth that they share. groups: of clips, by split."""
    import torch

    outputs, truth = {}, {}
    names: dict[str, list[str]] = {}
    for split, of_clip in groups.items():
        names[split] = list(dict.fromkeys(of_clip))
        place = torch.tensor([names[split].index(group) for group in of_clip])
        first = [of_clip.index(name) for name in names[split]]
        outputs[split] = _averaged(answers.outputs[split], place, len(first))
        truth[split] = answers.truth[split][first]
    return Answers(outputs, truth, names["test"])

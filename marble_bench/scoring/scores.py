"""What is scored, and its scores: the outputs of the chosen probes for clips, and for what a task also asks about.

Three views of the same outputs: clip by clip (every task); the best of four ways to combine a clip's windows
(`Task.ensemble`); and group by group, outputs averaged over the clips of one recording (`Task.group_name`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import stdev
from typing import TYPE_CHECKING, Any, Literal

from marble_bench.scoring.statistics import admit_interval, compare_paired, compute_interval

if TYPE_CHECKING:
    import torch

    from marble_bench.scoring.metric import Metric

Aggregation = Literal["outputs", "probabilities"]  # what is averaged over the windows of a clip


@dataclass(frozen=True)
class Answers:
    """Outputs `(seeds, items, width)` and truth `(items,)` or `(items, width)` by split; `groups` of the test items."""

    outputs: dict[str, torch.Tensor]
    truth: dict[str, torch.Tensor]
    groups: list[str]


def compute_scores(
    metrics: Sequence[Metric],
    answers: Answers,
    constant: torch.Tensor,
    suffix: str = "",
    main: bool = True,
    warnings: list[str] | None = None,
) -> dict[str, Any]:
    """Every metric on the test split, with interval, seeds, validation and the score of the constant answer.

    constant: `(width,)`, the same outputs for every item, or `(items, width)`. suffix: put behind the metrics' names. Where
    there is no valid split, its score is None. main: the first of them is the task's main score. warnings: where it is
    noted why a score has no interval.
    """
    outputs, truth = answers.outputs, answers.truth
    trivial = constant.expand(1, len(truth["test"]), -1)
    found = {}
    for index, metric in enumerate(metrics):
        per_seed = metric.score(outputs["test"], truth["test"]).tolist()
        interval = compute_interval(metric, outputs["test"], truth["test"], answers.groups)
        if interval.why and warnings is not None:
            warnings.append(f"{metric.name}{suffix}: no interval, {interval.why}")
        found[metric.name + suffix] = {
            "main": main and index == 0,
            "higher_is_better": metric.higher_is_better,
            "unit": metric.unit,
            "test": convert_number(sum(per_seed) / len(per_seed)),
            "ci95": [convert_number(interval.low), convert_number(interval.high)],
            # a score that no clip can be asked for is NaN, and has no spread
            "std": stdev(per_seed) if len(per_seed) > 1 and all(map(isfinite, per_seed)) else None,
            "per_seed": [convert_number(score) for score in per_seed],
            "valid": convert_number(float(metric.compute(outputs["valid"], truth["valid"]).mean()))
            if "valid" in outputs
            else None,
            "trivial": convert_number(float(metric.compute(trivial, truth["test"])[0])),
        }
    return found


def average_windows(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
    """`(probes, windows, outputs)` -> `(probes, clips, outputs)`: the mean over each clip's windows.

    clip: `(windows,)`, each window's clip. clips: how many there are.
    """
    import torch

    if len(clip) == clips:
        return outputs  # one window a clip, in order
    total: torch.Tensor = outputs.new_zeros(outputs.shape[0], clips, outputs.shape[2]).index_add_(1, clip, outputs)
    return total / torch.bincount(clip, minlength=clips).clamp(min=1)[:, None]


def aggregate_windows(outputs: torch.Tensor, clip: torch.Tensor, clips: int, aggregation: Aggregation) -> torch.Tensor:
    """As `average_windows`: the mean of the `outputs` as they are, or of their softmax, the `probabilities`."""
    return average_windows(outputs.softmax(dim=-1) if aggregation == "probabilities" else outputs, clip, clips)


def list_ensembles() -> dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]]:
    """The four ways in which JukeMIR and MARBLE make a song's answer of its windows' outputs, by their names there.

    Each maps `(seeds, windows, classes)`, `(windows,)` each window's clip, and the number of clips to
    `(seeds, clips, classes)`: `gmean` averages logits, `mean` probabilities, `max` takes the highest logit of each class,
    `vote` counts the windows that decide for it.
    """
    import torch

    def vote(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
        decided: torch.Tensor = torch.nn.functional.one_hot(outputs.argmax(dim=-1), outputs.shape[-1]).to(outputs.dtype)
        return average_windows(decided, clip, clips)

    def probabilities(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
        return average_windows(outputs.softmax(dim=-1), clip, clips)

    def highest(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
        where = clip[None, :, None].expand_as(outputs)
        lowest = outputs.new_full((outputs.shape[0], clips, outputs.shape[2]), -torch.inf)
        reduced: torch.Tensor = lowest.scatter_reduce(1, where, outputs, "amax")
        return reduced

    return {
        "gmean": average_windows,
        "mean": probabilities,
        "max": highest,
        "vote": vote,
    }


def choose_ensemble(
    metric: Metric,
    windows: dict[str, torch.Tensor],
    clip: dict[str, torch.Tensor],
    answers: Answers,
) -> tuple[Answers, list[str]]:
    """The answers by the ensemble that does best on the valid split, seed by seed, and its names; ties to the first.

    windows: outputs `(seeds, windows, classes)` by split. clip: each window's clip by split.
    """
    import torch

    candidates = {
        name: {split: way(windows[split], clip[split], len(answers.truth[split])) for split in windows}
        for name, way in list_ensembles().items()
    }
    valid = torch.stack([metric.compute(each["valid"], answers.truth["valid"]) for each in candidates.values()])
    names = [list(candidates)[index] for index in valid.argmax(dim=0).tolist()]
    outputs = {
        split: torch.stack([candidates[name][split][seed] for seed, name in enumerate(names)]) for split in windows
    }
    return Answers(outputs, answers.truth, answers.groups), names


def average_groups(answers: Answers, groups: dict[str, list[str]]) -> Answers:
    """One answer for each group: outputs averaged over its clips, the truth that they share. groups: of clips, by split."""
    import torch

    outputs, truth = {}, {}
    names: dict[str, list[str]] = {}
    for split, of_clip in groups.items():
        names[split] = list(dict.fromkeys(of_clip))
        place = torch.tensor([names[split].index(group) for group in of_clip])
        first = [of_clip.index(name) for name in names[split]]
        outputs[split] = average_windows(answers.outputs[split], place, len(first))
        truth[split] = answers.truth[split][first]
    return Answers(outputs, truth, names["test"])


def convert_number(value: float) -> float | None:
    """A float for JSON: NaN and infinity become null."""
    return value if isfinite(value) else None


def split_of(name: str) -> str:
    """What a changed clip's predictions are called in the table beside a record."""
    return f"test:{name}"


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
    lost = compare_paired(metric, before, after, groups)
    whole, changed = (sum(scores) / len(scores) for scores in (clean, per_seed))
    loss = whole - changed
    found = admit_interval(
        loss, lost.low, lost.high
    )  # of all clips, where the interval is of those that have a value twice
    low, high = found.low, found.high
    if not metric.higher_is_better:
        low, high, loss = -high, -low, -loss
    return {
        "test": convert_number(changed),
        "clean": convert_number(whole),
        "drop": convert_number(loss),
        "drop_ci95": [convert_number(low), convert_number(high)],
        "per_seed": [convert_number(value) for value in per_seed],
    }

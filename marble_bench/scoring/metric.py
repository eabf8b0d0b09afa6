"""The metric contract; see the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from marble_bench.errors import UsageError
from marble_bench.files.names import RULE, is_name

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Found

Kind = Literal["classes", "tags", "masked_tags", "scalars", "frames", "events", "stems", "ranking"]


@dataclass(frozen=True)
class Measure:
    """How answers that were found in frames become a row of numbers for each clip, which metrics read.

    A metric of several clips is made of the rows, so these hold counts and sums, not ratios, wherever clips are pooled.

    of_clip: `(found, target) -> (columns,)`; found: as a task's `decode` gives it, target: the clip's own.
    trivial: `(targets of the training clips, lengths_s of other clips) -> found` of each of these: the answer of somebody
        who has not heard them.
    parts: how many of the target's parts it reads, the first ones; None for all.
    reads: all that `of_clip` reads of what was found: its name, and its shape as numpy's `reshape` takes it. A part holds
        what was decided of it, such as the index of each frame's class. What is no part has a column of its own in a
        table of predictions, so that a clip can be measured again from its row. Empty: nobody can.
    check: `(row, found, truth, thorough) -> words`: why what was measured cannot be, without the clip's annotation. truth:
        `Frames.list_first` of it; thorough: False for what takes little time. None where every row can be.
    """

    of_clip: Callable[[Found, Any], Sequence[float] | NDArray[Any]]
    trivial: Callable[[Sequence[Any], Sequence[float]], list[Found]]
    parts: int | None = None
    reads: tuple[tuple[str, tuple[int, ...]], ...] = ()
    check: Callable[[NDArray[Any], Found, NDArray[Any], bool], str] | None = None

    def rows(self, found: Sequence[Found], targets: Sequence[Any]) -> torch.Tensor:
        """`(clips, columns)` float64 of some clips."""
        import numpy as np
        import torch

        each = [np.asarray(self.of_clip(*pair), np.float64) for pair in zip(found, targets, strict=True)]
        return torch.from_numpy(np.stack(each))


@dataclass(frozen=True)
class Metric:
    """A score and how to read it. Its functions are of a module, or partial ones of such, so that it can travel to workers.

    For `frames`, `events`, `stems` and `ranking` the outputs are what was measured of each clip,
    `(probes, clips, columns)`; truth is not read.

    compute: `(outputs (probes, clips, width), truth) -> (probes,)` float64.
    per_clip: `(outputs (probes, clips, width), truth) -> (probes, clips)` float64, for paired statistics; the
        metric's own contribution of each clip, NaN for a clip without a value.
    on_resample: the same for clips drawn again, where a tag may be left with one kind of clip: the mean over the tags that
        still have an order. None where `compute` will do.
    weighted: `(outputs, truth, weights (replicates, clips)) -> (replicates, probes)`: what `on_resample` gives for clips of
        which each occurs `weights` times, for many replicates at once. None: replicates are scored one by one.
    smooth: False for a median or the like, which hardly moves when one clip is left out: a jackknife says nothing of it.
    compares: True for a score that compares clips with each other (how well a clip's neighbours are of its class), and not
        an average over clips, where clips count alone: then clips are left out one by one and never drawn twice, for a
        clip would be compared with its own copies.
    interval: `jackknife` for a score between 0 and 1 that few clips raise; see `marble_bench.scoring.statistics`.
    carried: of such a score, `truth -> (clips, parts)`, above 0 where a clip raises a part of it: the score is a mean over
        parts, and each part one over the clips that raise it. None where every clip does.
    source: the definition and the library that it is tested against.
    version: raised whenever the same answers would get another score. measured_by: functions of this folder that make the
        rows that it reads, so that their code counts as its own.
    measure: of `frames` and `events`, what makes the rows; all metrics of a task have the same.
    chooses: a quicker one that fills the columns which this metric reads, for the choice among many probes.
    """

    name: str
    kind: Kind
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    per_clip: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    source: str
    higher_is_better: bool = True
    unit: str = "fraction"
    on_resample: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    weighted: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    smooth: bool = True
    compares: bool = False
    interval: Literal["bootstrap", "jackknife"] = "bootstrap"
    carried: Callable[[torch.Tensor], torch.Tensor] | None = None
    version: int = 1
    measured_by: tuple[Callable[..., object], ...] = ()
    measure: Measure | None = None
    chooses: Measure | None = None

    def __post_init__(self) -> None:
        problems = [] if is_name(self.name) else [f"name {self.name!r} cannot be used in a record: give {RULE}"]
        if self.kind not in get_args(Kind):
            problems.append(f"kind is {self.kind!r}: give one of {', '.join(get_args(Kind))}")
        problems += [
            f"{field} is {getattr(self, field)!r}: give a function"
            for field in ("compute", "per_clip")
            if not callable(getattr(self, field))
        ]
        if self.version < 1:
            problems.append(f"version is {self.version}: start at 1")
        if problems:
            raise UsageError("\n".join(f"metric '{self.name}': {problem}" for problem in problems))

    def score(self, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """What `compute` gives, `(probes,)`. Raises UsageError where it gives something else."""
        return self._check("compute", self.compute(outputs, truth), tuple(outputs.shape[:1]), "(probes,)")

    def score_clips(self, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """What `per_clip` gives, `(probes, clips)`. Raises UsageError where it gives something else."""
        return self._check("per_clip", self.per_clip(outputs, truth), tuple(outputs.shape[:2]), "(probes, clips)")

    def _check(self, function: str, found: object, shape: tuple[int, ...], form: str) -> torch.Tensor:
        import torch

        if isinstance(found, torch.Tensor) and tuple(found.shape) == shape:
            return found
        what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise UsageError(f"metric '{self.name}': {function} returned {what}: return a tensor {form}, here {shape}")

    def targets(self) -> type:
        """The kind of target that this metric reads."""
        from marble_bench.scoring import frame_targets, targets

        kinds = {
            "classes": targets.Classes,
            "tags": targets.Tags,
            "masked_tags": targets.MaskedTags,
            "scalars": targets.Scalars,
            "frames": frame_targets.Frames,
            "events": targets.Events,
            "stems": targets.Stems,
            "ranking": targets.Ranking,
        }
        return kinds[self.kind]


def mean_of(
    per_clip: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """`Metric.weighted` of a score that is the mean of what `per_clip` gives."""
    return partial(_weighted_mean, per_clip)


def _weighted_mean(
    per_clip: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    outputs: torch.Tensor,
    truth: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    exact = weights.double()
    return exact @ per_clip(outputs, truth).double().T / exact.sum(dim=1, keepdim=True)


def weighted_nanmean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, columns)`, `(replicates, clips)` -> `(replicates, probes, columns)`: the mean of the clips that have
    a value, each counted `weights` times; NaN where none has."""
    import torch

    exact, there = values.double(), values.isfinite().double()
    total = torch.einsum("rc,pck->rpk", weights.double(), exact.nan_to_num(nan=0.0) * there)
    return total / torch.einsum("rc,pck->rpk", weights.double(), there)

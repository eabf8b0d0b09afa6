"""What probes learn of frames, and what is made of their answers: labels at a layer's rate, activations at the target's,
decoded answers, and which setting of a task's `decode` the validation split chooses.

Shapes: labels `(frames, columns)` and outputs `(frames, width)`, the target's parts side by side; found `(probes, clips)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from marble_bench.features.frames import Frames as StoredFrames
from marble_bench.scoring import frame_answers
from marble_bench.scoring.frame_targets import (
    Activations,
    AnsweredPart,
    Found,
    Frames,
    LabelPart,
    MomentPart,
    ValuePart,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from marble_bench.probes.framewise import FrameFeatures, Frameset, Recipe
    from marble_bench.probes.grid import TrainedProbe
    from marble_bench.scoring.metric import Measure, Metric

HELD_BYTES = 256 << 20  # of activations that are decoded together
ROUNDING = 1e-6  # of a frame: so far a quotient of rates may be off


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each part of values, by its name: what a probe learns is z-scores."""

    by_part: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, target: Frames, annotated: Sequence[Any]) -> Scale:
        """Of the labelled frames of some clips, by their targets. The same label everywhere has a deviation of 1."""
        import numpy as np

        found = {}
        for place, part in enumerate(target.parts):
            if isinstance(part, ValuePart):
                every = np.concatenate([np.zeros((0, 1)), *(part.encode(each[place] or (), "") for each in annotated)])
                known = every[~np.isnan(every)].astype(np.float64)
                mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
                found[part.name] = mean, deviation or 1.0
        return cls(found)

    def normalize(self, part: LabelPart, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Labels of a part as a probe learns them."""
        mean, deviation = self.by_part.get(part.name, (0.0, 1.0))
        return part.spread((labels - mean) / deviation if part.name in self.by_part else labels)

    def undo_normalization(self, part: LabelPart, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs of a part in the unit of its labels."""
        mean, deviation = self.by_part.get(part.name, (0.0, 1.0))
        return outputs * deviation + mean if part.name in self.by_part else outputs


def make_frameset(target: Frames, frames: FrameFeatures, annotated: Sequence[Any], scale: Scale) -> Frameset:
    """Some clips as the trainer reads them. annotated: their targets. What labels a clip has is encoded once."""
    from marble_bench.probes.framewise import Frameset

    encoded: dict[int, list[Any]] = {}

    def labelled(layer: int, item: int) -> NDArray[np.float32]:
        if item not in encoded:
            encoded[item] = list(map(_encode_annotation, target.answered, annotated[item]))
        return align_labels(target, encoded[item], frames.length(layer, item), frames.rates[layer], scale)

    return Frameset(frames, labelled)


def _encode_annotation(part: AnsweredPart, annotation: Any) -> Any:
    return annotation if annotation is None or isinstance(part, MomentPart) else part.encode(annotation, "")


def align_labels(
    target: Frames, encoded: Sequence[Any], frames: int, rate_hz: float, scale: Scale | None = None
) -> NDArray[np.float32]:
    """`(frames, columns)` at `rate_hz`; NaN where a frame has no label, or a part is not annotated.

    encoded: for each part that is answered the times of its moments, or its labels as `Part.encode` gives them; None: not
        annotated.
    """
    import numpy as np

    rows = np.full((frames, sum(part.columns for part in target.answered)), np.nan, np.float32)
    column = 0
    for part, own in zip(target.answered, encoded, strict=True):
        if own is not None:
            rows[:, column : column + part.columns] = (
                part.mark_frames(own, frames, rate_hz, averaged=target.feature_rate_hz is not None)
                if isinstance(part, MomentPart)
                else (scale or Scale()).normalize(part, _take_nearest(own, frames, rate_hz, target))
            )
        column += part.columns
    return rows


def _take_nearest(rows: NDArray[Any], frames: int, rate_hz: float, target: Frames) -> NDArray[Any]:
    """Labels `(rows, ...)` at the target's rate -> `(frames, ...)` at a layer's, each the nearest in time, NaN behind the
    last.

    A frame of a common feature rate is of a stretch of time, and takes the label nearest to its middle.
    """
    import numpy as np

    labels_hz = target.rate_hz or rate_hz
    if target.feature_rate_hz is None:
        at = np.floor(np.arange(frames) / rate_hz * labels_hz + 0.5).astype(int)
    else:  # of two labels as near the first, so that at equal rates frame k takes label k
        at = np.ceil((np.arange(frames) + 0.5) / rate_hz * labels_hz - 0.5 - ROUNDING).astype(int)
    taken = np.full((frames, *rows.shape[1:]), np.nan, rows.dtype)
    taken[at < len(rows)] = rows[at[at < len(rows)]]
    return taken


@dataclass(frozen=True)
class Decoder:
    """How the outputs of a run's probes become answers. device: where probes run."""

    target: Frames
    recipe: Recipe
    scale: Scale
    device: str

    @property
    def settings(self) -> tuple[float | None, ...]:
        """The values of the free parameter; None alone where there is none."""
        return self.target.settings or (None,)

    @property
    def settings_of_all(self) -> tuple[float | None, ...]:
        """The values that every probe of the grid is tried with: None alone where only chosen probes are tuned."""
        return (None,) if self.target.tuned_by else self.settings

    def decode(
        self,
        fitted: Sequence[TrainedProbe],
        split: Frameset,
        settings: Sequence[float | None],
        parts: int | None = None,
    ) -> list[list[list[Found]]]:
        """By setting, probe and clip what is found. All probes read one layer. parts: how many, the first; None: all."""
        decoded: list[list[list[Found]]] = [[[] for _ in fitted] for _ in settings]
        decode = self.target.decode or frame_answers.decode
        for rate_hz, held in self._make_batches(fitted, split, parts):
            for of_setting, setting in zip(decoded, settings, strict=True):
                for place, found in enumerate(decode(held, rate_hz, setting)):
                    of_setting[place % len(fitted)].append(found)
        return decoded

    def _make_batches(
        self, fitted: Sequence[TrainedProbe], split: Frameset, parts: int | None
    ) -> Iterator[tuple[float, list[Activations]]]:
        """Activations clip by clip, and within it probe by probe, at a rate; as many clips at once as may be held."""
        from marble_bench.probes import framewise

        layer = fitted[0].probe.reads(self.recipe.summable)[0]
        rate_hz = split.features.rates[layer]
        held: list[Activations] = []
        held_bytes = 0
        for clip, outputs in framewise.compute_activations(fitted, split, self.recipe, self.device):
            own = [self._select_activations(each, rate_hz, split, clip, parts) for each in outputs]
            held += own
            held_bytes += sum(values.nbytes for each in own for values in each.values())
            if held_bytes >= HELD_BYTES:
                yield self.target.rate_hz or rate_hz, held
                held, held_bytes = [], 0
        if held:
            yield self.target.rate_hz or rate_hz, held

    def _select_activations(
        self, outputs: NDArray[np.float32], rate_hz: float, split: Frameset, clip: int, parts: int | None
    ) -> Activations:
        """One probe's activations of a clip by part, at the target's rate; copied, so that the outputs can go."""
        import numpy as np

        features, own_hz, first = split.features, self.target.rate_hz, 0
        if own_hz is not None:
            assert isinstance(features, StoredFrames)
            there = np.arange(self.target.count_labels(features.lengths_s[clip]))
            nearest = 0.5 if self.target.feature_rate_hz is None else ROUNDING  # else in whose stretch of time it is
            at = np.floor(there / own_hz * rate_hz + nearest).astype(int)
            outputs = outputs[np.minimum(at, len(outputs) - 1)]
        found = {}
        for part in self.target.answered[:parts]:
            columns = outputs[:, first : first + part.width]
            found[part.name] = (
                columns.copy() if isinstance(part, MomentPart) else self.scale.undo_normalization(part, columns)
            )
            first += part.width
        return found

    def choose_settings(
        self,
        fitted: Sequence[TrainedProbe],
        split: Frameset,
        targets: Sequence[Any],
        metric: Metric,
        settings: Sequence[float | None],
    ) -> list[tuple[float, float | None]]:
        """Of each probe the score on a split at its best setting, and that setting; of equals, the first."""
        measure = metric.chooses or measure_of(metric)
        every = self.decode(fitted, split, settings, measure.parts)
        chosen = []
        for place in range(len(fitted)):
            scores = [score(metric, measure, of_setting[place], targets) for of_setting in every]
            best = scores.index(max(scores, key=_require_known))
            chosen.append((scores[best], settings[best]))
        return chosen


def _require_known(value: float) -> float:
    return value if value == value else float("-inf")


def measure_of(metric: Metric) -> Measure:
    """What makes the rows that a metric of frames reads."""
    assert metric.measure is not None  # see `Task`
    return metric.measure


def score(metric: Metric, measure: Measure, found: Sequence[Found], targets: Sequence[Any]) -> float:
    """A metric of what one probe found in some clips."""
    import torch

    return float(metric.compute(measure.rows(found, targets)[None], torch.zeros(len(targets)))[0])

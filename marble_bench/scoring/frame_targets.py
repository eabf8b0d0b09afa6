"""Targets that are asked frame by frame: `Frames`, a set of named parts, each with labels of its own form.

A part is one question of every frame: a class (`ClassPart`), several tags (`TagPart`), a place on an axis of bins
(`BinPart`), a value (`ValuePart`), or whether a moment such as a beat falls on it (`MomentPart`). A last part may hold the
annotation itself, which only a measure reads (`SegmentPart`). A clip's target holds an annotation for each part, in order,
or None where the clip has none of that part:

- of moments the ascending times in seconds;
- of segments the ascending (start_s, end_s, label);
- of every other part one label for each frame at `Frames.rate_hz`, label k standing for time k / rate_hz seconds. A frame
  without a label has None: it is neither learnt from nor scored.

Encoders have frame rates of their own. A probe learns at its layer's rate: frame j, at time j / rate, takes the label
nearest in time, and a moment at t seconds falls on frame round(t x rate) and on both its neighbours. Where the target has a
`feature_rate_hz`, all layers are averaged to that, and a moment falls on frame floor(t x rate). Answers are scored at
`rate_hz`, so that every encoder is asked the same questions: label k takes the answer of the frame nearest in time, behind
the last frame that of the last.

Shapes: labels `(frames, columns)` float32, NaN where a frame has no label; outputs `(frames, width)`, parts side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from marble_bench.audio import perturb
from marble_bench.errors import DataError, suggest_name
from marble_bench.files.names import RULE, is_name
from marble_bench.files.tables import brief

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BEYOND_S = 2.0  # an annotation that goes on so far behind the end of the audio is of something else
NEIGHBOURS = 1  # frames on either side of a moment that are labelled too

FrameLoss = Literal["binary", "class", "bins", "value"]
Activations: TypeAlias = "Mapping[str, NDArray[np.floating[Any]]]"  # by part `(frames, width)`, of one clip
Found: TypeAlias = "Mapping[str, NDArray[Any]]"  # by part what was decoded for one clip, such as times in seconds
Decode: TypeAlias = "Callable[[Sequence[Activations], float, float | None], list[Found]]"


@dataclass(frozen=True)
class ClassPart:
    """One of several names in each frame, such as a chord's root. A label is the name. Learnt by cross-entropy."""

    name: str
    labels: tuple[str, ...]
    loss: FrameLoss = field(default="class", init=False)

    @property
    def width(self) -> int:
        return len(self.labels)

    @property
    def columns(self) -> int:
        return 1

    def encode(self, labels: Sequence[Any], clip: str) -> NDArray[np.float32]:
        """`(frames, 1)`: the index of each frame's name."""
        import numpy as np

        place = {label: index for index, label in enumerate(self.labels)}
        known = [math.nan if label is None else place.get(label, -1) for label in labels]
        if -1 in known:
            raise _explain_no_label(labels[known.index(-1)], self, clip)
        return np.array(known, np.float32).reshape(-1, 1)

    def spread(self, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded labels as a probe learns them: the same."""
        return labels


@dataclass(frozen=True)
class TagPart:
    """Any number of several names in each frame, such as the instruments that play. A label is the tuple of the names.

    Learnt by binary cross-entropy, averaged over the names.
    """

    name: str
    labels: tuple[str, ...]
    loss: FrameLoss = field(default="binary", init=False)

    @property
    def width(self) -> int:
        return len(self.labels)

    @property
    def columns(self) -> int:
        return len(self.labels)

    def encode(self, labels: Sequence[Any], clip: str) -> NDArray[np.float32]:
        """`(frames, names)` of 0 and 1."""
        import numpy as np

        place = {label: index for index, label in enumerate(self.labels)}
        encoded = np.zeros((len(labels), self.width), np.float32)
        for row, tags in enumerate(labels):
            if tags is None:
                encoded[row] = np.nan
                continue
            if not isinstance(tags, (tuple, list, set, frozenset)):
                raise DataError(f"clip '{clip}' has the {self.name} {brief(tags)}; give a tuple of names, or None")
            for tag in tags:
                if tag not in place:
                    raise _explain_no_label(tag, self, clip)
                encoded[row, place[tag]] = 1
        return encoded

    def spread(self, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded labels as a probe learns them: the same."""
        return labels


@dataclass(frozen=True)
class BinPart:
    """A place on an axis, learnt as a distribution over bins, such as a pitch in cents. A label is the number.

    centres: of the bins, ascending. blur: standard deviation of the Gaussian around a label that is learnt, in the unit
    of the axis; 0 for all weight on the nearest bin. cutoff: where that Gaussian, 1 at the label, is below it, a bin has no
    weight; the nearest bin always has. Learnt by cross-entropy with that distribution.
    """

    name: str
    centres: tuple[float, ...]
    blur: float = 0.0
    cutoff: float = field(default=0.0, kw_only=True)
    loss: FrameLoss = field(default="bins", init=False)

    @property
    def width(self) -> int:
        return len(self.centres)

    @property
    def columns(self) -> int:
        return len(self.centres)

    def encode(self, labels: Sequence[Any], clip: str) -> NDArray[np.float32]:
        """`(frames, 1)`: the number of each frame."""
        return _make_numbers(labels, self.name, clip)

    def nearest(self, labels: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """`(frames, 1)` numbers -> `(frames, 1)`: the bin whose centre is nearest, of equals the first."""
        import numpy as np

        place: NDArray[np.int64] = np.abs(labels - np.asarray(self.centres)).argmin(axis=1)[:, None]
        return place

    def spread(self, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded labels as a probe learns them: `(frames, bins)`, weights that sum to 1."""
        import numpy as np

        if self.blur:
            squares = np.square((labels - np.asarray(self.centres, np.float32)) / self.blur)
            beyond = np.exp(-0.5 * squares) < self.cutoff
            squares -= squares.min(axis=1, keepdims=True)  # far outside the axis too, weights do not all vanish
            weights = np.where(beyond & (squares > 0), np.float32(0), np.exp(-0.5 * squares))
        else:
            weights = (np.arange(self.width) == self.nearest(labels)).astype(np.float32)
        spread: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        spread[np.isnan(labels[:, 0])] = np.nan
        return spread


@dataclass(frozen=True)
class ValuePart:
    """A number in each frame, such as a loudness. A label is the number. Learnt by squared error.

    A probe learns z-scores, by the mean and population standard deviation of all labelled frames of the train and valid
    splits, and answers in the label's own unit.
    """

    name: str
    loss: FrameLoss = field(default="value", init=False)

    @property
    def width(self) -> int:
        return 1

    @property
    def columns(self) -> int:
        return 1

    def encode(self, labels: Sequence[Any], clip: str) -> NDArray[np.float32]:
        """`(frames, 1)`: the number of each frame."""
        return _make_numbers(labels, self.name, clip)

    def spread(self, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded labels as a probe learns them: the same."""
        return labels


@dataclass(frozen=True)
class MomentPart:
    """Whether a moment falls on a frame, such as a beat or an onset. Learnt by binary cross-entropy.

    An annotation is the ascending times in seconds. Only a `decode` can make moments of activations.
    """

    name: str
    loss: FrameLoss = field(default="binary", init=False)

    @property
    def width(self) -> int:
        return 1

    @property
    def columns(self) -> int:
        return 1

    def check(self, times: Sequence[float], clip: str) -> NDArray[np.float64]:
        """The times. Raises DataError naming the clip if they are not finite, negative or not ascending."""
        import numpy as np

        exact = np.asarray(times, np.float64)
        if not np.isfinite(exact).all() or (exact < 0).any() or (np.diff(exact) <= 0).any():
            raise DataError(f"clip '{clip}' has {self.name} times that are not finite, negative or not ascending")
        return exact

    def mark_frames(
        self, times: Sequence[float], frames: int, rate_hz: float, averaged: bool = False
    ) -> NDArray[np.float32]:
        """`(frames, 1)`: 1 in the frame of a moment and in its neighbours, else 0.

        averaged: frame k is of the time from k / rate to (k + 1) / rate; else a moment is of the frame nearest to it.
        """
        import numpy as np

        marked = np.zeros((frames, 1), np.float32)
        at = (np.floor if averaged else np.round)(np.asarray(times) * rate_hz).astype(int)
        for shift in range(-NEIGHBOURS, NEIGHBOURS + 1):
            near = at + shift
            marked[near[(near >= 0) & (near < frames)]] = 1
        return marked

    def find_end_s(self, times: Sequence[Any]) -> float:
        """When the annotation ends."""
        return float(times[-1])

    def cut(self, times: Sequence[Any], length_s: float) -> tuple[Any, ...]:
        """The annotation before `length_s`."""
        return tuple(t for t in times if t < length_s)

    def stretch(self, times: Sequence[Any], rate: float) -> tuple[Any, ...]:
        """The annotation of audio that is played `rate` times as fast."""
        return tuple(t / rate for t in times)

    def list_numbers(self, times: Sequence[Any]) -> list[float]:
        """The annotation as a table of predictions shows it."""
        return list(times)


@dataclass(frozen=True)
class SpanPart(MomentPart):
    """Which of several names hold in a frame, by spans of time that may overlap, such as the notes of a piano.

    An annotation is the spans (start_s, end_s, label), by ascending start. A frame holds the names of the spans that its
    middle is in, and a span holds at least one frame. begins: learnt is where spans begin instead, in a frame and its
    neighbours. Learnt by binary cross-entropy, averaged over the names. Only a `decode` can make spans of activations.

    Beside `TagPart`: the times stay exact, and a long corpus needs the memory of its spans alone.
    """

    labels: tuple[str, ...] = field(kw_only=True)
    begins: bool = field(default=False, kw_only=True)

    @property
    def width(self) -> int:
        return len(self.labels)

    @property
    def columns(self) -> int:
        return len(self.labels)

    def check(self, spans: Sequence[Any], clip: str) -> NDArray[np.float64]:
        """The starts. Raises DataError naming the clip if one is no span of these labels, or they do not ascend."""
        import numpy as np

        known, before_s = set(self.labels), 0.0
        for span in spans:
            if not isinstance(span, (tuple, list)) or len(span) != 3:
                raise DataError(f"clip '{clip}' has the {self.name} {brief(span)}; give (start_s, end_s, label)")
            if span[2] not in known:
                raise _explain_no_label(span[2], self, clip)
            if not before_s <= span[0] < span[1] < math.inf:
                raise DataError(
                    f"clip '{clip}' has {self.name}s that do not ascend, are empty or not finite: {brief(span)} comes after "
                    f"one that starts at {before_s:g} s"
                )
            before_s = span[0]
        return np.array([span[0] for span in spans], np.float64)

    def mark_frames(
        self, spans: Sequence[Any], frames: int, rate_hz: float, averaged: bool = False
    ) -> NDArray[np.float32]:
        """`(frames, labels)`: 1 where a span holds, or begins, else 0. averaged: as for moments."""
        import numpy as np

        marked = np.zeros((frames, self.width), np.float32)
        if not len(spans):
            return marked
        starts, ends, names = zip(*spans, strict=True)
        place = {label: index for index, label in enumerate(self.labels)}
        columns = np.array([place[name] for name in names])
        at = (np.floor if averaged else np.round)(np.array(starts) * rate_hz).astype(int)
        if self.begins:
            for near in (at + shift for shift in range(-NEIGHBOURS, NEIGHBOURS + 1)):
                inside = (near >= 0) & (near < frames)
                marked[near[inside], columns[inside]] = 1
            return marked
        middle = 0.5 if averaged else 0.0
        first, last = (np.ceil(np.array(times) * rate_hz - middle).astype(int) for times in (starts, ends))
        first = np.where(first < last, first, at)
        for begin, end, column in zip(first, np.maximum(last, first + 1), columns, strict=True):
            marked[begin:end, column] = 1
        return marked

    def find_end_s(self, spans: Sequence[Any]) -> float:
        """When the last span begins: one that rings on behind the audio is cut."""
        return float(spans[-1][0])

    def cut(self, spans: Sequence[Any], length_s: float) -> tuple[Any, ...]:
        """The spans that begin before `length_s`, and end then at the latest."""
        return tuple((start, min(end, length_s), label) for start, end, label in spans if start < length_s)

    def stretch(self, spans: Sequence[Any], rate: float) -> tuple[Any, ...]:
        """The annotation of audio that is played `rate` times as fast."""
        return tuple((start / rate, end / rate, label) for start, end, label in spans)

    def list_numbers(self, spans: Sequence[Any]) -> list[float]:
        """Start, end and index of the label of each span, one after another."""
        place = {label: index for index, label in enumerate(self.labels)}
        return [float(number) for start, end, label in spans for number in (start, end, place[label])]


@dataclass(frozen=True)
class SegmentPart:
    """Stretches of time with a label, as they are annotated, such as chords or sections. Not learnt and not answered.

    An annotation is the ascending segments (start_s, end_s, label), which do not overlap. A `Measure` reads them, where a
    score depends on exact times, or on labels that probes do not distinguish.
    """

    name: str
    width: int = field(default=0, init=False)
    columns: int = field(default=0, init=False)

    def check(self, segments: Sequence[Any], clip: str) -> int:
        """How many segments there are. Raises DataError naming the clip if one is no segment, or they do not ascend."""
        end_s = 0.0
        for segment in segments:
            if not isinstance(segment, tuple) or len(segment) != 3 or not isinstance(segment[2], str):
                raise DataError(f"clip '{clip}' has the {self.name} {brief(segment)}; give (start_s, end_s, label)")
            if not end_s <= segment[0] < segment[1] < math.inf:
                raise DataError(
                    f"clip '{clip}' has {self.name} that overlap, do not ascend or are not finite: {brief(segment)} comes "
                    f"after {end_s:g} s"
                )
            end_s = segment[1]
        return len(segments)


LabelPart: TypeAlias = ClassPart | TagPart | BinPart | ValuePart
AnsweredPart: TypeAlias = LabelPart | MomentPart
Part: TypeAlias = AnsweredPart | SegmentPart


@dataclass(frozen=True)
class Frames:
    """Questions that are asked of every frame: named parts, whose losses are added up.

    rate_hz: labels a second, at which answers are scored; None where all parts are moments, which are decoded at the
    layer's own rate.
    decode: the task's own way from activations to answers: `(clips, rate_hz, setting) -> found`, for each clip a mapping
    from part to what was found. Of each clip it gets by part `(frames, width)`: probabilities of classes, tags, bins and
    moments, or values in their unit. It may be asked for some of the parts alone. None: `frame_answers`, frame by frame.
    settings: values of its free parameter. The task's main metric chooses one on the validation split, for each probe; of
    equals, the first. Empty: `decode` gets None.
    tuned_by: the name of another metric that chooses it, of each chosen probe alone, where the main one does not depend on
    it; until then `decode` gets None. Empty: the main metric.
    stops_by: the parts whose validation loss decides when a probe stops and which weights are kept; empty: all.
    feature_rate_hz: frames a second that every layer is averaged to before it is stored; probes learn and answer at that
    rate, frame k being of the time from k / rate to (k + 1) / rate. None: each layer's own rate.
    context_s: the longest stretch that an encoder is given at once, in seconds; such windows overlap by half, and the
    middle of each is kept. None: the whole clip, or as much as the encoder takes.
    """

    parts: tuple[Part, ...]
    rate_hz: float | None = None
    decode: Decode | None = None
    settings: tuple[float, ...] = ()
    stops_by: tuple[str, ...] = ()
    feature_rate_hz: float | None = None
    context_s: float | None = None
    tuned_by: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def answered(self) -> tuple[AnsweredPart, ...]:
        """The parts that probes learn and answer: all but segments."""
        return tuple(part for part in self.parts if not isinstance(part, SegmentPart))

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)

    @property
    def unit(self) -> str:
        """What annotations are counted in, for messages."""
        return "labels"

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """Annotations -> `(clips, parts)` float32: labelled frames or moments of each part, NaN where not annotated.

        Raises DataError naming the clip if one is not of its part's form, or nothing is annotated.
        """
        import numpy as np

        counts = np.full((len(targets), len(self.parts)), np.nan, np.float32)
        for row, (target, clip) in enumerate(zip(targets, clips, strict=True)):
            if not isinstance(target, (tuple, list)) or len(target) != len(self.parts):
                raise DataError(
                    f"clip '{clip}' has the target {brief(target)}; give an annotation for each of {self.names}"
                )
            if all(annotation is None for annotation in target):
                raise DataError(f"clip '{clip}' has nothing annotated of {self.names}")
            for column, (annotation, part) in enumerate(zip(target, self.parts, strict=True)):
                if annotation is not None:
                    counts[row, column] = _count(part, annotation, clip)
        return counts

    def facts(self) -> list[Any]:
        """What is declared that a score depends on, as JSON can hold it, beside the names; functions are of a file."""
        parts = [[type(part).__name__, _list_facts(part)] for part in self.parts]
        more = {"feature_rate_hz": self.feature_rate_hz, "context_s": self.context_s, "tuned_by": self.tuned_by or None}
        asked = {name: value for name, value in more.items() if value is not None}
        return [parts, self.rate_hz, list(self.settings), list(self.stops_by), *([asked] if asked else [])]

    def within(self, target: Any, clip: str, length_s: float) -> tuple[Any, int]:
        """A clip's target up to the end of its audio, and how many moments or labelled frames are cut off.

        Raises DataError if it goes on so far behind the end that it is of something else, or if all of it is behind the end.
        """
        last = max(map(self._find_last_s, self.parts, target), default=0.0)
        if last > length_s + BEYOND_S:
            hint = (
                "; or its times are milliseconds" if last / 1000 <= length_s + BEYOND_S and last > 10 * length_s else ""
            )
            raise DataError(
                f"clip '{clip}' lasts {length_s:.2f} s and is annotated up to {last:.2f} s: "
                f"its annotation is of other audio, or its audio was cut; get both again{hint}"
            )
        inside = tuple(map(self._cut, self.parts, target, [length_s] * len(self.parts)))
        before, after = (sum(map(_count_labels, each)) for each in (target, inside))
        if before and not after:
            raise DataError(
                f"clip '{clip}' lasts {length_s:.2f} s, and all that is annotated of it is of later times: get its "
                "annotation and its audio again"
            )
        return inside, before - after

    def changed(self, target: Any, change: str, length_s: float) -> Any:
        """A clip's target after a perturbation of its audio, which then lasts `length_s`; None where nothing is left."""
        rate = perturb.CHANGES[change].rate
        moved: list[Any] = []
        for part, annotation in zip(self.parts, target, strict=True):
            if annotation is None:
                moved.append(None)
            elif isinstance(part, MomentPart):
                moved.append(part.cut(part.stretch(annotation, rate), length_s))
            elif isinstance(part, SegmentPart):
                stretched = tuple((start / rate, end / rate, label) for start, end, label in annotation)
                moved.append(self._cut(part, stretched, length_s))
            else:
                frames = min(self.count_labels(length_s), math.ceil(len(annotation) / rate))
                moved.append(
                    tuple(annotation[min(math.floor(k * rate + 0.5), len(annotation) - 1)] for k in range(frames))
                )
        return tuple(moved) if any(map(_count_labels, moved)) else None

    def count_labels(self, length_s: float) -> int:
        """How many labels are of times before `length_s`."""
        assert self.rate_hz is not None
        return max(0, math.ceil(length_s * self.rate_hz - 1e-6))

    def find_label_end_s(self, target: Any) -> float:
        """When the labels and segments of a clip end; 0 where it has none, as where all parts are moments."""
        asked = [pair for pair in zip(self.parts, target, strict=True) if not isinstance(pair[0], MomentPart)]
        return max((self._find_last_s(*pair) for pair in asked), default=0.0)

    def _find_last_s(self, part: Part, annotation: Any) -> float:
        if annotation is None or not len(annotation):
            return 0.0
        if isinstance(part, MomentPart):
            return part.find_end_s(annotation)
        if isinstance(part, SegmentPart):
            return float(annotation[-1][1])
        assert self.rate_hz is not None
        return max((k for k, label in enumerate(annotation) if label is not None), default=0) / self.rate_hz

    def _cut(self, part: Part, annotation: Any, length_s: float) -> Any:
        if annotation is None:
            return None
        if isinstance(part, MomentPart):
            return part.cut(annotation, length_s)
        if isinstance(part, SegmentPart):
            return tuple((start, min(end, length_s), label) for start, end, label in annotation if start < length_s)
        return tuple(annotation[: self.count_labels(length_s)])

    def column(self, part: Part) -> str:
        """What is found of a part is called so in a table of predictions."""
        return f"{part.name}s" if isinstance(part, MomentPart) else part.name

    def problems(self) -> list[str]:
        """What is wrong with the declaration, a line each."""
        by_label = [part.name for part in self.answered if not isinstance(part, MomentPart)]
        moments = [part.name for part in self.parts if isinstance(part, MomentPart)]
        found = []
        if by_label and not (self.rate_hz or 0) > 0:
            found.append(f"target has the rate_hz {self.rate_hz!r}: give the labels a second of {', '.join(by_label)}")
        if moments and self.decode is None:
            found.append(f"target has no decode: give the function that finds {', '.join(moments)} in activations")
        if self.settings and self.decode is None:
            found.append("target has settings and no decode that takes them")
        if self.tuned_by and not self.settings:
            found.append(f"target is tuned_by {self.tuned_by} and has no settings")
        for name, value in (("feature_rate_hz", self.feature_rate_hz), ("context_s", self.context_s)):
            if value is not None and not (type(value) in (int, float) and 0 < value < math.inf):
                found.append(f"target has the {name} {value!r}: give a number above 0, or leave it out")
        answered = [part.name for part in self.answered]
        if self.parts[: len(answered)] != self.answered or not answered:
            found.append("segments are not learnt: put another part before them")
        if strange := [name for name in self.stops_by if name not in answered]:
            found.append(f"stops_by names {', '.join(strange)}: the parts are {', '.join(answered)}")
        found += [f"part {name!r} cannot be used in a record: give {RULE}" for name in self.names if not is_name(name)]
        found += [f"part '{part.name}' has fewer than two labels" for part in self.parts if _has_too_few(part)]
        return found

    def list_first(self, target: Any) -> list[float]:
        """What a table of predictions shows as a clip's truth: the times of the first part, or its labels as numbers, of
        the frames that have one."""
        import numpy as np

        part, annotation = self.answered[0], target[0]
        if annotation is None:
            return []
        if isinstance(part, MomentPart):
            return part.list_numbers(annotation)
        encoded = part.encode(annotation, "")
        shown: list[float] = encoded[~np.isnan(encoded).any(axis=1)].reshape(-1).tolist()
        return shown


def _list_facts(part: Part) -> dict[str, Any]:
    """The fields of a part. A cutoff of 0, as all parts had before there was one, is no fact."""
    return {name: value for name, value in asdict(part).items() if (name, value) != ("cutoff", 0.0)}


def _make_numbers(labels: Sequence[Any], name: str, clip: str) -> NDArray[np.float32]:
    """`(frames, 1)`; NaN for None. Raises DataError for what is no finite number."""
    import numpy as np

    try:
        numbers = np.array([math.nan if label is None else float(label) for label in labels])
    except (TypeError, ValueError) as error:
        raise DataError(f"clip '{clip}' has a {name} that is no number; give numbers, and None for no label") from error
    bad = [
        label for label, value in zip(labels, numbers, strict=True) if label is not None and not math.isfinite(value)
    ]
    if bad:
        raise DataError(f"clip '{clip}' has the {name} {brief(bad[0])}, which is not finite; None means no label")
    return numbers.astype(np.float32).reshape(-1, 1)


def _explain_no_label(label: Any, part: ClassPart | TagPart | SpanPart, clip: str) -> DataError:
    hint = suggest_name(str(label)[:99], part.labels)
    return DataError(f"clip '{clip}' has the {part.name} {brief(label)}, which is no label of that part{hint}")


def _count(part: Part, annotation: Any, clip: str) -> int:
    """Moments, or frames with a label, in an annotation. Raises DataError if it is not of its part's form."""
    import numpy as np

    if isinstance(annotation, str) or not isinstance(annotation, Sequence):
        forms = {
            MomentPart: "times in seconds",
            SpanPart: "spans (start_s, end_s, label)",
            SegmentPart: "segments (start_s, end_s, label)",
        }
        form = forms.get(type(part), "a label for each frame")
        raise DataError(f"clip '{clip}' has the {part.name} {brief(annotation)}; give {form}, or None")
    if isinstance(part, MomentPart):
        return len(part.check(annotation, clip))
    if isinstance(part, SegmentPart):
        return part.check(annotation, clip)
    return int((~np.isnan(part.encode(annotation, clip)).any(axis=1)).sum())


def _count_labels(annotation: Any) -> int:
    """How many labels or times an annotation has; 0 without one."""
    return sum(label is not None for label in annotation or ())


def _has_too_few(part: Part) -> bool:
    if isinstance(part, SegmentPart):
        return False
    return part.width < (2 if isinstance(part, (ClassPart, BinPart)) else 1)

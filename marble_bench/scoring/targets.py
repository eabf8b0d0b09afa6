"""Kinds of answer. A target derives what a probe needs: output width, loss, decision, trivial output.

Truth is kept as one array per split, `(clips,)` int64 class indices for `Classes`, `(clips, width)` float32 for `Tags`,
`MaskedTags` and `Scalars`; a probe's outputs are `(..., clips, width)`. `Frames`, with `Events`, and `Stems` are asked
frame by frame; their truth is made where they are trained. `Ranking` trains nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from marble_bench.audio import perturb
from marble_bench.errors import DataError, listing, suggest_name
from marble_bench.files.tables import brief
from marble_bench.scoring import beat_decoder
from marble_bench.scoring.frame_targets import Frames as Frames
from marble_bench.scoring.frame_targets import MomentPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

Loss = Literal["cross_entropy", "binary_cross_entropy", "squared_error", "masked_binary_cross_entropy"]
UNKNOWN = -1.0  # the truth of a tag that nobody judged
SMALL = 1e-6  # clips that are counted of each kind besides, so that log-odds are finite


def _index(name: str, names: Sequence[str], clip: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise DataError(
            f"clip {brief(clip)} is labelled {brief(name)}, which is not a label of the task"
            + (suggest_name(str(name)[:99], names) or f"; its labels are {listing(names)}")
        ) from None


@dataclass(frozen=True)
class Classes:
    """One of several names: genre, key, instrument, singer. A clip's target is the name."""

    names: tuple[str, ...]
    loss: Loss = "cross_entropy"

    @property
    def width(self) -> int:
        return len(self.names)

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """Names -> `(clips,)` int64. Raises DataError naming the clip and the closest label."""
        import numpy as np

        return np.array([_index(name, self.names, clip) for name, clip in zip(targets, clips, strict=True)], np.int64)

    def trivial(self, train: NDArray[Any]) -> NDArray[Any]:
        """`(width,)`: all weight on the most frequent training class (the first of equals)."""
        import numpy as np

        counts = np.bincount(train, minlength=self.width)
        share: NDArray[Any] = (np.arange(self.width) == counts.argmax()).astype(np.float32)
        return share


@dataclass(frozen=True)
class Tags:
    """Any number of several names. A clip's target is the tuple of the names that hold."""

    names: tuple[str, ...]
    loss: Loss = "binary_cross_entropy"

    @property
    def width(self) -> int:
        return len(self.names)

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """Tuples of names -> `(clips, width)` float32 of 0 and 1."""
        import numpy as np

        truth = np.zeros((len(targets), self.width), np.float32)
        for row, (names, clip) in enumerate(zip(targets, clips, strict=True)):
            if not isinstance(names, (tuple, list, set, frozenset)):
                raise DataError(
                    f"clip '{clip}' has the target {brief(names)}; give a tuple of its tags: ('{self.names[0]}',)"
                )
            truth[row, [_index(name, self.names, clip) for name in names]] = 1
        return truth

    def trivial(self, train: NDArray[Any]) -> NDArray[Any]:
        """`(width,)`: the share of training clips that carry each tag."""
        import numpy as np

        share: NDArray[Any] = train.mean(axis=0).astype(np.float32)
        return share


@dataclass(frozen=True)
class MaskedTags:
    """Tags of which only some were judged for each clip. A clip's target says of each judged tag whether it holds, such as
    `{"piano": True, "drums": False}`; of a tag that is not in it nothing is known.

    Tags that were not judged are in no loss and in no score.
    """

    names: tuple[str, ...]
    loss: Loss = "masked_binary_cross_entropy"

    @property
    def width(self) -> int:
        return len(self.names)

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """Mappings -> `(clips, width)` float32: 1 where a tag holds, 0 where it does not, `UNKNOWN` where nobody judged it.

        Raises DataError naming the clip if its target is no mapping of tags to True or False, or has no tag.
        """
        import numpy as np

        truth = np.full((len(targets), self.width), UNKNOWN, np.float32)
        for row, (judged, clip) in enumerate(zip(targets, clips, strict=True)):
            if not isinstance(judged, Mapping) or not judged:
                raise DataError(
                    f"clip '{clip}' has the target {brief(judged)}; say of each judged tag whether it holds: "
                    f"{{'{self.names[0]}': True}}"
                )
            for name, holds in judged.items():
                if not isinstance(holds, (bool, np.bool_)):
                    raise DataError(f"clip '{clip}' has {brief(holds)} for the tag {brief(name)}; give True or False")
                truth[row, _index(name, self.names, clip)] = holds
        return truth

    def trivial(self, train: NDArray[Any]) -> NDArray[Any]:
        """`(width,)`: the log-odds of the share of the training clips judged for each tag that carry it."""
        import numpy as np

        judged, held = (train >= 0).sum(axis=0), (train > 0).sum(axis=0)
        odds: NDArray[Any] = np.log((held + SMALL) / (judged - held + SMALL)).astype(np.float32)
        return odds


@dataclass(frozen=True)
class Scalars:
    """Real numbers, one per name. A clip's target is the tuple of values.

    A probe learns z-scores by the mean and population standard deviation over the development set, which is the train
    and valid splits together (as JukeMIR and MARBLE do for EMO); R2 does not depend on that scale.
    """

    names: tuple[str, ...]
    loss: Loss = "squared_error"

    @property
    def width(self) -> int:
        return len(self.names)

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """Tuples of values -> `(clips, width)` float32, in the label's own units."""
        import numpy as np

        truth = np.zeros((len(targets), self.width))
        for row, (target, clip) in enumerate(zip(targets, clips, strict=True)):
            try:
                values = np.array(target, np.float64).reshape(-1)
            except (TypeError, ValueError) as error:
                raise DataError(f"clip '{clip}' has the target {brief(target)}; give a tuple of numbers") from error
            if len(values) != self.width:
                raise DataError(f"clip '{clip}' has {len(values)} values; the task has {self.width}: {self.names}")
            truth[row] = values
        bad = ~np.isfinite(truth).all(axis=1)
        if bad.any():
            raise DataError(f"clip '{clips[int(bad.argmax())]}' has a label that is not a finite number")
        return truth.astype(np.float32)

    def trivial(self, train: NDArray[Any]) -> NDArray[Any]:
        """`(width,)`: the training mean."""
        import numpy as np

        mean: NDArray[Any] = train.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


@dataclass(frozen=True, init=False)
class Events(Frames):
    """Beats and downbeats: `Frames` of two parts of moments, decoded as beat and bar. A clip's target holds, for each name,
    the ascending times in seconds, or None: not annotated.

    The first name is the main one: it is always annotated, and its validation loss decides when a probe stops.
    """

    def __init__(self, names: tuple[str, ...] = ("beat", "downbeat")) -> None:
        super().__init__(tuple(map(MomentPart, names)), decode=beat_decoder.find, stops_by=names[:1])

    @property
    def unit(self) -> str:
        """What annotations are counted in, for messages."""
        return "events"

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """Times -> `(clips, width)` float32: how many there are of each, NaN where not annotated.

        Raises DataError naming the clip if times are not finite, negative, not ascending, or if it has fewer than two of the
        main kind.
        """
        import numpy as np

        counts = np.full((len(targets), self.width), np.nan, np.float32)
        for row, (target, clip) in enumerate(zip(targets, clips, strict=True)):
            if len(target) != self.width:
                raise DataError(f"clip '{clip}' has {len(target)} kinds of events; the task has {self.names}")
            if target[0] is None:
                raise DataError(
                    f"clip '{clip}' has no {self.names[0]}s annotated, which a task of {self.names[0]}s needs"
                )
            for column, (times, part) in enumerate(zip(target, self.parts, strict=True)):
                if times is None:
                    continue
                assert isinstance(part, MomentPart)
                counts[row, column] = len(part.check(times, clip))
                if not column and len(times) < 2:
                    raise DataError(
                        f"clip '{clip}' has {len(times)} annotated {part.name}s; two are needed to tell a tempo"
                    )
        return counts

    def facts(self) -> list[Any]:
        """Nothing: the names say all."""
        return []

    def within(self, target: Any, clip: str, length_s: float) -> tuple[Any, int]:
        """As `Frames.within`. Raises DataError too if fewer than two of the main kind are left."""
        inside, beyond = super().within(target, clip, length_s)
        if len(inside[0] or ()) < 2:
            raise DataError(f"clip '{clip}' has fewer than two events within its {length_s:.2f} s of audio")
        return inside, beyond

    def changed(self, target: Any, change: str, length_s: float) -> Any:
        """As `Frames.changed`; None too where fewer than two of the main kind are left, which tell no tempo."""
        return perturb.shift_times(target, change, length_s)

    def problems(self) -> list[str]:
        """What is wrong with the declaration, a line each."""
        if self.width != 2:
            return [f"target has {self.width} kinds of events: they are decoded as two, beats and downbeats"]
        return super().problems()


@dataclass(frozen=True)
class Stems:
    """The parts that a mixture is the sum of. A clip's target is nothing: its stems lie beside it."""

    names: tuple[str, ...]
    loss: Loss = "squared_error"

    @property
    def width(self) -> int:
        return len(self.names)

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """`(clips, 0)`: a mixture's label is in its stems."""
        import numpy as np

        return np.zeros((len(targets), 0), np.float32)


@dataclass(frozen=True)
class Ranking:
    """Which other items are versions of the same work. A clip's target is its work, and its `group` too.

    No probe is trained: the items of a split rank each other by cosine (`marble_bench.metrics._ranking`), and the layer is
    chosen on items that it is not scored on.

    chosen_on: `valid`, the best layer on the valid split; or `halves`: works are dealt into two halves, and the layer that
    is best on the queries of the one is scored on the queries of the other.
    """

    chosen_on: Literal["halves", "valid"] = "valid"
    names: tuple[str, ...] = ()
    loss: Loss = "squared_error"

    @property
    def width(self) -> int:
        """None: nothing is put out, items are compared with each other."""
        return 0

    def encode(self, targets: Sequence[Any], clips: Sequence[str]) -> NDArray[Any]:
        """Works -> `(clips,)` int64: 48 bits of the sha256 of each, so that equal numbers are one work in every list."""
        import numpy as np

        for work, clip in zip(targets, clips, strict=True):
            if not (isinstance(work, str) and work):
                raise DataError(f"clip {brief(clip)} has the target {brief(work)}; give the id of its work, a text")
        numbers = [int(hashlib.sha256(work.encode()).hexdigest()[:12], 16) for work in targets]
        return np.array(numbers, np.int64)


ClipTarget: TypeAlias = Classes | Tags | MaskedTags | Scalars  # one answer for a whole clip
Target: TypeAlias = ClipTarget | Frames | Stems | Ranking

"""The task contract: what is asked of a corpus. A task file declares, the machinery computes.

A task file defines one `TASK`. Its name is the file's name, `_` read as `-`. Nothing in it names an encoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from marble_bench import audio
from marble_bench.audio import Channel, Normalize
from marble_bench.core.declared import (
    BOOL,
    COUNT,
    NUMBER,
    TEXT,
    WHOLE,
    Form,
    allow_choice,
    allow_function,
    allow_instance,
    allow_tuple,
    find_problems,
    shorten_repr,
)
from marble_bench.errors import UsageError
from marble_bench.files.names import MOST_SCORES, RULE, is_name, is_text
from marble_bench.files.source import Source
from marble_bench.scoring.frame_columns import list_columns
from marble_bench.scoring.metric import Metric

if TYPE_CHECKING:
    from marble_bench.scoring.frame_targets import Frames
    from marble_bench.scoring.targets import Target

SPLITS = ("train", "valid", "test")
TARGETS = "Classes(...), Tags(...), MaskedTags(...), Scalars(...), Frames(...), Events(...), Stems(...) or Ranking(...)"
HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # as data sets of the hub call them


@dataclass(frozen=True)
class Clip:
    """One labelled item of a split: an audio file, or a span of one, and its target.

    id: unique within the task and stable; the key of predictions and of a user's own features.
    audio: path of the file below the corpus's folder, as the makers name it, with forward slashes.
    target: a name (`Classes`), a tuple of names (`Tags`) or of numbers (`Scalars`), for `MaskedTags` a mapping from each
        judged tag to whether it holds, for `Frames` an annotation (or None) for each part, for `Events` a tuple of times in
        seconds (or None) for each kind, nothing for `Stems`, the id of its work for `Ranking`.
    start_s, duration_s: the span within the file, in seconds; None for "to the end".
    group: clips that are drawn together when clips are resampled (of one recording, singer); empty: the clip alone.
    """

    id: str
    split: str
    audio: str
    target: Any
    start_s: float = 0.0
    duration_s: float | None = None
    group: str = ""

    def length_s(self, path: Path) -> float:
        """Seconds that it lasts: as declared, else from its start to the end of its file, by the samples that are there.

        Raises DataError for a file that is no audio.
        """
        return self.duration_s if self.duration_s is not None else max(0.0, audio.read_duration_s(path) - self.start_s)


@dataclass(frozen=True)
class Window:
    """How a clip is cut for the encoder: equal windows one after another, not padded unless `min_ratio` says so.

    length_s: window length in seconds; None takes the whole clip as one window. A remainder is dropped.
    first_s: use only the first so many seconds of the clip; None uses all. Normalisation still sees the whole clip.
    normalize: done to every clip, before what an encoder asks for; see `marble_bench.audio.normalize`.
    min_ratio: a remainder of at least this share of a window is kept and padded with zeros, and a clip that is shorter is
        left out. Each window is then cut at the file's own rate, resampled and normalised by itself, padding included; an
        encoder that declares `masks` is told the number of valid samples, and its windows are normalised by those alone.
    channel: `mean` of all channels, or the `first`.
    """

    length_s: float | None = None
    first_s: float | None = None
    normalize: Normalize = "none"
    min_ratio: float | None = None
    channel: Channel = "mean"

    def facts(self) -> dict[str, Any]:
        """Its values as keys hold them: those that came later only where they are set, so that old keys stay valid."""
        found = asdict(self)
        return {
            key: found[key] for key in found if key not in ("min_ratio", "channel") or found[key] not in (None, "mean")
        }


@dataclass(frozen=True)
class Schedule:
    """The part of training that published protocols set per task.

    lr_patience: epochs without a better validation score before the learning rate is halved.
    stop_patience: epochs without a better validation score before a probe stops. max_epochs: the limit.
    """

    max_epochs: int = 100
    lr_patience: int = 5
    stop_patience: int = 20


@dataclass(frozen=True)
class Fault:
    """A known fault of a corpus: the clip by its `audio` path or id, and what is wrong with it in which copy."""

    audio: str
    what: str


def _alone(path: Path) -> tuple[Path, ...]:
    return (path,)


def _none(name: str) -> str:
    return ""


def _beside(root: Path, audio: str) -> Path | None:
    path = root / audio
    return path if path.is_file() else None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One dataset on disk in its makers' layout.

    locate: `(root, audio) -> path or None`; finds a clip's file in the official layout and its common mirrors'.
    parts: `(path) -> paths`: all files of the clip whose file was located, where it has more than that one.
    mini: `(folder) -> None`; writes the miniature, synthesised music in the official layout. None: a corpus of one's own
        that has none, so that nothing runs on it by `--mini`.
    filtered: `(name) -> why`: of a file of the whole corpus that no split has, why not, by its path below the folder;
        empty for a file that is none of the corpus.
    sample_rate_hz: the rate that every file has, None where files differ; another rate is an error.
    layout: the files a user must have, in a line, for messages.
    beside: the name of the corpus whose folder holds this one too, where it has none of its own.
    version: raised whenever the same files would give other clips or labels.
    """

    name: str
    title: str
    home: str
    license: str
    citation: str
    layout: str
    mini: Callable[[Path], None] | None = None
    locate: Callable[[Path, str], Path | None] = _beside
    parts: Callable[[Path], tuple[Path, ...]] = _alone
    filtered: Callable[[str], str] = _none
    sample_rate_hz: int | None = None
    sources: tuple[Source, ...] = ()
    faults: tuple[Fault, ...] = ()
    beside: str = ""
    version: int = 1

    def find_known_fault(self, audio: str) -> Fault | None:
        """The known fault of a file, if it has one."""
        return next((fault for fault in self.faults if fault.audio == audio), None)


def _mark_unset(kind: str) -> Any:
    """A default that `__post_init__` reports, so that all mistakes of a file are told at once."""
    return field(default=cast(Any, None), metadata={"needed": kind})


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How a separator is trained and used; the defaults are MARBLE's published code.

    sample_rate_hz, n_fft, hop: of the spectrograms; frames are centred, the window is Hann's.
    chunk_s, mixtures_per_track, gain, draw_seed: of the training mixtures.
    hidden, lstm_layers, dropout, bidirectional: of the network; a bidirectional one has half of `hidden` each way.
    learning_rates, batch_size, max_epochs, lr_patience, stop_patience, plateau_factor: of training.
    wiener_frames: frames over which the Wiener step takes a stem's covariance to be constant.
    piece_s: the longest stretch that an encoder is given of a whole track.
    """

    sample_rate_hz: int = 24000
    n_fft: int = 2048
    hop: int = 320
    chunk_s: float = 6.0
    mixtures_per_track: int = 64
    gain: tuple[float, float] = (0.25, 1.25)
    draw_seed: int = 0
    hidden: int = 512
    lstm_layers: int = 3
    dropout: float = 0.4
    bidirectional: bool = False
    learning_rates: tuple[float, ...] = (1e-3,)
    batch_size: int = 32
    max_epochs: int = 50
    lr_patience: int = 2
    stop_patience: int = 5
    plateau_factor: float = 0.5
    wiener_frames: int = 600
    piece_s: float = 90.0

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def chunk(self) -> int:
        """Samples of a mixture."""
        return round(self.chunk_s * self.sample_rate_hz)

    def frames(self, samples: int) -> int:
        """Frames of a spectrogram of so many samples."""
        return samples // self.hop + 1


CLIP_FORMS = {
    **dict.fromkeys(("id", "split", "audio", "group"), TEXT),
    **dict.fromkeys(("start_s", "duration_s"), NUMBER),
}
WINDOW_FORMS = {
    **dict.fromkeys(("length_s", "first_s", "min_ratio"), NUMBER),
    "normalize": allow_choice(*get_args(Normalize)),
    "channel": allow_choice(*get_args(Channel)),
}
SCHEDULE_FORMS = dict.fromkeys(("max_epochs", "lr_patience", "stop_patience"), COUNT)
CORPUS_FORMS = {
    **dict.fromkeys(("name", "title", "home", "license", "citation", "layout", "beside"), TEXT),
    **dict.fromkeys(("sample_rate_hz", "version"), WHOLE),
    "mini": allow_function("(folder)"),
    "locate": allow_function("(root, audio) -> path or None"),
    "parts": allow_function("(path) -> paths"),
    "filtered": allow_function("(name) -> why"),
    "sources": allow_tuple(allow_instance(Source)),
    "faults": allow_tuple(allow_instance(Fault)),
}
METRIC_FORMS = dict.fromkeys(("compute", "per_clip", "on_resample"), allow_function("(outputs, truth)"))
FORMS = {
    "title": TEXT,
    "corpus": Form(lambda value: isinstance(value, Corpus), "a Corpus"),
    "clips": allow_function("(root) -> clips"),
    "metrics": allow_tuple(allow_instance(Metric)),
    "counts": Form(lambda value: isinstance(value, dict), "{'train': N, 'valid': N, 'test': N}"),
    "window": allow_instance(Window),
    **dict.fromkeys(("schedule", "mini_schedule"), allow_instance(Schedule)),
    **dict.fromkeys(("separation", "mini_separation"), allow_instance(Separation)),
    "shifted": allow_function("(target, semitones) -> target"),
    "group_name": TEXT,
    "protocol": TEXT,
    **dict.fromkeys(("ensemble", "open_list"), BOOL),
    "version": WHOLE,
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is declared of a task. Every mistake found in it is reported in one error.

    clips: `(root) -> clips` of all splits. `root` is the corpus's folder, or None when the user brings features and has
        no audio; then labels come from the shipped list, or a DataError says that the annotations are needed.
    metrics: the first is the main one, by which probes are selected on the valid split.
    counts: clips per split as published; a full corpus that gives other counts is an error.
    separation, mini_separation: how a separator of `Stems` is trained and used, and a small one for the miniature.
    ensemble: also report the main metric by the best of four ways to combine a clip's windows, chosen on valid.
    mini_schedule: what probes are trained by on the miniature, where the published schedule would take too long there.
    shifted: `(target, semitones) -> target`: a clip's label when all its pitches are moved, None where that is no label of
        the task; left away where pitch does not move the label.
    group_name: also report the main metric by group, what `Clip.group` names (`recording`); empty for not.
    protocol: the name of the one that a run takes where none is asked for.
    open_list: no two copies of the corpus hold the same clips, because its audio was never published: `counts` are the most
        there are, and clips whose files are not there are not missing. Records are compared where they are of equal lists.
    """

    title: str = _mark_unset("a line that says what is asked")
    corpus: Corpus = _mark_unset("a Corpus")
    target: Target = _mark_unset(TARGETS)
    clips: Callable[[Path | None], Iterable[Clip]] = _mark_unset("a function (root) -> clips")
    metrics: tuple[Metric, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    window: Window = Window()
    schedule: Schedule = Schedule()
    separation: Separation | None = None
    mini_separation: Separation | None = None
    mini_schedule: Schedule | None = None
    ensemble: bool = False
    shifted: Callable[[Any, int], Any] | None = None
    group_name: str = ""
    protocol: str = "marble"
    open_list: bool = False
    version: int = 1

    def __post_init__(self) -> None:
        problems = self._find_problems()
        if problems:
            raise UsageError("\n".join(problems))

    def _find_problems(self) -> list[str]:
        problems = [
            f"{name} is missing: give {spec.metadata['needed']}"
            for name, spec in self.__dataclass_fields__.items()
            if "needed" in spec.metadata and not getattr(self, name)
        ]
        if wrong := find_problems(self, FORMS) or self._find_part_problems():
            return problems + wrong
        problems += self._find_target_problems()
        if not self.metrics:
            problems.append("metrics is empty: give at least one, the main one first")
        if len(self.metrics) > MOST_SCORES - 2:  # an ensemble's and a group's are scores besides
            problems.append(
                f"{len(self.metrics)} metrics: give at most {MOST_SCORES - 2}, for a record holds {MOST_SCORES}"
            )
        problems += self._find_unselectable()
        if set(self.counts) != set(SPLITS):
            problems.append(
                f"counts has {sorted(self.counts) or 'nothing'}: give clips per split for {', '.join(SPLITS)}"
            )
        problems += [
            f"counts['{s}'] is {n!r}: give a number of clips"
            for s, n in self.counts.items()
            if not (_is_positive(n) or (n == 0 and s not in self.used_splits))
        ]
        problems += self._find_unnameable()
        if self.window.length_s is not None and self.window.length_s <= 0:
            problems.append(f"window.length_s is {self.window.length_s}: give seconds, or None for the whole clip")
        return problems + self._find_padding_problems()

    def _find_padding_problems(self) -> list[str]:
        """What is wrong with a window that is padded, or of one channel."""
        from marble_bench.scoring.targets import Frames, Stems

        window = self.window
        if window.min_ratio is None:
            return (
                [] if window.channel == "mean" else ["window.channel needs window.min_ratio: windows that are padded"]
            )
        problems = (
            [] if 0 < window.min_ratio <= 1 else [f"window.min_ratio is {window.min_ratio}: give a share up to 1"]
        )
        if window.length_s is None or window.first_s is not None:
            problems.append("window.min_ratio needs a window.length_s, and no window.first_s")
        if isinstance(self.target, (Frames, Stems)):
            problems.append(
                "window.min_ratio is for tasks of whole clips: frames and stems are not cut into padded windows"
            )
        return problems

    @property
    def ranks(self) -> bool:
        """Whether its clips rank each other, so that those of a group are left out together or not at all."""
        from marble_bench.scoring.targets import Ranking

        return isinstance(self.target, Ranking)

    @property
    def used_splits(self) -> tuple[str, ...]:
        """The splits that must have clips: all, or those that a ranking reads."""
        from marble_bench.scoring.targets import Ranking

        if not isinstance(self.target, Ranking):
            return SPLITS
        return ("test",) if self.target.chosen_on == "halves" else ("valid", "test")

    def _find_part_problems(self) -> list[str]:
        """What is wrong with the fields of what a task is made of."""
        parts: list[tuple[str, Any, dict[str, Form]]] = [
            ("corpus", self.corpus, CORPUS_FORMS),
            ("window", self.window, WINDOW_FORMS),
            ("schedule", self.schedule, SCHEDULE_FORMS),
            ("mini_schedule", self.mini_schedule, SCHEDULE_FORMS),
            *((f"metric '{metric.name}'", metric, METRIC_FORMS) for metric in self.metrics),
        ]
        return [f"{name}: {problem}" for name, part, forms in parts if part for problem in find_problems(part, forms)]

    def _find_target_problems(self) -> list[str]:
        """What is wrong with the target, or does not fit it."""
        from marble_bench.scoring.targets import Classes, ClipTarget, Frames, Ranking, Stems

        if not self.target:
            return []
        if not isinstance(self.target, ClipTarget | Frames | Stems | Ranking):
            return [f"target is {self.target!r}: give {TARGETS}"]
        names = allow_tuple(TEXT)
        if isinstance(self.target, ClipTarget) and not names.is_right(self.target.names):
            return [f"target's names are {shorten_repr(self.target.names)}: give {names.words}"]
        problems = []
        if len(set(self.target.names)) != len(self.target.names):
            problems.append("target names a label twice")
        elif isinstance(self.target, Classes) and len(self.target.names) < 2:
            problems.append(f"target has the classes {shorten_repr(self.target.names)}: give two or more")
        elif isinstance(self.target, Frames):
            problems += self._find_unmeasurable(self.target)
        elif isinstance(self.target, Stems) and self.separation is None:
            problems.append("separation is missing: give a Separation(...), how stems are separated")
        return problems + [
            f"metric '{metric.name}' does not fit a target of kind {type(self.target).__name__}"
            for metric in self.metrics
            if not isinstance(self.target, metric.targets())
        ]

    def _find_unnameable(self) -> list[str]:
        """Which names cannot be used in a record."""
        named = {"metric": [metric.name for metric in self.metrics]}
        named["group_name"] = [self.group_name] if self.group_name else []
        named["protocol"] = [self.protocol]
        named["corpus"] = [self.corpus.name] if isinstance(self.corpus, Corpus) else []
        labels = getattr(self.target, "names", ())
        return [
            f"{what} {name!r} cannot be used in a record: give {RULE}"
            for what, names in named.items()
            for name in names
            if not is_name(name)
        ] + [
            f"label {label!r}: give a text on one line, without control characters"
            for label in labels
            if isinstance(label, str) and not is_text(label)
        ]

    def _find_unmeasurable(self, target: Frames) -> list[str]:
        """What keeps answers that are found in frames from being measured."""
        without = [metric.name for metric in self.metrics if metric.measure is None]
        problems = target.problems() + [
            f"metric '{name}' has no measure: give one that reads frames" for name in without
        ]
        if len({id(metric.measure) for metric in self.metrics}) > 1 and not without:
            problems.append("metrics have several measures: a clip is measured once, for all of them")
        if target.tuned_by and target.tuned_by not in [metric.name for metric in self.metrics]:
            problems.append(f"target is tuned_by {target.tuned_by!r}: name one of the task's metrics")
        own = list_columns(target, self.metrics[0].measure if self.metrics else None)
        taken = {"split", "seed", "clip", "group", "truth", "outputs"} & set(own)
        return problems + [f"part '{name}' would hide a column of the predictions: call it otherwise" for name in taken]

    def _find_unselectable(self) -> list[str]:
        """What keeps the main metric from choosing probes."""
        from marble_bench.metrics import stem_metrics
        from marble_bench.scoring.targets import Stems

        main = self.metrics[0] if self.metrics else None
        if main is not None and not main.higher_is_better:
            return [
                f"metric '{main.name}' is better when lower: probes are chosen by the highest; put another one first"
            ]
        if main is not None and isinstance(self.target, Stems):
            chooses = stem_metrics(self.target.names)[0].name
            if main.name != chooses:
                return [f"metric '{main.name}' is first, and separators are chosen by '{chooses}': put that one first"]
        return []


def _is_positive(count: object) -> bool:
    return isinstance(count, int) and count > 0


def name_task(path: Path | str) -> str:
    """The name of a task file.

    >>> name_task("tasks/gtzan_rhythm.py")
    'gtzan-rhythm'
    """
    return re.sub("_", "-", Path(path).stem)

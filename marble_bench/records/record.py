"""The record of one run as frozen classes: what it holds and which values are allowed.

The classes are the one description of a record. `record.schema.json` is generated from them (`marble_bench.records.schema`),
the fields are in the order of the JSON, and what the JSON may leave out is `UNSET`, or empty, here. A record is checked
when it is built from JSON and again before it is written; records of older versions are brought to today's form first
(`marble_bench.records.migrations`).

Units: scores are fractions, or decibels for SDR; `_s` are seconds, `_mb` megabytes of a million bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from marble_bench.files.names import LONGEST_NAME, LONGEST_TEXT, MOST_SCORES, NAME_PATTERN, TEXT_PATTERN

SCHEMA: Final = "marble-bench.record/1"
# How much a record may tell of, so that no later question takes long. A run of this suite has at most 12 choices, 12 scores,
# 7 points of a curve and 6 perturbations, and can mark every clip once. A model's tensors are in some hundred files at most.
MOST_CHOICES, MOST_MARKS, MOST_POINTS, MOST_PERTURBATIONS, MOST_FILES = 1000, 100_000, 20, 20, 1000
MOST_DEPARTURES = 100

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_NAME,
        pattern=NAME_PATTERN,
        description="looked up among what is registered, never opened",
        extra_json_schema={"$comment": "name"},
    ),
]
Text = Annotated[
    str,
    Meta(
        max_length=LONGEST_TEXT,
        pattern=TEXT_PATTERN,
        description="one line, without characters of control, characters that nobody sees and marks that turn the "
        "direction of text",
        extra_json_schema={"$comment": "text"},
    ),
]
Digest = Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$", max_length=71, extra_json_schema={"$comment": "digest"})]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64, extra_json_schema={"$comment": "sha256"})]
Commit = Annotated[str, Meta(pattern="^[0-9a-f]{40}$", max_length=40)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Number = int | float  # JSON has one kind; which of the two was written is kept
Amount = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
AboveZero = Annotated[int, Meta(gt=0)] | Annotated[float, Meta(gt=0)]
Share = Annotated[int, Meta(gt=0, le=1)] | Annotated[float, Meta(gt=0, le=1)]
Interval = tuple[Number | None, Number | None]  # a 95 % interval: its lower and its upper bound
PerSeed = Annotated[tuple[Number | None, ...], Meta(max_length=MOST_CHOICES)]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a record. A field with a default may be left out of the JSON, and is left out where it has that value."""


class Suite(Part, frozen=True, kw_only=True):
    """The code that made the record."""

    version: Text
    git: Commit | None
    dirty: bool | None


class Versioned(Part, frozen=True, kw_only=True):
    """A protocol or a task, by name, version and the digest of what it asks for."""

    name: Name
    version: Positive
    hash: Digest


class Model(Part, frozen=True, kw_only=True):
    """The encoder and its weights, or the features that were brought."""

    name: Name
    version: Positive
    source: Text
    revision: Text
    weights_sha256: Sha256
    parameters: Count | None
    states: Positive
    width: Annotated[
        Positive | tuple[Positive, ...], Meta(description="one number if all layers share it, else one per layer")
    ]
    sample_rate_hz: Positive | None
    normalize: Annotated[
        Literal["none", "peak", "zscore"] | UnsetType,
        Meta(
            description="done to the whole clip before windows are cut; "
            "absent where features were brought, and in records made before records had it"
        ),
    ] = UNSET
    frame_rate_hz: Annotated[
        AboveZero | tuple[AboveZero | None, ...] | None,
        Meta(description="one number if all layers share it, else one per layer; null: one vector per window"),
    ]
    license: Text
    training_data: tuple[Text, ...]
    files: Annotated[
        dict[Name, Sha256],
        Meta(
            description="sha256 of each file of tensors, by its name on the hub; of models by their hub id or folder",
            min_length=1,
            max_length=MOST_FILES,
        ),
    ] = {}

    @property
    def weights(self) -> str:
        """The first 12 hexadecimal digits of the weights' digest, which folders and tables show."""
        return self.weights_sha256[:12]


class SplitCounts(Part, frozen=True, kw_only=True):
    """Clips of each split."""

    train: Count
    valid: Count
    test: Count

    def of(self, split: str) -> int:
        """The clips of one split."""
        return self.as_dict()[split]

    def as_dict(self) -> dict[str, int]:
        """By split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def total(self) -> int:
        """Of all splits."""
        return self.train + self.valid + self.test


class KnownFault(Part, frozen=True, kw_only=True):
    """A clip that was left out, and why: the fault of its file, or its length."""

    clip: Text
    why: Text


class Data(Part, frozen=True, kw_only=True):
    """The corpus: which clips were used and which were not."""

    corpus: Name
    fingerprint: Digest
    clips: SplitCounts
    missing: Annotated[tuple[Text, ...], Meta(description="clips left out on the user's word, by their files")]
    absent: Annotated[
        Count,
        Meta(
            description="how many published clips were not used: "
            "those in missing, and those that the annotations do not list"
        ),
    ] = 0
    faults: Annotated[
        tuple[KnownFault, ...],
        Meta(description="clips left out because their file has a fault that the corpus is known for"),
    ]
    too_short: Annotated[
        tuple[KnownFault, ...],
        Meta(
            description="clips that are shorter than the least that the protocol pads to a window, and that it leaves out; "
            "absent if there is none"
        ),
    ] = ()
    mini: bool
    marks: Annotated[
        tuple[Text, ...],
        Meta(
            description="what is odd about features or labels, such as a constant layer; absent if nothing is",
            max_length=MOST_MARKS,
        ),
    ] = ()


class Choice(Part, frozen=True, kw_only=True):
    """The probe that validation chose: of a seed, or of a seed and a stem. Of a ranking, the layer that others chose."""

    seed: Count
    layer: Annotated[Text, Meta(description="a layer's name, or 'sum' or 'concat'")]
    half: Annotated[
        Literal["a", "b"] | UnsetType,
        Meta(
            description="of a ranking, the half of the works that chose; the layer is scored on the other one's queries"
        ),
    ] = UNSET
    learning_rate: Annotated[AboveZero | UnsetType, Meta(description="absent where nothing is trained")] = UNSET
    weight_decay: Annotated[
        Amount | UnsetType,
        Meta(description="the penalty, where a probe is solved exactly; absent where nothing is trained"),
    ] = UNSET
    hidden: Count | UnsetType = UNSET
    batch_size: Positive | UnsetType = UNSET
    dropout: Amount | UnsetType = UNSET
    standardize: bool | UnsetType = UNSET
    epoch: Annotated[Count | UnsetType, Meta(description="absent where nothing is trained")] = UNSET
    valid: Annotated[Number | None, Meta(description="null where no validation clip has what was trained for")]
    stem: (
        Annotated[Name, Meta(description="what a separator was trained for; each seed has one of each")] | UnsetType
    ) = UNSET
    ensemble: Annotated[
        Literal["gmean", "mean", "max", "vote"] | UnsetType,
        Meta(description="how windows became clips, where that is chosen"),
    ] = UNSET
    setting: Annotated[
        Number | UnsetType, Meta(description="the free parameter of what decodes frames, where it has one")
    ] = UNSET

    @property
    def axes(self) -> dict[str, Any]:
        """The probe's place on the axes of the grid that its protocol has, layer, seed and stem aside."""
        values = {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "hidden": self.hidden,
            "batch_size": self.batch_size,
            "dropout": self.dropout,
            "standardize": self.standardize,
        }
        return {name: value for name, value in values.items() if value is not UNSET}


class Selection(Part, frozen=True, kw_only=True):
    """The grid of probes, and what validation chose of it."""

    split: Annotated[
        Literal["valid", "halves"],
        Meta(description="halves: of a ranking, each half of the works chooses the layer for the other one"),
    ]
    metric: Name
    probes: Annotated[Count, Meta(description="0 for a ranking, which trains none")]
    diverged: Count
    per_seed: Annotated[tuple[Choice, ...], Meta(min_length=1, max_length=MOST_CHOICES)]
    validated: Annotated[
        Literal["windows"] | UnsetType,
        Meta(description="validation scored every window for itself; absent: clips, whose windows are averaged"),
    ] = UNSET
    kept: Annotated[
        Literal["last"] | UnsetType,
        Meta(
            description="the weights of the last epoch were kept, which `epoch` and `valid` are of; absent: the best's"
        ),
    ] = UNSET

    @property
    def seeds(self) -> int:
        """How many seeds there are. Where each stem has its own probe, `per_seed` lists a seed once for each stem."""
        return len({choice.seed for choice in self.per_seed})

    @property
    def stems(self) -> tuple[str, ...]:
        """The stems that have probes of their own, in order; none where a probe answers everything."""
        return tuple(dict.fromkeys(choice.stem for choice in self.per_seed if choice.stem))


class Retrieval(Part, frozen=True, kw_only=True):
    """What was ranked. Scores of two rankings are compared where their lists are equal."""

    items: Annotated[Digest, Meta(description="of the ids and works of the test items, which the predictions hold")]
    queries: Annotated[Count, Meta(description="test items with a value, each of which ranks all others")]
    left_out: Annotated[Count, Meta(description="test items that are ranked, and of whose work there is no other item")]
    copies: Annotated[
        tuple[Text, ...],
        Meta(description="items left out because another item of their work is the same file", max_length=MOST_MARKS),
    ]


class Score(Part, frozen=True, kw_only=True):
    """One metric of the chosen probes."""

    main: bool
    higher_is_better: bool
    unit: Literal["fraction", "dB", "rank"]
    test: Annotated[Number | None, Meta(description="mean over seeds of the probe that validation chose")]
    ci95: Annotated[Interval, Meta(description="95 % bootstrap interval over test clips of the mean over seeds")]
    std: Annotated[Number | None, Meta(description="sample standard deviation over seeds; null for one seed")]
    per_seed: Annotated[PerSeed, Meta(min_length=1)]
    valid: Number | None
    trivial: Annotated[Number | None, Meta(description="test score of a constant answer made from training labels")]
    oracle: Annotated[
        Number | UnsetType | None,
        Meta(description="test score of an answer that knows the truth, where one is told"),
    ] = UNSET


class Cost(Part, frozen=True, kw_only=True):
    """What the run took."""

    audio_s: Annotated[
        Amount,
        Meta(description="seconds of audio that were encoded for the features, in this run or an earlier one"),
    ]
    extract_s: Annotated[Amount, Meta(description="what that took, in all passes")]
    real_time_factor: Annotated[Amount | None, Meta(description="seconds of audio per second")]
    feature_mb: Amount
    cached: Annotated[bool, Meta(description="nothing was encoded in this run")]
    probe_s: Annotated[Amount, Meta(description="kept probes of an interrupted run included")]
    peak_memory_mb: Amount


class Environment(Part, frozen=True, kw_only=True):
    """Versions and device."""

    python: Text
    torch: Text
    transformers: Text
    device: Text
    dtype: Text
    platform: Text


class FewShotPoint(Part, frozen=True, kw_only=True):
    """The main metric of probes trained on a share of the training clips."""

    share: Share
    clips: Positive
    valid: Annotated[PerSeed, Meta(description="by seed")]
    test: Annotated[PerSeed, Meta(description="by seed")]


class PerturbedScore(Part, frozen=True, kw_only=True):
    """One metric on test clips that were changed, beside the same clips unchanged."""

    test: Annotated[Number | None, Meta(description="mean over seeds")]
    clean: Annotated[Number | None, Meta(description="the same clips unchanged")]
    drop: Annotated[Number | None, Meta(description="what is lost, above 0 for worse")]
    drop_ci95: Annotated[
        Interval | UnsetType,
        Meta(
            description="95 % interval of the drop, paired over the clips; absent in records made before drops had one"
        ),
    ] = UNSET
    per_seed: Annotated[PerSeed, Meta(min_length=1)]


class Perturbation(Part, frozen=True, kw_only=True):
    """The chosen probes on test clips under one change."""

    clips: Annotated[Count, Meta(description="test clips that were changed and scored")]
    left_out: Annotated[Count, Meta(description="test clips whose moved label is no label of the task")]
    scores: Annotated[
        dict[Name, PerturbedScore],
        Meta(description="by metric; empty where no clip is left", max_length=MOST_SCORES),
    ]


class Digests(Part, frozen=True, kw_only=True):
    """What the record's three files were when they were written."""

    grid: Sha256
    predictions: Sha256
    record: Sha256


class SourceCode(Part, frozen=True, kw_only=True):
    """The code of one plug-in."""

    kind: Literal["encoder", "task", "corpus", "metric", "protocol", "head"]
    name: Name
    version: Positive
    digest: Sha256
    shipped: Annotated[bool, Meta(description="false: of a file of the maker's own")]


class Identity(Part, frozen=True, kw_only=True):
    """What decided the numbers."""

    features: Annotated[
        Digest,
        Meta(description="of the key of the stored features, else of the features that were brought"),
    ]
    run: Digest
    pipeline: Annotated[Positive, Meta(description="version of decoding, resampling, cutting and pooling")]
    sources: tuple[SourceCode, ...]


class RunVariants(Part, frozen=True, kw_only=True):
    """What the run changed of the rules of its protocol and its task, which are named as they are declared."""

    pool: Annotated[
        Literal["mean+std", "max"] | UnsetType, Meta(description="of a window's frames; absent: the mean")
    ] = UNSET
    window_s: Annotated[AboveZero | UnsetType, Meta(description="length of a window; absent: the task's")] = UNSET
    learning_rate: Annotated[AboveZero | UnsetType, Meta(description="the only one; absent: the protocol's grid")] = (
        UNSET
    )
    select: Annotated[
        Literal["fixed"] | UnsetType,
        Meta(
            description="layer and learning rate were given; each probe's epoch is still chosen by validation; absent: "
            "validation chose them"
        ),
    ] = UNSET
    standardize: Annotated[
        Literal[True] | UnsetType,
        Meta(description="features were z-scored by the training windows, which the protocol does not do"),
    ] = UNSET
    train_share: Annotated[
        Share | UnsetType, Meta(description="of the training clips; drawn by each seed for itself, nested")
    ] = UNSET


class Record(Part, frozen=True, kw_only=True):
    """One run of (encoder weights, protocol, task). Scores are fractions, decibels for SDR."""

    schema: Literal["marble-bench.record/1"]
    suite: Suite
    protocol: Versioned
    model: Model
    task: Versioned
    data: Data
    selection: Selection
    scores: Annotated[dict[Name, Score], Meta(min_length=1, max_length=MOST_SCORES)]
    retrieval: Annotated[Retrieval | UnsetType, Meta(description="of a ranking; absent where probes answer")] = UNSET
    cost: Cost
    environment: Environment
    departures: Annotated[
        tuple[Text, ...],
        Meta(
            description="where the protocol, as it was run, departs from what it is named for; absent if it says nothing",
            min_length=1,
            max_length=MOST_DEPARTURES,
        ),
    ] = ()
    identity: Annotated[
        Identity | UnsetType,
        Meta(
            description="digests of what decided the numbers: the features' key, the run's, and the code of every plug-in; "
            "absent in records made before records had it"
        ),
    ] = UNSET
    comparable: bool
    why_not: tuple[Text, ...]
    variants: Annotated[
        RunVariants | UnsetType, Meta(description="absent where the rules are those of protocol and task")
    ] = UNSET
    few_shot: Annotated[
        tuple[FewShotPoint, ...],
        Meta(
            description="the main metric with fewer training clips; nested subsets, drawn by each seed for itself",
            min_length=1,
            max_length=MOST_POINTS,
        ),
    ] = ()
    perturbations: Annotated[
        dict[Name, Perturbation],
        Meta(
            description="the chosen probes on changed test clips, by the change's name",
            min_length=1,
            max_length=MOST_PERTURBATIONS,
        ),
    ] = {}
    digests: Annotated[
        Digests | UnsetType,
        Meta(description="sha256 of the two tables beside the record, and of the record's own JSON without this part"),
    ] = UNSET

    @property
    def main_scores(self) -> dict[str, Score]:
        """The scores that are called the task's main one, by name. A valid record has exactly one."""
        return {name: score for name, score in self.scores.items() if score.main}

    @property
    def units(self) -> dict[str, str]:
        """The unit of each score, by name."""
        return {name: score.unit for name, score in self.scores.items()}


def compute_mean_and_spread(per_seed: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation over seeds: neither is known where a seed has no score, and one seed has no spread."""
    known = [value for value in per_seed if value is not None]
    if len(known) < len(per_seed):
        return None, None
    return sum(known) / len(known), stdev(known) if len(known) > 1 else None


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON has it, in its order of keys: dicts, lists, texts, numbers.

    Integers and floats stay what they are, and so does NaN, which JSON does not have: `results.format_json` refuses it.
    """
    facts: dict[str, Any] = _make_lists(msgspec.to_builtins(record))
    return facts


def _make_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _make_lists(each) for key, each in value.items()}
    return [_make_lists(each) for each in value] if isinstance(value, list | tuple) else value

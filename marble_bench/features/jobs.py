"""What passes between the stages of extraction: spans to encode, how, with what, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.core.encoder import Layer, Pool
from marble_bench.errors import DataError
from marble_bench.features.store import Span, Spent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Halves: TypeAlias = "list[NDArray[np.float16]]"  # per layer


TOO_SHORT = "needs at least"  # in what is said of a clip that is shorter than the encoder takes


class UnfitWindow(DataError):
    """A window that the encoder cannot take. No fault of a file: it ends the pass."""


class ShortClip(DataError):
    """A clip that is too short for windows that are padded. No fault of a file: the clip is left out and told of."""


class Groups(list["NDArray[np.float32]"]):
    """What is read of a job: arrays `(windows, samples)`, one after another in time.

    oddities: what is odd about the sound, by the names of `audio.ODDITIES`. valid: of padded windows that an encoder is to
    see masked, how many samples of each are valid, for each array; None where no window is masked.
    """

    oddities: tuple[str, ...] = ()
    valid: list[list[int]] | None = None


def concatenate_rows(rows: Sequence[NDArray[np.float16]], layer: int) -> NDArray[np.float16]:
    """What windows gave, one behind the other."""
    import numpy as np

    return np.concatenate(rows)


@dataclass(frozen=True)
class Job:
    """One span to encode.

    name: for messages. read: decodes it, normalised and cut; raises DataError for a damaged file. nbytes: what that takes in
    memory, roughly; it bounds how many are read ahead. join: makes the rows of a kept layer, given by its place among them,
    of the rows that each window gave, in the order of time.
    """

    span: Span
    name: str
    read: Callable[[], Groups]
    nbytes: int = 0
    join: Callable[[Sequence[NDArray[np.float16]], int], NDArray[np.float16]] = concatenate_rows


@dataclass(frozen=True)
class Kind:
    """What becomes of an encoder's layers.

    layers: indices of those that are kept. pool: handed to the encoder. rows: makes what is kept of a layer's pooled tensor:
    `(windows, rows, width)`. bytes_of: what the features of a job's windows take on disk. shard_bytes, shard_jobs: with so
    much a shard is closed.
    """

    layers: Sequence[int]
    pool: Pool
    rows: Callable[[Any, Layer], Any]
    bytes_of: Callable[[Groups], int]
    shard_bytes: int
    shard_jobs: int


@dataclass(frozen=True)
class Settings:
    """How machines are used.

    workers: threads that read audio, or with Ray the encoders that run side by side; None for one a core or GPU. batch_s:
    seconds of audio in a batch; batch_size: windows in a batch, which goes before `batch_s`. engine: `local` or `ray`.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_s: float | None = None
    workers: int | None = None
    engine: str = "local"
    batch_size: int | None = None


@dataclass
class Cost:
    """What an extraction took.

    audio_s, extract_s: seconds of audio that were encoded now (0 with everything cached), and the time of this pass.
    whole_audio_s, whole_extract_s: the same of every span asked for, whenever it was encoded, as the store has it.
    again: windows that were encoded once more in float32. broken: by span, why it cannot be used; damaged: the same by the
    clip's or sound's name. short, too_short: likewise of what padded windows leave out. odd: by span, what is odd about the
    sounds that were read.
    """

    audio_s: float = 0.0
    extract_s: float = 0.0
    whole_audio_s: float = 0.0
    whole_extract_s: float = 0.0
    feature_bytes: int = 0
    again: int = 0
    broken: dict[Span, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    short: dict[Span, str] = field(default_factory=dict)
    too_short: dict[str, str] = field(default_factory=dict)
    odd: dict[Span, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """A finished run of jobs: each span with its layers `(rows, width)` and what it took, in the order of the jobs."""

    spans: Sequence[Span]
    layers: Callable[[int], Halves]  # by the span's position
    spent: Sequence[Spent]

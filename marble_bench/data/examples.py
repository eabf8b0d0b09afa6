"""The clips of a run as one table of examples, made once and read by all that comes after."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from marble_bench.core.plugins import Named
from marble_bench.core.task import SPLITS, Clip
from marble_bench.data import corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marble_bench.scoring.targets import Target


@dataclass(frozen=True)
class Example:
    """A clip (id, split, segment of its file, target, group) with its file.

    path: None where features were brought. digest: what the audio is known by; empty where features were brought, and for a
    file that could not be read.
    """

    clip: Clip
    path: Path | None = None
    digest: str = ""


class Examples(Sequence[Example]):
    """Examples in the order of the task's list, with their columns and their splits."""

    def __init__(self, rows: Iterable[Example]) -> None:
        self.rows = tuple(rows)
        self._splits: dict[str, Examples] = {}
        self._whole: tuple[Examples, list[int]] | None = None  # of a split: the table, and its places there
        self._truth: tuple[Target, NDArray[Any]] | None = None  # of the target asked for last

    @classmethod
    def of_clips(cls, clips: Iterable[Clip]) -> Examples:
        """Clips without files."""
        return cls(Example(clip) for clip in clips)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Examples: ...
    def __getitem__(self, at: int | slice) -> Example | Examples:
        return Examples(self.rows[at]) if isinstance(at, slice) else self.rows[at]

    @cached_property
    def clips(self) -> list[Clip]:
        return [row.clip for row in self.rows]

    @cached_property
    def ids(self) -> list[str]:
        return [row.clip.id for row in self.rows]

    @cached_property
    def targets(self) -> list[Any]:
        return [row.clip.target for row in self.rows]

    @cached_property
    def groups(self) -> list[str]:
        """What is drawn together in a bootstrap: a clip's group, or the clip itself."""
        return [row.clip.group or row.clip.id for row in self.rows]

    @cached_property
    def digests(self) -> list[str]:
        return [row.digest for row in self.rows]

    @cached_property
    def paths(self) -> list[Path]:
        """Of examples whose files are there."""
        return [row.path for row in self.rows if row.path is not None]

    def path_of(self) -> dict[str, Path]:
        """The file of each example by its id, of those that have one."""
        return {row.clip.id: row.path for row in self.rows if row.path is not None}

    def places(self, split: str) -> list[int]:
        """The places of a split's examples."""
        return [place for place, row in enumerate(self.rows) if row.clip.split == split]

    def of(self, split: str) -> Examples:
        """The examples of a split."""
        if split not in self._splits:
            places = self.places(split)
            self._splits[split] = self.only(places)
            self._splits[split]._whole = self, places
        return self._splits[split]

    def only(self, places: Iterable[int]) -> Examples:
        """Some of them, by their places."""
        return Examples(self.rows[place] for place in places)

    def without(self, ids: Collection[str]) -> Examples:
        """All but some, by their ids."""
        return Examples(row for row in self.rows if row.clip.id not in ids)

    def counts(self) -> dict[str, int]:
        """How many each split has."""
        return {split: len(self.of(split)) for split in SPLITS}

    def list_empty_splits(self) -> list[str]:
        """The splits that have none."""
        return [split for split, count in self.counts().items() if not count]

    def fingerprint(self) -> str:
        """`sha256:...` over every example's id, split, target and digest, whatever their order."""
        return corpus.compute_fingerprint(self.clips, self.digests)

    def truth(self, target: Target) -> NDArray[Any]:
        """The targets as arrays, see `marble_bench.scoring.targets`; encoded once, whatever splits ask for them.

        Raises DataError for one that is none of the task's.
        """
        if self._whole:
            whole, places = self._whole
            return whole.truth(target)[places]
        if self._truth is None or self._truth[0] is not target:
            self._truth = target, target.encode(self.targets, self.ids)
        return self._truth[1]


@dataclass(frozen=True)
class FoundExamples:
    """The examples of a task in a corpus's folder, not yet with digests.

    missing: clips that are listed and not there, by their `audio`. unlisted: how many published clips the annotations do
    not list. mini: whether the folder is a miniature.
    """

    examples: Examples
    missing: list[str]
    unlisted: int
    mini: bool


def find(named: Named, root: Path, limit: int | None = None, allow_missing: bool = False) -> FoundExamples:
    """Find every clip's file, at most `limit` of a split. Raises DataError as `corpus.find_on_disk` does."""
    there = corpus.find_on_disk(named, root, allow_missing)
    drawn = {clip.id for clip in corpus.limit_clips(there.clips, limit, named.task.ranks)} if limit else None
    rows = [
        Example(clip, path)
        for clip, path in zip(there.clips, there.paths, strict=True)
        if drawn is None or clip.id in drawn
    ]
    return FoundExamples(Examples(rows), list(there.missing), there.unlisted, corpus.is_mini(root))

"""What a form of target brings to a run: its checks, its inputs, its probes, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from typing import Protocol as Interface

from marble_bench.data.examples import FoundExamples
from marble_bench.errors import DataError
from marble_bench.records.record import Retrieval, Selection
from marble_bench.runs.config import Callbacks, RunConfig
from marble_bench.runs.inputs import Inputs, PerturbedExamples
from marble_bench.runs.predictions import Predictions

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from marble_bench.probes.grid import TrainedProbe
    from marble_bench.probes.probe_cache import ProbeCacheFolder


Fitted: TypeAlias = Any  # a `TrainedProbe`, or what another kind chooses from


@dataclass
class RunScores:
    """Scores as a record has them. choices: what else is known of each chosen probe, such as its ensemble or stem.

    warnings: why a score has no interval, or no value. ranked: what the record says of a ranking, which has no probes.
    """

    scores: dict[str, Any]
    choices: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ranked: tuple[Selection, Retrieval] | None = None


class Job(Interface):
    """One run whose inputs are at hand.

    warnings: what is odd about features and labels. probe_caches: folders of finished probes, cleared when the record is
    saved.
    """

    config: RunConfig
    callbacks: Callbacks
    inputs: Inputs
    warnings: list[str]
    probe_caches: list[ProbeCacheFolder]

    def fit(self) -> list[Fitted]:
        """The whole grid, each probe at its best."""

    def choose(self, fitted: Sequence[Fitted]) -> list[Fitted]:
        """The best of each seed by the validation split alone. Raises DataError if all of a seed diverged."""

    def predict(self, chosen: Sequence[Fitted]) -> dict[str, Predictions]:
        """What the chosen probes answer to the valid and test splits."""

    def predict_perturbed(self, chosen: Sequence[Fitted], name: str, changed: PerturbedExamples) -> Predictions:
        """What they answer to test clips after a perturbation."""

    def few_shot(self) -> list[dict[str, Any]]:
        """The points of the few-shot curve below the whole training split."""

    def score(self, found: dict[str, Predictions], chosen: Sequence[Fitted]) -> RunScores:
        """Every score that the task asks for."""

    def save_more(self, path: Path) -> None:
        """Write what else belongs beside the record at `path`."""

    def grid(self, fitted: Sequence[Fitted]) -> pd.DataFrame:
        """Every probe of the grid: a row each."""


class Kind(Interface):
    """A form of target."""

    def check(self, config: RunConfig) -> None:
        """Raise UsageError for what can be refused before any work."""

    def plan(self, config: RunConfig, found: FoundExamples) -> dict[str, Any]:
        """What a run would train: names of the `layers`, count of `probes`, and what else the kind needs."""

    def prepare(self, config: RunConfig, callbacks: Callbacks) -> AbstractContextManager[Job]:
        """The run with its inputs, which are made now where they are not stored."""


def choose(fitted: Sequence[TrainedProbe], seeds: int | Sequence[int]) -> list[TrainedProbe]:
    """The probe of each seed with the best validation score; of equals, the first in the grid's order.

    seeds: how many, or which. Raises DataError if every probe of a seed diverged.
    """
    chosen = []
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        able = [one for one in fitted if one.probe.seed == seed and one.valid == one.valid]
        if not able:
            raise DataError(f"every probe of seed {seed} diverged in its first steps: check the scale of the features")
        chosen.append(max(able, key=lambda one: one.valid))
    return chosen

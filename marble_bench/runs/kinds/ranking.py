"""A run of a task of `Ranking`: pooled features, no probe; items rank each other, and other items choose the layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from msgspec import UNSET

from marble_bench.data import checks
from marble_bench.data.examples import Examples, FoundExamples
from marble_bench.errors import DataError, UsageError, counted, listing
from marble_bench.features.types import Features
from marble_bench.metrics import _ranking
from marble_bench.metrics._ranking import HALVES, Ranked
from marble_bench.records.ranking_facts import digest_items
from marble_bench.records.record import Choice, Retrieval, Selection
from marble_bench.runs import inputs
from marble_bench.runs.brought import read_brought_features
from marble_bench.runs.config import Callbacks, RunConfig
from marble_bench.runs.inputs import Inputs, PerturbedExamples
from marble_bench.runs.kinds.kind import RunScores
from marble_bench.runs.layers import asks_concat, choose_layers
from marble_bench.runs.predictions import Predictions, make_answers
from marble_bench.scoring import scores as scoring
from marble_bench.scoring.targets import Ranking

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from marble_bench.probes import probe_cache

ROWS = 8192  # windows that are read at once: a layer may be larger than the memory
SHOWN = 3  # pairs of twins that a warning names


@dataclass(frozen=True)
class RankedLayer:
    """A layer and what its ranking scores by the main metric.

    half: of the works whose queries `valid` is over; empty where it is over the valid split. own: over all test queries.
    """

    layer: int
    half: Literal["a", "b", ""]
    valid: float
    own: float


def check(config: RunConfig) -> None:
    """Raise UsageError for what only probes can be asked, and for layers that the model has not."""
    asked = {
        "--few-shot": config.probes.few_shot,
        "--control": bool(config.probes.control),
        f"--seeds {config.probes.seeds}": config.probes.seeds != config.probes.protocol.seeds,
        "--perturb": bool(config.data.perturb),
    }
    flags = config.probes.variants.flags()
    asked |= {flag: True for fact, flag in flags.items() if fact not in ("pool", "window_s")}
    for option in (option for option, given in asked.items() if given):
        why = "compares changed clips by probes" if option == "--perturb" else "is of probes"
        raise UsageError(f"{option} {why}, and task '{config.data.named.name}' trains none: leave it out")
    if config.features.encoder:
        _choose_layers(config, [layer.name for layer in config.features.encoder.layers])


def _choose_layers(config: RunConfig, names: Sequence[str]) -> list[int]:
    asked, protocol = config.probes.layers, config.probes.protocol
    asks_concat(asked, protocol, len(names))  # refuses it
    return choose_layers(asked, names, protocol, ())[0]


def plan(config: RunConfig, found: FoundExamples) -> dict[str, Any]:
    """The names of the layers; no probe is trained."""
    assert config.features.encoder is not None
    names = [layer.name for layer in config.features.encoder.layers]
    return {"layers": [names[index] for index in _choose_layers(config, names)], "probes": 0}


@contextmanager
def prepare(config: RunConfig, callbacks: Callbacks) -> Iterator[RankingJob]:
    """The run with the features of all clips."""

    def look(found: Examples) -> None:
        _check_examples(config, found)

    brought = config.features.brought
    found = read_brought_features(config) if brought else inputs.extract_features(config, callbacks, look)
    look(found.examples)
    yield RankingJob(config, callbacks, found)


def _check_examples(config: RunConfig, found: Examples) -> None:
    """Raise DataError for an empty split, a clip that is in another group than its work, and too few works to choose by."""
    named, target = config.data.named, config.task.target
    assert isinstance(target, Ranking)
    found.truth(target)
    if strange := [clip.id for clip in found.clips if clip.group != clip.target]:
        raise DataError(
            f"task '{named.name}': the group of {listing(strange)} is not its work: give group=target, for intervals draw "
            "works"
        )
    parts = {split: found.of(split).targets for split in named.task.used_splits}
    if target.chosen_on == "halves":
        works = parts["test"]
        half_of = _ranking.deal_halves(works)
        parts = {f"half {half}": [work for work in works if half_of[work] == half] for half in HALVES}
    for part, own in parts.items():
        if len(set(own)) == len(own):
            where = part if part.startswith("half") else f"the {part} split"
            raise DataError(
                f"task '{named.name}': no two of the {counted(len(own), 'item')} in {where} are of one work, so nothing is "
                "to be found there: use more of the corpus, or a higher --limit"
            )


class RankingJob:
    """One ranking on pooled features, without the copies of files."""

    def __init__(self, config: RunConfig, callbacks: Callbacks, found: Inputs) -> None:
        assert isinstance(found.features, Features)
        assert isinstance(config.task.target, Ranking)
        self.config, self.callbacks = config, callbacks
        self.probe_caches: list[probe_cache.ProbeCacheFolder] = []
        self.by_halves = config.task.target.chosen_on == "halves"
        self.layers = _choose_layers(config, found.features.names)
        every = found.examples
        self.copies = _ranking.find_copies(every.ids, every.targets, every.digests)
        self.inputs = _leave_out(found, self.copies)
        self.test, self.valid = (self.inputs.examples.of(split) for split in ("test", "valid"))
        _check_examples(config, self.inputs.examples)
        self.half_of = _ranking.deal_halves(self.test.targets)
        self.warnings = [*found.warnings, *checks.check_features(self.features, self.inputs.examples)]
        if self.copies:
            self.warnings.append(
                f"{counted(len(self.copies), 'item')} left out, the same file as another item of the work: "
                f"{listing(self.copies)}"
            )
        for warning in self.warnings:
            callbacks.say(f"warning: {warning}")

    @property
    def features(self) -> Features:
        """The features of the items that are ranked."""
        assert isinstance(self.inputs.features, Features)
        return self.inputs.features

    def fit(self) -> list[RankedLayer]:
        """Every layer's ranking, by each half or by the valid split."""
        found = []
        for layer in self.layers:
            ranked = self._rank(layer, self.test)
            own = self._score(ranked, range(len(self.test)))
            if self.by_halves:
                found += [RankedLayer(layer, half, self._score(ranked, self._places(half)), own) for half in HALVES]
            else:
                valid = self._score(self._rank(layer, self.valid), range(len(self.valid)))
                found.append(RankedLayer(layer, "", valid, own))
        return found

    def _rank(self, layer: int, items: Examples) -> Ranked:
        return _ranking.rank(self._pool(layer, items), items.ids, items.targets)

    def _score(self, ranked: Ranked, places: Sequence[int]) -> float:
        """The mean average precision of some queries."""
        import numpy as np

        return float(np.nanmean(ranked.rows()[list(places), 0]))

    def _places(self, half: str) -> list[int]:
        """The places of a half's queries among the test items."""
        return [place for place, work in enumerate(self.test.targets) if self.half_of[work] == half]

    def _pool(self, layer: int, items: Examples) -> NDArray[Any]:
        """`(items, width)` float32: the mean over each item's windows."""
        import numpy as np
        import torch

        values, clip = self.features.layers[layer], self.features.clip
        total = torch.zeros(len(self.inputs.examples), values.shape[1], dtype=torch.float64)
        for start in range(0, len(clip), ROWS):
            part = torch.from_numpy(np.asarray(values[start : start + ROWS], np.float64))
            total.index_add_(0, torch.from_numpy(clip[start : start + ROWS]), part)
        mean = total / torch.from_numpy(np.bincount(clip, minlength=len(total)))[:, None]
        pooled: NDArray[Any] = mean[self.inputs.examples.places(items[0].clip.split)].float().numpy()
        return pooled

    def choose(self, fitted: Sequence[RankedLayer]) -> list[RankedLayer]:
        """The best layer by each half, or by the valid split; of equals the first."""
        halves: tuple[str, ...] = HALVES if self.by_halves else ("",)
        return [max((one for one in fitted if one.half == half), key=lambda one: one.valid) for half in halves]

    def predict(self, chosen: Sequence[RankedLayer]) -> dict[str, Predictions]:
        """Each test query's ranking by the layer that other items chose; and of the valid split by what it chose itself."""
        if not self.by_halves:
            (one,) = chosen
            both = {"valid": (self.valid, self.test), "test": (self.test, self.valid)}
            return {
                split: self._build_predictions(
                    split, items, [(one.layer, range(len(items)), self._pool(one.layer, others))]
                )
                for split, (items, others) in both.items()
            }
        parts = []
        for one in chosen:
            other = HALVES[1 - HALVES.index(one.half)]
            fit_on = self._pool(one.layer, self.test)[self._places(one.half)]
            parts.append((one.layer, self._places(other), fit_on))
        return {"test": self._build_predictions("test", self.test, parts)}

    def _build_predictions(
        self, split: str, items: Examples, parts: Sequence[tuple[int, Sequence[int], NDArray[Any]]]
    ) -> Predictions:
        """parts: a layer, the places of the queries that it ranks for, and the items that its views are fitted on."""
        import numpy as np
        import torch

        rows = np.full((len(items), _ranking.WIDTH), np.nan)
        columns: dict[str, list[Any]] = {name: [[]] * len(items) for name in _ranking.RANK_COLUMNS}
        for layer, places, fit_on in parts:
            vectors = self._pool(layer, items)
            self._warn_of_twins(layer, vectors, items)
            plain = _ranking.rank(vectors, items.ids, items.targets)
            changed = (_ranking.centre(vectors, fit_on), _ranking.whiten(vectors, fit_on))
            views = [_ranking.rank(each, items.ids, items.targets) for each in changed]
            whole = np.concatenate([plain.rows(), *(view.rows()[:, :1] for view in views)], axis=1)
            kept = [plain.ranks, plain.cosines, *(view.ranks for view in views)]
            for place in places:
                rows[place] = whole[place]
                for name, values in zip(columns, kept, strict=True):
                    columns[name][place] = values[place].tolist()
        truth = torch.from_numpy(items.truth(self.config.task.target))
        return Predictions(split, items, torch.from_numpy(rows)[None], truth, columns=[columns])

    def _warn_of_twins(self, layer: int, vectors: NDArray[Any], items: Examples) -> None:
        pairs = _ranking.find_twins(vectors, items.ids)
        if pairs:
            shown = listing([f"{one} and {other}" for one, other in pairs], most=SHOWN)
            warning = (
                f"layer '{self.features.names[layer]}': {counted(len(pairs), 'pair')} of items with a cosine above "
                f"{_ranking.TWINS}: {shown}; are they the same recording?"
            )
            if warning not in self.warnings:
                self.warnings.append(warning)
                self.callbacks.say(f"warning: {warning}")

    def predict_perturbed(self, chosen: Sequence[RankedLayer], name: str, changed: PerturbedExamples) -> Predictions:
        """Never asked for: `check` refuses it."""
        raise UsageError(f"--perturb {name}: task '{self.config.data.named.name}' trains no probe: leave it out")

    def few_shot(self) -> list[dict[str, Any]]:
        """None: `check` refuses it."""
        return []

    def score(self, found: dict[str, Predictions], chosen: Sequence[RankedLayer]) -> RunScores:
        """Every metric, with the exact score of a random order as the trivial one."""
        import torch

        metrics, warnings = self.config.task.metrics, list[str]()
        chance = torch.from_numpy(_ranking.measure_chance_of(self.test.targets))
        scored = RunScores(
            scoring.compute_scores(metrics, make_answers(found), chance, warnings=warnings), warnings=warnings
        )
        without = sum(not ranks for ranks in found["test"].columns[0][_ranking.RANK_COLUMNS[0]])
        if without:
            scored.warnings.append(f"{counted(without, 'query', 'queries')} left out: no other item is of their work")
        retrieval = Retrieval(
            items=digest_items(self.test.ids, self.test.targets),
            queries=len(self.test) - without,
            left_out=without,
            copies=tuple(self.copies),
        )
        scored.ranked = self._build_selection(chosen), retrieval
        return scored

    def _build_selection(self, chosen: Sequence[RankedLayer]) -> Selection:
        names = self.features.names
        choices = [
            Choice(seed=0, layer=names[one.layer], valid=one.valid, half=UNSET if one.half == "" else one.half)
            for one in chosen
        ]
        return Selection(
            split="halves" if self.by_halves else "valid",
            metric=self.config.task.metrics[0].name,
            probes=0,
            diverged=0,
            per_seed=tuple(choices),
        )

    def save_more(self, path: Path) -> None:
        """Nothing: grid and predictions are all."""

    def grid(self, fitted: Sequence[RankedLayer]) -> pd.DataFrame:
        """Every layer's own scores: a row for each layer and half."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": [self.features.names[one.layer] for one in fitted],
                "seed": 0,
                "half": [one.half for one in fitted],
                "valid": [one.valid for one in fitted],
                "own": [one.own for one in fitted],
            }
        )


def _leave_out(found: Inputs, copies: Sequence[str]) -> Inputs:
    """Examples and features without some items."""
    import numpy as np

    if not copies:
        return found
    features, left = found.features, set(copies)
    assert isinstance(features, Features)
    kept = [place for place, name in enumerate(found.examples.ids) if name not in left]
    rows = np.flatnonzero(np.isin(features.clip, kept))
    layers = [np.asarray(layer[rows]) for layer in features.layers]
    clip = np.searchsorted(np.array(kept), features.clip[rows])
    return replace(found, examples=found.examples.only(kept), features=Features(features.names, layers, clip))

"""What a record of a ranking says, compared with the ranks beside it and with itself.

Ranks are stored for each query, so that every score is made again from them: they are whole, different, none is larger than
the number of other items, there are as many as the work has other items, and cosines do not grow with them. The layer that
a half, or the valid split, chose is its best in the grid, which has every layer of the model, and the grid's score of a
layer on the queries that it is scored on is that of their ranks. What a layer has by itself follows from that of the halves,
or is the score of the record. What cannot be made again is which vectors gave the ranks: that needs the features.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.errors import listing
from marble_bench.metrics import retrieval
from marble_bench.metrics._ranking import COLUMNS, HALVES, RANK_COLUMNS, VIEWS, deal_halves, measure, measure_chance_of
from marble_bench.records.comparable import find_departures
from marble_bench.records.record import Record
from marble_bench.scoring.targets import Ranking

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

CLOSE = 1e-6
CLOSE_COSINE = 1e-5  # computed in single precision, once from each side


def digest_items(ids: Sequence[str], works: Sequence[str]) -> str:
    """`sha256:...` of the ids of ranked items and their works, whatever their order."""
    rows = sorted(zip(ids, works, strict=True))
    return "sha256:" + hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def check_selection(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the choices are those of halves or of the valid split, without what only probes have."""
    selection, chosen = record.selection, record.selection.per_seed
    expected = list(HALVES) if selection.split == "halves" else [""]
    if [choice.half or "" for choice in chosen] != expected or any(choice.seed for choice in chosen):
        yield "counts", "its layers are not one for each half, or one of the valid split, of seed 0"
    if selection.probes or selection.diverged:
        yield "impossible", f"{selection.probes} probes, and a ranking trains none"
    if any(choice.axes or choice.epoch or choice.stem or choice.ensemble or choice.setting for choice in chosen):
        yield "impossible", "a choice has what only probes have, and a ranking trains none"
    assert record.retrieval
    queries, clips = record.retrieval.queries + record.retrieval.left_out, record.data.clips
    if queries != clips.test or clips.train or (selection.split == "halves" and clips.valid):
        yield "counts", f"{queries} queries, left out or not, and {clips.as_dict()} clips"
    main = record.scores.get(selection.metric)
    if main is not None and selection.split == "valid" and not _close(chosen[0].valid, main.valid):
        yield "scores", f"the chosen layer has {chosen[0].valid} on valid, and the score there is {main.valid}"


def check_layers(record: Record, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether the table of layers has each layer once for each choice, and whether the best was chosen, the first of
    equals."""
    chosen = record.selection.per_seed
    halves = [choice.half or "" for choice in chosen]
    if grid.duplicated(["layer", "half"]).any() or set(grid["half"]) != set(halves) or set(grid["seed"]) != {0}:
        yield "counts", "the table of layers has not each layer once for each half, of seed 0"
        return
    layers = set(grid["layer"])
    if find_departures(record, None).layers == "all" and len(layers) != record.model.states:
        yield (
            "counts",
            f"the table of layers has {len(layers)} of the {record.model.states} layers of '{record.model.name}'",
        )
    if not grid[["valid", "own"]].apply(lambda column: column.between(-CLOSE, 1 + CLOSE)).all(axis=None):
        yield "impossible", "the table of layers has a score that is not between 0 and 1"
    for choice, half in zip(chosen, halves, strict=True):
        rows = grid[grid["half"] == half]
        scores = dict(zip(rows["layer"], rows["valid"].astype(float), strict=True))
        best = max(scores, key=scores.__getitem__)
        if best != choice.layer or not _close(scores[best], choice.valid):
            yield (
                "choice",
                f"{half or 'valid'} chose layer {choice.layer} with {choice.valid}; the best of the table is {best} with "
                f"{scores[best]:.6g}",
            )
    main = record.scores.get(record.selection.metric)
    own = grid.loc[grid["layer"] == chosen[0].layer, "own"]
    if record.selection.split == "valid" and main is not None and not _close(float(own.iloc[0]), main.test):
        yield (
            "scores",
            f"layer {chosen[0].layer} has {own.iloc[0]:.6g} by itself in the table of layers, and {main.test} in all",
        )


def check_ranks(record: Record, frame: pd.DataFrame, grid: pd.DataFrame | None) -> Iterator[tuple[str, str]]:
    """Whether ranks are those of one order of all other items, and rows and counts those of the ranks."""
    if not record.retrieval:
        return
    test = frame[frame["split"] == "test"]
    if digest_items(list(test["clip"]), list(test["group"])) != record.retrieval.items:
        yield "counts", "retrieval.items is not the digest of the items in the predictions"
    yield from _check_trivial(record, list(test["group"]))
    without = sum(not len(ranks) for ranks in test[RANK_COLUMNS[0]])
    if without != record.retrieval.left_out:
        yield "counts", f"{without} queries without ranks, and retrieval.left_out is {record.retrieval.left_out}"
    for split in dict.fromkeys(frame["split"]):
        rows = frame[frame["split"] == split]
        sizes = Counter(rows["group"])
        wrong = [
            clip
            for clip, work, outputs, *kept in zip(
                *(rows[name] for name in ("clip", "group", "outputs", *RANK_COLUMNS)), strict=True
            )
            if not _is_possible(outputs, kept, len(rows) - 1, sizes[work] - 1)
        ]
        if wrong:
            yield (
                "scores",
                f"{len(wrong)} {split} items have ranks or scores that no order gives: {listing(wrong, most=5)}",
            )
        right = Ranking().encode(list(rows["group"]), list(rows["clip"]))
        if strange := [
            clip for clip, truth, number in zip(rows["clip"], rows["truth"], right, strict=True) if truth[0] != number
        ]:
            yield (
                "truth",
                f"{len(strange)} {split} items have another number than their work: {listing(strange, most=5)}",
            )
        if uneven := [work for work, own in rows.groupby("group")["cosines"] if not _are_pairs(list(own))]:
            yield "scores", f"two items of a work have another cosine with each other: {listing(uneven, most=5)}"
    if grid is not None and record.selection.split == "halves":
        yield from _check_scored_halves(record, test, grid)
        yield from _check_whole(test, grid)


def _is_possible(outputs: NDArray[Any], kept: Sequence[NDArray[Any]], others: int, relevant: int) -> bool:
    """Whether a row is what its ranks give. kept: what the columns `RANK_COLUMNS` hold of the query."""
    import numpy as np

    ranks, cosines, *views = (np.asarray(each, np.float64) for each in kept)
    for each in (ranks, *views):
        whole = len(each) == relevant and (each == each.round()).all() and (np.diff(each) > 0).all()
        if not whole or (relevant and not 1 <= each[0] <= each[-1] <= others):
            return False
    if (
        len(cosines) != relevant
        or not np.isfinite(cosines).all()
        or (np.diff(cosines) > 0).any()
        or (np.abs(cosines) > 1 + 1e-5).any()
    ):
        return False
    row = [*measure(ranks), *(measure(each)[0] for each in views)]
    return len(row) == len(COLUMNS) + len(VIEWS) == len(outputs) and bool(
        np.allclose(np.asarray(outputs, np.float64), row, rtol=0, atol=CLOSE, equal_nan=True)
    )


def _check_scored_halves(record: Record, test: pd.DataFrame, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether each chosen layer's score on the other half is that of the ranks there."""
    half_of = deal_halves(list(test["group"]))
    for choice in record.selection.per_seed:
        other = HALVES[1 - HALVES.index(choice.half or HALVES[0])]
        own = [
            ranks for work, ranks in zip(test["group"], test[RANK_COLUMNS[0]], strict=True) if half_of[work] == other
        ]
        scored = [float(measure(ranks)[0]) for ranks in own if len(ranks)]
        recorded = grid[(grid["layer"] == choice.layer) & (grid["half"] == other)]["valid"]
        if not scored or len(recorded) != 1 or not _close(sum(scored) / len(scored), float(recorded.iloc[0])):
            yield (
                "scores",
                f"layer {choice.layer} has another score on half {other} by its ranks than in the table of layers",
            )


def _check_trivial(record: Record, works: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Whether the trivial scores are those of a random order of the test items."""
    import torch

    chance = torch.from_numpy(measure_chance_of(works))
    for metric in retrieval.METRIC:
        score = record.scores.get(metric.name)
        right = float(metric.compute(chance[None], torch.zeros(len(works)))[0])
        if score is not None and not _close(score.trivial, right if right == right else None):
            yield (
                "scores",
                f"{metric.name}: a random order of the items gets {right:.6g}, and trivial is {score.trivial}",
            )


def _are_pairs(cosines: Sequence[NDArray[Any]]) -> bool:
    """Whether the cosines of a work's items with each other, item by item, are two of each; a layer ranks a whole work."""
    import numpy as np

    every = np.sort(np.concatenate([np.asarray(own, np.float64) for own in cosines]))
    return len(every) % 2 == 0 and np.allclose(every[::2], every[1::2], rtol=0, atol=CLOSE_COSINE)


def _check_whole(test: pd.DataFrame, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether what each layer has by itself, over all queries, is what it has over those of both halves."""
    half_of = deal_halves(list(test["group"]))
    scored = Counter(
        half_of[work] for work, ranks in zip(test["group"], test[RANK_COLUMNS[0]], strict=True) if len(ranks)
    )
    for layer, rows in grid.groupby("layer", sort=False):
        weights = [scored[half] for half in rows["half"]]
        whole = sum(weight * valid for weight, valid in zip(weights, rows["valid"], strict=True)) / max(sum(weights), 1)
        if not all(_close(whole, float(own)) for own in rows["own"]):
            yield "scores", f"layer {layer} has {rows['own'].iloc[0]:.6g} by itself, and {whole:.6g} by its two halves"


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= CLOSE

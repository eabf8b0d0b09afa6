"""The examples of a run with features that the user brought, for the clips of the task's list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from marble_bench.core.task import Clip, Window
from marble_bench.data import corpus
from marble_bench.data.examples import Examples
from marble_bench.errors import DataError, listing
from marble_bench.features.jobs import Cost
from marble_bench.records.comparable import BROUGHT, BROUGHT_FACTS
from marble_bench.runs.config import DataConfig, FeatureConfig, RunConfig
from marble_bench.runs.inputs import Coverage, FeatureSource, Inputs, describe_cost


def read_brought_features(config: RunConfig) -> Inputs:
    """The clips of the task's list that features were brought for, with these."""
    from marble_bench.features import external

    place = config.features.brought
    assert place is not None
    clips, mini, unlisted = _list_clips(config.data)
    brought = external.read_brought(place, [clip.id for clip in clips])
    missing = _find_not_brought(clips, brought.tracks, place, config.data.allow_missing)
    clips = [clip for clip in clips if clip.id in brought.tracks]
    features = external.stack_tracks(brought.tracks, brought.names, [clip.id for clip in clips])
    widths = [layer.shape[1] for layer in features.layers]
    inner = tuple(range(1, len(brought.names)))
    summed = len(inner) > 1 and len(set(widths[1:])) == 1
    nbytes = sum(layer.nbytes for layer in features.layers)
    model = _list_model_facts(config.features, external.digest_of(brought.tracks), widths)
    return Inputs(
        examples=Examples.of_clips(clips),
        features=features,
        source=FeatureSource(model, describe_cost(Cost(feature_bytes=nbytes)), unnamed=not brought.named),
        coverage=Coverage(mini, missing, unlisted=unlisted),
        summable=inner if summed else (),
        warnings=[brought.describe(), *_find_other_windows(clips, brought.tracks, config.task.window)],
    )


def _list_clips(data: DataConfig) -> tuple[list[Clip], bool, int]:
    """The clips of the task's list, whether they are a miniature's, and how many published ones it does not list."""
    root, unlisted = data.folder(), 0
    mini = corpus.is_mini(root)
    if root is not None and mini:
        clips = list(corpus.find_on_disk(data.named, root).clips)
    else:
        clips = corpus.list_clips(data.named, root)
        unlisted = corpus.count_unlisted(data.named, clips, data.allow_missing)
    limited = corpus.limit_clips(clips, data.limit, data.named.task.ranks) if data.limit else clips
    return limited, mini, unlisted


def _find_not_brought(clips: Sequence[Clip], found: Collection[str], place: Path, allowed: bool) -> list[str]:
    """The clips without features. Raises DataError naming them unless the user allows it."""
    missing = [clip.id for clip in clips if clip.id not in found]
    if missing and not allowed:
        raise DataError(
            f"{place} has no features of {len(missing)} of the task's {len(clips)} tracks: {listing(missing)}. "
            "Complete them, or run with --allow-missing: the record then lists them and is not comparable"
        )
    return missing


def _list_model_facts(ours: FeatureConfig, digest: str, widths: Sequence[int]) -> dict[str, Any]:
    """What a record says of the model of features that were brought."""
    assert ours.brought is not None
    return {
        **BROUGHT_FACTS,
        "name": ours.model,
        "source": f"{BROUGHT}{ours.brought.name}",
        "weights_sha256": digest,
        "states": len(widths),
        "width": widths[0] if len(set(widths)) == 1 else list(widths),
    }


def _find_other_windows(clips: Sequence[Clip], found: dict[str, list[Any]], window: Window) -> list[str]:
    """A warning where clips have more or fewer windows than the task cuts, as far as that is known without their audio."""
    from marble_bench.features.pooled import count_rows

    apart = []
    for clip in clips:
        length_s = window.first_s if clip.duration_s is None else clip.duration_s
        wanted = 1 if window.length_s is None else None if length_s is None else count_rows(length_s, window)
        has = len(found[clip.id][0])
        if wanted is not None and has != wanted:
            apart.append((clip.id, has, wanted))
    if not apart:
        return []
    name, has, wanted = apart[0]
    return [f"{len(apart)} of {len(clips)} tracks have other windows than the task cuts: '{name}' {has}, not {wanted}"]

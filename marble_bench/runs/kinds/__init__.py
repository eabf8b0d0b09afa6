"""A kind for each form of target: what a run of it checks, reads, trains and answers."""

from __future__ import annotations

from marble_bench.runs.kinds import clips, frames, ranking, stems
from marble_bench.runs.kinds.kind import Job, Kind
from marble_bench.scoring.targets import Classes, Events, Frames, MaskedTags, Ranking, Scalars, Stems, Tags, Target

__all__ = ["KINDS", "Job", "Kind", "find_kind"]

KINDS: dict[type, Kind] = {
    **dict.fromkeys((Classes, Tags, MaskedTags, Scalars), clips),
    **dict.fromkeys((Frames, Events), frames),
    Stems: stems,
    Ranking: ranking,
}


def find_kind(target: Target) -> Kind:
    """The kind of a run whose task has this target."""
    return KINDS[type(target)]

"""What the table of predictions holds beside scores: shapes, the times of events, and the truth of changed test clips.

Each is compared with what the task declares and with the rest of the table. Whether scores are those of the predictions is
asked in `marble_bench.records.validation`, whether labels are those of the corpus in `marble_bench.records.corpus_facts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.audio import perturb
from marble_bench.core.task import Task
from marble_bench.errors import DataError, listing
from marble_bench.metrics import beats
from marble_bench.metrics._ranking import RANK_COLUMNS, WIDTH
from marble_bench.records import claims, measured_facts
from marble_bench.records.record import Perturbation, Record
from marble_bench.records.record_file import COLUMNS, Stored, find_metric
from marble_bench.scoring.frame_columns import list_columns
from marble_bench.scoring.frame_targets import MomentPart
from marble_bench.scoring.scores import split_of
from marble_bench.scoring.targets import Classes, Events, Frames, Ranking, Stems

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

CLOSE = 1e-6  # times in seconds and counts are stored in double precision


def find_disagreements(
    stored: Stored, frame: pd.DataFrame, task: Task | None, thorough: bool
) -> Iterator[tuple[str, str]]:
    """Kind and words of what a run of the task does not write.

    task: of the record; None where it is not known. thorough: also measure how events go on, which takes the most time.
    """
    misshapen = list(_check_shapes(stored.record, frame, task))
    yield from misshapen
    if misshapen:
        return
    for name in perturb.CHANGES:
        if found := stored.record.perturbations.get(name):
            yield from _check_changed(stored.record, frame, task, name, found)
    if task is not None and isinstance(task.target, Events) and task.metrics[0].measure is beats.MEASURE:
        yield from _check_events(frame, task.target, thorough)
    elif task is not None:
        yield from measured_facts.find_disagreements(frame, task, thorough)


def _check_shapes(record: Record, frame: pd.DataFrame, task: Task | None) -> Iterator[tuple[str, str]]:
    """Whether columns and the lengths of outputs and truth are those of the task."""
    widths: dict[str, int] = {}
    if task is not None:
        target, right = task.target, set[str]()
        if isinstance(target, Frames):
            right = set(list_columns(target, task.metrics[0].measure))
            widths = {"outputs": len(beats.COLUMNS)} if task.metrics[0].measure is beats.MEASURE else {}
        elif isinstance(target, Ranking):
            right, widths = set(RANK_COLUMNS), {"outputs": WIDTH, "truth": 1}
        elif isinstance(target, Stems):
            widths = {"outputs": 2 * target.width, "truth": 0}
        else:
            widths = {"outputs": target.width, "truth": 1 if isinstance(target, Classes) else target.width}
        if (more := set(frame.columns) - set(COLUMNS["predictions"])) != right:
            recorded, own = (listing(sorted(names)) or "none" for names in (more, right))
            yield (
                "tables",
                f"beside what every task has, the predictions have the columns {recorded}; its task has {own}",
            )
    elif (known := find_metric(record, record.selection.metric)) and known[0].kind == "classes":
        widths = {"truth": 1}
    for column, width in widths.items():
        if strange := sorted(set(frame[column].map(len)) - {width}):
            yield "tables", f"{column} of {listing(map(str, strange), most=3)} values in the predictions, not {width}"


def _check_changed(
    record: Record, frame: pd.DataFrame, task: Task | None, name: str, perturbation: Perturbation
) -> Iterator[tuple[str, str]]:
    """Whether the rows of changed clips are those of the same clips unchanged, with the labels that the change gives."""
    changed = frame[frame["split"] == split_of(name)]
    if len(changed) and set(changed["seed"]) != set(range(record.selection.seeds)):
        yield "counts", f"{name}: predictions of seeds {listing(map(str, sorted(set(changed['seed']))), most=5)}"
    before, after = (
        rows.drop_duplicates("clip").set_index("clip") for rows in (frame[frame["split"] == "test"], changed)
    )
    if strange := sorted(set(after.index) - set(before.index)):
        yield "splits", f"{name}: {len(strange)} clips are no test clips of the record: {listing(strange, most=5)}"
        return
    same = before.loc[after.index]
    if apart := list(after.index[(same["group"] != after["group"]).to_numpy()]):
        yield "splits", f"{name}: {len(apart)} clips are in another group than unchanged: {listing(apart, most=5)}"
    pairs = zip(after.index, same["truth"], after["truth"], strict=True)
    if wrong := [clip for clip, truth, moved in pairs if not _can_follow(task, name, truth, moved)]:
        yield "truth", f"{name}: {len(wrong)} clips have another label than the change gives: {listing(wrong, most=5)}"
    left_out = [truth for clip, truth in before["truth"].items() if clip not in after.index]
    if staying := sum(not _can_leave(task, name, truth) for truth in left_out):
        yield "counts", f"{name}: {staying} test clips are left out, and the change leaves their labels in the task"
    yield from _check_lost(record, task, name, perturbation)


def _check_lost(record: Record, task: Task | None, name: str, perturbation: Perturbation) -> Iterator[tuple[str, str]]:
    """Whether every score of the task is told of the changed clips, with an interval that a run can give."""
    needed = [metric.name for metric in task.metrics] if task else list(record.main_scores)
    if absent := [metric for metric in needed if perturbation.clips and metric not in perturbation.scores]:
        yield "impossible", f"{name}: no score {listing(absent)}, and {perturbation.clips} clips were scored"
    if perturbation.scores and not perturbation.clips:
        yield "impossible", f"{name}: scores of {listing(perturbation.scores, most=3)}, and no clip was scored"
    for metric, score in perturbation.scores.items():
        where = f"{name}: {metric} drop"
        if score.drop_ci95:
            yield from claims.explain_no_interval(where, score.drop, score.drop_ci95)
        elif record.identity:
            yield "facts", f"{where}: drop_ci95 is absent, and every version that writes identity writes it"


def _moves_nothing(task: Task | None, name: str) -> bool:
    """Whether a change leaves every label as it is. Of a task that is not known only some changes are known to."""
    change = perturb.CHANGES[name]
    pitch = change.semitones and (task is None or task.shifted is not None)
    time = change.rate != 1 and (task is None or isinstance(task.target, Frames))
    return not pitch and not time


def _shift_classes(task: Task | None, name: str, truth: Sequence[float]) -> list[float] | None:
    """The class of a clip whose pitches were moved, empty where it leaves the classes; None where that is not known."""
    if task is None or task.shifted is None or not isinstance(task.target, Classes):
        return None
    names = task.target.names
    if len(truth) != 1 or not 0 <= truth[0] < len(names):
        return None
    moved = perturb.shift_target(task.shifted, names[int(truth[0])], name)
    return [] if moved is None else [float(names.index(moved))]


def _can_follow(task: Task | None, name: str, truth: Sequence[float], moved: Sequence[float]) -> bool:
    """Whether a clip with this truth can have the other after a change; True where that is not known.

    Events that are then behind the end of the audio, whose length is not in the table, are left out.
    """
    import numpy as np

    if _moves_nothing(task, name):
        return np.array_equal(truth, moved)
    if (right := _shift_classes(task, name, truth)) is not None:
        return np.array_equal(right, moved)
    if task is None or not isinstance(task.target, Events) or task.shifted is not None:
        return True
    times = np.asarray(truth, np.float64)[: len(moved)] / perturb.CHANGES[name].rate
    return len(moved) <= len(truth) and np.allclose(times, moved, rtol=0, atol=CLOSE)


def _can_leave(task: Task | None, name: str, truth: Sequence[float]) -> bool:
    """Whether a clip with this truth can be left out after a change."""
    return not _moves_nothing(task, name) and not _shift_classes(task, name, truth)


def _check_events(frame: pd.DataFrame, target: Events, thorough: bool) -> Iterator[tuple[str, str]]:
    """Whether what was measured of each clip is what mir_eval measures of the times in the same row.

    The truth in a table is that of the main kind; of the other kind only its found events can be counted.
    """
    columns = [target.column(part) for part in target.parts]
    for part, column in zip((*target.parts, target.parts[0]), (*columns, "truth"), strict=True):
        assert isinstance(part, MomentPart)
        for clip, times in zip(frame["clip"], frame[column], strict=True):
            try:
                part.check(times, clip)
            except DataError as error:
                yield "impossible", f"column {column}: {error}"
                return
    rows = zip(*(frame[name] for name in ("clip", "outputs", "truth", *columns)), strict=True)
    if apart := {clip for clip, outputs, truth, *found in rows if not _is_measured(outputs, truth, found, thorough)}:
        names = listing(sorted(apart), most=5)
        yield "scores", f"{len(apart)} clips are measured otherwise than by the events beside their outputs: {names}"


def _is_measured(outputs: NDArray[Any], truth: NDArray[Any], found: Sequence[NDArray[Any]], thorough: bool) -> bool:
    """Whether outputs are what is measured of found events, by kind, and the true ones of the main kind."""
    import numpy as np

    recorded = dict(zip(beats.COLUMNS, outputs, strict=True))
    if thorough:
        measured = dict(zip(beats.COLUMNS[:-3], beats.measure((found[0], found[1]), (truth, None)), strict=False))
    else:
        measured = dict(zip(("hits", "found", "annotated"), beats.counts(truth.tolist(), found[0]), strict=True))
    if not np.allclose(
        [recorded[name] for name in measured], list(measured.values()), rtol=0, atol=CLOSE, equal_nan=True
    ):
        return False
    hits, counted, annotated = (recorded[name] for name in beats.COLUMNS[-3:])
    return not (hits or counted or annotated) or (counted == len(found[1]) and 0 <= hits <= min(counted, annotated))

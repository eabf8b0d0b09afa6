"""What was measured of frames is what its task's measure gives of the same row of the predictions."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from marble_bench import ClassPart, Frames, TagPart, ValuePart
from marble_bench.core import plugins
from marble_bench.core.task import Task
from marble_bench.errors import UsageError
from marble_bench.metrics import frame_metrics
from marble_bench.metrics._chord_labels import make_target
from marble_bench.metrics.structure import FUNCTIONS
from marble_bench.records import measured_facts, predictions_facts, validation
from marble_bench.scoring import frame_columns

SECONDS, CLIPS = 30.0, 3


def _annotate_singing(random):
    return (tuple(("sing",) if sung else () for sung in random.random(750) < 0.5),)


def _annotate_pitch(random):
    voiced = random.random(5168) < 0.6
    pitches = 50 + 20 * random.random(5168)
    return (
        tuple(float(pitch) if there else None for pitch, there in zip(pitches, voiced, strict=True)),
        tuple(("voiced",) if there else () for there in voiced),
    )


def _annotate_notes(random):
    starts = np.sort(random.random(40) * 28)
    notes = tuple((float(start), float(start + 0.5), str(random.integers(40, 80))) for start in starts)
    return notes, notes


def _annotate_chords(random):
    labels = ["C:maj", "A:min7", "F:sus4", "N", "G:7"]
    return make_target([(3.0 * k, 3.0 * k + 3, labels[int(random.integers(5))]) for k in range(10)])


def _annotate_parts(random):
    names = [FUNCTIONS[int(random.integers(7))] for _ in range(3)]
    segments = tuple((10.0 * k, 10.0 * k + 10, name) for k, name in enumerate(names))
    return tuple(name for name in names for _ in range(20)), (10.0, 20.0), segments


ANNOTATED = {
    "jamendo-singing": _annotate_singing,
    "vocadito-f0": _annotate_pitch,
    "maestro-frames": _annotate_notes,
    "guitarset-chords": _annotate_chords,
    "harmonix-structure": _annotate_parts,
}
# What a row is exchanged for: its own numbers -> better ones. The second needs no annotation to be seen.
BETTER = {
    "jamendo-singing": (lambda row: [row[1], row[1], row[4], row[4], row[4], 1.0],) * 2,
    "vocadito-f0": (lambda row: [1.0, 1.0, 1.0, 1.0, 0.0], lambda row: [1.0, 0.9, 0.8, 1.0, 0.0]),
    "maestro-frames": (lambda row: [row[2], row[2], row[2], 1.0],) * 2,
    "guitarset-chords": (
        lambda row: [row[1], *row[1:12], 1.0],
        lambda row: [*row[:10], row[11], row[11], row[12]],
    ),
    "harmonix-structure": (
        lambda row: [row[1], row[1], 1.0, *row[3:5], 1.0, 1.0, 1.0, 1.0, 1.0],
        lambda row: [*row[:2], 1.0, *row[3:]],
    ),
}


def _make_table(task, annotate, seed=7):
    """The predictions of a probe that answers at random, and the targets of its clips."""
    random = np.random.default_rng(seed)
    target, measure = task.target, task.metrics[0].measure
    annotated = {f"clip{number}": annotate(random) for number in range(CLIPS)}
    frames = target.count_labels(SECONDS)
    heard = [{part.name: random.random((frames, part.width)) for part in target.answered} for _ in annotated]
    found = target.decode(heard, target.rate_hz, target.settings[len(target.settings) // 2]) if target.decode else heard
    columns = frame_columns.to_columns(target, measure, found)
    rows = measure.rows(found, list(annotated.values())).tolist()
    truth = [target.list_first(each) for each in annotated.values()]
    facts = {"split": "test", "seed": 0, "clip": list(annotated), "group": list(annotated), "truth": truth}
    return pd.DataFrame({**facts, "outputs": rows, **columns}), annotated


def _find(frame, task, annotation_of=None):
    return [kind for kind, _ in measured_facts.find_disagreements(frame, task, True, annotation_of)]


def _exchange(frame, better):
    return frame.assign(outputs=[better(row) for row in frame["outputs"]])


@pytest.mark.parametrize("name", ANNOTATED)
def test_better_rows_beside_the_same_answers_are_found(name):
    task = plugins.find_registered_task(name).task
    frame, annotated = _make_table(task, ANNOTATED[name])
    assert not _find(frame, task)
    assert not _find(frame, task, annotated.get)
    with_annotation, without = BETTER[name]
    assert _find(_exchange(frame, with_annotation), task, annotated.get) == ["scores"]
    assert _find(_exchange(frame, without), task) == ["scores"]


@pytest.mark.parametrize("name", ANNOTATED)
def test_every_number_of_a_row_is_measured_again(name):
    task = plugins.find_registered_task(name).task
    frame, annotated = _make_table(task, ANNOTATED[name])
    for column in range(len(frame["outputs"][0])):
        changed = _exchange(frame, lambda row, c=column: [*row[:c], 0.9 * row[c] + 1e-3, *row[c + 1 :]])
        assert _find(changed, task, annotated.get), column


def test_every_task_of_frames_tells_what_it_measures():
    for name in plugins.list_task_names():
        task = plugins.find_registered_task(name).task
        if isinstance(task.target, Frames) and not any(metric.kind == "events" for metric in task.metrics):
            assert measured_facts.find_measure(task), name
            assert task.metrics[0].measure.check, name


def test_frames_of_every_kind_are_measured_again_where_the_suite_measures():
    target = Frames((ClassPart("root", ("c", "d", "e")), TagPart("play", ("a", "b")), ValuePart("level")), rate_hz=4.0)
    task = Task.__new__(Task)  # its other facts are not asked for
    object.__setattr__(task, "target", target)
    object.__setattr__(task, "metrics", frame_metrics(target))

    def annotate(random):
        return ("c", None, "e", "d"), (("a",), (), ("a", "b"), None), (0.5, 1.5, None, 2.0)

    frame, annotated = _make_table(task, annotate)
    assert not _find(frame, task, annotated.get)
    for column in range(9):
        changed = _exchange(frame, lambda row, c=column: [*row[:c], row[c] + 1, *row[c + 1 :]])
        assert _find(changed, task, annotated.get) == ["scores"], column


def test_rows_of_changed_clips_and_of_unknown_ones_are_bounded_alone():
    task = plugins.find_registered_task("vocadito-f0").task
    frame, annotated = _make_table(task, _annotate_pitch)
    frame = _exchange(frame, lambda row: [row[0] + 0.01, *row[1:]])
    assert _find(frame, task, annotated.get) == ["scores"]
    assert not _find(frame.assign(split="test:gain"), task, annotated.get)
    assert not _find(frame.assign(clip="x"), task, annotated.get)


def test_answers_that_end_too_early_are_named():
    task = plugins.find_registered_task("guitarset-chords").task
    frame, annotated = _make_table(task, _annotate_chords)
    short = frame.assign(chord=[each[:9] for each in frame["chord"]])
    assert _find(short, task, annotated.get) == ["scores"]
    task = plugins.find_registered_task("maestro-frames").task
    frame, _ = _make_table(task, _annotate_notes)
    ((kind, words),) = measured_facts.find_disagreements(frame.assign(frames=[[1e12]] * CLIPS), task, True)
    assert (kind, words[:61]) == ("scores", "what was measured of 3 clips cannot be: 1e+12 frames are none")


def test_what_a_measure_reads_beside_the_parts_is_in_the_table():
    task = plugins.find_registered_task("guitarset-chords").task
    assert list(frame_columns.list_columns(task.target, task.metrics[0].measure)) == ["chord", "seventh", "smoothed"]
    frame, _ = _make_table(task, _annotate_chords)
    assert len(frame["smoothed"][0]) == len(frame["chord"][0])
    without = frame.drop(columns="smoothed")
    ((kind, words),) = predictions_facts._check_shapes(None, without, task)
    assert (kind, words[:20]) == ("tables", "beside what every ta")
    assert "smoothed" in words


def test_the_table_of_events_has_the_columns_that_it_had():
    task = plugins.find_registered_task("gtzan-rhythm").task
    assert list(frame_columns.list_columns(task.target, task.metrics[0].measure)) == ["beats", "downbeats"]
    assert measured_facts.find_measure(task) is None


def test_a_column_of_a_measure_hides_none_that_every_task_has():
    task = plugins.find_registered_task("guitarset-chords").task
    measure = replace(task.metrics[0].measure, reads=(("truth", (-1,)),))
    metrics = tuple(replace(metric, measure=measure) for metric in task.metrics)
    with pytest.raises(UsageError, match="'truth' would hide a column"):
        replace(task, metrics=metrics)


def test_what_only_the_corpus_tells_is_called_unverified():
    def say(count, name):
        record = SimpleNamespace(data=SimpleNamespace(too_short=[None] * count))
        return validation._list_unverified(record, plugins.find_registered_task(name).task)

    assert say(0, "gtzan") == say(0, "gtzan-rhythm") == ""
    assert say(50, "gtzan").startswith("; not verified: 50 clips left out as too short")
    assert say(0, "vocadito-f0").startswith("; only bounded: what was measured of frames")

"""What a table of predictions holds beside scores: the truth of changed clips, the shapes of a task, the times of events."""

import json

import numpy as np
import pandas as pd
import pytest
from made_records import make

from marble_bench.audio import perturb
from marble_bench.core import plugins
from marble_bench.metrics import beats
from marble_bench.records import predictions_facts, results
from marble_bench.records.record_file import load_table
from marble_bench.scoring.scores import split_of

SAME = {"test": 0.5, "clean": 0.5, "drop": 0.0, "drop_ci95": [-0.1, 0.1], "per_seed": [0.5] * 3}


def _perturbed(folder, task, name, move=lambda truth: truth):
    """A record whose test clips were changed without any effect but on their labels: its facts and its predictions."""
    path = make(folder, "mfcc", task=task, mini=True)
    frame = load_table(results.read(path), "predictions")
    changed = frame[frame["split"] == "test"].assign(split=split_of(name))
    changed = changed.assign(truth=[move(truth) for truth in changed["truth"]])
    changed = changed[changed["truth"].map(len) > 0]
    facts, left_out = json.loads(path.read_text()), 60 - changed["clip"].nunique()
    metrics = [metric.name for metric in plugins.find_registered_task(task).task.metrics]
    facts["perturbations"] = {
        name: {"clips": 60 - left_out, "left_out": left_out, "scores": {metric: {**SAME} for metric in metrics}}
    }
    return path, facts, pd.concat([frame, changed], ignore_index=True)


def _found(path, facts, frame, task="gtzan"):
    path.write_text(json.dumps(facts))
    named = plugins.find_registered_task(task).task if task else None
    return {kind for kind, _ in predictions_facts.find_disagreements(results.read(path), frame, named, thorough=True)}


def _of_noise(change):
    """A change of the rows of noisy clips alone."""

    def changed(frame):
        rows = frame["split"] == "test:noise"
        return pd.concat([frame[~rows], change(frame[rows])], ignore_index=True)

    return changed


def _told(**changes):
    return lambda facts: facts["perturbations"]["noise"].update(changes)


def _score(**changes):
    return lambda facts: facts["perturbations"]["noise"]["scores"]["accuracy"].update(changes)


FORGED = {
    "the truth is the answer": ("truth", None, lambda p: p.assign(truth=[[np.argmax(row)] for row in p["outputs"]])),
    "wrong answers left out": ("counts", None, lambda p: p[p["clip"] != "test003"]),
    "all left out": ("counts", _told(clips=0, left_out=60, scores={}), lambda p: p.iloc[:0]),
    "no score": ("impossible", _told(scores={}), None),
    "scores of no clip": ("impossible", _told(clips=0), None),
    "other seeds": ("counts", None, lambda p: p.assign(seed=p["seed"] + 77)),
    "other groups": ("splits", None, lambda p: p.assign(group="one")),
    "other clips": ("splits", None, lambda p: p.assign(clip=p["clip"] + "x")),
    "no interval": (
        "facts",
        lambda facts: facts["perturbations"]["noise"]["scores"]["accuracy"].pop("drop_ci95"),
        None,
    ),
    "an interval upside down": ("impossible", _score(drop_ci95=[0.9, -0.9]), None),
    "an interval beside its drop": ("impossible", _score(drop_ci95=[0.3, 0.4]), None),
}


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("task", ["gtzan", None], ids=["registered", "own"])
def test_changed_clips_keep_their_labels_their_groups_and_their_number(tmp_path, forged, task):
    kind, record, rows = FORGED[forged]
    path, facts, frame = _perturbed(tmp_path, "gtzan", "noise")
    assert not _found(path, facts, frame, task)
    if record:
        record(facts)
    assert _found(path, facts, _of_noise(rows)(frame) if rows else frame, task) == {kind}


def test_a_moved_pitch_moves_the_label_as_the_task_says_and_leaves_out_what_has_none_then(tmp_path):
    task = plugins.find_registered_task("nsynth-pitch").task
    names = task.target.names

    def moved(truth):
        name = task.shifted(names[int(truth[0])], perturb.SEMITONES)
        return [] if name is None else [float(names.index(name))]

    path, facts, frame = _perturbed(tmp_path, "nsynth-pitch", "pitch-shift", moved)
    assert not _found(path, facts, frame, "nsynth-pitch")
    changed = frame["split"] == "test:pitch-shift"
    unmoved = frame.assign(
        truth=[[truth[0] - 1] if moved else truth for truth, moved in zip(frame["truth"], changed, strict=True)]
    )
    assert _found(path, facts, unmoved, "nsynth-pitch") == {"truth"}
    assert _found(path, facts, frame[~changed | (frame["clip"] != "test003")], "nsynth-pitch") == {"counts"}
    highest = frame.assign(
        truth=[
            [len(names) - 1.0] if clip == "test003" else truth
            for clip, truth in zip(frame["clip"], frame["truth"], strict=True)
        ]
    )
    assert _found(path, facts, highest, "nsynth-pitch") == {"truth"}
    assert not _found(path, facts, highest[~changed | (frame["clip"] != "test003")], "nsynth-pitch")


def _rhythm(truth, found, bars, outputs=None):
    made = beats.measure((np.array(found), np.array(bars)), (np.array(truth), np.array(bars)))
    return {
        "split": "test", "seed": 0, "clip": "a", "group": "a", "truth": truth, "beats": found, "downbeats": bars,
        "outputs": list(made) if outputs is None else outputs,
    }  # fmt: skip


BEATS = [0.5 * n for n in range(40)]
HONEST = _rhythm(BEATS, BEATS[:30], BEATS[::4])
EVENTS = {
    "other times": ("scores", {"beats": [time + 0.1 for time in BEATS[:30]]}),
    "fewer times": ("scores", {"beats": BEATS[:29]}),
    "more downbeats": ("scores", {"downbeats": BEATS[::2]}),
    "another truth": ("scores", {"truth": BEATS[:31]}),
    "a score of continuity": ("scores", {"outputs": [*HONEST["outputs"][:5], 0.99, *HONEST["outputs"][6:]]}),
    "more hits than found": ("scores", {"outputs": [*HONEST["outputs"][:-3], 99, 10, 10]}),
    "descending": ("impossible", {"downbeats": [5.0, 3.0, 1.0]}),
    "negative": ("impossible", {"truth": [-1.0, *BEATS]}),
    "counts of another task": ("tables", {"outputs": [1.0, 2.0]}),
    "no times": ("tables", {"beats": None}),
}


@pytest.mark.parametrize("forged", EVENTS)
def test_what_is_measured_of_a_clip_is_measured_of_the_events_beside_it(tmp_path, forged):
    kind, changes = EVENTS[forged]
    path = make(tmp_path, "mfcc", mini=True)
    facts = json.loads(path.read_text())
    assert not _found(path, facts, pd.DataFrame([HONEST]), "gtzan-rhythm")
    forged_row = {name: value for name, value in (HONEST | changes).items() if value is not None}
    assert _found(path, facts, pd.DataFrame([forged_row]), "gtzan-rhythm") == {kind}


def test_slower_music_has_later_events(tmp_path):
    path = make(tmp_path, "mfcc", mini=True)
    facts = json.loads(path.read_text())
    task = plugins.find_registered_task("gtzan-rhythm").task
    scores = {metric.name: {**SAME} for metric in task.metrics}
    facts["perturbations"] = {"time-stretch": {"clips": 1, "left_out": 0, "scores": scores}}
    facts["selection"]["per_seed"] = facts["selection"]["per_seed"][:1]
    later = [time / perturb.RATE for time in BEATS if time / perturb.RATE < 20]
    right = _rhythm(later, later, later[::4]) | {"split": "test:time-stretch"}
    assert not _found(path, facts, pd.DataFrame([HONEST, right]), "gtzan-rhythm")
    unmoved = _rhythm(BEATS, later, later[::4]) | {"split": "test:time-stretch"}
    assert _found(path, facts, pd.DataFrame([HONEST, unmoved]), "gtzan-rhythm") == {"truth"}

"""A task as one file: seconds of made-up songs, their labels worked out from annotations, and a whole run."""

import pytest
from conftest import PLUGINS, TOY_MODEL

from marble_bench.core import plugins

TASK = PLUGINS / "singing_activity.py"


def test_a_second_is_sung_where_half_of_it_is():
    import sys

    module = sys.modules[plugins.find_task(str(TASK)).task.clips.__module__]
    parts = [(0.0, 1.25, "nosing"), (1.25, 3.6, "sing"), (3.6, 6.0, "nosing")]
    assert [round(module.sung_s(parts, second, second + 1), 3) for second in range(6)] == [0, 0.75, 1, 0.6, 0, 0]


def test_labels_are_those_of_the_annotations_and_of_what_is_heard(tmp_path):
    import numpy as np
    import soundfile

    task = plugins.find_task(str(TASK)).task
    task.corpus.mini(tmp_path)
    clips = list(task.clips(tmp_path))
    assert {split: sum(clip.split == split for clip in clips) for split in task.counts} == task.counts
    assert len({clip.group for clip in clips}) == len(clips) / 6
    loud: dict[str, list[float]] = {"sing": [], "nosing": []}
    for clip in clips:
        sound, rate = soundfile.read(tmp_path / clip.audio)
        first = int(clip.start_s * rate)
        loud[clip.target].append(float(np.sqrt(np.mean(sound[first : first + rate] ** 2))))
    assert np.median(loud["sing"]) > np.median(loud["nosing"])
    assert 0.3 < len(loud["sing"]) / len(clips) < 0.7


@pytest.mark.slow
def test_the_task_is_checked_and_run_as_any_other(bench):
    checked = bench("check", TASK)
    assert checked.code == 0, checked.err
    run = ("--task", TASK, "--model", TOY_MODEL, "--mini", "--device", "cpu", "--protocol", "linear", "--json")
    ended = bench("run", *run)
    assert ended.code == 0, ended.err
    score = ended.record["scores"]["accuracy"]
    assert score["test"] > score["trivial"] + 0.2
    assert ended.record["data"]["clips"]["test"] == 30

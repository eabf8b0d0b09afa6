"""Names, files, and every mistake of a plug-in told at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY_MODEL, TOY_TASK

from marble_bench import plugins
from marble_bench.errors import UsageError

FAULTY = """
from marble_bench.metrics import accuracy
from marble_bench.targets import Scalars
from marble_bench.task import Task

TASK = Task(
    title="faulty",
    target=Scalars(("a", "a")),
    metrics=(accuracy,),
    counts={"train": 5, "valid": 0},
    clips=lambda root: [],
)
"""


def test_all_mistakes_of_a_task_file_are_told_at_once(bench, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    ended = bench("run", "--task", tmp_path / "faulty.py", "--model", TOY_MODEL)
    assert ended.code == 2
    for words in (
        "faulty.py",
        "corpus is missing: give a Corpus",
        "target names a label twice",
        "metric 'accuracy' does not fit a target of kind Scalars",
        "give clips per split for train, valid, test",
        "counts['valid'] is 0",
    ):
        assert words in ended.err
    assert "Traceback" not in ended.err


def test_unknown_keywords_are_all_told_with_the_closest(bench, tmp_path):
    text = Path(TOY_TASK).read_text().replace("metrics=", "metric=").replace("schedule=", "shedule=")
    (tmp_path / "typo.py").write_text(text)
    ended = bench("run", "--task", tmp_path / "typo.py", "--model", TOY_MODEL)
    assert ended.code == 2
    assert "Task has no 'metric'; did you mean 'metrics'?" in ended.err
    assert "Task has no 'shedule'; did you mean 'schedule'?" in ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TASK = (", "line 1: '(' was never closed"),
        ("import not_there", "No module named 'not_there'"),
        ("TASK = 3", "must define TASK = Task(...); it has 3"),
        ("", "it has nothing of that name"),
    ],
)
def test_a_file_that_is_no_task_is_told(bench, tmp_path, text, words):
    (tmp_path / "own.py").write_text(text)
    ended = bench("run", "--task", tmp_path / "own.py", "--model", TOY_MODEL)
    assert ended.code == 2
    assert words in ended.err


def test_a_model_file_needs_the_name_of_an_encoder_in_it(bench):
    path = TOY_MODEL.split(":")[0]
    for asked in (path, f"{path}:load", f"{path}:TOYS"):
        ended = bench("run", "--task", TOY_TASK, "--model", asked, "--mini")
        assert ended.code == 2
        assert "Encoders in it: TOY" in ended.err


def test_a_folder_of_bench_tasks_joins_the_names_in_spawned_workers_too(tmp_path):
    (tmp_path / "my_own_task.py").write_text(Path(TOY_TASK).read_text())
    code = (
        "import multiprocessing as m\n"
        "from marble_bench.plugins import find_task, task_names\n"
        "if __name__ == '__main__':\n"
        "    assert 'my-own-task' in task_names()\n"
        "    with m.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(find_task, ['my-own-task'])[0].name)\n"
    )
    # a Task holds functions, which travel by name: the worker must be able to import the user's file itself
    (tmp_path / "main.py").write_text(code)
    environment = {**os.environ, "BENCH_TASKS": str(tmp_path)}
    done = subprocess.run([sys.executable, str(tmp_path / "main.py")], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "my-own-task", done.stderr


def test_two_files_of_one_name_are_refused(tmp_path, monkeypatch):
    import marble_bench.tasks

    (tmp_path / "gtzan.py").write_text(Path(TOY_TASK).read_text())
    monkeypatch.setattr(marble_bench.tasks, "__path__", [*marble_bench.tasks.__path__, str(tmp_path)])
    with pytest.raises(UsageError, match="two files stand for task 'gtzan'"):
        plugins.find_task("gtzan")


def test_every_task_and_encoder_loads_under_its_own_name():
    names = plugins.task_names()
    assert {"emo", "gtzan"} <= set(names)
    for name in names:
        assert plugins.find_task(name).name == name
    for name, encoder in plugins.encoders().items():
        assert plugins.find_encoder(name) is encoder


def test_check_says_what_a_plug_in_gives(bench):
    task = bench("check", TOY_TASK)
    assert task.code == 0, task.err
    assert "51" in task.out or "'train': 24" in task.out
    model = bench("check", TOY_MODEL)
    assert model.code == 0, model.err
    assert "0 (2, 1199, 16)" in model.out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("stack(3, BANDS", "stack(4, BANDS", "gives 3 layers and declares 4"),
        ('name="toy"', 'name="a/b"', "name has a slash"),
        ("stack(3, BANDS", "stack(3, 17", "declared (2, frames, 17)"),
        ("40.0", "75.0", "declared 2250.0"),
        ("[pool(bands)", "[pool(bands - bands.mean())", "depends on what else is in the batch"),
    ],
)
def test_check_finds_an_encoder_that_is_not_as_declared(bench, tmp_path, old, new, words):
    (tmp_path / "off.py").write_text(Path(TOY_MODEL.split(":")[0]).read_text().replace(old, new))
    ended = bench("check", f"{tmp_path}/off.py:TOY")
    assert ended.code == 2
    assert words in ended.err

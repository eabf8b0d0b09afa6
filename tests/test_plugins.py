"""Names, files, and every mistake of a plug-in told at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TOY_MODEL, TOY_TASK, load_toy_module

from marble_bench.core import plugins
from marble_bench.errors import DataError, UsageError
from marble_bench.scoring.targets import Classes, Scalars, Tags

FAULTY = """
from marble_bench.metrics import accuracy
from marble_bench import Scalars
from marble_bench import Task

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
        "from marble_bench.core.plugins import find_task, list_task_names\n"
        "if __name__ == '__main__':\n"
        "    assert 'my-own-task' in list_task_names()\n"
        "    with m.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(find_task, ['my-own-task'])[0].name)\n"
    )
    # a Task holds functions, which travel by name: the worker must be able to import the user's file itself
    (tmp_path / "main.py").write_text(code)
    environment = {**os.environ, "BENCH_TASKS": str(tmp_path)}
    done = subprocess.run([sys.executable, str(tmp_path / "main.py")], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "my-own-task", done.stderr


def test_a_folder_of_bench_tasks_that_is_not_there_is_told(tmp_path):
    code = "from marble_bench.core.plugins import list_task_names\nlist_task_names()"
    environment = {**os.environ, "BENCH_TASKS": str(tmp_path / "tsaks")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"BENCH_TASKS names {tmp_path / 'tsaks'}, which is not a folder" in done.stderr


def test_two_files_of_one_name_are_refused(tmp_path, monkeypatch):
    import marble_bench.tasks

    (tmp_path / "gtzan.py").write_text(Path(TOY_TASK).read_text())
    monkeypatch.setattr(marble_bench.tasks, "__path__", [*marble_bench.tasks.__path__, str(tmp_path)])
    with pytest.raises(UsageError, match="two files are named for task 'gtzan'"):
        plugins.find_task("gtzan")


def test_every_task_and_encoder_loads_under_its_own_name():
    names = plugins.list_task_names()
    assert {"emo", "gtzan"} <= set(names)
    for name in names:
        assert plugins.find_task(name).name == name
    for name, encoder in plugins.find_encoders().items():
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
        ('name="toy"', 'name="a b"', "name 'a b' cannot be used in a record"),
        ("stack(3, BANDS", "stack(3, 17", "declared (2, frames, 17)"),
        ("40.0", "75.0", "declared 2250.0: correct its frame rate, or raise min_s"),
        ("[pool(bands)", "[pool(bands - bands.mean())", "depends on what else is in the batch"),
        ("[pool(bands)", "[bands", "layer '0' is (1, 3, 16) for one window and `pool` the mean over time"),
        ("[pool(bands)", "[pool(bands / 0)", "layer '0' has NaN or infinity"),
    ],
)
def test_check_finds_an_encoder_that_is_not_as_declared(bench, tmp_path, old, new, words):
    (tmp_path / "off.py").write_text(Path(TOY_MODEL.split(":")[0]).read_text().replace(old, new))
    ended = bench("check", f"{tmp_path}/off.py:TOY")
    assert ended.code == 2
    assert words in ended.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("TASK = Task(", 'x = {}["labels"]\nTASK = Task(', ", in <module>: KeyError: 'labels'"),
        ("for split, count in", 'int("x")\n    for split, count in', ", in clips: ValueError: invalid literal"),
    ],
)
def test_an_error_in_a_users_task_file_is_told_as_theirs_with_its_line(bench, tmp_path, old, new, words):
    path, text = tmp_path / "mine.py", Path(TOY_TASK).read_text()
    path.write_text(text.replace(old, new))
    line = text[: text.index(old)].count("\n") + 1
    ended = bench("run", "--task", path, "--model", TOY_MODEL, "--mini")
    assert ended.code == 2
    assert f"error: {path} line {line}{words}" in ended.err
    assert "fault of marble-bench" not in ended.err


def test_an_error_in_a_task_of_bench_tasks_is_told_with_its_file(bench, tmp_path, monkeypatch):
    from marble_bench import tasks

    (tmp_path / "mine.py").write_text("undefined_name")
    monkeypatch.setattr(tasks, "__path__", [str(tmp_path)])
    ended = bench("list", "tasks")
    assert ended.code == 2
    assert f"error: {tmp_path / 'mine.py'} line 1, in <module>: NameError" in ended.err


def test_an_error_of_the_machinery_is_not_laid_at_a_users_door(bench, monkeypatch):
    from marble_bench.data import corpus

    def broken(*_):
        raise KeyError("ours")

    monkeypatch.setattr(corpus, "limit_clips", broken)
    ended = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--limit", 3)
    assert ended.code == 1
    assert "internal error: KeyError: 'ours'" in ended.err


RETURN = "return [pool(bands), pool(bands.tanh()), pool(bands.abs().sqrt())]"
DROPOUT = "import torch.nn as nn; d = nn.Dropout(0.5); bands = d(bands); "
MISTAKES = {
    "no eval": (
        DROPOUT + RETURN,
        "is another when the same windows are encoded again: call eval() on the model in load",
    ),
    "no pool": ("return [bands, bands.tanh(), bands]", "is (1, 3, 16) for one window and `pool` the mean over time"),
    "own mean": (
        "return [bands.mean(1)] * 3",
        "is (2, 16), declared (2, frames, 16): it has no axis of frames: return pool",
    ),
    "axes": (
        "return [pool(bands.transpose(1, 2))] * 3",
        "its axes are in another order: transpose(1, 2) it before `pool`",
    ),
    "windows": (
        "return [pool(bands.transpose(0, 1))] * 3",
        "its axes are in another order: transpose(0, 1) it before `pool`",
    ),
    "no list": (
        "return pool(bands)",
        "encode returned Tensor: return a list of tensors, one for each layer, as [pool(frames)]",
    ),
    "numpy": ("return [pool(bands).numpy()] * 3", "is of type ndarray: return torch tensors (torch.from_numpy)"),
    "half": (
        "return [pool(bands.half()).half()] * 3",
        "holds torch.float16 without being asked to: return float32 (.float())",
    ),
    "range": (
        "return [pool(bands * 1e5), pool(bands), pool(bands)]",
        "and features are stored in half precision, which ends at 65504: scale the layer down",
    ),
    "range of doubles": (
        "return [pool(bands.double() * 1e100), pool(bands), pool(bands)]",
        "e+99 on noise of 0.10 s, and features are stored in half precision",
    ),
    "integers": ("return [pool(bands).int()] * 3", "holds torch.int32: return real floating-point values"),
    "batch": (
        "bands = torch.nn.BatchNorm1d(16)(bands.transpose(1, 2)).transpose(1, 2); " + RETURN,
        "depends on what else is in the batch: call eval() on the model in load (batch norm is in training)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", ["check", "run"])
def test_the_usual_mistakes_are_told_once_and_alike_by_check_and_run(bench, tmp_path, command, mistake):
    made, words = MISTAKES[mistake]
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    assert RETURN in text
    (tmp_path / "off.py").write_text(text.replace(RETURN, made))
    model = f"{tmp_path}/off.py:TOY"
    ended = (
        bench("check", model) if command == "check" else bench("run", "--model", model, "--task", TOY_TASK, "--mini")
    )
    assert ended.code == 2, ended.err
    assert words in ended.err
    lines = ended.err.splitlines()
    assert len(lines) == len(set(lines))
    assert "marble-bench" not in ended.err


@pytest.mark.parametrize(("normalize", "code"), [("none", 0), ("zscore", 2)])
def test_range_is_tried_on_noise_that_is_normalised_as_declared(bench, tmp_path, normalize, code):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    power = "power = 7e4 * waveforms.square().mean(1)[:, None, None] + 0 * bands; return [pool(power)] * 3"
    declared = text.replace(RETURN, power).replace("min_s=0.1", f'min_s=0.1, normalize="{normalize}"')
    (tmp_path / "power.py").write_text(declared)
    assert bench("check", f"{tmp_path}/power.py:TOY").code == code


@pytest.mark.slow
def test_frames_beyond_half_precision_are_a_mark_as_means_over_time_can_be_stored(bench, tmp_path):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    (tmp_path / "click.py").write_text(text.replace(RETURN, "bands[:, 0] = 9e4; " + RETURN))
    model = f"{tmp_path}/click.py:TOY"
    ended = bench("check", model)
    assert ended.code == 0
    assert "warning: layer '0' has frames beyond half precision (65504)" in ended.out
    assert ended.out.count("warning: ") == 1  # though two lengths are tried
    extract = ("features", "extract", "--model", model, "--mini", "--device", "cpu", "--limit", 1, "--task")
    assert bench(*extract, TOY_TASK).code == 0
    ended = bench(*extract, "gtzan-rhythm")
    assert ended.code == 1
    assert "layer '0' reaches 9e+04" in ended.err


def test_layers_in_double_precision_pass_check_and_are_stored_as_those_in_single(bench, tmp_path):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    doubles = "bands = bands.double(); return [pool(bands), pool(bands.tanh()), pool(bands.abs().sqrt())]"
    (tmp_path / "double.py").write_text(text.replace(RETURN, doubles))
    values = {}
    for model in (TOY_MODEL, f"{tmp_path}/double.py:TOY"):
        assert bench("check", model).code == 0
        asked = ("--model", model, "--task", TOY_TASK, "--mini", "--device", "cpu", "--limit", 2)
        assert bench("features", "export", "out.parquet", *asked).code == 0
        found = pd.read_parquet(tmp_path / "out.parquet")
        values[model] = [np.stack(found[layer]) for layer in "012"]
    for one, other in zip(*values.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-10)  # the last digit of half precision


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("torch.nn.Conv1d(1, 16, 400)", "load returned Conv1d, which cannot be called as encode(waveforms, pool)"),
        ("lambda waveforms: [waveforms]", "load returned function, which cannot be called as encode(waveforms, pool)"),
        ("3", "load returned int: return the function encode(waveforms, pool)"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_what_load_must_return_is_told(bench, tmp_path, command, returned, words):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    (tmp_path / "off.py").write_text(text.replace("    return encode\n", f"    return {returned}\n"))
    model = f"{tmp_path}/off.py:TOY"
    ended = (
        bench("check", model) if command == "check" else bench("run", "--model", model, "--task", TOY_TASK, "--mini")
    )
    assert ended.code == 2
    assert words in ended.err
    assert "fault of marble-bench" not in ended.err


def test_a_module_that_takes_waveforms_and_pool_may_be_returned(bench, tmp_path):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    wrapped = "class Model(torch.nn.Module):\n        forward = staticmethod(encode)\n\n    return Model().eval()\n"
    (tmp_path / "fine.py").write_text(text.replace("    return encode\n", f"    {wrapped}"))
    assert bench("check", f"{tmp_path}/fine.py:TOY").code == 0


def test_a_file_of_encoders_without_a_name_is_asked_for_one(bench, tmp_path):
    path = TOY_MODEL.split(":")[0]
    for command in (("check", path), ("run", "--task", path, "--model", TOY_MODEL)):
        ended = bench(*command)
        assert ended.code == 2
        assert f"{path} has no TASK but encoders: name one of them, {path}:TOY" in ended.err


@pytest.mark.parametrize("how", ["import", "from", "lazily"])
def test_an_error_in_a_module_that_a_users_file_imports_is_theirs(bench, tmp_path, how, monkeypatch):
    """Also where the user's own file is not on the stack: what `load` returned is called by the machinery."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    name = f"helper_{how}"
    (tmp_path / f"{name}.py").write_text("def encode(waveforms, pool):\n    return {}['layers']\n")
    text = Path(TOY_MODEL.split(":")[0]).read_text().replace("    return encode\n", "    return ENCODE\n")
    ways = {
        "import": (f"import {name}\n", f"{name}.encode"),
        "from": (f"from {name} import encode as theirs\n", "theirs"),
        "lazily": ("", f"__import__('{name}').encode"),
    }
    line, taken = ways[how]
    (tmp_path / "own.py").write_text(
        text.replace("BANDS = 16", f"{line}BANDS = 16").replace("return ENCODE", f"return {taken}")
    )
    ended = bench("check", f"{tmp_path}/own.py:TOY")
    assert ended.code == 2
    assert f"error: {tmp_path}/{name}.py line 2, in encode: KeyError: 'layers'" in ended.err


def test_a_mistake_of_syntax_in_an_imported_module_is_told_with_its_file(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "helper_syntax.py").write_text("x = 1\ny = (\n")
    (tmp_path / "own.py").write_text("import helper_syntax\n")
    ended = bench("check", f"{tmp_path}/own.py:TOY")
    assert ended.code == 2
    assert f"{tmp_path}/helper_syntax.py line 2: '(' was never closed" in ended.err


def test_a_file_that_ends_python_is_told(bench, tmp_path):
    (tmp_path / "own.py").write_text("exit(0)\n")
    ended = bench("check", f"{tmp_path}/own.py:TOY")
    assert ended.code == 2
    assert f"{tmp_path}/own.py calls exit when it is imported (0): remove that call" in ended.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (RETURN, 'raise KeyError("conv9")', "off.py line 21, in encode: KeyError: 'conv9'"),
        (RETURN, "pass", "toy: encode returned NoneType: return a list of tensors"),
        (RETURN, "return dict(enumerate([pool(bands)] * 3))", "toy: encode returned dict: return a list"),
        (RETURN, "return [pool(bands).numpy()] * 3", "toy: layer '0' is of type ndarray: return torch tensors"),
        (RETURN, "return [pool(bands) * 1j] * 3", "toy: layer '0' holds torch.complex64: return real"),
        (
            RETURN,
            "return [pool(bands)] * 2",
            "toy gives 2 layers and declares 3: return one tensor for each of 0, 1, 2",
        ),
        ("return encode", "pass", "toy: load returned NoneType: return the function encode"),
    ],
)
def test_an_encoder_that_raises_or_returns_something_else_is_told_by_check_and_run(bench, tmp_path, old, new, words):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    assert old in text
    (tmp_path / "off.py").write_text(text.replace(old, new))
    for command in (("check", f"{tmp_path}/off.py:TOY"), ("run", "--model", f"{tmp_path}/off.py:TOY", "--mini")):
        ended = bench(*command, *(("--task", TOY_TASK) if command[0] == "run" else ()))
        assert ended.code == 2
        assert words in ended.err
        assert "fault of marble-bench" not in ended.err


@pytest.mark.slow
def test_one_users_faulty_encoder_does_not_keep_the_others_from_running(bench, tmp_path):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    (tmp_path / "off.py").write_text(text.replace(RETURN, "raise KeyError").replace('"toy"', '"off"'))
    ended = bench("run", "--model", f"{tmp_path}/off.py:TOY", "--model", TOY_MODEL, "--task", TOY_TASK, "--mini")
    assert ended.code == 4
    assert "error: off on toy-task:" in ended.err
    assert "toy    toy-task" in ended.out


@pytest.mark.parametrize(
    ("target", "labels", "words"),
    [
        (Classes(("a", "b")), ["a", 3], "clip 'two' is labelled 3, which is not a label of the task"),
        (Classes(("a", "b")), ["a", None], "clip 'two' is labelled None"),
        (Tags(("rock", "k")), [("rock",), "k"], "clip 'two' has the target 'k'; give a tuple of its tags: ('rock',)"),
        (Tags(("rock", "k")), [(), None], "clip 'two' has the target None; give a tuple"),
        (Scalars(("x",)), [(1.0,), ("high",)], "clip 'two' has the target ('high',); give a tuple of numbers"),
        (Scalars(("x", "y")), [(1, 2), (1,)], "clip 'two' has 1 values; the task has 2: ('x', 'y')"),
        (Scalars(("x",)), [(1,), (float("nan"),)], "clip 'two' has a label that is not a finite number"),
    ],
)
def test_a_label_of_another_kind_is_told_by_clip(target, labels, words):
    with pytest.raises(DataError) as caught:
        target.encode(labels, ["one", "two"])
    assert words in str(caught.value)


def test_labels_become_indices_flags_and_numbers():
    np.testing.assert_array_equal(Classes(("a", "b")).encode(["b", "a"], "12"), [1, 0])
    np.testing.assert_array_equal(Tags(("a", "b")).encode([["b"], ("a", "b")], "12"), [[0, 1], [1, 1]])
    np.testing.assert_array_equal(Scalars(("x",)).encode([1.5, ("2",)], "12"), [[1.5], [2]])
    assert Scalars(("x", "y")).encode([], []).shape == (0, 2)


def test_a_wrong_label_is_told_before_anything_is_encoded(bench, tmp_path, monkeypatch):
    from marble_bench.features import pooled as extract

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    load_toy_module().write(corpus)

    def encoded(*_, **__):
        raise DataError("encoding starts")

    monkeypatch.setattr(extract, "extract", encoded)
    text = Path(TOY_TASK).read_text()
    for label, words in (("REGISTERS[index % 3]", "encoding starts"), ('"hum"', "clip 'train00' is labelled 'hum'")):
        (tmp_path / "mine.py").write_text(text.replace("REGISTERS[index % 3]", label))
        ended = bench("run", "--task", tmp_path / "mine.py", "--model", TOY_MODEL, "--data-dir", corpus)
        assert ended.code == 3
        assert words in ended.err


@pytest.mark.slow
def test_a_task_without_a_miniature_is_checked_and_run_where_its_corpus_lies(bench, tmp_path):
    corpus = tmp_path / "own corpus"
    corpus.mkdir()
    load_toy_module().write(corpus)
    (tmp_path / "mine.py").write_text(Path(TOY_TASK).read_text().replace("    mini=write,\n", ""))
    checked = bench("check", tmp_path / "mine.py", "--data-dir", corpus)
    assert checked.code == 0, checked.err
    assert f"corpus {corpus}: {{'train': 24, 'valid': 12, 'test': 15}} clips" in checked.out
    run = ("run", "--task", tmp_path / "mine.py", "--model", TOY_MODEL, "--protocol", "linear")
    assert bench(*run, "--data-dir", corpus).code == 0
    for command in (("check", tmp_path / "mine.py"), (*run, "--mini")):
        ended = bench(*command)
        assert ended.code == 2
        assert "corpus 'toy' has no miniature: give its folder by --data-dir, or declare mini=" in ended.err

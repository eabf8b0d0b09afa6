"""What a user's own files are made of, where it is easily overlooked: packages, names in quotation marks, spans, data."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import TOY_MODEL, TOY_TASK
from test_identity import (
    ENCODER,
    OWN_METRIC,
    QUICK,
    TASK,
    _dies_before_the_record,
    _without_machine,
    _write,
)

from marble_bench.core import plugins, sources
from marble_bench.core.task import Clip
from marble_bench.data import corpus

SCORES = "return shipped.compute(outputs, truth)"
IN_CORPUS = tuple(each for each in QUICK if each != "--mini")


def _clean(bench, tmp_path, *run):
    return bench(*run, "--cache-dir", tmp_path / "clean", "--results-dir", tmp_path / "clean-results")


@pytest.mark.slow
def test_probes_of_other_spans_of_the_same_files_are_not_taken(bench, tmp_path, monkeypatch):
    spans = "*json.loads((root / 'spans.json').read_text())"
    text = TASK.replace("REGISTERS[index % 3])", f"REGISTERS[index % 3], {spans})", 1)
    own = _write(
        tmp_path / "mine.py", text.replace("from pathlib import Path\n", "import json\nfrom pathlib import Path\n")
    )
    root = tmp_path / "data"
    root.mkdir()
    (root / "spans.json").write_text("[0.0, null]")
    plugins.find_task(str(own)).task.corpus.mini(root)
    run = ("run", "--task", own, "--model", TOY_MODEL, "--data-dir", root, *IN_CORPUS)
    _dies_before_the_record(bench, monkeypatch, *run)
    (root / "spans.json").write_text("[0.0, 0.15]")
    again, clean = bench(*run), _clean(bench, tmp_path, *run)
    assert again.code == clean.code == 0, again.err
    assert _without_machine(again.record) == _without_machine(clean.record)


@pytest.mark.slow
def test_kept_probes_that_score_otherwise_now_are_removed(bench, tmp_path, monkeypatch):
    signed = SCORES.replace("outputs,", "sign * outputs,")
    reads = f"sign = float((Path(__file__).parent / 'sign.txt').read_text())\n    {signed}"
    own = _write(tmp_path / "mine.py", OWN_METRIC.replace(SCORES, reads))
    (tmp_path / "sign.txt").write_text("1")
    run = ("run", "--task", own, "--model", TOY_MODEL, *QUICK)
    _dies_before_the_record(bench, monkeypatch, *run)
    (tmp_path / "sign.txt").write_text("-1")
    refused = bench(*run)
    assert refused.code == 1
    assert "stored probes of an interrupted run now have another score" in refused.err
    again, clean = bench(*run), _clean(bench, tmp_path, *run)
    assert again.code == clean.code == 0, again.err
    assert _without_machine(again.record) == _without_machine(clean.record)


@pytest.mark.parametrize("call", ["importlib.import_module('idbystring')", "__import__('idbystring')"])
def test_a_module_that_is_imported_by_a_name_in_quotation_marks_counts(tmp_path, monkeypatch, call):
    monkeypatch.syspath_prepend(str(tmp_path))
    later = f"import importlib\n    return {call}.compute(outputs, truth)"
    own = _write(tmp_path / "mine.py", OWN_METRIC.replace(SCORES, later), idbystring="K = 1\n")
    one = sources.find_origin("task", plugins.find_task(str(own))).digest
    (tmp_path / "idbystring.py").write_text("K = 2\n")
    assert sources.find_origin("task", plugins.find_task(str(own))).digest != one


@pytest.mark.slow
def test_a_helper_that_two_tasks_import_by_a_dot_counts_for_each(tmp_path):
    helper = "from marble_bench.metrics import accuracy\nK = 1\n"
    text = TASK.replace("from marble_bench.metrics import accuracy\n", "from ._idcommon import accuracy, K\n")
    _write(tmp_path / "idone.py", text, _idcommon=helper)
    _write(tmp_path / "idtwo.py", text)
    code = (
        "import sys; from marble_bench.core import keys, plugins; "
        "[plugins.find_task(name) for name in sys.argv[1:]]; print(keys.hash_task(plugins.find_task('idtwo')))"
    )

    def hashed(*before):
        environment = {**os.environ, "BENCH_TASKS": str(tmp_path)}
        command = [sys.executable, "-c", code, *before]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    alone = hashed()
    assert hashed("idone") == alone
    (tmp_path / "_idcommon.py").write_text(helper.replace("K = 1", "K = 2"))
    assert hashed("idone") != alone


def test_a_package_counts_alike_whether_it_was_imported_before_or_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    _write(tmp_path / "idpackage/deep/part.py", "A = 1\n", __init__="B = 1\n")
    (tmp_path / "idpackage/__init__.py").write_text("C = 1\n")
    one, two = (_write(tmp_path / f"{name}.py", f"import idpackage.deep.part\n{text}") for name, text in
                (("one", ENCODER.replace("from __future__ import annotations\n", "")),
                 ("two", ENCODER.replace("from __future__ import annotations\n", ""))))  # fmt: skip
    codes = {plugins.find_encoder(f"{each}:TOY").code for each in (one, two)}
    assert len(codes) == 1
    (tmp_path / "idpackage/__init__.py").write_text("C = 2\n")
    assert plugins.find_encoder(f"{two}:TOY").code not in codes


def test_two_helpers_that_change_places_are_another_encoder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    text = ENCODER.replace("from collections", "import idhigh\nimport idlow\nfrom collections", 1)
    own = _write(tmp_path / "mine.py", text, idhigh="K = 1\n", idlow="K = 2\n")
    code = plugins.find_encoder(f"{own}:TOY").code
    _write(own, text, idhigh="K = 2\n", idlow="K = 1\n")
    assert plugins.find_encoder(f"{own}:TOY").code != code


def test_a_folder_with_py_in_its_name_is_no_end_of_an_encoders_file(tmp_path):
    own = _write(tmp_path / ".pyenv/x.pytorch/mine.py", ENCODER)
    assert plugins.find_encoder(f"{own}:TOY").name == "toy"


def _fingerprint(target):
    return corpus.compute_fingerprint([Clip("a", "train", "a.wav", target)], ["0"])


@pytest.mark.slow
def test_a_corpus_is_known_by_its_labels_in_full_and_alike_in_every_process():
    assert _fingerprint(torch.tensor([0.1234567])) != _fingerprint(torch.tensor([0.12345]))
    code = (
        "from marble_bench.data.corpus import compute_fingerprint; from marble_bench import Clip; "
        "print(compute_fingerprint([Clip('a', 'train', 'a.wav', {'x', 'y', 'rock', 'pop'})], ['0']))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


@pytest.mark.parametrize("target", ["rock", ("a",), (), ("a", "b"), (0.5, -1.25), ((0.1, 0.2), None), [1, 2], 3, None])
def test_plain_labels_stand_in_the_fingerprint_as_they_always_did(target):
    assert corpus._write_exact(target) == repr(target)


def test_a_miniature_is_known_by_the_helpers_of_the_file_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    text = TASK.replace("from pathlib import Path\n", "from pathlib import Path\n\nimport idloud\n")
    own = _write(tmp_path / "mine.py", text.replace("0.3 * np", "idloud.GAIN * np"), idloud="GAIN = 0.3\n")
    code = corpus._digest_code(plugins.find_task(str(own)).task.corpus)
    (tmp_path / "idloud.py").write_text("GAIN = 0.1\n")
    assert corpus._digest_code(plugins.find_task(str(own)).task.corpus) != code


def test_a_miniature_may_be_made_by_a_partial_function(bench, tmp_path):
    text = TASK.replace("def write(folder: Path)", "def write(loud: float, folder: Path)").replace(
        "0.3 * np", "loud * np"
    )
    text = text.replace("from pathlib import Path\n", "from functools import partial\nfrom pathlib import Path\n")
    own = _write(tmp_path / "mine.py", text.replace("mini=write,", "mini=partial(write, 0.3),"))
    ended = bench("run", "--task", own, "--model", TOY_MODEL, *QUICK)
    assert ended.code == 0, ended.err
    toy = plugins.find_task(TOY_TASK).task.corpus
    codes = {
        corpus._digest_code(replace(toy, mini=partial(each, loud))) for each in (toy.mini, print) for loud in (0.1, 0.2)
    }
    assert len(codes) == 4

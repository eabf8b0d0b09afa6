"""What decides a number is in its key: the code of plug-ins, their helpers, and what an encoder gives."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TOY_MODEL, TOY_TASK
from safetensors.torch import save_file

from marble_bench.core import hashes, keys, plugins, shipped, sources, trees, user_files
from marble_bench.core.task import Clip, Window
from marble_bench.encoders.weights import Weights
from marble_bench.errors import BenchError, UsageError
from marble_bench.features import fingerprint, frames, jobs, manage, pooled, ray
from marble_bench.features.store import Span, Store
from marble_bench.records import results, validation
from marble_bench.records.schema import find_faults

ROOT = Path(__file__).parent.parent
ENCODER = Path(TOY_MODEL.split(":")[0]).read_text()
TASK = Path(TOY_TASK).read_text()
QUICK = ("--mini", "--json", "--device", "cpu", "--seeds", 1, "--layers", "0", "--protocol", "marble")


# The digest of shipped code: what it computes, not how or where it is written.

CODE = '''"""About."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from marble_bench.encoders import _hub
from marble_bench.encoders._mel import banded

if TYPE_CHECKING:
    import torch

HOP = 320  # samples


def width(x):
    """What it is."""
    text = f"{x:>{HOP}} of " "all"
    return math.sqrt(x) + HOP, text
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""About."""', '"""About it, in better words."""'),
        ('    """What it is."""\n', ""),
        ("HOP = 320  # samples", "HOP = 320"),
        ("HOP = 320", "HOP = (\n    320\n)"),
        ("from marble_bench.encoders import _hub\n", "from marble_bench.encoders.shared import _hub\n"),
        ("from marble_bench.encoders._mel import banded\n", "from .parts.mel import banded\n"),
        (
            "from marble_bench.encoders import _hub\nfrom marble_bench.encoders._mel import banded\n",
            "from marble_bench.core._mel import banded\nfrom marble_bench.encoders import _hub\n",
        ),
        ("    import torch\n", "    import torch\n    from numpy.typing import NDArray\n"),
    ],
)
def test_another_way_to_write_the_same_code_has_the_same_digest(old, new):
    assert old in CODE
    assert trees.digest_text(CODE.replace(old, new)) == trees.digest_text(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("HOP = 320", "HOP = 321"),
        ("HOP = 320", "HOP = 320.0"),
        ("HOP = 320", "HOP = '320'"),
        ("sqrt", "log"),
        ("import math", "import cmath as math"),
        ("import numpy as np", "import cupy as np"),
        ("_mel import banded", "_mel import mel_power as banded"),
        ("+ HOP, text", "- HOP, text"),
        ("{x:>{HOP}}", "{x:<{HOP}}"),
        ("{x:>{HOP}}", "{x!r:>{HOP}}"),
        ("return math", "x += 1\n    return math"),
    ],
)
def test_code_that_computes_something_else_has_another_digest(old, new):
    assert old in CODE
    assert trees.digest_text(CODE.replace(old, new)) != trees.digest_text(CODE)


def test_the_form_of_code_does_not_depend_on_what_versions_of_python_add_to_it():
    bare = trees.compute_form(CODE)
    tree = ast.parse(CODE)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.type_params = []  # from 3.12 on
            node._fields = tuple(dict.fromkeys((*node._fields, "type_params")))
        if isinstance(node, ast.Constant):
            node.kind = "u"
        if isinstance(node, ast.JoinedStr):  # 3.12 parts texts elsewhere, and may leave empty ones
            texts = [
                part
                for value in node.values
                for part in (
                    [ast.Constant(each) for each in (value.value[:1], value.value[1:], "")]
                    if isinstance(value, ast.Constant)
                    else [value]
                )
            ]
            node.values = texts
        if isinstance(node, ast.FormattedValue) and node.format_spec is None:
            node.format_spec = ast.JoinedStr([])
    assert trees._compute_form(tree) == bare
    # a form that was written down once: a change of the form itself would take every record off the board
    assert trees.digest_text(CODE) == "bfcc293b941bcfecbe6080a9a2670a6ebb2ad9e7cf3d3f013ce448c464ea95a1"


def _copy(tmp_path, *names):
    """A copy of rooms, with the digest of files in it."""
    for name in names:
        source = Path(trees.find_room(name).folder)
        shutil.copytree(source, tmp_path / trees.ROOMS[name], ignore=shutil.ignore_patterns("__pycache__", "splits"))
    return lambda kind, *files: trees.digest_with_imports(
        [tmp_path / trees.ROOMS[kind] / file for file in files],
        trees.Room(trees.find_room(kind).package, tmp_path / trees.ROOMS[kind]),
    )


EDITS = [
    ("encoder", "mert.py", "_speech.py", "CONVS", None),
    ("encoder", "mert.py", "_hub.py", None, None),
    ("encoder", "clap.py", "_mel.py", "1e-10", "1e-9"),
    ("encoder", "jukebox.py", "tensors.py", None, None),
    ("encoder", "musicnn.py", "tf_bundle.py", None, None),
    ("task", "mtg_genre.py", "corpora/mtg_jamendo.py", None, None),
    ("task", "gtzan.py", "corpora/__init__.py", None, None),
    ("corpus", "corpora/gtzan_rhythm.py", "corpora/gtzan.py", None, None),
    ("corpus", "corpora/vocalset.py", "corpora/voice_start.py", None, None),
    ("metric", "stems.py", "_bsseval.py", "TAPS = 512", "TAPS = 256"),
    ("head", "linear.py", "mlp.py", "-0.5", "-0.4"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "file", "helper", "old", "new"), EDITS)
def test_a_change_in_a_module_of_the_room_that_is_imported_changes_the_digest_and_a_comment_does_not(
    tmp_path, kind, file, helper, old, new
):
    digest = _copy(tmp_path, kind)
    before = digest(kind, file)
    place = tmp_path / trees.ROOMS[kind] / helper
    text = place.read_text()
    place.write_text(text + '\n# more\n"""And words."""\n')
    assert digest(kind, file) == before
    if new is None:
        place.write_text(text + "\nMORE = 1\n")
    else:
        assert old in text
        place.write_text(text.replace(old, new))
    assert digest(kind, file) != before


def test_a_module_that_nobody_imports_does_not_count(tmp_path):
    digest = _copy(tmp_path, "encoder")
    before = digest("encoder", "handcrafted.py")
    (tmp_path / "encoders/_speech.py").write_text("OTHER = 1\n")
    assert digest("encoder", "handcrafted.py") == before


def test_a_moved_encoder_with_renamed_imports_has_the_same_digest(tmp_path):
    digest = _copy(tmp_path, "encoder")
    before = digest("encoder", "clap.py")
    room = tmp_path / "encoders"
    (room / "families").mkdir()
    (room / "_mel.py").rename(room / "families/spectra.py")
    text = (room / "clap.py").read_text().replace("encoders._mel import", "encoders.families.spectra import")
    (room / "clap.py").unlink()
    (room / "families/contrastive.py").write_text(text)
    assert digest("encoder", "families/contrastive.py") == before


@pytest.mark.slow
def test_every_shipped_plug_in_is_entered_under_its_version():
    missing = shipped.find_missing(shipped.list_shipped())
    assert not missing, (
        "code changed: raise the version of what gives other numbers; where goldens, or the miniature's scores and "
        f"predictions, came out the same, `python -m marble_bench.core.shipped --enter`: {missing}"
    )


def test_the_digest_of_a_metric_holds_what_measures_a_clip():
    """Metrics of frames share how rows are averaged; what makes the rows tells them apart."""
    metrics = {each.name: each for name in plugins.list_task_names() for each in plugins.find_task(name).task.metrics}
    digests = {name: sources.find_origin("metric", metric).digest for name, metric in metrics.items()}
    assert len(set(digests.values())) == len(metrics) > 50
    files = set(sources.list_files(metrics["majmin"].measure.of_clip))
    assert {file.name for file in files} == {"chords.py"}
    other = replace(metrics["majmin"], measure=metrics["oa"].measure, chooses=None)
    assert sources.find_origin("metric", other).digest != digests["majmin"]


def test_what_is_entered_moves_no_key_and_what_is_not_entered_is_its_own(monkeypatch):
    encoder = plugins.find_encoder("mfcc")
    origin = sources.find_origin("encoder", encoder)
    assert origin.shipped
    assert hashes.is_known("encoder", "mfcc", origin.version, origin.digest)
    before = keys.FeatureKey.of(encoder, "0", clip_normalize="none", kind="pooled", dtype="float32").digest
    other = replace(origin, digest="f" * 64)
    assert not hashes.is_known("encoder", "mfcc", other.version, other.digest)
    monkeypatch.setattr(sources, "find_origin", lambda *_: other)
    assert keys.FeatureKey.of(encoder, "0", clip_normalize="none", kind="pooled", dtype="float32").digest != before
    entered = shipped.add_entries(hashes.load_digests(), [other])
    monkeypatch.setattr(hashes, "load_digests", lambda: entered)
    assert hashes.is_known("encoder", "mfcc", other.version, other.digest)
    assert keys.FeatureKey.of(encoder, "0", clip_normalize="none", kind="pooled", dtype="float32").digest == before
    assert shipped.find_missing([other, replace(origin, version=9)]) == [replace(origin, version=9)]
    assert not hashes.is_shipped_name("encoder", "somebodys")


@pytest.mark.parametrize(
    "other",
    [
        {"version": 2}, {"source": "b"}, {"weights_sha256": "1"}, {"sample_rate_hz": 16000}, {"normalize": "peak"},
        {"clip_normalize": "peak"}, {"channels": "left"}, {"pooling": "max"}, {"window_s": 5.0}, {"first_s": 30.0},
        {"kind": "frames"}, {"layer": "1"}, {"averaged": 2}, {"cut": {"piece": 1}}, {"mixed": {"version": 1}},
        {"feature_rate_hz": 25.0}, {"min_ratio": 0.8}, {"padding": "masked"},
        {"change": "mp3"}, {"dtype": "bfloat16"}, {"pipeline": 2},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_another_fact_is_another_key_of_features(other):
    key = keys.FeatureKey(
        encoder="toy", version=1, source="a", weights_sha256="0", sample_rate_hz=8000, normalize="none",
        clip_normalize="none", kind="pooled", dtype="float32",
    )  # fmt: skip
    assert replace(key).digest == key.digest
    assert replace(key, **other).digest != key.digest


KEYS = """
import json
from marble_bench.core import keys, plugins, sources
from marble_bench.features import pooled
from marble_bench.protocols.marble import PROTOCOL as MARBLE
named, encoder = plugins.find_task("gtzan"), plugins.find_encoder("clap-music")
store = pooled.make_key(encoder, "0" * 64, named.task.window)
origins = sources.list_run_origins(named, encoder, MARBLE)
print(json.dumps([store.digest, keys.hash_task(named), keys.group_by_kind(origins)]))
"""


@pytest.mark.slow
def test_keys_stay_when_files_move_and_sentences_change_and_move_with_a_constant(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "splits")
    for name in ("marble_bench", "tasks", "probes"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    encoders = tmp_path / "marble_bench/encoders"

    def keys_now():
        done = subprocess.run(
            [sys.executable, "-c", KEYS], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    def edit(path, old, new):
        text = path.read_text()
        assert old in text, path
        path.write_text(text.replace(old, new, 1))

    store, task, plug_ins = keys_now()
    (encoders / "_mel.py").rename(encoders / "_spectra.py")
    for path in encoders.glob("*.py"):
        path.write_text(path.read_text().replace("encoders._mel import", "encoders._spectra import"))
    edit(encoders / "_spectra.py", '"""10 log10 of a power', '"""Decibels: 10 log10 of a power')
    (encoders / "clap.py").rename(encoders / "contrastive.py")
    edit(tmp_path / "tasks/corpora/gtzan.py", '"""', '"""About this: ')
    edit(tmp_path / "probes/heads/mlp.py", '"""One hidden', '"""About one hidden')
    edit(tmp_path / "marble_bench/metrics/accuracy.py", '"""', '"""About this: ')
    assert keys_now() == [store, task, plug_ins]
    edit(encoders / "_spectra.py", "1e-10", "1e-9")
    edit(tmp_path / "tasks/corpora/gtzan.py", "RATE_HZ = 22050", "RATE_HZ = 22051")
    edit(tmp_path / "probes/heads/mlp.py", "inputs**-0.5", "inputs**-0.4")
    edit(tmp_path / "marble_bench/metrics/accuracy.py", "== truth", "!= truth")
    changed = keys_now()
    assert changed[0] != store
    moved = {kind for kind in plug_ins if changed[2][kind] != plug_ins[kind]}
    assert moved == {"encoder", "task", "corpus", "metric", "head"}


# A user's file: its bytes and those of its helpers.


def _write(place, text, **helpers):
    place.parent.mkdir(parents=True, exist_ok=True)
    for name, content in helpers.items():
        (place.parent / f"{name}.py").write_text(content)
    place.write_text(text)
    return place


WITH_HELPER = ENCODER.replace("from marble_bench import", "import {name}\nfrom marble_bench import").replace(
    "BANDS = 16", "BANDS = {name}.BANDS"
)


def test_an_edited_helper_is_another_encoder_even_within_a_second_and_one_process(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    own = _write(tmp_path / "mine.py", WITH_HELPER.format(name="idhelper"), idhelper="BANDS = 16\nGAIN = 1\n")
    first = plugins.find_encoder(f"{own}:TOY")
    assert first.code != user_files.digest_user_file(own, {})
    assert plugins.find_encoder(f"{own}:TOY").code == first.code
    (tmp_path / "idhelper.py").write_text("BANDS = 10\nGAIN = 1\n")
    second = plugins.find_encoder(f"{own}:TOY")
    assert second.code != first.code
    assert (first.layers[0].width, second.layers[0].width) == (16, 10)


def test_a_helper_that_was_imported_before_or_is_imported_only_in_load_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    lazy = ENCODER.replace("    import torch\n", "    import torch\n    import idlazy.part\n")
    own = _write(tmp_path / "mine.py", lazy)
    _write(tmp_path / "idlazy/part.py", "from . import deep\n", __init__="", deep="A = 1\n")
    _write(tmp_path / "idearly.py", "B = 1\n")
    __import__("idearly")
    code = plugins.find_encoder(f"{own}:TOY").code
    (tmp_path / "idlazy/deep.py").write_text("A = 2\n")
    deep = plugins.find_encoder(f"{own}:TOY").code
    assert deep != code
    own.write_text(lazy.replace("import idlazy.part", "import idearly"))
    early = plugins.find_encoder(f"{own}:TOY").code
    (tmp_path / "idearly.py").write_text("B = 2\n")
    assert plugins.find_encoder(f"{own}:TOY").code != early


def test_two_files_of_one_name_are_two_modules_and_two_helpers_of_one_name_are_refused(tmp_path, monkeypatch):
    files = [_write(tmp_path / name / "enc.py", ENCODER.replace("BANDS = 16", f"BANDS = {n}")) for name, n in
             (("a", 16), ("b", 10))]  # fmt: skip
    found = [plugins.find_encoder(f"{file}:TOY") for file in files]
    assert [len(each.layers) and each.layers[0].width for each in found] == [16, 10]
    bands = [sys.modules[each.load.__module__].BANDS for each in found]
    assert bands == [16, 10]
    for file, count in zip(files, (16, 10), strict=True):
        _write(file, WITH_HELPER.format(name="idtwin"), idtwin=f"BANDS = {count}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    plugins.find_encoder(f"{files[0]}:TOY")
    with pytest.raises(UsageError, match=r"imports 'idtwin', but Python uses .*a/idtwin.py"):
        plugins.find_encoder(f"{files[1]}:TOY")
    sys.modules.pop("idtwin")


def test_an_edit_of_the_same_length_within_a_second_is_run_not_the_compiled_file_of_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    own = _write(tmp_path / "mine.py", ENCODER)
    status = own.stat()
    plugins.find_encoder(f"{own}:TOY")
    own.write_text(ENCODER.replace("BANDS = 16", "BANDS = 10"))
    os.utime(own, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert plugins.find_encoder(f"{own}:TOY").layers[0].width == 10


# Runs: nothing kept is taken for what it is not.

WEIGHTED = ENCODER.replace(
    "    import torch\n\n    def encode", "    import torch\n    from safetensors.torch import load_file\n\n"
    '    gain = load_file(weights)["gain"]\n\n    def encode',
).replace(".log()", ".log() * gain").replace(
    "from marble_bench import", "from marble_bench import Source,"
).replace("    min_s=0.1,\n", '    min_s=0.1,\n    weights=Source(url="https://example.org/w.safetensors"),\n')  # fmt: skip


def _dies_before_the_record(bench, monkeypatch, *arguments):
    """A run that is killed when all probes are trained and kept."""

    def killed(*_, **__):
        raise BenchError("killed")

    with monkeypatch.context() as dying:
        dying.setattr(results, "save", killed)
        assert "killed" in bench(*arguments).err


def _without_machine(record):
    return {key: record[key] for key in ("scores", "selection")}


@pytest.mark.slow
def test_probes_of_an_encoders_earlier_code_are_not_taken_for_those_of_its_edited_file(bench, tmp_path, monkeypatch):
    save_file({"gain": torch.ones(1)}, tmp_path / "w.safetensors")
    own = _write(tmp_path / "mine.py", WEIGHTED)
    run = ("run", "--task", TOY_TASK, "--model", f"{own}:TOY", "--weights", tmp_path / "w.safetensors", *QUICK)
    _dies_before_the_record(bench, monkeypatch, *run)
    assert list((tmp_path / "cache/probes").rglob("*.safetensors"))
    own.write_text(WEIGHTED.replace("pool(bands)", "pool(bands.flip(2) * 3)"))
    again = bench(*run)
    clean = bench(*run, "--cache-dir", tmp_path / "clean", "--results-dir", tmp_path / "clean-results")
    assert again.code == clean.code == 0, again.err
    assert _without_machine(again.record) == _without_machine(clean.record)


OWN_METRIC = TASK.replace("from marble_bench.metrics import accuracy\n",
    "from marble_bench.metrics import accuracy as shipped\nfrom marble_bench.metrics import Metric\n"
).replace("TOY = Corpus(", "def compute(outputs, truth):\n    return shipped.compute(outputs, truth)\n\n\n"
    'accuracy = Metric("accuracy", "classes", compute, shipped.per_clip, "mine")\nTOY = Corpus(',
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("where", ["file", "helper"])
def test_probes_chosen_by_an_earlier_metric_are_not_taken_and_the_task_is_another(bench, tmp_path, monkeypatch, where):
    monkeypatch.syspath_prepend(str(tmp_path))
    place = tmp_path / "mine.py"
    if where == "file":
        _write(place, OWN_METRIC)
    else:
        start, end = OWN_METRIC.index("def compute"), OWN_METRIC.index("accuracy = Metric(")
        head = "from marble_bench.metrics import accuracy as shipped\n\n\n"
        text = OWN_METRIC[:start] + OWN_METRIC[end:]
        text = text.replace("from pathlib import Path\n", "from pathlib import Path\n\nfrom idmetric import compute\n")
        _write(place, text, idmetric=head + OWN_METRIC[start:end])
        place = tmp_path / "idmetric.py"
    run = ("run", "--task", tmp_path / "mine.py", "--model", TOY_MODEL, *QUICK)
    first = bench(*run, "--results-dir", tmp_path / "first")
    _dies_before_the_record(bench, monkeypatch, *run)
    place.write_text(place.read_text().replace("return shipped.compute(outputs, truth)",
                                               "return 1 - shipped.compute(outputs, truth)"))  # fmt: skip
    again = bench(*run)
    clean = bench(*run, "--cache-dir", tmp_path / "clean", "--results-dir", tmp_path / "clean-results")
    assert again.code == clean.code == 0, again.err
    assert _without_machine(again.record) == _without_machine(clean.record)
    assert again.record["selection"] != first.record["selection"]
    assert again.record["task"]["hash"] != first.record["task"]["hash"]
    assert again.record["task"]["hash"] == clean.record["task"]["hash"]


READS = ENCODER.replace(
    "    import torch\n\n    def encode",
    "    import torch\n\n    gain = torch.load(Path(__file__).parent / 'gain.pt')\n\n    def encode",
).replace(".log()", ".log() * gain")


@pytest.mark.slow
def test_weights_that_load_reads_are_compared_with_what_is_stored(bench, tmp_path):
    own = _write(tmp_path / "mine.py", READS)
    torch.save(torch.ones(1), tmp_path / "gain.pt")
    run = ("run", "--task", TOY_TASK, "--model", f"{own}:TOY", *QUICK)
    first = bench(*run)
    assert first.code == 0, first.err
    torch.save(torch.full((1,), 1 + 1e-5), tmp_path / "gain.pt")
    assert bench(*run).code == 0  # smaller than the tolerance: not seen
    torch.save(torch.zeros(1), tmp_path / "gain.pt")
    for more in ((), ("--overwrite",)):
        changed = bench(*run, *more)
        assert changed.code == 1
        assert "layer '0' differs by 1 (relative) between 20" in changed.err
        assert "raise the encoder's version (it is 1), or run with --fresh-features" in changed.err
    refused = bench(*run, "--fresh-features")  # before anything is set aside or made: the record would be in its way
    assert refused.code == 2
    assert (
        "marble/toy-task.mini-layers-0-seeds1.json exists already, and --fresh-features may change it: give --overwrite too"
        in refused.err.replace("\n", "")
    )
    assert not (tmp_path / "cache/aside").exists()
    fresh = bench(*run, "--fresh-features", "--overwrite")
    assert fresh.code == 0, fresh.err
    assert fresh.record["cost"]["cached"] is False
    assert fresh.record["scores"]["accuracy"]["test"] == pytest.approx(1 / 3)
    (aside,) = (tmp_path / "cache/aside").iterdir()
    assert [held.encoder for held in manage.list_stores(aside)] == ["toy"]
    assert bench(*run).code == 0
    own.write_text(READS.replace("    min_s=0.1,", "    min_s=0.1,\n    version=2,"))
    assert bench(*run).code == 0


def test_probes_of_features_that_were_set_aside_are_not_taken_for_the_fresh_ones(bench, tmp_path, monkeypatch):
    own = _write(tmp_path / "mine.py", READS)
    torch.save(torch.ones(1), tmp_path / "gain.pt")
    run = ("run", "--task", TOY_TASK, "--model", f"{own}:TOY", *QUICK)
    _dies_before_the_record(bench, monkeypatch, *run)
    torch.save(torch.zeros(1), tmp_path / "gain.pt")
    fresh = bench(*run, "--fresh-features")
    assert fresh.code == 0, fresh.err
    assert fresh.record["scores"]["accuracy"]["test"] == pytest.approx(1 / 3)


RANDOM = ENCODER.replace(
    "    import torch\n\n    def encode", "    import torch\n\n    gain = torch.rand(16)\n\n    def encode"
).replace(".log()", ".log() * gain")


def test_weights_drawn_at_every_load_are_refused_by_check_and_by_run(bench, tmp_path):
    own = _write(tmp_path / "mine.py", RANDOM)
    checked = bench("check", f"{own}:TOY")
    run = bench("run", "--task", TOY_TASK, "--model", f"{own}:TOY", *QUICK)
    assert (checked.code, run.code) == (2, 2)
    for ended in (checked, run):
        assert "loaded twice, layer '0' differs by" in ended.err
        assert "fixed seed" in ended.err
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    own.write_text(RANDOM.replace("torch.rand(16)", "torch.rand(16, generator=torch.Generator().manual_seed(1))"))
    assert bench("check", f"{own}:TOY").code == 0


@pytest.mark.slow
def test_a_record_holds_its_key_and_the_code_of_every_plug_in(toy, tmp_path):
    record = toy(*QUICK).record
    assert not find_faults(record)
    told = record["identity"]
    assert {each["kind"] for each in told["sources"]} == {"encoder", "task", "corpus", "metric", "protocol", "head"}
    theirs = {each["kind"] for each in told["sources"] if not each["shipped"]}
    assert theirs == {"encoder", "task", "corpus"}
    for each in told["sources"]:
        known = hashes.is_known(each["kind"], each["name"], each["version"], each["digest"])
        assert known is each["shipped"]
    (path,) = (tmp_path / "results").glob("*/*/*/*.json")
    older = {key: value for key, value in record.items() if key != "identity"}
    assert not find_faults(older)
    path.write_text(json.dumps(older))
    again = toy(*QUICK)  # a record that was made before records had it is the same record
    assert again.code == 0, again.err


# Fingerprints.


def _toy(gain=1.0, load=None):
    encoder = plugins.find_encoder(TOY_MODEL)

    def encode(waves, pool):
        return [gain * layer for layer in encoder.load(None, "cpu")(waves, pool)]

    return encoder, encode


def test_the_signals_are_the_same_on_every_machine():
    made = fingerprint.make_signals(8000, 8000)
    assert made.shape == (2, 8000)
    assert made[0, :3] == pytest.approx([0.15332, -0.02739, -0.18943], abs=1e-5)
    assert np.abs(made).max() < 1
    assert np.array_equal(made, fingerprint.make_signals(8000, 8000))


@pytest.mark.parametrize(
    ("min_s", "max_s", "samples"), [(0.1, None, 8000), (3.0, None, 24000), (0.1, 0.5, 4000), (3.0, 5.0, 24000)]
)
def test_the_signals_last_a_second_or_what_an_encoder_takes(min_s, max_s, samples):
    encoder, encode = _toy()
    lengths = []

    def watched(waves, pool):
        lengths.append(waves.shape)
        return encode(waves, pool)

    made = fingerprint.compute(replace(encoder, min_s=min_s, max_s=max_s), watched, "cpu")
    assert lengths == [(1, samples)] * 2
    assert {name: layer.shape for name, layer in made.layers.items()} == dict.fromkeys("012", (64,))


def test_half_precision_is_known_by_what_an_encoder_computes_in_and_rounding_around_nothing_is_no_change():
    encoder, encode = _toy()
    assert not fingerprint.compute(encoder, encode, "cpu").half
    halves = fingerprint.compute(encoder, lambda waves, pool: encode(waves, lambda each: pool(each.half())), "cpu")
    assert halves.half

    def centred(shift):  # normalised over time: the mean is rounding alone
        return lambda waves, pool: encode(
            waves, lambda each: pool(100 * (each - each.mean(dim=1, keepdim=True)) + shift)
        )

    one, other = (fingerprint.compute(encoder, centred(shift), "cpu") for shift in (0.0, 1e-4))
    assert fingerprint.compare(one, other) is None


def test_the_error_is_relative_by_layer_and_the_tolerance_that_of_device_and_precision():
    one = fingerprint.Fingerprint({"0": np.full(4, 1e-6, np.float32), "1": np.full(4, 1e6, np.float32)}, "", "cpu")
    near = replace(one, layers={**one.layers, "1": one.layers["1"] * np.float32(1.005)})
    assert fingerprint.compare(one, one) is None
    assert fingerprint.compare(near, one) == ("1", pytest.approx(0.005, rel=1e-2))
    for other in (replace(near, device="cuda"), replace(near, half=True)):
        assert fingerprint.compare(other, one) is None
    broken = [np.full(4, np.nan, np.float32), np.ones(3, np.float32), np.zeros(4, np.float32)]
    for layer in broken:
        assert fingerprint.compare(replace(one, layers={**one.layers, "0": layer}), one)[0] == "0"
    assert fingerprint.compare(replace(one, layers={"1": one.layers["1"]}), one)[0] == "0"
    zero = replace(one, layers={"0": np.zeros(4, np.float32)})
    assert fingerprint.compare(zero, zero) is None
    assert fingerprint.compare(one, zero)[1] == float("inf")


def test_a_fingerprint_is_read_as_it_was_written_and_a_flipped_bit_is_told(tmp_path):
    encoder, encode = _toy()
    made = fingerprint.compute(encoder, encode, "cpu")
    path = tmp_path / fingerprint.FILE
    path.write_bytes(fingerprint.pack(tmp_path.name, made, ["2", "0"]))
    found = fingerprint.read(tmp_path)
    assert list(found.layers) == ["2", "0"]
    assert (found.made, found.device, found.half) == (made.made, "cpu", False)
    assert all(np.array_equal(found.layers[name], made.layers[name]) for name in found.layers)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(BenchError, match="is damaged"):
            fingerprint.read(tmp_path)
    path.unlink()
    assert fingerprint.read(tmp_path) is None


def test_each_layers_store_of_frames_has_its_part_and_what_changed_is_told(tmp_path):
    encoder, _ = _toy()
    encoder = replace(encoder, layers=tuple(replace(layer, frame_rate_hz=40.0) for layer in encoder.layers))
    wave = np.sin(np.arange(16000, dtype=np.float32))
    sounds = [frames.Sound("a", Span("a", "0:"), 2.0, lambda rate: wave)]
    weights = Weights(None, "0" * 64, "none", "")
    run = (sounds, encoder, weights, [0, 2], tmp_path, {"clip_normalize": "none"})
    found, cost = frames.extract(*run)
    assert cost.audio_s
    assert [list(fingerprint.read(store.folder).layers) for store in found.stores] == [["0"], ["2"]]
    made = fingerprint.read(found.stores[1].folder)
    assert frames.extract(*run)[1].audio_s == 0
    changed = replace(made, layers={"2": made.layers["2"] * 2})
    found.stores[1].put_beside(fingerprint.FILE, fingerprint.pack(found.stores[1].folder.name, changed, ["2"]))
    with pytest.raises(BenchError, match=r"toy gives other features .* layer '2' differs by 0.5"):
        frames.extract(*run)


def test_a_fingerprint_goes_where_the_shards_go(tmp_path):
    encoder, _ = _toy()
    wave = np.sin(np.arange(16000, dtype=np.float32))
    sounds = [frames.Sound("a", Span("a", "0:"), 2.0, lambda rate: wave)]
    run = (sounds, encoder, Weights(None, "0" * 64, "none", ""), [0])
    told = {"remote_url": (tmp_path / "there").as_uri()}
    first, _ = frames.extract(*run, tmp_path / "one", {"clip_normalize": "none"}, **told)
    second, cost = frames.extract(*run, tmp_path / "two", {"clip_normalize": "none"}, **told)
    assert cost.audio_s == 0
    made = [fingerprint.read(found.stores[0].folder).made for found in (first, second)]
    assert made[0] == made[1]


def test_a_shipped_encoder_is_not_loaded_when_everything_is_stored(monkeypatch, bench, tmp_path):
    run = ("features", "extract", "--model", "logmel", "--task", TOY_TASK, "--mini", "--device", "cpu", "--limit", 1)
    assert bench(*run).code == 0
    monkeypatch.setattr(fingerprint, "compute", None)  # would be called behind every load
    assert bench(*run).code == 0


RETURN = "return [pool(bands), pool(bands.tanh()), pool(bands.abs().sqrt())]"
HEAD = "def encode(waveforms: Any, pool: Pool) -> Sequence[Any]:\n        frames = "
REFUSED = {
    "contract": (RETURN, "return [pool(bands)] * 2", "gives 2 layers and declares 3"),
    "loaded twice": (HEAD, f"gain = torch.rand(1)\n\n    {HEAD}gain * ", "loaded twice, layer '0' differs"),
    "load": ("    import torch\n", "    import torch\n    raise OSError('no weights')\n", "OSError: no weights"),
    "values": (
        RETURN,
        "return [pool(bands * (1e5 if len(waveforms) > 2 else 1)), pool(bands), pool(bands)]",
        "reaches",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("command", [("features", "extract"), ("run", "--seeds", 1)], ids=["extract", "run"])
def test_an_encoder_that_is_refused_leaves_no_store(bench, tmp_path, how, command):
    old, new, words = REFUSED[how]
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    assert text.count(old) == 1
    (tmp_path / "off.py").write_text(
        text.replace(old, new).replace("gain * waveforms.unfold", "(gain * waveforms).unfold")
    )
    ended = bench(*command, "--model", f"{tmp_path}/off.py:TOY", "--task", TOY_TASK, "--mini", "--device", "cpu")
    assert ended.code in (1, 2)
    assert words in ended.err
    assert not list((tmp_path / "cache").glob("features/*"))
    assert bench("features", "ls", "--json").record == []


def test_the_contract_of_a_users_encoder_is_tried_once_in_a_run(bench, monkeypatch):
    tried, asked = [], ("--model", TOY_MODEL, "--task", TOY_TASK, "--mini", "--device", "cpu", "--limit", 1)
    require = fingerprint.contract.require
    monkeypatch.setattr(fingerprint.contract, "require", lambda *given: tried.append(given) or require(*given))
    assert bench("features", "extract", *asked).code == 0
    assert len(tried) == 1


def test_a_users_encoder_may_run_on_a_cluster_whose_driver_has_a_plan_alone():
    encoder = plugins.find_encoder(TOY_MODEL)
    assert encoder.code
    assert ray._Remote([], encoder, jobs.Settings(), jobs.Cost(), print).step(8000) == 60


def test_one_guard_loads_a_users_encoder_once_for_all_stores_of_a_run(tmp_path):
    encoder, encode = _toy()
    loads = []

    def load():
        loads.append(1)
        return encode

    stores = [Store(tmp_path, {"encoder": "toy", "change": str(n)}, [("0", 16)]) for n in range(3)]
    guard = fingerprint.Guard(encoder, load, "cpu")
    guard.check_before_encoding(stores[:1])
    for store in stores:
        guard.check_loaded([store], fingerprint.compute(encoder, encode, "cpu"))
    assert len(loads) == 1
    again = fingerprint.Guard(encoder, load, "cpu")
    for store in stores:
        again.check_stored([store])
    assert len(loads) == 2


def test_a_run_that_was_killed_before_its_first_shard_binds_nobody(tmp_path):
    encoder, encode = _toy()
    other = _toy(gain=2.0)[1]
    store = Store(tmp_path, {"encoder": "toy"}, [("0", 16)])
    fingerprint.Guard(encoder, None, "cpu").check_loaded([store], fingerprint.compute(encoder, encode, "cpu"))
    changed = fingerprint.compute(encoder, other, "cpu")
    fingerprint.Guard(encoder, None, "cpu").check_loaded([store], changed)
    store.add(Span("a", "0:"), [np.ones((1, 16), np.float32)])
    store.flush()
    with pytest.raises(BenchError, match="other features than those that are stored"):
        fingerprint.Guard(encoder, None, "cpu").check_loaded([store], fingerprint.compute(encoder, encode, "cpu"))


@pytest.mark.slow
def test_fresh_features_spare_what_the_same_command_made(tmp_path, bench):
    run = ("run", "--model", TOY_MODEL, *QUICK, "--fresh-features", "--limit", 9)
    other = _write(tmp_path / "other_task.py", TASK)
    assert bench(*run, "--task", TOY_TASK, "--task", other).code == 0
    assert not (tmp_path / "cache/aside").exists()
    assert bench(*run, "--task", TOY_TASK, "--overwrite").code == 0
    assert len(list((tmp_path / "cache/aside").glob("*/features/*"))) == 1
    for wrong in (("--features", tmp_path),):
        assert bench("run", "--task", TOY_TASK, "--fresh-features", *wrong).code == 2


@pytest.mark.parametrize("name", ["about.json", "fingerprint.safetensors"])
def test_json_without_end_in_the_cache_is_named_by_verify_and_stops_no_other_store(bench, tmp_path, name):
    asked = ("features", "extract", "--task", TOY_TASK, "--mini", "--device", "cpu", "--limit", 1, "--model")
    assert bench(*asked, "logmel").code == 0
    (path,) = (tmp_path / "cache").rglob(name)
    deep = b"[" * 100_000
    path.write_bytes(deep if name == "about.json" else len(deep).to_bytes(8, "little") + deep)
    assert bench(*asked, TOY_MODEL).code == 0
    ended = bench("features", "verify", "--json")
    assert ended.code == 3
    assert [each["path"] for each in ended.record["damaged"]] == [str(path)]


@pytest.mark.slow
def test_stores_of_another_version_are_told_once_and_pruned(bench, tmp_path):
    folder, other = tmp_path / "cache/features/toy-0123456789ab", _write(tmp_path / "other_task.py", TASK)
    folder.mkdir(parents=True)
    (folder / "about.json").write_text(json.dumps({"format": "marble-bench.features/3", "encoder": "toy"}))
    run = ("features", "extract", "--model", TOY_MODEL, "--task", TOY_TASK, "--mini", "--device", "cpu", "--limit", 1)
    ended = bench(*run)
    assert ended.err.count("1 store of another version") == 1
    for command, ends in (("features extract", 0), ("run --layers none", 2)):  # once, however many pairs there are
        several = bench(*command.split(), *run[2:], "--task", other)
        assert several.code == ends
        assert several.err.count("1 store of another version") == 1
    assert "bench features prune --damaged" in ended.err
    assert bench("features", "prune", "--damaged", "--yes").code == 0
    assert not folder.exists()
    assert "another version" not in bench(*run).err


# What all features go through.

SHARED = {
    "0": [[-0.214, 0.195, 4.652, 5.301, 1.894], [-0.144, 2.172, 4.953, 4.750, 2.945]],
    "1": [[-0.191, 0.173, 1.000, 1.000, 0.949], [-0.107, 0.766, 1.000, 1.000, 0.985]],
}


def test_what_all_features_go_through_gives_the_same_features_or_has_another_version(tmp_path):
    """Decoding 16-bit stereo, its mean, 44.1 to 8 kHz, peak, windows of 0.5 s, the mean over time, half precision."""
    both = fingerprint.make_signals(44100, 66150).T
    soundfile.write(tmp_path / "a.wav", both, 44100, subtype="PCM_16")
    clip = Clip("a", "train", "a.wav", "a", start_s=0.1)
    encoder = replace(plugins.find_encoder(TOY_MODEL), normalize="peak")
    item = pooled.Item(clip, tmp_path / "a.wav", "0" * 64, 44100)
    window = Window(length_s=0.5, first_s=1.0)
    store, spans, _ = pooled.extract([item], encoder, Weights(None, "0" * 64, "none", ""), window, tmp_path)
    found = {name: store.read(index, spans)[:, :5].tolist() for index, (name, _) in enumerate(store.layers[:2])}
    assert keys.PIPELINE == 1
    for name, expected in SHARED.items():
        words = "features changed: raise keys.PIPELINE and write these down anew"
        assert found[name] == [pytest.approx(row, abs=4e-3) for row in expected], words


def test_a_users_file_that_moved_is_the_same_encoder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    own = _write(tmp_path / "here/mine.py", WITH_HELPER.format(name="idmoved"), idmoved="BANDS = 16\n")
    before = plugins.find_encoder(f"{own}:TOY")
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.syspath_prepend(str(tmp_path / "there"))
    after = plugins.find_encoder(f"{tmp_path / 'there/mine.py'}:TOY")
    assert after.code == before.code
    assert keys.digest_facts(after) == keys.digest_facts(before)


@pytest.mark.slow
def test_a_score_on_valid_that_is_not_what_the_probes_were_chosen_by_is_named(toy_record):
    path = toy_record()
    assert [each.kind for each in validation.check([path])] == ["ok"]
    record = json.loads(path.read_text())
    choice = record["selection"]["per_seed"][0]
    choice["valid"] = 1.0 if choice["valid"] < 0.5 else 0.1
    path.write_text(json.dumps(record))
    words = [each.words for each in validation.check([path]) if each.kind == "scores"]
    assert len(words) == 1
    assert "the mean of the probes that were chosen by it is" in words[0]


def test_verify_names_fingerprints_that_were_exchanged_or_damaged(bench, tmp_path):
    for model in ("logmel", "mfcc"):
        asked = ("--model", model, "--task", TOY_TASK, "--mini", "--limit", 1)
        assert bench("features", "extract", *asked, "--device", "cpu").code == 0
    assert bench("features", "verify").code == 0
    one, other = sorted((tmp_path / "cache").rglob(fingerprint.FILE))
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    ended = bench("features", "verify", "--json")
    assert ended.code == 3
    assert [each["path"] for each in json.loads(ended.out)["damaged"]] == [str(one), str(other)]
    one.write_bytes(contents[0])
    other.write_bytes(contents[1][:-1])
    assert [each["path"] for each in json.loads(bench("features", "verify", "--json").out)["damaged"]] == [str(other)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "task", "corpus", "protocol", "head", "pipeline", "version"])
def test_an_identity_of_other_code_than_the_records_own_is_named(toy_record, kind):
    path = toy_record()
    assert [each.kind for each in validation.check([path])] == ["ok"]
    record = json.loads(path.read_text())
    of_kind = {each["kind"]: each for each in record["identity"]["sources"]}
    if kind == "pipeline":
        record["identity"]["pipeline"] = keys.PIPELINE + 1
    elif kind == "version":
        of_kind["task"]["version"] += 1
    else:
        of_kind[kind]["name"] = "another"
    record["digests"]["record"] = results.compute_digest(record)
    path.write_text(json.dumps(record))
    assert [each.kind for each in validation.check([path])] == ["facts"]

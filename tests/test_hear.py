"""A package with the API of HEAR becomes an encoder of two layers, by the command line and from Python."""

import importlib
import sys

import numpy as np
import pytest
import torch
from conftest import TOY_TASK

import marble_bench as mb
from marble_bench.core import plugins

PACKAGE = '''
import torch


class Model(torch.nn.Module):
    sample_rate = 8000
    scene_embedding_size = 8
    timestamp_embedding_size = 4

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(200, 4)
        self.drop = torch.nn.Dropout(0.5)


def load_model(model_file_path=""):
    torch.manual_seed(0)
    model = Model()
    if model_file_path:
        model.load_state_dict(torch.load(model_file_path))
    return model


def get_timestamp_embeddings(audio, model):
    """Every 25 ms, the first in the middle of 25 ms."""
    frames = model.drop(model.out(audio.unfold(1, 200, 200))).relu()
    times = 12.5 + 25.0 * torch.arange(frames.shape[1])
    return frames, times.expand(len(audio), -1)


def get_scene_embeddings(audio, model):
    frames, _ = get_timestamp_embeddings(audio, model)
    return torch.cat([frames.mean(dim=1), frames.amax(dim=1)], dim=1)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write and install a package by the name of `tiny_hear`, of some version; returns the function that does."""
    place = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(place))

    def write(version="1.0", code=PACKAGE):
        for info in place.glob("*.dist-info"):
            for each in info.iterdir():
                each.unlink()
            info.rmdir()
        (place / "tiny_hear").mkdir(parents=True, exist_ok=True)
        (place / "tiny_hear" / "__init__.py").write_text(code)
        if version:
            info = place / f"tiny_hear_of_ours-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-hear-of-ours\nVersion: {version}\n")
            (info / "top_level.txt").write_text("tiny_hear\n")
            (info / "RECORD").write_text("tiny_hear/__init__.py,,\n")
        sys.modules.pop("tiny_hear", None)
        importlib.invalidate_caches()
        return place

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    sys.modules.pop("tiny_hear", None)


@pytest.fixture
def waveform():
    return np.random.default_rng(0).normal(size=2 * 8000).astype(np.float32) * 0.1


def test_scenes_and_timestamps_are_two_layers_with_the_packages_own_values(package, waveform):
    package()
    encoder = mb.from_hear("tiny_hear")
    assert encoder.layers == (mb.Layer("scene", 8, None), mb.Layer("timestamp", 4, 40.0))
    assert (encoder.name, encoder.sample_rate_hz, encoder.parameters) == ("hear:tiny_hear", 8000, 804)
    assert encoder.made_from == "hear:tiny_hear==1.0"
    found = mb.extract_layers("hear:tiny_hear", waveform, sample_rate_hz=8000)
    module = importlib.import_module("tiny_hear")
    model = module.load_model().eval()
    with torch.inference_mode():
        scene = module.get_scene_embeddings(torch.from_numpy(waveform)[None], model)
        frames, _ = module.get_timestamp_embeddings(torch.from_numpy(waveform)[None], model)
    np.testing.assert_allclose(found["scene"], scene, rtol=1e-5)
    np.testing.assert_allclose(found["timestamp"], frames.mean(dim=1), rtol=1e-5)
    assert mb.from_hear(module).code == encoder.code


def test_a_package_is_loaded_once_to_be_known_and_once_to_encode(package, waveform, tmp_path):
    package(
        code=PACKAGE
        + "\nlog, inner = [], load_model\ndef load_model(*path):\n    log.append(path)\n    return inner(*path)\n"
    )
    log = importlib.import_module("tiny_hear").log
    for _ in range(3):
        mb.extract_layers("hear:tiny_hear", waveform, sample_rate_hz=8000)
    assert log == [(), ()]
    weights = tmp_path / "weights.pt"
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(importlib.import_module("tiny_hear").Model().state_dict(), weights)
        mb.extract_layers(f"hear:tiny_hear:{weights}", waveform, sample_rate_hz=8000)
    assert log[2:] == 4 * [(str(weights),)]


def test_package_version_and_weights_identify_it(package, tmp_path):
    package()
    codes = [mb.from_hear("tiny_hear").code]
    package("1.1")
    codes.append(mb.from_hear("tiny_hear").code)
    weights = tmp_path / "weights.pt"
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(importlib.import_module("tiny_hear").Model().state_dict(), weights)
        encoder = mb.from_hear("tiny_hear", weights=weights)
        codes.append(encoder.code)
    assert encoder.made_from == "hear:tiny_hear==1.1 weights.pt"
    assert len(set(codes)) == 4
    package("1.1", PACKAGE + "\n# another word\n")
    assert mb.from_hear("tiny_hear").code == codes[1]


def test_a_module_that_pip_did_not_install_is_known_by_its_file(package):
    package(version="")
    first = mb.from_hear("tiny_hear")
    assert first.made_from == "hear:tiny_hear"
    package(version="", code=PACKAGE + "\n# another word\n")
    assert mb.from_hear("tiny_hear").code != first.code


def test_every_file_of_a_package_that_pip_did_not_install_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    place = tmp_path / "own_hear"
    (place / "net").mkdir(parents=True)
    (place / "__init__.py").write_text("from .net.inner import *\n")
    (place / "net" / "__init__.py").write_text("")
    codes = []
    for word in ("", "\n# another word\n"):
        (place / "net" / "inner.py").write_text(PACKAGE + word)
        for name in [each for each in sys.modules if each.partition(".")[0] == "own_hear"]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        codes += [mb.from_hear("own_hear").code, mb.from_hear(sys.modules["own_hear"]).code]
    assert codes[0] == codes[1] != codes[2] == codes[3]


@pytest.mark.slow
def test_the_command_line_scores_a_package_and_compares_what_it_gives(package, bench, tmp_path):
    package()
    run = ("run", "--model", "hear:tiny_hear", "--task", TOY_TASK, "--mini", "--protocol", "linear", "--json")
    ended = bench(*run)
    assert ended.code == 0, ended.err
    assert ended.record["model"]["name"] == "hear:tiny_hear"
    assert ended.record["model"]["source"] == "hear:tiny_hear==1.0"
    assert ended.record["scores"]["accuracy"]["test"] > ended.record["scores"]["accuracy"]["trivial"]
    assert bench("results", "check").code == 0
    (path,) = tmp_path.glob("results/*/*/linear/*.json")
    assert "no model 'hear:tiny_hear' is registered" in bench("reproduce", path).err
    assert bench("reproduce", path, "--model", "hear:tiny_hear", "--task", TOY_TASK).code == 0
    package(code=PACKAGE.replace("manual_seed(0)", "manual_seed(1)"))  # an edit without another version
    again = bench(*run)
    assert again.code == 1
    assert "hear:tiny_hear gives other features than those that are stored" in again.err
    package(code=PACKAGE.replace("torch.manual_seed(0)", "pass"))
    drawn = bench(*run, "--fresh-features", "--overwrite")
    assert "loaded twice, layer" in drawn.err


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("load_model = print\n", "has not the API of HEAR: it needs load_model, and get_scene_embeddings or"),
        (PACKAGE + "\nload_model = lambda path='': {}\n", "the model is a dict, and only torch modules are read"),
        (PACKAGE + "\nModel.sample_rate = 8000.5\n", r"the model's sample_rate is 8000\.5; the API of HEAR asks"),
        (PACKAGE + "\nModel.scene_embedding_size = 9\n", r"embeddings returned \(2, 8\) for two sounds, not \(2, 9\)"),
        (PACKAGE.replace("25.0 * torch", "25.0 * torch.exp(torch").replace("[1])\n", "[1]))\n"), "only even ones"),
        (PACKAGE + "\nload_model = lambda path='': 1 / 0\n", "load_model without weights raised ZeroDivisionError"),
        ("import no_such_module_xyz\n", "cannot be imported: No module named 'no_such_module_xyz'"),
        ("1 / 0\n", "cannot be imported: ZeroDivisionError"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_lacks_the_api_is_told(package, bench, code, words):
    package(code=code)
    with pytest.raises(mb.UsageError, match=f"^hear:tiny_hear.*{words}"):
        mb.from_hear("tiny_hear")
    ended = bench("run", "--model", "hear:tiny_hear", "--task", TOY_TASK, "--mini")
    assert ended.code == 2
    assert "fault of marble-bench" not in ended.err


def test_the_name_in_a_record_imports_nothing(package):
    package()
    with pytest.raises(mb.UsageError, match="a record's name opens nothing"):
        plugins.recorded_encoder("hear:tiny_hear", "")
    assert "tiny_hear" not in sys.modules


def test_names_are_told_before_anything_is_imported(tmp_path):
    for name, words in {
        "hear:no_such_package": "no package 'no_such_package' is installed here",
        "hear:../x": "names no package: write hear:PACKAGE",
        "hear:json:": "no weights after the last colon",
        "hear:json:nowhere.pt": "no weights file nowhere.pt",
    }.items():
        with pytest.raises(mb.BenchError, match=words):
            mb.run(name, task=TOY_TASK, mini=True)

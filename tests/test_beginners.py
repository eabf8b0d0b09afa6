"""Mistakes of people who use the suite for the first time: each is told with what to do about it, and writes nothing.

None may end as an internal error, as a traceback, or in a record.
"""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import THREE_EPOCHS, TOY_MODEL, TOY_RUN, TOY_TASK
from msgspec import structs

import marble_bench as mb
from marble_bench.cli.show import print_outcome
from marble_bench.core import plugins
from marble_bench.core.selection import find_recorded_model, find_recorded_task
from marble_bench.core.user_files import find_fault, import_file
from marble_bench.data import corpus
from marble_bench.features.pooled import explain_unfit
from marble_bench.records import claims
from marble_bench.records.results import read
from marble_bench.runs import inputs

ENCODER = Path(TOY_MODEL.split(":")[0]).read_text()
RETURN = "return [pool(bands), pool(bands.tanh()), pool(bands.abs().sqrt())]"
LOAD = "    def encode("  # the line of load behind its imports
RATE = 8000
NEVER = ("fault of marble-bench", "internal error", "Traceback")


def _read(text):
    """A message without the frame that is drawn around an error of the command line's own."""
    return " ".join(text.replace("│", " ").split())


def _files(folder):
    """Every file that a command may have written: records, and features in the cache."""
    return {path for path in folder.rglob("*") if path.is_file() and "mini" not in path.parts}


@pytest.fixture
def refused(bench, tmp_path):
    """`refused(code, words, *arguments)`: the command ends with that code and says all the words, and wrote nothing."""

    def call(code, words, *arguments):
        before = _files(tmp_path)
        ended = bench(*arguments)
        told = _read(ended.err)
        assert ended.code == code, told
        assert [each for each in words if each not in told] == [], told
        assert [each for each in NEVER if each in told] == []
        assert ended.out == ""
        assert _files(tmp_path) == before

    return call


# a file with an encoder of one's own


OWN_ENCODERS = {  # what is written instead of what in a file that works, and what is said
    "a mean instead of frames": (
        RETURN,
        "return [bands.mean(1)] * 3",
        ("layer '0' is (2, 16), declared (2, frames, 16)", "return pool(frames), and take no mean yourself"),
    ),
    "pool left out": (RETURN, "return [bands] * 3", ("layer '0' is (1, 3, 16) for one window", "apply `pool` to its")),
    "frames last": (
        RETURN,
        "return [pool(bands.transpose(1, 2))] * 3",
        ("layer '0' is (2, 16, 3), declared (2, frames, 16)", "transpose(1, 2) it before `pool`"),
    ),
    "numpy arrays": (
        RETURN,
        "return [pool(bands).numpy()] * 3",
        ("layer '0' is of type ndarray: return torch tensors (torch.from_numpy)",),
    ),
    "no list": (
        RETURN,
        "return pool(bands)",
        ("encode returned Tensor: return a list of tensors, one for each layer",),
    ),
    "too few layers": (
        RETURN,
        "return [pool(bands)] * 2",
        ("toy gives 2 layers and declares 3: return one tensor for each of 0, 1, 2",),
    ),
    "another width": ("stack(3, BANDS", "stack(3, 17", ("layer '0' is (2, 3, 16), declared (2, frames, 17)",)),
    "another frame rate": (
        "40.0",
        "400.0",
        ("layer '0' has 3 frames in 0.10 s, declared 40.0: correct its frame rate",),
    ),
    "half precision": (
        RETURN,
        "return [pool(bands).half()] * 3",
        ("layer '0' holds torch.float16 without being asked to: return float32 (.float())",),
    ),
    "NaN": (RETURN, "return [pool(bands / 0)] * 3", ("layer '0' has NaN or infinity on noise of 0.10 s",)),
    "a model without values": (
        RETURN,
        "return [pool(bands).to('meta')] * 3",
        ("layer '0' lies on the device meta and holds no values: load the model's weights in load",),
    ),
    "no eval()": (
        RETURN,
        "return [pool(torch.nn.Dropout()(bands))] * 3",
        ("layer '0' is another when the same windows are encoded again: call eval() on the model in load",),
    ),
    "weights drawn at every load": (
        LOAD,
        "    gain = torch.rand(16)\n\n"
        "    def encode(waves, pool): return [pool(gain * waves.unfold(1, 16, 200))] * 3\n\n"
        "    def other(",
        ("toy: loaded twice, layer '0' differs by", "read weights from a file or draw them with a fixed seed"),
    ),
    "a torch module from load": (
        "    return encode\n",
        "    return torch.nn.Linear(16, 16)\n",
        (
            "load returned Linear, which cannot be called as encode(waveforms, pool)",
            "hands each layer's frames to pool",
        ),
    ),
    "nothing from load": ("    return encode\n", "", ("load returned NoneType: return the function encode",)),
    "load without arguments": (
        "def load(weights: Path | None, device: str)",
        "def load()",
        ("encoder 'toy': load is load(): give a function (weights, device) -> encode",),
    ),
    "load called": (
        "    load=load,",
        "    load=load(None, 'cpu')(None, None),",
        ("line 18, in encode: AttributeError: 'NoneType' object has no attribute 'unfold'",),
    ),
    "KeyError": (
        RETURN,
        "return {}['hidden']",
        ("line 21, in encode: KeyError: 'hidden' (--debug shows the traceback)",),
    ),
    "a shape that the model does not take": (
        RETURN,
        "return [pool(torch.nn.Linear(7, 16)(bands))] * 3",
        (
            "line 21, in encode: RuntimeError: mat1 and mat2 shapes cannot be multiplied (6x16 and 7x16)",
            "encode is given waveforms (windows, samples), of min_s seconds or more",
        ),
    ),
    "too many arguments": (
        RETURN,
        "return [torch.nn.Linear(16, 16)(bands, pool)]",
        ("line 21, in encode: TypeError: Linear.forward() takes 2 positional arguments but 3 were given",),
    ),
    "another precision of the weights": (
        RETURN,
        "return [pool(torch.nn.Linear(16, 16).double()(bands))] * 3",
        ("line 21, in encode: RuntimeError", "waveforms are float32: call float() on the model in load"),
    ),
    "a GPU that is not there": (
        LOAD,
        "    raise AssertionError('Torch not compiled with CUDA enabled')\n\n" + LOAD,
        ("line 17, in load: AssertionError", "put the model and all tensors on the `device` that load is given"),
    ),
    "StopIteration": (RETURN, "return [next(iter([]))]", ("line 21, in encode: StopIteration",)),
    "a weights file that is not there": (
        LOAD,
        "    torch.load('mine.pt')\n\n" + LOAD,
        ("line 17, in load: FileNotFoundError", "'mine.pt'", "begins in the folder where bench runs", "Path(__file__)"),
    ),
    "weights that are None": (
        LOAD,
        "    torch.load(weights)\n\n" + LOAD,
        ("line 17, in load: AttributeError", "load's `weights` is None where no weights are declared"),
    ),
    "weights of another model": (
        LOAD,
        "    torch.nn.Linear(2, 3).load_state_dict(torch.nn.Linear(2, 4).state_dict())\n\n" + LOAD,
        (
            "line 17, in load: RuntimeError",
            "size mismatch for weight",
            "the weights are of another model than this code",
        ),
    ),
    "a name that was not imported": ("Pool, stack", "Pool", ("line 30, in <module>: NameError: name 'stack'",)),
    "a name that is not there": (
        "Pool, stack",
        "Pool, stack, Encodr",
        ("own.py cannot be imported: cannot import name 'Encodr'", "correct the name, or take the import out"),
    ),
    "a package that is not installed": (
        "BANDS = 16",
        "import not_there\nBANDS = 16",
        ("own.py cannot be imported: No module named 'not_there': install that package into the environment",),
    ),
    "the same in load": (
        "    import torch\n",
        "    import torch, not_there\n",
        ("line 15, in load", "install that package"),
    ),
    "a keyword misspelt": (
        "sample_rate_hz=",
        "sample_rate=",
        ("own.py: line 26: Encoder has no 'sample_rate'; did you mean 'sample_rate_hz'?",),
    ),
    "a keyword left out": ("    min_s=0.1,\n", "", ("line 26, in <module>: TypeError", "argument: 'min_s'")),
    "a rate as text": (
        "sample_rate_hz=8000",
        "sample_rate_hz='8000'",
        ("own.py: encoder 'toy': sample_rate_hz is '8000': give a whole number from 1 on",),
    ),
    "a rate with a point": (
        "sample_rate_hz=8000",
        "sample_rate_hz=8e3",
        ("sample_rate_hz is 8000.0: give a whole number",),
    ),
    "layers counted": ("stack(3, BANDS, 40.0)", "3", ("layers is 3: give a tuple", "of which each is a Layer(...)")),
    "layers named": (
        "stack(3, BANDS, 40.0)",
        "('a', 'b', 'c')",
        ("layers is ('a', 'b', 'c'): give a tuple", "a Layer("),
    ),
    "a width with a point": (
        "stack(3, BANDS",
        "stack(3, 16.0",
        ("layer '0': width is 16.0: give a whole number from 1",),
    ),
    "normalisation misspelt": (
        "min_s=0.1",
        "min_s=0.1, normalize='z-score'",
        ("normalize is 'z-score': give one of 'none', 'peak', 'zscore'",),
    ),
    "the longest below the shortest": (
        "min_s=0.1",
        "min_s=0.1, max_s=0.01",
        ("max_s is 0.01 and min_s 0.1: the longest window is not below the shortest",),
    ),
    "weights as a path": ("min_s=0.1", "min_s=0.1, weights='mine.pt'", ("weights is 'mine.pt': give a Source(...)",)),
    "training data as one text": (
        "min_s=0.1",
        "min_s=0.1, training_data='gtzan'",
        ("training_data is 'gtzan': give a tuple, (X,) or (X, Y), of which each is a text",),
    ),
    "a name with a blank": (
        'name="toy"',
        'name="my net"',
        ("name 'my net' cannot be used in a record: give at most 120",),
    ),
    "a name of the suite's": (
        'name="toy"',
        'name="mfcc"',
        ("'mfcc' is an encoder of the suite: give yours a name of its own",),
    ),
    "a class instead of an encoder": (
        "TOY = Encoder(",
        "TOY = Encoder\nOTHER = Encoder(",
        ("TOY is a class, not an Encoder",),
    ),
    "a list instead of an encoder": (
        "min_s=0.1,\n)",
        "min_s=0.1,\n)\nTOY = [TOY]",
        ("TOY is of type list, not an Encoder (Encoders in it: none); write NAME = Encoder(...) there",),
    ),
    "another name in the file": (
        "TOY = Encoder(",
        "ENCODER = Encoder(",
        ("has no Encoder 'TOY'", "Encoders in it: ENCODER"),
    ),
    "a mistake of syntax": ("BANDS = 16", "BANDS = 16)", ("own.py line 11: unmatched ')'",)),
}


@pytest.mark.parametrize("mistake", OWN_ENCODERS)
def test_an_encoder_of_ones_own(refused, tmp_path, mistake):
    old, new, words = OWN_ENCODERS[mistake]
    assert old in ENCODER
    (tmp_path / "own.py").write_text(ENCODER.replace(old, new))
    refused(2, words, "run", "--model", tmp_path / "own.py:TOY", "--task", TOY_TASK, "--mini", *THREE_EPOCHS)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("own:TOY", ("no model 'own:TOY': there is a file own.py; write", "own.py:TOY for an encoder")),
        ("own", ("no model 'own': there is a file own.py; write", "own.py:NAME for an encoder")),
        ("own.py", ("own.py does not say which Encoder (Encoders in it: TOY); write own.py:NAME",)),
        ("own.py:Toy", ("own.py has no Encoder 'Toy'; did you mean 'TOY'?",)),
        ("owm.py:TOY", ("no encoder file owm.py; did you mean 'own.py'?",)),
        ("own.ipynb:TOY", ("own.ipynb is no Python file; an encoder of your own is FILE.py:NAME",)),
        ("folder", ("folder is no Python file; an encoder of your own is FILE.py:NAME",)),
        (
            "https://example.org/me/net",
            ("no model 'https://example.org/me/net': a model of the hub is named hf:ORG/NAME",),
        ),
        ("./net", ("no model './net': ./net is a folder; a model of transformers in it is hf:./net",)),
        ("hf:folder", ("model 'hf:folder' is not run: it has no config.json", "give the folder that save_")),
        ("hf:above", ("it has no config.json", "give hf:above/net")),
        ("hf:broken", ("broken/config.json cannot be read", "download that file again, or write it anew")),
    ],
)
def test_the_name_of_an_encoder_of_ones_own(refused, tmp_path, model, words):
    (tmp_path / "own.py").write_text(ENCODER)
    (tmp_path / "own.ipynb").write_text("{}")
    (tmp_path / "folder").mkdir()
    for name, text in (("net", "{}"), ("broken", '{"model_type":'), ("above/net", "{}")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(text)
    refused(3 if "hf:" in model else 2, words, "run", "--model", model, "--task", TOY_TASK, "--mini")


# names and flags


RUN = ("run", "--model", "mfcc", "--task", "gtzan", "--mini")
FLAGS = [
    (("run",), ("say what to run: --model NAME (bench list models) and --task NAME (bench list tasks)",)),
    (("run", "--model", "mfcc"), ("say what to run: --task NAME (bench list tasks)",)),
    ((*RUN, "--task", "GTZAN"), ("no task 'GTZAN'; did you mean 'gtzan'? (bench list tasks)",)),
    (
        (*RUN, "--model", "mert_95m"),
        ("no model 'mert_95m'; did you mean 'mert-95m'? (bench list models; or give hf:ORG/NAME",),
    ),
    (("run", "--model", "gtzan", "--task", "mfcc"), ("no task 'mfcc': that is a model; write --model mfcc",)),
    (("run", "--model", "gtzan", "--task", "gs"), ("no model 'gtzan': that is a task; write --task gtzan",)),
    ((*RUN, "--protocol", "marbel"), ("no protocol 'marbel'; did you mean 'marble'? (bench list protocols)",)),
    ((*RUN, "--device", "gpu"), ("--device gpu: no such device; did you mean 'cuda'?",)),
    ((*RUN, "--device", "1"), ("--device 1: no such device; did you mean 'cuda:1'?",)),
    ((*RUN, "--limit", "0"), ("'--limit': '0' is no whole number from 1 on",)),
    ((*RUN, "--limit", "10%"), ("'--limit': '10%' is no whole number from 1 on",)),
    ((*RUN, "--seeds", "-1"), ("'--seeds': '-1' is no whole number from 1 on",)),
    ((*RUN, "--dtype", "fp16"), ("'--dtype'", "'fp16' is not one of 'float32', 'bfloat16', 'float16'")),
    (
        (*RUN, "--layers", "first"),
        ("--layers first: no layer 'first'; layers are frames, statistics, or all, last, sum or concat",),
    ),
    ((*RUN, "--data_dir", "there"), ("No such option: --data_dir", "(Possible options: --data-dir)")),
    ((*RUN, "--data-dir", "there"), ("--mini and --data-dir exclude each other",)),
    ((*TOY_RUN, "--mini", "--weights", "mine.pt"), ("encoder 'toy' has no weights to load; leave out --weights",)),
    ((*RUN, "--model", "hear:not_there"), ("no package 'not_there' is installed here (pip install it)",)),
    ((*RUN, "--config", "run.toml"), ("--config: run.toml cannot be read: No such file or directory",)),
    (("rn",), ("No such command 'rn'. Did you mean 'run'?",)),
    (("list", "model"), ("no list 'model'; did you mean 'models'?",)),
    (("check", "own"), ("no task 'own' (bench list tasks)",)),
    ((*RUN, "--model", "x" * 300), ("no model 'xxx", "(bench list models; or")),
]


@pytest.mark.parametrize(("arguments", "words"), FLAGS, ids=lambda each: " ".join(map(str, each))[:60])
def test_names_and_flags(refused, arguments, words):
    refused(2, words, *arguments)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", ("no folder", "cache/data/gtzan for GTZAN; give --data-dir DIR with genres/<genre>", "--mini runs on a")),
        ("nowhere", ("no folder nowhere for GTZAN; give --data-dir DIR with genres/<genre>",)),
        (
            "above",
            ("'genres/blues/blues.00000.au'", "'gtzan/genres/blues/blues.00000.wav': give --data-dir above/gtzan"),
        ),
        ("above/gtzan/genres/blues", ("there is 'blues.00000.wav': give --data-dir", "above/gtzan")),
        ("above/gtzan", ("929 of 930 clips of GTZAN are missing in above/gtzan", "or run with --allow-missing")),
        ("gtzan.zip", ("gtzan.zip is a file, and a corpus is a folder: unpack it",)),
        ("packed", ("none of the 930 clips of GTZAN is in packed", "packed/gtzan.zip is an archive: unpack it")),
    ],
)
def test_a_corpus_that_lies_elsewhere(refused, tmp_path, place, words):
    (tmp_path / "above/gtzan/genres/blues").mkdir(parents=True)
    (tmp_path / "above/gtzan/genres/blues/blues.00000.wav").write_bytes(b"")
    (tmp_path / "packed").mkdir()
    for archive in ("gtzan.zip", "packed/gtzan.zip"):
        zipfile.ZipFile(tmp_path / archive, "w").close()
    refused(3, words, "run", "--model", "mfcc", "--task", "gtzan", *(("--data-dir", place) if place else ()))


def test_places_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("a file")
    toy = ("run", "--model", TOY_MODEL, "--task", TOY_TASK, "--mini", *THREE_EPOCHS)
    refused(1, ("the results folder file cannot be written", "choose --results-dir"), *toy, "--results-dir", "file")
    refused(1, ("the results folder /proc/none cannot be written",), *toy, "--results-dir", "/proc/none")
    refused(3, ("file/mini/toy-", "Not a directory", "give another --cache-dir"), *toy, "--cache-dir", "file")


def test_a_task_of_ones_own_with_a_name_of_the_suites(refused, tmp_path):
    (tmp_path / "gtzan.py").write_text(TASK)
    words = ("gtzan.py: 'gtzan' is a task of the suite: give yours another name",)
    refused(2, words, "run", "--model", "mfcc", "--task", "gtzan.py", "--mini")


# what was recorded, asked for by the words that run was given


@pytest.fixture(scope="module")
def mini_record(tmp_path_factory):
    """A results folder with one record of a miniature."""
    from made_records import make

    folder = tmp_path_factory.mktemp("made") / "results"
    make(folder, "mfcc", task="gtzan", mini=True)
    return folder


def test_records_of_miniatures_that_the_leaderboard_leaves_off_are_told(mini_record):
    with pytest.warns(UserWarning, match="is shown: 1 record of protocol marble is of miniatures: add --mini") as told:
        mb.leaderboard(mini_record, task="gtzan", model="mfcc")
    assert told[0].filename == __file__
    (mini_record.parent / "gtzan.py").write_text("not opened")
    frame = mb.leaderboard(mini_record, task=str(mini_record.parent / "gtzan.py"), model="mfcc", mini=True)
    assert set(frame.task) == {"gtzan"}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("chroma", "no record of model 'chroma' in .*: make one with bench run --model chroma --task gtzan --mini"),
        ("hf:my-net", "make one with bench run --model hf:FOLDER --task gtzan --mini"),
        ("hf:org/net", "make one with bench run --model hf:org/net --task gtzan --mini"),
        (plugins.find_encoder("chroma"), "not Encoder: give its name, 'chroma'"),
    ],
)
def test_an_encoder_that_was_never_run_is_not_compared(mini_record, other, words):
    with pytest.raises(mb.UsageError, match=words):
        mb.compare("mfcc", other, mini=True, results_dir=mini_record)


def test_the_leaderboard_says_of_a_folder_that_it_was_never_run(mini_record):
    with pytest.raises(mb.UsageError, match="no record of model 'hf:org/net': bench run --model makes one"):
        mb.leaderboard(mini_record, model="hf:org/net", mini=True)


def test_the_words_that_run_was_given_name_its_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_sounds.py").write_text("")
    (tmp_path / "my-net").mkdir()
    assert find_recorded_task("my_sounds.py") == find_recorded_task(str(tmp_path / "my_sounds.py")) == "my-sounds"
    assert find_recorded_model("hf:./my-net") == find_recorded_model("hf:my-net/") == "hf:my-net"
    kept = ("gone.py", "hf:org/net", "mfcc", "hear:my-net")
    assert [find_recorded_task(each) for each in kept] == [find_recorded_model(each) for each in kept] == [*kept]


def test_a_comparison_as_a_table_says_by_which_rules_each_score_was_made(tmp_path):
    from made_records import make

    make(tmp_path / "results", "mfcc", task="gtzan")
    table = mb.compare("mfcc", "musicnn", results_dir=tmp_path / "results").to_pandas()
    assert table.same_protocol.tolist() == [each == "marble" for each in table.protocol]
    assert set(table.borrowed) <= {True, False}
    assert set(table.kind) == {"printed"}
    (path,) = (tmp_path / "results").glob("mfcc/**/*.json")
    paired = mb.compare(path, path).to_pandas()
    assert paired[["protocol", "same_protocol", "borrowed", "contaminated"]].values.tolist() == [
        ["marble", True, False, ""]
    ] * len(paired)


def test_a_task_that_is_given_is_known(mini_record):
    record = read(next(mini_record.glob("mfcc/**/*.json"))).record
    own = structs.replace(record, task=structs.replace(record.task, name="sounds"))
    assert claims.list_unknown(own) == ["task 'sounds'"]
    assert claims.list_unknown(own, "sounds") == []


def test_clips_that_are_all_too_short_are_told_to_be_of_another_length():
    short = [f"clip 'c{place}' {explain_unfit(0.05, plugins.find_encoder('mfcc'))}" for place in range(3)]
    assert "3 of 3 clips are shorter than the encoder's min_s" in inputs._explain_unusable(short, 3)
    assert "Mend them" in inputs._explain_unusable(short, 4)
    assert "Mend them" in inputs._explain_unusable([*short, "c4.wav is truncated"], 4)


def test_quiet_leaves_out_what_is_no_error(mini_record, capfd):
    record = read(next(mini_record.glob("mfcc/**/*.json"))).record
    for quiet in (False, True):
        print_outcome(SimpleNamespace(record=record, path="there.json", written=True), as_json=False, quiet=quiet)
        said = capfd.readouterr()
        assert "mfcc" in said.out
        assert ("not comparable" in said.err, "there.json" in said.err) == (not quiet, not quiet)


def test_a_miniature_is_offered_only_where_there_is_one(bench, tmp_path):
    (tmp_path / "own.py").write_text(TASK)
    ended = bench("run", "--model", TOY_MODEL, "--task", "own.py", "--data-dir", "nowhere")
    assert ended.code == 3
    assert "no folder nowhere" in ended.err
    assert "--mini" not in ended.err


def test_a_flag_that_a_file_gives_twice(refused, tmp_path):
    (tmp_path / "run.toml").write_text('[run]\ndata_dir = "a"\ndata-dir = "b"\n')
    words = ("run.toml: 'data_dir' and 'data-dir' are one flag, --data-dir: give it once",)
    refused(2, words, *RUN, "--config", "run.toml")


def test_what_python_gives_is_told_as_it_was_given(tmp_path):
    with pytest.raises(mb.UsageError, match="--seeds '3': give a whole number"):
        mb.run("mfcc", task="gtzan", mini=True, seeds="3")
    (tmp_path / "p.py").write_text("")
    with pytest.raises(mb.UsageError, match="is a file: give the folder that holds the records"):
        mb.load_results(tmp_path / "p.py")


def test_a_keyword_of_run_that_is_misspelt():
    with pytest.raises(TypeError, match="run takes no minni; did you mean 'mini'"):
        mb.run("mfcc", task="gtzan", minni=True)


# features brought


def _random(*shape):
    return lambda track: np.random.default_rng(0).normal(size=shape).astype(np.float32)


@dataclass(frozen=True)
class Brought:
    """What a folder of features holds: an array for each track, names of layers, how the files are called."""

    array: object
    names: object = None
    form: str = "{}.npy"
    tracks: int = 51
    code: int = 3
    words: tuple[str, ...] = field(default=(), kw_only=True)


BROUGHT = {
    "time, width": Brought(_random(300, 8), words=("shape (300, 8), which would be 300 layers", "x.mean(axis=0)")),
    "time, width of one layer": Brought(_random(20, 8), ["a"], words=("which is 20 layers", "layers.json names 1")),
    "layers, time, width": Brought(
        _random(3, 50, 8),
        ["a", "b", "c"],
        words=("shape (3, 50, 8), which is 50 layers", "Save (windows, layers, width)"),
    ),
    "other counts": Brought(
        lambda track: np.zeros((2 + int(track[-1]), 8)),
        words=("(layers, width) = (3, 8), the others have (2, 8)", "Time is"),
    ),
    "names of other layers": Brought(_random(2, 3, 8), ["a", "b"], words=("which is 3 layers", "names 2")),
    "names as an object": Brought(
        _random(2, 3, 8), {"a": 1}, words=("layers.json must be a list of the layers' names",)
    ),
    "objects": Brought(lambda track: np.array([None, 3]), words=("train00.npy cannot be read as an array",)),
    "text": Brought(lambda track: np.array(["a"]), words=("train00.npy holds <U1; features are numbers",)),
    "nothing": Brought(_random(0, 8), words=("train00.npy has shape (0, 8); give (width,), (layers, width) or",)),
    "NaN": Brought(lambda track: np.full((1, 8), np.nan), words=("train00.npy has NaN or infinity in layer 0",)),
    "four axes": Brought(_random(1, 2, 3, 8), words=("train00.npy has shape (1, 2, 3, 8); give (width,)",)),
    "other names": Brought(
        _random(8), None, "{}.wav.npy", words=("features of none of the task's 51 tracks", "'train00'")
    ),
    "files of torch": Brought(
        _random(8), None, "{}.pt", words=("features of none of the task's 51 tracks", "'train00'")
    ),
    "too few": Brought(
        _random(8), None, "{}.npy", 30, words=("has no features of 21 of the task's 51 tracks", "valid06")
    ),
}


@pytest.mark.parametrize("mistake", BROUGHT)
def test_features_that_are_brought(refused, tmp_path, mistake):
    brought = BROUGHT[mistake]
    (tmp_path / "mine").mkdir()
    if brought.names:
        (tmp_path / "mine/layers.json").write_text(json.dumps(brought.names))
    for clip in list(plugins.find_task(TOY_TASK).task.clips(None))[: brought.tracks]:
        with (tmp_path / "mine" / brought.form.format(clip.id)).open("wb") as file:
            np.save(file, brought.array(clip.id), allow_pickle=True)
    refused(brought.code, brought.words, "run", "--task", TOY_TASK, "--features", "mine", *THREE_EPOCHS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), ("no features at nowhere: give a folder of <track>.npy files or a .parquet file",)),
        (("mine.csv",), ("no features at mine.csv: give a folder",)),
        (
            ("mine", "--model", "mfcc"),
            ("--model mfcc is an encoder of the suite: give your features a name of their own",),
        ),
    ],
)
def test_the_place_and_the_name_of_features_that_are_brought(refused, tmp_path, arguments, words):
    (tmp_path / "mine.csv").write_text("track,x\n")
    refused(2, words, "run", "--task", TOY_TASK, "--features", *arguments)


# a task and a table of labels of one's own


TASK = """
from marble_bench import Classes, Clip, Corpus, Task
from marble_bench.files.tables import read_table
from marble_bench.metrics import accuracy


def clips(root):
    for row in read_table(root / "labels.csv", columns=("id", "split", "file", "label"), unique=("id",)):
        yield Clip(row["id"], row["split"], row["file"], row["label"])


OWN = Corpus(name="own", title="My clips", home="here", license="mine", citation="none", layout="labels.csv, audio/<id>.wav")
TASK = Task(
    title="what is it",
    corpus=OWN,
    target=Classes(("low", "high")),
    clips=clips,
    metrics=(accuracy,),
    counts={"train": 4, "valid": 2, "test": 2},
)
"""
SPLITS = ("train", "train", "train", "train", "valid", "valid", "test", "test")
TABLE = "id,split,file,label\n" + "".join(
    f"c{place},{split},audio/c{place}.wav,{('low', 'high')[place % 2]}\n" for place, split in enumerate(SPLITS)
)


@pytest.fixture
def own_task(tmp_path, refused):
    """`own_task(code, words, table, task)`: a run of a task of one's own is refused, of a text, bytes and eight files."""
    tone = io.BytesIO()
    soundfile.write(tone, 0.1 * np.sin(np.arange(RATE)), RATE, format="WAV")
    (tmp_path / "audio").mkdir()
    for place in range(len(SPLITS)):
        (tmp_path / f"audio/c{place}.wav").write_bytes(tone.getvalue())

    def call(code, words, table=TABLE, task=TASK):
        (tmp_path / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
        (tmp_path / "own.py").write_text(task)
        refused(code, words, "run", "--model", TOY_MODEL, "--task", "own.py", "--data-dir", ".", *THREE_EPOCHS)

    return call


def _without(split):
    return "".join(line for line in TABLE.splitlines(keepends=True) if f",{split}," not in line)


TABLES = {
    "Latin-1": (
        TABLE.replace("low", "l\xf6w").encode("latin-1"),
        ("labels.csv line 2: byte 0xf6 is not UTF-8", "save the"),
    ),
    "UTF-16": (TABLE.encode("utf-16"), ("labels.csv line 1: is UTF-16, not UTF-8: save it as UTF-8",)),
    "semicolons": (TABLE.replace(",", ";"), ("labels.csv line 1: has no column id", "read_table(..., delimiter=';')")),
    "blanks": (TABLE.replace(",", ", "), ("labels.csv line 1: has no column split", "read_table(..., strip=True)")),
    "a short row": (TABLE.replace(",audio/c2.wav,low", ""), ("labels.csv line 4: has 2 fields, the header 4",)),
    "a quotation mark": (
        TABLE.replace("c2.wav,", 'c2.wav,"'),
        ("labels.csv line 4: has a stray quotation mark",),
    ),
    "no head": (
        TABLE.split("\n", 1)[1],
        ("labels.csv line 1: has no column id", "'audio/c0.wav'", "correct its first line"),
    ),
    "a column of another name": (TABLE.replace("label", "labels"), ("has no column label; did you mean 'labels'?",)),
    "an empty file": ("", ("labels.csv: is empty; it should have the columns id, split, file, label",)),
    "an id twice": (
        TABLE.replace("c3,", "c2,"),
        ("labels.csv line 5: id 'c2' is already in line 4; which one is right?",),
    ),
    "a clip in two splits": (
        TABLE.replace("audio/c4", "audio/c0"),
        ("the clips 'c0' of train and 'c4' of valid are the same stretch of 'audio/c0.wav': keep it in one split",),
    ),
    "a label misspelt": (TABLE.replace("c3.wav,high", "c3.wav,hihg"), ("clip 'c3' is labelled 'hihg'", "mean 'high'?")),
    "another name of a split": (
        TABLE.replace(",valid,", ",dev,"),
        ("clips of splits ['dev'], such as clip 'c4'; splits are train",),
    ),
    "no label": (TABLE.replace("c3.wav,high", "c3.wav,"), ("clip 'c3' is labelled ''", "its labels are low, high")),
    "a split without clips": (
        _without("valid"),
        ("list {'train': 4, 'valid': 0, 'test': 2}", "correct counts in own.py"),
    ),
    "paths of Windows": (
        TABLE.replace("audio/", "C:\\Users\\me\\"),
        (
            "none of the 8 clips",
            "such as 'C:\\\\Users\\\\me\\\\c0.wav'",
            "there is 'audio/c0.wav'",
            "with forward slashes",
        ),
    ),
    "paths of another machine": (
        TABLE.replace("audio/", "/home/me/"),
        ("such as '/home/me/c0.wav'", "there is 'audio/c0.wav'"),
    ),
    "another ending": (TABLE.replace(".wav", ".mp3"), ("such as 'audio/c0.mp3'", "there is 'audio/c0.wav'")),
    "a file that is missing": (
        TABLE.replace("audio/c5.wav", "audio/c9.wav"),
        ("1 of 8 clips of My clips are missing in .: audio/c9.wav. Complete the corpus, or run with --allow-missing",),
    ),
}


@pytest.mark.parametrize("mistake", TABLES)
def test_a_table_of_labels(own_task, mistake):
    table, words = TABLES[mistake]
    own_task(3, words, table)


CLIP = 'yield Clip(row["id"], row["split"], row["file"], row["label"])'
TASKS = {
    "clips as a list": ("clips=clips", "clips=[]", ("clips is missing: give a function (root) -> clips",)),
    "clips called": (
        "clips=clips",
        "clips=clips(None)",
        ("clips is <generator object", "give a function (root) -> clips"),
    ),
    "clips without an argument": (
        "def clips(root)",
        "def clips()",
        ("clips is clips(): give a function (root) -> clips",),
    ),
    "clips that gives nothing": (CLIP, "pass", ("own.py: clips returned None: yield each Clip(...)",)),
    "clips that gives tuples": (
        CLIP,
        CLIP.replace("Clip(", "("),
        ("own.py: clips gave ('c0',", "as clip 1: give a Clip("),
    ),
    "a clip without a label": (CLIP, CLIP.replace(', row["label"]', ""), ("line 10, in clips: TypeError", "'target'")),
    "a number as id": (CLIP, CLIP.replace('row["id"]', "7"), ("own.py: clip 7, number 1: id is 7: give a text",)),
    "a path as audio": (
        CLIP,
        CLIP.replace('row["file"]', "root"),
        ("clip 'c0', number 1: audio is PosixPath('.'): give a text",),
    ),
    "a start as text": (
        CLIP,
        CLIP.replace('"])', '"], "0.5")'),
        ("clip 'c0', number 1: start_s is '0.5': give a number",),
    ),
    "classes as one text": ('("low", "high")', '("low")', ("target's names are 'low': give a tuple, (X,) or (X, Y)",)),
    "classes as numbers": ('("low", "high")', "(0, 1)", ("target's names are (0, 1): give a tuple", "each is a text")),
    "one class": ('("low", "high")', '("low",)', ("target has the classes ('low',): give two or more",)),
    "a metric alone": (
        "(accuracy,)",
        "accuracy",
        ("metrics is Metric(name='accuracy'", "give a tuple, (X,) or (X, Y)"),
    ),
    "a metric's name": ("(accuracy,)", '("accuracy",)', ("metrics is ('accuracy',): give a tuple", "a Metric(...)")),
    "a metric of another kind": ("Classes((", "mb.Tags((", ("metric 'accuracy' does not fit a target of kind Tags",)),
    "counts without names": (
        '{"train": 4, "valid": 2, "test": 2}',
        "(4, 2, 2)",
        ("counts is (4, 2, 2): give {'train': N",),
    ),
    "counts of 0": ('"valid": 2', '"valid": 0', ("counts['valid'] is 0: give a number of clips",)),
    "a window as a number": ("clips=clips", "clips=clips, window=5", ("window is 5: give a Window(...)",)),
    "a schedule as a number": ("clips=clips", "clips=clips, schedule=40", ("schedule is 40: give a Schedule(...)",)),
    "a corpus's name": ("corpus=OWN", 'corpus="own"', ("corpus is 'own': give a Corpus",)),
    "a rate as text": (
        'home="here"',
        'home="here", sample_rate_hz="8k"',
        ("corpus: sample_rate_hz is '8k': give a whole",),
    ),
    "locate that gives a text": (
        'home="here"',
        'home="here", locate=lambda root, audio: audio',
        ("corpus 'own': locate returned 'audio/c0.wav': return a Path, or None",),
    ),
    "a keyword misspelt": ("metrics=", "metric=", ("own.py: line 14: Task has no 'metric'; did you mean 'metrics'?",)),
    "no task": ("TASK = Task(", "MINE = Task(", ("own.py must define TASK = Task(...); it has nothing of that name",)),
}


@pytest.mark.parametrize("mistake", TASKS)
def test_a_task_of_ones_own(own_task, mistake):
    old, new, words = TASKS[mistake]
    assert old in TASK
    own_task(
        2,
        words,
        task=TASK.replace(old, new).replace(
            "from marble_bench import", "import marble_bench as mb\nfrom marble_bench import"
        ),
    )


METRIC = """
from marble_bench import Metric


def is_right(outputs, truth):
    return (outputs.argmax(dim=-1) == truth).double()


def mean(outputs, truth):
    return is_right(outputs, truth).mean(dim=1)


MINE = Metric(name="mine", kind="classes", compute=mean, per_clip=is_right, source="me")
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "def mean(outputs, truth)",
            "def mean(outputs)",
            "metric 'mine': compute is mean(outputs): give a function (outputs",
        ),
        ("mean(dim=1)", "mean().item()", "metric 'mine': compute returned float: return a tensor (probes,), here (2,)"),
        (".mean(dim=1)", "", "metric 'mine': compute returned (2, 12): return a tensor (probes,), here (2,)"),
        (
            ".mean(dim=1)",
            ".means()",
            "own.py line 10, in mean: AttributeError: 'Tensor' object has no attribute 'means'",
        ),
    ],
)
def test_a_metric_of_ones_own(refused, tmp_path, old, new, words):
    assert old in METRIC
    task = Path(TOY_TASK).read_text().replace("metrics=(accuracy,)", "metrics=(MINE,)")
    (tmp_path / "own.py").write_text(METRIC.replace(old, new) + task.replace("from __future__ import annotations", ""))
    brought = tmp_path / "mine"
    brought.mkdir()
    for clip in plugins.find_task(TOY_TASK).task.clips(None):
        np.save(brought / f"{clip.id}.npy", np.random.default_rng(0).normal(size=8))
    refused(2, (words,), "run", "--features", "mine", "--task", "own.py", "--quiet", *THREE_EPOCHS)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def fit(data", "def fit(x, data", "head 'knn': fit is fit(x, data): give a function (data) -> state"),
        (
            "def predict(",
            "def predict(data, ",
            "head 'knn': predict is predict(data, state, x): give a function (state, x)",
        ),
        ("HEAD = Head(", "MINE = Head(", "own.py must define HEAD = Head(...); it has nothing of that name"),
        ("fit=fit,", "", "head 'knn': it has predict: give init, or fit and predict"),
    ],
)
def test_a_head_of_ones_own(refused, tmp_path, old, new, words):
    text = Path(TOY_TASK).with_name("knn_head.py").read_text()
    assert old in text
    (tmp_path / "own.py").write_text(text.replace(old, new))
    refused(2, (words,), *TOY_RUN, "--mini", "--protocol", "linear", "--head", "own.py")


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("pass", 2, "encoder 'toy': convert wrote no file: write the tensors to its second argument"),
        ("{}['state_dict']", 2, "in convert: KeyError: 'state_dict'"),
        ("import torch; torch.load(source, weights_only=True)", 2, "in convert: UnpicklingError"),
        ("", 3, "cannot be fetched from anywhere; ask me; give yours by --weights PATH"),
    ],
)
def test_weights_of_ones_own(refused, tmp_path, does, code, words):
    text = ENCODER.replace("BANDS = 16", f"BANDS = 16\n\n\ndef convert(source, target):\n    {does or 'pass'}\n")
    source = "Source(url='unpublished:mine', status='dead', note='ask me')"
    text = text.replace("Pool, stack", "Pool, Source, stack").replace(
        "min_s=0.1,", f"min_s=0.1, weights={source}, convert=convert,"
    )
    (tmp_path / "own.py").write_text(text)
    (tmp_path / "mine.pt").write_text("no weights")
    given = ("--weights", "mine.pt") if does else ()
    refused(code, (words,), "run", "--model", "own.py:TOY", "--task", TOY_TASK, "--mini", *given, *THREE_EPOCHS)


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(bench, tmp_path, own_task):
    own_task(3, ("labels.csv: is empty",), "")
    (tmp_path / "labels.csv").write_bytes(TABLE.replace("\n", "\r\n").encode("utf-8-sig"))
    assert bench("check", "own.py", "--data-dir", ".").code == 0


# Python


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(80, 4)

    def forward(self, waveforms):
        return self.inner(waveforms.unfold(1, 80, 40))


def _extract(waveform, rate=RATE, **more):
    return mb.extract(TOY_MODEL, waveform, sample_rate_hz=rate, **more)


def _run(**asked):
    return mb.run(**{"model": "mfcc", "task": "gtzan", "mini": True, **asked})


def _torch(module, **more):
    return mb.from_torch(module, **{"name": "mine", "sample_rate_hz": RATE, **more})


def _function(function, **more):
    return mb.from_function(function, **{"name": "mine", "sample_rate_hz": RATE, **more})


WAVE = 0.1 * np.sin(np.arange(RATE, dtype=np.float32))
PYTHON = {
    "two channels": (lambda: _extract(np.stack([WAVE, WAVE])), "shape (2, 8000): give one channel, (samples,)"),
    "16-bit integers": (lambda: _extract((WAVE * 9999).astype(np.int16)), "holds int16: give floating-point samples"),
    "floats of 16 bits": (lambda: _extract(WAVE * 32767), "the waveform reaches 3,277: give samples in [-1, 1]; divide by"),
    "a ragged list": (lambda: _extract([[0.1, 0.2], [0.3]]), "of type list: give an array of samples; one number for each"),
    "a path": (lambda: _extract("song.wav"), "of type str: give an array of samples; read the file first"),
    "samples and rate": (lambda: _extract((WAVE, RATE)), "of type tuple: give an array of samples; take the samples out"),
    "a dictionary": (lambda: _extract({"array": WAVE}), "of type dict: give an array", "such as ['array']"),
    "NaN": (lambda: _extract(WAVE * np.nan), "the waveform has samples that are NaN or infinite"),
    "nothing": (lambda: _extract(WAVE[:0]), "the waveform is empty"),
    "too short": (lambda: _extract(WAVE[:80]), "gives a window of 0.010 s, and toy needs at least 0.100 s"),
    "a rate in kHz": (lambda: _extract(WAVE, 44.1), "sample_rate_hz is 44.1: give the waveform's samples per second"),
    "a rate as text": (lambda: _extract(WAVE, "8000"), "sample_rate_hz is '8000': give the waveform's samples per"),
    "a rate of NaN": (lambda: _extract(WAVE, np.nan), "sample_rate_hz is nan: give the waveform's samples per second"),
    "a window as text": (lambda: _extract(WAVE, window_s="1"), "window_s is '1': give seconds above 0, or None"),
    "a window in samples": (lambda: _extract(WAVE, window_s=8000), "of 1.000 s is shorter than window_s=8000"),
    "a device of torch": (lambda: _extract(WAVE, device=torch.device("cpu")), "give it as a text, such as 'cpu' or"),
    "arguments exchanged": (lambda: mb.extract(WAVE, "mfcc", sample_rate_hz=RATE), "a model is a name", "not ndarray"),
    "a live module": (lambda: _run(model=Net()), "a live Net has no name", "mb.from_torch(model, name='my-encoder'"),
    "a class": (lambda: _run(model=Net), "model is the class Net: make an object of it, such as Net(...)"),
    "a class for the adapter": (lambda: _torch(Net), "from_torch takes a module, and Net is a class: make one, Net(...)"),
    "a state dict": (lambda: _torch(Net().state_dict()), "takes a torch module or a callable, not OrderedDict"),
    "a name of the suite's": (lambda: _torch(Net(), name="mfcc"), "'mfcc' is an encoder of the suite: give yours a name"),
    "a keyword misspelt": (lambda: _torch(Net(), max_seconds=3), "nothing called max_seconds", "did you mean 'max_s'?"),
    "the adapter's rate as text": (lambda: _torch(Net(), sample_rate_hz="8k"), "sample_rate_hz is '8k': give a number"),
    "the adapter's normalisation": (lambda: _torch(Net(), normalize=True), "normalize is True: give one of 'none', 'peak'"),
    "no submodule": (lambda: _torch(Net(), layers=["iner"]), "no layer 'iner'; did you mean 'inner'?"),
    "a submodule as a text": (lambda: _torch(Net(), layers="inner"), "layers is the text 'inner': give a list of names, ["),
    "a number as a package": (lambda: mb.from_hear(3), "hear:3 names no package: write hear:PACKAGE"),
    "a submodule's number": (lambda: _torch(Net(), layers=[0]), "no layer '0'; there are inner"),
    "scores instead of frames": (lambda: _torch(lambda x: x.mean(1)), "is (2,): return (windows, frames, width)"),
    "width before frames": (lambda: _torch(lambda x: x.unfold(1, 80, 40).mT), "last axis grows with", "transpose(1, 2) it"),
    "a model of images": (lambda: _torch(torch.nn.Conv2d(1, 3, 4)), "mine raised RuntimeError on noise of the shape"),
    "a function of two": (lambda: _function(lambda x, rate: x), "mine raised TypeError", "argument: 'rate'"),
    "frames without layers": (lambda: _function(lambda x: x.reshape(-1, 80)), "(100, 80): return (layers, frames, width)"),
    "no package of HEAR": (lambda: mb.from_hear("not_there"), "no package 'not_there' is installed here (pip install it)"),
    "another package": (lambda: mb.from_hear("json"), "hear:json has not the API of HEAR: it needs load_model"),
    "no model": (lambda: _run(model=None), "say what to score: --model NAME (bench list models) or --features DIR"),
    "a task of one's own": (lambda: _run(task=plugins.find_task("gtzan").task), "task is Task(title=", "saved in a file"),
    "several tasks": (lambda: _run(task=["gtzan"]), "task is ['gtzan']: give the name of one task"),
    "layers as a list": (lambda: _run(layers=["frames"]), "--layers ['frames']: give it as a text"),
    "a list of seeds": (lambda: _run(seeds=[0, 1]), "--seeds [0, 1]: give a whole number from 1 on"),
    "features as an array": (lambda: _run(model="mine", features=WAVE), "of type ndarray: give the path of a file or"),
    "no results": (lambda: mb.load_results("nowhere"), "nowhere does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", PYTHON)
def test_the_python_api(tmp_path, monkeypatch, capfd, mistake):
    call, *words = PYTHON[mistake]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mb.BenchError) as raised:
        call()
    assert [each for each in words if each not in _read(str(raised.value))] == [], raised.value
    assert _files(tmp_path) == set()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mb.run(model="mfcc"), "run.. missing 1 required keyword-only argument: 'task'"),
        (lambda: mb.extract("mfcc", WAVE), "extract.. missing 1 required keyword-only argument: 'sample_rate_hz'"),
        (
            lambda: mb.from_torch(Net(), sample_rate_hz=RATE),
            "from_torch.. missing 1 required keyword-only argument: 'name'",
        ),
        (lambda: _run(sedes=3), "run takes no sedes"),
    ],
)
def test_arguments_that_python_itself_asks_for(call, words):
    with pytest.raises(TypeError, match=words):
        call()


# what is no mistake of the user's


def _raise_from_another(*_):
    try:
        raise ValueError("ours, too")
    except ValueError as error:
        raise RuntimeError("ours") from error


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda *_: {}["ours"], "internal error: KeyError: 'ours'"),
        (lambda: None, "internal error: TypeError"),
        (_raise_from_another, "internal error: RuntimeError: ours"),
    ],
)
def test_a_fault_of_the_machinery_is_still_told_as_one(bench, monkeypatch, broken, said):
    monkeypatch.setattr(corpus, "limit_clips", broken)
    ended = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--limit", 3)
    assert ended.code == 1
    assert said in ended.err
    assert "This is a fault of marble-bench: run again with --debug and report it" in ended.err


def _fail_after(theirs):
    try:
        theirs.fail()
    except ValueError:
        {}["ours"]


def _fail_by_itself(theirs):
    error = RuntimeError("its own cause")
    raise error from error


def _fail_because_of(theirs):
    try:
        theirs.fail()
    except ValueError as error:
        raise RuntimeError("told otherwise") from error


def test_an_error_is_laid_at_the_users_door_where_theirs_caused_it_and_not_where_it_only_came_before(tmp_path):
    (tmp_path / "own.py").write_text("def fail():\n    raise ValueError('theirs')\n")
    theirs = import_file(tmp_path / "own.py")
    for fail in (_fail_after, _fail_by_itself):
        with pytest.raises((KeyError, RuntimeError)) as raised:
            fail(theirs)
        assert find_fault(raised.value) is None
    with pytest.raises(RuntimeError) as raised:
        _fail_because_of(theirs)
    assert "own.py line 2, in fail: ValueError: theirs" in str(find_fault(raised.value))


def test_a_file_without_its_ending_is_no_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "encoder.py").write_text("")
    with pytest.raises(
        mb.UsageError, match=r"there is a file mine/encoder\.py; write .* mine/encoder\.py:NAME for an enc"
    ):
        plugins.find_encoder("mine/encoder", offline=True)

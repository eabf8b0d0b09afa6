"""The Python API gives what the command line gives, in Python's own forms, and prints nothing."""

import asyncio
import builtins
import json
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import TOY_MODEL, TOY_TASK
from hub_folders import CASES, tone
from hub_server import HubServer
from made_records import make

import marble_bench as mb
from marble_bench.core import plugins
from marble_bench.records.loaded import SCORE_COLUMNS
from marble_bench.records.record import to_json

QUICK = {"task": TOY_TASK, "mini": True, "protocol": "linear", "device": "cpu"}
VOLATILE = ("cost", "suite", "digests")


def _numbers(record):
    """What two runs of one request have in common."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


@pytest.mark.slow
def test_run_returns_the_record_that_the_command_line_prints(bench, tmp_path, capfd):
    record = mb.run(TOY_MODEL, **QUICK, results_dir=tmp_path / "python")
    said = capfd.readouterr()
    ended = bench("run", "--model", TOY_MODEL, "--task", TOY_TASK, "--mini", "--protocol", "linear", "--json",
                  "--device", "cpu", "--results-dir", "shell")  # fmt: skip
    assert ended.code == 0, ended.err
    assert _numbers(to_json(record)) == _numbers(ended.record)
    assert (said.out, said.err) == ("", "")
    (path,) = (tmp_path / "python").glob("*/*/*/*.json")
    assert to_json(record) == json.loads(path.read_text())


@pytest.mark.slow
def test_run_works_within_an_event_loop_and_in_a_thread_as_a_notebook_has_them(tmp_path):
    async def cell():
        return mb.run(TOY_MODEL, **QUICK, results_dir=tmp_path / "results")

    found = [asyncio.run(cell())]
    thread = threading.Thread(target=lambda: found.append(mb.run(TOY_MODEL, **QUICK, results_dir=tmp_path / "results")))
    thread.start()
    thread.join()
    assert len(found) == 2
    assert found[0].scores == found[1].scores


@pytest.mark.slow
def test_progress_is_told_to_whom_it_is_asked_for(tmp_path, monkeypatch, capfd):
    from marble_bench.runs import callbacks

    monkeypatch.setattr(callbacks, "EVERY_S", 0.0)
    lines = []
    mb.run(TOY_MODEL, **QUICK, results_dir=tmp_path / "results", progress=lines.append)
    assert any(line.startswith("features: 51 of 51 clips") for line in lines)
    assert capfd.readouterr().err == ""
    mb.run(TOY_MODEL, **QUICK, results_dir=tmp_path / "results", progress=True, limit=20)
    assert "exists already" not in capfd.readouterr().out
    mb.run(TOY_MODEL, **QUICK, results_dir=tmp_path / "results", progress=True)
    assert "exists already" in capfd.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "mfccc", "task": "gtzan"},
        {"model": "mfcc", "task": "gtzann"},
        {"model": "mfcc", "task": "gtzan", "protocol": "linearr"},
        {"model": "mfcc", "task": "gtzan", "mini": True, "data_dir": "there"},
        {"model": "nobody.py:NET", "task": "gtzan"},
        {"model": "mfcc", "task": "gtzan", "mini": True, "layers": "9"},
        {"model": "mfcc", "task": "gtzan", "data_dir": "nowhere"},
        {"model": "hear:no_such_package", "task": "gtzan"},
    ],
    ids=str,
)
def test_errors_have_the_words_and_the_kind_of_the_command_line(bench, tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    options = [
        each
        for name, value in wrong.items()
        for each in ([f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", value])
    ]
    ended = bench("run", *options)
    with pytest.raises(mb.BenchError) as raised:
        mb.run(**wrong)
    assert ended.err == f"error: {raised.value}\n"
    assert ended.code == raised.value.exit_code
    assert isinstance(raised.value, mb.UsageError | mb.DataError)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seeds": 0}, "--seeds 0: give a whole number"),
        ({"limit": 2.5}, "--limit 2.5: give a whole number"),
        ({"dtype": "float23"}, "--dtype float23: no such choice; did you mean 'float32'?"),
        ({"control": "labels"}, "--control labels: no such choice; choose from shuffle"),
        ({"device": "tpu"}, "--device tpu"),
        ({"model": "mfcc,chroma"}, "name mfcc on gtzan, chroma on gtzan: call run for each"),
        ({"task": ["gtzan", "emo"]}, "give the name of one task"),
        ({"task": "all", "mini": True}, "call run for each"),
        ({"model": ["mfcc"]}, "not list: run takes one model"),
    ],
    ids=str,
)
def test_what_the_command_line_cannot_even_ask_is_refused_in_words(wrong, words):
    with pytest.raises(mb.UsageError, match=words.replace("?", r"\?").replace("(", r"\(")):
        mb.run(**{"model": "mfcc", "task": "gtzan", "mini": True, **wrong})
    with pytest.raises(TypeError, match="run takes no sedes"):
        mb.run("mfcc", task="gtzan", sedes=3)


@pytest.mark.slow
def test_options_reach_the_run(tmp_path):
    from conftest import load_toy_module

    options = {"layers": "0,2", "limit": 12, "control": "shuffle", "perturb": ["noise"], "seeds": 1}
    record = mb.run(TOY_MODEL, **QUICK, **options, results_dir=tmp_path / "results")
    assert record.why_not == (
        "made on the miniature corpus",
        "limited to 12 clips a split",
        "only layers 0,2",
        "a control: training labels by shuffle",
        "made for perturbations (noise); the full run is a record of its own",
    )
    (tmp_path / "own").mkdir()
    for clip in load_toy_module().clips(None):
        np.save(tmp_path / "own" / f"{clip.id}.npy", np.eye(3)[["low", "middle", "high"].index(clip.target)])
    brought = mb.run("mine", **QUICK, features=tmp_path / "own", results_dir=tmp_path / "results")
    assert brought.scores["accuracy"].test == 1
    assert brought.model.source.startswith("features:")


def test_a_live_module_without_an_adapter_is_told_the_adapters_line(tmp_path):
    for call in (
        lambda model: mb.run(model, task="gtzan", mini=True),
        lambda model: mb.extract(model, np.zeros(8000), sample_rate_hz=8000),
    ):
        with pytest.raises(
            mb.UsageError, match=r"live Linear .*mb\.from_torch\(model, name='my-encoder', sample_rate_hz="
        ):
            call(torch.nn.Linear(2, 2))
        with pytest.raises(mb.UsageError, match=r"a function has no name .*mb\.from_function"):
            call(lambda waveform: waveform)


@pytest.mark.slow
def test_an_encoder_made_in_python_is_known_by_its_code_and_state_and_always_compared(tmp_path):
    shift, unseen = torch.zeros(1), [0.0]

    def load(weights, device):
        return lambda waveforms, pool: [pool(waveforms.unfold(1, 8, 400).abs() + shift + unseen[0])]

    facts = {"description": "d", "license": "MIT", "citation": "none", "min_s": 0.1, "sample_rate_hz": 8000}
    encoder = mb.Encoder(name="mine", layers=(mb.Layer("0", 8, 20.0),), load=load, **facts)
    results = tmp_path / "results"
    record = mb.run(encoder, **QUICK, results_dir=results)
    source = next(each for each in record.identity.sources if each.kind == "encoder")
    assert (source.name, source.shipped) == ("mine", False)
    shift += 1e-5
    second = mb.run(encoder, **QUICK, results_dir=results)
    assert not second.cost.cached
    assert second.model.weights_sha256 != record.model.weights_sha256
    unseen[0] = 1.0  # as weights that load reads from somewhere: in no key
    with pytest.raises(mb.BenchError, match="gives other features than those that are stored"):
        mb.run(encoder, **QUICK, results_dir=results)
    again = mb.run(encoder, **QUICK, results_dir=results, fresh_features=True, overwrite=True)
    assert again.model.weights_sha256 == second.model.weights_sha256


def test_an_encoder_of_the_suite_is_itself_and_its_name_is_taken():
    own = plugins.find_registered_encoder("mfcc")
    found = mb.extract_layers(own, np.ones(22050), sample_rate_hz=22050)
    assert {name: values.shape for name, values in found.items()} == {"frames": (1, 20), "statistics": (1, 120)}
    with pytest.raises(mb.UsageError, match="'mfcc' is an encoder of the suite"):
        mb.run(replace(own, description="another"), task=TOY_TASK, mini=True)


@pytest.mark.slow
def test_results_are_a_row_a_score(tmp_path):
    make(tmp_path / "results", "good", task="gtzan", skill=3.0)
    path = make(tmp_path / "results", "poor", task="emo", skill=0.5)
    found = mb.load_results(tmp_path / "results")
    frame = found.to_pandas()
    assert list(frame.columns) == list(SCORE_COLUMNS)
    assert len(frame) == sum(len(record.scores) for record in found)
    own = frame[frame.model == "poor"].set_index("metric")
    for name, score in json.loads(path.read_text())["scores"].items():
        row = own.loc[name]
        assert (row.test, row.valid, row.ci95_low, row.ci95_high) == (score["test"], score["valid"], *score["ci95"])
        assert (row.main, row.unit, row.task) == (score["main"], score["unit"], "emo")
    assert frame.groupby("task").main.sum().tolist() == [1, 1]


def test_files_that_are_no_records_are_a_warning_and_a_missing_folder_is_an_error(tmp_path):
    path = make(tmp_path / "results", "good", task="gtzan")
    path.with_name("emo.json").write_text("{")
    with pytest.warns(UserWarning, match="1 invalid record left off .*emo.json: truncated") as told:
        found = mb.load_results(tmp_path / "results")
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="1 invalid record left off") as told:
        mb.leaderboard(tmp_path / "results", task="gtzan")
    assert told[0].filename == __file__
    assert len(found) == 1
    assert repr(found) == "Results(1 record, 1 invalid left off)"
    assert "emo.json" in found.left_off[0]
    with pytest.raises(mb.UsageError, match="nowhere does not exist"):
        mb.load_results(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_leaderboard_is_the_csv_of_the_command_line(bench, tmp_path, monkeypatch):
    for seed, (model, skill) in enumerate({"good": 3.0, "poor": 0.7}.items()):
        make(tmp_path / "results", model, task="gtzan", skill=skill, seed=seed)
    monkeypatch.chdir(tmp_path)
    frame = mb.leaderboard(task="gtzan")
    ended = bench("leaderboard", "--task", "gtzan", "--format", "csv")
    assert ended.code == 0, ended.err
    (tmp_path / "board.csv").write_text(ended.out)
    printed = pd.read_csv(tmp_path / "board.csv", keep_default_na=False, na_values={"value": "", "low": "", "high": ""})
    assert list(printed.columns) == list(frame.columns)
    for name in ("model", "mark", "task", "metric", "source", "ties"):
        assert printed[name].tolist() == frame[name].tolist(), name
    np.testing.assert_array_equal(
        printed[["value", "low", "high"]].to_numpy(), frame[["value", "low", "high"]].to_numpy()
    )
    assert frame[frame["rank"] == 1].model.tolist() == ["good"]
    with pytest.raises(mb.UsageError, match="no model 'goood'; did you mean 'good'"):
        mb.leaderboard(model="goood")


@pytest.mark.slow
def test_comparisons_are_those_of_the_command_line_measured_and_printed(bench, tmp_path, monkeypatch):
    for seed, (model, skill) in enumerate({"good": 3.0, "poor": 0.7}.items()):
        make(tmp_path / "results", model, task="gtzan", skill=skill, seed=seed)
    monkeypatch.chdir(tmp_path)
    frame = mb.compare("good", "poor").to_pandas()
    (each,) = bench("compare", "good", "poor", "--json").record["compared"]
    assert frame.iloc[0][["task", "metric", "kind"]].tolist() == ["gtzan", "accuracy", "paired"]
    for name in ("a", "b", "value", "low", "high", "p", "holm"):
        assert frame.iloc[0][name] == each[name], name
    printed = mb.compare("good", "jukebox-5b").to_pandas()
    row = printed[printed.b == 0.797].iloc[0]
    assert row.kind == "printed"
    assert row.value == pytest.approx(row.a - 0.797)
    assert row.verdict in ("above", "inside", "below")
    assert row.source
    mirrored = mb.compare("jukebox-5b", "good").to_pandas()
    assert mirrored[mirrored.a == 0.797].b.iloc[0] == row.a


RATE = 8000


@pytest.fixture
def waveform():
    return np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32) * 0.1


def test_extract_gives_what_a_run_stores_before_it_is_rounded(tmp_path, waveform):
    from marble_bench.core.task import Clip, Window
    from marble_bench.encoders.weights import resolve
    from marble_bench.features import pooled

    soundfile.write(tmp_path / "clip.wav", waveform, RATE, subtype="FLOAT")
    encoder = plugins.find_encoder(TOY_MODEL)
    item = pooled.Item(Clip("clip", "test", "clip.wav", ""), tmp_path / "clip.wav", "0" * 64, RATE)
    window = Window(length_s=1.0)
    store, spans, _ = pooled.extract([item], encoder, resolve(encoder, tmp_path), window, tmp_path)
    found = mb.extract(TOY_MODEL, waveform, sample_rate_hz=RATE, window_s=1.0)
    assert found.shape == (3, 3, 16)
    assert found.dtype == np.float32
    stored = np.stack([store.read(layer, spans) for layer in range(3)], axis=1)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(found.astype(np.float16), stored)
    assert (found != stored).any()


def test_extract_is_one_window_unless_asked_or_longer_than_the_encoder_takes(waveform, tmp_path):
    encoder = mb.from_torch(lambda x: x.unfold(1, 80, 80), name="raw", sample_rate_hz=RATE, min_s=0.5, max_s=1.25)
    assert mb.extract(TOY_MODEL, waveform, sample_rate_hz=RATE).shape == (1, 3, 16)
    assert mb.extract(encoder, waveform[:RATE], sample_rate_hz=RATE).shape == (1, 1, 80)
    found = mb.extract(encoder, waveform, sample_rate_hz=RATE)
    assert found.shape == (2, 1, 80)  # 2 x 1.25 s of 3 s
    expected = waveform[: 2 * 10000].reshape(2, 125, 80).mean(axis=1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-7)
    as_tensor = mb.extract(encoder, torch.from_numpy(waveform)[None], sample_rate_hz=RATE)
    np.testing.assert_array_equal(as_tensor, found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: np.stack([x, x]), r"shape \(2, 24000\): give one channel"),
        (lambda x: (x * 32767).astype(np.int16), "holds int16: .* divide 16-bit integers by 32768"),
        (lambda x: x[:0], "is empty"),
        (lambda x: 0 * x, "is silent"),
        (lambda x: np.where(np.arange(len(x)) == 5, np.nan, x), "NaN or infinite"),
        (lambda x: x[:200], r"0\.025 s gives a window of 0\.025 s, and toy needs at least"),
        (lambda x: "song.wav", "is of type str: give an array of samples; read the file first"),
    ],
)
def test_extract_says_what_is_wrong_with_a_waveform(waveform, change, words):
    with pytest.raises(mb.BenchError, match=words):
        mb.extract(TOY_MODEL, change(waveform), sample_rate_hz=RATE)


def test_extract_names_widths_that_differ_and_refuses_odd_windows(waveform):
    two = mb.from_torch(lambda x: [x.unfold(1, 80, 80), x.unfold(1, 40, 40)], name="two", sample_rate_hz=RATE)
    with pytest.raises(mb.UsageError, match=r"differ in width \(0 80, 1 40\): extract_layers"):
        mb.extract(two, waveform, sample_rate_hz=RATE)
    found = mb.extract_layers(two, waveform, sample_rate_hz=RATE)
    assert {name: values.shape for name, values in found.items()} == {"0": (1, 80), "1": (1, 40)}
    with pytest.raises(mb.UsageError, match="window_s is 0"):
        mb.extract(TOY_MODEL, waveform, sample_rate_hz=RATE, window_s=0)
    with pytest.raises(mb.DataError, match="shorter than window_s=9"):
        mb.extract(TOY_MODEL, waveform, sample_rate_hz=RATE, window_s=9)
    with pytest.raises(mb.UsageError, match=r"sample_rate_hz is '8k'"):
        mb.extract(TOY_MODEL, waveform, sample_rate_hz="8k")


def test_extract_resamples_and_normalises_as_the_encoder_declares(waveform):
    import soxr

    zscored = mb.from_torch(lambda x: x[..., None], name="z", sample_rate_hz=RATE, normalize="zscore")
    spread = mb.from_torch(lambda x: x.square()[..., None], name="zz", sample_rate_hz=RATE, normalize="zscore")
    at_double = soxr.resample(waveform, RATE, 2 * RATE)
    assert mb.extract(zscored, 5 + waveform, sample_rate_hz=RATE)[0, 0, 0] == pytest.approx(0, abs=1e-5)
    assert mb.extract(spread, 5 + at_double, sample_rate_hz=2 * RATE)[0, 0, 0] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("name", ["wavlm", "whisper", "xcodec"])
def test_extract_gives_the_means_of_transformers_own_hidden_states(tmp_path, name):
    """Of a clip below a fixed input, as Whisper has it, the mean over what was heard; of a codec its encoder's output."""
    case = CASES[name]
    model = case.save(tmp_path / "model")
    rate = plugins.find_encoder(f"hf:{tmp_path / 'model'}").sample_rate_hz
    wave = tone(rate, 2.37)
    found = mb.extract_layers(f"hf:{tmp_path / 'model'}", wave, sample_rate_hz=rate)
    for values, state in zip(found.values(), case.expected(model, wave), strict=True):
        expected = state.mean(dim=1).numpy()
        assert np.linalg.norm(values - expected) <= 1e-5 * np.linalg.norm(expected)


def _extract_thrice(model, **more):
    """What each of three calls gives, for the same second of sound."""
    return [mb.extract_layers(model, 0.1 * np.sin(np.arange(16000)), sample_rate_hz=16000, **more) for _ in range(3)]


def test_a_model_by_its_hub_id_is_asked_for_and_loaded_once(tmp_path, monkeypatch):
    from marble_bench.encoders import _hub_model

    CASES["wavlm"].save(tmp_path / "model")
    files = {each.name: each.read_bytes() for each in (tmp_path / "model").iterdir()}
    loads, load = [], _hub_model.load
    monkeypatch.setattr(_hub_model, "load", lambda weights, device: loads.append(weights) or load(weights, device))
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "hub")
        server.publish("org/kept", files)
        mb.extract_layers("org/kept", np.ones(16000), sample_rate_hz=16000)
        asked = len(server.asked)
        _extract_thrice("org/kept")
        assert len(server.asked) == asked
    assert len(loads) == 1
    _extract_thrice(f"hf:{tmp_path / 'model'}")
    assert len(loads) == 2
    CASES["wavlm"].save(tmp_path / "model")  # written again: its files may be others
    _extract_thrice(f"hf:{tmp_path / 'model'}")
    assert len(loads) == 3


def test_a_file_of_ones_own_is_loaded_again_when_it_was_edited_or_holds_weights(tmp_path):
    from safetensors.torch import save_file

    file, given = tmp_path / "own.py", tmp_path / "given.safetensors"
    save_file({"gain": torch.ones(1)}, given)
    text = (
        "import builtins\nimport torch\nimport marble_bench as mb\n\n"
        "def load(weights, device):\n    builtins.loads_of_own.append(weights)\n"
        "    return lambda x, pool: [pool(GAIN * x.unfold(1, 80, 80))]\n\n"
        "OWN = mb.Encoder(name='own', description='d', sample_rate_hz=16000, layers=(mb.Layer('0', 80, 200.0),),\n"
        "    load=load, license='-', citation='-', min_s=0.1,\n"
        "    weights=mb.Source(url='https://nowhere.invalid/x'))\n"
    )
    builtins.loads_of_own = loads = []
    try:
        file.write_text(text + "GAIN = 1.0\n")
        first = _extract_thrice(f"{file}:OWN", weights=given)
        assert len(loads) == 1
        file.write_text(text + "GAIN = 2.0\n")
        second = _extract_thrice(f"{file}:OWN", weights=given)
        assert len(loads) == 2
        np.testing.assert_array_equal(second[0]["0"], 2 * first[0]["0"])
        held = tmp_path / "held.pt"
        file.write_text(text + f"GAIN = torch.load({str(held)!r})\n")
        for value in (4.0, 8.0):
            torch.save(torch.tensor(value), held)
            found = mb.extract_layers(
                f"{file}:OWN", 0.1 * np.sin(np.arange(16000)), sample_rate_hz=16000, weights=given
            )
            np.testing.assert_array_equal(found["0"], value * first[0]["0"])
    finally:
        del builtins.loads_of_own


def test_code_of_ones_own_that_may_read_any_file_is_loaded_every_time(tmp_path):
    kept = tmp_path / "gain.npy"

    def load(weights, device):
        gain = float(np.load(kept))
        return lambda x, pool: [pool(gain * x.unfold(1, 80, 80))]

    layers = (mb.Layer("0", 80, 200.0),)
    own = mb.Encoder(
        name="own",
        description="d",
        sample_rate_hz=16000,
        layers=layers,
        load=load,
        license="-",
        citation="-",
        min_s=0.1,
    )
    found = []
    for gain in (1.0, 2.0):
        np.save(kept, gain)
        found.append(mb.extract_layers(own, 0.1 * np.sin(np.arange(16000)), sample_rate_hz=16000)["0"])
    np.testing.assert_array_equal(found[1], 2 * found[0])


def test_weights_that_were_given_are_loaded_again_when_their_file_was_changed(tmp_path):
    from safetensors.torch import save_file

    encoder = mb.Encoder(
        name="weighed", description="d", sample_rate_hz=16000, layers=(mb.Layer("0", 80, 200.0),), license="-",
        citation="-", min_s=0.1, weights=mb.Source(url="https://nowhere.invalid/x"), load=_load_weighed,
    )  # fmt: skip
    found = []
    for value in (1.0, 2.0):
        save_file({"gain": torch.tensor(value)}, tmp_path / "w.safetensors")
        found.append(_extract_thrice(encoder, weights=tmp_path / "w.safetensors")[0]["0"])
    np.testing.assert_array_equal(found[1], 2 * found[0])


def _load_weighed(weights, device):
    from safetensors.torch import load_file

    gain = load_file(weights)["gain"]
    return lambda waveforms, pool: [pool(gain * waveforms.unfold(1, 80, 80))]

"""Live modules and functions become encoders: the layers are their own, and old features are never taken for theirs."""

import functools
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TOY_TASK

import marble_bench as mb
from marble_bench.core import plugins
from marble_bench.encoders._held import find_held
from marble_bench.encoders.live import evaluating

RATE = 8000
QUICK = {"task": TOY_TASK, "mini": True, "protocol": "linear"}


class Net(torch.nn.Module):
    """Two layers over stretches of samples, with dropout and batch norm, which an encoder must have switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(80, 6), torch.nn.Linear(6, 4)
        self.norm, self.drop = torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5)
        self.gain = 1.0  # in no state dict

    def forward(self, waveforms):
        first = self.drop(self.first(waveforms.unfold(1, 80, 40)))
        normed = self.norm(first.flatten(0, 1)).unflatten(0, first.shape[:2])
        return [self.gain * first, self.second(normed)]


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


@pytest.fixture
def waveform():
    return np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32) * 0.1


def _adapt(module, **more):
    return mb.from_torch(module, **{"name": "mine", "sample_rate_hz": RATE, **more})


def _means(net, waveform):
    """Every layer's mean over time by the module itself, in evaluation mode."""
    with torch.inference_mode():
        return [each.mean(dim=1).numpy() for each in net.eval()(torch.from_numpy(waveform)[None])]


def _same(found, expected):
    for values, each in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(values, each, rtol=1e-5, atol=1e-7)


def test_layers_widths_and_rates_are_found_and_the_features_are_the_modules_own(net, waveform):
    encoder = _adapt(net)
    assert encoder.layers == (mb.Layer("0", 6, 200.0), mb.Layer("1", 4, 200.0))
    assert encoder.parameters == sum(each.numel() for each in net.parameters())
    net.norm.eval()  # one part in another mode than the others
    found = mb.extract_layers(encoder, waveform, sample_rate_hz=RATE)
    assert [part.training for part in (net, net.first, net.norm, net.drop)] == [True, True, False, True]
    _same(found, _means(net, waveform))


def test_submodules_are_layers_by_name_pooled_while_the_module_runs(net, waveform):
    encoder = _adapt(net, layers=["second", "first"])
    assert [(layer.name, layer.width) for layer in encoder.layers] == [("second", 4), ("first", 6)]
    found = mb.extract_layers(encoder, waveform, sample_rate_hz=RATE)
    _same(found, _means(net, waveform)[::-1])
    assert not any(part._forward_hooks for part in net.modules())
    with pytest.raises(mb.UsageError, match="no layer 'frist'; did you mean 'first'"):
        _adapt(net, layers=["frist"])
    net.spare = torch.nn.Identity()
    with pytest.raises(mb.UsageError, match="layers spare are not called when the module runs"):
        _adapt(net, layers=["spare"])
    with pytest.raises(mb.UsageError, match=r"function is no torch\.nn\.Module"):
        _adapt(lambda x: x, layers=["first"])


def test_of_a_submodule_that_gives_states_and_weights_besides_the_first_output_is_the_layer(waveform):
    class Several(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.gru = (kind(80, 8, batch_first=True) for kind in (torch.nn.LSTM, torch.nn.GRU))
            self.attention = torch.nn.MultiheadAttention(80, 4, batch_first=True)
            self.named = Named()

        def forward(self, waveforms):
            frames = waveforms.unfold(1, 80, 80)
            attended = self.attention(frames, frames, frames, need_weights=False)[0]
            return [self.lstm(frames)[0], self.gru(frames)[0], attended, self.named(frames)["last_hidden_state"]]

    class Named(torch.nn.Module):
        def forward(self, frames):
            return {"states": (frames, None), "last_hidden_state": 2 * frames}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Several()
    encoder = _adapt(module, layers=["lstm", "gru", "attention", "named"])
    _same(mb.extract_layers(encoder, waveform, sample_rate_hz=RATE), _means(module, waveform))


@pytest.mark.slow
def test_hidden_states_of_transformers_are_the_layers(waveform):
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                          conv_dim=(8, 8), conv_stride=(10, 4), conv_kernel=(10, 4), num_feat_extract_layers=2,
                          num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)  # fmt: skip
    model = HubertModel(config)
    encoder = _adapt(lambda x: model(x, output_hidden_states=True), name="hubert", frame_rate_hz=200.0)
    assert [(layer.name, layer.width, layer.frame_rate_hz) for layer in encoder.layers] == [
        (name, 16, 200.0) for name in "012"
    ]
    with torch.inference_mode():
        states = model.eval()(torch.from_numpy(waveform)[None], output_hidden_states=True).hidden_states
    _same(mb.extract_layers(encoder, waveform, sample_rate_hz=RATE), [each.mean(dim=1).numpy() for each in states])
    assert [layer.name for layer in _adapt(model, name="hubert").layers] == ["last_hidden_state"]


def test_outputs_may_be_a_tensor_a_vector_or_a_mapping(waveform):
    frames = waveform.reshape(1, 300, 80)
    both = _adapt(lambda x: {"low": x.unfold(1, 80, 80), "all": x.unfold(1, 80, 80).mean(dim=1)})
    assert both.layers == (mb.Layer("low", 80, 100.0), mb.Layer("all", 80, None))
    _same(mb.extract_layers(both, waveform, sample_rate_hz=RATE), [frames.mean(axis=1)] * 2)
    assert _adapt(lambda x: x.unfold(1, 80, 80)).layers == (mb.Layer("output", 80, 100.0),)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (lambda x: x.unfold(1, 80, 80).transpose(1, 2), r"\(2, 80, 100\) and \(2, 80, 200\) .* transpose\(1, 2\) it"),
        (lambda x: x, r"grows with the length, .* return \(windows, frames, width\)"),
        (lambda x: x.unfold(1, 80, 80).transpose(0, 1), "the first axis must be that of windows"),
        (lambda x: torch.stack([x.unfold(1, 80, 80)] * 3), r"is \(3, 2, 100, 80\): return .*several layers as a list"),
        (lambda x: x[:, :800].unfold(1, 80, 80), "fills windows up to a fixed length, .* min_s= and max_s="),
        (lambda x: {"a": "text"}, "layer 'a' is of type str: return tensors"),
        (lambda x: [], "without any layer"),
        (lambda x: x.half().unfold(1, 80, 80), r"holds torch.float16 .*\.float\(\)"),
        (lambda x: x.unfold(1, 80, 80) + len(x), "depends on what else is in the batch"),
        (lambda x: x.unfold(1, 80, 80) + torch.rand(1), "is another when the same windows are encoded again"),
        (lambda x: x.missing, r"mine raised AttributeError on noise of the shape \(2, 8000\), torch.float32"),
        (torch.nn.Conv1d(1, 4, 80), r"mine raised RuntimeError .* \(lambda x: module\(x\[:, None\]\) adds a channel\)"),
        (3, "takes a torch module or a callable, not int"),
    ],
)
def test_what_is_no_encoder_is_told_with_its_shapes(module, words):
    with pytest.raises(mb.UsageError, match=f"(?s){words}"):
        _adapt(module)


def test_declared_facts_are_checked(net):
    with pytest.raises(mb.UsageError, match="'mfcc' is an encoder of the suite"):
        _adapt(net, name="mfcc")
    with pytest.raises(mb.UsageError, match="nothing called licence can be declared; did you mean 'license'"):
        _adapt(net, licence="MIT")
    with pytest.raises(mb.UsageError, match="sample_rate_hz is 0"):
        _adapt(net, sample_rate_hz=0)
    encoder = _adapt(net, license="MIT", training_data=["GTZAN"], frame_rate_hz=199.5, min_s=0.5, max_s=2)
    assert (encoder.license, encoder.training_data, encoder.layers[0].frame_rate_hz) == ("MIT", ("GTZAN",), 199.5)
    assert encoder.made_from == "live: Net"


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (lambda x: x.unfold(1, 400, 320), 16000 / 320),
        (lambda x: x.unfold(1, 512, 256), 62.5),
        (lambda x: torch.nn.functional.pad(x, (160, 160)).unfold(1, 320, 320), 50.0),
        (lambda x: x.unfold(1, 600, 441), 16000 / 441),
        (lambda x: torch.nn.functional.interpolate(x[:, None], scale_factor=1.5)[:, 0].unfold(1, 512, 512), 46.875),
        (lambda x: x[:, :: len(x[0]) % 8000 + 1].unfold(1, 100, 100), 160.0),  # takes only some lengths: roughly
    ],
    ids=range(6),
)
def test_frame_rates_are_found_to_the_sample(frames, expected):
    def strict(x):
        if expected == 160.0 and x.shape[1] % 8000:
            raise ValueError("whole seconds only")
        return frames(x)

    (layer,) = mb.from_torch(strict, name="rated", sample_rate_hz=16000).layers
    assert layer.frame_rate_hz == pytest.approx(expected, rel=1e-9 if expected != 46.875 else 1e-4)


def test_a_declared_frame_rate_saves_the_trials_that_find_it():
    calls = {}
    for rate in (None, 100.0):
        calls[rate] = []
        encoder = mb.from_torch(
            lambda x, rate=rate: calls[rate].append(x.shape) or {"f": x.unfold(1, 80, 80), "v": x[:, :3]},
            name="m", sample_rate_hz=RATE, frame_rate_hz=rate,
        )  # fmt: skip
        assert encoder.layers == (mb.Layer("f", 80, 100.0), mb.Layer("v", 3, None))
    assert len(calls[100.0]) == 5 < len(calls[None])  # two lengths, and three of the contract's own


def test_weights_for_a_live_module_are_refused(net):
    with pytest.raises(mb.UsageError, match="encoder 'mine' has no weights to load"):
        mb.extract_layers(_adapt(net), np.ones(RATE), sample_rate_hz=RATE, weights="x.safetensors")


class Wrapper:
    """A callable object around a module."""

    def __init__(self, net) -> None:
        self.parts = {"net": [net]}

    def __call__(self, waveforms):
        return self.parts["net"][0](waveforms)

    def encode(self, waveforms):
        return self(waveforms)


HELD = SimpleNamespace(net=None)


def _by_global(waveforms):
    return [each for each in HELD.net(waveforms)]  # noqa: C416 - the name is looked up within another code object


def _ways(net):
    HELD.net = net
    return {
        "module": net,
        "closure": lambda x: net(x),
        "argument": functools.partial(lambda model, x: model(x), net),
        "method": net.forward,
        "object": Wrapper(net),
        "method of an object": Wrapper(net).encode,
        "global": _by_global,
        "wrapped": torch.no_grad()(_by_global),
        "default": lambda x, model=net: model(x),
    }


@pytest.mark.parametrize("way", list(_ways(Net())))
def test_the_state_of_every_module_that_is_called_is_in_the_key(net, way):
    before = _adapt(_ways(net)[way])
    assert _adapt(_ways(net)[way]).code == before.code
    with torch.no_grad():
        net.second.bias[0] += 1e-6  # a thousandth of what a fingerprint sees
    after = _adapt(_ways(net)[way])
    assert after.code != before.code
    with pytest.raises(mb.UsageError, match="mine: its weights have changed since its encoder was made"):
        before.load(None, "cpu")
    for _ in range(2):
        mb.extract_layers(after, np.ones(RATE), sample_rate_hz=RATE)
    with pytest.raises(mb.UsageError, match="mine: its weights have changed"):
        mb.extract_layers(before, np.ones(RATE), sample_rate_hz=RATE)
    net.norm.running_mean += 1e-6
    assert _adapt(_ways(net)[way]).code != after.code


def test_what_is_held_is_found_by_the_shortest_way(net):
    shared = SimpleNamespace(net=net)
    deep = shared
    for _ in range(4):
        deep = SimpleNamespace(inner=deep)  # at the end of this way, what is shared is too deep to be opened
    for ways in ({"near": shared, "far": deep}, {"far": deep, "near": shared}):
        assert find_held(SimpleNamespace(**ways)) == {".near.net": net}


def test_what_slots_hold_is_found(net):
    class Slotted:
        __slots__ = ("__net", "unset")

        def __init__(self, net):
            self.__net = net

        def __call__(self, waveforms):
            return self.__net(waveforms)

    before = _adapt(Slotted(net))
    assert before.parameters == sum(each.numel() for each in net.parameters())
    net.norm.running_mean += 1
    assert _adapt(Slotted(net)).code != before.code


def test_what_an_inherited_call_holds_is_found(net):
    class Base:
        def __call__(self, waveforms):
            return net(waveforms)

    class Child(Base):
        pass

    before = _adapt(Child())
    assert before.parameters == sum(each.numel() for each in net.parameters())
    net.norm.running_mean += 1
    assert _adapt(Child()).code != before.code


def test_other_state_counts_too(net):
    codes = [_adapt(net).code]
    net.register_buffer("window", torch.ones(3))
    codes.append(_adapt(net).code)
    net.window[0] = 2
    codes.append(_adapt(net).code)
    table = np.eye(80, dtype=np.float32)
    codes.append(_adapt(lambda x: x.unfold(1, 80, 80) @ torch.from_numpy(table)).code)
    table[0, 1] = 1e-6
    codes.append(_adapt(lambda x: x.unfold(1, 80, 80) @ torch.from_numpy(table)).code)
    assert len(set(codes)) == len(codes)
    assert _adapt(net.double().float()).code == codes[2]
    net.register_buffer("nowhere", torch.ones(3, device="meta"))
    with pytest.raises(mb.UsageError, match="nowhere of type Tensor has no bytes that can be hashed"):
        _adapt(net)


@pytest.mark.slow
def test_stored_features_of_other_weights_are_never_reused(net, tmp_path):
    results = tmp_path / "results"
    first = mb.run(_adapt(net), **QUICK, results_dir=results)
    assert not first.cost.cached
    assert first.model.source == "live: Net"
    encoder = _adapt(net)
    assert mb.run(encoder, **QUICK, results_dir=results).cost.cached
    with torch.no_grad():
        net.first.weight[0, 0] += 1e-5
    with pytest.raises(mb.UsageError, match="create the encoder again, for example with mb"):
        mb.run(encoder, **QUICK, results_dir=results)
    second = mb.run(_adapt(net), **QUICK, results_dir=results)
    assert not second.cost.cached
    assert second.model.weights_sha256 != first.model.weights_sha256
    frame = mb.load_results(results).to_pandas()
    assert frame.weights.nunique() == 2
    assert frame.model.tolist() == ["mine", "mine"]


@pytest.mark.slow
def test_a_change_that_no_state_holds_is_seen_by_the_fingerprint(net, tmp_path):
    mb.run(_adapt(net), **QUICK, results_dir=tmp_path / "results")
    net.gain = 1.01
    with pytest.raises(mb.BenchError, match="mine gives other features than those that are stored: layer '0'"):
        mb.run(_adapt(net), **QUICK, results_dir=tmp_path / "results")
    changed = mb.run(_adapt(net, version=2), **QUICK, results_dir=tmp_path / "results")
    assert changed.model.version == 2


@pytest.mark.slow
def test_two_tasks_are_not_scored_with_different_weights_under_one_digest(net, tmp_path):
    text = Path(TOY_TASK).read_text().replace("Task\nfrom", "Task, Window\nfrom")
    halves = tmp_path / "halves.py"  # its windows are others, and so is its store
    halves.write_text(text.replace("    schedule=", "    window=Window(0.5),\n    schedule="))
    other, results = {**QUICK, "task": halves}, tmp_path / "results"
    mb.run(_adapt(net, min_s=0.5), **QUICK, results_dir=results)
    net.gain = 1.01  # of no state
    with pytest.raises(mb.BenchError, match=r"mine gives other features .* \(it is 1\), or delete .*/mine-"):
        mb.run(_adapt(net, min_s=0.5), **other, results_dir=results)
    assert not list(results.rglob("halves*"))
    assert mb.run(_adapt(net, min_s=0.5, version=2), **other, results_dir=results).model.version == 2
    net.gain = 1.0
    assert mb.run(_adapt(net, min_s=0.5), **other, results_dir=results).model.version == 1


def test_a_longest_window_leaves_room_for_a_rough_rate_alone():
    module = lambda x: x.unfold(1, 512, 256)  # noqa: E731
    assert mb.from_torch(module, name="m", sample_rate_hz=16000, max_s=1.25).layers[0].frame_rate_hz == 64
    assert mb.from_torch(module, name="m", sample_rate_hz=16000, max_s=1.5).layers[0].frame_rate_hz == 62.5


def test_a_module_that_loses_frames_at_the_edges_gets_a_longer_shortest_window():
    encoder = mb.from_torch(lambda x: x.unfold(1, 1024, 220), name="edges", sample_rate_hz=22050)
    assert encoder.min_s == 1.2  # 4.2 frames are lost, and 2 and 2 % may be: a window of 1.11 s is the shortest
    with pytest.raises(mb.UsageError, match=r"has 96 frames in 1\.00 s, declared 100\.2: .* raise min_s"):
        mb.from_torch(lambda x: x.unfold(1, 1024, 220), name="edges", sample_rate_hz=22050, min_s=1.0)


def test_a_module_stays_where_it_lies(net):
    encoder = _adapt(net)
    with pytest.raises(mb.UsageError, match="mine lies on cpu, and this run is on cuda: move it there"):
        encoder.load(None, "cuda")
    on_gpu = replace(encoder.load, device="cuda:0")  # as if it lay there; nothing is encoded
    assert callable(on_gpu(None, "cuda"))
    assert callable(on_gpu(None, "cuda:0"))
    with pytest.raises(mb.UsageError, match="mine lies on cuda:0, and this run is on cuda:1"):
        on_gpu(None, "cuda:1")


def test_an_adapter_in_a_file_is_known_by_file_and_state(tmp_path):
    place = tmp_path / "own.py"
    weights = tmp_path / "weights.pt"
    place.write_text(
        "import torch\nimport marble_bench as mb\n\nnet = torch.nn.Linear(80, 4)\n"
        f"net.load_state_dict(torch.load({str(weights)!r}))\n\n"
        "MINE = mb.from_torch(lambda x: net(x.unfold(1, 80, 80)), name='mine', sample_rate_hz=8000)\n"
    )
    codes = []
    for value in (0.5, 0.5, 0.500001):
        torch.save({"weight": torch.full((4, 80), value), "bias": torch.zeros(4)}, weights)
        codes.append(plugins.find_encoder(f"{place}:MINE").code)
    place.write_text(place.read_text() + "# another word\n")
    codes.append(plugins.find_encoder(f"{place}:MINE").code)
    assert codes[0] == codes[1]
    assert len(set(codes)) == 3


def test_a_function_of_one_waveform(waveform):
    def moments(wave):
        assert isinstance(wave, np.ndarray)
        frames = wave[: len(wave) // 80 * 80].reshape(-1, 80)
        return np.stack([frames, np.abs(frames)])

    encoder = mb.from_function(moments, name="moments", sample_rate_hz=RATE, layers=["raw", "size"])
    assert encoder.layers == (mb.Layer("raw", 80, 100.0), mb.Layer("size", 80, 100.0))
    found = mb.extract_layers(encoder, waveform, sample_rate_hz=RATE, window_s=1.0)
    frames = waveform.reshape(3, 100, 80)
    _same(found, [frames.mean(axis=1), np.abs(frames).mean(axis=1)])

    tensors = mb.from_function(lambda wave: [wave.unfold(0, 80, 80)], name="t", sample_rate_hz=RATE, takes="torch")
    _same(mb.extract_layers(tensors, waveform, sample_rate_hz=RATE, window_s=1.0), [frames.mean(axis=1)])


@pytest.mark.parametrize(
    ("function", "more", "words"),
    [
        (lambda wave: wave.reshape(-1, 80), {}, r"shape \(100, 80\): return \(layers, frames, width\)"),
        (lambda wave: [wave], {}, r"layer '0' of one waveform is \(8000,\): return \(frames, width\)"),
        (
            lambda wave: wave.reshape(1, -1, 80),
            {"layers": ["a", "b"]},
            "has 2 names, and the function returned 1 layers",
        ),
        (lambda wave: wave.reshape(1, -1, 80), {"takes": "jax"}, "takes='jax': give 'numpy' or 'torch'"),
        (lambda wave: wave.astype(np.float64).reshape(1, -1, 80) * np.inf, {}, "has NaN or infinity"),
        ("loudness", {}, "takes a function of one waveform, not str"),
    ],
)
def test_what_is_no_function_of_a_waveform_is_told(function, more, words):
    with pytest.raises(mb.UsageError, match=words):
        mb.from_function(function, name="f", sample_rate_hz=RATE, **more)


@pytest.mark.slow
def test_a_function_is_run_like_any_encoder(tmp_path):
    def bands(wave):
        power = np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(wave, 400)[::200])) ** 2
        return np.log(power[:, 1:81].reshape(len(power), 16, 5).mean(axis=-1) + 1e-6).astype(np.float32)[None]

    encoder = mb.from_function(bands, name="bands", sample_rate_hz=RATE)
    record = mb.run(encoder, **QUICK, results_dir=tmp_path / "results")
    score = record.scores["accuracy"]
    assert score.test > score.trivial
    assert record.model.frame_rate_hz == 40.0


def test_features_of_a_module_that_is_trained_while_it_encodes_are_not_kept(net, tmp_path, waveform):
    def train(_, given):
        if len(given[0]) == 3:  # neither in the contract nor in the fingerprint
            with torch.no_grad():
                net.first.weight += 0.1

    net.first.register_forward_pre_hook(train)
    encoder = _adapt(net)
    with pytest.raises(mb.UsageError, match=r"mine: its weights have changed .*\(first.weight\)"):
        mb.extract_layers(encoder, waveform, sample_rate_hz=RATE, window_s=1)
    folders = {"results_dir": tmp_path / "results", "cache_dir": tmp_path / "cache"}
    with pytest.raises(mb.UsageError, match=r"mine: its weights have changed .*\(first.weight\)"):
        mb.run(_adapt(net), **QUICK, **folders, batch_size=3)
    assert not list((tmp_path / "cache" / "features").rglob("*.arrow"))
    assert not list(tmp_path.glob("results/**/*.json"))


def test_threads_that_share_a_module_in_training_mode_each_evaluate_it():
    entered = threading.Event()
    modes = []

    def hold(wait_s):
        with evaluating([module]):
            entered.set()
            modes.append(module.training)
            time.sleep(wait_s)
            modes.append(module.training)

    module = torch.nn.Dropout().train()
    threads = [threading.Thread(target=hold, args=(wait_s,)) for wait_s in (0.05, 0.2)]
    for each in threads:  # the second one enters before the first one leaves, if it can
        each.start()
        entered.wait()
    for each in threads:
        each.join()
    assert modes == [False] * 4
    assert module.training


def test_autocast_around_a_call_changes_nothing(net, waveform):
    expected = mb.extract_layers(_adapt(net), waveform, sample_rate_hz=RATE)
    with torch.autocast("cpu", torch.bfloat16):
        encoder = _adapt(net)
        found = mb.extract_layers(encoder, waveform, sample_rate_hz=RATE)
        assert torch.is_autocast_enabled("cpu")
    for layer, values in expected.items():
        np.testing.assert_array_equal(found[layer], values)


def test_autocast_around_a_run_changes_nothing(net, tmp_path):
    records = []
    for switched_on in (False, True):
        folders = {"results_dir": tmp_path / f"results{switched_on}", "cache_dir": tmp_path / f"cache{switched_on}"}
        with torch.autocast("cpu", torch.bfloat16, enabled=switched_on):
            records.append(mb.run(_adapt(net), **QUICK, **folders))
    assert records[0].scores == records[1].scores


def test_other_defaults_of_pytorch_are_refused_by_name(net, tmp_path, waveform):
    encoder = _adapt(net)
    calls = (
        lambda: _adapt(net),
        lambda: mb.extract_layers(encoder, waveform, sample_rate_hz=RATE),
        lambda: mb.run("mfcc", **QUICK, results_dir=tmp_path),
    )
    for call in calls:
        try:
            torch.set_default_dtype(torch.float64)
            with pytest.raises(mb.UsageError, match=r"torch\.set_default_dtype\(torch\.float64\) is in force"):
                call()
        finally:
            torch.set_default_dtype(torch.float32)
        with (
            torch.device("meta"),
            pytest.raises(mb.UsageError, match=r"torch\.set_default_device\('meta'\) is in force"),
        ):
            call()


def test_time_and_channels_of_one_length_are_told_apart_by_the_rate_alone():
    of_one_length = {"min_s": 2.0, "max_s": 2.0}
    for frames in (lambda x: x.unfold(1, 80, 80), lambda x: x.unfold(1, 80, 80).transpose(1, 2)):
        with pytest.raises(mb.UsageError, match=r"does not tell time from channels: give frame_rate_hz=, (100|40) if"):
            _adapt(frames, **of_one_length)
    assert _adapt(lambda x: x.unfold(1, 80, 80), **of_one_length, frame_rate_hz=100.0).layers[0].width == 80
    with pytest.raises(mb.UsageError, match=r"layer 'output' has 80 frames in 2\.00 s, declared 200"):
        _adapt(lambda x: x.unfold(1, 80, 80).transpose(1, 2), **of_one_length, frame_rate_hz=100.0)
    assert _adapt(lambda x: x[:, :9], **of_one_length).layers == (mb.Layer("output", 9, None),)


def test_a_name_that_means_another_model_is_refused(net):
    own = replace(_adapt(net), load=lambda weights, device: None, code="", made_from="")
    taken = {
        "MFCC": "'MFCC' is an encoder of the suite, 'mfcc' there",
        "hf:org/toy": "'hf:org/toy' begins as hf:ORG/NAME",
        "hear:package": "'hear:package' begins as hear:PACKAGE",
        "org/toy": "'org/toy' is how models of the hub are called",
        "org/toy@main": "'org/toy@main' is how models of the hub are called",
    }
    for name, words in taken.items():
        with pytest.raises(mb.UsageError, match=words):
            _adapt(net, name=name)
        with pytest.raises(mb.UsageError, match=words):
            mb.extract_layers(replace(own, name=name), np.ones(RATE), sample_rate_hz=RATE)


class Counting(torch.nn.Module):
    """Counts its calls, and has a table as long as its longest input."""

    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1), persistent)
        self.register_buffer("places", torch.zeros(0), persistent=False)

    def forward(self, waveforms):
        self.calls += 1
        frames = waveforms.unfold(1, 80, 80)
        if frames.shape[1] > len(self.places):
            self.places = torch.arange(frames.shape[1]) / 1000
        return frames + self.places[: frames.shape[1], None]


def test_buffers_that_no_state_holds_may_change_when_a_module_runs(waveform):
    module = Counting(persistent=False)
    encoder = _adapt(module)
    for _ in range(2):
        mb.extract_layers(encoder, waveform, sample_rate_hz=RATE)
    assert _adapt(module).code == encoder.code
    with pytest.raises(mb.UsageError, match=r"mine: calls changes when it runs, .* persistent=False"):
        _adapt(Counting(persistent=True))


def test_an_array_that_a_function_fills_anew_is_copied_for_each_window():
    class Buffer:
        frames = np.zeros((1, 100, 80), np.float32)

    def fill(wave):
        Buffer.frames[0] = wave.reshape(100, 80)
        return Buffer.frames

    encoder = mb.from_function(fill, name="m", sample_rate_hz=RATE, min_s=1, max_s=1, frame_rate_hz=100.0)
    waves = np.random.default_rng(0).normal(size=2 * RATE).astype(np.float32)
    found = mb.extract_layers(encoder, waves, sample_rate_hz=RATE, window_s=1)["0"]
    np.testing.assert_allclose(found, waves.reshape(2, 100, 80).mean(axis=1), atol=1e-6)
    array = np.zeros((1, 100, 80), np.float32)

    def refill(wave):
        array[0] = wave.reshape(100, 80)
        return array

    with pytest.raises(mb.UsageError, match=r"m: \.array changes when it runs, .* an array anew in each call"):
        mb.from_function(refill, name="m", sample_rate_hz=RATE, min_s=1, max_s=1, frame_rate_hz=100.0)

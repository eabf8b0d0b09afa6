"""Models by their hub id or folder: features are those of transformers' own forward, and what is not run is refused."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_folders import CASES, edit, tone
from hub_server import HubServer
from safetensors.torch import load_file, save

from marble_bench import Encoder, Layer, audio
from marble_bench.core import contract, plugins, sources
from marble_bench.core.encoder import check_callable, encode_valid
from marble_bench.encoders import weights
from marble_bench.errors import DataError, UsageError
from marble_bench.features import store
from marble_bench.records import copies
from marble_bench.records.schema import from_json
from marble_bench.runs.inputs import list_model_facts

PLUGINS = Path(__file__).parent / "plugins"


def _loaded(folder, cache):
    encoder = plugins.find_encoder(f"hf:{folder}")
    return encoder, encoder.load(weights.resolve(encoder, cache).path, "cpu")


def _mean(frames):
    return frames.mean(dim=1)


def _waves(encoder, length_s, count=1):
    made = [audio.normalize(tone(encoder.sample_rate_hz, length_s, seed), encoder.normalize) for seed in range(count)]
    return torch.from_numpy(np.stack(made))


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # of transformers before 5.16
@pytest.mark.parametrize("name", CASES)
def test_features_are_the_means_of_transformers_own_hidden_states(tmp_path, name):
    """Of a clip below a fixed input, where the model has one, over what was heard; in a batch and before padding too."""
    case = CASES[name]
    model = case.save(tmp_path / "model")
    encoder, encode = _loaded(tmp_path / "model", tmp_path / "cache")
    states = case.expected(model, tone(encoder.sample_rate_hz, 2.37))
    assert [layer.width for layer in encoder.layers] == [state.shape[2] for state in states]
    for layer, state in zip(encoder.layers, states, strict=True):
        assert layer.frame_rate_hz < 1 or abs(state.shape[1] - 2.37 * layer.frame_rate_hz) <= 3, layer
    waves = _waves(encoder, 2.37, count=2)
    padded, samples = torch.nn.functional.pad(waves, (0, 9000)), waves.shape[1]
    with torch.inference_mode():
        ways = [encode(waves[:1], _mean), encode(waves, _mean)]
        ways.append(encode(padded, _mean, valid=torch.tensor([samples, samples + 5000])))
        longer = encode(padded[1:, : samples + 5000], _mean)
    for layers in ways:
        for layer, found, state in zip(encoder.layers, layers, states, strict=True):
            expected = state.mean(dim=1)
            assert (found[:1] - expected).norm() <= 1e-5 * expected.norm(), layer
    for found, expected in zip(ways[2], longer, strict=True):
        torch.testing.assert_close(found[1:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # of transformers before 5.16
@pytest.mark.parametrize("name", CASES)
def test_the_declared_facts_are_so_at_the_shortest_window_too(tmp_path, name):
    CASES[name].save(tmp_path / "model")
    encoder, encode = _loaded(tmp_path / "model", tmp_path / "cache")
    assert contract.try_on_noise(encoder, encode, "cpu", encoder.min_s)[0] == []


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # of transformers before 5.16
@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("whisper", 64000),
        ("qwen2_audio", 64000),
        ("audio-spectrogram-transformer", 39 * 10 * 160),
        ("clap", 480000),
    ],
)
def test_a_window_longer_than_the_fixed_input_is_cut_into_pieces(tmp_path, name, piece):
    """A last piece below a second is dropped; CLAP drops every remainder."""
    model = CASES[name].save(tmp_path / "model")
    encoder, encode = _loaded(tmp_path / "model", tmp_path / "cache")
    wave = tone(encoder.sample_rate_hz, 2 * piece / encoder.sample_rate_hz + 0.9)
    states = [CASES[name].expected(model, wave[start : start + piece]) for start in (0, piece)]
    with torch.inference_mode():
        layers = encode(torch.from_numpy(wave)[None], _mean)
    for layer, *each in zip(layers, *states, strict=True):
        torch.testing.assert_close(layer, torch.cat(each, dim=1).mean(dim=1), rtol=1e-4, atol=1e-5)


def test_weights_given_by_hand_have_to_be_of_the_same_model(tmp_path):
    for name in ("wavlm", "wavlm layer norm", "hubert"):
        CASES[name].save(tmp_path / name.replace(" ", "-"))
    encoder = plugins.find_encoder(f"hf:{tmp_path / 'wavlm'}")
    with pytest.raises(DataError, match="this is another model: its configuration gives other layers, another rate"):
        weights.resolve(encoder, tmp_path / "cache", override=tmp_path / "wavlm-layer-norm")
    with pytest.raises(DataError, match="its configuration is of a HubertModel, declared is a WavLMModel"):
        weights.resolve(encoder, tmp_path / "cache", override=tmp_path / "hubert")
    found = weights.resolve(encoder, tmp_path / "cache", override=tmp_path / "wavlm")
    assert found.sha256 == weights.resolve(encoder, tmp_path / "cache").sha256
    alone = tmp_path / "wavlm/model.safetensors"
    with pytest.raises(DataError, match="holds tensors without their configuration: give the folder"):
        encoder.load(weights.resolve(encoder, tmp_path / "cache", override=alone).path, "cpu")


def test_other_forms_of_the_same_folder_are_read_too(tmp_path):
    """The extractor's facts inside the processor's file, as newer folders have them, and tensors as PyTorch saves them."""
    CASES["whisper"].save(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    front = tmp_path / "other/preprocessor_config.json"
    (tmp_path / "other/processor_config.json").write_text(
        json.dumps({"feature_extractor": json.loads(front.read_text())})
    )
    front.write_text("{}")
    tensors = load_file(tmp_path / "other/model.safetensors")
    torch.save(tensors, tmp_path / "other/pytorch_model.bin")
    (tmp_path / "other/model.safetensors").unlink()
    found = [
        _loaded(tmp_path / name, tmp_path / "cache")[1](torch.ones(1, 20000), _mean) for name in ("model", "other")
    ]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "home")
        yield server


def _files(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    """The files of a small WavLM with a model card."""
    folder = tmp_path_factory.mktemp("hub") / "wavlm"
    CASES["wavlm"].save(folder)
    card = "---\nlicense: cc-by-nc-4.0\ndatasets:\n- marsyas/gtzan\n---\n# A model\n"
    (folder / "README.md").write_text(card)
    return _files(folder)


def test_a_bare_id_is_resolved_to_a_commit_which_is_recorded(hub, wavlm, tmp_path):
    commit = hub.publish("org/wavlm", wavlm)
    encoder = plugins.find_encoder("org/wavlm")
    assert encoder.name == "hf:org/wavlm"
    assert (encoder.license, encoder.training_data) == ("cc-by-nc-4.0", ("marsyas/gtzan",))
    found = weights.resolve(encoder, tmp_path / "cache")
    digest = hashlib.sha256(wavlm["model.safetensors"]).hexdigest()
    assert (found.source, found.revision, found.files) == ("hf:org/wavlm", commit, {"model.safetensors": digest})
    facts = list_model_facts(encoder, found)
    assert facts["revision"] == commit
    assert facts["files"] == {"model.safetensors": digest}
    assert plugins.find_encoder("hf:org/wavlm").layers == encoder.layers


def test_a_model_with_a_stroke_in_its_name_has_one_folder_for_its_features(tmp_path):
    assert store.name_folder({"encoder": "hf:org/name"}).startswith("hf%3Aorg%2Fname-")
    assert store.name_folder({"encoder": "mert-95m"}).startswith("mert-95m-")


def test_a_commit_in_the_cache_is_enough_without_a_network(hub, wavlm, tmp_path):
    commit = hub.publish("org/wavlm", wavlm)
    first = weights.resolve(plugins.find_encoder("org/wavlm"), tmp_path / "cache")
    asked = len(hub.asked)
    again = weights.resolve(plugins.find_encoder("org/wavlm", offline=True), tmp_path / "other", offline=True)
    assert (again.sha256, again.revision) == (first.sha256, commit)
    assert len(hub.asked) == asked
    with pytest.raises(DataError, match=r"model 'hf:org/other' cannot be read.*bench models get hf:org/other"):
        plugins.find_encoder("org/other", offline=True)


def test_a_revision_is_part_of_the_name_and_its_record_finds_it_again(hub, wavlm, tmp_path):
    first = hub.publish("org/wavlm", wavlm, 1)
    second = hub.publish("org/wavlm", {**wavlm, "README.md": b"other words"}, 2)
    old, new = plugins.find_encoder(f"org/wavlm@{first}"), plugins.find_encoder("hf:org/wavlm")
    assert (old.name, new.name) == (f"hf:org/wavlm@{first[:12]}", "hf:org/wavlm")
    assert (old.license, new.license) == ("cc-by-nc-4.0", "not stated")
    assert weights.resolve(new, tmp_path / "cache").revision == second
    for encoder, commit in ((old, first), (new, first)):
        again = plugins.recorded_encoder(encoder.name, commit)
        assert again.name == encoder.name
        assert weights.resolve(again, tmp_path / "cache").revision == commit


@pytest.mark.parametrize("name", ["hf:wavlm", "hf:/etc", "hf:.", "hf:org/../x", "hf:../org/x", "hf:org/wavlm"])
def test_the_name_in_a_record_opens_no_path(hub, wavlm, tmp_path, monkeypatch, name):
    """A folder of that name lies right here, and the record has no commit."""
    for folder in (tmp_path / "wavlm", tmp_path / "org/wavlm"):
        folder.mkdir(parents=True)
        for file, content in wavlm.items():
            (folder / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"give yours as --model hf:FOLDER|has no commit of 'hf:org/wavlm'"):
        plugins.recorded_encoder(name, "a" * 64)
    assert not hub.asked


def test_shards_of_the_whole_model_are_fetched_for_its_audio_side_alone(hub, tmp_path):
    model = CASES["qwen2_audio"].save(tmp_path / "model")
    files = _files(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    names = {name: f"model-0000{1 + ('audio_tower.' not in name)}-of-00002.safetensors" for name in tensors}
    del files["model.safetensors"]
    for shard in set(names.values()):
        files[shard] = save({name: each for name, each in tensors.items() if names[name] == shard})
    files["model.safetensors.index.json"] = json.dumps({"weight_map": names}).encode()
    hub.publish("org/qwen", files)
    encoder = plugins.find_encoder("org/qwen")
    found = weights.resolve(encoder, tmp_path / "cache")
    assert set(found.files) == {"model-00001-of-00002.safetensors"}
    wave = tone(16000, 1.0)
    with torch.inference_mode():
        layers = encoder.load(found.path, "cpu")(torch.from_numpy(wave)[None], _mean)
    for layer, state in zip(layers, CASES["qwen2_audio"].expected(model, wave), strict=True):
        torch.testing.assert_close(layer, state.mean(dim=1))


def test_an_id_of_ours_is_our_encoder_unless_another_revision_is_named(hub):
    ours = plugins.find_encoder("mert-95m")
    pin = ours.weights.revision
    for name in (
        "m-a-p/MERT-v1-95M",
        "hf:m-a-p/MERT-v1-95M",
        f"m-a-p/MERT-v1-95M@{pin}",
        f"hf:m-a-p/MERT-v1-95M@{pin[:9]}",
    ):
        assert plugins.find_encoder(name) is ours
    assert not hub.asked
    config = {"model_type": "mert_model", "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}}
    commit = hub.publish("m-a-p/MERT-v1-95M", {"config.json": json.dumps(config).encode()})
    with pytest.raises(DataError) as told:
        plugins.find_encoder(f"m-a-p/MERT-v1-95M@{commit}")
    assert f"'mert-95m' is this model at revision {pin[:12]}, and {commit} is another encoder" in str(told.value)
    assert "it needs remote code (model_type 'mert_model', auto_map in config.json), which is never run" in str(
        told.value
    )
    with pytest.raises(UsageError, match=r"did you mean 'm-a-p/MERT-v1-95M', which is 'mert-95m' here\?"):
        plugins.find_encoder("M-A-P/mert-v1-95m")


def test_an_id_of_several_encoders_of_ours_is_the_first(monkeypatch):
    ours = plugins.find_encoder("mert-95m")
    monkeypatch.setattr(
        plugins, "find_encoders", lambda: {"one": replace(ours, name="one"), "two": replace(ours, name="two")}
    )
    assert plugins.find_encoder("m-a-p/MERT-v1-95M").name == "one"


def test_a_near_id_is_named_whatever_its_case(hub, wavlm):
    hub.publish("Org/WavLM-small", wavlm)
    plugins.find_encoder("Org/WavLM-small")
    with pytest.raises(DataError, match="did you mean 'Org/WavLM-small'"):
        plugins.find_encoder("org/wavlm-smal")


def test_without_a_connection_the_cached_commit_is_offered(hub, wavlm):
    hub.publish("org/wavlm", wavlm)
    plugins.find_encoder("org/wavlm")
    hub.fails = 100
    with pytest.raises(DataError, match=r"cannot be read.*the hub's cache has this model.*--offline takes that one"):
        plugins.find_encoder("org/wavlm")


def test_a_gated_model_says_what_to_do(hub, wavlm):
    hub.publish("org/closed", wavlm)
    hub.gated.add("org/closed")
    with pytest.raises(DataError, match=r"it is gated.*accept its terms.*HF_TOKEN"):
        plugins.find_encoder("org/closed")


REFUSED = {
    "wavlm": [
        ("config.json", {"model_type": "mert_model", "auto_map": {"AutoModel": "x.Y"}}, "it needs remote code"),
        ("config.json", {"model_type": "frobnicate"}, "has no model_type 'frobnicate': a newer transformers may"),
        ("config.json", {"model_type": ["x"]}, "has no model_type"),
        ("config.json", {"model_type": "bert"}, r"it takes no audio \(model_type 'bert'\); audio models that are run: "),
        ("config.json", {"model_type": "univnet"}, r"its hidden states are not read here \(model_type 'univnet'\)"),
        ("config.json", {"num_hidden_layers": 10**9}, "config.json has num_hidden_layers 1000000000; at most 1024"),
        ("config.json", {"hidden_size": "wide"}, "config.json makes no WavLMModel: .*hidden_size"),
        ("config.json", {"conv_kernel": [3]}, "config"),
        ("config.json", {"hidden_act": {"a": [[0] * 9] * 9}}, "config.json makes no WavLMModel"),
        ("config.json", {"conv_dim": [1] * 2000}, "config.json has conv_dim of 2000 values; at most 1024 are read"),
        ("config.json", {"quantization_config": {"bits": 4}}, r"its tensors are quantised"),
        ("config.json", None, "it has no config.json: it is no model in the form of transformers"),
        ("preprocessor_config.json", None, r"it has no preprocessor_config\.json.*Wav2Vec2FeatureExtractor"),
        ("preprocessor_config.json", {"feature_extractor_type": "Mine"}, "its feature extractor is 'Mine', and a"),
        ("preprocessor_config.json", {"sampling_rate": None}, "sampling_rate"),
    ],
    "encodec": [("config.json", {"audio_channels": 2}, "it takes 2 channels, and an encoder here is handed one"),
                ("config.json", {"chunk_length_s": 1.0}, "it cuts its input into overlapping chunks of 1 s"),
                ("preprocessor_config.json", {"sampling_rate": 48000}, "24000 Hz, the feature extractor 48000")],
    "clap": [("preprocessor_config.json", {"truncation": "fusion"}, "it is a CLAP with fusion")],
    "whisper": [("preprocessor_config.json", {"n_fft": 10**7}, "has n_fft 10000000; at most 65536 is built"),
                ("preprocessor_config.json", {"dither": 0.1}, "its feature extractor adds noise"),
                ("config.json", {"max_source_positions": 1500}, "3000 mel frames, the feature extractor gives 400")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file", "facts", "words"), [(name, *each) for name, cases in REFUSED.items() for each in cases]
)
def test_what_is_not_run_is_refused_in_plain_words(tmp_path, name, file, facts, words):
    folder = tmp_path / "model"
    CASES[name].save(folder)
    if facts is None:
        (folder / file).unlink()
    else:
        edit(folder / file, **facts)
    with pytest.raises(DataError, match=words) as told:
        plugins.find_encoder(f"hf:{folder}")
    assert f"model 'hf:{folder}' is not run: " in str(told.value)


def test_tensors_of_another_model_are_refused(tmp_path):
    CASES["wavlm"].save(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    (tmp_path / "model/model.safetensors").write_bytes(save(dict(list(tensors.items())[3:])))
    with pytest.raises(DataError, match="3 tensors are missing"):
        _loaded(tmp_path / "model", tmp_path / "cache")
    edit(tmp_path / "model/config.json", num_hidden_layers=1)
    (tmp_path / "model/model.safetensors").write_bytes(save(tensors))
    with pytest.raises(DataError, match=r"tensors are not the model's: encoder\.layers\.1\."):
        _loaded(tmp_path / "model", tmp_path / "cache")


def test_a_configuration_that_is_larger_than_its_tensors_is_refused_before_it_is_built(tmp_path):
    CASES["wavlm"].save(tmp_path / "model")
    edit(tmp_path / "model/config.json", hidden_size=10**6, num_attention_heads=10**3)
    with pytest.raises(
        DataError, match=r"config\.json is of a model of [\d,]{12,} parameters, the tensors hold 6\d,\d{3}$"
    ):
        _loaded(tmp_path / "model", tmp_path / "cache")


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: other\nlicense_name: my-terms\ndatasets: a/b\n---", ("my-terms", ("a/b",))),
        ("---\nlicense: [mit]\ndatasets:\n- 3\n- {a: b}\n---", ("not stated", ("not stated",))),
        ("---\n: : [\n---", ("not stated", ("not stated",))),
        ('---\nlicense: "\\e[31mred"\n---', ("not stated", ("not stated",))),
        ("# no front matter", ("not stated", ("not stated",))),
    ],
)
def test_what_a_card_does_not_state_is_not_stated(tmp_path, card, expected):
    CASES["wavlm"].save(tmp_path / "model")
    (tmp_path / "model/README.md").write_text(card)
    encoder = plugins.find_encoder(f"hf:{tmp_path / 'model'}")
    assert (encoder.license, encoder.training_data) == expected


def test_a_name_that_is_neither_id_nor_folder_says_what_is(tmp_path):
    for name in ("hf:", "hf:bert", "hf:a/b/c", "hf:a/b@", "hf:../x/y"):
        with pytest.raises(UsageError, match="give hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:FOLDER, an existing folder"):
            plugins.find_encoder(name)
    with pytest.raises(UsageError, match=r"no model 'qqq' \(bench list models; or give hf:ORG/NAME"):
        plugins.find_encoder("qqq")
    mine = tmp_path / "mine.py"
    mine.write_text((PLUGINS / "toy_encoder.py").read_text().replace('name="toy"', 'name="hf:org/toy"'))
    with pytest.raises(UsageError, match=r"'hf:org/toy' begins as hf:ORG/NAME.* do: give your encoder another name"):
        plugins.find_encoder(f"{mine}:TOY")
    strange = tmp_path / "my model"
    strange.mkdir()
    with pytest.raises(UsageError, match="rename the folder"):
        plugins.find_encoder(f"hf:{strange}")


def test_a_folder_is_known_by_its_last_part_and_its_content(tmp_path):
    CASES["wavlm"].save(tmp_path / "one/wavlm")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    how = {"attn_implementation": "flash_attention_2", "output_hidden_states": True, "return_dict": False}
    edit(
        tmp_path / "two/wavlm/config.json",
        _name_or_path="elsewhere",
        transformers_version="0",
        torch_dtype="int8",
        **how,
    )
    encoders = [plugins.find_encoder(f"hf:{tmp_path / place / 'wavlm'}") for place in ("one", "two")]
    found = [weights.resolve(each, tmp_path / "cache") for each in encoders]
    assert [each.name for each in encoders] == ["hf:wavlm", "hf:wavlm"]
    assert [each.source for each in found] == ["file:wavlm", "file:wavlm"]
    assert found[0].sha256 == found[1].sha256
    assert sources.find_origin("encoder", encoders[0]) == sources.find_origin("encoder", encoders[1])
    assert weights.known_digest(encoders[0], tmp_path / "cache") == found[0].sha256
    assert weights.find_cached(encoders[0], tmp_path / "cache")[0] == found[0].path


TOY_RUN = ("--task", PLUGINS / "toy_task.py", "--mini", "--protocol", "linear", "--quiet", "--json")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wavlm", "whisper"])
def test_a_folder_is_run_and_its_record_made_again(bench, tmp_path, name):
    CASES[name].save(tmp_path / "models" / name)
    done = bench("run", "--model", f"hf:models/{name}", *TOY_RUN)
    assert done.code == 0, done.err
    (record,) = (tmp_path / "results").rglob("*.mini.json")
    facts = json.loads(record.read_text())["model"]
    assert (facts["name"], facts["source"]) == (f"hf:{name}", f"file:{name}")
    assert str(tmp_path) not in record.read_text()
    assert bench("results", "check", "results").code == 0
    (tmp_path / "models").rename(tmp_path / "moved")
    again = bench("reproduce", record, "--model", f"hf:moved/{name}", "--task", PLUGINS / "toy_task.py")
    assert again.code == 0, again.err
    refused = bench("reproduce", record, "--task", PLUGINS / "toy_task.py")
    assert f"'hf:{name}' is the folder of another user: give yours as --model hf:FOLDER" in refused.err


@pytest.mark.slow
def test_an_id_is_run_and_its_record_finds_it_again(bench, hub, wavlm, tmp_path):
    commit = hub.publish("org/wavlm", wavlm)
    done = bench("run", "--model", "org/wavlm", *TOY_RUN)
    assert done.code == 0, done.err
    (record,) = (tmp_path / "results").rglob("*.mini.json")
    assert record.relative_to(tmp_path / "results").parts[0] == "hf%3Aorg%2Fwavlm"
    facts = json.loads(record.read_text())["model"]
    assert (facts["name"], facts["source"], facts["revision"]) == ("hf:org/wavlm", "hf:org/wavlm", commit)
    hub.publish("org/wavlm", {"config.json": b"{}"}, 2)  # the model has changed since
    again = bench("reproduce", record, "--task", PLUGINS / "toy_task.py")
    assert again.code == 0, again.err
    assert bench("run", "--model", f"org/wavlm@{commit}", "--offline", *TOY_RUN).code == 0


@pytest.mark.slow
def test_two_names_of_the_same_weights_are_shown_as_one_model(bench, tmp_path):
    CASES["wavlm"].save(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("one", "two"):
        assert bench("run", "--model", f"hf:{name}", *TOY_RUN).code == 0
    done = bench("results", "check", "results")
    assert done.code == 0
    assert "same model: its weights are those of hf:one" in done.out
    board = bench("leaderboard", "--mini", "--protocol", "linear")
    assert "hf:one, hf:two: the same weights, so one model under several names" in board.err + board.out
    path = next((tmp_path / "results/hf%3Atwo").rglob("*.mini.json"))
    facts = json.loads(path.read_text())
    stored = [
        from_json(each)
        for each in (json.loads(next((tmp_path / "results/hf%3Aone").rglob("*.json")).read_text()), facts)
    ]
    assert copies.same_weights(*stored)
    facts["model"] |= {"weights_sha256": "f" * 64, "files": {"model.safetensors": "e" * 64}}
    assert not copies.same_weights(stored[0], from_json(facts))
    ours = plugins.find_encoder("hubert-base")
    facts["model"]["files"] = dict(ours.weights.digests)
    known = json.loads(json.dumps(facts))
    del known["model"]["files"]
    known["model"] |= {"name": "hubert-base", "source": ours.weights.url, "weights_sha256": "d" * 64}
    assert copies.same_weights(from_json(known), from_json(facts))


def _masked(waveforms, pool, valid=None):
    """Frames of ten samples that are masked, of an encoder that is right."""
    frames = waveforms.unflatten(1, (-1, 10)).cumsum(dim=1)
    if valid is None:
        return [pool(frames)]
    return [torch.cat([pool(frames[row : row + 1, : int(count) // 10]) for row, count in enumerate(valid)])]


def _unmasked(waveforms, pool, valid=None):
    return [pool(waveforms.unflatten(1, (-1, 10)))]


def _without(waveforms, pool):
    return _masked(waveforms, pool)


def _toy(encode, masks=True):
    layers = (Layer("x", 10, 100.0),)
    facts = {
        "sample_rate_hz": 1000,
        "layers": layers,
        "license": "CC0",
        "citation": "none",
        "min_s": 0.1,
        "masks": masks,
    }
    return Encoder(name="toy", description="toy", load=lambda weights, device: encode, **facts)


def test_an_encoder_that_declares_masks_is_tried_with_one():
    assert contract.try_on_noise(_toy(_masked), _masked, "cpu", 0.1)[0] == []
    (problem,) = contract.try_on_noise(_toy(_unmasked), _unmasked, "cpu", 0.1)[0]
    assert "layer 'x' of a window depends on the padding after its valid samples: mask it" in problem
    with pytest.raises(UsageError, match=r"declares masks=True.*add valid, or leave masks out"):
        check_callable("toy", _without, masks=True)
    with pytest.raises(UsageError, match="takes no mask: give it windows without padding"):
        encode_valid(_toy(_without, masks=False), _without, torch.zeros(1, 100), _mean, torch.tensor([50]))
    found = encode_valid(_toy(_masked), _masked, torch.ones(2, 100), _mean, torch.tensor([50, 100]))
    assert found[0][:, 0].tolist() == [3.0, 5.5]

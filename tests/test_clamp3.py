"""CLaMP 3's audio side gives what its authors' two scripts compute, step by step, with transformers' own models."""

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from hub_server import HubServer
from stand_ins import TINY_CLAMP3, draw_weights

from marble_bench.core import plugins
from marble_bench.encoders import _hub, _speech, clamp3, weights
from marble_bench.errors import DataError

GOLDEN = Path(__file__).parent / "golden/mert-tiny-95m"
MERT = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "conv_dim": (32,) * 7}
MERT |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_hidden_layers": 3}
GRAPH = _speech.Graph("hubert", tuple(MERT.items()))


def _identity(frames):
    return frames


def _tiny():
    encoder = plugins.find_encoder("clamp3")
    load = partial(clamp3.load, TINY_CLAMP3, GRAPH)
    return dataclasses.replace(encoder, load=load, convert=partial(clamp3.convert, TINY_CLAMP3, GRAPH))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(folder as a user gives it, MERT, BERT, projection): MERT's files are those of the makers' own reference."""
    folder = tmp_path_factory.mktemp("clamp3")
    shutil.copytree(GOLDEN, folder / clamp3.MERT_FOLDER)
    made = clamp3.build(TINY_CLAMP3)
    made.load_state_dict(draw_weights(made))
    whole = {**made.state_dict(), "text_proj.weight": torch.ones(2, 2), "symbolic_model.x": torch.ones(3)}
    whole["audio_model.embeddings.position_ids"] = torch.arange(128)[None]  # as older versions of transformers save it
    torch.save({"model": whole, "epoch": 7, "min_eval_loss": 1.5}, folder / clamp3.FILE)
    mert = _speech.build(GRAPH, "eager")
    _hub.fill(mert, _speech.prepare(GRAPH, *_hub.read(GOLDEN))[1])
    mert.config.tie_last_hidden_states = True
    return folder, mert.eval(), made["audio_model"].eval(), made["audio_proj"]


def _by_the_authors_steps(mert, bert, projection, waveform):
    """One waveform `(samples,)`: extract_mert.py with --mean_features, then extract_clamp3.py with --get_global."""
    pieces = [waveform[start : start + 120_000] for start in range(0, len(waveform), 120_000)]
    pieces = pieces[:-1] if len(pieces[-1]) < 24_000 else pieces
    rows = []
    for piece in pieces:
        states = mert(piece[None], output_hidden_states=True).hidden_states
        rows.append(torch.stack([state.mean(dim=1)[0] for state in states]).mean(dim=0))
    rows = torch.stack([torch.zeros(48), *rows, torch.zeros(48)])
    segments = [rows[start : start + 128] for start in range(0, len(rows), 128)]
    segments[-1] = rows[-128:]
    vectors, counts = [], [128.0] * (len(rows) // 128) + ([float(len(rows) % 128)] if len(rows) % 128 else [])
    for segment in segments:
        mask = torch.cat((torch.ones(len(segment)), torch.zeros(128 - len(segment))))[None]
        padded = torch.cat((segment, torch.zeros(128 - len(segment), 48)))[None]
        last = bert(inputs_embeds=padded, attention_mask=mask).last_hidden_state
        vectors.append(projection((last * mask[..., None]).sum(dim=1) / mask.sum()))
    shares = torch.tensor(counts)[:, None] / sum(counts)
    return (torch.cat(vectors) * shares).sum(dim=0)


@pytest.mark.parametrize("length_s", [1.5, 12.0, 15.9])
def test_a_windows_vector_is_what_the_authors_steps_give(parts, tmp_path, length_s):
    folder, *models = parts
    encoder = _tiny()
    encode = encoder.load(weights.resolve(encoder, tmp_path, override=folder).path, "cpu")
    waveforms = torch.randn(2, round(24000 * length_s), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
        expected = torch.stack([_by_the_authors_steps(*models, waveform) for waveform in waveforms])
    assert len(layers) == 4
    assert all(layer.shape == (2, 1, 48) for layer in layers)
    torch.testing.assert_close(layers[-1][:, 0], expected, rtol=1e-4, atol=1e-4)


def test_more_rows_than_the_bert_takes_are_cut_as_the_authors_cut_them():
    """Of 300 rows, the last segment is rows 172 to 299 and counts as 44."""
    rows = torch.randn(1, 300, 48, generator=torch.Generator().manual_seed(0))
    cut = clamp3.cut_segments(rows)
    assert [segment.shape[1] for segment, _ in cut] == [128, 128, 128]
    assert torch.equal(cut[2][0], rows[:, 172:])
    assert [share for _, share in cut] == pytest.approx([128 / 300, 128 / 300, 44 / 300])
    assert [share for _, share in clamp3.cut_segments(rows[:, :256])] == [0.5, 0.5]
    assert [(each.shape[1], share) for each, share in clamp3.cut_segments(rows[:, :7])] == [(7, 1.0)]


def test_states_are_what_the_bert_hands_out(parts, tmp_path):
    folder, mert, bert, _ = parts
    encoder = _tiny()
    encode = encoder.load(weights.resolve(encoder, tmp_path, override=folder).path, "cpu")
    waveform = torch.randn(1, 240_000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        rows = clamp3.hear_rows(waveform, _speech.encoding(mert, "cpu"))
        states = bert(inputs_embeds=rows, output_hidden_states=True).hidden_states
        layers = encode(waveform, _identity)
    assert rows.shape[1] == 4
    for layer, state in zip(layers, states, strict=False):
        torch.testing.assert_close(layer[:, 0], state.mean(dim=1), rtol=1e-4, atol=1e-4)


def test_a_folder_that_lacks_a_part_is_refused(parts, tmp_path):
    folder = Path(shutil.copytree(parts[0], tmp_path / "hub"))
    shutil.rmtree(folder / clamp3.MERT_FOLDER)
    with pytest.raises(DataError, match=r"is no folder with weights_clamp3.* and beside it a folder MERT-v1-95M"):
        weights.resolve(_tiny(), tmp_path, override=folder)


@pytest.mark.slow
def test_both_models_are_fetched_and_compared(parts, tmp_path, monkeypatch):
    """Each at its own commit, with its own digests."""
    folder, *_ = parts
    encoder = _tiny()
    (name, of_mert), = encoder.weights.beside  # fmt: skip
    files = {path.name: path.read_bytes() for path in (folder / clamp3.MERT_FOLDER).iterdir() if path.suffix != ".npz"}
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "home")
        ours = server.publish("sander-wood/clamp3", {clamp3.FILE: (folder / clamp3.FILE).read_bytes()})
        theirs = server.publish("m-a-p/MERT-v1-95M", files)
        beside = dataclasses.replace(of_mert, revision=theirs, digests=())
        source = dataclasses.replace(encoder.weights, revision=ours, digests=(), beside=((name, beside),))
        found = weights.resolve(dataclasses.replace(encoder, weights=source), tmp_path / "cache")
        _, receipt = weights.find_cached(dataclasses.replace(encoder, weights=source), tmp_path / "cache")
        assert {clamp3.FILE, "MERT-v1-95M/pytorch_model.bin", "MERT-v1-95M/config.json"} <= set(receipt.files)
        wrong = dataclasses.replace(beside, digests=(("pytorch_model.bin", "0" * 64),))
        with pytest.raises(DataError, match=r"have MERT-v1-95M/pytorch_model\.bin with sha256 .*, 0{64} is declared"):
            weights.resolve(
                dataclasses.replace(encoder, weights=dataclasses.replace(source, beside=((name, wrong),))),
                tmp_path / "another",
            )
    given = weights.resolve(encoder, tmp_path / "given", override=folder)
    assert given.tensors_sha256 == found.tensors_sha256


def test_declared_parameters_are_the_graphs():
    with torch.device("meta"):
        bert = transformers.BertModel(transformers.BertConfig(**clamp3.GRAPH))
    parts = (bert, torch.nn.Linear(768, 768), _speech.build(_speech.Graph("hubert")))
    total = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert total == plugins.find_encoder("clamp3").parameters

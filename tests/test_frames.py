"""Frame-wise features: every frame, once, on disk, whatever the batch; probes on them equal a plain loop."""

import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from marble_bench.probes import framewise
from marble_bench.probes.trainer import Probe

from marble_bench.core.encoder import Encoder, Layer
from marble_bench.core.task import Schedule
from marble_bench.encoders import weights
from marble_bench.errors import BenchError, UsageError
from marble_bench.features import batches, frames, store
from marble_bench.features.frames import Sound
from marble_bench.features.store import Span
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.scoring.frame_targets import MomentPart

RATE = 8000
CALLS: list[tuple[int, int]] = []


def _load(path, device):
    def encode(waveforms, pool):
        CALLS.append(tuple(waveforms.shape))
        cut = waveforms.unfold(1, 160, 160)
        fine = waveforms.unfold(1, 40, 40)
        return [pool(cut[..., :5]), pool(cut[..., 5:10] * 2), pool(fine[..., :3]), pool(cut.mean(dim=1, keepdim=True))]

    return encode


ENCODER = Encoder(
    name="framed",
    description="samples as frames",
    sample_rate_hz=RATE,
    layers=(Layer("a", 5, 50.0), Layer("b", 5, 50.0), Layer("fast", 3, 200.0), Layer("one", 160)),
    load=_load,
    license="MIT",
    citation="none",
    min_s=0.1,
)


def _sounds(lengths_s):
    def made(index, length_s):
        wave = np.random.default_rng(index).standard_normal(round(length_s * RATE)).astype(np.float32)
        return Sound(f"sound {index}", Span(f"digest{index}", "0:"), length_s, lambda rate: wave)

    return [made(*each) for each in enumerate(lengths_s)]


def _extract(sounds, cache, layers=(0, 1), encoder=ENCODER, **options):
    facts = {"clip_normalize": "none"}
    return frames.extract(sounds, encoder, weights.resolve(encoder, cache), layers, cache, facts, **options)


def test_every_frame_is_there_in_its_place_whatever_goes_with_it(tmp_path):
    sounds = _sounds([1.0, 2.0, 1.0, 0.5])
    got, cost = _extract(sounds, tmp_path)
    assert cost.audio_s == pytest.approx(4.5)
    assert (got.names, got.widths, got.rates) == (("a", "b"), [5, 5], [50.0, 50.0])
    for item, sound in enumerate(sounds):
        wave = sound.read(RATE)
        whole = wave[: len(wave) // 160 * 160].reshape(-1, 160)
        assert got.length(0, item) == len(whole)
        assert np.array_equal(got.read(0, item, 0, len(whole)), whole[:, :5].astype(np.float16))
        assert np.array_equal(got.read(1, item, 3, 4), (whole[3:7, 5:10] * 2).astype(np.float16))
    assert got.only([2]).length(0, 0) == got.length(0, 2)
    with pytest.raises(BenchError, match="rows 40 to 60"):
        got.read(0, 0, 40, 20)


def test_what_is_stored_is_not_encoded_again_and_another_layer_is_added(tmp_path):
    sounds = _sounds([1.0, 2.0])
    _extract(sounds, tmp_path, layers=(0,))
    CALLS.clear()
    _, cost = _extract(sounds, tmp_path, layers=(0,))
    assert not CALLS
    assert cost.audio_s == 0
    got, cost = _extract([*sounds, *_sounds([1.0, 1.0, 1.5])[2:]], tmp_path, layers=(0, 1))
    assert cost.audio_s == pytest.approx(4.5)
    assert cost.whole_audio_s == pytest.approx(3.0 + 4.5)  # the layer that was added later, encoded again
    assert got.length(1, 2) == 75
    shards = [len(each.rows) for each in got.stores]
    assert shards == [3, 3]


@pytest.mark.slow
def test_long_sounds_go_in_pieces_whose_frames_stand_one_behind_the_other(tmp_path):
    sounds = _sounds([2.55])
    whole, _ = _extract(sounds, tmp_path)
    CALLS.clear()
    pieces, _ = _extract(sounds, tmp_path, piece_s=1.0)
    signals = [(1, 8000)] * 2  # of the fingerprint
    assert sorted(CALLS) == [(1, 4400), *signals, (2, 8800)]  # an encoder hears 0.1 s beyond a piece
    assert np.array_equal(pieces.read(0, 0, 0, 127), whole.read(0, 0, 0, 127))
    short, _ = _extract(_sounds([2.05]), tmp_path / "other", piece_s=1.0)
    assert short.length(0, 0) == 100  # the rest of 0.05 s is shorter than the encoder takes


@pytest.mark.parametrize("piece_s", [None, 0.5, 1.5, 2.5])
def test_what_an_encoder_drops_behind_its_stretches_moves_no_frame(tmp_path, piece_s):
    def load(path, device):
        def encode(waveforms, pool):
            taken = waveforms.shape[1] // RATE * RATE or waveforms.shape[1]
            return [pool(waveforms[:, :taken].unfold(1, 160, 160)[..., :5])]

        return encode

    stretching = replace(ENCODER, layers=ENCODER.layers[:1], load=load, stretch_s=1.0)
    sounds = _sounds([3.7])
    got, _ = _extract(sounds, tmp_path, layers=(0,), encoder=stretching, piece_s=piece_s)
    whole = sounds[0].read(RATE).reshape(-1, 160)[:, :5].astype(np.float16)
    assert got.length(0, 0) == len(whole) == 185
    assert np.array_equal(got.read(0, 0, 0, 185), whole)


@pytest.mark.parametrize(("width", "lead"), [(400, 0), (160, 160)])  # without padding, and with a frame too many
def test_frames_of_later_pieces_stand_at_their_time(tmp_path, width, lead):
    def load(path, device):
        def encode(waveforms, pool):
            padded = torch.nn.functional.pad(waveforms, (0, lead))
            return [pool(padded.unfold(1, width, 160)[..., :5])]

        return encode

    uneven = replace(ENCODER, layers=ENCODER.layers[:1], load=load)
    sounds = _sounds([3.7])
    got, _ = _extract(sounds, tmp_path, layers=(0,), encoder=uneven, piece_s=1.0)
    whole = sounds[0].read(RATE).reshape(-1, 160)[:, :5].astype(np.float16)
    frames_there = got.length(0, 0)
    assert frames_there in (183, 185, 186)  # the last piece has what its encoder gives
    same = min(frames_there, len(whole))
    assert np.array_equal(got.read(0, 0, 0, same), whole[:same])


def test_fast_layers_are_averaged_down_and_vectors_for_a_window_are_refused(tmp_path):
    got, _ = _extract(_sounds([1.0]), tmp_path, layers=(2,))
    assert got.rates == [100.0]
    wave = _sounds([1.0])[0].read(RATE).reshape(100, 2, 40)[..., :3]
    assert np.abs(got.read(0, 0, 0, 100) - wave.mean(axis=1)).max() < 2e-3
    with pytest.raises(UsageError, match=r"layer one has no frames.*--layers a, b, fast"):
        _extract(_sounds([1.0]), tmp_path, layers=(0, 3))


def test_a_disk_too_small_is_told_before_the_first_write(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, store.SPARE_BYTES + 1000))
    CALLS.clear()
    with pytest.raises(BenchError, match=r"choose fewer --layers, make room"):
        _extract(_sounds([10.0]), tmp_path)
    assert not CALLS
    assert not list(tmp_path.rglob("*.arrow"))


def test_the_disk_that_is_taken_is_what_was_estimated(tmp_path):
    messages = []
    _, cost = _extract(_sounds([20.0, 30.0]), tmp_path, say=messages.append)
    estimate = frames.estimate_bytes(50.0, ENCODER, [0, 1])
    assert estimate == 50 * 50 * 5 * 2 * 2
    assert estimate <= cost.feature_bytes < 2.2 * estimate  # five numbers a frame carry an index of eight bytes
    assert "GB for every frame of 2 layers of 2 sounds" in messages[0]


def test_an_interrupted_pass_goes_on_and_leaves_each_sound_once(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "SHARD_S", 1.0)
    sounds = _sounds([1.0, 1.0, 1.0, 1.0])

    def stop(done, todo, audio_s):
        if done == 3:  # the third shard is not closed yet
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _extract(sounds, tmp_path, progress=stop)
    CALLS.clear()
    got, cost = _extract(sounds, tmp_path)
    assert cost.audio_s == 2.0
    assert cost.whole_audio_s == 4.0  # of both passes; both layers were encoded together
    assert sorted(len(each.rows) for each in got.stores) == [4, 4]


class _Memory:
    """Frames in memory, as the trainer reads them."""

    rates = (50.0, 50.0)
    widths = (6, 6)

    def __init__(self, clips, seed):
        random = np.random.default_rng(seed)
        self.clips = [random.standard_normal((2, 60 + 7 * i, 6)).astype(np.float16) for i in range(clips)]

    def __len__(self):
        return len(self.clips)

    def length(self, layer, item):
        return self.clips[item].shape[1]

    def read(self, layer, item, first, count):
        return self.clips[item][layer, first : first + count]


def _set(clips, seed):
    features = _Memory(clips, seed)

    def truth(layer, item):
        x = features.clips[item][0].astype(np.float32)
        made = np.stack([x[:, 0] + x[:, 1] > 1, x[:, 2] > 1], axis=1).astype(np.float32)
        if item == 1:
            made[:, 1] = np.nan
        return made

    return framewise.Frameset(features, truth)


PARTS = (MomentPart("a"), MomentPart("b"))
PROTOCOL = replace(MARBLE, hidden=16, batch_size=3, learning_rates=(1e-3, 3e-2))


def _recipe(epochs=4, dropout=0.0, crop_s=0.8):
    protocol = replace(PROTOCOL, dropout=dropout)
    return framewise.Recipe(protocol, Schedule(epochs, 2, 20), PARTS, crop_s, summable=(0, 1), stops_by=("a",))


def _grid(seeds=2):
    places = (0, 1, None)
    return [Probe(p, rate, 0.0, s) for p in places for rate in PROTOCOL.learning_rates for s in range(seeds)]


def test_a_probe_in_the_grid_is_the_same_probe_alone_dropout_and_crops_included(monkeypatch):
    train, valid, recipe = _set(5, 0), _set(3, 1), _recipe(dropout=0.2)
    every = framewise.fit(_grid(), train, valid, recipe)
    monkeypatch.setattr(framewise, "CHUNK_BYTES", 1)  # as small as chunks get
    for one in (every[0], every[3], every[7], every[-1]):
        (alone,) = framewise.fit([one.probe], train, valid, recipe)
        assert alone.history == pytest.approx(one.history, rel=1e-4)
        for name, value in one.state.items():
            assert torch.allclose(alone.state[name], value, atol=1e-4)


def test_a_probe_is_a_plain_torch_loop():
    train, valid, recipe = _set(5, 0), _set(3, 1), _recipe(epochs=5, crop_s=100.0)  # whole clips
    probe = Probe(0, 3e-2, 0.0, 1)
    (fitted,) = framewise.fit([probe], train, valid, recipe)

    from marble_bench.probes.heads import mlp

    start = mlp.init(6, 16, 2, torch.Generator().manual_seed(3 * 1 + 2))
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    with torch.no_grad():
        for linear, weight in ((model[0], "first"), (model[2], "last")):
            linear.weight.copy_(start[weight].T)
            linear.bias.copy_(start[f"{weight}_bias"][0])
    adam = torch.optim.Adam(model.parameters(), lr=3e-2)

    def loss(split, clips, outputs=(0, 1)):
        x = torch.cat([torch.from_numpy(split.features.clips[c][0]).float() for c in clips])
        y = torch.cat([torch.from_numpy(split.truth(0, c)) for c in clips])
        there = y.isfinite()
        out = model(x)
        criterion = torch.nn.functional.binary_cross_entropy_with_logits
        return sum(criterion(out[there[:, k], k], y[there[:, k], k]) for k in outputs)

    order = torch.Generator().manual_seed(3)
    history = []
    for _ in range(5):
        clips = []
        for clip in torch.randperm(5, generator=order).tolist():
            torch.randint(1, (), generator=order)  # where the crop would begin
            clips.append(clip)
        for batch in (clips[:3], clips[3:]):
            adam.zero_grad()
            loss(train, batch).backward()
            adam.step()
        with torch.no_grad():
            history.append(-float(loss(valid, range(3), outputs=(0,))))
    assert list(fitted.history) == pytest.approx(history, rel=1e-4)
    best = int(np.argmax(history))
    assert fitted.best_epoch == best


def test_activations_are_those_of_the_best_weights_clip_by_clip():
    train, valid, recipe = _set(5, 0), _set(3, 1), _recipe()
    fitted = framewise.fit([Probe(1, 3e-2, 0.0, 0), Probe(1, 1e-3, 0.0, 0)], train, valid, recipe)
    for clip, outputs in framewise.compute_activations(fitted, valid, recipe):
        x = torch.from_numpy(valid.features.clips[clip][1]).float()
        assert outputs.shape == (2, len(x), 2)
        for one, mine in zip(fitted, outputs, strict=True):
            middle = (x @ one.state["first"] + one.state["first_bias"]).relu()
            expected = (middle @ one.state["last"] + one.state["last_bias"]).sigmoid()
            assert np.abs(mine - expected.numpy()).max() < 1e-5


def test_a_probe_that_diverges_touches_no_other():
    train, valid, recipe = _set(5, 0), _set(3, 1), _recipe()
    calm = [Probe(0, 1e-3, 0.0, 0)]
    (alone,) = framewise.fit(calm, train, valid, recipe)
    wild, same = framewise.fit([Probe(0, float("inf"), 0.0, 0), *calm], train, valid, recipe)
    assert wild.diverged
    assert np.isnan(wild.valid)
    assert same.history == pytest.approx(alone.history, rel=1e-5)

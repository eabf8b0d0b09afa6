"""All layers and rates of a seed in one pass: the numbers of one probe at a time in plain torch, each layer read once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from marble_bench.probes import framewise, probe_cache
from marble_bench.probes.heads import mlp
from marble_bench.probes.trainer import Probe

from marble_bench.core.task import Schedule
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.scoring.frame_targets import ClassPart, TagPart

PARTS = (ClassPart("class", ("a", "b", "c")), TagPart("tags", ("x", "y")))
HIDDEN, WIDTH, OUTPUTS, DROPOUT, BATCH, CROP = 16, 8, 5, 0.2, 4, 40
RATES = (1e-3, 1e-2, 0.2)
PROTOCOL = replace(MARBLE, hidden=HIDDEN, batch_size=BATCH, dropout=DROPOUT, learning_rates=RATES)
SCHEDULE = Schedule(max_epochs=14, lr_patience=1, stop_patience=4)


class _Memory:
    """Frames in memory; the last layer has half the rate. read_frames: by layer, how many were read."""

    rates = (20.0, 20.0, 20.0, 10.0)
    widths = (WIDTH,) * 4

    def __init__(self, clips, seed):
        random = np.random.default_rng(seed)
        self.clips = [random.standard_normal((3, 30 + 11 * each, WIDTH)).astype(np.float16) for each in range(clips)]
        self.read_frames = Counter()

    def __len__(self):
        return len(self.clips)

    def length(self, layer, item):
        return self.clips[item].shape[1] // (1 + (layer == 3))

    def read(self, layer, item, first, count):
        self.read_frames[layer] += count
        return (
            self.clips[item][layer, first : first + count] if layer < 3 else self.clips[item][0, first : first + count]
        )


def _set(clips, seed):
    features = _Memory(clips, seed)

    def truth(layer, item):
        """The class and the tags are in all layers; every fifth frame has no class."""
        x = features.clips[item].astype(np.float32).sum(axis=0)[: features.length(layer, item)]
        made = np.stack([x[:, :3].argmax(axis=1), x[:, 3] > 1, x[:, 4] > 0], axis=1).astype(np.float32)
        made[::5, 0] = np.nan
        return made

    return framewise.Frameset(features, truth)


def _recipe(**more):
    return framewise.Recipe(PROTOCOL, SCHEDULE, PARTS, CROP / 20, summable=(0, 1, 2), **more)


def _grid(places=(0, 1, 2, None), seeds=2):
    return [Probe(place, rate, 0.0, seed) for place in places for rate in RATES for seed in range(seeds)]


class _Plain(torch.nn.Module):
    """One probe as torch.nn writes it."""

    def __init__(self, probe):
        super().__init__()
        generator = torch.Generator().manual_seed(3 * probe.seed + 2)
        start = mlp.init(WIDTH, HIDDEN, OUTPUTS, generator)
        self.first, self.last = torch.nn.Linear(WIDTH, HIDDEN), torch.nn.Linear(HIDDEN, OUTPUTS)
        with torch.no_grad():
            for linear, name in ((self.first, "first"), (self.last, "last")):
                linear.weight.copy_(start[name].T)
                linear.bias.copy_(start[f"{name}_bias"][0])
        self.layers = [0, 1, 2] if probe.layer is None else [probe.layer]
        self.mix = torch.nn.Parameter(torch.randn(3, generator=generator)) if probe.layer is None else None

    def forward(self, x, kept=None):
        """x: `(layers, frames, width)`."""
        mixed = x[0] if self.mix is None else torch.einsum("l,lfw->fw", self.mix.softmax(0), x)
        hidden = self.first(mixed).relu()
        return self.last(hidden if kept is None else hidden * kept / (1 - DROPOUT))


def _loss(outputs, truth):
    there = truth[:, 0].isfinite()
    one = torch.nn.functional.cross_entropy(outputs[there, :3], truth[there, 0].long())
    return one + torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, 3:], truth[:, 1:])


def _train_alone(probe, train, valid):
    """History, epochs and weights of the best one, of one probe in a plain loop with torch's own parts."""
    model = _Plain(probe)
    adam = torch.optim.Adam(model.parameters(), lr=probe.learning_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, mode="max", factor=PROTOCOL.plateau_factor, patience=SCHEDULE.lr_patience
    )
    order, noise = (torch.Generator().manual_seed(3 * probe.seed + each) for each in (0, 1))
    history, best = [], {}

    def take(split, batch):
        x = [torch.from_numpy(split.features.clips[clip][model.layers, at : at + n]).float() for clip, at, n in batch]
        return torch.cat(x, dim=1), torch.cat([torch.from_numpy(split.truth(0, c)[at : at + n]) for c, at, n in batch])

    while len(history) < SCHEDULE.max_epochs and len(history) - 1 - np.argmax(history or [0]) < SCHEDULE.stop_patience:
        crops = []
        for clip in torch.randperm(len(train.features), generator=order).tolist():
            length = train.features.length(0, clip)
            crops.append((clip, int(torch.randint(max(length - CROP, 0) + 1, (), generator=order)), min(CROP, length)))
        for start in range(0, len(crops), BATCH):
            x, truth = take(train, crops[start : start + BATCH])
            adam.zero_grad()
            _loss(model(x, torch.rand(x.shape[1], HIDDEN, generator=noise) >= DROPOUT), truth).backward()
            adam.step()
        x, truth = take(valid, [(clip, 0, valid.features.length(0, clip)) for clip in range(len(valid.features))])
        with torch.no_grad():
            history.append(-float(_loss(model(x), truth)))
        plateau.step(history[-1])
        if history[-1] == max(history):
            best = {name: value.clone() for name, value in model.state_dict().items()}
    return history, best


def test_every_probe_of_a_grid_is_one_trained_alone_in_plain_torch():
    train, valid = _set(9, 0), _set(4, 1)
    fitted = framewise.fit(_grid(), train, valid, _recipe())
    compared = [
        one for at, one in enumerate(fitted) if at % 4 in (0, 3)
    ]  # every layer and rate, of one seed or the other
    for one in compared:
        history, best = _train_alone(one.probe, train, valid)
        assert one.history == pytest.approx(history, rel=1e-5)  # as many epochs: the early stop is the same
        assert one.best_epoch == int(np.argmax(history))
        for name, value in best.items():
            linear, _, kind = name.partition(".")
            mine = one.state[linear + ("_bias" if kind == "bias" else "")]
            mine = mine if kind == "" else mine.squeeze(0) if kind == "bias" else mine.T
            torch.testing.assert_close(mine, value, rtol=1e-4, atol=1e-4)
    assert 2 < sum(len(one.history) < SCHEDULE.max_epochs for one in compared) < len(compared)


def test_what_trains_together_moves_no_bit(monkeypatch):
    train, valid, probes = _set(9, 0), _set(4, 1), _grid((0, 1, 2, 3, None))
    together = framewise.fit(probes, train, valid, _recipe())
    blocks = framewise.make_blocks(probes, train, valid, _recipe(), "cpu")
    assert [Counter(probe.layer for probe in each) for each in blocks] == [
        {0: 3, 1: 3, 2: 3, None: 3},
        {0: 3, 1: 3, 2: 3, None: 3},
        {3: 3},  # which has another rate
        {3: 3},
    ]
    monkeypatch.setattr(framewise, "BLOCK_BYTES", 1)
    monkeypatch.setattr(framewise, "PIECE_BYTES", 1)
    apart = framewise.fit(probes, train, valid, _recipe())
    assert len(framewise.make_blocks(probes, train, valid, _recipe(), "cpu")) == 10
    for one, other in zip(together, apart, strict=True):
        assert (one.probe, one.history, one.best_epoch) == (other.probe, other.history, other.best_epoch)
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())


def test_each_layer_is_read_once_for_all_its_probes_and_not_when_all_have_stopped():
    train, valid = _set(9, 0), _set(4, 1)
    fitted = framewise.fit(_grid(seeds=1), train, valid, _recipe())
    epochs = {layer: max(len(one.history) for one in fitted if one.probe.layer in (layer, None)) for layer in range(3)}
    crops = sum(min(CROP, train.features.length(0, clip)) for clip in range(9))
    whole = sum(valid.features.length(0, clip) for clip in range(4))
    assert train.features.read_frames == {layer: crops * many for layer, many in epochs.items()}
    assert valid.features.read_frames == {layer: whole * many for layer, many in epochs.items()}

    train, valid = _set(9, 0), _set(4, 1)
    diverging, other = Probe(0, float("inf"), 0.0, 0), Probe(1, 1e-3, 0.0, 0)
    diverged, longer = framewise.fit([diverging, other], train, valid, _recipe())
    assert (diverged.diverged, len(longer.history)) == (True, SCHEDULE.max_epochs)
    assert train.features.read_frames == {0: crops, 1: crops * SCHEDULE.max_epochs}


def test_weights_that_are_kept_are_mapped_from_their_file_unless_another_has_taken_its_place(tmp_path):
    train, valid, cache = _set(5, 0), _set(3, 1), probe_cache.ProbeCacheFolder(tmp_path, "key")
    plain = framewise.fit(_grid(seeds=1), train, valid, _recipe())
    mapped = framewise.fit(_grid(seeds=1), train, valid, _recipe(), probe_cache=cache)
    for one, other in zip(plain, mapped, strict=True):
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    cache._path(_grid((0,), seeds=1)).unlink()  # a group is kept by itself
    before = train.features.read_frames.total()
    again = framewise.fit(_grid(seeds=1), train, valid, _recipe(), probe_cache=cache)
    assert 0 < train.features.read_frames.total() - before <= before / 2
    for one, other in zip(plain, again, strict=True):
        assert one.history == other.history
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    cache.clear()
    assert mapped[0].state["first"].abs().sum() > 0  # it stays mapped

    assert cache.map_kept(plain)[0] is plain[0]  # no file
    cache.put(plain)
    assert cache.map_kept(plain)[0].state["first"].data_ptr() != plain[0].state["first"].data_ptr()
    cache.put([replace(one, state={name: value + 1 for name, value in one.state.items()}) for one in plain])
    assert cache.map_kept(plain)[0] is plain[0]

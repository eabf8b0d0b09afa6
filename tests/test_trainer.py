"""The batched grid against a plain torch loop, and what selection may and may not see."""

import math

import pytest
import torch
from marble_bench.probes import trainer
from sklearn.metrics import accuracy_score

from marble_bench.metrics import accuracy, r2
from marble_bench.plugins import find_head
from marble_bench.protocol import LINEAR, MARBLE
from marble_bench.task import Schedule


def _data(windows_per_clip: int = 1, seed: int = 0, widths=(12, 12, 20), classes: int = 3):
    """Three layers, the second of which tells the class; splits of 70, 30 and 30 clips."""
    generator = torch.Generator().manual_seed(seed)
    splits = []
    for clips in (70, 30, 30):
        truth = torch.randint(0, classes, (clips,), generator=generator)
        clip = torch.arange(clips).repeat_interleave(windows_per_clip)
        layers = [torch.randn(len(clip), width, generator=generator) for width in widths]
        layers[1][:, :classes] += 1.5 * torch.nn.functional.one_hot(truth[clip], classes)
        splits.append(trainer.Split(layers, clip, truth))
    return splits


SHORT = Schedule(max_epochs=12, lr_patience=2, stop_patience=5)


def _recipe(protocol=MARBLE, schedule=SHORT, **changes):
    facts = {"outputs": 3, "loss": "cross_entropy", "score": accuracy.compute, "summable": (0, 1)}
    return trainer.Recipe(protocol=protocol, schedule=schedule, **{**facts, **changes})


class _Plain(torch.nn.Module):
    """MARBLE's probe as torch.nn writes it, started from the same numbers as the grid's."""

    def __init__(self, probe, recipe, width):
        super().__init__()
        self.probe, self.recipe = probe, recipe
        self.order, self.dropout, init = (torch.Generator().manual_seed(3 * probe.seed + part) for part in range(3))
        start = find_head(recipe.protocol.head).init(width, recipe.protocol.hidden, recipe.outputs, init)
        values = list(start.values())
        self.linears = torch.nn.ModuleList()
        for weight, bias in zip(values[::2], values[1::2], strict=True):
            linear = torch.nn.Linear(*weight.shape)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias[0].clone()
            self.linears.append(linear)
        self.mix = (
            torch.nn.Parameter(torch.randn(len(recipe.summable), generator=init)) if probe.layer is None else None
        )

    def forward(self, split, rows):
        if self.mix is None:
            x = split.layers[self.probe.layer][rows]
        else:
            weights = self.mix.softmax(0)
            x = sum(w * split.layers[index][rows] for w, index in zip(weights, self.recipe.summable, strict=True))
        x = self.linears[0](x)
        if len(self.linears) == 1:
            return x
        rate = self.recipe.protocol.dropout
        mask = (torch.rand(x.shape, generator=self.dropout) >= rate) / (1 - rate) if self.training else 1
        return self.linears[1](x.relu() * mask)


def _plain_loop(probe, train, valid, recipe):
    """The validation score after each epoch of one probe trained with torch.nn, torch.optim and torch's scheduler."""
    schedule = recipe.schedule
    model = _Plain(probe, recipe, train.layers[probe.layer or 0].shape[1])
    optimizer = torch.optim.Adam(model.parameters(), probe.learning_rate, weight_decay=probe.weight_decay)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=recipe.protocol.plateau_factor, patience=schedule.lr_patience
    )
    loss_of = torch.nn.CrossEntropyLoss() if recipe.loss == "cross_entropy" else torch.nn.MSELoss()
    history: list[float] = []
    while len(history) < schedule.max_epochs:
        model.train()
        for rows in torch.randperm(len(train.clip), generator=model.order).split(recipe.protocol.batch_size):
            loss = loss_of(model(train, rows), train.truth[train.clip[rows]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs = model(valid, torch.arange(len(valid.clip)))
        clips = torch.stack([outputs[valid.clip == index].mean(dim=0) for index in range(valid.clips)])
        history.append(float(recipe.score(clips[None], valid.truth)))
        scheduler.step(history[-1])
        if len(history) - 1 - history.index(max(history)) >= schedule.stop_patience:
            break
    return history


@pytest.mark.parametrize("protocol", [MARBLE, LINEAR], ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("windows_per_clip", [1, 3])
def test_a_probe_in_the_grid_is_the_plain_torch_loop(protocol, windows_per_clip):
    train, valid, _ = _data(windows_per_clip)
    recipe = _recipe(protocol)
    fitted = trainer.fit(trainer.grid(protocol, (0, 1, 2), True, 2), train, valid, recipe)
    for one in [*fitted[::5], fitted[-2]]:
        history = _plain_loop(one.probe, train, valid, recipe)
        # accuracy moves in steps of 1/30: equal histories mean equal decisions, epoch for epoch
        assert one.history == pytest.approx(history, abs=1e-9), one.probe


def test_regression_follows_the_plain_torch_loop_too():
    train, valid, _ = _data()
    generator = torch.Generator().manual_seed(5)
    mix = torch.randn(12, 2, generator=generator)
    train, valid = (trainer.Split(s.layers, s.clip, s.layers[0] @ mix + 0.1) for s in (train, valid))
    recipe = _recipe(schedule=Schedule(8, 1, 8), outputs=2, loss="squared_error", score=r2.compute)
    probe = trainer.Probe(0, 1e-3, 0.0, 1)
    (fitted,) = trainer.fit([probe], train, valid, recipe)
    history = _plain_loop(probe, train, valid, recipe)
    assert fitted.history == pytest.approx(history, abs=1e-4)
    assert history[-1] > history[0]


def test_a_probe_alone_scores_as_in_the_grid():
    train, valid, test = _data(2)
    recipe = _recipe()
    probes = trainer.grid(MARBLE, (0, 1), True, 2)
    together = trainer.fit(probes, train, valid, recipe)
    for index in (0, 7, 13, len(probes) - 1):
        (alone,) = trainer.fit([probes[index]], train, valid, recipe)
        assert alone.history == together[index].history
        apart = trainer.predict(alone, test, recipe) - trainer.predict(together[index], test, recipe)
        assert apart.abs().max() < 1e-5


def test_the_informative_layer_wins_and_its_outputs_score_as_sklearn_says():
    train, valid, test = _data()
    recipe = _recipe(schedule=Schedule(30, 3, 10))
    fitted = trainer.fit(trainer.grid(MARBLE, (0, 1, 2), False, 1), train, valid, recipe)
    best = max(fitted, key=lambda one: one.valid)
    assert best.probe.layer == 1
    outputs = trainer.predict(best, test, recipe)
    score = float(accuracy.compute(outputs[None], test.truth))
    assert score == accuracy_score(test.truth.numpy(), outputs.argmax(dim=1).numpy())
    assert score > 0.6


def test_best_weights_are_those_of_the_best_epoch():
    train, valid, _ = _data()
    recipe = _recipe()
    for one in trainer.fit(trainer.grid(MARBLE, (0, 1), True, 1), train, valid, recipe):
        again = float(accuracy.compute(trainer.predict(one, valid, recipe)[None], valid.truth))
        assert again == one.valid == max(one.history) == one.history[one.best_epoch]


def test_a_diverging_probe_is_marked_and_touches_no_neighbour():
    train, valid, _ = _data()
    recipe = _recipe()
    sound = trainer.Probe(1, 1e-3, 0.0, 0)
    wild = trainer.Probe(1, 1e38, 0.0, 0)
    (alone,) = trainer.fit([sound], train, valid, recipe)
    beside, diverged = trainer.fit([sound, wild], train, valid, recipe)
    assert diverged.diverged
    assert math.isnan(diverged.valid)
    assert not beside.diverged
    assert beside.history == alone.history


def test_blocks_split_by_memory_change_nothing(monkeypatch):
    train, valid, _ = _data()
    recipe = _recipe()
    probes = trainer.grid(MARBLE, (0, 1, 2), True, 2)
    whole = trainer.fit(probes, train, valid, recipe)
    monkeypatch.setattr(trainer, "BLOCK_BYTES", 5 * 4 * 512 * 16 * 4)
    parts = trainer.fit(probes, train, valid, recipe)
    assert [one.history for one in parts] == [one.history for one in whole]


def test_standardized_features_have_mean_zero_and_spread_one_by_training_windows_only():
    train, valid, test = _data()
    train.layers[0][:, 3] = 7.0
    scaled, other, _ = trainer.standardized(train, valid, test)
    assert scaled.layers[0].mean(dim=0).abs().max() < 1e-6
    assert (scaled.layers[1].std(dim=0, correction=0) - 1).abs().max() < 1e-5
    assert torch.equal(scaled.layers[0][:, 3], torch.zeros(70))
    expected = (valid.layers[2] - train.layers[2].mean(dim=0)) / train.layers[2].std(dim=0, correction=0)
    assert (other.layers[2] - expected).abs().max() < 1e-5

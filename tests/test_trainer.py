"""The batched grid against a plain torch loop, and what selection may and may not see."""

import math
from dataclasses import replace

import pytest
import torch
from marble_bench.probes import kernels, memory, rng, trainer
from marble_bench.probes.block import Block, count_threads, group_of, make_blocks
from marble_bench.probes.inputs import Features
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler

from marble_bench.core.plugins import find_head
from marble_bench.core.task import Schedule
from marble_bench.metrics import accuracy, r2, roc_auc
from marble_bench.protocols.jukemir import PROTOCOL as JUKEMIR
from marble_bench.protocols.marble import PROTOCOL as MARBLE

HAS_LINEAR, HAS_ADAM = kernels.has_linear.__wrapped__, kernels.has_adam.__wrapped__  # not what was found before


@pytest.fixture(autouse=True, params=["private", pytest.param("public", marks=pytest.mark.slow)])
def operators(request, monkeypatch):
    """Every test here runs on torch's private operators and on the public ones that stand in for them."""
    if request.param == "public":
        for name in ("has_linear", "has_adam"):
            monkeypatch.setattr(kernels, name, lambda: False)


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
    """A probe as MARBLE and JukeMIR write it with torch.nn, started from the same numbers as the grid's."""

    def __init__(self, probe, recipe, train):
        super().__init__()
        self.probe, self.recipe = probe, recipe
        self.form = trainer.Form.of(probe, recipe.protocol)
        self.order, self.dropout, init = (torch.Generator().manual_seed(3 * probe.seed + part) for part in range(3))
        self.layers = recipe.summable if probe.layer is None else (probe.layer,)
        head = find_head("mlp" if self.form.hidden else "linear")
        start = head.init(train.layers[self.layers[0]].shape[1], self.form.hidden, recipe.outputs, init)
        values = list(start.values())
        self.linears = torch.nn.ModuleList()
        for weight, bias in zip(values[::2], values[1::2], strict=True):
            linear = torch.nn.Linear(*weight.shape)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias[0].clone()
            self.linears.append(linear)
        self.mix = torch.nn.Parameter(torch.randn(len(self.layers), generator=init)) if probe.layer is None else None
        self.scalers = [StandardScaler().fit(train.layers[layer].numpy()) for layer in self.layers]

    def _dropped(self, x, *shape):
        if not self.training or not self.form.dropout:
            return x
        mask = (torch.rand(*shape, generator=self.dropout) >= self.form.dropout) / (1 - self.form.dropout)
        return x * mask

    def forward(self, split, rows):
        read = [split.layers[layer][rows] for layer in self.layers]
        if self.form.standardize:
            read = [torch.from_numpy(s.transform(x.numpy())) for s, x in zip(self.scalers, read, strict=True)]
        x = torch.stack(read)
        if self.recipe.protocol.input_dropout:
            x = self._dropped(x, *x.shape[1:])
        x = x[0] if self.mix is None else torch.einsum("l,lbw->bw", self.mix.softmax(0), x)
        x = self.linears[0](x)
        if len(self.linears) == 1:
            return x
        return self.linears[1](self._dropped(x.relu(), *x.shape))


LOSSES = {
    "cross_entropy": torch.nn.CrossEntropyLoss(),
    "binary_cross_entropy": torch.nn.BCEWithLogitsLoss(),
    "squared_error": torch.nn.MSELoss(),
}


def _plain_loop(probe, train, valid, recipe):
    """The validation score of each round, and the best weights' outputs for the valid windows, of one probe trained with
    torch.nn, torch.optim.Adam and, where the protocol has plateaus, torch's scheduler."""
    protocol, rules = recipe.protocol, recipe.rules
    model = _Plain(probe, recipe, train)
    optimizer = torch.optim.Adam(model.parameters(), probe.learning_rate, weight_decay=probe.weight_decay)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=protocol.plateau_factor, patience=rules.lr_patience or 0
    )
    history, best = [], None
    windows, size = len(train.clip), model.form.batch_size
    while rules.max_rounds is None or len(history) < rules.max_rounds:
        model.train()
        batches = torch.randperm(windows, generator=model.order).split(size) if not protocol.validate_steps else ()
        if protocol.validate_steps and history:
            batches = [rng.sample(windows, size, model.order) for _ in range(protocol.validate_steps)]
        for rows in batches:
            loss = LOSSES[recipe.loss](model(train, rows), train.truth[train.clip[rows]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs = model(valid, torch.arange(len(valid.clip)))
        clips = torch.stack([outputs[valid.clip == index].mean(dim=0) for index in range(valid.clips)])
        history.append(float(recipe.score(clips[None], valid.truth)))
        if history[-1] == max(history) and history.count(history[-1]) == 1:
            best = outputs
        if rules.lr_patience is not None:
            scheduler.step(history[-1])
        if len(history) - 1 - history.index(max(history)) >= rules.stop_patience:
            break
    return history, best


def _task(loss, windows_per_clip):
    """Splits and what a recipe says of them, for each kind of target."""
    train, valid, _ = _data(windows_per_clip)
    if loss == "cross_entropy":
        return train, valid, {}
    mix = torch.randn(12, 2, generator=torch.Generator().manual_seed(5))
    found = []
    for split in (train, valid):
        of_clip = torch.stack([split.layers[0][split.clip == clip].mean(dim=0) for clip in range(split.clips)])
        truth = of_clip @ mix + 0.1
        found.append(trainer.Split(split.layers, split.clip, truth if loss == "squared_error" else (truth > 0).float()))
    score = r2 if loss == "squared_error" else roc_auc
    return *found, {"outputs": 2, "loss": loss, "score": score.compute}


# what differs between the batched and the plain computation is the order of float32 sums; many Adam steps amplify it
TOLERANCE = 2e-3
QUICK_JUKEMIR = replace(
    JUKEMIR, hiddens=(0, 32), batch_sizes=(16, 64), learning_rates=(1e-4, 1e-2), stop_evaluations=5, max_evaluations=9
)
TRAINED_LINEAR = replace(
    MARBLE,
    head="linear",
    hidden=0,
    dropout=0.0,
    standardize=True,
    weight_decays=(0.0, 1e-2),
    learning_rates=(1e-3, 1e-2),
)


@pytest.mark.slow
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize(
    ("protocol", "windows_per_clip", "every"),
    [(MARBLE, 1, 7), (MARBLE, 3, 11), (TRAINED_LINEAR, 3, 5), (QUICK_JUKEMIR, 1, 31)],
    ids=["marble", "marble-windows", "linear-adam", "jukemir"],
)
def test_a_probe_in_the_grid_is_the_plain_torch_loop(protocol, windows_per_clip, every, loss):
    train, valid, facts = _task(loss, windows_per_clip)
    recipe = _recipe(protocol, **facts)
    fitted = trainer.fit(trainer.build_grid(protocol, (0, 2), protocol.layer_sum, 2), train, valid, recipe)
    for one in fitted[::every]:
        history, outputs = _plain_loop(one.probe, train, valid, recipe)
        # accuracy moves in steps of 1/30: equal histories mean equal decisions, round for round
        allowed = 1e-9 if loss == "cross_entropy" else TOLERANCE
        assert one.history == pytest.approx(history, abs=allowed), one.probe
        assert one.best_epoch == history.index(max(history))
        ours = trainer.predict_windows(one, valid, recipe)
        assert (ours - outputs).abs().max() < TOLERANCE * outputs.abs().max(), one.probe


@pytest.mark.slow
def test_a_probe_alone_scores_as_in_the_grid():
    train, valid, test = _data(2)
    recipe = _recipe()
    probes = trainer.build_grid(MARBLE, (0, 1), True, 2)
    together = trainer.fit(probes, train, valid, recipe)
    for index in (0, 7, 13, len(probes) - 1):
        (alone,) = trainer.fit([probes[index]], train, valid, recipe)
        assert alone.history == together[index].history
        apart = trainer.predict(alone, test, recipe) - trainer.predict(together[index], test, recipe)
        assert apart.abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [MARBLE, QUICK_JUKEMIR], ids=lambda protocol: protocol.name)
def test_a_block_of_several_layers_and_seeds_gives_what_small_blocks_give(protocol):
    """As on a GPU, where one block holds all that fits."""
    train, valid, _ = _data(2)
    recipe = _recipe(protocol)
    size = protocol.batch_sizes[:1] or (None,)
    wanted = [p for p in trainer.build_grid(protocol, (0, 1), False, 2) if p.batch_size in size and p.hidden != 0]
    apart = {one.probe: one for one in trainer.fit(wanted, train, valid, recipe)}
    together = Block(
        sorted(wanted, key=lambda p: group_of(p, recipe)), Features(train, valid, (0, 1), "cpu"), recipe, "cpu"
    )
    while together.alive:
        together.run_round(lambda: False)
    for one in together.results():
        assert one.history == apart[one.probe].history
        for name, value in one.state.items():
            assert (value - apart[one.probe].state[name]).abs().max() < TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("protocol", [MARBLE, QUICK_JUKEMIR], ids=lambda protocol: protocol.name)
def test_a_gpu_gives_what_the_cpu_gives(protocol):
    train, valid, _ = _data(2)
    recipe = _recipe(protocol)
    probes = trainer.build_grid(protocol, (0, 1, 2), protocol.layer_sum, 2)
    here = trainer.fit(probes, train, valid, recipe)
    there = trainer.fit(probes, train, valid, recipe, "cuda")
    for one, other in zip(here, there, strict=True):
        assert other.valid == pytest.approx(one.valid, abs=0.05)  # one or two of 30 clips may turn
        if other.best_epoch == one.best_epoch:
            apart = trainer.predict(other, valid, recipe, "cuda") - trainer.predict(one, valid, recipe)
            assert apart.abs().max() < 0.05


def test_the_informative_layer_wins_and_its_outputs_score_as_sklearn_says():
    train, valid, test = _data()
    recipe = _recipe(schedule=Schedule(30, 3, 10))
    fitted = trainer.fit(trainer.build_grid(MARBLE, (0, 1, 2), False, 1), train, valid, recipe)
    best = max(fitted, key=lambda one: one.valid)
    assert best.probe.layer == 1
    outputs = trainer.predict(best, test, recipe)
    score = float(accuracy.compute(outputs[None], test.truth))
    assert score == accuracy_score(test.truth.numpy(), outputs.argmax(dim=1).numpy())
    assert score > 0.6


def test_best_weights_are_those_of_the_best_epoch():
    train, valid, _ = _data()
    recipe = _recipe()
    for one in trainer.fit(trainer.build_grid(MARBLE, (0, 1), True, 1), train, valid, recipe):
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


@pytest.mark.slow
def test_blocks_split_by_memory_change_nothing(monkeypatch):
    train, valid, _ = _data()
    recipe = _recipe()
    probes = trainer.build_grid(MARBLE, (0, 1, 2), True, 2)
    whole = trainer.fit(probes, train, valid, recipe)
    count = len(make_blocks(probes, train, valid, recipe))
    for size in (1, 4 * 4 * 512 * 16 * 4):
        monkeypatch.setattr(memory, "CACHE_BYTES", size * count_threads("cpu"))
        assert len(make_blocks(probes, train, valid, recipe)) > count
        parts = trainer.fit(probes, train, valid, recipe)
        assert [one.history for one in parts] == [one.history for one in whole]


def test_scaling_is_by_the_training_windows_alone_and_a_constant_feature_is_only_centred():
    train, valid, _ = _data()
    train.layers[0][:, 3] = 7.0
    features = Features(train, valid, (0, 2), "cpu")
    scaled = features.take(0, torch.arange(70), True)
    assert scaled.mean(dim=0).abs().max() < 1e-6
    assert torch.equal(scaled[:, 3], torch.zeros(70))
    expected = StandardScaler().fit(train.layers[2].numpy()).transform(valid.layers[2].numpy())
    assert (features.chunk(2, 0, 30, True) - torch.from_numpy(expected)).abs().max() < 1e-5


def test_a_private_operator_that_is_gone_or_gives_other_numbers_is_not_used(monkeypatch):
    for has in (HAS_LINEAR, HAS_ADAM):
        assert has()
        with monkeypatch.context() as patch:
            patch.setenv("BENCH_PUBLIC_TORCH", "1")
            assert not has()

    def gone(*_, **__):
        raise TypeError("other arguments")

    for operator, has in (("_multiply_linear", HAS_LINEAR), ("_step_adam", HAS_ADAM)):
        for stand_in in (gone, lambda left, *_: torch.zeros(2, 4)):
            monkeypatch.setattr(kernels, operator, stand_in)
            assert not has()


def test_the_public_adam_gives_the_bits_of_the_private_one():
    found = []
    for step in (kernels._step_adam, kernels._step_public_adam):
        random = torch.Generator().manual_seed(0)
        lists = [[torch.rand(7, 5, generator=random) for _ in range(3)] for _ in range(4)]
        for count in (1.0, 2.0):
            step(*lists, torch.tensor(count), 1e-2, 1e-3)
        found.append(torch.stack([torch.stack(each) for each in lists]))
    assert torch.equal(*found)

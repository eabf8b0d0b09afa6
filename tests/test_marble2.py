"""The protocol `marble2`: what is kept, validated and averaged; the concatenation of layers; its table of tasks."""

from dataclasses import asdict, replace
from itertools import count

import pytest
import torch
from marble_bench.probes import block, grid, network, rng, trainer
from marble_bench.probes.heads import mlp
from sklearn.metrics import accuracy_score, r2_score

from marble_bench import Schedule, TaskRules, Window
from marble_bench.core import keys, plugins
from marble_bench.errors import UsageError
from marble_bench.metrics import accuracy, r2
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.protocols.marble2 import PROTOCOL as MARBLE2
from marble_bench.protocols.marble2_shipped import PROTOCOL as SHIPPED
from marble_bench.scoring.scores import aggregate_windows

WIDTHS = (6, 4, 5)
SMALL = replace(MARBLE2, hidden=16, learning_rates=(1e-3,), seeds=1)


def _splits(windows_per_clip=3, classes=3):
    """Three layers of unlike widths that tell the class together; 40 and 21 clips."""
    generator = torch.Generator().manual_seed(1)
    splits = []
    for clips in (40, 21):
        truth = torch.randint(0, classes, (clips,), generator=generator)
        clip = torch.arange(clips).repeat_interleave(windows_per_clip)
        layers = [torch.randn(len(clip), width, generator=generator) for width in WIDTHS]
        for layer in layers:
            layer[:, :classes] += 0.7 * torch.nn.functional.one_hot(truth[clip], classes)
        splits.append(trainer.Split(layers, clip, truth))
    return splits


def _recipe(protocol=SMALL, epochs=12, **more):
    facts = {"outputs": 3, "loss": "cross_entropy", "score": accuracy.compute, "every": (0, 1, 2)}
    schedule = Schedule(max_epochs=epochs, lr_patience=2, stop_patience=20)
    return trainer.Recipe(protocol=protocol, schedule=schedule, **{**facts, **more})


def _probe(layer=0, rate=1e-3, seed=0):
    return grid.Probe(layer, rate, 0.0, seed)


def _fit(recipe, probe, splits):
    (found,) = trainer.fit([probe], *splits, recipe)
    return found


# What is kept.


def _follow(curve):
    """A score that goes along a curve, whatever is answered."""
    rounds = count()
    return lambda outputs, truth: torch.full((len(outputs),), float(curve[next(rounds)]))


PEAK = [0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]


@pytest.mark.parametrize(("protocol", "kept", "valid"), [(SMALL, 2, 0.9), (replace(SMALL, kept="last"), 11, 0.0)])
def test_the_weights_of_the_best_epoch_are_kept_and_by_the_shipped_rules_those_of_the_last(protocol, kept, valid):
    splits = _splits()
    found = _fit(_recipe(protocol, score=_follow(PEAK)), _probe(), splits)
    until = range(kept + 1)  # as many epochs, with the same drops of the rate: its last is its best
    rates = replace(_recipe(replace(SMALL, kept="last"), kept + 1), score=_follow([PEAK[each] for each in until]))
    alone = _fit(rates, _probe(), splits)
    assert (found.best_epoch, found.valid) == (kept, pytest.approx(valid))
    assert len(found.history) == 12
    assert all(torch.equal(found.state[name], alone.state[name]) for name in alone.state)


def test_the_shipped_protocol_keeps_the_last_epoch_and_is_never_ranked_with_the_other():
    assert (MARBLE2.kept, MARBLE2.validated, SHIPPED.kept, SHIPPED.validated) == ("best", "clips", "last", "windows")
    assert SHIPPED.name != MARBLE2.name
    assert SHIPPED.hash != MARBLE2.hash
    of_tags = SHIPPED.train_by(SHIPPED.find_rules("mtt"))  # its code validates files there
    assert (of_tags.validated, of_tags.batch_size, of_tags.kept) == ("clips", 128, "last")


# What is validated.


def _validate(recipe, splits, probe, monkeypatch, size):
    """The score of one epoch, and the outputs of the valid windows, where so many windows are scored at once."""
    monkeypatch.setattr(block, "_count_chunk_windows", lambda *_: size)
    monkeypatch.setattr(trainer, "ACTIVATION_BYTES", size * 4 * 16)
    found = _fit(recipe, probe, splits)
    return found.history, trainer.predict(found, splits[1], recipe)


@pytest.mark.parametrize("layer", [1, "concat"])
def test_a_metric_is_of_the_whole_split_however_many_windows_are_scored_at_once(monkeypatch, layer):
    train, valid = _splits()
    targets = torch.randn(40, 2, generator=torch.Generator().manual_seed(2))
    splits = [
        trainer.Split(train.layers, train.clip, targets),
        trainer.Split(valid.layers, valid.clip, targets[:21] * torch.linspace(0.1, 3, 21)[:, None]),
    ]
    recipe = _recipe(epochs=3, outputs=2, loss="squared_error", score=r2.compute)
    histories, outputs = zip(
        *(_validate(recipe, splits, _probe(layer), monkeypatch, size) for size in (1, 7, 64)), strict=True
    )
    for history in histories:
        assert history == pytest.approx(histories[0], abs=1e-6)
    truth, answers = splits[1].truth.numpy(), outputs[0].numpy()
    best = max(histories[0])
    assert best == pytest.approx(r2_score(truth, answers), abs=1e-5)
    by_batches = sum(r2_score(truth[part : part + 7], answers[part : part + 7]) for part in (0, 7, 14)) / 3
    assert abs(by_batches - best) > 0.02  # what a mean over batches would say


def test_windows_are_validated_each_for_itself_where_the_protocol_says_so():
    train, valid = _splits()
    recipe = _recipe(replace(SMALL, validated="windows", kept="last"), epochs=2)
    found = _fit(recipe, _probe(), (train, valid))
    answers = trainer.predict_windows(found, valid, recipe).argmax(dim=1)
    assert found.history[-1] == pytest.approx(accuracy_score(valid.truth[valid.clip], answers), abs=1e-6)


def test_probabilities_are_averaged_where_the_task_is_asked_so():
    outputs = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    clip = torch.zeros(3, dtype=torch.int64)
    assert int(aggregate_windows(outputs, clip, 1, "outputs").argmax()) == 0
    softmax = outputs[0].softmax(dim=1).mean(dim=0)
    assert torch.allclose(aggregate_windows(outputs, clip, 1, "probabilities")[0, 0], softmax)
    train, valid = _splits()
    recipe = _recipe(epochs=2, aggregation="probabilities")
    found = _fit(recipe, _probe(), (train, valid))
    answers = trainer.predict_windows(found, valid, recipe).softmax(dim=1).view(21, 3, 3).mean(dim=1)
    assert torch.allclose(trainer.predict(found, valid, recipe), answers, atol=1e-6)
    assert found.valid == pytest.approx(accuracy_score(valid.truth, answers.argmax(dim=1)), abs=1e-6)


# The concatenation.


def test_the_map_of_all_layers_commutes_with_the_mean_over_time():
    generator = torch.Generator().manual_seed(3)
    frames = [torch.randn(4, 50, width, generator=generator) for width in WIDTHS]
    weight, bias = mlp.linear_init(sum(WIDTHS), WIDTHS[-1], generator)
    parameters = {"join": weight.T[None].contiguous(), "join_bias": bias.T[None].contiguous()}
    of_means = network.join_layers(parameters, torch.cat([each.mean(dim=1) for each in frames], dim=1))[0]
    plain = torch.nn.Linear(sum(WIDTHS), WIDTHS[-1])
    plain.weight.data, plain.bias.data = weight.T.contiguous(), bias[0].clone()
    assert (of_means - plain(torch.cat(frames, dim=2)).mean(dim=1)).abs().max() < 1e-6


class _PlainConcat(torch.nn.Module):
    """Linear over all layers side by side -> the head, from the numbers of the grid's probe.

    The head is Linear, or Linear -> ReLU -> dropout -> Linear.
    """

    def __init__(self, probe, recipe):
        super().__init__()
        self.order, self.noise, init = rng.make_generators(probe.seed)
        head = plugins.get_head(recipe.protocol)
        start = list(head.init(WIDTHS[-1], recipe.protocol.hidden, recipe.outputs, init).values())
        start = [*mlp.linear_init(sum(WIDTHS), WIDTHS[-1], init), *start]
        self.rate, self.linears = recipe.protocol.dropout, torch.nn.ModuleList()
        for weight, bias in zip(start[::2], start[1::2], strict=True):
            linear = torch.nn.Linear(*weight.shape)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias[0].clone()
            self.linears.append(linear)

    def forward(self, x):
        if len(self.linears) == 2:
            return self.linears[1](self.linears[0](x))
        hidden = self.linears[1](self.linears[0](x)).relu()
        if self.training:
            hidden = hidden * (torch.rand(hidden.shape, generator=self.noise) >= self.rate) / (1 - self.rate)
        return self.linears[2](hidden)


@pytest.mark.parametrize("protocol", [SMALL, MARBLE, plugins.find_protocol("marble", "linear")], ids=lambda p: p.name)
def test_the_concatenation_is_plain_torch_trained_alone(protocol):
    train, valid = _splits()
    hidden = min(16, protocol.hidden)
    recipe = _recipe(replace(protocol, hidden=hidden, kept="last", batch_size=32), epochs=4)
    probes = grid.build_grid(replace(protocol, learning_rates=(1e-3, 5e-3)), (0, 1, 2), False, 2, with_concat=True)
    for found in (one for one in trainer.fit(probes, train, valid, recipe) if one.probe.layer == "concat"):
        plain = _PlainConcat(found.probe, recipe)
        adam = torch.optim.Adam(plain.parameters(), found.probe.learning_rate)
        inputs = torch.cat(train.layers, dim=1)
        for _ in range(4):
            for rows in torch.randperm(len(inputs), generator=plain.order).split(32):
                loss = torch.nn.functional.cross_entropy(plain.train()(inputs[rows]), train.truth[train.clip[rows]])
                adam.zero_grad()
                loss.backward()
                adam.step()
        outputs = plain.eval()(torch.cat(valid.layers, dim=1))
        assert (trainer.predict_windows(found, valid, recipe) - outputs).abs().max() < 1e-5
        assert found.state["join"].shape == (sum(WIDTHS), WIDTHS[-1])


def test_a_concatenation_is_one_more_place_of_the_grid_behind_the_layers():
    probes = grid.build_grid(MARBLE2, (0, 1), False, 3, with_concat=True)
    assert len(probes) == 3 * 5 * 3
    assert [probe.layer for probe in probes[::15]] == [0, 1, "concat"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"standardize": True}, "layer_concat is True: the concatenation is trained by 'adam' on features as they are"),
        ({"kept": "first"}, "kept is 'first': give 'best' or 'last'"),
        ({"validated": "files"}, "validated is 'files': give 'clips' or 'windows'"),
        ({"tasks": (MARBLE2.tasks[0],) * 2}, "two rows for one task"),
        ({"tasks": ["emo"]}, "give a tuple of TaskRules"),
        ({"departures": ("two\nlines",)}, "give a tuple of lines of text"),
        ({"tasks": (replace(MARBLE2.tasks[1], plateau_factor=2.0),)}, "plateau_factor is 2.0"),
    ],
)
def test_a_mistake_in_a_protocol_is_told(facts, words):
    with pytest.raises(UsageError, match=words):
        replace(MARBLE2, **facts)


# The table.

TABLE = {  # of MARBLE's configurations for MERT-v1-95M: clip, ratio, channel, epochs, patience of the rate and of the stop
    "chords1217": (15.0, 0.1, "mean", 50, 5, 10, 64, 0.5),
    "emo": (15.0, 0.8, "first", 100, 5, 20, 64, 0.5),
    "gs": (30.0, 0.8, "first", 50, 5, 20, 64, 0.1),
    "gtzan": (30.2, 0.8, "first", 100, 6, 20, 64, 0.5),
    "gtzan-rhythm": (10.0, 0.8, "first", 50, 5, 10, 64, 0.5),
    **{
        f"mtg-{name}": (30.0, 0.8, "mean", 20, 3, 10, 128, 0.5)
        for name in ("genre", "instrument", "moodtheme", "top50")
    },
    "mtt": (30.0, 0.8, "mean", 50, 3, 10, 128, 0.5),
}
CLIP_TASKS = ["emo", "gs", "gtzan", "mtg-genre", "mtg-instrument", "mtg-moodtheme", "mtg-top50", "mtt"]


def test_the_table_is_that_of_the_configurations():
    found = {
        row.task: (
            *(row.window.length_s, row.window.min_ratio, row.window.channel),
            *(row.schedule.max_epochs, row.schedule.lr_patience, row.schedule.stop_patience),
            *(row.batch_size, row.plateau_factor),
        )
        for row in MARBLE2.tasks
    }
    assert found == TABLE
    assert (MARBLE2.learning_rates, MARBLE2.seeds) == ((5e-5, 1e-4, 5e-4, 1e-3, 5e-3), 3)


@pytest.mark.parametrize("name", CLIP_TASKS)
def test_a_task_of_the_table_is_asked_as_the_table_says(name):
    named = plugins.find_registered_task(name)
    adapted = plugins.adapt_task(named, MARBLE2, mini=False)
    assert adapted.task.window == MARBLE2.find_rules(name).window
    assert adapted.task.schedule == MARBLE2.find_rules(name).schedule
    assert not adapted.task.ensemble
    assert keys.hash_task(adapted) != keys.hash_task(named)
    assert plugins.adapt_task(adapted, MARBLE2, mini=True) == adapted  # once is enough
    assert plugins.adapt_task(named, MARBLE, mini=False) is named


def test_what_a_row_says_is_in_the_hash_of_the_task():
    named = plugins.find_registered_task("mtt")
    rows = MARBLE2.tasks[:-1]
    others = [{"batch_size": 64}, {"plateau_factor": 0.1}, {"validated": None}, {"aggregation": "probabilities"}]
    found = {
        keys.hash_task(
            plugins.adapt_task(named, replace(MARBLE2, tasks=(*rows, replace(MARBLE2.tasks[-1], **each))), False)
        )
        for each in ({}, *others)
    }
    assert len(found) == 5


def test_a_task_without_a_row_and_a_task_of_frames_are_refused_by_name(bench):
    ended = bench("run", "--model", "mfcc", "--task", "nsynth-pitch", "--protocol", "marble2", "--mini")
    assert ended.code == 2
    assert "no rules for task 'nsynth-pitch': it has them for chords1217, emo, gs, gtzan" in ended.err
    ended = bench("run", "--model", "mfcc", "--task", "gtzan-rhythm", "--protocol", "marble2", "--mini")
    assert ended.code == 2
    assert "clips of 10 s that are scored frame by frame, and this is not built" in ended.err


def test_a_monitor_that_is_not_the_main_metric_is_refused():
    other = replace(MARBLE2, tasks=(replace(MARBLE2.find_rules("gs"), monitor="accuracy"),))
    with pytest.raises(UsageError, match="main metric 'weighted', and the protocol chooses by 'accuracy'"):
        plugins.adapt_task(plugins.find_registered_task("gs"), other, mini=False)


def test_windows_without_padding_have_the_keys_that_they_always_had():
    window = Window(length_s=5.0, first_s=30.0, normalize="peak")
    assert window.facts() == {"length_s": 5.0, "first_s": 30.0, "normalize": "peak"}
    assert Window(length_s=5.0, min_ratio=0.5).facts() == {
        "length_s": 5.0,
        "first_s": None,
        "normalize": "none",
        "min_ratio": 0.5,
    }
    assert set(asdict(window)) == {*window.facts(), "min_ratio", "channel"}  # a new field has to be thought of there
    row = TaskRules(task="a", window=window, monitor="m", schedule=Schedule())
    assert set(asdict(row)) - set(row.facts()) == {
        "task",
        "window",
        "schedule",
        "mini_s",
    }  # which the task's own hash has

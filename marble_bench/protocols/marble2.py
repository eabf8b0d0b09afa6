"""MARBLE's second version: clips of its own, the concatenation of all layers, one schedule for each task.

Source: the code of MARBLE's main branch (a43992899/MARBLE, commit 938c03a), its configurations for MERT. What its `random`
channel is, is the mean of all here; `mix` is called `mean`. Its faults that are not repeated, and what is done in their
place, are the `DEPARTURES`, which every record repeats. `marble2_shipped` is the literal one.

The table has a row for each task, in the order of the source: clip in seconds and the least share of one that is padded,
channel, aggregation over the clips of a file, the metric that schedules and chooses, epochs, patience of the scheduler and
of the stop, windows in a batch.
"""

from marble_bench import Protocol, Schedule, TaskRules, Window

# What both versions do otherwise than the code that they are named for.
SHARED = (
    "layer and learning rate are chosen by validation from a grid; MARBLE's configurations name one of each",
    "three seeds; MARBLE has one",
    "metrics are counted over a whole split; MARBLE takes the mean over batches",
    "the channel is the mean where MARBLE trains on random ones",
    "resampling is by soxr (HQ); MARBLE resamples with torchaudio",
    "probes train in float32; MARBLE trains in bfloat16",
    "ratings are z-scored by the development set",
)
DEPARTURES = (
    "the weights of the best validation are scored; MARBLE scores those of the last epoch",
    "validation scores files, as the test does; MARBLE validates single clips but for MTT and MTG-Jamendo",
    *SHARED,
)


def _tag(task: str, epochs: int) -> TaskRules:
    return TaskRules(
        task=task,
        window=Window(length_s=30.0, min_ratio=0.8),
        mini_s=3.6 if task == "mtt" else None,
        monitor="roc_auc",
        schedule=Schedule(max_epochs=epochs, lr_patience=3, stop_patience=10),
        batch_size=128,
        validated="clips",
    )


TASKS = (
    TaskRules(
        task="chords1217",  # frames: not built
        window=Window(length_s=15.0, min_ratio=0.1),
        monitor="accuracy",
        schedule=Schedule(max_epochs=50, lr_patience=5, stop_patience=10),
    ),
    TaskRules(
        task="emo",
        window=Window(length_s=15.0, min_ratio=0.8, channel="first"),
        mini_s=3.6,
        monitor="r2",
        schedule=Schedule(max_epochs=100, lr_patience=5, stop_patience=20),
    ),
    TaskRules(
        task="gs",
        window=Window(length_s=30.0, min_ratio=0.8, channel="first"),
        monitor="weighted",
        schedule=Schedule(max_epochs=50, lr_patience=5, stop_patience=20),
        plateau_factor=0.1,
    ),
    TaskRules(
        task="gtzan",
        window=Window(length_s=30.2, min_ratio=0.8, channel="first"),
        mini_s=4.0,
        aggregation="probabilities",
        monitor="accuracy",
        schedule=Schedule(max_epochs=100, lr_patience=6, stop_patience=20),
    ),
    TaskRules(
        task="gtzan-rhythm",  # frames: not built
        window=Window(length_s=10.0, min_ratio=0.8, channel="first"),
        monitor="f1",
        schedule=Schedule(max_epochs=50, lr_patience=5, stop_patience=10),
    ),
    _tag("mtg-genre", 20),
    _tag("mtg-instrument", 20),
    _tag("mtg-moodtheme", 20),
    _tag("mtg-top50", 20),
    _tag("mtt", 50),
)

PROTOCOL = Protocol(
    name="marble2",
    version=1,
    description="MARBLE's second version: MLP 512 on each layer and on an affine map of all, five learning rates",
    head="mlp",
    hidden=512,
    dropout=0.2,
    layer_sum=False,
    layer_concat=True,
    standardize=False,
    learning_rates=(5e-5, 1e-4, 5e-4, 1e-3, 5e-3),
    tasks=TASKS,
    departures=DEPARTURES,
)

"""One run, top to bottom: features of every clip, a grid of probes, the choice by validation, the score, the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from marble_bench.core.protocol import Protocol
from marble_bench.core.task import SPLITS, Clip
from marble_bench.data import checks, corpus
from marble_bench.encoders import weights
from marble_bench.errors import BenchError, DataError, UsageError, listing
from marble_bench.features.frames import estimate_bytes
from marble_bench.features.types import Features
from marble_bench.records import bsseval, claims, results
from marble_bench.runs import build_record, events, identity, inputs, robustness, stems
from marble_bench.runs import frame_layers as framed
from marble_bench.runs.config import Outcome, Request, Watch, departures_of
from marble_bench.runs.inputs import Gathered
from marble_bench.scoring import scores as scoring
from marble_bench.scoring.scores import number
from marble_bench.scoring.targets import Classes, Events, Scalars, Stems, Tags
from marble_bench.separation.mixing import chunk_bytes

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from marble_bench.probes import probe_cache, trainer


def run(request: Request, watch: Watch) -> Outcome:
    """Compute, train, choose, score, write. Raises BenchError before anything is written if something is wrong."""
    check_options(request)
    results.check_writable(request.results)
    if request.keep_audio is not None:
        results.check_writable(request.keep_audio, "the folder for separated songs", "another --keep-audio")
    robustness.check(request)
    _tell_of_record(request, watch)
    if isinstance(request.named.task.target, Events):
        return _run_events(request, watch)
    if isinstance(request.named.task.target, Stems):
        return _run_stems(request, watch)
    return _run_clips(request, watch)


def _run_clips(request: Request, watch: Watch) -> Outcome:
    """A task that asks one answer of a clip: pooled features, a grid of probes on them."""
    import torch

    from marble_bench.probes import trainer

    if request.encoder:  # a wrong --layers is told before hours of encoding
        names = [layer.name for layer in request.encoder.layers]
        chosen_layers(request.layers, names, request.protocol, request.encoder.summable)
    check = partial(_check_clips, request)  # before hours of encoding, and again without the clips that are damaged
    data = inputs.own_features(request) if request.features else inputs.encoder_features(request, watch, check)
    check(data.clips)
    assert isinstance(data.features, Features)
    marks = [*data.marks, *checks.check_features(data.features, data.clips)]
    marks += checks.check_labels(request.named.task.target, data.clips)
    marks += checks.check_ids(data.clips)
    marks += checks.check_carriers(request.named.task.metrics, request.named.task.target, data.clips)
    splits, unscale = _splits(data, request)
    rules = request.protocol
    if rules.solver == "adam":
        marks += checks.check_batches(len(splits["train"].clip), rules.batch_sizes or (rules.batch_size,))
    _say(watch, marks)

    recipe = trainer.Recipe(
        protocol=request.protocol,
        schedule=request.named.task.schedule,
        outputs=request.named.task.target.width,
        loss=request.named.task.target.loss,
        score=request.named.task.metrics[0].compute,
        summable=data.summable,
    )
    layers, with_sum = chosen_layers(request.layers, data.features.names, request.protocol, data.summable)
    probes = trainer.grid(request.protocol, layers, with_sum, request.seeds)

    started = time.perf_counter()
    fitting = _Fitting(request, data, recipe, watch)
    fitted = fitting.fit(probes, splits["train"], splits["valid"])
    chosen = choose(fitted, request.seeds)
    windows = {
        split: torch.stack([trainer.predict_windows(one, splits[split], recipe, request.device) for one in chosen])
        for split in ("valid", "test")
    }
    curve = _few_shot(request, probes, splits, fitting) if request.few_shot else []

    def predict(features: Features) -> torch.Tensor:
        rows = trainer.Split(_Layers(features.layers), torch.from_numpy(features.clip), splits["test"].truth)
        return unscale(torch.stack([trainer.predict_windows(one, rows, recipe, request.device) for one in chosen]))

    probe_s = time.perf_counter() - started + sum(kept.earlier_s for kept in fitting.used)

    unsure: list[str] = []
    answers, scores, ensembles = _score(
        data, request, {split: unscale(each) for split, each in windows.items()}, splits, unsure
    )
    _say(watch, unsure)
    marks += unsure
    said = [{"ensemble": name} for name in ensembles]
    made = build_record.build(request, data, fitted, chosen, scores, probe_s, said)
    if marks:
        made["data"]["marks"] = marks
    if curve:
        made["few_shot"] = [*curve, _full_share(made, splits["train"].clips)]
    changed: list[pd.DataFrame] = []
    if request.perturb:
        made["perturbations"], changed = robustness.score(data, request, predict, answers)
    grid = build_record.grid_table(fitted, data.features.names)
    _check_kept(made, fitting.used)
    outcome = _save(request, data, watch, made, grid, build_record.prediction_table(data, answers, changed))
    fitting.clear()
    return outcome


def _run_events(request: Request, watch: Watch) -> Outcome:
    """A task that asks when something happens: frame-wise features, probes that answer frame by frame."""
    from marble_bench.probes import trainer

    layers = frame_layers(request)
    data, marks = events.gathered(request, watch, layers)
    _check_splits(data.clips, request)
    places = [layers.stored.index(index) for index in layers.single]
    probes = trainer.grid(request.protocol, places, bool(layers.summed), request.seeds)

    started = time.perf_counter()
    kept = events.shelf_of(data, request, watch)
    fitted, recipe = events.fit(data, request, probes, watch, kept)
    chosen = choose(fitted, request.seeds)
    answered = events.answer(data, request, chosen, recipe)
    probe_s = time.perf_counter() - started + kept.earlier_s

    task = request.named.task
    unsure: list[str] = []
    scores = scoring.scores(task.metrics, answered.measured, answered.trivial, marks=unsure)
    _say(watch, unsure)
    marks += unsure
    made = build_record.build(request, data, fitted, chosen, scores, probe_s)
    if marks:
        made["data"]["marks"] = marks
    changed: list[pd.DataFrame] = []
    if request.perturb:
        made["perturbations"], changed = robustness.score_events(data, request, chosen, recipe, answered)
    predictions = events.prediction_table(data, answered, task.target.names, changed)
    _check_kept(made, [kept])
    outcome = _save(request, data, watch, made, build_record.grid_table(fitted, data.features.names), predictions)
    kept.clear()
    return outcome


def _run_stems(request: Request, watch: Watch) -> Outcome:
    """A task that asks for stems: frame-wise features of mixtures, separators, separated songs."""
    layers = frame_layers(request)
    with stems.prepared(request, watch, layers) as (data, ready):
        started = time.perf_counter()
        kept = stems.shelf_of(data, ready, request, watch)
        fitted, chosen, measured = stems.fit(data, ready, request, layers, watch, kept)
        probe_s = time.perf_counter() - started + kept.earlier_s
    task = request.named.task
    found, trivial = stems.answers(data, measured)
    marks = stems.marks(measured["test"])
    unsure: list[str] = []
    scores = scoring.scores(task.metrics, found, trivial, marks=unsure)
    _say(watch, unsure)
    marks += unsure
    for name, value in stems.oracle_scores(task.metrics, measured["test"]).items():
        scores[name]["oracle"] = value
    names = task.target.names
    of_seed = [one for row in chosen for one in row]
    said = [{"stem": _stem_of(one.probe, names)} for one in of_seed]
    made = build_record.build(request, data, fitted, of_seed, scores, probe_s, said)
    if marks:
        made["data"]["marks"] = marks
    grid = build_record.grid_table(fitted, data.features.names)
    grid.insert(1, "stem", [_stem_of(one.probe, names) for one in fitted])
    outcome = _save(request, data, watch, made, grid, stems.prediction_table(data, found))
    songs = [clip.id for clip in data.clips if clip.split == "test"]
    bsseval.save_table(outcome.path, bsseval.make_table(songs, names, measured["test"].bss))
    kept.clear()
    return outcome


def _stem_of(probe: trainer.Probe, names: Sequence[str]) -> str:
    """The name of the stem that a separator takes out of the mixture."""
    assert probe.stem is not None
    return names[probe.stem]


def _say(watch: Watch, marks: Sequence[str]) -> None:
    """Tell the user what a record marks."""
    for mark in marks:
        watch.say(f"mark: {mark}")


def check_options(request: Request) -> None:
    """Raise UsageError for an option that the task has no use for: a record must not tell of what was not done."""
    target, name = request.named.task.target, request.named.name
    if isinstance(target, (Events, Stems)):
        asked = {"--few-shot": request.few_shot, f"--control {request.control}": request.control}
        if unmet := [option for option, given in asked.items() if given]:
            raise UsageError(
                f"{unmet[0]} is for tasks of whole clips, and task '{name}' is asked frame by frame: leave it out"
            )
        if request.encoder is None:
            raise UsageError(
                f"task '{name}' is asked frame by frame, and --features brings a vector for a window: give --model"
            )
    check_fresh(request)
    if request.encoder is None and (request.dtype != "float32" or request.engine != "local"):
        raise UsageError("--dtype and --engine say how features are made, and --features brings them: leave it out")
    if request.keep_audio is not None and not isinstance(target, Stems):
        raise UsageError(f"--keep-audio keeps separated stems, and task '{name}' separates nothing: leave it out")


def check_fresh(request: Request) -> None:
    """Raise UsageError if features are to be made anew that are not in the cache."""
    if request.fresh_before is not None and request.encoder is None:
        raise UsageError("--fresh-features makes features anew, and --features brings them: leave it out")
    if request.fresh_before is not None and request.elsewhere:
        raise UsageError(
            f"--fresh-features sets features in the cache aside, not those at {request.elsewhere}: give another --store URL"
        )


def _tell_of_record(request: Request, watch: Watch) -> None:
    """Say before any work that a record stands where this run's would be written, unless it is to be replaced.

    It cannot be known of features that were brought, of weights that are not here yet, and of clips that turn out to be
    damaged: the end of the run tells of those. Raises UsageError where features are to be made anew, which may give another
    record.
    """
    if request.overwrite or request.encoder is None or not results.of_model(request.results, request.model).is_dir():
        return
    digest = weights.known_digest(request.encoder, request.cache, request.weights)
    if digest is None:
        return
    root, missing = corpus.folder(request.named.task.corpus, request.cache, request.mini, request.root), 0
    if request.allow_missing and root is not None:
        there = corpus.on_disk(request.named, root, allow_missing=True)
        missing = len(there.missing) + there.unlisted
    names = {"task": {"name": request.named.name}, "protocol": {"name": request.protocol.name}}
    model = {"name": request.model, "weights_sha256": digest}
    variant = departures_of(request, corpus.is_mini(root), missing).variant()
    path = results.record_path(request.results, {**names, "model": model}, variant)
    if not path.is_file():
        return
    if request.fresh_before is not None:
        raise UsageError(
            f"{path} stands already, and --fresh-features may change it: give --overwrite too, or another --results-dir"
        )
    watch.say(f"{path} stands already; if this run finds another result, it will not be replaced without --overwrite")


def frame_layers(request: Request) -> framed.Layers:
    """The layers that a run on frames reads. Raises UsageError before any work if it cannot be made."""
    framed.check_protocol(request.protocol)
    assert request.encoder is not None  # see check_options
    encoder, names = request.encoder, [layer.name for layer in request.encoder.layers]
    single, with_sum = chosen_layers(request.layers, names, request.protocol, encoder.summable)
    return framed.layers_of(encoder, single, with_sum, request.layers == "all")


def _check_kept(made: dict[str, Any], kept: Sequence[probe_cache.Folder]) -> None:
    """Raise BenchError, and take kept probes away, if they score otherwise on valid than when they were kept.

    A file that an own metric reads, for one, is in no key.
    """
    if any(each.earlier_s for each in kept) and (wrong := [words for _, words in claims.valid_scores(made)]):
        for each in kept:
            each.clear()
        raise BenchError(
            f"probes kept of an interrupted run score otherwise now than then ({wrong[0]}): something has changed that "
            "their code does not tell, such as a file that a metric reads. They are removed: run again"
        )


def _save(
    request: Request,
    data: Gathered,
    watch: Watch,
    made: dict[str, Any],
    grid: pd.DataFrame,
    predictions: pd.DataFrame,
) -> Outcome:
    variant = departures_of(request, data.mini, build_record.absent(data), data.unnamed).variant()
    path = results.record_path(request.results, made, variant)
    written = results.save(path, made, grid, predictions, overwrite=request.overwrite, say=watch.say)
    return Outcome(made, path, written)


def _score(
    data: Gathered,
    request: Request,
    windows: dict[str, torch.Tensor],
    splits: dict[str, trainer.Split],
    marks: list[str],
) -> tuple[scoring.Answers, dict[str, Any], list[str]]:
    """Answers clip by clip, every score that the task asks for, and each seed's ensemble where the task has one.

    windows: the chosen probes' outputs `(seeds, windows, width)` of valid and test, in the label's own units. marks: see
    `scoring.scores`.
    """
    import torch

    from marble_bench.scoring.scores import average_windows

    task = request.named.task
    assert isinstance(task.target, (Classes, Tags, Scalars))
    members = {split: [clip for clip in data.clips if clip.split == split] for split in SPLITS}
    truth = {
        split: torch.from_numpy(task.target.encode([clip.target for clip in clips], [clip.id for clip in clips]))
        for split, clips in members.items()
    }
    groups = {split: [clip.group or clip.id for clip in clips] for split, clips in members.items() if split != "train"}
    clip = {split: splits[split].clip for split in windows}
    outputs = {split: average_windows(windows[split], clip[split], len(truth[split])) for split in windows}
    answers = scoring.Answers(outputs, truth, groups["test"])
    constant = torch.from_numpy(task.target.trivial(truth["train"].numpy()))
    scores = scoring.scores(task.metrics, answers, constant, marks=marks)
    ensembles: list[str] = []
    if task.ensemble:
        best, ensembles = scoring.best_ensemble(task.metrics[0], windows, clip, answers)
        scores |= scoring.scores(task.metrics[:1], best, constant, "_ensemble", main=False, marks=marks)
    if task.group_name:
        grouped = scoring.by_group(answers, groups)
        scores |= scoring.scores(task.metrics[:1], grouped, constant, f"_{task.group_name}", main=False, marks=marks)
    return answers, scores, ensembles


class _Fitting:
    """Trains grids of one run, and keeps their finished blocks in the cache until the record stands."""

    def __init__(self, request: Request, data: Gathered, recipe: trainer.Recipe, watch: Watch) -> None:
        self.request, self.recipe, self.watch = request, recipe, watch
        self.facts = identity.of_probes(data, request)
        self.used: list[Any] = []

    def fit(self, probes: Sequence[trainer.Probe], train: trainer.Split, valid: trainer.Split) -> list[trainer.Fitted]:
        """All probes, with the weights of each seed's best."""
        from marble_bench.probes import probe_cache, trainer

        kept = probe_cache.Folder(
            self.request.cache / "probes", probe_cache.digest(self.facts, train, valid), self.watch.say
        )
        self.used.append(kept)
        fitted: list[trainer.Fitted] = trainer.fit(
            probes, train, valid, self.recipe, self.request.device, self.watch.probes, states="best", shelf=kept
        )
        return fitted

    def clear(self) -> None:
        """The record stands: what was kept for going on is of no more use."""
        for kept in self.used:
            kept.clear()


def _few_shot(
    request: Request, probes: Sequence[trainer.Probe], splits: dict[str, trainer.Split], fitting: _Fitting
) -> list[dict[str, Any]]:
    """The main metric of each seed's best probe when the grid is trained on a share of the training clips."""
    from marble_bench.probes import few_shot, trainer

    recipe, found = fitting.recipe, []
    for share in few_shot.SHARES:
        point: dict[str, Any] = {"share": share, "valid": [], "test": []}
        for seed in range(request.seeds):
            part = few_shot.share_of(splits["train"], share, seed)
            own = [probe for probe in probes if probe.seed == seed]
            (best,) = choose(fitting.fit(own, part, splits["valid"]), [seed])
            outputs = trainer.predict(best, splits["test"], recipe, request.device)
            point["clips"] = part.clips
            point["valid"].append(number(best.valid))
            point["test"].append(number(float(recipe.score(outputs[None], splits["test"].truth)[0])))
        found.append(point)
    return found


def _full_share(made: dict[str, Any], clips: int) -> dict[str, Any]:
    """The last point of a few-shot curve, which is the run itself."""
    score = next(score for score in made["scores"].values() if score["main"])
    valid = [choice["valid"] for choice in made["selection"]["per_seed"]]
    return {"share": 1.0, "clips": clips, "valid": valid, "test": score["per_seed"]}


def plan(request: Request) -> dict[str, object]:
    """What a run would do, without doing any of it: nothing is fetched, decoded or written but a miniature."""
    from marble_bench.probes import trainer

    check_options(request)
    robustness.check(request)
    facts: dict[str, object] = {"model": request.model, "task": request.named.name, "protocol": request.protocol.name}
    if request.encoder is None:
        return {**facts, "features": str(request.features), "clips": len(corpus.listed(request.named, request.root))}
    root = corpus.folder(request.named.task.corpus, request.cache, request.mini, request.root)
    assert root is not None
    there = corpus.on_disk(request.named, root, request.allow_missing)
    clips = corpus.limited(there.clips, request.limit) if request.limit else there.clips
    names = [layer.name for layer in request.encoder.layers]
    frames: dict[str, object] = {}
    if isinstance(request.named.task.target, (Events, Stems)):
        chosen = frame_layers(request)
        layers, with_sum = list(chosen.single), bool(chosen.summed)
        path_of = {clip.id: path for clip, path in zip(there.clips, there.paths, strict=True)}
        # a file that is no whole audio ends a run, or is left out of it
        lasting, _ = corpus.lengths_s(clips, path_of, request.named.task.corpus.sample_rate_hz)
        audio_s = sum(lasting.values())
        if isinstance(request.named.task.target, Stems):
            readable = [clip for clip in clips if clip.id in lasting]
            audio_s = stems.encoded_s(request, readable, list(lasting.values()), corpus.is_mini(root))
            rules = stems.rules_of(request.named.task, request.protocol, corpus.is_mini(root))
            each = request.named.task.target.width * request.seeds * len(rules.learning_rates)
            frames["probes"] = each * (len(layers) + with_sum)
            mixtures = rules.mixtures_per_track * sum(clip.split == "train" for clip in clips)
            frames["mixtures_gb"] = round(chunk_bytes(mixtures, request.named.task.target.width, rules) / 1e9, 3)
        frames["frames_gb"] = round(estimate_bytes(audio_s, request.encoder, chosen.stored) / 1e9, 3)
    else:
        layers, with_sum = chosen_layers(request.layers, names, request.protocol, request.encoder.summable)
    return {
        **facts,
        "data": str(root),
        "clips": {split: sum(clip.split == split for clip in clips) for split in SPLITS},
        "missing": len(there.missing) + there.unlisted,
        "layers": [names[index] for index in layers] + ["sum"] * with_sum,
        "probes": len(trainer.grid(request.protocol, layers, with_sum, request.seeds)),
        **frames,
        **({"perturb": list(request.perturb)} if request.perturb else {}),
        "device": request.device,
    }


def choose(fitted: Sequence[trainer.Fitted], seeds: int | Sequence[int]) -> list[trainer.Fitted]:
    """The probe of each seed with the best validation score; of equals, the first in the grid's order.

    seeds: how many, or which. Raises DataError if every probe of a seed diverged.
    """
    chosen = []
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        able = [one for one in fitted if one.probe.seed == seed and one.valid == one.valid]
        if not able:
            raise DataError(
                f"every probe of seed {seed} diverged at once: look at the features, they are far out of scale"
            )
        chosen.append(max(able, key=lambda one: one.valid))
    return chosen


def chosen_layers(
    asked: str, names: Sequence[str], protocol: Protocol, summable: Sequence[int]
) -> tuple[list[int], bool]:
    """What `--layers` means: indices of single layers, and whether the weighted sum is among the probes.

    `all`: each layer, and the sum where the protocol has it and the layers allow it. `sum`: the sum alone. Else names
    with commas, and ranges `first-last` of names that are numbers.
    """
    if asked == "all":
        return list(range(len(names))), protocol.layer_sum and bool(summable)
    picked: list[int] = []
    with_sum = False
    for part in asked.split(","):
        first, dash, last = part.partition("-")
        if part == "sum":
            if protocol.solver == "exact":
                raise UsageError(
                    f"--layers sum: protocol '{protocol.name}' solves single layers; choose layers by name"
                )
            if not summable:
                raise UsageError(
                    "--layers sum needs at least two layers of one width behind the first; this model has none"
                )
            with_sum = True
        elif part in names:
            picked.append(list(names).index(part))
        elif dash and first in names and last in names and names.index(first) <= names.index(last):
            picked += range(names.index(first), names.index(last) + 1)
        else:
            raise UsageError(f"--layers {asked}: no layer '{part}'; layers are {', '.join(names)}, or all, or sum")
    return sorted(set(picked)), with_sum


def _check_splits(clips: Sequence[Clip], request: Request) -> None:
    empty = [split for split in SPLITS if not any(clip.split == split for clip in clips)]
    if empty:
        raise DataError(f"no clip is left in the {' and '.join(empty)} split of task '{request.named.name}'")


def _check_clips(request: Request, clips: Sequence[Clip]) -> None:
    """Raise DataError for an empty split, a label that is none of the task's, or tags that have no ranking score.

    Those are tags that no clip, or every clip, of valid or test carries.
    """
    _check_splits(clips, request)
    target = request.named.task.target
    assert isinstance(target, (Classes, Tags, Scalars))
    target.encode([clip.target for clip in clips], [clip.id for clip in clips])
    if not isinstance(target, Tags):
        return
    for split in ("valid", "test"):
        held = [set(clip.target) for clip in clips if clip.split == split]
        bad = [name for name in target.names if sum(name in tags for tags in held) in (0, len(held))]
        if bad:
            raise DataError(
                f"task '{request.named.name}': no clip, or every clip, of the {split} split carries {listing(bad)}; "
                "a ranking score needs both kinds. Use more of the corpus"
            )


class _Layers(Sequence["torch.Tensor"]):
    """Layers as tensors over the same memory, each when it is asked for; `widths` without loading any."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers

    @property
    def widths(self) -> list[int]:
        told: Sequence[int] | None = getattr(self.layers, "widths", None)
        return list(told) if told is not None else [layer.shape[1] for layer in self.layers]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: Any) -> Any:
        import torch

        return torch.from_numpy(self.layers[index])


def _splits(
    data: Gathered, request: Request
) -> tuple[dict[str, trainer.Split], Callable[[torch.Tensor], torch.Tensor]]:
    """Features and truth of each split as tensors, and how outputs become answers in the label's own units."""
    import numpy as np
    import torch

    from marble_bench.probes import few_shot, trainer

    target = request.named.task.target
    assert isinstance(data.features, Features)
    truth = target.encode([clip.target for clip in data.clips], [clip.id for clip in data.clips])
    mean, spread = np.zeros(1, np.float32), np.ones(1, np.float32)
    if isinstance(target, Scalars):
        development = truth[[clip.split != "test" for clip in data.clips]].astype(np.float64)
        mean, spread = development.mean(axis=0).astype(np.float32), development.std(axis=0).astype(np.float32)
        if not spread.all():
            raise DataError(f"task '{request.named.name}': every development clip has the same label")
        truth = (truth - mean) / spread
    of_split = np.array([SPLITS.index(clip.split) for clip in data.clips])
    layers = _Layers(data.features.layers)
    splits = {}
    for index, split in enumerate(SPLITS):
        members = np.flatnonzero(of_split == index)
        rows = np.flatnonzero(of_split[data.features.clip] == index)
        place = np.searchsorted(members, data.features.clip[rows])
        splits[split] = trainer.Split(
            layers, torch.from_numpy(place), torch.from_numpy(truth[members]), torch.from_numpy(rows)
        )
    if request.control == "shuffle":
        splits["train"] = few_shot.shuffled(splits["train"])
    return splits, lambda outputs: outputs * torch.from_numpy(spread) + torch.from_numpy(mean)

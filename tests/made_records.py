"""Records made of simulated outputs, written as a run writes them, for tests of what reads records."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import torch
from marble_bench.probes.few_shot import SHARES, count_clips

from marble_bench import _version
from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder
from marble_bench.core.keys import PIPELINE, digest, digest_facts, hash_task
from marble_bench.core.plugins import Named
from marble_bench.core.sources import list_run_origins
from marble_bench.core.task import Clip
from marble_bench.data.examples import Examples
from marble_bench.errors import DataError
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.records import claims, origins, results
from marble_bench.records.comparable import find_departures
from marble_bench.records.corpus_facts import AtHand
from marble_bench.records.record import SCHEMA, Identity, Record, SourceCode
from marble_bench.records.schema import from_json
from marble_bench.runs.inputs import list_model_facts
from marble_bench.runs.predictions import Predictions, build_table
from marble_bench.scoring import scores as scoring

COUNTS = {"train": 40, "valid": 30, "test": 60}  # of a record whose clips the suite does not list
CONTROL = "a control: training labels by shuffle"
CURVE = "made for a few-shot curve; the full run is a record of its own"
POINTS = [{"share": share} for share in (*SHARES, 1.0)]  # of a curve; `make` counts the clips and adds the run's scores


def _list_clips(task: Any, mini: bool) -> list[Clip]:
    """The clips of a record: those that the suite lists for a full run, else some of any name."""
    try:
        listed = [] if mini else list(task.clips(None))
    except DataError:
        listed = []  # the labels are in the corpus alone
    made = [Clip(f"{split}{i:03}", split, f"{split}{i:03}.wav", "") for split, n in COUNTS.items() for i in range(n)]
    return listed or made


def _list_truth(task: Any, split: str, clips: list[Clip]) -> Any:
    own = [clip for clip in clips if clip.split == split]
    if own[0].target:
        return torch.from_numpy(task.target.encode([clip.target for clip in own], [clip.id for clip in own]))
    count = len(own)
    random = np.random.default_rng([len(split), count])
    kind = type(task.target).__name__
    if kind == "Classes":
        return torch.from_numpy(random.permutation(np.arange(count) % task.target.width))
    if kind == "Tags":
        made = random.random((count, task.target.width)) < 0.3
        made[0], made[1] = True, False
        return torch.from_numpy(made.astype(np.float32))
    return torch.from_numpy(random.normal(size=(count, task.target.width)).astype(np.float32))


def _draw_outputs(
    truth: torch.Tensor, width: int, skill: float, random: np.random.Generator, kind: str
) -> torch.Tensor:
    """`(3, clips, width)`: what is right plus noise, most of which seeds share."""
    right = torch.nn.functional.one_hot(truth.long(), width).float() if kind == "Classes" else truth
    noise = random.normal(size=(1, *right.shape)) + 0.3 * random.normal(size=(3, *right.shape))
    scale = 1.0 if kind != "Scalars" else 1 / (1 + skill)
    return (right * (skill if kind != "Scalars" else 1) + scale * torch.from_numpy(noise)).float()


def _build_identity(named: Named, known: Encoder | None, record: Record, clips: list[Clip]) -> dict[str, Any]:
    """What a run says of its code and its keys; of an encoder that is not the suite's, what it could say."""
    own = {"kind": "encoder", "name": record.model.name, "version": 1, "digest": "a" * 64, "shipped": False}
    found = [asdict(each) for each in list_run_origins(named, known, MARBLE)]
    said = Identity(
        features=f"sha256:{'0' * 64}",
        run=f"sha256:{'0' * 64}",
        pipeline=PIPELINE,
        sources=tuple(SourceCode(**each) for each in (found if known else [own, *found])),
    )
    facts = msgspec.to_builtins(said)
    if (features := origins.list_feature_digests(record, said)) is not None:
        facts["features"] = f"sha256:{features[0] if len(features) == 1 else digest(features)}"
        here = AtHand(named, None, clips)
        facts["run"] = f"sha256:{origins.run_of(record, said, features, here) or '0' * 64}"
    return facts


def _build_history(valid: float, task: Any) -> list[float]:
    """Scores after each round of a probe whose fourth round was its best."""
    return [valid - 1.0] * 3 + [valid] + [valid - 1.0] * task.schedule.stop_patience


def make(
    folder: Path,
    model: str,
    task: str = "gtzan",
    skill: float = 2.0,
    seed: int = 0,
    weights: str = "",
    training_data: tuple[str, ...] = (),
    mini: bool = False,
    protocol: str = "marble",
    why_not: tuple[str, ...] = (),
    **extra: Any,
) -> Path:
    """Write a record of `model` on `task` whose outputs are right by `skill`; the path of its JSON.

    extra: more keys of the record (`few_shot`).
    """
    named = plugins.find_task(task)
    kind, width = type(named.task.target).__name__, named.task.target.width
    random = np.random.default_rng(seed)
    clips = _list_clips(named.task, mini)
    truth = {split: _list_truth(named.task, split, clips) for split in COUNTS}
    outputs = {split: _draw_outputs(truth[split], width, skill, random, kind) for split in ("valid", "test")}
    groups = {split: [clip.group or clip.id for clip in clips if clip.split == split] for split in ("valid", "test")}
    answers = scoring.Answers(outputs, truth, groups["test"])
    constant = torch.from_numpy(named.task.target.trivial(truth["train"].numpy()))
    scores = scoring.compute_scores(named.task.metrics, answers, constant)
    if named.task.ensemble:  # every way answers the same where a clip is one window
        scores |= scoring.compute_scores(named.task.metrics[:1], answers, constant, "_ensemble", main=False)
    if named.task.group_name:
        grouped = scoring.average_groups(answers, groups)
        scores |= scoring.compute_scores(
            named.task.metrics[:1], grouped, constant, f"_{named.task.group_name}", main=False
        )
    known = plugins.find_encoders().get(model)
    layers = [*([layer.name for layer in known.layers] if known else ["0", "1", "2"]), "sum"]
    if known and not known.summable:
        layers.pop()
    best = named.task.metrics[0].compute(outputs["valid"], truth["valid"]).tolist()
    least = -np.inf if named.task.metrics[0].name.startswith("r2") else 0.0
    grid = pd.DataFrame(
        [
            {"layer": layer, "learning_rate": rate, "weight_decay": 0.0, "seed": s, "best_epoch": 3, "diverged": False,
             "valid": (valid := max(least, best[s] - 0.1 * (len(layers) - 1 - place) - 0.01 * (5 - step))),
             "history": _build_history(valid, named.task)}
            for place, layer in enumerate(layers) for step, rate in enumerate(MARBLE.learning_rates) for s in range(3)
        ]
    )  # fmt: skip
    digest_of_weights = digest_facts(known) if known and not known.weights else weights or f"{seed:064x}"
    facts = {
        "name": model, "version": 1, "source": "made", "revision": "", "parameters": 1000 * (1 + seed), "states": 3,
        "weights_sha256": digest_of_weights, "width": 8, "sample_rate_hz": 8000, "frame_rate_hz": 10.0,
        "normalize": "none", "license": "CC0-1.0", "training_data": list(training_data),
    }  # fmt: skip
    if known:
        facts = list_model_facts(
            known,
            SimpleNamespace(source="made" if known.weights else "none", revision="", sha256=facts["weights_sha256"]),
        )
    record = {
        "schema": SCHEMA,
        "suite": {"version": _version.version(), "git": None, "dirty": None},
        "protocol": {"name": protocol, "version": 1, "hash": MARBLE.hash},
        "model": facts,
        "task": {"name": task, "version": named.task.version, "hash": hash_task(named)},
        "data": {
            "corpus": named.task.corpus.name, "fingerprint": "sha256:" + "0" * 64, "missing": [],
            "clips": {split: len(truth[split]) for split in COUNTS},
            "faults": [], "mini": mini,
        },
        "selection": {
            "split": "valid", "metric": named.task.metrics[0].name, "probes": len(grid), "diverged": 0,
            "per_seed": [
                {"seed": s, "layer": layers[-1], "learning_rate": MARBLE.learning_rates[-1], "weight_decay": 0.0, "epoch": 3,
                 "valid": best[s], **({"ensemble": "mean"} if named.task.ensemble else {})}
                for s in range(3)
            ],
        },
        "scores": scores,
        "cost": {"audio_s": 60.0, "extract_s": 3.0 + seed, "real_time_factor": round(60 / (3 + seed), 2), "feature_mb": 1.5,
                 "cached": False, "probe_s": 2.0, "peak_memory_mb": 500.0},
        "environment": {"python": "3", "torch": "2", "transformers": "5", "device": "cpu", "dtype": "float32",
                        "platform": "x"},
        "comparable": not why_not and not mini,
        "why_not": list(why_not) or (["made on the miniature corpus"] if mini else []),
        **extra,
    }  # fmt: skip
    if "few_shot" in record:
        of_run = {"valid": best, "test": scores[named.task.metrics[0].name]["per_seed"]}
        train = len(truth["train"])
        record["few_shot"] = [
            {"clips": count_clips(point["share"], train), **of_run, **point} for point in record["few_shot"]
        ]
    found = Examples.of_clips(clips)
    predicted = [Predictions(split, found.of(split), outputs[split], truth[split]) for split in outputs]
    apart = [
        each
        for each in find_departures(from_json(record), MARBLE.seeds).list_reasons()
        if each not in record["why_not"]
    ]
    record |= {"why_not": record["why_not"] + apart, "comparable": record["comparable"] and not apart}
    record["identity"] = _build_identity(named, known, from_json(record), clips)
    made = from_json(record)
    variant = claims.name_variant(made)
    path = results.record_path(folder, made, "other" if variant is None else variant)
    results.save(path, made, grid, build_table(predicted), overwrite=True)
    return path

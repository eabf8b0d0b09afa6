"""Records made of simulated outputs, written as a run writes them, for tests of what reads records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from marble_bench import plugins, results, scoring
from marble_bench.core.keys import task_hash
from marble_bench.gather import Gathered
from marble_bench.protocol import MARBLE
from marble_bench.record import prediction_table
from marble_bench.task import Clip

COUNTS = {"train": 40, "valid": 30, "test": 60}


def _truth(task: Any, split: str, count: int) -> Any:
    random = np.random.default_rng([len(split), count])
    kind = type(task.target).__name__
    if kind == "Classes":
        return torch.from_numpy(random.permutation(np.arange(count) % task.target.width))
    if kind == "Tags":
        made = random.random((count, task.target.width)) < 0.3
        made[0], made[1] = True, False
        return torch.from_numpy(made.astype(np.float32))
    return torch.from_numpy(random.normal(size=(count, task.target.width)).astype(np.float32))


def stand_in(name: str) -> plugins.Named:
    """A shipped task whose list of clips is that of the made records."""
    named = plugins.find_task(name)
    target, clips = named.task.target, []
    for split, count in COUNTS.items():
        for i, truth in enumerate(_truth(named.task, split, count)):
            label: Any = tuple(truth.tolist()) if truth.ndim else target.names[int(truth)]
            if type(target).__name__ == "Tags":
                label = tuple(tag for tag, there in zip(target.names, label, strict=True) if there)
            clips.append(Clip(f"{split}{i:03}", split, f"{split}{i:03}.wav", label))
    return replace(named, task=replace(named.task, clips=lambda root: clips, counts=dict(COUNTS)))


def _outputs(truth: torch.Tensor, width: int, skill: float, random: np.random.Generator, kind: str) -> torch.Tensor:
    """`(3, clips, width)`: what is right plus noise, most of which seeds share."""
    right = torch.nn.functional.one_hot(truth.long(), width).float() if kind == "Classes" else truth
    noise = random.normal(size=(1, *right.shape)) + 0.3 * random.normal(size=(3, *right.shape))
    scale = 1.0 if kind != "Scalars" else 1 / (1 + skill)
    return (right * (skill if kind != "Scalars" else 1) + scale * torch.from_numpy(noise)).float()


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
    truth = {split: _truth(named.task, split, count) for split, count in COUNTS.items()}
    outputs = {split: _outputs(truth[split], width, skill, random, kind) for split in ("valid", "test")}
    clips = [Clip(f"{split}{i:03}", split, f"{split}{i:03}.wav", "") for split, n in COUNTS.items() for i in range(n)]
    groups = [clip.id for clip in clips if clip.split == "test"]
    answers = scoring.Answers(outputs, truth, groups)
    constant = torch.from_numpy(named.task.target.trivial(truth["train"].numpy()))
    scores = scoring.scores(named.task.metrics, answers, constant)
    main = named.task.metrics[0]
    best = main.compute(outputs["valid"], truth["valid"]).tolist()  # of each seed's chosen probe
    layers = ["0", "1", "2", "sum"]
    grid = pd.DataFrame(
        [
            {"layer": layer, "learning_rate": rate, "weight_decay": 0.0, "seed": s, "best_epoch": 3, "diverged": False,
             "valid": best[s] - 0.1 * (3 - place) - (1e-3 - rate), "history": [0.1, 0.2]}
            for place, layer in enumerate(layers) for rate in (1e-4, 1e-3) for s in range(3)
        ]
    )  # fmt: skip
    record = {
        "schema": results.SCHEMA,
        "suite": {"version": "0", "git": None, "dirty": None},
        "protocol": {"name": protocol, "version": 1, "hash": MARBLE.hash},
        "model": {
            "name": model, "version": 1, "source": "made", "revision": "", "parameters": 1000 * (1 + seed), "states": 3,
            "weights_sha256": weights or f"{seed:064x}", "width": 8, "sample_rate_hz": 8000, "frame_rate_hz": 10.0,
            "license": "CC0-1.0", "training_data": list(training_data),
        },
        "task": {"name": task, "version": named.task.version, "hash": task_hash(named)},
        "data": {
            "corpus": named.task.corpus.name, "fingerprint": "sha256:" + "0" * 64, "clips": dict(COUNTS), "missing": [],
            "faults": [], "mini": mini,
        },
        "selection": {
            "split": "valid", "metric": named.task.metrics[0].name, "probes": len(grid), "diverged": 0,
            "per_seed": [
                {"seed": s, "layer": "sum", "learning_rate": 1e-3, "weight_decay": 0.0, "epoch": 3,
                 "valid": best[s]}
                for s in range(3)
            ],
        },
        "scores": scores,
        "cost": {"audio_s": 60.0, "extract_s": 3.0 + seed, "real_time_factor": 20.0, "feature_mb": 1.5, "cached": False,
                 "probe_s": 2.0, "peak_memory_mb": 500.0},
        "environment": {"python": "3", "torch": "2", "transformers": "5", "device": "cpu", "dtype": "float32",
                        "platform": "x"},
        "comparable": not why_not and not mini,
        "why_not": list(why_not) or (["made on the miniature corpus"] if mini else []),
        **extra,
    }  # fmt: skip
    data = Gathered(
        clips=clips, features=None, digests=[], model={}, summable=(), missing=[], faults=[], mini=mini, cost={}
    )  # type: ignore[arg-type]
    path = results.record_path(folder, record, "mini" if mini else "")
    results.save(path, record, grid, prediction_table(data, answers), overwrite=True)
    return path

"""From what a user asks for, on a command line or in Python, to the configurations of runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marble_bench.core.choices import Control, Dtype, Engine, words_of
from marble_bench.core.declared import shorten_repr
from marble_bench.core.encoder import Encoder
from marble_bench.core.plugins import Named, find_protocol
from marble_bench.core.variants import parse_variants
from marble_bench.errors import UsageError, suggest_name
from marble_bench.files.cache import find_cache_root
from marble_bench.files.locks import keep_compiled
from marble_bench.runs.config import RunConfig, find_corpus_root, is_offline_asked, list_pairs
from marble_bench.runs.devices import AUTO, resolve_device

CHOICES = {  # of options that take one of a few words
    "dtype": words_of(Dtype),
    "engine": words_of(Engine),
    "control": ("", *words_of(Control)),
}
VARIANTS = ("layers", "pool", "window", "lr", "select", "standardize", "train_share")  # see `parse_variants`


def build_configs(
    models: Sequence[str | Encoder],
    tasks: Sequence[str],
    *,
    protocol: str | None = None,
    head: str | None = None,
    features: Path | None = None,
    weights: Path | None = None,
    data_dir: Path | None = None,
    mini: bool = False,
    results_dir: Path = Path("results"),
    cache_dir: Path | None = None,
    seeds: int | None = None,
    device: str = AUTO,
    offline: bool = False,
    fresh_features: bool = False,
    **more: Any,
) -> list[RunConfig]:
    """A configuration for every model with every task, all names looked up before any work begins.

    models, tasks: names or paths, and encoders themselves. protocol, head: names, or paths of files; protocol: None for
    each task's own, head, seeds: None for the protocol's. features: those that were brought. data_dir: the corpus's folder,
    cache_dir: the cache root; None for where they are by default. fresh_features: what was stored before this moment is set
    aside. more: the options of `VARIANTS`, and others for `RunConfig.of`. Several values of `pool` are a run each, and
    they share one pass over the audio.
    Raises UsageError for what does not go together.
    """
    _check_values({"seeds": seeds, "head": head, "protocol": protocol, **more})
    if mini and data_dir:
        raise UsageError("--mini and --data-dir exclude each other: the miniature is made in the cache")
    variants = parse_variants(**{name: more.pop(name) for name in VARIANTS if name in more})
    started_s = time.time()
    cache = find_cache_root(cache_dir)
    keep_compiled(cache)
    offline = offline or is_offline_asked()
    asked = find_protocol(protocol, head) if protocol else None
    chosen = list_pairs(models, tasks, features, weights, offline)
    rules = [asked or find_protocol(named.task.protocol, head) for *_, named in chosen]
    _check_one_corpus(data_dir, [named for _, _, named in chosen])
    same = {**more, "cache": cache, "results": results_dir.expanduser(), "mini": mini, "brought": features}
    same |= {"weights": weights, "offline": offline, "layers": variants.layers, "pools": variants.pools}
    same["device"] = _find_device(device, more.get("engine"))  # imports torch, so it comes after all names
    same["fresh_before"] = started_s if fresh_features else None
    asks = [
        {
            "named": named,
            "encoder": encoder,
            "model": name,
            "root": None if mini else find_corpus_root(named, cache, data_dir, features),
            "protocol": own,
            "seeds": seeds or own.seeds,
        }
        for (name, encoder, named), own in zip(chosen, rules, strict=True)
    ]
    return [RunConfig.of(**each, **same, variants=own) for each in asks for own in variants.list_all()]


def _check_one_corpus(data_dir: Path | None, tasks: Sequence[Named]) -> None:
    if data_dir and len({named.task.corpus.beside or named.task.corpus.name for named in tasks}) > 1:
        raise UsageError("--data-dir is of one corpus, these tasks have several: set BENCH_DATA to the folder of all")


def _find_device(device: str, engine: str | None) -> str:
    """The device that a word stands for. Raises UsageError for one that is not there, or that the engine chooses itself."""
    found = resolve_device(device)
    if ":" in found and engine == "ray":
        raise UsageError(f"--device {found}: Ray chooses the GPUs of its encoders; give --device cuda")
    return found


def _check_values(options: dict[str, Any]) -> None:
    """Raise UsageError for a word or a number that an option cannot have."""
    for name, choices in CHOICES.items():
        value = options.get(name, choices[0])
        if value not in choices:
            hint = suggest_name(str(value), choices) or f"; choose from {', '.join(filter(None, choices))}"
            raise UsageError(f"--{name} {value}: no such choice{hint}")
    for name in ("layers", "head", "protocol"):
        value = options.get(name)
        if value is not None and not isinstance(value, str):
            raise UsageError(f"--{name} {shorten_repr(value)}: give it as a text")
    for name in ("seeds", "limit", "workers", "batch_size"):
        value = options.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(
                f"--{name.replace('_', '-')} {shorten_repr(value)}: give a whole number from 1 on, or leave it out"
            )

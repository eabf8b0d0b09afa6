"""Where things are kept: one cache root, corpora under it or where the user says."""

from __future__ import annotations

import os
from pathlib import Path


def find_cache_root(option: Path | None = None) -> Path:
    """`--cache-dir`, else the environment's `BENCH_CACHE`, else the platform's cache folder for `marble-bench`."""
    if option is not None:
        return option.expanduser()
    if os.environ.get("BENCH_CACHE"):
        return Path(os.environ["BENCH_CACHE"]).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("marble-bench")


def find_data_dir(corpus: str, cache: Path, option: Path | None = None, beside: str = "") -> Path:
    """`--data-dir`, else `BENCH_DATA`/<corpus>, else <cache>/data/<corpus>. Not checked to exist.

    beside: another corpus whose folder is taken where this one has none.
    """
    if option is not None:
        return option.expanduser()
    base = Path(os.environ["BENCH_DATA"]).expanduser() if os.environ.get("BENCH_DATA") else cache / "data"
    return base / beside if beside and not (base / corpus).is_dir() else base / corpus

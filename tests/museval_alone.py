"""`museval.metrics` without `museval`'s own import, which asks for ffmpeg and ffprobe: it imports `musdb` and `stempeg`."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType


@lru_cache(maxsize=1)
def load_museval_measures() -> ModuleType:
    """The module that holds museval's measures, which need neither."""
    package = importlib.util.find_spec("museval")
    assert package is not None
    assert package.submodule_search_locations, "museval is not installed"
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("_museval_metrics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

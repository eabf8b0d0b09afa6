"""Score a frozen music encoder on the field's tasks.

The Python API is here: `import marble_bench as mb`, then `mb.run`, `mb.extract`, `mb.load_results` and others
(`marble_bench.api`). What a plug-in's author writes with is here too: `from marble_bench import Encoder, Layer, Task, ...`.
Importing this package is free: torch and the rest load where they are used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marble_bench.api import compare as compare
    from marble_bench.api import extract as extract
    from marble_bench.api import extract_layers as extract_layers
    from marble_bench.api import leaderboard as leaderboard
    from marble_bench.api import load_results as load_results
    from marble_bench.api import run as run
    from marble_bench.audio import Normalize as Normalize
    from marble_bench.core.encoder import Encode as Encode
    from marble_bench.core.encoder import Encoder as Encoder
    from marble_bench.core.encoder import Layer as Layer
    from marble_bench.core.encoder import Pool as Pool
    from marble_bench.core.encoder import stack as stack
    from marble_bench.core.head import Head as Head
    from marble_bench.core.head import TrainingSet as TrainingSet
    from marble_bench.core.protocol import Protocol as Protocol
    from marble_bench.core.task import Clip as Clip
    from marble_bench.core.task import Corpus as Corpus
    from marble_bench.core.task import Fault as Fault
    from marble_bench.core.task import Schedule as Schedule
    from marble_bench.core.task import Separation as Separation
    from marble_bench.core.task import Task as Task
    from marble_bench.core.task import Window as Window
    from marble_bench.core.task_rules import TaskRules as TaskRules
    from marble_bench.core.task_set import TaskSet as TaskSet
    from marble_bench.data.splits import draw_splits as draw_splits
    from marble_bench.encoders.hear import from_hear as from_hear
    from marble_bench.encoders.live import from_function as from_function
    from marble_bench.encoders.live import from_torch as from_torch
    from marble_bench.errors import BenchError as BenchError
    from marble_bench.errors import DataError as DataError
    from marble_bench.errors import UsageError as UsageError
    from marble_bench.files.source import Source as Source
    from marble_bench.scoring.frame_targets import BinPart as BinPart
    from marble_bench.scoring.frame_targets import ClassPart as ClassPart
    from marble_bench.scoring.frame_targets import Frames as Frames
    from marble_bench.scoring.frame_targets import MomentPart as MomentPart
    from marble_bench.scoring.frame_targets import SegmentPart as SegmentPart
    from marble_bench.scoring.frame_targets import SpanPart as SpanPart
    from marble_bench.scoring.frame_targets import TagPart as TagPart
    from marble_bench.scoring.frame_targets import ValuePart as ValuePart
    from marble_bench.scoring.metric import Measure as Measure
    from marble_bench.scoring.metric import Metric as Metric
    from marble_bench.scoring.targets import Classes as Classes
    from marble_bench.scoring.targets import Events as Events
    from marble_bench.scoring.targets import MaskedTags as MaskedTags
    from marble_bench.scoring.targets import Ranking as Ranking
    from marble_bench.scoring.targets import Scalars as Scalars
    from marble_bench.scoring.targets import Stems as Stems
    from marble_bench.scoring.targets import Tags as Tags

    __version__: str

# In a checkout `tasks/` and `probes/` lie beside this folder; installed, they lie inside it. Looking in both places
# makes `marble_bench.tasks` mean the same everywhere, an uninstalled clone and a spawned worker included.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "tasks").is_dir():
    __path__.append(str(_checkout))

_PUBLIC = {
    "BenchError": "errors",
    "BinPart": "scoring.frame_targets",
    "ClassPart": "scoring.frame_targets",
    "Classes": "scoring.targets",
    "Clip": "core.task",
    "Corpus": "core.task",
    "DataError": "errors",
    "Encode": "core.encoder",
    "Encoder": "core.encoder",
    "Events": "scoring.targets",
    "Fault": "core.task",
    "Frames": "scoring.frame_targets",
    "Head": "core.head",
    "Layer": "core.encoder",
    "MaskedTags": "scoring.targets",
    "Measure": "scoring.metric",
    "Metric": "scoring.metric",
    "MomentPart": "scoring.frame_targets",
    "Normalize": "audio",
    "Pool": "core.encoder",
    "Protocol": "core.protocol",
    "Scalars": "scoring.targets",
    "Schedule": "core.task",
    "SegmentPart": "scoring.frame_targets",
    "Separation": "core.task",
    "Source": "files.source",
    "Ranking": "scoring.targets",
    "SpanPart": "scoring.frame_targets",
    "Stems": "scoring.targets",
    "TagPart": "scoring.frame_targets",
    "Tags": "scoring.targets",
    "Task": "core.task",
    "TaskRules": "core.task_rules",
    "TaskSet": "core.task_set",
    "TrainingSet": "core.head",
    "ValuePart": "scoring.frame_targets",
    "UsageError": "errors",
    "Window": "core.task",
    "compare": "api",
    "draw_splits": "data.splits",
    "extract": "api",
    "extract_layers": "api",
    "from_function": "encoders.live",
    "from_hear": "encoders.hear",
    "from_torch": "encoders.live",
    "leaderboard": "api",
    "load_results": "api",
    "run": "api",
    "stack": "core.encoder",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """A public name, its module imported when it is first used; the version, when it is first asked for."""
    if name == "__version__":
        found = import_module("marble_bench._version").version()
    elif name in _PUBLIC:
        found = getattr(import_module(f"marble_bench.{_PUBLIC[name]}"), name)
    else:
        raise AttributeError(f"module 'marble_bench' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})

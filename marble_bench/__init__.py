"""Score a frozen music encoder on the field's tasks.

Importing this package is free: torch and the rest load where they are used.
"""

from pathlib import Path

from marble_bench._version import __version__

# In a checkout `tasks/` and `probes/` stand beside this folder; installed, they lie inside it. Looking in both places
# makes `marble_bench.tasks` mean the same everywhere, an uninstalled clone and a spawned worker included.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "tasks").is_dir():
    __path__.append(str(_checkout))

__all__ = ["__version__"]

"""The tasks: one short file each, found by its name. `BENCH_TASKS` (folders, as in PATH) adds a user's own.

Installed, this package is `marble_bench.tasks`.
"""

import os

__path__ += [folder for folder in os.environ.get("BENCH_TASKS", "").split(os.pathsep) if folder]

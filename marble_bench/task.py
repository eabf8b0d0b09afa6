"""The old place of `marble_bench.core.task`, for one version."""

import warnings

from marble_bench.core.task import *

warnings.warn("marble_bench.task has moved: import from marble_bench", DeprecationWarning, stacklevel=2)

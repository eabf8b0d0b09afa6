"""The old place of `marble_bench.scoring.targets`, for one version."""

import warnings

from marble_bench.scoring.targets import *

warnings.warn("marble_bench.targets has moved: import from marble_bench", DeprecationWarning, stacklevel=2)

"""The old place of `marble_bench.core.encoder`, for one version."""

import warnings

from marble_bench.core.encoder import *

warnings.warn("marble_bench.encoder has moved: import from marble_bench", DeprecationWarning, stacklevel=2)

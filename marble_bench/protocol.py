"""The old place of `marble_bench.core.protocol`, for one version."""

import warnings

from marble_bench.core.protocol import *

warnings.warn("marble_bench.protocol has moved: import from marble_bench", DeprecationWarning, stacklevel=2)

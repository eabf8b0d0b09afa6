"""The old place of `marble_bench.files.source`, for one version."""

import warnings

from marble_bench.files.source import *

warnings.warn("marble_bench.source has moved: import from marble_bench", DeprecationWarning, stacklevel=2)

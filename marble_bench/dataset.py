"""The old place of `marble_bench.data.hf`, for one version."""

import warnings

from marble_bench.data.hf import *

warnings.warn("marble_bench.dataset has moved: import from marble_bench.data.hf", DeprecationWarning, stacklevel=2)

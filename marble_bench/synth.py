"""The old place of `marble_bench.audio.synth`, for one version."""

import warnings

from marble_bench.audio.synth import *

warnings.warn("marble_bench.synth has moved: import from marble_bench.audio.synth", DeprecationWarning, stacklevel=2)

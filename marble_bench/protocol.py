"""The old place of `marble_bench.core.protocol`, for one version."""

import warnings

from marble_bench.core.plugins import find_protocol as find_protocol
from marble_bench.core.protocol import *
from marble_bench.protocols.jukemir import PROTOCOL as JUKEMIR
from marble_bench.protocols.linear import PROTOCOL as LINEAR
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.protocols.marble_bidirectional import PROTOCOL as MARBLE_BIDIRECTIONAL

PROTOCOLS = {each.name: each for each in (MARBLE, MARBLE_BIDIRECTIONAL, JUKEMIR, LINEAR)}

warnings.warn("marble_bench.protocol has moved: import from marble_bench", DeprecationWarning, stacklevel=2)

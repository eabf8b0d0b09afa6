"""`marble2` as MARBLE's code does it by accident: the weights of the last epoch, and validation clip by clip.

Only to reproduce a number: it is a protocol of its own, and never ranked beside `marble2`. MTT and MTG-Jamendo validate
files there, and here.
"""

from dataclasses import replace

from .marble2 import PROTOCOL as MARBLE2
from .marble2 import SHARED

PROTOCOL = replace(
    MARBLE2,
    name="marble2-shipped",
    description="marble2 as MARBLE's code runs it: weights of the last epoch, validation by single clips",
    kept="last",
    validated="windows",
    departures=SHARED,
)

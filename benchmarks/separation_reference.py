"""BSSEval on the real MUSDB18 sample: ours against museval run here, and against museval's own regression figures.

    python benchmarks/separation_reference.py FOLDER

FOLDER holds `train/Music Delta - 80s Rock.stem.mp4` and `museval-reference.json`, both from museval's test data. Its test's
estimates are uniform noise from `numpy.random.seed(0)`; references are the vocals and the sum of the other stems, 16 bits.
Prints the largest difference in dB of each measure. museval takes some seconds here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from marble_bench import audio
from marble_bench.metrics._bsseval import MEASURES, bss_eval
from marble_bench.separation import stems
from marble_bench.separation.bsseval_pool import round_to_16_bits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

RATE = 44100


def main(folder: Path) -> None:
    """See the module."""
    from museval_alone import load_museval_measures

    path = folder / "train" / "Music Delta - 80s Rock.stem.mp4"
    parts = {
        part: round_to_16_bits(audio.read_channels(path, stream=index)).T.astype(np.float64)
        for index, part in enumerate(stems.STREAMS)
    }
    true = np.stack([parts["vocals"], parts["drums"] + parts["bass"] + parts["other"]])
    old = np.random.RandomState(0)  # what museval's test draws from
    guess = np.stack([old.random_sample(true[0].shape) for _ in range(2)])
    ours = bss_eval(true, guess, RATE)
    theirs = dict(zip(MEASURES, load_museval_measures().bss_eval(true, guess, window=RATE, hop=RATE)[:4], strict=True))
    reference = json.loads((folder / "museval-reference.json").read_text())
    for name in MEASURES:
        published = [[frame["metrics"][name.upper()] for frame in each["frames"]] for each in reference["targets"]]
        here, there = np.abs(ours[name] - theirs[name]).max(), np.abs(ours[name] - np.array(published)).max()
        print(
            f"{name}: from museval here {here:.1e} dB, from museval {reference['museval_version']}'s figures {there:.1e} dB"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

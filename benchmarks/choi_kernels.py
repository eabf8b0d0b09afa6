"""Are CHOI's kernels stored turned round? Asked of its own tag head, which hears genres only if they are applied as trained.

The published weights come with a layer of fifty tags, some of which are genres of GTZAN. For each of the four ways to
turn the kernels: how well a genre's tag tells its clips from the others', as ROC AUC, 0.5 being chance. Clips below 29 s
are repeated; each is normalised by its own statistics.

python benchmarks/choi_kernels.py weights_layer4_theano.hdf5 GTZAN_FOLDER [--per-genre 10]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

# Genre of GTZAN -> the tag that means it, by its place among the fifty most frequent of the Million Song Dataset's.
TAGS = {"blues": 26, "country": 36, "disco": 6, "hiphop": 33, "jazz": 9, "metal": 11, "pop": 1, "rock": 0}
WAYS = {
    "turned in both, as Theano does": (),
    "as stored": (2, 3),
    "turned in frequency alone": (3,),
    "turned in time alone": (2,),
}


def main() -> None:
    """Encode some clips of each genre in each of the four ways, and print the areas."""
    import h5py
    import numpy as np
    import torch
    from sklearn.metrics import roc_auc_score

    from marble_bench import audio
    from marble_bench.encoders import choi
    from marble_bench.encoders.tensors import read_exactly

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("gtzan", type=Path)
    parser.add_argument("--per-genre", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (encoder, _), path = choi.ENCODERS, Path(folder) / "choi.safetensors"
        assert encoder.convert is not None
        encoder.convert(options.weights, path)
        tensors = read_exactly(path, choi.SHAPES, "cpu", of="CHOI")
    with h5py.File(options.weights) as file:
        head, bias = file["dense_1/dense_1_W"][()], file["dense_1/dense_1_b"][()]
    files = [
        path for genre in TAGS for path in sorted((options.gtzan / "genres" / genre).iterdir())[: options.per_genre]
    ]
    genres, filters = np.array([path.parent.name for path in files]), choi.mel_filters("cpu")
    heard: dict[str, list[object]] = {way: [] for way in WAYS}
    for path in files:
        waveform = audio.read(path, sample_rate_hz=choi.SAMPLE_RATE_HZ)
        whole = np.resize(waveform, choi.STRETCH)  # repeats what is too short
        with torch.inference_mode():
            level = choi.decibels(torch.from_numpy(whole)[None], filters)
            for way, axes in WAYS.items():
                turned = {name: each.flip(axes) if name.endswith("weight") else each for name, each in tensors.items()}
                heard[way].append(choi.averages(level, turned)[-1][0].numpy() @ head + bias)
    for way, answers in heard.items():
        tags = np.stack(answers)
        areas = {genre: roc_auc_score(genres == genre, tags[:, tag]) for genre, tag in TAGS.items()}
        print(
            f"{way:32} mean {np.mean(list(areas.values())):.3f}   "
            + " ".join(f"{genre} {area:.2f}" for genre, area in areas.items())
        )


if __name__ == "__main__":
    main()

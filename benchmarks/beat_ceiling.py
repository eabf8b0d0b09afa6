"""What the beat decoder makes of perfect activations: the ceiling of every beat score.

    python benchmarks/beat_ceiling.py --annotations DIR [--rate 75] [--shift 0.06]

DIR holds GTZAN's beat annotations in a form that the task reads (JAMS or .beats). Activations are what a perfect probe
gives: the labels that probes are trained with, highest in the middle (0.98, neighbours 0.5, elsewhere 0.01, and noise of
0.001 so that no two walks are equally likely). They are decoded and scored against the annotations; tracks below 0.9 are
named with their
tempo. If madmom is importable, its own decoder is run side by side.
"""

import argparse
from pathlib import Path

import numpy as np
from marble_bench.tasks.corpora.gtzan_rhythm import annotation_files, read

from marble_bench.metrics import beats
from marble_bench.scoring import beat_decoder
from marble_bench.scoring.frame_targets import MomentPart

EXCERPT_S = 30.0


def make_activations(times, rate_hz: float) -> np.ndarray:
    """`(frames,)`: the training labels of beats as a certain probe would give them."""
    count = round(max(EXCERPT_S, times[-1] + 0.2) * rate_hz)
    curve = 0.01 + 0.49 * MomentPart("beat").mark_frames(times, count, rate_hz)[:, 0].astype(np.float64)
    curve[np.round(np.array(times) * rate_hz).astype(int)] = 0.98
    return curve + np.random.default_rng(count).uniform(0, 1e-3, count)


def compute_pooled_f(counts: list[tuple[int, int, int]]) -> float:
    """F over all tracks from hits, found and annotated."""
    hits, found, annotated = np.sum(counts, axis=0)
    return float(2 * hits / (found + annotated))


def measure(found, truths, tolerance_s: float) -> list[tuple[int, int, int]]:
    """Hits, found and annotated beats of each track."""
    return [(beats._hits(np.array(t), f, tolerance_s), len(f), len(t)) for f, t in zip(found, truths, strict=True)]


def report(name: str, found, truths, tracks) -> None:
    """Pooled scores, and the tracks that fail."""
    print(
        f"{name}: F {compute_pooled_f(measure(found, truths, 0.07)):.4f} at 70 ms, "
        f"{compute_pooled_f(measure(found, truths, 0.02)):.4f} at 20 ms"
    )
    by_track = [compute_pooled_f([each]) for each in measure(found, truths, 0.07)]
    bad = [index for index, score in enumerate(by_track) if score < 0.9]
    print(f"  {len(bad)} of {len(tracks)} tracks below 0.9")
    for index in sorted(bad, key=lambda index: by_track[index]):
        gaps = np.diff(truths[index])
        bpm, spread = 60 / np.median(gaps), gaps.max() / gaps.min()
        outside = not 55 <= bpm <= 215
        why = "tempo outside 55-215" if outside else f"longest interval {spread:.1f} times the shortest"
        print(f"    {tracks[index]} {by_track[index]:.2f}: {bpm:.0f} bpm, {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=75.0, help="frames a second")
    parser.add_argument("--shift", type=float, default=0.06, help="seconds by which the second run is late")
    asked = parser.parse_args()
    files = annotation_files(asked.annotations)
    tracks = sorted(files)
    truths = [read(files[track])[0] for track in tracks]
    curves = [make_activations(times, asked.rate) for times in truths]
    found = beat_decoder.decode(curves, asked.rate)
    report(f"{len(tracks)} tracks at {asked.rate:g} frames a second", found, truths, tracks)
    late = [times + asked.shift for times in found]
    print(
        f"the same {1000 * asked.shift:.0f} ms late: F {compute_pooled_f(measure(late, truths, 0.07)):.4f} at 70 ms, "
        f"{compute_pooled_f(measure(late, truths, 0.02)):.4f} at 20 ms"
    )
    try:
        from madmom.features.beats import DBNBeatTrackingProcessor
    except ImportError:
        print("madmom is not importable here; nothing to compare with")
        return
    processor = DBNBeatTrackingProcessor(fps=asked.rate)
    theirs = [processor(curve) for curve in curves]
    same = sum(np.array_equal(mine, their) for mine, their in zip(found, theirs, strict=True))
    print(
        f"madmom's own decoder: F {compute_pooled_f(measure(theirs, truths, 0.07)):.4f} at 70 ms; "
        f"the same beats in {same} of {len(tracks)} tracks"
    )


if __name__ == "__main__":
    main()

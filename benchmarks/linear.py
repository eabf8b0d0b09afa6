"""How long protocol `linear` takes to solve its grid, and how far its answers are from scikit-learn's.

python benchmarks/linear.py [--only gtzan,mtt,emo] [--layers N] [--threads N] [--no-reference]

Features are synthetic half-precision ones of the sizes that the lines name. scikit-learn solves the same problems in
float64 (`LogisticRegression`, tol 1e-12; `Ridge`) on one layer, at the penalties that `--penalties` counts from the
weakest; its time is for those alone. The difference is the largest of a probability (of a prediction, for scalars) on the
validation windows.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from marble_bench.probes import trainer
from sklearn.linear_model import LogisticRegression, Ridge

from marble_bench.core.task import Schedule
from marble_bench.metrics import accuracy, r2, roc_auc
from marble_bench.protocols.linear import PROTOCOL as LINEAR
from marble_bench.scoring.targets import Loss


@dataclass(frozen=True)
class Case:
    """Features and labels of one size. clips: of train and valid."""

    clips: tuple[int, int]
    layers: int
    width: int
    outputs: int
    loss: Loss


CASES = {
    "gtzan": Case((443, 197), 13, 768, 10, "cross_entropy"),
    "mtt": Case((18706, 1825), 1, 768, 50, "binary_cross_entropy"),
    "emo": Case((560, 60), 13, 768, 2, "squared_error"),
}
SCORES = {"cross_entropy": accuracy, "binary_cross_entropy": roc_auc, "squared_error": r2}


def make_splits(case: Case, layers: int) -> list[trainer.Split]:
    """Train and valid: features in which the label can be heard, and neighbouring features are alike."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(case.outputs, case.width, generator=generator)
    mixing = torch.randn(case.width, case.width, generator=generator) * torch.logspace(0, -2, case.width)
    splits = []
    for clips in case.clips:
        if case.loss == "cross_entropy":
            truth = torch.randint(0, case.outputs, (clips,), generator=generator)
            heard = centers[truth]
        elif case.loss == "binary_cross_entropy":
            truth = (torch.rand(clips, case.outputs, generator=generator) < 0.06).float()
            truth[: case.outputs] += torch.eye(case.outputs)  # every tag at least once
            heard = truth.clamp_(max=1) @ centers
        else:
            truth = torch.randn(clips, case.outputs, generator=generator)
            heard = truth @ centers
        own = [torch.randn(clips, case.width, generator=generator) @ mixing.T for _ in range(layers)]
        splits.append(trainer.Split([(each + heard / 2).half() for each in own], torch.arange(clips), truth))
    return splits


def fit_reference(case: Case, x: np.ndarray, y: np.ndarray, held: np.ndarray, penalty: float) -> np.ndarray:
    """scikit-learn's answers for `held`: probabilities, or predictions."""
    if case.loss == "squared_error":
        return Ridge(alpha=penalty * len(x)).fit(x, y).predict(held)
    solver = {"C": 1 / (penalty * len(x)), "tol": 1e-12, "max_iter": 100_000}
    if case.loss == "cross_entropy":
        return LogisticRegression(**solver, solver="newton-cg").fit(x, y).predict_proba(held)
    newton = {**solver, "solver": "newton-cholesky"}
    return np.stack([LogisticRegression(**newton).fit(x, tag).predict_proba(held)[:, 1] for tag in y.T], axis=1)


def compute_answers(case: Case, outputs: torch.Tensor) -> np.ndarray:
    """Probabilities, or predictions, of a probe's outputs."""
    exact = outputs.double()
    if case.loss == "cross_entropy":
        return exact.softmax(dim=1).numpy()
    return (exact.sigmoid() if case.loss == "binary_cross_entropy" else exact).numpy()


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="cases, with commas")
    parser.add_argument("--layers", type=int, default=0, help="of each case; 0: its own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--penalties", type=int, default=len(LINEAR.penalties), help="that scikit-learn solves too")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.only.split(","):
        case = CASES[name]
        layers = asked.layers or case.layers
        train, valid = make_splits(case, layers)
        recipe = trainer.Recipe(LINEAR, Schedule(), case.outputs, case.loss, SCORES[case.loss].compute)
        probes = trainer.build_grid(LINEAR, range(layers), False, 1)
        started, used = time.perf_counter(), time.process_time()
        fitted = trainer.fit(probes, train, valid, recipe)
        took, cores = time.perf_counter() - started, time.process_time() - used
        line = (
            f"{name}: {case.clips[0]} windows x {layers} layers x {case.width}, {case.outputs} outputs, "
            f"{len(probes)} probes: {took:.1f} s, {cores:.1f} core-seconds, {sum(one.diverged for one in fitted)} diverged"
        )
        first = [one for one in fitted if one.probe.layer == 0]
        if asked.penalties:
            x, held = (each.layers[0].double().numpy() for each in (train, valid))
            mean, spread = x.mean(axis=0), x.std(axis=0)
            apart, started = [], time.perf_counter()
            for one in first[-asked.penalties :]:
                theirs = fit_reference(
                    case, (x - mean) / spread, train.truth.numpy(), (held - mean) / spread, one.probe.weight_decay
                )
                if one.state:
                    ours = compute_answers(case, trainer.predict_windows(one, valid, recipe))
                    apart.append(float(np.abs(ours - theirs).max()))
            line += f"; scikit-learn, one layer, {asked.penalties} penalties: {time.perf_counter() - started:.1f} s"
            line += f", answers apart by {', '.join(f'{each:.0e}' for each in apart)}"
        print(line, flush=True)


if __name__ == "__main__":
    main()

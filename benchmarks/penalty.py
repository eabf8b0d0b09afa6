"""Whether a linear probe's penalty is better chosen on the validation split or by cross-validation.

python benchmarks/penalty.py FEATURES.parquet TASK DATA_DIR

FEATURES: of `bench features export`, of a task of classes. For every layer, scikit-learn's logistic regression on z-scored
windows, with the penalties of protocol `linear`; accuracy on the test clips, in percent, of the penalty that was chosen

- on the validation split, as the protocol does;
- by five folds of the training clips;
- by five folds of training and validation clips together, the probe trained anew on both;
- on the test split itself: what no rule can beat.
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from marble_bench.data.hf import dataset
from marble_bench.protocols.linear import PROTOCOL as LINEAR


def main() -> None:
    """Print a line for each layer and the means."""
    features, task, root = sys.argv[1:]
    table = pq.read_table(features)
    clips = {split: {row["id"]: row["target"] for row in rows} for split, rows in dataset(task, root).items()}
    track, split = (np.array(table[name].to_pylist()) for name in ("track", "split"))
    label = np.array([clips[part][name] for part, name in zip(split, track, strict=True)])
    names = [name for name in table.column_names if name not in ("track", "split", "window")]
    print(f"{task}: {', '.join(f'{len(set(track[split == part]))} {part}' for part in ('train', 'valid', 'test'))}")
    found = []
    for name in names:
        x = np.array(table[name].to_pylist(), np.float32)
        found.append(score_layer(x, label, track, split))
        print(f"{name:16}" + "".join(f"{100 * score:8.1f}" for score in found[-1]), flush=True)
    print(f"{'mean':16}" + "".join(f"{100 * score:8.1f}" for score in np.mean(found, axis=0)))


def score_layer(
    x: np.ndarray, label: np.ndarray, track: np.ndarray, split: np.ndarray
) -> tuple[float, float, float, float]:
    """Test accuracy of a layer: by validation, by folds of training, by folds of both, by the test split."""
    train, valid, test = (split == part for part in ("train", "valid", "test"))
    both = train | valid
    on_valid, on_test, on_folds, both_test, both_folds = [], [], [], [], []
    for penalty in LINEAR.penalties:
        alone, more = (make_probe(penalty, part.sum()) for part in (train, both))
        alone.fit(x[train], label[train])
        chances = alone.predict_proba(x)
        on_valid.append(count_right(chances[valid], label[valid], track[valid], alone.classes_))
        on_test.append(count_right(chances[test], label[test], track[test], alone.classes_))
        on_folds.append(score_folds(alone, x[train], label[train], track[train]))
        more.fit(x[both], label[both])
        both_test.append(count_right(more.predict_proba(x[test]), label[test], track[test], more.classes_))
        both_folds.append(score_folds(more, x[both], label[both], track[both]))
    best = (on_test[np.argmax(on_valid)], on_test[np.argmax(on_folds)], both_test[np.argmax(both_folds)])
    return (*best, max(on_test))


def make_probe(penalty: float, windows: int):
    """Standardised logistic regression with the protocol's penalty, as `probes/exact.py` says."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / (penalty * windows), max_iter=1000))


def score_folds(model, x: np.ndarray, label: np.ndarray, track: np.ndarray) -> float:
    """Accuracy of five folds that keep a clip's windows together."""
    chances = cross_val_predict(
        model, x, label, groups=track, cv=GroupKFold(5, shuffle=True, random_state=0), method="predict_proba"
    )
    return count_right(chances, label, track, np.unique(label))


def count_right(chances: np.ndarray, label: np.ndarray, track: np.ndarray, classes: np.ndarray) -> float:
    """Share of clips whose windows' mean chance is highest for their class."""
    clips, of = np.unique(track, return_inverse=True)
    total = np.zeros((len(clips), chances.shape[1]))
    np.add.at(total, of, chances)
    truth = np.empty(len(clips), label.dtype)
    truth[of] = label
    return float((classes[total.argmax(axis=1)] == truth).mean())


if __name__ == "__main__":
    main()

"""Every metric against the library that the field takes as its authority."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from mir_eval.key import weighted_score
from sklearn.metrics import accuracy_score, average_precision_score, r2_score, roc_auc_score

from marble_bench.errors import UsageError
from marble_bench.metrics import accuracy, ap, r2, r2_of, roc_auc, weighted
from marble_bench.metrics._bsseval import bss_eval
from marble_bench.metrics.key import KEYS


@pytest.fixture(params=range(3))
def random(request):
    return np.random.default_rng(request.param)


def test_accuracy_is_sklearns(random):
    outputs, truth = random.normal(size=(4, 50, 7)), random.integers(0, 7, 50)
    ours = accuracy.compute(torch.from_numpy(outputs), torch.from_numpy(truth))
    assert ours.tolist() == [accuracy_score(truth, each.argmax(axis=1)) for each in outputs]
    clips = accuracy.per_clip(torch.from_numpy(outputs), torch.from_numpy(truth))
    assert clips.mean(dim=1).tolist() == pytest.approx(ours.tolist())


def test_r2_is_sklearns_in_each_dimension_and_on_average(random):
    truth = random.normal(3, 2, size=(60, 2))
    outputs = truth + random.normal(size=(4, 60, 2)) * [0.5, 3]
    batch = torch.from_numpy(outputs), torch.from_numpy(truth)
    assert r2.compute(*batch).tolist() == pytest.approx([r2_score(truth, each) for each in outputs])
    for dimension, name in enumerate(("arousal", "valence")):
        expected = [r2_score(truth[:, dimension], each[:, dimension]) for each in outputs]
        one = r2_of(name, dimension)
        assert one.name == f"r2_{name}"
        assert one.compute(*batch).tolist() == pytest.approx(expected)


def test_r2_does_not_depend_on_the_scale_of_the_label(random):
    truth, outputs = random.normal(size=(40, 2)), random.normal(size=(2, 40, 2))
    scale, shift = np.array([3.0, 0.2]), np.array([5.0, -1.0])
    before = r2.compute(torch.from_numpy(outputs), torch.from_numpy(truth))
    after = r2.compute(torch.from_numpy(outputs * scale + shift), torch.from_numpy(truth * scale + shift))
    assert after.tolist() == pytest.approx(before.tolist())


@pytest.mark.parametrize("decimals", [1, 9], ids=["many ties", "no ties"])
def test_roc_auc_and_average_precision_are_sklearns(random, decimals):
    outputs, truth = random.normal(size=(3, 80, 6)).round(decimals), (random.random((80, 6)) < 0.3).astype(int)
    batch = torch.from_numpy(outputs), torch.from_numpy(truth)
    assert roc_auc.compute(*batch).tolist() == pytest.approx([roc_auc_score(truth, each) for each in outputs])
    expected = [average_precision_score(truth, each) for each in outputs]
    assert ap.compute(*batch).tolist() == pytest.approx(expected)


def test_a_clips_own_order_is_sklearns(random):
    outputs, truth = random.normal(size=(20, 9)), (random.random((20, 9)) < 0.4).astype(int)
    truth[:, 0], truth[:, 1] = 0, 1  # every clip has both kinds, but for two
    truth[0], truth[1] = 0, 1
    ours = roc_auc.per_clip(torch.from_numpy(outputs)[None], torch.from_numpy(truth))[0].tolist()
    assert ours[:2] == [0.5, 0.5]
    assert ours[2:] == pytest.approx([roc_auc_score(t, o) for t, o in zip(truth[2:], outputs[2:], strict=True)])


def test_a_tag_without_both_kinds_of_clip_gives_no_score(random):
    truth = (random.random((30, 4)) < 0.5).astype(int)
    truth[:, 2] = 0
    batch = torch.from_numpy(random.normal(size=(2, 30, 4))), torch.from_numpy(truth)
    assert roc_auc.compute(*batch).isnan().all()
    assert ap.compute(*batch).isnan().all()


def test_the_key_score_is_mir_evals_with_ascending_fifths_only(random):
    outputs, truth = random.normal(size=(3, 200, 24)), random.integers(0, 24, 200)
    expected = [
        np.mean([weighted_score(KEYS[t], KEYS[o.argmax()]) for t, o in zip(truth, each, strict=True)])
        for each in outputs
    ]
    assert weighted.compute(torch.from_numpy(outputs), torch.from_numpy(truth)).tolist() == pytest.approx(expected)
    decided = torch.eye(24)[
        [KEYS.index("G major"), KEYS.index("F major"), KEYS.index("A minor"), KEYS.index("C minor")]
    ]
    of_c_major = torch.full((4,), KEYS.index("C major"))
    assert weighted.per_clip(decided[None], of_c_major).tolist() == [[0.5, 0.0, 0.3, 0.2]]


@pytest.mark.slow
def test_bss_eval_tells_how_loud_the_added_noise_is():
    random, rate = np.random.default_rng(0), 8000
    references = random.normal(size=(2, 3 * rate, 2))
    noise = random.normal(size=references.shape)
    scores = bss_eval(references, references + 0.1 * noise, rate)
    assert scores["sdr"].shape == (2, 3)
    # unit-variance sources, noise 20 dB below; the 512-tap filters explain a little of the noise away
    assert np.abs(scores["sdr"] - 20).max() < 1.0


def test_bss_eval_refuses_sources_of_different_lengths():
    with pytest.raises(UsageError, match="alike"):
        bss_eval(np.ones((2, 100, 1)), np.ones((2, 90, 1)), 10)


@pytest.mark.slow
def test_separation_is_scored_without_ffmpeg_on_the_path():
    code = (
        "import numpy as np\nfrom marble_bench.metrics._bsseval import bss_eval\n"
        "true = np.random.default_rng(0).normal(size=(1, 2000, 1))\nprint(bss_eval(true, 2 * true, 1000)['isr'].round(1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PATH": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[[0. 0.]]"

"""Targets asked frame by frame: labels at any rate, losses against torch's own, a toy task of two parts run whole."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PLUGINS
from marble_bench.probes import frame_losses, framewise
from marble_bench.probes.trainer import Probe, TrainedProbe
from sklearn.metrics import accuracy_score, f1_score, r2_score
from torch.nn import functional

from marble_bench import tasks
from marble_bench.audio import perturb
from marble_bench.core import keys, plugins
from marble_bench.core.task import Clip, Schedule
from marble_bench.data import checks, corpus
from marble_bench.data.hf import dataset
from marble_bench.data.times import clip_annotation
from marble_bench.errors import DataError, UsageError
from marble_bench.features.frames import Frames as StoredFrames
from marble_bench.metrics import accuracy, beat_metrics, frame_metrics
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.records import corpus_facts, results
from marble_bench.runs import frame_labels
from marble_bench.runs.frame_labels import Decoder, Scale, align_labels
from marble_bench.scoring import frame_answers
from marble_bench.scoring.frame_targets import BinPart, ClassPart, Frames, MomentPart, SegmentPart, TagPart, ValuePart
from marble_bench.scoring.metric import Measure, Metric
from marble_bench.scoring.statistics import compute_interval
from marble_bench.scoring.targets import Events

TASK = PLUGINS / "frames" / "toy_frames.py"
ROOT, SOUNDS, PITCH = (
    ClassPart("root", ("C", "E", "G")),
    TagPart("sounds", ("piano", "voice")),
    BinPart("pitch", (0, 100, 200, 300)),
)
LEVEL, BEAT = ValuePart("level"), MomentPart("beat")
PARTS = (ROOT, SOUNDS, BEAT, PITCH, LEVEL)
ANNOTATED = (
    ("C", None, "G", "E"),
    ((), ("voice",), None, ("piano", "voice")),
    (0.0, 0.9),
    (90.0, None, 149.0, 310.0),
    (1.0, 2.0, None, 6.0),
)
EVERY = Frames(PARTS, rate_hz=4.0, decode=frame_answers.decode)


def _labels(frames, rate_hz, scale=None, target=EVERY, annotated=ANNOTATED):
    encoded = [frame_labels._encode_annotation(part, each) for part, each in zip(target.parts, annotated, strict=True)]
    return align_labels(target, encoded, frames, rate_hz, scale)


def test_a_frame_takes_the_label_nearest_in_time_and_none_is_not_learnt():
    made = _labels(10, 8.0)  # a frame in 0.125 s, a label in 0.25 s: the fifth label, at 1 s, is not there
    assert made.shape == (10, 1 + 2 + 1 + 4 + 1)
    expected = [0, np.nan, np.nan, 2, 2, 1, 1, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(made[:, 0], expected)
    np.testing.assert_array_equal(made[[0, 2, 6], 1:3], [[0, 0], [0, 1], [1, 1]])
    assert np.isnan(made[4, 1:3]).all()
    np.testing.assert_array_equal(
        made[:, 3], [1, 1, 0, 0, 0, 0, 1, 1, 1, 0]
    )  # 0.9 s x 8 = 7.2: frame 7, and neighbours
    np.testing.assert_array_equal(made[[0, 4, 6], 4:8].argmax(axis=1), [1, 1, 3])
    assert np.isnan(made[2, 4:8]).all()
    coarse = _labels(3, 2.0)
    np.testing.assert_array_equal(coarse[:, 0], [0, 2, np.nan])


def test_what_is_not_annotated_of_a_clip_is_not_learnt():
    made = _labels(4, 4.0, annotated=(ANNOTATED[0], *[None] * 4))
    assert np.isfinite(made[:, 0]).sum() == 3
    assert np.isnan(made[:, 1:]).all()


def test_bins_are_a_gaussian_around_the_label_and_values_are_z_scores():
    part = BinPart("pitch", tuple(np.arange(0.0, 400.0, 20.0)), blur=25.0)
    (row,) = part.spread(np.array([[133.0]], np.float32))
    expected = np.exp(-0.5 * ((np.array(part.centres) - 133) / 25) ** 2)
    np.testing.assert_allclose(row, expected / expected.sum(), rtol=1e-4)
    far = part.spread(np.array([[1e6]], np.float32))[0]
    assert far.argmax() == 19
    assert far.sum() == pytest.approx(1)

    other = (*ANNOTATED[:4], (9.0, None))
    scale = Scale.of(EVERY, [ANNOTATED, other, (*ANNOTATED[:4], None)])
    known = np.array([1.0, 2.0, 6.0, 9.0])
    assert scale.by_part["level"] == pytest.approx((known.mean(), known.std()))
    learnt = _labels(4, 4.0, scale)[:, -1]
    np.testing.assert_allclose(learnt[[0, 1, 3]], (known[:3] - known.mean()) / known.std(), rtol=1e-6)
    back = scale.undo_normalization(LEVEL, learnt[:, None])[:, 0]
    np.testing.assert_allclose(back[[0, 1, 3]], known[:3], rtol=1e-6)


def _torchs_own(outputs, truth):
    """The five losses of one probe, written with torch's own functions. outputs, truth: `(frames, ...)`."""
    there = truth.isfinite()
    known = [there[:, 0], there[:, 1], there[:, 3], there[:, 4], there[:, 8]]
    entropy, binary = functional.cross_entropy, functional.binary_cross_entropy_with_logits
    return [
        entropy(outputs[known[0], 0:3], truth[known[0], 0].long()),
        binary(outputs[known[1], 3:5], truth[known[1], 1:3]),
        binary(outputs[known[2], 5], truth[known[2], 3]),
        entropy(outputs[known[3], 6:10], truth[known[3], 4:8]),
        functional.mse_loss(outputs[known[4], 10], truth[known[4], 8]),
    ]


@pytest.mark.slow
def test_losses_and_gradients_are_torchs_own():
    truth = torch.from_numpy(_labels(9, 9.0))
    outputs = torch.randn(2, 11, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = torch.stack([torch.stack(_torchs_own(probe.T, truth)) for probe in outputs])
    found, slope = frame_losses.compute_losses(PARTS, outputs.detach(), truth.T, truth.isfinite().sum(dim=0))
    torch.testing.assert_close(found, expected.detach())
    expected.sum().backward()
    torch.testing.assert_close(slope(), outputs.grad)
    assert outputs.grad.abs().sum(dim=(0, 2)).min() > 0  # every output has a part in it


def test_losses_of_chunks_add_up_to_that_of_the_whole():
    truth = torch.from_numpy(_labels(9, 9.0)).T
    outputs = torch.randn(2, 11, 9, generator=torch.Generator().manual_seed(1))
    counts = truth.isfinite().sum(dim=1)
    whole, slope = frame_losses.compute_losses(PARTS, outputs, truth, counts)
    parts = [
        frame_losses.compute_losses(PARTS, outputs[..., each], truth[:, each], counts)
        for each in (slice(0, 5), slice(5, 9))
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    torch.testing.assert_close(torch.cat([each() for _, each in parts], dim=2), slope())


def test_without_any_label_a_part_has_no_loss_and_no_gradient():
    truth = torch.full((9, 4), torch.nan)
    loss, slope = frame_losses.compute_losses(PARTS, torch.randn(1, 11, 4), truth, torch.zeros(9, dtype=torch.int64))
    assert not loss.any()
    assert not slope().any()


class _Memory:
    """Frames in memory, of one layer; see `framewise.FrameFeatures`."""

    widths, rates = [5], [8.0]

    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def length(self, layer, item):
        return len(self.clips[item])

    def read(self, layer, item, first, count):
        return self.clips[item][first : first + count]


def test_a_probe_of_several_parts_is_a_plain_torch_loop():
    random = np.random.default_rng(0)
    clips = [random.random((12 + 3 * item, 5)).astype(np.float16) for item in range(4)]
    held = framewise.Frameset(_Memory(clips), lambda layer, item: _labels(len(clips[item]), 12.0))
    protocol = replace(MARBLE, hidden=8, batch_size=2, dropout=0.0)
    recipe = framewise.Recipe(protocol, Schedule(4, 9, 9), PARTS, 100.0, stops_by=("root", "level"))
    (fitted,) = framewise.fit([Probe(0, 3e-2, 0.0, 0)], held, held, recipe)

    start = plugins.find_head("mlp").init(5, 8, 11, torch.Generator().manual_seed(2))
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    adam = torch.optim.Adam(weights.values(), lr=3e-2)

    def every(items):
        x = torch.cat([torch.from_numpy(clips[item]).float() for item in items])
        y = torch.cat([torch.from_numpy(held.truth(0, item)) for item in items])
        hidden = (x @ weights["first"] + weights["first_bias"]).relu()
        return _torchs_own(hidden @ weights["last"] + weights["last_bias"], y)

    order, history = torch.Generator().manual_seed(0), []
    for _ in range(4):
        items = []
        for item in torch.randperm(4, generator=order).tolist():
            torch.randint(1, (), generator=order)  # where the crop would begin
            items.append(item)
        for batch in (items[:2], items[2:]):
            adam.zero_grad()
            sum(every(batch)).backward()
            adam.step()
        with torch.no_grad():
            losses = every(range(4))
            history.append(-float(losses[0] + losses[4]))
    assert list(fitted.history) == pytest.approx(history, rel=1e-4)
    _, outputs = next(iter(framewise.compute_activations([fitted], held, recipe)))
    sums = [outputs[0][:, part].sum(axis=1) for part in (slice(0, 3), slice(6, 10))]
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    assert ((outputs[0][:, 3:6] > 0) & (outputs[0][:, 3:6] < 1)).all()


def _random_clips(random, target, count=7):
    """Annotations and activations of some clips, and all labelled frames of each part side by side."""
    annotated, found = [], []
    for clip in range(count):
        frames = 5 + clip
        roots = [None if random.random() < 0.2 else str(random.choice(ROOT.labels)) for _ in range(frames)]
        tags = [
            None if random.random() < 0.2 else tuple(t for t in SOUNDS.labels if random.random() < 0.5) for _ in roots
        ]
        pitch = [None if random.random() < 0.2 else float(random.uniform(0, 300)) for _ in roots]
        level = [None if random.random() < 0.2 else float(random.normal(-20, 5)) for _ in roots]
        annotated.append((tuple(roots), tuple(tags), tuple(pitch), None if clip == 2 else tuple(level)))
        found.append({part.name: random.random((frames + 3, part.width)).astype(np.float32) for part in target.parts})
    return annotated, found


def test_scores_are_scikit_learns_over_all_labelled_frames():
    target = Frames((ROOT, SOUNDS, PITCH, LEVEL), rate_hz=4.0)
    metrics = {metric.name: metric for metric in frame_metrics(target)}
    assert list(metrics) == ["root_accuracy", "sounds_f1", "pitch_accuracy", "r2_level"]
    annotated, found = _random_clips(np.random.default_rng(0), target)
    told = {part.name: ([], []) for part in target.parts}
    for clip, answers in zip(annotated, found, strict=True):
        for part, annotation in zip(target.parts, clip, strict=True):
            for label, answer in zip(annotation or (), answers[part.name], strict=False):
                if label is not None:
                    told[part.name][0].append(label)
                    told[part.name][1].append(answer)
    right = {
        "root_accuracy": accuracy_score(told["root"][0], [ROOT.labels[each.argmax()] for each in told["root"][1]]),
        "sounds_f1": f1_score(
            [[name in tags for name in SOUNDS.labels] for tags in told["sounds"][0]],
            np.array(told["sounds"][1]) >= 0.5,
            average="micro",
        ),
        "pitch_accuracy": accuracy_score(
            [round(each / 100) for each in told["pitch"][0]], [each.argmax() for each in told["pitch"][1]]
        ),
        "r2_level": r2_score(told["level"][0], [each[0] for each in told["level"][1]]),
    }
    measure = metrics["root_accuracy"].measure
    rows = measure.rows(found, annotated)[None]
    weights = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [2, 0, 1, 0, 3, 1, 0]])
    again = measure.rows(
        [each for each, n in zip(found, weights[1], strict=True) for _ in range(n)],
        [each for each, n in zip(annotated, weights[1], strict=True) for _ in range(n)],
    )[None]
    for name, metric in metrics.items():
        assert float(metric.compute(rows, torch.zeros(7))) == pytest.approx(right[name], abs=1e-6), name
        drawn = metric.weighted(rows, torch.zeros(7), weights)[:, 0]
        assert drawn.tolist() == pytest.approx([right[name], float(metric.compute(again, torch.zeros(7)))], abs=1e-6)
    assert metrics["r2_level"].per_clip(rows, torch.zeros(7)).isnan().tolist() == [[clip == 2 for clip in range(7)]]


def test_a_labelled_frame_that_is_not_answered_is_an_error_and_one_without_a_label_is_none():
    measure = frame_answers.measure_of(Frames((ROOT,), rate_hz=4.0))
    found = {"root": np.eye(3)}
    assert list(measure.of_clip(found, (("C", "E", "E", None, None),))) == [2, 3]
    with pytest.raises(UsageError, match="3 frames of root are answered, and frame 3 has a label"):
        measure.of_clip(found, (("C", "E", "E", "C"),))


def test_the_interval_of_few_clips_reaches_below_zero_where_the_score_of_values_does():
    target = Frames((LEVEL,), rate_hz=4.0)
    (metric,) = frame_metrics(target)
    random = np.random.default_rng(0)
    annotated = [(tuple(random.normal(size=9).tolist()),) for _ in range(3)]
    found = [{"level": random.normal(size=(9, 1))} for _ in annotated]
    rows = metric.measure.rows(found, annotated)[None]
    score = float(metric.compute(rows, torch.zeros(3)))
    interval = compute_interval(metric, rows, torch.zeros(3), ["a", "b", "c"])
    assert interval.low < score < 0


def test_the_trivial_answer_is_the_commonest_class_and_the_mean_of_the_training_labels():
    target = Frames((ROOT, LEVEL), rate_hz=4.0)
    measure = frame_answers.measure_of(target)
    train = [(("C", "C", None, "E"), (1.0, 2.0, None, 6.0)), (("E", "C"), None)]
    (found,) = measure.trivial(train, [1.1])
    assert found["root"].shape == (5, 3)
    assert found["root"][0].tolist() == pytest.approx([3 / 5, 2 / 5, 0])
    assert found["level"][:, 0].tolist() == [3.0] * 5


def test_what_goes_on_behind_the_audio_is_cut_and_far_behind_it_refused():
    target = Frames((ROOT, BEAT), rate_hz=2.0, decode=frame_answers.decode)
    inside, beyond = target.within((("C", None, "E", "G", None), (0.2, 1.4, 1.6)), "a", 1.5)
    assert inside == (("C", None, "E"), (0.2, 1.4))
    assert beyond == 2  # a G and a beat
    assert target.within((("C", "C"), None), "a", 1.5) == ((("C", "C"), None), 0)
    assert target.within((("C", "C", *[None] * 99), None), "a", 1.0)[1] == 0  # what has no label is no annotation
    with pytest.raises(DataError, match=r"lasts 1\.00 s and is annotated up to 4\.00 s"):
        target.within(((*[None] * 8, "C"), None), "a", 1.0)


def test_a_last_segment_without_a_class_is_cut_at_the_end_of_the_audio_too():
    labels = ("a", "b")
    target = Frames((ClassPart("kind", labels), SegmentPart("stretches")), rate_hz=2.0)
    clip = Clip("a", "test", "a.wav", (("a",) * 8 + (None,) * 4, ((0.0, 4.0, "a"), (4.0, 6.0, "neither"))))
    cut, beyond = clip_annotation(target, clip, 4.5)
    assert cut.target[1] == ((0.0, 4.0, "a"), (4.0, 4.5, "neither"))
    assert len(cut.target[0]) == 9
    assert beyond == 0


def test_a_clip_whose_labels_are_all_behind_its_audio_is_refused_by_name():
    target = Frames((ClassPart("kind", ("a", "b")), SegmentPart("stretches")), rate_hz=2.0)
    labels = ((None,) * 9 + ("a",), ((4.5, 5.0, "a"),))
    assert target.within(labels, "x", 5.0) == (labels, 0)
    with pytest.raises(DataError, match=r"clip 'x' lasts 4\.50 s, and all that is annotated of it is of later times"):
        target.within(labels, "x", 4.5)


def test_labels_that_end_before_half_of_the_audio_are_named():
    target = Frames((ClassPart("kind", ("a", "b")), MomentPart("click")), rate_hz=2.0, decode=print)
    clips = [Clip(str(many), "test", "a.wav", (("a",) * many, (9.0,))) for many in (4, 11, 20)]
    (warning,) = checks.check_early_ends(target, [(clip, 10.0) for clip in clips])
    assert "of 1 clip end before half of the audio: 4;" in warning
    assert not checks.check_early_ends(target, [(clip, 2.0) for clip in clips])
    moments = Frames((MomentPart("click"),), decode=print)
    assert not checks.check_early_ends(moments, [(Clip("a", "test", "a.wav", ((0.1,),)), 10.0)])


def test_a_target_follows_audio_that_is_stretched():
    target = Frames((ROOT, BEAT), rate_hz=10.0, decode=frame_answers.decode)
    roots = tuple("CEG"[min(k // 10, 2)] for k in range(30))
    moved, beats = target.changed((roots, (0.9, 2.7)), "time-stretch", 2.5)
    rate = 0.9 / beats[0]
    assert rate != 1
    for k, root in enumerate(moved):
        assert root == "CEG"[min(int((k / 10 * rate) + 0.05), 2)], k
    assert target.changed((roots, (0.9, 2.7)), "gain", 2.5) == (roots[:25], (0.9,))
    assert target.changed((None, (2.7,)), "gain", 2.5) is None


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (("C",), "give an annotation for each of"),
        ((None, None), "has nothing annotated of"),
        ((("C", "D"), None), r"has the root 'D', which is no label of that part"),
        (("C", None), "give a label for each frame, or None"),
        ((None, (1.0, "loud")), "has a level that is no number"),
        ((None, (1.0, float("nan"))), "not finite; None means no label"),
    ],
)
def test_an_annotation_in_another_form_is_named_with_its_clip(annotation, words):
    target = Frames((ROOT, LEVEL), rate_hz=4.0)
    with pytest.raises(DataError, match=f"clip 'a' .*{words}"):
        target.encode([annotation], ["a"])


SEGMENTED = Frames((ROOT, SegmentPart("chords")), rate_hz=4.0)
SEGMENTS = ((0.0, 0.6, "C:maj"), (0.6, 1.3, "G:7"))


def test_segments_are_kept_as_annotated_and_follow_the_audio():
    target = (("C", "C", "G", "G"), SEGMENTS)
    assert SEGMENTED.answered == (ROOT,)
    assert SEGMENTED.width == 3
    assert SEGMENTED.encode([target], ["a"]).tolist() == [[4, 2]]
    (labels, cut), lost = SEGMENTED.within(target, "a", 0.5)
    assert (labels, cut, lost) == (("C", "C"), ((0.0, 0.5, "C:maj"),), 3)
    with pytest.raises(DataError, match=r"lasts 1\.00 s and is annotated up to 9\.00 s"):
        SEGMENTED.within((target[0], ((0.0, 9.0, "C:maj"),)), "a", 1.0)
    faster = SEGMENTED.changed(target, "time-stretch", 1.0)
    rate = 0.6 / faster[1][0][1]
    assert rate == pytest.approx(perturb.CHANGES["time-stretch"].rate)
    assert faster[1][1][1] == pytest.approx(min(1.3 / rate, 1.0))


@pytest.mark.parametrize(
    "segments",
    [((0.0, 0.6),), ((0.0, 0.6, 7),), ((0.5, 0.5, "C"),), ((0.0, 0.6, "C"), (0.5, 1.0, "G")), ((0.0, np.inf, "C"),)],
)
def test_what_is_no_segment_is_named_with_its_clip(segments):
    with pytest.raises(DataError, match=r"clip 'a' has .*chords"):
        SEGMENTED.encode([(("C",), segments)], ["a"])


def test_labels_are_counted_by_part():
    counts = EVERY.encode([ANNOTATED, (*ANNOTATED[:1], *[None] * 4)], ["a", "b"])
    np.testing.assert_array_equal(counts, [[3, 3, 2, 3, 3], [3, *[np.nan] * 4]])


def test_every_mistake_of_a_declaration_is_told_at_once():
    task = plugins.find_task(str(TASK)).task
    with pytest.raises(UsageError) as caught:
        replace(task, target=Frames((ROOT, BEAT, ClassPart("one", ("a",))), stops_by=("rot",)), metrics=(accuracy,))
    for words in (
        "rate_hz None: give the labels a second of root, one",
        "no decode: give the function that finds beat",
        "stops_by names rot: the parts are root, beat, one",
        "part 'one' has fewer than two labels",
        "metric 'accuracy' does not fit a target of kind Frames",
    ):
        assert words in str(caught.value)
    with pytest.raises(UsageError, match="part 'truth' would hide a column"):
        replace(task, target=Frames((ClassPart("truth", ("a", "b")),), rate_hz=1.0))
    other = frame_metrics(Frames((ROOT,), rate_hz=1.0))
    for target, words in (
        (replace(task.target, tuned_by="root_f1"), "tuned_by root_f1 and has no settings"),
        (replace(task.target, tuned_by="root_f1"), "tuned_by 'root_f1': name one of the task's metrics"),
        (Frames((SegmentPart("chords"), ROOT), rate_hz=1.0), "segments are not learnt: put another part before them"),
    ):
        with pytest.raises(UsageError, match=words):
            replace(task, target=target)
    with pytest.raises(UsageError, match="metrics have several measures"):
        replace(task, metrics=(*task.metrics, *other))


def test_what_a_part_declares_is_in_the_hash_of_its_task():
    named = plugins.find_task(str(TASK))
    target = named.task.target
    root, loudness = target.parts
    others = [
        replace(target, parts=(replace(root, labels=("C", "E", "A")), loudness)),
        replace(target, parts=(root, BinPart("loudness", (-40.0, -20.0)))),
        replace(target, rate_hz=10.0),
        replace(target, stops_by=("root",)),
    ]
    hashes = [keys.hash_task(replace(named, task=replace(named.task, target=each))) for each in (target, *others)]
    assert len(set(hashes)) == 5


def test_beats_are_one_use_of_it():
    events = Events(("beat", "downbeat"))
    assert isinstance(events, Frames)
    assert [type(part) for part in events.parts] == [MomentPart, MomentPart]
    assert (events.names, events.width, events.stops_by) == (("beat", "downbeat"), 2, ("beat",))
    assert not events.problems()
    assert len({id(metric.measure) for metric in beat_metrics}) == 1


def _peaks(clips, rate_hz, threshold):
    """The frames above a threshold that are higher than both neighbours, as times."""
    found = []
    for clip in clips:
        curve = np.pad(clip["onset"][:, 0], 1)
        is_peak = (curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:]) & (curve[1:-1] >= threshold)
        found.append({"onset": np.flatnonzero(is_peak) / rate_hz})
    return found


def _hits(found, target):
    from mir_eval.util import match_events

    return [len(match_events(np.array(target[0]), found["onset"], 0.05)), len(found["onset"]), len(target[0])]


def _pooled_f(outputs, truth):
    sums = outputs.sum(dim=-2)
    return 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


ONSETS = Metric(
    "onset_f1", "frames", _pooled_f, lambda o, t: o[..., 0], "mir_eval.onset", measure=Measure(_hits, _hits)
)


class _Frames(StoredFrames):
    """Frames of which only rates and lengths are asked."""

    def __init__(self, rates, lengths_s):
        self.rates, self.lengths_s = rates, lengths_s


def _decoder(target):
    return Decoder(target, framewise.Recipe(MARBLE, Schedule(), target.parts, 10.0), Scale(), "cpu")


def test_the_free_parameter_of_a_decode_is_chosen_by_the_main_metric_for_each_probe(monkeypatch):
    """Peaks of two heights, the lower ones false: the threshold between them is best, and lies elsewhere for each probe."""
    import mir_eval

    target = Frames((MomentPart("onset"),), decode=_peaks, settings=(0.1, 0.4, 0.7))
    onsets = [(0.1, 0.5, 0.9), (0.3, 0.8)]
    fitted = [TrainedProbe(Probe(0, rate, 0.0, 0), 0.0, 0, (), False, {}) for rate in (1.0, 2.0, 3.0)]
    heights = [(0.6, 0.2), (0.9, 0.5), (0.9, 0.05)]  # of true peaks, and of one false peak in each clip

    def activations(members, split, recipe, device):
        for clip, times in enumerate(onsets):
            curves = np.full((len(members), 20, 1), 0.01, np.float32)
            for row, one in enumerate(members):
                true, false = heights[fitted.index(one)]
                curves[row, [round(20 * time) for time in times], 0] = true
                curves[row, 12 if clip else 4, 0] = false
            yield clip, curves

    monkeypatch.setattr(framewise, "compute_activations", activations)
    split = framewise.Frameset(_Frames([20.0], [1.0, 1.0]), None)
    judged = _decoder(target).choose_settings(fitted, split, [(times,) for times in onsets], ONSETS, target.settings)
    assert judged == [(1.0, 0.4), (1.0, 0.7), (1.0, 0.1)]  # of equals the first
    every = _decoder(target).decode(fitted, split, target.settings)
    for place, threshold in enumerate(target.settings):
        for probe, (true, false) in enumerate(heights):
            kept = [height >= threshold for height in (true, false)]
            for times, found in zip(onsets, every[place][probe], strict=True):
                assert len(found["onset"]) == kept[0] * len(times) + kept[1]
    (f, _, _), worst = mir_eval.onset.f_measure(np.array(onsets[0]), every[0][0][0]["onset"]), judged[0][0]
    assert f < worst
    monkeypatch.setattr(frame_labels, "HELD_BYTES", 1)  # a clip at a time
    again = _decoder(target).decode(fitted, split, target.settings)
    assert [[[f["onset"].tolist() for f in p] for p in s] for s in again] == [
        [[f["onset"].tolist() for f in p] for p in s] for s in every
    ]


def test_answers_are_asked_at_the_rate_of_the_labels_whatever_the_layers_is(monkeypatch):
    target = Frames((ROOT, LEVEL), rate_hz=5.0)
    outputs = np.arange(3 * 4, dtype=np.float32).reshape(1, 3, 4)  # three frames, 2 a second
    monkeypatch.setattr(framewise, "compute_activations", lambda *_: iter([(0, outputs)]))
    one = TrainedProbe(Probe(0, 1.0, 0.0, 0), 0.0, 0, (), False, {})
    decoder = replace(_decoder(target), scale=Scale({"level": (10.0, 2.0)}))
    (((found,),),) = decoder.decode([one], framewise.Frameset(_Frames([2.0], [2.0]), None), [None])
    at = [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]  # at 0, 0.2, 0.4 s ...; behind the last frame it answers
    np.testing.assert_array_equal(found["root"], outputs[0, at, :3])
    np.testing.assert_array_equal(found["level"], 10 + 2 * outputs[0, at, 3:])


@pytest.mark.slow
def test_a_task_of_two_parts_is_run_whole_checked_and_reproduced(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(TASK.parent)])  # as BENCH_TASKS does
    model = ("--model", "logmel", "--seeds", 1, "--mini", "--quiet")
    ended = bench("run", "--task", "toy-frames", *model, "--json", "--perturb", "gain")
    assert ended.code == 0, ended.err
    scores = ended.record["scores"]
    assert scores["root_accuracy"]["main"]
    assert scores["root_accuracy"]["trivial"] < 0.6 < 0.9 < scores["root_accuracy"]["test"]
    assert scores["r2_loudness"]["trivial"] <= 0 < 0.3 < scores["r2_loudness"]["test"]
    assert ended.record["perturbations"]["gain"]["scores"]["root_accuracy"]["test"] > 0.5

    (path,) = tmp_path.rglob("results/logmel/*/marble/toy-frames.*.json")
    table = pd.read_parquet(path.with_suffix(".predictions.parquet"))
    task = plugins.find_task("toy-frames").task
    targets = {clip.id: clip.target for clip in task.clips(None)}
    pairs = {"root": ([], []), "loudness": ([], [])}
    for row in table[table["split"] == "test"].itertuples():
        for name, annotation in zip(pairs, targets[row.clip], strict=True):
            for label, answer in zip(annotation, getattr(row, name), strict=True):
                if label is not None:
                    pairs[name][0].append(label)
                    pairs[name][1].append(answer)
        roots = [label for label in targets[row.clip][0] if label is not None]
        assert [task.target.parts[0].labels[int(each)] for each in row.truth] == roots
    labelled, answered = pairs["root"]
    again = accuracy_score(labelled, [task.target.parts[0].labels[int(each)] for each in answered])
    assert scores["root_accuracy"]["test"] == pytest.approx(again, abs=1e-12)
    assert scores["r2_loudness"]["test"] == pytest.approx(r2_score(*pairs["loudness"]), abs=1e-6)

    root = corpus.ensure_mini(task.corpus, tmp_path / "cache")
    checked = bench("results", "check", "--data-dir", root)
    assert checked.code == 0, checked.out + checked.err
    assert "not recomputed" not in checked.out
    stored = results.read(path)
    here = corpus_facts.Corpora(root).of(stored.record)
    assert not list(corpus_facts.find_disagreements(stored, table, here))
    table.at[table.index[table["split"] == "test"][0], "truth"] = [0.0]
    ((kind, words),) = corpus_facts.find_disagreements(stored, table, here)
    assert (kind, words[:42]) == ("truth", "1 test clips have another label in the cor")

    same = bench("reproduce", path, *("--task", "toy-frames"))
    assert same.code == 0, same.out + same.err


@pytest.mark.slow
def test_a_task_of_frames_is_checked_and_shown_as_a_dataset(bench, tmp_path):
    checked = bench("check", TASK)
    assert checked.code == 0, checked.err
    assert "truth (18, 2) float32" in checked.out
    shown = dataset(str(TASK), corpus.ensure_mini(plugins.find_task(str(TASK)).task.corpus, tmp_path / "cache"))
    row = shown["train"][0]["target"]
    kind = shown["train"].features["target"]["root"].feature
    assert [None if each is None else kind.int2str(each) for each in row["root"]] == list(
        plugins.find_task(str(TASK)).task.clips(None).__next__().target[0]
    )
    assert shown["train"][7]["target"]["loudness"] is None

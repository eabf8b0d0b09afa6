"""Beats end to end: annotations in every form and with every fault, labels, the run, the record."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from marble_bench.tasks.corpora import gtzan_rhythm
from marble_bench.tasks.corpora.gtzan_rhythm import annotation_files, clips, compose, jams, read

from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder, Layer, stack
from marble_bench.core.task import Clip
from marble_bench.data import corpus
from marble_bench.data.examples import Example, Examples
from marble_bench.data.hf import dataset
from marble_bench.data.times import clip_annotation
from marble_bench.errors import DataError, UsageError
from marble_bench.features.frames import Frames, Sound
from marble_bench.features.store import Span
from marble_bench.metrics import beat_metrics
from marble_bench.metrics.beats import COLUMNS, measure, steady
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.runs import frame_labels, frame_layers, inputs
from marble_bench.runs.config import RunConfig
from marble_bench.runs.inputs import Coverage, FeatureSource, Inputs
from marble_bench.runs.kinds import frames as kind
from marble_bench.scoring.targets import Events

TASK = plugins.find_task("gtzan-rhythm")


def _beats_file(folder, track="blues.00029", text="0.5\t1\n1.0\t2\n1.5\t3\n2.0\t1\n"):
    genre, number = track.split(".")
    path = folder / "gtzan_tempo_beat-main" / "beats" / f"gtzan_{genre}_{number}.beats"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_three_forms_of_annotation_say_the_same(tmp_path):
    _, beats, downbeats = compose("blues.00029")
    (tmp_path / "jams").mkdir()
    official = tmp_path / "jams" / "blues.00029.wav.jams"
    official.write_text(jams(beats, downbeats))
    lines = "".join(f"{time}\t{1 if time in downbeats else 2}\n" for time in beats)
    other = _beats_file(tmp_path, text=lines)
    assert read(official) == read(other) == (beats, downbeats)
    assert annotation_files(tmp_path) == {"blues.00029": official}  # the makers' own form comes first
    official.unlink()
    assert annotation_files(tmp_path) == {"blues.00029": other}
    (clip,) = clips(tmp_path)
    assert (clip.audio, clip.split, clip.target) == ("genres/blues/blues.00029.au", "train", (beats, downbeats))


def test_without_places_in_the_bar_there_are_no_downbeats(tmp_path):
    assert read(_beats_file(tmp_path, text="0.5\n1.0\n1.5\n")) == ((0.5, 1.0, 1.5), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 beats; two are needed"),
        ("0.5\t1\n", "has 1 beats; two are needed"),
        ("0.5\t1\n2.0\t2\n1.5\t3\n", r"the beat at 1\.5 s comes behind the one at 2 s"),
        ("0.5\t1\n0.5\t2\n", r"the beat at 0\.5 s comes behind the one at 0\.5 s"),
        ("-1.0\t1\n0.5\t2\n", r"beats run from -1 to 0\.5 s"),
        ("0.5\t1\nnan\t2\n", "line 2: has 'nan', which is no number"),
        ("time place\n0.5 1\n", "line 1: has 'time', which is no number"),
    ],
)
def test_a_bad_annotation_is_named_with_what_is_wrong(tmp_path, text, message):
    path = _beats_file(tmp_path, text=text)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="1 annotation files cannot be used"):
        list(clips(tmp_path))


def test_a_broken_jams_file_is_named(tmp_path):
    path = tmp_path / "blues.00029.wav.jams"
    twice = json.dumps({"annotations": 2 * [{"namespace": "beat", "data": [{"time": 1.0}]}]})
    for text in ("{", "{}", "[]", '{"annotations": [{"namespace": "beat", "data": [{}]}]}', twice):
        path.write_text(text)
        with pytest.raises(DataError, match=r"as JAMS writes it|is no whole JSON|a second annotation") as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_without_annotations_the_user_is_told_what_the_folder_should_hold(tmp_path):
    with pytest.raises(DataError, match=r"no beat annotations .*jams/<genre>"):
        list(clips(tmp_path))


def _config(task=None, **more):
    """The configuration of a run of GTZAN's beats, or of a task like it."""
    named = plugins.find_task("gtzan-rhythm")
    named = dataclasses.replace(named, task=task or named.task)
    encoder = plugins.find_encoder("logmel")
    given = {"encoder": encoder, "model": encoder.name, "protocol": MARBLE, "cache": Path(), "results": Path(), **more}
    return RunConfig.of(named=named, **given)


def _inputs(clips, sounds=()):
    """Inputs of a run on frames that nothing is stored of."""
    model = {"name": "m", "version": 1, "weights_sha256": "0"}
    return Inputs(Examples.of_clips(clips), Frames([], sounds, []), FeatureSource(model, {}), Coverage(False, []))


def test_what_lies_behind_the_end_is_left_out_and_what_lies_far_behind_is_refused():
    clip = Clip("a", "train", "a.wav", ((0.5, 1.0, 10.1), (0.5, 10.1)))
    inside, beyond = clip_annotation(Events(), clip, 10.0)
    assert inside.target == ((0.5, 1.0), (0.5,))
    assert beyond == 2
    assert clip_annotation(Events(), clip, 11.0) == (clip, 0)
    with pytest.raises(DataError, match=r"lasts 5\.00 s and is annotated up to 10\.10 s"):
        clip_annotation(Events(), clip, 5.0)
    with pytest.raises(DataError, match="fewer than two events"):
        clip_annotation(Events(), Clip("a", "train", "a.wav", ((9.0, 10.1), None)), 10.0)


def test_a_clip_that_lost_events_is_marked_and_no_known_fault_which_would_count_it_as_left_out(monkeypatch):
    sounds = [Sound(name, Span(name, "0:"), 10.0, lambda rate: None) for name in "ab"]
    clips = [Clip("a", "train", "a.wav", ((0.5, 1.0, 10.1), None)), Clip("b", "train", "b.wav", ((0.5, 1.0), None))]
    data = _inputs(clips, sounds)
    monkeypatch.setattr(inputs, "extract_all_frames", lambda *_: data)
    messages = []
    found, warnings = kind.read_inputs(_config(), SimpleNamespace(say=messages.append), frame_layers.Layers((), ()))
    assert [target[0] for target in found.examples.targets] == [(0.5, 1.0), (0.5, 1.0)]
    assert found.coverage.faults == []
    assert warnings == ["clip 'a': 1 events behind the end at 10.00 s left out"]
    assert messages == [f"warning: {warnings[0]}"]


def _tapped(beats, downbeats):
    """What is found in a clip, as a decoder gives it."""
    return {"beat": np.asarray(beats, np.float64), "downbeat": np.asarray(downbeats, np.float64)}


@dataclasses.dataclass(frozen=True)
class _Probe:
    name: str
    layer: int = 0


@dataclasses.dataclass(frozen=True)
class _TrainedProbe:
    probe: _Probe
    valid: float = -1.0


def test_probes_are_chosen_by_the_score_that_the_task_names_first(monkeypatch):
    """One probe finds few beats and no wrong one, the other all of them and as many between: F and AMLt disagree."""
    steady = np.arange(0.0, 12.0, 0.5)
    truth = (tuple(steady.tolist()), tuple(steady[::4].tolist()))
    clips = [Clip("a", "valid", "a.wav", truth)]
    gappy, doubled = steady[[*range(12), *range(14, 24)]], np.arange(0.0, 12.0, 0.25)
    found = {"gappy": _tapped(gappy, steady[::4]), "doubled": _tapped(doubled, steady[1::4])}

    def chosen_by(metric, each):
        return frame_labels.score(metric, metric.chooses or metric.measure, [each], [truth])

    for metric in beat_metrics:
        for each in found.values():
            rows = torch.from_numpy(measure(tuple(each.values()), truth))[None, None]
            expected = float(metric.compute(rows, torch.zeros(1))[0])
            assert chosen_by(metric, each) == pytest.approx(expected)
    by = {metric.name: max(found, key=lambda name, m=metric: chosen_by(m, found[name])) for metric in beat_metrics}
    assert (by["f1"], by["amlt"], by["downbeat_f1"]) == ("gappy", "doubled", "gappy")

    from marble_bench.probes import framewise

    probes = [_Probe(name) for name in found]
    asked_for = []

    def decoded(self, able, split, settings, parts=None):
        asked_for.append(parts)
        return [[[dict(list(found[one.probe.name].items())[:parts])] for one in able]]

    fitted = [_TrainedProbe(probe) for probe in probes]
    monkeypatch.setattr(kind, "make_framesets", lambda target, found, scale: {"train": None, "valid": None})
    monkeypatch.setattr(frame_labels.Decoder, "decode", decoded)
    monkeypatch.setattr(framewise, "fit", lambda *_: fitted)
    task = plugins.find_task("gtzan-rhythm").task
    for name, best in (("f1", "gappy"), ("amlt", "doubled")):
        own = dataclasses.replace(
            task, metrics=tuple(sorted(task.metrics, key=lambda metric, n=name: metric.name != n))
        )
        config = _config(own)
        callbacks = SimpleNamespace(probes=None, say=lambda words: None)
        judged = kind.FrameJob(config, callbacks, _inputs(clips), frame_layers.Layers((0,), ()), []).fit()
        assert max(judged, key=lambda one: one.valid).probe.name == best
    assert asked_for == [1, None]  # downbeats are decoded where a score needs more than beats


def test_a_clip_with_a_bad_target_is_named_before_any_is_encoded(monkeypatch):
    clips = [
        Clip("good", "train", "good.wav", ((0.5, 1.0), None)),
        Clip("back", "train", "back.wav", ((1.0, 0.5, 2.0), None)),
        Clip("none", "train", "none.wav", (None, (0.5,))),
    ]
    found = Examples(Example(clip, Path("x"), "0") for clip in clips)
    ready = inputs.EncodingInputs(found, Coverage(False, []), None, None)
    monkeypatch.setattr(inputs, "to_encode", lambda *_: ready)
    config = _config()
    with pytest.raises(DataError) as caught:
        inputs.extract_all_frames(config, None, (0,))
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 3 clips cannot be used:"
    assert lines[1:3] == [
        "  clip 'back' has beat times that are not finite, negative or not ascending",
        "  clip 'none' has no beats annotated, which a task of beats needs",
    ]
    assert "--allow-missing" in lines[3]
    allowing = _config(allow_missing=True)
    assert list(inputs._check_labels(allowing.data, found)) == ["back", "none"]


def test_labels_stand_in_the_frame_of_a_beat_and_its_neighbours():
    made = frame_labels.align_labels(Events(), ((0.0, 0.1), None), 12, 75.0)
    assert made[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]  # 0.1 s x 75 = 7.5, to even: frame 8
    assert np.isnan(made[:, 1]).all()


def test_the_trivial_answer_is_the_training_tempo_from_the_start():
    beats, bars = steady([((0.0, 0.5, 1.0, 2.0), (0.0, 2.0)), ((0.0, 0.4), None)], [1.6])[0].values()
    assert beats.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert bars.tolist() == [0.0]
    _, bars = steady([((0.0, 0.5), (0.0,)), ((0.0, 0.4), ())], [1.6])[0].values()
    assert bars.tolist() == [0.0]  # no clip has two downbeats, so nothing tells their interval


@pytest.mark.parametrize("task", ["gtzan-rhythm", "musdb"])
@pytest.mark.parametrize("option", [("--few-shot",), ("--control", "shuffle")])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_what_is_for_whole_clips_is_refused_and_not_left_undone(bench, task, option, more):
    ended = bench("run", "--model", "logmel", "--task", task, "--mini", *option, *more)
    assert ended.code == 2
    assert f"{' '.join(option)} is only for tasks of whole clips, but task '{task}'" in ended.err


def test_audio_is_kept_only_where_there_is_some_and_brought_features_have_no_frames(bench, tmp_path):
    ended = bench("run", "--model", "logmel", "--task", "gtzan-rhythm", "--mini", "--keep-audio", tmp_path, "--dry-run")
    assert ended.code == 2
    assert "task 'gtzan-rhythm' separates nothing" in ended.err
    ended = bench("run", "--features", tmp_path, "--task", "gtzan-rhythm", "--dry-run")
    assert ended.code == 2
    assert "give --model" in ended.err


def _encoder(*layers):
    return Encoder(
        name="e",
        description="d",
        sample_rate_hz=1000,
        layers=layers,
        load=lambda w, d: None,
        license="x",
        citation="x",
        min_s=1,
    )


def test_all_means_the_layers_with_frames_and_a_vector_for_a_window_is_refused():
    mixed = _encoder(Layer("a", 4, 50.0), Layer("patch", 4, 1 / 3), Layer("b", 4, 50.0), Layer("c", 4, 25.0))
    assert frame_layers.select_layers(mixed, [0, 1, 2, 3], False, everything=True).single == (0, 2, 3)
    with pytest.raises(UsageError, match=r"e: layer patch has no frames .*--layers a, b, c"):
        frame_layers.select_layers(mixed, [1], False, everything=False)
    with pytest.raises(UsageError, match="choose another model"):
        frame_layers.select_layers(_encoder(Layer("one", 4)), [0], False, everything=True)


def test_the_sum_runs_over_layers_of_one_rate_and_needs_no_single_layers():
    deep = _encoder(*stack(4, 8, 50.0))
    found = frame_layers.select_layers(deep, [], True, everything=False)
    assert (found.single, found.summed, found.stored) == ((), (1, 2, 3), [1, 2, 3])
    uneven = _encoder(Layer("a", 4, 50.0), Layer("b", 4, 50.0), Layer("c", 4, 25.0))
    assert frame_layers.select_layers(uneven, [0, 1, 2], True, everything=True).summed == ()
    with pytest.raises(UsageError, match="no two layers with frames"):
        frame_layers.select_layers(uneven, [], True, everything=False)


def test_a_model_without_frames_and_a_protocol_without_such_probes_are_refused_before_work(bench):
    ended = bench("run", "--model", "choi", "--task", "gtzan-rhythm", "--mini", "--quiet")
    assert ended.code == 2
    assert "choose another model" in ended.err
    ended = bench("run", "--model", "logmel", "--task", "gtzan-rhythm", "--mini", "--quiet", "--protocol", "linear")
    assert ended.code == 2
    assert "use --protocol marble" in ended.err


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_logmel_finds_the_miniatures_beats_better_than_a_steady_tempo(bench, cache, tmp_path):
    arguments = ("run", "--model", "logmel", "--task", "gtzan-rhythm", "--mini", "--seeds", 1, "--limit", 7, "--json")
    ended = bench(*arguments, "--cache-dir", cache)
    assert ended.code == 0, ended.err
    record = ended.record
    f1 = record["scores"]["f1"]
    assert f1["main"]
    assert f1["trivial"] < 0.5 < f1["test"]
    assert record["scores"]["f1_20ms"]["test"] < f1["test"]
    assert record["selection"]["per_seed"][0]["layer"] == "frames"

    (path,) = tmp_path.glob("results/logmel/*/marble/gtzan-rhythm.mini-limit7-seeds1.json")
    assert json.loads(path.read_text()) == record
    table = pd.read_parquet(path.with_suffix(".predictions.parquet"))
    test = table[table["split"] == "test"]
    outputs = torch.from_numpy(np.stack(test["outputs"].to_list()))[None]
    assert outputs.shape[2] == len(COLUMNS)
    for metric in beat_metrics:
        again = float(metric.compute(outputs, torch.zeros(len(test))))
        assert again == pytest.approx(record["scores"][metric.name]["test"], abs=1e-12)
    row = test.iloc[0]
    assert row["outputs"][COLUMNS.index("found")] == len(row["beats"])
    assert row["outputs"][COLUMNS.index("annotated")] == len(row["truth"])

    again = bench(*arguments, "--cache-dir", cache, "--overwrite")
    assert again.record["scores"] == record["scores"]
    assert again.record["cost"]["cached"]


@pytest.mark.slow
def test_the_miniatures_beats_are_where_the_drums_are():
    for track in ("blues.00029", "rock.00031", "jazz.00007"):
        sound, beats, _ = compose(track)
        window = round(0.03 * gtzan_rhythm.RATE_HZ)
        energy = np.convolve(np.square(sound), np.ones(window), "same")
        at = (np.array(beats) * gtzan_rhythm.RATE_HZ).astype(int)
        after, before = energy[np.minimum(at + window // 2, len(energy) - 1)], energy[np.maximum(at - window, 0)]
        assert np.median(after / (before + 1e-9)) > 2


@pytest.mark.slow
def test_a_task_of_beats_is_shown_as_a_dataset(cache):
    root = corpus.ensure_mini(TASK.task.corpus, cache)
    shown = dataset("gtzan-rhythm", root)
    row = shown["train"][0]
    assert row["target"]["beat"][:2] == list(read(annotation_files(root)[row["id"]])[0][:2])

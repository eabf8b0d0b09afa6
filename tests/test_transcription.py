"""Transcription: scores of scikit-learn and mir_eval, the decoder, spans, MIDI files with every fault, the miniature."""

import mido
import numpy as np
import pytest
import torch
from marble_bench.tasks.corpora import maestro
from marble_bench.tasks.corpora.midi import read_notes, shift
from mir_eval import transcription as reference
from piano_templates import explain
from sklearn.metrics import f1_score, precision_score, recall_score

from marble_bench.core import plugins
from marble_bench.data import corpus
from marble_bench.data.hf import _convert_value, _find_feature_type
from marble_bench.errors import DataError
from marble_bench.metrics import transcription, transcription_metrics
from marble_bench.metrics.transcription import FRAMES_HZ, NOTES, ONSETS, PITCHES
from marble_bench.scoring import note_decoder
from marble_bench.scoring.frame_targets import Frames, SpanPart

TARGET = plugins.find_task("maestro-frames").task.target


def _draw_piece(random, count):
    """Notes of a few pitches by ascending start, and found onsets of which some are near one."""
    starts = np.sort(random.uniform(0, 10, count))
    pitches = random.choice([40, 47, 52, 60], count)
    notes = tuple(
        (float(start), float(start + random.uniform(0.05, 1)), str(pitch))
        for start, pitch in zip(starts, pitches, strict=True)
    )
    kept = random.random(count) < 0.8
    times = np.concatenate([(starts + random.normal(0, 0.04, count))[kept], random.uniform(0, 10, 5)]).clip(min=0)
    found = np.concatenate([pitches[kept], random.choice([40, 47, 52, 60], 5)])
    return notes, np.stack([times, [PITCHES.index(str(pitch)) for pitch in found]], axis=1)


def _to_hz(pitches):
    return 440 * 2 ** ((np.asarray(pitches, float) - 69) / 12)


def test_onsets_are_scored_as_mir_eval_scores_the_whole_piece():
    random = np.random.default_rng(0)
    for _ in range(200):
        notes, found = _draw_piece(random, int(random.integers(1, 60)))
        spans = np.array([note[:2] for note in notes])
        own = np.stack([found[:, 0], found[:, 0] + 0.02], axis=1)
        hz = _to_hz([int(PITCHES[int(place)]) for place in found[:, 1]])
        *_, expected, _ = reference.precision_recall_f1_overlap(
            spans, _to_hz([int(note[2]) for note in notes]), own, hz, onset_tolerance=0.05, offset_ratio=None
        )
        assert transcription.measure_onsets(found, notes) == pytest.approx(expected, abs=1e-9)


def test_a_piece_without_notes_has_no_onset_score_and_one_without_answers_has_none_right():
    notes = ((0.0, 1.0, "60"),)
    assert np.isnan(transcription.measure_onsets(np.array([[0.0, 3]]), ()))
    assert transcription.measure_onsets(np.zeros((0, 2)), notes) == 0
    place = PITCHES.index("60")
    for off_s, right in ((0.049, 1.0), (0.051, 0.0)):
        assert transcription.measure_onsets(np.array([[off_s, place]]), notes) == right
    assert transcription.measure_onsets(np.array([[0.0, place + 12]]), notes) == 0  # an octave off


def test_frames_are_scored_as_scikit_learn_scores_all_pairs():
    random, rows, pairs = np.random.default_rng(1), [], []
    for _ in range(6):
        notes, _ = _draw_piece(random, 30)
        roll = random.random((400, 88)) < 0.02  # 8 s: what rings on behind them counts nowhere
        middles_s = (np.arange(400) + 0.5) / FRAMES_HZ
        truth = np.zeros((400, 88), bool)
        for start, end, pitch in notes:
            truth[(middles_s >= start) & (middles_s < end), PITCHES.index(pitch)] = True
        roll |= truth & (random.random((400, 88)) < 0.6)
        spans = note_decoder.find_spans(roll, FRAMES_HZ)
        found = {"note": spans, "onset": np.zeros((0, 2)), "frames": np.array(400)}
        rows.append(transcription.MEASURE.of_clip(found, (notes, notes)))
        quick = transcription.QUICK.of_clip({key: found[key] for key in ("note", "frames")}, (notes, notes))
        np.testing.assert_array_equal(quick[:3], rows[-1][:3])
        pairs.append((truth, roll))
    truth, roll = (np.concatenate(each).reshape(-1) for each in zip(*pairs, strict=True))
    scores = {
        m.name: float(m.compute(torch.tensor(np.array(rows))[None], torch.zeros(6))) for m in transcription_metrics
    }
    assert scores["frame_f1"] == pytest.approx(f1_score(truth, roll), abs=1e-9)
    assert scores["frame_precision"] == pytest.approx(precision_score(truth, roll), abs=1e-9)
    assert scores["frame_recall"] == pytest.approx(recall_score(truth, roll), abs=1e-9)


def test_replicates_are_scored_as_pieces_that_occur_so_often():
    random = np.random.default_rng(2)
    rows = torch.tensor(np.concatenate([random.integers(1, 50, (5, 3)), random.random((5, 1))], axis=1))[None]
    rows[0, 2, 3] = float("nan")
    weights = torch.tensor([[1, 1, 1, 1, 1], [2, 0, 1, 0, 2]])
    again = rows[:, [0, 0, 2, 4, 4]]
    for metric in transcription_metrics:
        found = metric.weighted(rows, torch.zeros(5), weights)[:, 0].tolist()
        assert found == pytest.approx([float(metric.compute(each, torch.zeros(5))) for each in (rows, again)])


def test_the_trivial_answer_is_the_best_constant_set_of_pitches_and_silence_scores_nothing():
    first = ((0.0, 8.0, "60"), (1.0, 7.0, "64"), (9.0, 10.0, "72"))
    (found,) = transcription.MEASURE.trivial([(first, first)], [10.0])
    assert sorted(set(found["note"][:, 2])) == [PITCHES.index("60"), PITCHES.index("64")]
    row = transcription.MEASURE.of_clip(found, (first, first))

    def score(pitches):
        spans = np.array([[0.0, 10.0, PITCHES.index(pitch)] for pitch in pitches]).reshape(-1, 3)
        answer = {"note": spans, "onset": np.zeros((0, 2)), "frames": np.array(500)}
        hits, held, annotated, _ = transcription.MEASURE.of_clip(answer, (first, first))
        return 2 * hits / (held + annotated)

    best = 2 * row[0] / (row[1] + row[2])
    assert best == max(score(each) for each in (["60"], ["60", "64"], ["60", "64", "72"], ["72"]))
    assert score([]) == 0
    assert row[3] == 0


# The decoder.


def test_spans_are_runs_of_frames_and_onsets_are_peaks():
    roll = np.zeros((10, 88), bool)
    roll[2:5, 3] = roll[7:10, 3] = roll[0, 80] = True
    spans = note_decoder.find_spans(roll, 50.0)
    np.testing.assert_allclose(spans, [[0.04, 0.1, 3], [0.14, 0.2, 3], [0, 0.02, 80]])
    activations = np.zeros((20, 88))
    activations[3:6, 10] = 0.5, 0.9, 0.9  # a plateau: its first frame
    activations[10, 10], activations[12, 10] = 0.6, 0.7  # too near: the higher one
    activations[15, 10], activations[15, 11] = 0.1, 0.4
    np.testing.assert_allclose(
        note_decoder.find_onsets(activations, 50.0, 0.3), [[0.09, 10], [0.25, 10], [0.31, 11]], atol=1e-9
    )


def test_what_is_learnt_decodes_to_the_notes():
    notes = ((0.1, 0.5, "60"), (0.1, 0.9, "64"), (0.52, 0.8, "60"), (1.0, 1.004, "72"))
    rolls = {part.name: part.mark_frames(notes, 80, FRAMES_HZ, averaged=True) for part in (NOTES, ONSETS)}
    assert rolls["note"].sum(axis=0)[[PITCHES.index(pitch) for pitch in ("60", "64", "72")]].tolist() == [34, 40, 1]
    (found,) = note_decoder.find([rolls], FRAMES_HZ, 0.5)
    assert transcription.count_frames(found, notes) == (75, 75, 75)
    peaked = rolls["onset"] * 0.4
    for start, _, pitch in notes:
        peaked[int(start * FRAMES_HZ), PITCHES.index(pitch)] = 1
    (found,) = note_decoder.find([{**rolls, "onset": peaked}], FRAMES_HZ, 0.3)
    assert transcription.measure_onsets(found["onset"], notes) == 1.0


# Spans as a part of a target.


def test_spans_are_learnt_at_any_rate():
    part, begins = SpanPart("key", labels=("a", "b")), SpanPart("hit", labels=("a", "b"), begins=True)
    spans = ((0.26, 0.75, "a"), (0.5, 0.51, "b"), (0.5, 2.0, "a"))
    np.testing.assert_array_equal(part.mark_frames(spans, 6, 4.0).T, [[0, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(part.mark_frames(spans, 6, 4.0, True).T, [[0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(begins.mark_frames(spans, 6, 4.0).T, [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0]])
    assert not part.mark_frames((), 3, 4.0).any()


def test_spans_follow_their_audio():
    notes = ((0.0, 1.0, "60"), (1.0, 3.5, "64"), (2.9, 3.2, "60"))
    inside, beyond = TARGET.within((notes, notes), "a", 2.0)
    assert inside == (((0.0, 1.0, "60"), (1.0, 2.0, "64")),) * 2
    assert beyond == 2  # a note of each part
    with pytest.raises(DataError, match=r"lasts 0\.50 s and is annotated up to 2\.90 s"):
        TARGET.within((notes, notes), "a", 0.5)
    moved, _ = TARGET.changed((notes, notes), "time-stretch", 9.0)
    rate = 1.0 / moved[0][1]
    assert rate != 1
    assert moved[1] == pytest.approx((1 / rate, 3.5 / rate, "64"))
    np.testing.assert_array_equal(TARGET.encode([(notes, notes)], ["a"]), [[3, 3]])
    assert TARGET.list_first((notes[:1], notes[:1])) == [0.0, 1.0, float(PITCHES.index("60"))]
    shown = _convert_value(TARGET, (notes[:1], None))
    assert shown == {"note": [{"start_s": 0.0, "end_s": 1.0, "label": "60"}], "onset": None}
    assert set(_find_feature_type(TARGET)) == {"note", "onset"}


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        (((0.0, 1.0),), r"has the note \(0.0, 1.0\); give \(start_s, end_s, label\)"),
        (((0.0, 1.0, "12"),), "has the note '12', which is no label of that part"),
        (((1.0, 2.0, "60"), (0.5, 3.0, "60")), "notes that do not ascend"),
        (((1.0, 1.0, "60"),), "are empty"),
        (((0.0, float("inf"), "60"),), "not finite"),
        ("60", "give spans"),
    ],
)
def test_spans_in_another_form_are_named_with_their_clip(spans, words):
    with pytest.raises(DataError, match=f"clip 'a' .*{words}"):
        Frames((NOTES,), rate_hz=50.0, decode=note_decoder.find).encode([(spans,)], ["a"])


# MIDI files.


def _write(path, events, tempo=500_000, ticks=500):
    """A file of (tick, message without its time); 1,000 ticks a second by default."""
    head, track, before = mido.MidiTrack(), mido.MidiTrack(), 0
    head.append(mido.MetaMessage("set_tempo", tempo=tempo, time=0))
    for tick, message in events:
        track.append(message.copy(time=tick - before))
        before = tick
    file = mido.MidiFile(type=1, ticks_per_beat=ticks)
    file.tracks.extend([head, track])
    file.save(path)
    return path


def _on(pitch, velocity=80):
    return mido.Message("note_on", note=pitch, velocity=velocity)


def _pedal(value):
    return mido.Message("control_change", control=64, value=value)


def test_a_note_sounds_while_its_key_or_the_pedal_is_down(tmp_path):
    events = [
        (0, _on(60)),
        (100, _pedal(64)),
        (200, _on(60, 0)),  # released, and the pedal is down
        (300, _on(64)),
        (350, mido.Message("note_off", note=64)),
        (400, _on(64)),  # struck again: the first ends here
        (500, _pedal(63)),  # 64 is held, 60 is not
        (600, _on(64, 0)),
        (700, _pedal(127)),
        (800, _on(67)),
        (900, _on(67, 0)),
        (1000, mido.Message("control_change", control=67, value=0)),  # another pedal; the file ends
    ]
    notes = read_notes(_write(tmp_path / "a.midi", events))
    expected = [(0, 0.5, "60"), (0.3, 0.4, "64"), (0.4, 0.6, "64"), (0.8, 1.0, "67")]
    assert [(round(start, 6), round(end, 6), pitch) for start, end, pitch in notes] == expected


def test_notes_move_with_their_pitch_and_none_leaves_the_piano():
    notes = ((0.0, 1.0, "21"), (0.5, 2.0, "60"))
    assert shift((notes, notes), 2) == (((0.0, 1.0, "23"), (0.5, 2.0, "62")),) * 2
    assert shift((notes, notes), -1) is None


def test_times_follow_the_tempo_where_it_changes_as_mido_plays_the_file(tmp_path):
    head, track = mido.MidiTrack(), mido.MidiTrack()
    head.extend([mido.MetaMessage("set_tempo", tempo=400_000), mido.MetaMessage("set_tempo", tempo=900_000, time=480)])
    track.extend([_on(60).copy(time=240), _on(60, 0).copy(time=480), _on(62).copy(time=7), _on(62, 0).copy(time=960)])
    file = mido.MidiFile(type=1, ticks_per_beat=480)
    file.tracks.extend([head, track])
    file.save(tmp_path / "a.midi")
    times, now = [], 0.0
    for message in mido.MidiFile(tmp_path / "a.midi"):
        now += message.time
        if message.type == "note_on":
            times.append(now)
    notes = read_notes(tmp_path / "a.midi")
    assert [time for start, end, _ in notes for time in (start, end)] == pytest.approx(times)


def test_what_is_no_midi_of_a_piano_is_named(tmp_path):
    whole = _write(tmp_path / "whole.midi", [(0, _on(60)), (100, _on(60, 0))]).read_bytes()
    for content, words in (
        (b"", "is no whole MIDI"),
        (b"RIFF" + whole, "is no whole MIDI"),
        (whole[:40], "is no whole"),
    ):
        (tmp_path / "a.midi").write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            read_notes(tmp_path / "a.midi")
        assert str(tmp_path / "a.midi") in str(caught.value)
    with pytest.raises(DataError, match="has the note 20, and a piano has 21 to 108"):
        read_notes(_write(tmp_path / "a.midi", [(0, _on(20)), (100, _on(20, 0))]))
    with pytest.raises(DataError, match="has no note"):
        read_notes(_write(tmp_path / "a.midi", [(0, _pedal(3))]))


def _read_or_explain(path):
    try:
        return read_notes(path)
    except DataError as error:
        return str(error)


def test_no_broken_midi_ends_in_a_traceback(tmp_path):
    events = [(index * 10, _on(40 + index % 30, 80 * (index % 2))) for index in range(60)]
    whole = _write(tmp_path / "whole.midi", events).read_bytes()
    random, path, refused = np.random.default_rng(0), tmp_path / "a.midi", 0
    for _ in range(150):
        broken = bytearray(whole)
        for place in random.integers(0, len(whole), int(random.integers(1, 4))):
            broken[place] = int(random.integers(256))
        path.write_bytes(
            bytes(broken[: int(random.integers(10, len(broken) + 1))] if random.random() < 0.3 else broken)
        )
        told = _read_or_explain(path)
        refused += isinstance(told, str)
        assert str(path) in told if isinstance(told, str) else all(0 <= start < end for start, end, _ in told)
    assert refused > 25


def test_the_table_is_read_in_both_folders_and_its_faults_are_named(tmp_path):
    head = ",".join(maestro.COLUMNS)
    rows = ["Bach,Fugue,train,2004,2004/a.midi,2004/a.wav,1.0", "Bach,Air,validation,2004,2004/b.midi,2004/b.wav,1.0"]
    inner = tmp_path / "maestro-v3.0.0"
    (inner / "2004").mkdir(parents=True)
    (inner / maestro.TABLE).write_text("\n".join([head, *rows]) + "\n")
    _write(inner / "2004" / "a.midi", [(0, _on(60)), (100, _on(60, 0))])
    with pytest.raises(DataError, match=r"1 MIDI files cannot be used: .*2004/b.midi is not there"):
        list(maestro.clips(tmp_path))
    _write(inner / "2004" / "b.midi", [(0, _on(61)), (100, _on(61, 0))])
    for root in (tmp_path, inner):
        clips = list(maestro.clips(root))
        assert [(clip.id, clip.split, clip.group) for clip in clips] == [
            ("2004/a", "train", "Bach: Fugue"),
            ("2004/b", "valid", "Bach: Air"),
        ]
        assert clips[0].target == (((0.0, 0.1, "60"),),) * 2
    (inner / maestro.TABLE).write_text("\n".join([head, rows[0].replace("train", "dev")]))
    with pytest.raises(DataError, match="line 2: split is 'dev'"):
        list(maestro.clips(tmp_path))
    with pytest.raises(DataError, match=r"no maestro-v3\.0\.0\.csv"):
        list(maestro.clips(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_the_miniature_can_be_solved_from_its_sound(tmp_path):
    """Templates of harmonics, a note from a level on and an onset where it rises; levels by the validation split."""
    named = plugins.find_task("maestro-frames")
    root = corpus.ensure_mini(named.task.corpus, tmp_path)
    clips = list(named.task.clips(root))
    heard = {clip.id: explain(maestro.locate(root, clip.audio)) for clip in clips if clip.split != "train"}

    def score(split, threshold, metric):
        rows = []
        for clip in clips:
            if clip.split == split:
                levels = heard[clip.id] / np.percentile(heard[clip.id].max(axis=1), 95)
                rise = np.maximum(levels - np.pad(levels, ((3, 0), (0, 0)))[:-3], 0)
                found = {
                    "note": note_decoder.find_spans(levels >= threshold, FRAMES_HZ),
                    "onset": note_decoder.find_onsets(rise, FRAMES_HZ, threshold),
                    "frames": np.array(len(levels)),
                }
                rows.append(transcription.MEASURE.of_clip(found, clip.target))
        return float(metric.compute(torch.tensor(np.array(rows))[None], torch.zeros(len(rows))))

    train, test = ([clip.target for clip in clips if clip.split == split] for split in ("train", "test"))
    constant = transcription.MEASURE.trivial(train, [maestro.MINI_S] * len(test))
    floor = transcription.MEASURE.rows(constant, test)[None]
    for metric in transcription_metrics[:2]:
        best = max((0.1, 0.15, 0.2, 0.25, 0.3), key=lambda level, m=metric: score("valid", level, m))
        trivial = float(metric.compute(floor, torch.zeros(len(test))))
        assert (score("test", best, metric) - trivial) / (1 - trivial) > 0.9, metric.name

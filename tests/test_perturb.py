"""What perturbations do to known signals, whose labels they move, and what a run makes of them."""

import io
import json
from dataclasses import replace

import jsonschema
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import TOY_MODEL, TOY_TASK, load_toy_module
from made_records import make
from scipy import stats
from scipy.signal import welch

from marble_bench import audio
from marble_bench.audio import perturb
from marble_bench.cli import show
from marble_bench.core import plugins
from marble_bench.core.task import Window
from marble_bench.encoders.weights import Weights
from marble_bench.errors import DataError, UsageError
from marble_bench.features import pooled
from marble_bench.features.store import Span
from marble_bench.metrics import Metric, accuracy, beats
from marble_bench.metrics.key import KEYS
from marble_bench.records import results, validation
from marble_bench.records.record import to_json
from marble_bench.records.record_file import Stored
from marble_bench.records.schema import build_schema, from_json
from marble_bench.runs import reproduce
from marble_bench.scoring import statistics
from marble_bench.scoring.scores import drop

RATE = 22050
SEED = perturb.seed_of("5" * 64, 0.0)


def _tone(hz, seconds=2.0, rate=RATE):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def _hiss(seconds=2.0, rate=RATE):
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))).astype(np.float32)


def _peak_hz(samples, rate=RATE):
    """The strongest frequency, to a tenth of a bin of two seconds."""
    inner = samples[len(samples) // 4 : -len(samples) // 4]
    power = np.abs(np.fft.rfft(inner * np.hanning(len(inner)), 10 * len(inner)))
    return power.argmax() * rate / (10 * len(inner))


def _db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", perturb.CHANGES)
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_a_change_keeps_the_length_and_is_the_same_every_time(name, rate):
    samples = _tone(440, 0.7, rate) + _hiss(0.7, rate)
    once, again = (perturb.apply_change(name, samples.copy(), rate, SEED) for _ in range(2))
    assert once.shape == samples.shape
    assert once.dtype == np.float32
    assert np.array_equal(once, again)
    assert np.array_equal(once, samples) == (name == "low-pass" and rate == 8000)


def test_gain_is_twenty_decibels_softer():
    assert _db(perturb.apply_change("gain", _hiss(), RATE, SEED)) - _db(_hiss()) == pytest.approx(-20, abs=1e-4)


def test_noise_is_white_at_twenty_decibels_and_another_for_another_file_or_start():
    samples = _tone(440, 20)
    noise = perturb.apply_change("noise", samples, RATE, SEED) - samples
    assert _db(samples) - _db(noise) == pytest.approx(20, abs=0.05)
    _, power = welch(noise, RATE, nperseg=256)
    assert power[1:-1].std() / power[1:-1].mean() < 0.1
    seeds = {SEED, perturb.seed_of("6" + "5" * 63, 0.0), perturb.seed_of("5" * 64, 3.0)}
    others = [perturb.apply_change("noise", samples, RATE, seed) for seed in seeds]
    assert len(seeds) == 3
    assert abs(np.corrcoef([other - samples for other in others])[np.triu_indices(3, 1)]).max() < 0.01


def test_low_pass_takes_what_lies_above_four_kilohertz_and_nothing_below():
    hz, before = welch(_hiss(20), RATE, nperseg=2048)
    _, after = welch(perturb.apply_change("low-pass", _hiss(20), RATE, SEED), RATE, nperseg=2048)
    gain = 10 * np.log10(after / before)
    assert abs(gain[(hz > 50) & (hz < 3000)]).max() < 0.5
    assert gain[np.abs(hz - 4000).argmin()] == pytest.approx(-3, abs=0.4)
    assert gain[hz > 6000].max() < -30


@pytest.mark.slow
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_mp3_has_the_bit_rate_stays_in_place_and_loses_what_is_masked(rate, monkeypatch):
    sizes, plain = [], io.BytesIO
    monkeypatch.setattr(perturb.io, "BytesIO", lambda: sizes.append(plain()) or sizes[-1])
    samples = _tone(440, 10, rate) + 0.2 * _hiss(10, rate)
    after = perturb.apply_change("mp3", samples, rate, SEED)
    assert len(sizes[0].getvalue()) * 8 / 10 == pytest.approx(perturb.MP3_BPS, rel=0.03)
    lag = np.fft.irfft(np.fft.rfft(after) * np.conj(np.fft.rfft(samples))).argmax()
    assert lag == 0
    assert 3 < _db(samples) - _db(after - samples) < 80


def test_an_mp3_of_a_rate_that_it_cannot_have_is_refused():
    with pytest.raises(DataError, match=r"mp3 does not support 96,000 Hz .* leave 'mp3' out"):
        perturb.apply_change("mp3", _hiss(), 96000, SEED)


def test_a_pitch_shift_moves_a_tone_by_a_semitone():
    after = perturb.apply_change("pitch-shift", _tone(440), RATE, SEED)
    assert 12 * np.log2(_peak_hz(after) / _peak_hz(_tone(440))) == pytest.approx(1, abs=0.03)


def test_a_time_stretch_moves_clicks_and_keeps_the_pitch():
    after = perturb.apply_change("time-stretch", _tone(440), RATE, SEED)
    assert 12 * np.log2(_peak_hz(after) / 440) == pytest.approx(0, abs=0.02)
    clicks = 1e-3 * _hiss(8)
    for at_s in range(1, 8):
        clicks[at_s * RATE : at_s * RATE + 400] += _hiss()[:400]
    after = perturb.apply_change("time-stretch", clicks, RATE, SEED)
    energy = np.convolve(after**2, np.ones(400), "same")
    found = [np.argmax(energy * (np.abs(np.arange(len(after)) / RATE - at / 0.9) < 0.3)) / RATE for at in range(1, 7)]
    assert np.diff(found) == pytest.approx([1 / 0.9] * 5, abs=0.03)


def test_a_pitch_shift_moves_keys_and_pitches_and_nothing_else():
    moves = {name: plugins.find_task(name).task.shifted for name in plugins.list_task_names()}
    moved = {"chords1217", "gs", "guitarset-chords", "maestro-frames", "medleydb-melody", "nsynth-pitch", "vocadito-f0"}
    assert {name for name, shifted in moves.items() if shifted} == moved
    for index, key in enumerate(KEYS):
        expected = KEYS[index + 1] if index % 12 < 11 else KEYS[index - 11]
        assert perturb.shift_target(moves["gs"], key, "pitch-shift") == expected
    assert perturb.shift_target(moves["gs"], "C major", "pitch-shift") == "Db major"
    assert perturb.shift_target(moves["nsynth-pitch"], "60", "pitch-shift") == "61"
    assert perturb.shift_target(moves["nsynth-pitch"], "120", "pitch-shift") is None
    assert perturb.shift_target(moves["gtzan"], "blues", "pitch-shift") == "blues"
    for name in perturb.CHANGES.keys() - {"pitch-shift"}:
        assert perturb.shift_target(moves["gs"], "C major", name) == "C major"


def test_a_file_is_changed_at_its_own_rate_before_all_else_whole(tmp_path):
    samples = _tone(440, 3.0) + _hiss(3.0)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    change = pooled.Item(_clip(), tmp_path / "a.wav", "5" * 64, RATE, "noise")
    encoder = replace(plugins.find_encoder(TOY_MODEL), sample_rate_hz=16000)
    (windows,) = pooled._cut_windows(change, encoder, Window(length_s=1.0, first_s=1.0))
    expected = audio.resample(perturb.apply_change("noise", samples, RATE, SEED), RATE, 16000)[:16000]
    assert np.array_equal(windows, expected[None])
    assert pooled.make_span(change, encoder, Window(first_s=1.0)).segment == "0:"
    assert pooled.make_span(replace(change, change=""), encoder, Window(first_s=1.0)).segment == "0:<1"


def _clip():
    return next(iter(plugins.find_task(TOY_TASK).task.clips(None)))


def test_changed_clips_have_a_store_of_their_own_and_plain_ones_the_old(tmp_path):
    encoder, weights = plugins.find_encoder(TOY_MODEL), Weights(None, "0" * 64, "none", "")
    plain, mp3, gain = (pooled.open_store(encoder, weights, Window(), tmp_path, change=c) for c in ("", "mp3", "gain"))
    assert len({each.folder for each in (plain, mp3, gain)}) == 3
    for store in (plain, mp3):
        store.add(Span("a", "0:"), [np.ones((1, width), np.float32) for _, width in store.layers])
        store.flush()
    assert "change" not in json.loads((plain.folder / "about.json").read_text())
    assert json.loads((mp3.folder / "about.json").read_text())["change"] == "mp3: mp3 at 64 kb/s mono"


def test_a_time_stretch_moves_events_and_drops_those_behind_the_end():
    target = ((0.9, 1.8, 2.7), None)
    assert perturb.shift_times(target, "mp3", 2.7) == ((0.9, 1.8), None)
    (main, downbeats) = perturb.shift_times(target, "time-stretch", 2.9)
    assert main == pytest.approx((1.0, 2.0))
    assert downbeats is None
    assert perturb.shift_times(target, "time-stretch", 1.5) is None


@pytest.fixture
def perturbed(toy):
    """The toy run with all perturbations."""
    ended = toy("--mini", "--seeds", 2, "--perturb", "all")
    assert ended.code == 0, ended.err
    return ended.record


@pytest.mark.slow
def test_a_run_scores_changed_test_clips_by_the_chosen_probe_and_moves_nothing_else(toy, bench, perturbed, tmp_path):
    jsonschema.validate(perturbed, build_schema())
    plain = toy("--mini", "--seeds", 2).record
    for part in ("selection", "scores", "data"):
        assert perturbed[part] == plain[part]
    assert list(perturbed["perturbations"]) == list(perturb.CHANGES)
    assert not perturbed["comparable"]
    (path,) = (tmp_path / "results").rglob("toy-task.mini-seeds2-perturbed.json")
    (other,) = (tmp_path / "results").rglob("toy-task.mini-seeds2.json")
    tables = [pd.read_parquet(results.find_table_path(each, "predictions")) for each in (path, other)]
    assert set(tables[1].split) == {"valid", "test"}
    pd.testing.assert_frame_equal(tables[0][tables[0].split.isin(["valid", "test"])], tables[1])
    clean = perturbed["scores"]["accuracy"]["test"]
    for name, found in perturbed["perturbations"].items():
        rows = tables[0][tables[0].split == f"test:{name}"]
        assert sorted(set(rows["clip"])) == sorted(set(tables[1][tables[1].split == "test"]["clip"]))
        right = (rows.outputs.map(np.argmax) == rows.truth.str[0]).groupby(rows.seed).mean()
        score = found["scores"]["accuracy"]
        assert score["per_seed"] == pytest.approx(right.tolist())
        assert score["drop"] == pytest.approx(clean - right.mean())
        assert (found["clips"], found["left_out"], score["clean"]) == (15, 0, pytest.approx(clean))
        low, high = score["drop_ci95"]
        assert low is None or low <= score["drop"] <= high
    assert perturbed["perturbations"]["low-pass"]["scores"]["accuracy"]["drop_ci95"] == [None, None]  # nothing changed
    # nothing above 4 kHz in a file of 8 kHz: that change changes nothing, and the others do
    same = [name for name in perturb.CHANGES if _outputs(tables[0], name) == _outputs(tables[0], None)]
    assert same == ["low-pass"]
    again = bench("reproduce", path, "--model", TOY_MODEL, "--task", TOY_TASK, "--json", "--quiet")
    assert again.code == 0, again.err
    assert {row["verdict"] for row in again.record["scores"]} == {"same"}
    assert "accuracy, mp3" in {row["metric"] for row in again.record["scores"]}
    assert again.record["changed"] == []
    assert [each.kind for each in validation.check([path])] == ["ok"]


def _outputs(table, name):
    return table[table.split == ("test" if name is None else f"test:{name}")].outputs.map(tuple).tolist()


def test_only_test_clips_are_changed(toy, monkeypatch):
    encoded = []
    real = pooled.extract

    def watched(items, *arguments, change="", **more):
        encoded.append((change, {item.clip.split for item in items}))
        return real(items, *arguments, change=change, **more)

    monkeypatch.setattr(pooled, "extract", watched)
    assert toy("--mini", "--seeds", 1, "--layers", "1", "--perturb", "mp3,gain").code == 0
    assert encoded == [("", {"train", "valid", "test"}), ("gain", {"test"}), ("mp3", {"test"})]


@pytest.mark.slow
def test_a_clip_whose_label_moves_out_of_the_labels_is_left_out_on_both_sides(bench, tmp_path):
    source = tmp_path / "moving.py"
    move = "lambda name, n: (*REGISTERS, None)[REGISTERS.index(name) + n]"
    text = load_toy_module().__loader__.get_data(TOY_TASK).decode()
    source.write_text(text.replace("    counts=PER_SPLIT,", f"    counts=PER_SPLIT,\n    shifted={move},"))
    ended = bench(
        *("run", "--task", source, "--model", TOY_MODEL, "--mini", "--json", "--device", "cpu", "--seeds", 1),
        *("--layers", "1", "--perturb", "pitch-shift,gain"),
    )
    assert ended.code == 0, ended.err
    found = ended.record["perturbations"]
    assert (found["gain"]["clips"], found["gain"]["left_out"]) == (15, 0)
    assert (found["pitch-shift"]["clips"], found["pitch-shift"]["left_out"]) == (10, 5)
    (path,) = (tmp_path / "results").rglob("*.predictions.parquet")
    table = pd.read_parquet(path)
    plain, moved = (table[table.split == split].set_index("clip") for split in ("test", "test:pitch-shift"))
    assert (moved.truth.str[0] == plain.truth.str[0][moved.index] + 1).all()
    kept = plain.loc[moved.index]
    expected = (kept.outputs.map(np.argmax) == kept.truth.str[0]).mean()
    assert found["pitch-shift"]["scores"]["accuracy"]["clean"] == pytest.approx(expected)
    assert [each.kind for each in validation.check(list((tmp_path / "results").rglob("*.json")))] == ["ok"]


def _answered(random, clips, change):
    """Answers to clips and truth before and after a change that costs `change` and moves the truth of every second clip."""
    truth = torch.from_numpy(random.integers(0, 5, clips))
    hard = random.normal(size=(1, clips, 5))
    answers = []
    for skill in (1.5, 1.5 - change):
        outputs = hard + 0.3 * random.normal(size=(2, clips, 5))
        outputs[:, np.arange(clips), truth] += skill
        answers.append(torch.from_numpy(outputs))
    moved = torch.where(torch.arange(clips) % 2 == 0, truth, (truth + 1) % 5)
    turned = answers[1].clone()
    odd = torch.arange(clips) % 2 == 1
    turned[:, odd] = answers[1][:, odd].roll(1, dims=-1)  # the answer moves with the label
    return (answers[0], truth), (turned, moved)


@pytest.mark.slow
def test_the_interval_of_a_drop_holds_the_true_one_and_is_narrower_than_that_of_two_test_splits():
    before, after = _answered(np.random.default_rng(0), 200_000, 0.6)
    true = float((accuracy.compute(*before) - accuracy.compute(*after)).mean())
    assert true > 0.1
    held, narrower = [], []
    for simulation in range(500):
        before, after = _answered(np.random.default_rng([1, simulation]), 60, 0.6)
        names = [f"{clip:03}" for clip in range(60)]
        found = drop(accuracy, before, after, names)
        low, high = found["drop_ci95"]
        held.append(low <= true <= high)
        if simulation < 50:
            apart = [np.subtract(*statistics.bootstrap_interval(accuracy, *each, names)) for each in (before, after)]
            narrower.append((high - low) / np.hypot(*apart))
    assert 0.93 <= np.mean(held) <= 0.97
    assert np.mean(narrower) < 0.9


def test_a_drop_has_scipys_interval_of_the_clips_own_differences_and_turns_where_lower_is_better():
    random = np.random.default_rng(2)
    values = [torch.from_numpy(random.normal(5 - drop, 1, size=(1, 80, 1))) for drop in (0, 0.4)]
    mean = Metric("mean", "scalars", _mean, _values, "test", unit="dB")
    (before, after), names = [(each, torch.zeros(80)) for each in values], [f"{clip:02}" for clip in range(80)]
    found = drop(mean, before, after, names)
    each = (values[0] - values[1])[0, :, 0].numpy()
    assert found["drop"] == pytest.approx(each.mean())
    theirs = stats.bootstrap((each,), np.mean, method="BCa", n_resamples=4999, rng=random).confidence_interval
    assert found["drop_ci95"] == pytest.approx(theirs, abs=0.06)
    lower = drop(replace(mean, higher_is_better=False), before, after, names)
    assert lower["drop"] == -found["drop"]
    assert lower["drop_ci95"] == [-bound for bound in found["drop_ci95"][::-1]]
    # clips of one recording are drawn together, and a lone one has no interval
    grouped = drop(mean, *[(e.repeat(1, 3, 1), torch.zeros(240)) for e in values], names * 3)
    assert grouped["drop_ci95"] == pytest.approx(found["drop_ci95"], abs=0.01)
    assert drop(mean, before, after, ["one"] * 80)["drop_ci95"] == [None, None]


def _values(outputs, truth):
    return outputs[..., 0].double()


def _mean(outputs, truth):
    return _values(outputs, truth).mean(dim=-1)


SCALE = '''"""Which of twelve semitones is a note?"""

from marble_bench.metrics import accuracy
from marble_bench import Classes
from marble_bench import Clip, Corpus, Schedule, Task

PITCHES = tuple(str(pitch) for pitch in range(60, 72))
COUNTS = {"train": 36, "valid": 24, "test": 24}


def clips(root):
    for split, count in COUNTS.items():
        for index in range(count):
            yield Clip(f"{split}{index:02}", split, f"{split}{index:02}.wav", PITCHES[index % 12])


def mini(folder):
    import numpy as np
    import soundfile

    random = np.random.default_rng(1)
    seconds = np.arange(32000) / 16000
    for clip in clips(folder):
        hz = 440 * 2 ** ((int(clip.target) + random.normal(0, 0.05) - 69) / 12)
        note = sum(np.sin(2 * np.pi * hz * n * seconds + random.uniform(0, 6)) / n for n in (1, 2, 3))
        soundfile.write(folder / clip.audio, 0.2 * note + 0.01 * random.normal(size=32000), 16000)


TASK = Task(
    title="semitone of a note",
    corpus=Corpus(name="scale", title="Scale", home="-", license="CC0-1.0", citation="-", layout="-", mini=mini),
    target=Classes(PITCHES),
    clips=clips,
    metrics=(accuracy,),
    counts=COUNTS,
    schedule=Schedule(max_epochs=40),
    shifted=lambda pitch, semitones: str(int(pitch) + semitones) if int(pitch) + semitones < 72 else None,
)
'''


@pytest.mark.slow
def test_a_probe_of_pitch_follows_a_pitch_shift_by_the_moved_label_only(bench, tmp_path):
    found = []
    for name, text in (("moved", SCALE), ("unmoved", SCALE.replace("    shifted=", "    # shifted="))):
        (tmp_path / f"{name}.py").write_text(text)
        ended = bench(
            *("run", "--task", tmp_path / f"{name}.py", "--model", "chroma", "--mini", "--json", "--device", "cpu"),
            *("--seeds", 1, "--perturb", "pitch-shift", "--results-dir", tmp_path / name),
        )
        assert ended.code == 0, ended.err
        found.append(ended.record["perturbations"]["pitch-shift"])
    moved, unmoved = (each["scores"]["accuracy"] for each in found)
    assert (found[0]["clips"], found[0]["left_out"]) == (22, 2)
    assert moved["clean"] > 0.9
    assert moved["test"] > 0.9
    assert (found[1]["clips"], found[1]["left_out"]) == (24, 0)
    assert unmoved["test"] < 0.1


@pytest.mark.slow
def test_found_beats_follow_a_time_stretch(bench, tmp_path):
    ended = bench(
        *("run", "--task", "gtzan-rhythm", "--model", "logmel", "--mini", "--json", "--device", "cpu", "--seeds", 1),
        *("--limit", 4, "--perturb", "gain,time-stretch"),
    )
    assert ended.code == 0, ended.err
    found = ended.record["perturbations"]
    # the task scales every clip to its peak, so what is softer is the same
    assert found["gain"]["scores"]["f1"]["drop"] == pytest.approx(0, abs=0.02)
    (path,) = (tmp_path / "results").rglob("*.json")
    assert [each.kind for each in validation.check([path])] == ["ok"]
    table = pd.read_parquet(results.find_table_path(path, "predictions"))
    plain, slow = (table[table.split == split].set_index("clip") for split in ("test", "test:time-stretch"))
    hits = {"moved": 0, "unmoved": 0}
    for clip, row in slow.iterrows():
        before = np.array(plain.truth[clip])
        assert row.truth == pytest.approx((before / 0.9)[: len(row.truth)])
        assert len(row.truth) < len(before)
        hits["moved"] += beats.counts(row.truth, np.array(row.beats))[0]
        hits["unmoved"] += beats.counts(before, np.array(row.beats))[0]
    assert hits["moved"] > 2 * hits["unmoved"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (lambda p: p["mp3"]["scores"]["accuracy"].update(drop=-0.5), "scores"),
        (lambda p: p["gain"].update(clips=14), "counts"),
        (lambda p: p["gain"].update(left_out=1), "counts"),
        (lambda p: p.pop("noise"), "counts facts"),  # its name says that there is one, and so does why_not
        (lambda p: p["mp3"]["scores"]["accuracy"].pop("per_seed"), "form"),
        (lambda p: p["mp3"]["scores"]["accuracy"].update(drop_ci95=[0.5, 0.6]), "scores"),
        (lambda p: p["mp3"]["scores"]["accuracy"].update(drop_ci95=[0.5]), "form"),
        (
            lambda p: p["mp3"]["scores"]["accuracy"].pop("drop_ci95"),
            "facts",
        ),  # records before drops had one name no code
    ],
)
def test_results_check_finds_what_was_made_up(toy_record, edit, kind):
    path = toy_record("--seeds", 1, "--layers", "1", "--perturb", "gain,noise,mp3")
    record = json.loads(path.read_text())
    edit(record["perturbations"])
    record["digests"]["record"] = results.compute_digest(record)
    path.write_text(json.dumps(record))
    found = {each.kind for each in validation.check([path])}
    assert found - {"impossible"} == {*kind.split()}  # why_not names the changes too


@pytest.mark.slow
def test_the_table_of_drops_is_printed_and_dry_runs_name_the_changes(bench):
    asked = ("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--seeds", 1, "--perturb", "noise, gain")
    planned = bench(*asked, "--dry-run")
    assert "perturb: ['gain', 'noise']" in planned.out
    ended = bench(*asked)
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["perturbation", "metric", "clean", "test", "drop", "95", "%", "clips", "left", "out"] in lines
    assert [line[0] for line in lines[-2:]] == ["gain", "noise"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--perturb", "mp33"), "no perturbation 'mp33'; did you mean 'mp3'?"),
        (("--perturb", ""), "no perturbation ''"),
        (("--perturb", "gain,nois"), "did you mean 'noise'?"),
        (("--perturb", "mp3", "--task", "musdb"), "task 'musdb' asks for stems"),
        (("--perturb", "mp3", "--features", "."), "--features brings no audio: give --model"),
    ],
)
def test_what_cannot_be_perturbed_is_told_before_any_work(bench, tmp_path, arguments, words):
    task = () if "--task" in arguments else ("--task", TOY_TASK)
    model = "mine" if "--features" in arguments else TOY_MODEL
    ended = bench("run", *task, "--model", model, "--mini", *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert not (tmp_path / "cache" / "features").exists()


def test_all_stands_for_every_name():
    assert perturb.parse_names("all") == perturb.parse_names("gain,all") == tuple(perturb.CHANGES)
    with pytest.raises(UsageError, match="there are gain, noise, mp3, low-pass, pitch-shift, time-stretch, all"):
        perturb.parse_names("reverb")


def test_the_page_shows_the_drops_beside_the_full_record(tmp_path):
    from marble_bench.board.board import BoardFilter, build_board
    from marble_bench.board.page import collect_data
    from marble_bench.records.record_file import Stored, read_stored

    score = {"test": 0.5, "clean": 0.75, "drop": 0.25, "per_seed": [0.5]}
    make(tmp_path, "good", mini=True)
    make(tmp_path, "plain", mini=True, seed=1)
    (full, _) = read_stored(tmp_path)
    told = {
        "mp3": {"clips": 9, "left_out": 1, "scores": {"accuracy": {**score, "drop_ci95": [0.2, 0.3456]}}},
        "gain": {"clips": 10, "left_out": 0, "scores": {"accuracy": score}},  # made before drops had an interval
    }
    facts = to_json(full.record)
    record = from_json({**facts, "perturbations": told, "why_not": [*facts["why_not"], "made for perturbations"]})
    stored = [*read_stored(tmp_path), Stored(full.path.with_name("gtzan.mini-perturbed.json"), record)]
    found = {
        each["id"]: each["perturbed"]
        for each in collect_data(build_board(stored, BoardFilter("marble", mini=True)))["records"]
    }
    row = {
        "name": "mp3",
        "metric": "accuracy",
        "clips": 9,
        "left_out": 1,
        "clean": "75.0",
        "test": "50.0",
        "drop": "25.0",
        "ci": ["20.0", "34.6"],
    }
    shown = {name.split("/")[0]: each for name, each in found.items()}
    assert shown["plain"] is None
    assert shown["good"]["rows"] == [row, {**row, "name": "gain", "clips": 10, "left_out": 0, "ci": []}]
    assert shown["good"]["record"].endswith("gtzan.mini-perturbed.json")


@pytest.fixture
def fallen(tmp_path):
    """A record whose probes are right on nearly every clip, on about half of them after an mp3; and the values of these."""
    path = make(tmp_path / "results", "one", skill=6.0, mini=True)
    record = json.loads(path.read_text())
    place = results.find_table_path(path, "predictions")
    table = pd.read_parquet(place)
    changed = table[table.split == "test"].assign(split="test:mp3")
    noise = np.random.default_rng(0).normal(size=(60, 10))  # the same for each seed of a clip
    changed["outputs"] = [
        (0.25 * np.asarray(row) + noise[int(clip[4:])]).tolist()
        for row, clip in zip(changed["outputs"], changed["clip"], strict=True)
    ]
    right = changed.outputs.map(np.argmax) == changed.truth.str[0]
    per_seed, per_clip = (
        right.groupby(changed["seed"]).mean().tolist(),
        right.groupby(changed["clip"]).mean().to_numpy(),
    )
    score = sum(per_seed) / len(per_seed)
    clean = record["scores"]["accuracy"]["test"]
    told = {"test": score, "clean": clean, "drop": clean - score, "per_seed": per_seed}
    record["perturbations"] = {"mp3": {"clips": 60, "left_out": 0, "scores": {"accuracy": told}}}
    pd.concat([table, changed]).to_parquet(place, index=False)
    return Stored(path, from_json(record)), per_clip


def _again(record, by):
    """A rerun whose score under mp3 is another."""
    made = to_json(record)
    made["perturbations"]["mp3"]["scores"]["accuracy"]["test"] += by
    return from_json(made)


def test_a_changed_score_is_judged_by_its_own_interval_where_its_predictions_are(fallen):
    stored, per_clip = fallen
    score = stored.record.perturbations["mp3"].scores["accuracy"].test
    low, high = stored.record.scores["accuracy"].ci95
    assert 0.3 < score < 0.7
    assert high - low < 0.1  # the unchanged score's interval is far too narrow for one near a half
    plain, row = reproduce.compare_scores(stored, _again(stored.record, -0.08))
    assert (plain.verdict, plain.interval, plain.basis) == ("same", (low, high), "the record")
    theirs = stats.bootstrap((per_clip,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    assert row.metric == "accuracy, mp3"
    assert row.interval == pytest.approx(tuple(theirs), abs=0.03)
    assert (row.verdict, row.basis) == ("inside", "its predictions")
    assert reproduce.compare_scores(stored, _again(stored.record, -0.2))[1].verdict == "outside"


def test_without_its_predictions_a_changed_score_is_judged_by_the_plain_interval_moved_and_says_so(fallen, capsys):
    stored, _ = fallen
    low, high = stored.record.scores["accuracy"].ci95
    moved = stored.record.perturbations["mp3"].scores["accuracy"].drop
    place = results.find_table_path(stored.path, "predictions")
    table = pd.read_parquet(place)
    turned = table.assign(outputs=[np.roll(row, 1) for row in table.outputs])
    for spoil, why in (
        (lambda: turned.to_parquet(place, index=False), "they give another score"),
        (lambda: place.write_bytes(b"PAR1"), "cannot be read as a table"),
        (place.unlink, "not beside the record"),
    ):
        spoil()
        _, row = reproduce.compare_scores(stored, _again(stored.record, -0.08))
        assert row.interval == pytest.approx((low - moved, high - moved))
        assert row.verdict == "outside"
        assert why in row.basis
    show.print_reproduction([row], {"accuracy": "fraction"}, [], [])
    assert "interval of the unchanged score, moved, since" in capsys.readouterr().err

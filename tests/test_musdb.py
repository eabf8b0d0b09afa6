"""MUSDB18: both editions are read, the miniature adds up, mixtures are drawn and made as told, and a whole run separates."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from marble_bench.probes.grid import build_grid
from museval_alone import load_museval_measures

from marble_bench import audio
from marble_bench.core import plugins
from marble_bench.core.keys import hash_task
from marble_bench.data import corpus
from marble_bench.data.inspection import inspect
from marble_bench.errors import DataError, UsageError
from marble_bench.metrics import stem_metrics
from marble_bench.metrics._bsseval import MEASURES, global_sdr, median_of_medians
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.records import results
from marble_bench.runs import reproduce
from marble_bench.scoring.statistics import bootstrap_interval
from marble_bench.scoring.targets import Stems
from marble_bench.separation import mixing, stems
from marble_bench.separation.bsseval_pool import SignalFile, measure, round_to_16_bits

VALID = """
Actions - One Minute Smile; Clara Berry And Wooldog - Waltz For My Victims; Johnny Lokke - Promises & Lies;
Patrick Talbot - A Reason To Leave; Triviul - Angelsaint; Alexander Ross - Goodbye Bolero; Fergessen - Nos Palpitants;
Leaf - Summerghost; Skelpolu - Human Mistakes; Young Griffo - Pennies; ANiMAL - Rockshow; James May - On The Line;
Meaxic - Take A Step; Traffic Experiment - Sirens
"""
RULES = replace(
    plugins.find_task("musdb").task.mini_separation, chunk_s=2.0, mixtures_per_track=4, max_epochs=4, hidden=32
)


@pytest.fixture(scope="module")
def musdb18():
    return importlib.import_module("marble_bench.tasks.corpora.musdb18")


@pytest.fixture(scope="module")
def root(miniatures, musdb18):
    return corpus.ensure_mini(musdb18.MUSDB18, miniatures)


@pytest.fixture(scope="module")
def songs(root, musdb18):
    """The miniature's songs by split."""
    there = corpus.find_on_disk(plugins.find_task("musdb"), root)
    found = {}
    for clip, path in zip(there.clips, there.paths, strict=True):
        found.setdefault(clip.split, []).append(stems.open_song(path, musdb18.STEMS, clip.id))
    return found


def test_the_validation_songs_are_the_fourteen(musdb18):
    listed = {name.strip() for name in VALID.replace("\n", " ").split(";")}
    assert {row["track"] for row in musdb18.songs() if row["split"] == "valid"} == listed


@pytest.mark.slow
def test_the_miniatures_stems_add_up_exactly_and_rest(songs, musdb18):
    assert {split: len(found) for split, found in songs.items()} == musdb18.MINI_SONGS
    for song in (song for found in songs.values() for song in found):
        files = {part: soundfile.read(path, dtype="int16")[0].astype(int) for part, (path, _) in song.parts.items()}
        assert (files["mixture"] == sum(files[name] for name in musdb18.STEMS)).all()
        assert np.abs(files["mixture"]).max() > 20000
        for name, (first_s, last_s) in musdb18.RESTS.items():
            rest = files[name][round(first_s * 44100) : round(last_s * 44100)]
            assert not rest.any()
            assert files[name].any() == ((song.name, name) != ("Angels In Amplifiers - I'm Alright", "vocals"))
            if files[name].any():
                assert (files[name][:, 0] != files[name][:, 1]).any() == (name != "bass")


def test_a_song_is_found_under_other_writings_and_in_a_valid_folder(musdb18, tmp_path):
    for place in ("train/Jokers Jacks & Kings - Sea Of Leaves", "valid/Leaf - Summerghost"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "mixture.wav").touch()
    for track in ("Jokers, Jacks & Kings - Sea Of Leaves", "Leaf - Summerghost"):
        assert musdb18.locate(tmp_path, f"train/{track}.stem.mp4").name == "mixture.wav"
    assert musdb18.locate(tmp_path, "train/Leaf - Wicked.stem.mp4") is None


def _copy(song, folder):
    path = folder / song.name
    path.mkdir()
    for part, (file, _) in song.parts.items():
        (path / f"{part}.wav").write_bytes(file.read_bytes())
    return path / "mixture.wav"


@pytest.mark.slow
def test_stems_of_different_lengths_and_missing_ones_are_named(songs, musdb18, tmp_path):
    path = _copy(songs["test"][0], tmp_path)
    soundfile.write(path.with_name("bass.wav"), np.zeros((1000, 2)), 44100)
    with pytest.raises(DataError, match=r"AM Contra.*differ in length.*mixture 282,240.*bass 1,000"):
        stems.open_song(path, musdb18.STEMS)
    soundfile.write(path.with_name("bass.wav"), np.zeros(282240), 44100)
    with pytest.raises(DataError, match="bass of 'AM Contra - Heart Peripheral' has 1 channels"):
        stems.open_song(path, musdb18.STEMS)
    path.with_name("bass.wav").unlink()
    with pytest.raises(DataError, match=r"lacks bass\.wav"):
        stems.open_song(path, musdb18.STEMS)


@pytest.mark.slow
def test_a_damaged_stem_is_found_by_inspection(songs, musdb18, tmp_path):
    (tmp_path / "test").mkdir()
    path = _copy(songs["test"][0], tmp_path / "test")
    drums = path.with_name("drums.wav")
    drums.write_bytes(drums.read_bytes()[:100000])
    for deep in (False, True):
        report = inspect(musdb18.MUSDB18, [plugins.find_task("musdb")], tmp_path, deep=deep)
        assert list(report.damaged) == ["test/AM Contra - Heart Peripheral/drums.wav"]
        assert "truncated" in report.damaged["test/AM Contra - Heart Peripheral/drums.wav"]
        assert not report.unexpected
        assert len(report.missing) == 149


def test_a_songs_digest_is_of_all_its_files(songs, musdb18, tmp_path):
    path = _copy(songs["test"][0], tmp_path)
    before = stems.digest(path, musdb18.STEMS)
    assert before == stems.digest(songs["test"][0].parts["mixture"][0], musdb18.STEMS)
    soundfile.write(path.with_name("bass.wav"), np.zeros((282240, 2)), 44100)
    assert stems.digest(path, musdb18.STEMS) != before


def _stem_file(path, sounds):
    """An mp4 with an AAC stream for each `(channels, samples)`."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        streams = [container.add_stream("aac", rate=44100, layout="stereo") for _ in sounds]
        for stream in streams:
            stream.bit_rate = 256_000
        for first in range(0, sounds[0].shape[1], 1024):
            for stream, sound in zip(streams, sounds, strict=True):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(sound[:, first : first + 1024]), format="fltp", layout="stereo"
                )
                frame.sample_rate, frame.pts = 44100, first
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def stem_file(songs, tmp_path_factory):
    """A song of the miniature, two seconds of it, as a stem file; and those two seconds by part."""
    song = songs["train"][0]
    sounds = {part: song.read(part, 44100, 2 * 44100) for part in stems.STREAMS}
    path = tmp_path_factory.mktemp("stems") / "Song.stem.mp4"
    return _stem_file(path, list(sounds.values())), sounds


@pytest.mark.slow
def test_a_stem_file_is_read_as_the_wavs_that_it_was_made_of(stem_file, musdb18):
    path, sounds = stem_file
    audio.check_header(path, 44100)
    song = stems.open_song(path, musdb18.STEMS)
    assert (song.name, song.rate_hz, song.samples) == ("Song", 44100, 88200)
    for part, sound in sounds.items():
        read = song.read(part)
        assert read.shape == sound.shape
        assert global_sdr(sound, read) > 15  # coded with losses, but the same sound at the same time
        assert (song.read(part, 30000, 5000) == read[:, 30000:35000]).all()
    assert audio.read_duration_s(path) == 2.0
    with pytest.raises(DataError, match="too short"):
        audio.read_channels(path, start_s=1.5, duration_s=1.0)
    with pytest.raises(DataError, match="48,000 Hz"):
        audio.check_header(path, 48000)


def test_a_truncated_stem_file_is_named(stem_file, tmp_path):
    content = stem_file[0].read_bytes()
    path = tmp_path / "Cut.stem.mp4"
    for share in (0.5, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"Cut\.stem\.mp4 is truncated: .* packets promised"):
            audio.check_header(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is truncated: 88,200 samples of stream 2 promised|cannot be decoded"):
        audio.read_channels(path, stream=2)
    path.write_bytes(b"no container at all")
    with pytest.raises(DataError, match="cannot be decoded"):
        audio.check_header(path)


def test_without_a_decoder_it_is_said_what_to_install(monkeypatch, tmp_path, musdb18):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.stem.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"pip install 'marble-bench\[stems\]'"):
        stems.open_song(tmp_path / "a.stem.mp4", musdb18.STEMS)


def test_mixtures_are_drawn_by_the_seed_and_are_the_sum_of_what_was_drawn(songs):
    train = songs["train"]
    drawn = mixing.draw_mixtures(train, 200, RULES)
    assert drawn == mixing.draw_mixtures(train, 200, RULES)
    assert drawn[:50] != mixing.draw_mixtures(train, 50, replace(RULES, draw_seed=1))
    parts = [part for mixture in drawn for part in mixture.parts]
    assert {part.track for part in parts} == set(range(len(train)))
    assert min(part.gain for part in parts) > 0.25
    assert max(part.gain for part in parts) < 1.25
    assert 0.4 < np.mean([part.swap for part in parts]) < 0.6
    assert max(part.start for part in parts) <= train[0].samples - 2 * 44100
    assert len({mixture.parts[0].track == mixture.parts[1].track for mixture in drawn}) == 2

    names = [song.name for song in train]
    digests = {mixture.digest(names, RULES) for mixture in drawn}
    assert len(digests) == 200
    of_first = next(mixture for mixture in drawn if any(part.track == 0 for part in mixture.parts))
    assert of_first.digest(["other", *names[1:]], RULES) != of_first.digest(names, RULES)


def test_a_song_shorter_than_a_mixture_is_named(songs):
    with pytest.raises(DataError, match=r"lasts 6\.40 s, less than a training mixture of 7 s"):
        mixing.draw_mixtures(songs["train"], 1, replace(RULES, chunk_s=7.0))


@pytest.fixture(scope="module")
def made(songs, tmp_path_factory):
    """Training mixtures in a file."""
    drawn = mixing.draw_mixtures(songs["train"], 4 * len(songs["train"]), RULES)
    folder = tmp_path_factory.mktemp("mixtures")
    return drawn, mixing.make_chunks(drawn, songs["train"], RULES, folder / "chunks.f16")


def _by_hand(mixture, songs):
    """`(stems, channels, samples)` of a mixture: each stem's stretch, its channels as drawn, resampled, with its gain."""
    stems = []
    for name, part in zip(songs[0].names, mixture.parts, strict=True):
        sound = songs[part.track].read(name, part.start, 2 * 44100)
        turned = (sound[::-1] if part.swap else sound).T
        stems.append(part.gain * audio.resample(np.ascontiguousarray(turned), 44100, 24000).T)
    return np.stack(stems)


@pytest.mark.slow
def test_mixtures_in_a_file_are_what_was_drawn(songs, made):
    drawn, chunks = made
    assert chunks.path.stat().st_size == mixing.count_chunk_bytes(len(drawn), 4, RULES)
    for index in (0, 7, 19):
        exact = _by_hand(drawn[index], songs["train"])
        np.testing.assert_allclose(chunks.read(index), exact, atol=3e-4)  # half precision
        np.testing.assert_allclose(chunks.mono(index, 24000), exact.sum(axis=0).mean(axis=0), atol=1e-3)
    assert chunks.mono(0, 22050).shape == (44100,)
    stamp = chunks.path.stat().st_mtime_ns
    mixing.make_chunks(drawn, songs["train"], RULES, chunks.path)
    assert chunks.path.stat().st_mtime_ns == stamp


def test_files_of_signals_are_read_a_stretch_at_a_time(tmp_path):
    signals = np.random.default_rng(0).normal(size=(3, 2, 100)).astype(np.float32)
    signals.tofile(tmp_path / "signals")
    on_disk = SignalFile(tmp_path / "signals", (3, 100, 2))
    assert (on_disk[:, 20:50] == np.moveaxis(signals, 2, 1)[:, 20:50]).all()
    assert on_disk[:, 90:130].shape == (3, 10, 2)


class Bands:
    """A few bands of loudness, 75 frames a second: features good enough to separate with."""

    def __init__(self, monos):
        spectra = importlib.import_module("marble_bench.separation.spectra")
        self.frames = []
        for mono in monos:
            magnitude = spectra.compute_magnitudes(torch.from_numpy(mono)[None], RULES)[:, :1024]
            bands = torch.cat([magnitude[:, :64:2], magnitude[:, 64:].unflatten(1, (30, 32)).mean(dim=2)], dim=1)
            self.frames.append((bands + 1e-3).log().numpy().astype(np.float16))
        self.rates, self.widths = [75.0], [62]

    def length(self, layer, item):
        return len(self.frames[item])

    def read(self, layer, item, first, count):
        return self.frames[item][first : first + count]


@pytest.mark.slow
def test_a_whole_run_beats_the_mixture_and_stays_below_the_oracle(songs, made, musdb18, tmp_path):
    probe = importlib.import_module("marble_bench.separation.probe")
    separating = importlib.import_module("marble_bench.separation.evaluate")
    _, chunks = made
    tracks = [mixing.make_track(song, RULES, tmp_path) for song in songs["valid"]]
    material = probe.TrainingData(
        chunks,
        Bands([chunks.mono(index, 24000) for index in range(len(chunks))]),
        tracks,
        Bands([mixing.read_song_mono(song, 24000, RULES) for song in songs["valid"]]),
    )
    test = Bands([mixing.read_song_mono(song, 24000, RULES) for song in songs["test"]])
    probes = build_grid(replace(MARBLE, learning_rates=RULES.learning_rates), [0], False, 1, 4)
    chosen = probe.choose(probe.fit(probes, material, RULES), 1, 4)
    found = separating.measure(
        chosen, songs["test"], test, (), RULES, tmp_path / "scratch", workers=1, keep_audio=tmp_path / "kept"
    )
    assert found.silent == [("Angels In Amplifiers - I'm Alright", "vocals")]
    assert np.isnan(found.sdr[0]).tolist() == np.isnan(found.oracle).tolist() == np.isnan(found.mixture).tolist()
    assert np.isnan(found.sdr).sum() == 1
    ours, trivial, best = (np.nanmean(np.nanmean(x, axis=0)) for x in (found.sdr[0], found.mixture, found.oracle))
    assert trivial + 2 < ours < best
    assert found.song_medians().shape == (1, len(songs["test"]), 4)
    assert np.isfinite(median_of_medians(found.bss["sir"][0])).all()
    rows = torch.from_numpy(found.rows())
    main = plugins.find_task("musdb").task.metrics[0]
    assert float(main.compute(rows, torch.zeros(3, 0))[0]) == pytest.approx(ours)
    assert float(main.compute(torch.from_numpy(found.trivial_rows())[None], torch.zeros(3, 0))[0]) == pytest.approx(
        trivial
    )

    # what is kept is what was measured
    song = songs["test"][0]
    kept, rate = soundfile.read(tmp_path / "kept" / "seed0" / song.name / "drums.wav", dtype="float32")
    assert rate == 24000
    true = song.read("drums", sample_rate_hz=24000)
    assert global_sdr(true, kept.T) == pytest.approx(found.sdr[0, 0, 1], abs=1e-3)
    assert not list((tmp_path / "scratch").iterdir())
    assert all(math.isfinite(one.valid) for one in chosen[0])


@pytest.mark.slow
def test_a_whole_song_is_measured_as_museval_measures_it(songs, tmp_path):
    song = songs["test"][0]
    true = np.stack([round_to_16_bits(song.read(name)) for name in song.names])
    guess = 0.7 * true + 0.2 * true.sum(axis=0) + 1e-3 * np.random.default_rng(0).normal(size=true.shape)
    guess[0, :, 1:] += 0.3 * guess[0, :, :-1]
    (tmp_path / "guess").write_bytes(guess.astype(np.float32).tobytes())
    (ours,) = measure(song, [tmp_path / "guess"], song.rate_hz, tmp_path)
    whole = (np.moveaxis(signals.astype(np.float32), 1, 2).astype(np.float64) for signals in (true, guess))
    theirs = load_museval_measures().bss_eval(*whole, window=44100, hop=44100, compute_permutation=False)
    for name, values in zip(MEASURES, theirs[:4], strict=True):
        assert ours[name].shape == (4, 6)
        np.testing.assert_allclose(ours[name], values, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_bench_run_separates_the_miniature_and_says_what_frames_the_score(bench, tmp_path):
    import json

    import jsonschema
    import pandas as pd

    from marble_bench.records.schema import build_schema, from_json

    arguments = ("run", "--model", "logmel", "--task", "musdb", "--mini", "--seeds", 1, "--limit", 2, "--json")
    ended = bench(*arguments, "--keep-audio", tmp_path / "kept")
    assert ended.code == 0, ended.err
    made = ended.record
    jsonschema.validate(made, build_schema())
    sdr = made["scores"]["sdr"]
    assert sdr["main"]
    assert sdr["unit"] == "dB"
    assert sdr["trivial"] < sdr["test"] < sdr["oracle"]
    assert "oracle" not in made["scores"]["museval_sdr"]
    assert [choice["stem"] for choice in made["selection"]["per_seed"]] == ["vocals", "drums", "bass", "other"]
    (path,) = tmp_path.glob("results/logmel/*/marble/musdb.mini-limit2-seeds1.json")
    assert json.loads(path.read_text())["scores"] == made["scores"]
    table = pd.read_parquet(path.with_suffix(".predictions.parquet"))
    test = table[table["split"] == "test"]
    outputs = torch.from_numpy(np.stack(test["outputs"].to_list()))[None]
    for metric in plugins.find_task("musdb").task.metrics:
        again = float(metric.compute(outputs, torch.zeros(len(test)))[0])
        assert again == pytest.approx(made["scores"][metric.name]["test"], abs=1e-9)
    assert len(list((tmp_path / "kept" / "seed0").glob("*/*.wav"))) == 4 * 2
    scratch = list((tmp_path / "cache" / "scratch").iterdir())
    assert [path.name for path in scratch] == ["lock"]
    checked = bench("results", "check", path)
    assert checked.code == 0, checked.out
    exported = bench("results", "export", path, "--museval", tmp_path / "museval", "--json")
    assert exported.code == 0, exported.err
    (folder,) = json.loads(exported.out)["museval"]
    for stem in ("vocals", "drums", "bass", "other"):
        files = [json.loads(file.read_text()) for file in Path(folder).glob("test/*.json")]
        targets = [target for file in files for target in file["targets"] if target["name"] == stem]
        assert [len(target["frames"]) for target in targets] == [6, 6]
        medians = [np.nanmedian([frame["metrics"]["SDR"] for frame in target["frames"]]) for target in targets]
        assert np.median(medians) == pytest.approx(made["scores"][f"museval_sdr_{stem}"]["test"], abs=1e-5)
    windows = results.find_table_path(path, "bsseval")
    before, stood = windows.read_bytes(), path.read_bytes()
    windows.unlink()
    assert bench(*arguments).code == 0
    assert (windows.read_bytes(), path.read_bytes()) == (before, stood)
    again = reproduce.make_config(from_json(made), tmp_path / "cache", tmp_path / "again", "cpu")
    assert (again.probes.seeds, again.data.limit, again.features.dtype) == (1, 2, "float32")


@pytest.mark.slow
def test_songs_that_cannot_be_decoded_are_named_together_and_left_out_where_that_is_allowed(bench, tmp_path, musdb18):
    """Their headers are whole; the samples are not numbers, which only decoding shows."""
    root = corpus.ensure_mini(musdb18.MUSDB18, tmp_path / "cache")
    named = plugins.find_task("musdb")
    there = corpus.find_on_disk(named, root)
    of_split = {
        split: [clip for clip in corpus.limit_clips(there.clips, 2) if clip.split == split]
        for split in ("train", "test")
    }
    path_of = {clip.id: path for clip, path in zip(there.clips, there.paths, strict=True)}
    spoilt = [of_split["train"][0], of_split["test"][1]]
    for clip, part in zip(spoilt, ("bass.wav", "vocals.wav"), strict=True):
        path = path_of[clip.id].with_name(part)
        sound, rate = soundfile.read(path, dtype="float32")
        sound[1000] = np.nan
        soundfile.write(path, sound, rate, subtype="FLOAT")
    asked = ("run", "--model", "logmel", "--task", "musdb", "--mini", "--seeds", 1, "--limit", 2, "--json", "--quiet")
    ended = bench(*asked)
    assert ended.code == 3
    assert "2 of 6 clips cannot be used" in ended.err
    assert "bass.wav has samples that are NaN" in ended.err
    assert "vocals.wav has samples that are NaN" in ended.err
    assert not (tmp_path / "cache" / "mixtures").exists()
    ended = bench(*asked, "--allow-missing")
    assert ended.code == 0, ended.err
    assert sorted(ended.record["data"]["missing"]) == sorted(clip.audio for clip in spoilt)
    assert ended.record["data"]["clips"] == {"train": 1, "valid": 2, "test": 1}
    assert "incomplete corpus (2 clips absent)" in ended.record["why_not"]
    tried = {file.name for file in (tmp_path / "cache" / "decoded").iterdir()}
    assert len(tried) == 4  # the sound ones, which are not decoded for this again


def test_separators_are_chosen_by_the_mean_over_stems_or_the_task_is_refused():
    task = plugins.find_task("musdb").task
    by_museval = tuple(sorted(task.metrics, key=lambda metric: metric.name != "museval_sdr"))
    with pytest.raises(UsageError, match="'museval_sdr' is first, and separators are chosen by 'sdr'"):
        replace(task, metrics=by_museval)
    other = replace(task, target=Stems(("vocals", "rest")), metrics=stem_metrics(("vocals", "rest")))
    assert other.metrics[0].name == "sdr"


def test_a_single_song_has_a_score_and_no_interval():
    outputs = torch.tensor([[[3.0, float("nan"), 2.0, float("nan")]]])
    for metric in stem_metrics(("vocals", "drums")):
        assert np.isnan(bootstrap_interval(metric, outputs, torch.zeros(1), ["song"])).all()


def test_the_rules_of_separation_are_part_of_what_a_task_is():
    named = plugins.find_task("musdb")
    other = replace(named.task, separation=replace(named.task.separation, learning_rates=(1e-2,)))
    assert hash_task(replace(named, task=other)) != hash_task(named)
    with pytest.raises(UsageError, match="separation is missing"):
        replace(named.task, separation=None)


def test_a_model_without_frames_cannot_separate(bench):
    ended = bench("run", "--model", "choi", "--task", "musdb", "--mini", "--quiet")
    assert ended.code == 2
    assert "choose another model" in ended.err


@pytest.mark.slow
def test_a_model_that_needs_longer_mixtures_is_refused_before_any_is_made(bench, tmp_path):
    encoder = (tmp_path / "long.py").resolve()
    encoder.write_text(
        "from marble_bench import Encoder, Layer\n"
        "LONG = Encoder(name='long', description='d', sample_rate_hz=8000, layers=(Layer('a', 2, 50.0),),\n"
        "    load=lambda weights, device: None, license='x', citation='x', min_s=5.0)\n"
    )
    ended = bench("run", "--model", f"{encoder}:LONG", "--task", "musdb", "--mini", "--quiet")
    assert ended.code == 2
    assert "a training mixture lasts 3 s, and long needs at least 5.000 s" in ended.err


def test_a_folder_for_audio_that_cannot_be_written_ends_a_run_before_any_work(bench, tmp_path):
    (tmp_path / "file").write_text("")
    kept = tmp_path / "file" / "kept"
    ended = bench("run", "--model", "logmel", "--task", "musdb", "--mini", "--device", "cpu", "--keep-audio", kept)
    assert ended.code == 1
    assert f"the folder for separated songs {kept} cannot be written: Not a directory; choose another" in ended.err
    assert not (tmp_path / "cache").exists()

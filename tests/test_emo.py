"""Emomusic: the published split, csv files with stray tabs, and ratings that can be heard in the miniature."""

import csv
import hashlib
import importlib
from collections import Counter

import librosa
import numpy as np
import pytest
from conftest import TOY_MODEL

from marble_bench import audio
from marble_bench.audio import synth
from marble_bench.core import plugins
from marble_bench.data import corpus
from marble_bench.errors import DataError

pytestmark = pytest.mark.slow  # most need the miniature, which takes long to make


@pytest.fixture(scope="module")
def named():
    return plugins.find_task("emo")


@pytest.fixture(scope="module")
def emomusic():
    return importlib.import_module("marble_bench.tasks.corpora.emomusic")


@pytest.fixture(scope="module")
def mini(miniatures, emomusic):
    return corpus.ensure_mini(emomusic.EMOMUSIC, miniatures)


@pytest.fixture
def csvs(tmp_path, mini):
    """A miniature's folder with its csv files and no audio."""
    for name in ("songs_info.csv", "static_annotations.csv", corpus.MARKER):
        (tmp_path / name).write_bytes((mini / name).read_bytes())
    return tmp_path


def test_the_split_is_the_published_one_and_brings_its_ratings(named):
    clips = corpus.list_clips(named, None)
    assert Counter(clip.split for clip in clips) == {"train": 504, "valid": 115, "test": 125}
    truth = named.task.target.encode([clip.target for clip in clips], [clip.id for clip in clips])
    assert truth.shape == (744, 2)
    assert 1 <= truth.min() < truth.max() <= 9
    assert clips[0].target == (3.1, 3.0)


def test_ratings_come_from_the_corpus_and_its_stray_tabs_are_taken_off(named, mini, emomusic):
    text = (mini / "songs_info.csv").read_text()
    assert "\t" in text
    there = corpus.find_on_disk(named, mini)
    assert Counter(clip.split for clip in there.clips) == {"train": 38, "valid": 15, "test": 19}
    for clip in there.clips[::9]:
        assert clip.target == emomusic.compose(int(clip.id))[1:]


@pytest.mark.slow
def test_annotations_in_their_own_folder_are_found(named, csvs, emomusic):
    before = emomusic.ratings(csvs)
    (csvs / "annotations").mkdir()
    for path in list(csvs.glob("*.csv")):
        path.rename(csvs / "annotations" / path.name)
    assert emomusic.ratings(csvs) == before


def test_missing_annotations_are_told_with_where_to_get_them(csvs, emomusic):
    (csvs / "static_annotations.csv").unlink()
    with pytest.raises(DataError, match=r"static_annotations.csv is neither in .*annotations.tar.gz"):
        emomusic.clips(csvs)


def _change(path, song, column, value):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    at = next(index for index, name in enumerate(rows[0]) if name.strip() == column)
    for row in rows:
        if row[0] == song:
            row[at] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "mean_arousal is '', which is no number"),
        ("loud", "mean_arousal is 'loud', which"),
        ("11", "runs from 1 to 9"),
    ],
)
def test_a_rating_that_is_none_is_told_by_song(csvs, emomusic, value, words):
    _change(csvs / "static_annotations.csv", "2", "mean_arousal", value)
    with pytest.raises(DataError) as caught:
        emomusic.clips(csvs)
    assert words in str(caught.value)
    assert "static_annotations.csv line 40: " in str(caught.value)
    assert "song 2)" in str(caught.value)


def test_a_song_whose_set_contradicts_the_split_is_told(csvs, emomusic):
    _change(csvs / "songs_info.csv", "2", "Mediaeval 2013 set", "evaluation")
    with pytest.raises(DataError, match=r"songs_info.csv line 40: puts song 2 into the 'evaluation' set"):
        emomusic.clips(csvs)


def test_an_artist_in_train_and_valid_is_told(csvs, emomusic):
    _change(csvs / "songs_info.csv", "5", "Artist", "Somebody")
    emomusic.clips(csvs)
    _change(csvs / "songs_info.csv", "2", "Artist", "Somebody")
    splits = {row["song_id"]: row["split"] for row in emomusic.songs()}
    assert {splits["2"], splits["5"]} == {"train", "valid"}
    with pytest.raises(DataError, match="songs 2 and 5 to one artist, 'Somebody'"):
        emomusic.clips(csvs)


def test_a_clip_without_a_rating_is_told(csvs, emomusic):
    unrated = next(row["song_id"] for row in emomusic.songs() if row["song_id"] not in emomusic.ratings(csvs))
    (csvs / "clips_45seconds").mkdir()
    (csvs / f"clips_45seconds/{unrated}.mp3").touch()
    with pytest.raises(DataError, match=f"no rating of song {unrated}"):
        emomusic.clips(csvs)


def test_arousal_is_heard_in_the_miniature(named, mini):
    there = corpus.find_on_disk(named, mini)
    arousal = [clip.target[0] for clip in there.clips]
    onsets = []
    for path in there.paths:
        sound = audio.read(path, sample_rate_hz=22050)
        onsets.append(librosa.onset.onset_strength(y=sound, sr=22050).mean())
    assert np.corrcoef(arousal, onsets)[0, 1] > 0.5


def test_the_miniatures_samples_are_the_same_everywhere(emomusic):
    sound, arousal, valence = emomusic.compose(2)
    assert (hashlib.sha256(synth.quantize_to_int16(sound).tobytes()).hexdigest(), arousal, valence) == (
        "e44927bf7f4cce4f4886144116e3831525bc73cee1fc41715c39b5a320a84b08",
        np.float64(7.4),
        np.float64(5.4),
    )


@pytest.mark.usefixtures("own_cache_with_miniatures")
@pytest.mark.parametrize("model", ["mfcc", TOY_MODEL], ids=["normalises the clip", "does not"])
def test_probes_on_the_miniature_explain_some_and_not_all(bench, model):
    ended = bench("run", "--model", model, "--task", "emo", "--mini", "--json", "--quiet")
    assert ended.code == 0, ended.err
    scores = ended.record["scores"]
    assert list(scores) == ["r2", "r2_arousal", "r2_valence"]
    assert 0.1 < scores["r2"]["test"] < 0.95
    assert scores["r2"]["trivial"] <= 0
    assert scores["r2"]["test"] == pytest.approx((scores["r2_arousal"]["test"] + scores["r2_valence"]["test"]) / 2)

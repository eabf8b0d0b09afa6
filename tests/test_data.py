"""`bench data`, and a task as a `datasets.DatasetDict`."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from conftest import TOY_MODEL, TOY_TASK

from marble_bench.core import plugins
from marble_bench.data import corpus
from marble_bench.data.hf import dataset
from marble_bench.errors import DataError


@pytest.fixture(scope="module")
def gtzan_mini(miniatures):
    return corpus.ensure_mini(plugins.find_task("gtzan").task.corpus, miniatures)


@pytest.fixture
def gtzan(gtzan_mini, tmp_path):
    """A miniature of GTZAN of one's own to break."""
    shutil.copytree(gtzan_mini, tmp_path / "gtzan")
    return tmp_path / "gtzan"


def test_corpora_are_listed_with_their_tasks_and_where_they_are_had_from(bench):
    rows = {row["name"]: row for row in json.loads(bench("data", "list", "--json").out)}
    assert rows["mtg-jamendo"]["tasks"] == ["mtg-genre", "mtg-instrument", "mtg-moodtheme", "mtg-top50"]
    assert {source["status"] for source in rows["gtzan"]["sources"]} == {"dead", "gated", "public"}
    assert all(row["license"] and row["citation"] for row in rows.values())


@pytest.mark.slow
def test_a_whole_miniature_is_sound(bench, gtzan):
    ended = bench("data", "check", "gtzan", "--data-dir", gtzan, "--deep", "--json")
    assert ended.code == 0, ended.out
    assert json.loads(ended.out)["counts"]["gtzan"]["train"] == {"published": 443, "listed": 443, "there": 60}


@pytest.mark.slow
def test_ten_planted_faults_are_all_named(bench, gtzan):
    """Missing, empty, cut, cut by a sample, no audio, silent, of another rate, not finite, changed, and not belonging."""
    random = np.random.default_rng(0)
    files = sorted((gtzan / "genres").rglob("*.au"))[::14]
    missing, empty, cut, less, text, silent, rate, nan, changed, _ = files
    missing.unlink()
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:4000])
    less.write_bytes(less.read_bytes()[:-2])
    text.write_text("no music at all " * 40)
    soundfile.write(silent, np.zeros(70000), 22050, format="AU")
    soundfile.write(rate, random.normal(size=70000) * 0.1, 44100, format="AU")
    soundfile.write(nan, np.full(70000, np.nan), 22050, format="AU", subtype="FLOAT")
    soundfile.write(changed, random.normal(size=70000) * 0.1, 22050, format="AU")
    stranger = gtzan / "genres/jazz/jazz.00999.wav"
    soundfile.write(stranger, random.normal(size=70000) * 0.1, 22050)
    ended = bench("data", "check", "gtzan", "--data-dir", gtzan, "--deep", "--json")
    assert ended.code == 3
    report = json.loads(ended.out)
    below = {path.relative_to(gtzan).as_posix() for path in (empty, cut, less, text, silent, rate, nan, changed)}
    assert set(report["damaged"]) == below
    assert report["missing"] == [missing.relative_to(gtzan).as_posix()]
    assert report["unexpected"] == [stranger.relative_to(gtzan).as_posix()]
    for path, words in ((empty, "0 bytes"), (less, "truncated"), (silent, "silent"), (rate, "44,100"), (nan, "NaN")):
        assert words in report["damaged"][path.relative_to(gtzan).as_posix()]
    shown = bench("data", "check", "gtzan", "--data-dir", gtzan, "--deep")
    assert shown.code == 3
    assert "1 missing, 8 damaged" in shown.err
    assert stranger.name in shown.out


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--allow-missing",)])
def test_a_miniature_that_lacks_a_file_is_not_used_and_made_anew(bench, tmp_path, more):
    asked = ("--task", TOY_TASK, "--model", TOY_MODEL, "--mini", *more)
    assert bench("run", *asked, "--dry-run").code == 0
    (mini,) = (tmp_path / "cache/mini").iterdir()
    (mini / "hums/test03.wav").unlink()
    for ended in (bench("run", *asked), bench("plan", *asked), bench("check", TOY_TASK)):
        assert ended.code == 3
        assert f"the miniature in {mini} lacks 1 of 51 files: hums/test03.wav. Delete the folder" in ended.err
        assert "make it again: in the cache by --mini, elsewhere by bench data mini" in ended.err
    shutil.rmtree(mini)
    assert bench("check", TOY_TASK).code == 0


@pytest.mark.slow
def test_headers_alone_tell_a_truncated_wav(bench, gtzan):
    (gtzan / corpus.MARKER).unlink()
    victim = next((gtzan / "genres").rglob("*.au"))
    victim.write_bytes(victim.read_bytes()[:-1000])
    report = json.loads(bench("data", "check", "gtzan", "--data-dir", gtzan, "--json").out)
    assert list(report["damaged"]) == [victim.relative_to(gtzan).as_posix()]
    assert len(report["missing"]) == 930 - 140


@pytest.mark.slow
def test_a_known_fault_is_told_as_one(bench, gtzan):
    (gtzan / corpus.MARKER).unlink()
    (gtzan / "genres/jazz/jazz.00054.au").write_bytes(b"damaged in Kaggle's copy")
    report = json.loads(bench("data", "check", "gtzan", "--data-dir", gtzan, "--json").out)
    assert list(report["known_faults"]) == ["genres/jazz/jazz.00054.au"]
    assert report["damaged"] == {}


def test_annotations_that_are_not_there_are_told(bench, tmp_path):
    (tmp_path / "emo").mkdir()
    report = json.loads(bench("data", "check", "emomusic", "--data-dir", tmp_path / "emo", "--json").out)
    assert "static_annotations.csv is neither in" in report["annotations"][0]


@pytest.mark.slow
def test_a_miniature_is_written_where_one_asks_and_never_over_something(bench, tmp_path):
    assert bench("data", "mini", "gtzan", tmp_path / "made").code == 0
    assert len(list((tmp_path / "made/genres").rglob("*.au"))) == 140
    again = bench("data", "mini", "gtzan", tmp_path / "made")
    assert again.code == 3
    assert "exists already" in again.err


def test_unknown_corpora_are_answered_with_the_closest(bench):
    ended = bench("data", "check", "gtsan")
    assert ended.code == 2
    assert "did you mean 'gtzan'?" in ended.err


def test_a_missing_folder_is_told(bench, tmp_path):
    ended = bench("data", "check", "gtzan", "--data-dir", tmp_path / "nowhere")
    assert ended.code == 3
    assert "nowhere" in ended.err


@pytest.mark.slow
def test_a_task_of_classes_is_a_typed_dataset_of_the_files_that_are_there(gtzan_mini):
    made = dataset("gtzan", gtzan_mini)
    named = plugins.find_task("gtzan")
    there = {
        clip.id: path
        for clip in named.task.clips(gtzan_mini)
        if (path := named.task.corpus.locate(gtzan_mini, clip.audio)) is not None
    }
    assert {split: len(rows) for split, rows in made.items()} == {"train": 60, "validation": 40, "test": 40}
    shown = {row["id"]: row["audio"] for rows in made.values() for row in rows}
    assert shown == {name: {"bytes": None, "path": str(path)} for name, path in there.items()}
    assert all(Path(audio["path"]).is_file() for audio in shown.values())
    label = made["train"].features["target"]
    assert label.names[0] == "blues"
    row = made["validation"][0]
    assert label.int2str(row["target"]) == row["id"].split(".")[0]
    assert row["file"].endswith(f"{row['id']}.au")


def test_audio_is_a_feature_that_is_decoded_where_something_can(gtzan_mini, monkeypatch):
    for able in (False, True):
        monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", able)
        assert dataset("gtzan", gtzan_mini)["test"].features["audio"] == datasets.Audio(decode=able)
        asked = dataset("gtzan", gtzan_mini, decode=not able)
        assert asked["test"].features["audio"] == datasets.Audio(decode=not able)


def test_no_row_is_without_a_file(gtzan):
    (gtzan / corpus.MARKER).unlink()  # as a corpus of which most clips are missing
    with pytest.raises(DataError, match=r"790 of 930 clips of GTZAN are missing"):
        dataset("gtzan", gtzan)
    with pytest.warns(UserWarning, match=r"gtzan: 790 clips without a file left out: .* and 780 more"):
        made = dataset("gtzan", gtzan, allow_missing=True)
    assert {split: len(rows) for split, rows in made.items()} == {"train": 60, "validation": 40, "test": 40}
    with pytest.raises(DataError, match="no folder"):
        dataset("gtzan", gtzan / "nowhere")


def test_without_a_folder_there_are_labels_and_no_audio():
    made = dataset("gtzan")
    assert {split: len(rows) for split, rows in made.items()} == {"train": 443, "validation": 197, "test": 290}
    assert "audio" not in made["test"].features


@pytest.mark.slow
def test_tags_and_numbers_are_typed_too():
    moods = dataset("mtg-moodtheme")["test"]
    names = moods.features["target"].feature.names
    assert [names[index] for index in moods[0]["target"]] == ["melodic"]
    assert dataset("emo")["validation"][0]["target"] == pytest.approx([3.1, 3.0])
    assert dataset("vocalset-singer")["train"][1]["duration_s"] == pytest.approx(2.993, abs=1e-3)

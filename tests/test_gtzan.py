"""GTZAN: the published split, every layout it lies in, and a miniature that is neither trivial nor hopeless."""

import hashlib
import importlib
import shutil
from collections import Counter

import pytest

from marble_bench.audio import synth
from marble_bench.core import plugins
from marble_bench.data import corpus
from marble_bench.errors import DataError

# Per genre, as in PROTOCOLS: train, valid, test
PUBLISHED = {
    "blues": (46, 23, 31), "classical": (48, 20, 31), "country": (45, 23, 30), "disco": (42, 22, 29),
    "hiphop": (47, 18, 27), "jazz": (43, 17, 27), "metal": (44, 20, 27), "pop": (41, 13, 30),
    "reggae": (43, 17, 26), "rock": (44, 24, 32),
}  # fmt: skip


@pytest.fixture(scope="module")
def named():
    return plugins.find_task("gtzan")


@pytest.fixture(scope="module")
def gtzan():
    return importlib.import_module("marble_bench.tasks.corpora.gtzan")


@pytest.fixture(scope="module")
def mini(miniatures, gtzan):
    return corpus.ensure_mini(gtzan.GTZAN, miniatures)


def test_the_split_is_the_published_one(named):
    clips = corpus.list_clips(named, None)
    assert Counter(clip.split for clip in clips) == {"train": 443, "valid": 197, "test": 290}
    by_genre = Counter((clip.target, clip.split) for clip in clips)
    for genre, counts in PUBLISHED.items():
        assert tuple(by_genre[genre, split] for split in ("train", "valid", "test")) == counts
    assert {clip.id: clip.split for clip in clips}["jazz.00054"] == "train"


@pytest.mark.parametrize("home", ["genres", "Data/genres_original", "genres_original", "."])
@pytest.mark.parametrize("suffix", ["au", "wav"])
def test_official_and_mirrored_layouts_are_found(tmp_path, gtzan, home, suffix):
    path = tmp_path / home / "jazz" / f"jazz.00007.{suffix}"
    path.parent.mkdir(parents=True)
    path.touch()
    assert gtzan.locate(tmp_path, "genres/jazz/jazz.00007.au") == path
    assert gtzan.locate(tmp_path, "genres/jazz/jazz.00008.au") is None


def test_a_changed_split_list_is_refused(tmp_path, monkeypatch):
    corpora = importlib.import_module("marble_bench.tasks.corpora")
    (tmp_path / "gtzan.csv").write_text("track,genre,split\nblues.00000,blues,test\n")
    monkeypatch.setattr(corpora, "SPLIT_LISTS", tmp_path)
    with pytest.raises(DataError, match="was changed"):
        plugins.find_task("gtzan").task.clips(None).__next__()


@pytest.mark.slow
def test_the_miniature_lies_in_the_official_layout_with_every_genre_in_every_split(named, mini):
    there = corpus.find_on_disk(named, mini)
    assert Counter((clip.target, clip.split) for clip in there.clips) == {
        (genre, split): count for genre in PUBLISHED for split, count in {"train": 6, "valid": 4, "test": 4}.items()
    }
    assert {path.suffix for path in there.paths} == {".au"}
    assert {path.relative_to(mini).parts[0] for path in there.paths} == {"genres"}


@pytest.mark.slow
def test_a_run_on_a_part_of_the_corpus_names_what_is_missing(named, mini, tmp_path):
    shutil.copytree(mini / "genres", tmp_path / "genres")
    with pytest.raises(DataError) as caught:
        corpus.find_on_disk(named, tmp_path)
    assert "790 of 930 clips of GTZAN are missing" in str(caught.value)
    assert "genres/blues/blues.000" in str(caught.value)
    assert len(corpus.find_on_disk(named, tmp_path, allow_missing=True).missing) == 790


@pytest.mark.slow
def test_kaggles_copy_gives_the_same_clips(named, mini, tmp_path):
    shutil.copytree(mini / "genres", tmp_path / "Data/genres_original")
    (tmp_path / corpus.MARKER).write_text("Made for a test.\n")
    there = corpus.find_on_disk(named, tmp_path)
    assert [c.id for c in there.clips] == [c.id for c in corpus.find_on_disk(named, mini).clips]


def test_the_miniatures_samples_are_the_same_everywhere(gtzan):
    total = hashlib.sha256()
    for track in ("blues.00000", "jazz.00054", "metal.00003", "reggae.00086"):
        total.update(synth.quantize_to_int16(gtzan.compose(track, track.split(".")[0])).tobytes())
    assert total.hexdigest() == "5695039b7b1f4b07e8b069b65b96f48c8c6adafb3138d442edc7f7c551676dd5"


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache_with_miniatures")
def test_probes_on_the_miniature_are_far_above_chance_and_below_perfect(bench):
    ended = bench("run", "--model", "mfcc", "--task", "gtzan", "--mini", "--json", "--quiet")
    assert ended.code == 0, ended.err
    score = ended.record["scores"]["accuracy"]
    assert 0.4 < score["test"] < 0.95
    assert score["trivial"] == pytest.approx(0.1)

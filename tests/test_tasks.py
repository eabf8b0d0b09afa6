"""One contract for every task: what it declares is what was published, and its miniature is read by its own loader."""

import importlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from marble_bench.core import plugins
from marble_bench.core.task import SPLITS
from marble_bench.data import corpus
from marble_bench.errors import DataError, UsageError
from marble_bench.scoring.targets import Classes, Events, Frames, MaskedTags, Ranking, Scalars, Stems, Tags

TASKS = plugins.list_task_names()
# As PROTOCOLS gives them: clips per split, and how many labels.
PUBLISHED = {
    "chords1217": ((730, 243, 244), 3),
    "covers80": ((0, 0, 160), 0),
    "emo": ((504, 115, 125), 2),
    "gs": ((923, 236, 604), 24),
    "gtzan": ((443, 197, 290), 10),
    "gtzan-rhythm": ((443, 197, 290), 2),
    "medley-solos": ((5841, 3494, 12236), 8),
    "guitarset-chords": ((120, 30, 30), 3),
    "harmonix-structure": ((684, 114, 114), 3),
    "jamendo-singing": ((61, 16, 16), 1),
    "maestro-frames": ((962, 137, 177), 2),
    "medleydb-melody": ((67, 15, 26), 2),
    "mtg-genre": ((32572, 11043, 11479), 87),
    "mtg-instrument": ((14395, 5466, 5115), 40),
    "mtg-moodtheme": ((9949, 3802, 4231), 56),
    "mtg-top50": ((32136, 10888, 11356), 50),
    "musdb": ((86, 14, 50), 4),
    "mtt": ((18709, 1825, 5329), 50),
    "openmic": ((12670, 2245, 5085), 20),
    "nsynth-instrument": ((289205, 12678, 4096), 11),
    "nsynth-pitch": ((289205, 12678, 4096), 112),
    "vocadito-f0": ((24, 8, 8), 2),
    "shs100k": ((0, 10884, 10547), 0),
    "vocalset-singer": ((3688, 2413, 1405), 20),
    "vocalset-technique": ((1850, 1142, 1140), 10),
}
UNLISTED = (
    "chords1217",
    "covers80",
    "gtzan-rhythm",
    "guitarset-chords",
    "harmonix-structure",
    "medley-solos",
    "maestro-frames",
    "medleydb-melody",
    "jamendo-singing",
    "mtt",
    "nsynth-instrument",
    "nsynth-pitch",
    "openmic",
    "shs100k",
    "vocadito-f0",
)  # their labels are in the corpus alone
LISTED = tuple(sorted(set(PUBLISHED) - set(UNLISTED)))
# Where the source says that splits share no group; MagnaTagATune's songs, NSynth's training instruments.
APART = {"medley-solos", "mtt", "nsynth-instrument", "nsynth-pitch", "openmic", "vocadito-f0"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory, miniatures):
    """A cache of this module, in which the shared miniatures stand."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "mini").symlink_to(miniatures / "mini")
    return folder


@pytest.fixture(params=TASKS)
def named(request):
    return plugins.find_task(request.param)


def test_every_task_stands_in_the_table_above():
    assert set(PUBLISHED) == set(TASKS)


def test_a_main_metric_that_is_better_when_lower_is_refused_for_it_cannot_choose():
    task = plugins.find_task("emo").task
    error = replace(task.metrics[0], name="error", higher_is_better=False)
    with pytest.raises(UsageError, match="'error' is better when lower: probes are chosen by the highest"):
        replace(task, metrics=(error, *task.metrics))
    assert replace(task, metrics=(*task.metrics, error)).metrics[-1].name == "error"


def test_what_is_declared_is_what_was_published(named):
    counts, labels = PUBLISHED[named.name]
    assert tuple(named.task.counts[split] for split in SPLITS) == counts
    assert len(named.task.target.names) == labels
    assert named.task.version >= 1
    for fact in ("title", "home", "license", "citation", "layout"):
        assert getattr(named.task.corpus, fact), fact
    assert named.task.corpus.sources


def test_a_task_travels_to_workers(named):
    import pickle

    again = pickle.loads(pickle.dumps(named))
    assert [metric.name for metric in again.task.metrics] == [metric.name for metric in named.task.metrics]


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_the_shipped_lists_give_the_published_counts_with_no_clip_twice(name):
    named = plugins.find_task(name)
    clips = corpus.list_clips(named, None)
    assert Counter(clip.split for clip in clips) == named.task.counts
    assert len({(clip.audio, clip.start_s) for clip in clips}) == len(clips)
    assert not _recordings(clips, "train") & (_recordings(clips, "valid") | _recordings(clips, "test"))
    truth = named.task.target.encode([clip.target for clip in clips], [clip.id for clip in clips])
    if isinstance(named.task.target, Tags):
        assert truth.sum(axis=0).min() > 0
        assert set(named.task.target.names) == {tag for clip in clips if clip.split == "train" for tag in clip.target}


def _recordings(clips, split):
    return {clip.group or clip.audio for clip in clips if clip.split == split}


def test_the_test_singers_of_the_technique_task_are_heard_nowhere_else():
    clips = corpus.list_clips(plugins.find_task("vocalset-technique"), None)
    singers = {s: {clip.group.split("/")[1].split("_")[0] for clip in clips if clip.split == s} for s in SPLITS}
    assert singers["test"] == {"f2", "f8", "m3", "m5", "m10"}
    assert not singers["test"] & (singers["train"] | singers["valid"])


@pytest.mark.slow
def test_chance_of_the_tagging_tasks_is_what_protocols_says():
    for name, prevalence in (("mtg-genre", 0.0277), ("mtg-instrument", 0.0609), ("mtg-moodtheme", 0.0319)):
        named = plugins.find_task(name)
        clips = [clip for clip in corpus.list_clips(named, None) if clip.split == "test"]
        truth = torch.from_numpy(named.task.target.encode([c.target for c in clips], [c.id for c in clips]))
        constant = torch.zeros(1, len(clips), truth.shape[1])
        assert float(named.task.metrics[0].compute(constant, truth)) == 0.5
        assert float(named.task.metrics[1].compute(constant, truth)) == pytest.approx(prevalence, abs=5e-5)


def test_constant_c_minor_scores_15_8_on_the_published_key_labels():
    named = plugins.find_task("gs")
    clips = corpus.list_clips(named, None)
    of = {}
    for split in SPLITS:
        members = [clip for clip in clips if clip.split == split]
        of[split] = named.task.target.encode([clip.target for clip in members], [clip.id for clip in members])
    constant = torch.from_numpy(named.task.target.trivial(of["train"]))
    assert named.task.target.names[int(constant.argmax())] == "C minor"
    score = named.task.metrics[0].compute(constant.expand(1, 604, -1), torch.from_numpy(of["test"]))
    assert float(score) == pytest.approx(0.158, abs=5e-4)


@pytest.mark.slow
def test_the_miniature_is_read_by_the_tasks_own_loader(named, cache):
    root = corpus.ensure_mini(named.task.corpus, cache)
    there = corpus.find_on_disk(named, root)
    counts = Counter(clip.split for clip in there.clips)
    assert set(counts) == set(named.task.used_splits)
    target = named.task.target
    truth = {}
    for split in counts:
        members = [clip for clip in there.clips if clip.split == split]
        truth[split] = target.encode([clip.target for clip in members], [clip.id for clip in members])
    if isinstance(target, Classes):
        assert len(np.unique(truth["train"])) > 4
        assert set(np.unique(truth["test"])) <= set(np.unique(truth["train"]))
    elif isinstance(target, Tags):
        for split in SPLITS:
            assert (truth[split].min(axis=0) == 0).all()
            assert (truth[split].max(axis=0) == 1).all()
    elif isinstance(target, MaskedTags):
        for split in SPLITS:
            assert {-1, 0, 1} <= set(truth[split].reshape(-1).tolist())
            assert (truth[split].max(axis=0) == 1).all()
    elif isinstance(target, Stems):
        assert all(found.shape[1:] == (0,) for found in truth.values())
    elif isinstance(target, Ranking):
        assert all((np.unique(found, return_counts=True)[1] > 1).all() for found in truth.values())
    elif isinstance(target, Events):
        assert np.nanmin(truth["train"]) >= 2
    elif isinstance(target, Frames):
        assert all(np.nanmin(found) >= 1 for found in truth.values())
        assert np.nanmin(truth["train"], axis=0).min() >= 2  # labelled frames, moments or segments of each part
    else:
        assert isinstance(target, Scalars)
        assert truth["train"].std(axis=0).min() > 0.5
    if named.name in APART:
        groups = {split: {c.group for c in there.clips if c.split == split} for split in SPLITS}
        assert not groups["train"] & (groups["valid"] | groups["test"])


@pytest.mark.slow
def test_a_clip_taken_from_the_corpus_is_missed_by_name(named, cache, tmp_path):
    import shutil

    root = corpus.ensure_mini(named.task.corpus, cache)
    shutil.copytree(root, tmp_path / "corpus", copy_function=_link)
    (tmp_path / "corpus" / corpus.MARKER).unlink()
    if named.task.open_list:  # nobody has all of them, so none is missed
        before = corpus.find_on_disk(named, tmp_path / "corpus")
        before.paths[0].rename(tmp_path / "elsewhere.wav")
        gone = importlib.import_module(named.task.clips.__module__)
        gone._list_audio.cache_clear()
        assert corpus.find_on_disk(named, tmp_path / "corpus").clips == before.clips[1:]
        return
    with pytest.raises(DataError) as caught:
        corpus.find_on_disk(named, tmp_path / "corpus")
    told = ("missing", "published are", "none of the", "the published split has")  # the last: a miniature's own ratings
    assert any(words in str(caught.value) for words in told)


@pytest.mark.slow
def test_a_damaged_file_of_the_miniature_is_named(named, cache, tmp_path):
    import shutil

    from marble_bench.data.inspection import inspect

    root = corpus.ensure_mini(named.task.corpus, cache)
    shutil.copytree(root, tmp_path / "corpus", copy_function=_link)
    there = corpus.find_on_disk(named, tmp_path / "corpus")
    victim = there.paths[len(there.paths) // 2]
    content = victim.read_bytes()
    victim.unlink()  # the link: the shared miniature stays as it is
    victim.write_bytes(content[: len(content) // 3])
    report = inspect(named.task.corpus, [named], tmp_path / "corpus", deep=False)
    assert list(report.damaged) == [victim.relative_to(tmp_path / "corpus").as_posix()]
    assert not report.missing
    assert not report.annotations


def test_no_artist_of_mtg_jamendo_is_in_two_splits():
    lists = importlib.import_module("marble_bench.tasks.corpora.mtg_jamendo")
    for subset in lists.SUBSETS:
        artists = []
        for split in SPLITS:
            lines = lists._lines(subset, split, None)[1][1:]
            artists.append({line.split("\t")[1] for line in lines})
        assert not artists[0] & artists[1] | artists[0] & artists[2] | artists[1] & artists[2]


def _link(source, target):
    import os

    os.link(source, target)


def test_a_name_nearly_right_is_answered_with_the_right_one(named):
    with pytest.raises(UsageError, match=f"did you mean '{named.name}'"):
        plugins.find_task(named.name + "x")


def test_annotations_are_asked_for_where_no_list_has_the_labels():
    for name in UNLISTED:
        with pytest.raises(DataError, match="--data-dir"):
            list(plugins.find_task(name).task.clips(None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("mtg-top50", ["mtg-genre", "mtg-instrument", "mtg-moodtheme"]),
        ("nsynth-instrument", ["nsynth-pitch"]),
        ("vocalset-singer", ["vocalset-technique"]),
    ],
)
def test_tasks_of_one_corpus_share_one_pass_of_features(bench, cache, first, others):
    tasks = [argument for name in (first, *others) for argument in ("--task", name)]
    extra = ("--seeds", 1, "--json", "--quiet", "--cache-dir", cache)
    ended = bench("run", "--model", "mfcc", *tasks, "--mini", *extra)
    assert ended.code == 0, ended.err
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert [record["cost"]["cached"] for record in records] == [False] + [True] * len(others)
    main = {record["task"]["name"]: next(s for s in record["scores"].values() if s["main"]) for record in records}
    assert all(score["trivial"] < score["test"] < 1 for score in main.values()), main

"""Frauds, planted with care: what a record alone tells, what its task's list, the corpus and the encoder add."""

import re
import shutil
from dataclasses import replace

import forgers
import pytest

from marble_bench.core import plugins
from marble_bench.records import validation
from marble_bench.records.corpus_facts import Corpora
from marble_bench.records.results import read
from marble_bench.runs import reproduce, run
from marble_bench.runs.config import OutputConfig

# What is said of each fraud by `bench results check` with the records alone, with the list of clips that most tasks ship,
# and with the corpus (--data-dir); and by `bench reproduce`, which has corpus and encoder. A blank: nothing is said.
TOLD = {
    "edited predictions": ("", "", "", "predictions"),
    "other weights": ("", "", "", "grid, predictions"),
    "layer chosen on test": ("", "", "", "choice, grid, predictions"),
    "exchanged splits": ("", "splits", "splits", "predictions"),
    "a copied model": ("same answers", "same answers", "same answers", "model, weights, grid, predictions"),
    "leaked labels, in the features": ("", "", "", ""),
    "miniature as full": ("", "", "", "grid, predictions"),
    "invented faults": ("facts", "facts", "facts", "faults, counts, data, predictions"),
    "altered trivial score": ("", "trivial", "trivial", "trivial"),
    "altered training data": ("", "", "", "model"),
    "truncated test split": ("counts", "counts, splits", "counts, splits", "counts, data, predictions"),
    "scores of other seeds": ("", "", "", "grid, predictions"),
    "leaked labels, in training": ("", "", "", "grid, predictions"),
}


@pytest.fixture(scope="module")
def named():
    """The task of hums, found by its name as a task that is shipped."""
    with pytest.MonkeyPatch.context() as patch:
        import marble_bench.tasks

        folders = [*marble_bench.tasks.__path__, str(forgers.PLUGINS / "registered")]
        patch.setattr(marble_bench.tasks, "__path__", folders)
        yield plugins.find_task("hums")


@pytest.fixture(scope="module")
def world(tmp_path_factory, named):
    """A corpus, weights and a cache."""
    return forgers.build(tmp_path_factory.mktemp("world"), named)


@pytest.fixture(scope="module")
def honest(world):
    """The record that stands on the board."""
    return world.run()


@pytest.fixture(scope="module")
def again(world):
    """`again(path)`: what `bench reproduce` finds against a record. A rerun that was made already is not made again."""
    found = {}

    def call(path):
        stored = read(path)
        knows = stored.record.model.name == "knows"
        encoder = forgers.make_knowing_encoder(world) if knows else plugins.find_encoder(f"{forgers.ENCODERS}:HUM")
        name = f"{forgers.ENCODERS}:{'KNOWS' if knows else 'HUM'}"
        weights = None if knows else world.weights("honest")
        config = reproduce.make_config(
            stored.record,
            world.folder / "cache",
            world.folder / "again",
            "cpu",
            reproduce.PlugIns(name),
            world.root,
            weights,
        )
        assert config.features.encoder.name == encoder.name
        key = repr((replace(config.features, encoder=None), replace(config.data, named=None), config.probes))
        if key not in found:
            found[key] = run.run(
                replace(config, output=OutputConfig(results=world.folder / f"again{len(found)}")), forgers.Silent()
            )
        return reproduce.find_differences(stored, read(found[key].path))

    return call


def _kinds(world, paths, corpora):
    """What is found of the last of some records."""
    return {each.kind: each.words for each in validation.check(paths, corpora) if each.path == str(paths[-1])}


def _list_alone(world):
    """The task as if its list were shipped."""
    task = replace(world.named.task, clips=lambda root: world.clips())
    return Corpora(None, replace(world.named, task=task))


@pytest.mark.slow
@pytest.mark.parametrize("name", forgers.FORGERS)
def test_a_fraud_is_named_by_who_has_the_facts(name, world, honest, again, tmp_path):
    path = forgers.FORGERS[name](world, honest, tmp_path / "results")
    paths = [honest.path, path] if name == "a copied model" else [path]
    found = [_kinds(world, paths, each) for each in (Corpora(), _list_alone(world), Corpora(world.root))]
    said = [set(each) - {"ok"} for each in found] + [{each.kind for each in again(path)}]
    for kinds, right in zip(said, TOLD[name], strict=True):
        assert kinds >= set(filter(None, right.split(", "))), said
        assert bool(kinds) == bool(right), said


@pytest.mark.slow
def test_an_honest_record_is_not_spoken_against(world, honest, again):
    for corpora in (Corpora(), _list_alone(world), Corpora(world.root)):
        assert list(_kinds(world, [honest.path], corpora)) == ["ok"]
    assert again(honest.path) == []


@pytest.mark.slow
def test_the_commands_name_a_fraud_in_plain_words(world, honest, bench, tmp_path):
    path = forgers.edit_predictions(world, honest, tmp_path / "edited")
    given = ("--data-dir", world.root, "--cache-dir", world.folder / "cache")
    model = ("--model", f"{forgers.ENCODERS}:HUM", "--weights", world.weights("honest"))
    ended = bench("reproduce", path, *given, *model, "--quiet")
    assert ended.code == 1, ended.err
    assert "inside" in ended.out  # the edit stays inside the interval of the score
    assert re.search(r"differs: predictions: test, seed 2: \d of 24 clips are answered otherwise, by up to", ended.out)
    ended = bench("reproduce", honest.path, *given, *model, "--quiet")
    assert ended.code == 0, ended.out
    assert "differs" not in ended.out
    path = forgers.exchange_splits(world, honest, tmp_path / "exchanged")
    ended = bench("results", "check", path, "--data-dir", world.root)
    assert ended.code == 3
    assert "splits: 24 test clips of the record are valid clips: valid00, valid01" in ended.out


@pytest.mark.slow
def test_a_corpus_of_another_kind_or_of_other_files_is_told(world, honest, tmp_path):
    mini = world.run(mini=True, root=None)
    assert "it was made on a miniature" in _kinds(world, [mini.path], Corpora(world.root))["fingerprint"]
    copy = tmp_path / "hums"
    shutil.copytree(world.root, copy)
    assert list(_kinds(world, [honest.path], Corpora(copy))) == ["ok"]
    (copy / "hums/test03.wav").write_bytes((copy / "hums/test04.wav").read_bytes())
    assert "the fingerprint of the data is another" in _kinds(world, [honest.path], Corpora(copy))["fingerprint"]
    (copy / "hums/test03.wav").unlink()
    assert "1 clips that it used are not in" in _kinds(world, [honest.path], Corpora(copy))["fingerprint"]


def test_labels_groups_and_unread_faults_are_compared(world, honest, tmp_path):
    draft = forgers.Draft.of(honest)
    draft.predictions["truth"] = [[(each[0] + 1) % 3] for each in draft.predictions["truth"]]
    draft.predictions["group"] = "one"
    found = _kinds(world, [draft.seal(tmp_path, world)], Corpora(world.root))
    assert "24 test clips have another label in the corpus: test00" in found["truth"]
    assert "24 test clips are in another group: test00" in found["splits"]
    draft = forgers.Draft.of(honest)  # a fault that the corpus has, of a file that is whole here
    draft.record["data"]["faults"] = [{"clip": "train29", "why": "cut short in the first edition"}]
    draft.record["data"]["clips"]["train"] -= 1
    draft.record["data"]["fingerprint"] = world.fingerprint({"train29"})
    found = validation.check([draft.seal(tmp_path, world, trivial=True)], Corpora(world.root))
    assert [(each.kind, each.is_valid) for each in found] == [("fault not here", True)]


@pytest.mark.slow
def test_a_fault_that_is_not_known_is_told_once_by_the_best_list_at_hand(world, honest, tmp_path):
    """One has a known fault's words, so that the record alone tells nothing; the other words that no fault has."""
    for clip, why, alone in (("train28", "cut short in the first edition", {"ok"}), ("train28", "hum", {"facts"})):
        draft = forgers.Draft.of(honest)
        draft.record["data"]["faults"] = [{"clip": clip, "why": why}]
        draft.record["data"]["clips"]["train"] -= 1
        draft.record["data"]["fingerprint"] = world.fingerprint({clip})
        path = draft.seal(tmp_path / why, world, trivial=True)
        for corpora, kinds in ((Corpora(), alone), (_list_alone(world), {"facts"}), (Corpora(world.root), {"facts"})):
            found = validation.check([path], corpora)
            assert {each.kind for each in found} == kinds
            assert len(found) == 1
            assert ("train28" in found[0].words) == (kinds == {"facts"})


@pytest.mark.slow
def test_a_miniature_is_not_compared_with_the_list_of_the_corpus(world):
    """Its labels are its own, and a limit draws among its own clips."""
    for limit in (None, 8):
        mini = world.run(mini=True, root=None, limit=limit)
        assert list(_kinds(world, [mini.path], _list_alone(world))) == ["ok"]
        (folder,) = (world.folder / "cache/mini").iterdir()
        assert list(_kinds(world, [mini.path], Corpora(folder))) == ["ok"]

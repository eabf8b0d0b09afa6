"""BSSEval's windows beside a record: museval's own schema, store and reader are the authorities on what is exported."""

import importlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from marble_bench.errors import BenchError, DataError
from marble_bench.metrics._bsseval import MEASURES, median_of_medians
from marble_bench.records import bsseval, results, validation
from marble_bench.records.copies import Answers
from marble_bench.records.corpus_facts import Corpora
from marble_bench.records.record import SplitCounts
from marble_bench.records.record_file import Stored
from marble_bench.records.schema import from_json

SONGS = ["AM Contra - Heart Peripheral", "Angels In Amplifiers - I'm Alright", "M.E.R.C. Music - Knockout"]
STEMS = ["vocals", "rest"]
SEEDS = 2


@pytest.fixture
def museval():
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("museval can only be imported where ffmpeg and ffprobe are on the PATH")
    return importlib.import_module("museval")


@pytest.fixture
def measured():
    """By measure `[seed][song]`, `(stems, windows)` in dB: a stem that rests, one that is silent, a perfect window."""
    random = np.random.default_rng(0)
    found = {
        name: [[random.normal(3, 4, (2, 6 + item)) for item in range(3)] for _ in range(SEEDS)] for name in MEASURES
    }
    for name in MEASURES:
        for seed in range(SEEDS):
            found[name][seed][0][:, 2] = np.nan
            found[name][seed][1][1] = np.nan
    found["sir"][0][2][0, 3] = np.inf
    found["sdr"][1][2][1, 0] = -0.000004
    return found


KEPT = Path(__file__).parent / "golden/records/8-identity.json"


def _stored(folder, measured, songs=SONGS, **predictions):
    """A record of a run that measured this, as far as the table needs it, with its predictions."""
    kept = from_json(json.loads(KEPT.read_text()))
    choice = kept.selection.per_seed[0]
    record = replace(
        kept,
        model=replace(kept.model, name="mfcc-1.5"),
        task=replace(kept.task, name="musdb"),
        data=replace(kept.data, clips=SplitCounts(train=9, valid=9, test=len(songs))),
        selection=replace(
            kept.selection,
            probes=4,
            per_seed=tuple(replace(choice, seed=seed, stem=stem) for seed in range(SEEDS) for stem in STEMS),
        ),
    )
    path = folder / "musdb.json"
    rows = [
        {"split": "test", "seed": seed, "clip": song, "group": song, "truth": [],
         "outputs": [1.0, 2.0, *median_of_medians([measured["sdr"][seed][item]]).tolist()]}
        for seed in range(SEEDS) for item, song in enumerate(songs)
    ]  # fmt: skip
    pd.DataFrame(rows).assign(**predictions).to_parquet(results.find_table_path(path, "predictions"), index=False)
    return Stored(path, record, "")


@pytest.fixture
def stored(tmp_path, measured):
    made = _stored(tmp_path, measured)
    bsseval.save_table(made.path, bsseval.make_table(SONGS, STEMS, measured))
    return made


def test_every_window_comes_back_as_it_was_measured(stored, measured):
    frame = bsseval.read_table(stored).set_index(["seed", "clip", "stem"])
    assert len(frame) == SEEDS * len(SONGS) * len(STEMS)
    for name in MEASURES:
        for seed in range(SEEDS):
            for item, song in enumerate(SONGS):
                for place, stem in enumerate(STEMS):
                    np.testing.assert_array_equal(
                        frame.loc[(seed, song, stem), name], measured[name][seed][item][place]
                    )


def test_what_is_exported_is_valid_by_the_schema_that_museval_ships(stored, tmp_path):
    folders = bsseval.export_museval(stored, tmp_path / "out")
    schema = json.loads((Path(find_spec("museval").origin).parent / "musdb.schema.json").read_text())
    files = sorted((tmp_path / "out").rglob("*.json"))
    assert [folder.name for folder in folders] == ["mfcc-1%2E5-seed0", "mfcc-1%2E5-seed1"]
    assert len(files) == SEEDS * len(SONGS)
    for path in files:
        facts = json.loads(path.read_text())
        jsonschema.validate(facts, schema)
        assert [target["name"] for target in facts["targets"]] == STEMS
        assert list(facts["targets"][0]["frames"][1]) == ["time", "duration", "metrics"]


def test_the_files_are_what_musevals_own_store_writes(museval, stored, measured, tmp_path):
    bsseval.export_museval(stored, tmp_path / "out")
    for seed in range(SEEDS):
        for item, song in enumerate(SONGS):
            store = museval.TrackStore(song, win=1.0, hop=1.0)
            for place, stem in enumerate(STEMS):
                store.add_target(stem, {name.upper(): measured[name][seed][item][place].tolist() for name in MEASURES})
            theirs = json.loads(store.json, parse_constant=str)  # NaN as text, which equals itself
            ours = (tmp_path / "out" / f"mfcc-1%2E5-seed{seed}" / "test" / f"{song}.json").read_text()
            assert json.loads(ours, parse_constant=str) == theirs


def test_museval_reads_them_back_and_finds_the_medians_that_score(museval, stored, measured, tmp_path):
    for seed, folder in enumerate(bsseval.export_museval(stored, tmp_path / "out")):
        store = museval.EvalStore()
        store.add_eval_dir(folder)
        assert set(store.df["track"]) == set(SONGS)
        found = store.agg_frames_tracks_scores()
        expected = median_of_medians(measured["sdr"][seed])
        assert [found[stem, "SDR"] for stem in STEMS] == pytest.approx(expected.tolist(), abs=1e-5)
        methods = museval.MethodStore()
        methods.add_eval_dir(folder)
        assert set(methods.df["method"]) == {folder.name}


def test_a_record_without_the_table_says_how_to_get_it(bench, measured, tmp_path):
    stored = _stored(tmp_path, measured)
    with pytest.raises(
        DataError, match=r"musdb\.bsseval\.parquet does not exist: .*Run the same `bench run` again to write"
    ):
        bsseval.export_museval(stored, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_of_another_run_is_refused(measured, tmp_path):
    stored = _stored(tmp_path, measured)
    other = {name: [[each + 1e-3 for each in songs] for songs in values] for name, values in measured.items()}
    for songs, values, why in (
        (SONGS, other, "of vocals in 'AM Contra.* the median SDR is"),
        (SONGS[::-1], measured, ".* the median SDR is"),
        (["x", "y", "z"], measured, "its seeds, songs and stems are not those of the record"),
    ):
        bsseval.save_table(stored.path, bsseval.make_table(songs, STEMS, values))
        with pytest.raises(DataError, match=f"is not the table of this record: {why}"):
            bsseval.read_table(stored)


FORGED = {
    "an empty isr": (lambda f: f.assign(isr=[[]] * len(f)), "0 of isr, and the song has"),
    "one long sir": (lambda f: f.assign(sir=[[0.0] * 9, *f["sir"][1:]]), "9 of sir, and the song has"),
    "songs of two lengths": (
        lambda f: pd.concat([f[:-1], f[-1:].assign(**{n: [[*f[n].iloc[-1], np.nan]] for n in MEASURES})]),
        "9 of sdr, 9 of isr",
    ),
    "a loud sir": (
        lambda f: f.assign(sir=[[1e308 if v == v else v for v in row] for row in f["sir"]]),
        "sir is 1e[+]308 dB",
    ),
    "nothing known": (
        lambda f: f.assign(**{n: [[None] * len(r) for r in f[n]] for n in MEASURES}),
        "median SDR is nan",
    ),
    "isr of silence": (lambda f: f.assign(isr=[[1.0] * len(row) for row in f["isr"]]), "isr and sdr are not unknown"),
    "a stem of no task": (
        lambda f: f.assign(stem=f["stem"].replace("vocals", "kazoo")),
        "songs and stems are not those",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_windows_that_no_run_measures_are_named_by_the_check_and_by_the_export(stored, tmp_path, forged):
    change, words = FORGED[forged]
    bsseval.save_table(stored.path, change(pd.read_parquet(results.find_table_path(stored.path, "bsseval"))))
    with pytest.raises(DataError, match=words):
        bsseval.export_museval(stored, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = [told for kind, told in validation._ask_questions(stored, Corpora(), Answers(), False) if kind == "tables"]
    assert any("bsseval.parquet is not the table" in told for told in found)


def test_a_run_whose_every_window_is_silent_has_its_table(tmp_path, measured):
    silent = {name: [[each * np.nan for each in songs] for songs in values] for name, values in measured.items()}
    stored = _stored(tmp_path, silent)
    bsseval.save_table(stored.path, bsseval.make_table(SONGS, STEMS, silent))
    assert bsseval.export_museval(stored, tmp_path / "out")


def test_another_evaluation_in_the_folder_is_left_alone(stored, tmp_path):
    out = tmp_path / "out"
    bsseval.export_museval(stored, out)
    before = {path: path.read_text() for path in out.rglob("*.json")}
    bsseval.export_museval(stored, out)  # the same again
    theirs = next(path for path in before if path.stem == SONGS[2])
    theirs.write_text("{}")
    next(path for path in before if path.stem == SONGS[0]).unlink()
    with pytest.raises(BenchError, match="holds another evaluation; nothing was written"):
        bsseval.export_museval(stored, out)
    assert theirs.read_text() == "{}"
    assert len(list(out.rglob("*.json"))) == len(before) - 1


def test_no_songs_name_leads_out_of_the_folder(measured, tmp_path):
    songs = ["../../up", "/etc/passwd", "C:\\a"]
    stored = _stored(tmp_path, measured, songs)
    bsseval.save_table(stored.path, bsseval.make_table(songs, STEMS, measured))
    before = set(tmp_path.rglob("*"))
    bsseval.export_museval(stored, tmp_path / "deep" / "er" / "out")
    found = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert len(found) == SEEDS * len(songs)
    assert all(path.parent.name == "test" and path.parent.parent.parent.name == "out" for path in found)


def test_a_place_that_cannot_be_written_is_named(stored, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"museval's files cannot be written to .*file.*give another"):
        bsseval.export_museval(stored, tmp_path / "file")

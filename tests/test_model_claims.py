"""What a record claims of its model, its cost and what it left out is compared with what is known, or can be at all."""

import copy
import json

import pandas as pd
import pytest
from made_records import make
from test_untrusted import _forge

from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder, Layer
from marble_bench.errors import UsageError
from marble_bench.records import claims, comparable, model_claims, origins, validation
from marble_bench.records.schema import InvalidRecord, from_json
from marble_bench.runs.reproduce import find_differences

NOTHING_ENCODED = {"audio_s": 0.0, "extract_s": 0.0, "real_time_factor": None, "cached": True}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The JSON of a record of somebody's own encoder: three layers of width 8 at 8000 Hz."""
    return json.loads(make(tmp_path_factory.mktemp("own"), "mine", mini=True).read_text())


def _changed(facts, **parts):
    changed = copy.deepcopy(facts)
    for part, values in parts.items():
        changed[part].update(values)
    return changed


def _kinds(disagreements):
    return {kind for kind, _ in disagreements}


@pytest.mark.parametrize(
    "model",
    [
        {"parameters": -5},
        {"width": 0},
        {"width": [8, -3, 8]},
        {"sample_rate_hz": -8000},
        {"sample_rate_hz": 0},
        {"frame_rate_hz": -1.0},
        {"frame_rate_hz": [10.0, 0.0, None]},
    ],
)
def test_a_size_that_no_model_has_is_no_record(own, model):
    with pytest.raises(InvalidRecord, match=next(iter(model))):
        from_json(_changed(own, model=model))


@pytest.mark.parametrize(
    "model",
    [
        {"width": []},
        {"width": [8] * 50},
        {"frame_rate_hz": []},
        {"frame_rate_hz": [None] * 77},
        {"frame_rate_hz": 1e308},
        {"frame_rate_hz": [None, 8000.5, 10]},
    ],
)
def test_widths_and_rates_are_those_of_as_many_layers_and_of_the_samples(own, model):
    assert not list(model_claims.find_disagreements(from_json(own)))
    assert _kinds(model_claims.find_disagreements(from_json(_changed(own, model=model)))) == {"impossible"}


def test_an_encoder_that_no_record_can_hold_is_refused_where_it_is_declared():
    facts = {"name": "a", "description": "b", "sample_rate_hz": 100, "license": "c", "citation": "d", "min_s": 1.0}
    with pytest.raises(UsageError) as caught:
        Encoder(**facts, layers=(Layer("0", 4, 101.0), Layer("1", 4, -1.0)), load=print, parameters=-5)
    for words in ("layer '0' has frame_rate_hz 101.0", "layer '1' has frame_rate_hz -1.0", "parameters is -5"):
        assert words in str(caught.value)


@pytest.fixture(scope="module")
def brought(own):
    """The JSON of a record of features that were brought."""
    made = _changed(own, model={**comparable.BROUGHT_FACTS, "source": "features:x"}, cost=NOTHING_ENCODED)
    del made["model"]["normalize"]
    assert not list(model_claims.find_disagreements(from_json(made)))
    return made


@pytest.mark.parametrize(
    "changed",
    [
        *(
            {"model": {key: value}}
            for key, value in {
                "parameters": 7,
                "sample_rate_hz": 16000,
                "frame_rate_hz": 4.0,
                "license": "MIT",
                "training_data": ["x"],
                "revision": "r",
                "version": 99,
                "normalize": "peak",
            }.items()
        ),
        {"cost": {"audio_s": 5e6, "extract_s": 1, "real_time_factor": 5e6}},
        {"cost": {"cached": False}},
        {"model": {"name": "mfcc"}},
    ],
)
def test_of_features_that_were_brought_a_record_says_what_a_run_writes_of_any(brought, changed):
    assert "facts" in _kinds(model_claims.find_disagreements(from_json(_changed(brought, **changed))))


@pytest.mark.parametrize(("audio_s", "extract_s"), [(0, 0), (0.0, 2.0), (504.0, 0)])
@pytest.mark.parametrize("factor", [0.0, 1.0, 1e308])
def test_where_no_seconds_are_there_is_no_speed(own, audio_s, extract_s, factor):
    cost = {"audio_s": audio_s, "extract_s": extract_s, "real_time_factor": factor}
    assert _kinds(model_claims.find_disagreements(from_json(_changed(own, cost=cost)))) == {"facts"}
    with pytest.raises(InvalidRecord, match="real_time_factor"):
        from_json(_changed(own, cost={**cost, "real_time_factor": -0.9}))


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("counts", {"missing": ["a.wav", "b.wav"], "absent": 0}, ""),
        ("counts", {"missing": ["a.wav", "b.wav", "c.wav"], "absent": 1}, "incomplete corpus (1 clips absent)"),
        ("facts", {"missing": ["a.wav", "a.wav"], "absent": 2}, "incomplete corpus (2 clips absent)"),
        ("counts", {"missing": [], "absent": 2**53}, f"incomplete corpus ({2**53} clips absent)"),
        ("facts", {}, "a control: training labels by magic"),
        ("facts", {"marks": ["accuracy: its interval is rough, and it is the best model there is"]}, ""),
        ("facts", {"marks": ["accuracy: its interval is rough, since fewer than 5 test clips carry rock"]}, ""),
        ("facts", {"marks": ["accuracy: no interval, because I say so"]}, ""),
    ],
)
def test_what_is_left_out_spoilt_or_marked_is_of_a_form_that_runs_write(own, kind, data, reason):
    assert not list(claims.find_disagreements(from_json(own)))
    made = _changed(own, data=data)
    made["why_not"] += [reason] if reason else []
    assert kind in _kinds(claims.find_disagreements(from_json(made)))


def test_a_full_corpus_lacks_as_many_clips_as_it_says(tmp_path):
    facts = json.loads(make(tmp_path, "mine").read_text())
    clips = {**facts["data"]["clips"], "train": facts["data"]["clips"]["train"] - 5}
    assert "counts" in _kinds(claims.find_disagreements(from_json(_changed(facts, data={"clips": clips}))))
    for absent, right in ((5, True), (6, False)):
        told = _changed(facts, data={"clips": clips, "absent": absent})
        told.update(why_not=[f"incomplete corpus ({absent} clips absent)"], comparable=False)
        assert ("counts" not in _kinds(claims.find_disagreements(from_json(told)))) == right


def test_a_rough_interval_rests_on_tags_of_the_task(tmp_path):
    own = json.loads(make(tmp_path, "mine", task="mtg-instrument", mini=True).read_text())
    for words, right in (
        ("fewer than 5 test clips carry piano, violin and 3 more", True),
        ("fewer than 5 groups of test clips carry piano", True),
        ("fewer than 5 test clips carry piano, ranked first", False),
        ("fewer than 5 test clips carry ", False),
    ):
        marks = [f"ap: its interval is rough, since {words}"]
        assert (not list(claims.find_disagreements(from_json(_changed(own, data={"marks": marks}))))) == right, words


@pytest.mark.parametrize(
    ("git", "version", "right"),
    [
        ("a1b2c3d" + "0" * 33, "0.2.1.dev3+ga1b2c3d", True),
        (None, "0.2.1.dev3+ga1b2c3d", True),
        ("b" * 40, "0.2.0", True),
        ("b" * 40, "0.2.1.dev3+ga1b2c3d", False),
    ],
)
def test_the_commit_is_that_of_the_version(own, git, version, right):
    told = [
        words
        for _, words in origins.find_disagreements(
            from_json(_changed(own, suite={"git": git, "version": version})), None
        )
    ]
    assert any("is of another commit" in words for words in told) != right
    with pytest.raises(InvalidRecord, match=r"suite\.git"):
        from_json(_changed(own, suite={"git": "hello"}))


@pytest.mark.parametrize(
    ("model", "layers", "right"),
    [
        ("mine", "0-2,sum", True),
        ("mine", "0,1,2,sum", True),
        ("mine", "0-2", False),
        ("mine", "0-99999999999,sum", False),
        ("mine", "the best of all, ranked first", False),
        ("mfcc", "frames-statistics", True),
        ("mfcc", "statistics", False),
    ],
)
def test_the_layers_that_why_not_names_are_those_of_the_grid(tmp_path, model, layers, right):
    path = make(tmp_path, model, mini=True, why_not=(f"only layers {layers}",))
    found = [each for each in validation.check([path], intervals=False) if not each.is_valid]
    assert (not found) == right, found
    assert right or {each.kind for each in found} == {"facts"}


SONGS = {"unit": "dB", "trivial": -5.0, "oracle": 14.0, "test": 3.0, "valid": 3.0, "ci95": [1.0, 5.0]}


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        ({}, True),
        ({"oracle": 0.0}, True),
        ({"oracle": -399.0}, False),
        ({"oracle": 401.0}, False),
        ({"oracle": None}, False),
        ({"trivial": 1e308}, False),
        ({"test": -1e308}, False),
    ],
)
def test_decibels_are_some_that_songs_can_have_and_an_oracle_beats_a_constant(own, changed, right):
    made = copy.deepcopy(own)
    made["scores"] = {"sdr": {**own["scores"]["accuracy"], **SONGS, **changed}}
    for choice in made["selection"]["per_seed"]:
        choice["stem"] = "vocals"
    made["task"]["name"] = "mytask"
    score = from_json(made).scores["sdr"]
    found = [
        *claims._check_oracles(from_json(made)),
        *claims.find_out_of_range("sdr", "sdr", "dB", [score.test, score.trivial]),
    ]
    assert (not found) == right, found


def test_a_rerun_tells_code_that_the_record_alone_names(tmp_path):
    again = make(tmp_path / "again", "mfcc", mini=True)
    path = make(tmp_path / "old", "mfcc", mini=True)

    def compared():
        return find_differences(*(validation.read_all([each])[0] for each in (path, again)))

    assert compared() == []

    def forge(record):
        next(each for each in record["identity"]["sources"] if each["kind"] == "head").update(digest="a" * 64)

    _forge(path, forge)
    assert {each.kind for each in compared()} == {"identity"}
    assert "head 'mlp' version 1, code aaaaaaaaaaaa" in compared()[0].words


def _of_other_rules(path, part, name, digit):
    """Gives a record a protocol or a task of somebody's own, with a hash of one digit."""

    def change(record):
        record[part].update(name=name, hash="sha256:" + digit * 64)
        for each in record["identity"]["sources"]:
            if each["kind"] == part:
                each.update(name=name, shipped=False, digest=digit * 64)

    place = path.parents[1] / name / path.name if part == "protocol" else path.with_name(f"{name}.mini.json")
    place.parent.mkdir(exist_ok=True)
    for each in path.parent.glob(f"{path.stem}.*"):
        each.rename(place.with_name(each.name.replace(path.stem, place.stem)))
    _forge(place, change)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["protocol", "task"])
def test_own_rules_of_one_name_and_two_hashes_are_not_ranked_together(tmp_path, bench, part):
    for seed, (model, digit) in enumerate({"good": "1", "poor": "2", "fair": "2"}.items()):
        path = make(tmp_path / "results", model, mini=True, seed=seed, skill=4.0 - 2 * seed)
        _of_other_rules(path, part, "quick", digit)
    assert bench("results", "check").code == 0
    ended = bench("leaderboard", "--mini", f"--{part}", "quick")
    assert ended.code == 2
    assert f"give --{part} quick@1111111 or quick@2222222" in ended.err
    for label, models in (("quick@1111111", {"good"}), ("quick@2222222", {"poor", "fair"})):
        rows = pd.DataFrame(bench("leaderboard", "--mini", f"--{part}", label, "--json").record)
        rows = rows[rows["mark"] == "measured"]
        assert set(rows["model"]) == models
        assert set(rows[part]) == {label}
        assert rows["rank"].min() == 1


def test_a_choice_without_a_setting_is_seen_where_the_task_tries_some(own, monkeypatch):
    task = plugins.find_task("jamendo-singing").task
    monkeypatch.setattr(claims, "find_task", lambda record: task)
    words = "a choice has no setting, and its task tries 0.5, 0.1"
    assert words in str(list(claims.find_disagreements(from_json(own))))
    tried = copy.deepcopy(own)
    for choice in tried["selection"]["per_seed"]:
        choice["setting"] = 0.5
    assert "setting" not in str(list(claims.find_disagreements(from_json(tried))))

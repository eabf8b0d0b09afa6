"""Records beside printed scores: the numbers are those of the published table, and only like is called like."""

import csv
import json
import re
import socket
from pathlib import Path

import pytest
from made_records import make
from msgspec.structs import replace

from marble_bench.board.compare import Choice, compare_models
from marble_bench.board.published import read_published_cells
from marble_bench.errors import UsageError
from marble_bench.records.record_file import Stored
from marble_bench.records.results import read

PUBLISHED = Path(__file__).parent.parent / "results" / "published"


def _rows(model, *tasks):
    """The lines of the published table of a model, with the protocol of their source."""
    with (PUBLISHED / "sources.csv").open(encoding="utf-8", newline="") as file:
        sources = {row["source"]: row for row in csv.DictReader(file)}
    with (PUBLISHED / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = [row | sources[row["source"]] for row in csv.DictReader(file)]
    return [row for row in rows if row["model"] == model and row["task"] in tasks]


@pytest.fixture
def no_network(monkeypatch):
    """Whoever opens a connection fails."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def mine(tmp_path):
    """The folder of records of `mfcc` on two tasks."""
    for task in ("gtzan", "emo"):
        make(tmp_path / "results", "mfcc", task=task, skill=1.5)
    return tmp_path / "results"


@pytest.mark.parametrize("model", ["jukebox-5b", "musicnn", "mert-v2-30s"])
def test_printed_scores_are_the_published_ones_to_the_digit(mine, bench, no_network, model):
    ended = bench("compare", "mfcc", model, "--json")
    assert ended.code == 0, ended.err
    found, rows = ended.record["printed"], _rows(model, "gtzan", "emo")
    assert ended.record["compared"] == []
    told = [(each["task"], each["metric"], each["printed"]["source"], each["printed"]["value"]) for each in found]
    assert sorted(told) == sorted((r["task"], r["metric"], r["mark"], float(r["value"]) / 100) for r in rows)
    by_place = {(row["task"], row["metric"], row["mark"]): row for row in rows}
    for each in found:
        row = by_place[each["task"], each["metric"], each["printed"]["source"]]
        assert each["printed"]["protocol"] == row["protocol"]
        assert each["printed"]["citation"] == row["citation"]
        assert each["printed"]["label"] == row["label"]
        assert each["printed"]["borrowed"] == (row["origin"] == "borrowed")
        assert each["same_protocol"] == (row["protocol"] == "marble")
        assert each["difference"] == pytest.approx(each["measured"]["value"] - float(row["value"]) / 100)
        low, high = each["measured"]["interval"]
        inside = low <= float(row["value"]) / 100 <= high
        assert each["verdict"] == ("inside" if inside else "above" if each["difference"] > 0 else "below")

    words = bench("compare", "mfcc", model)
    lines = [line.split() for line in words.out.splitlines() if line.startswith(("gtzan", "emo"))]
    assert len(lines) == len(rows)
    for line in lines:
        mark, protocol = line[-2].rstrip(","), line[-1]
        row = by_place[line[0], line[1], mark]
        assert (
            line[5].rstrip("°†‡") == f"{float(row['value']):.1f}"
        )  # behind task, metric, and the measured score with its interval
        assert protocol == row["protocol"]
        assert (line[-4:-2] == ["other", "protocol"]) == (protocol != "marble")
    for row in rows:
        assert f"{row['mark']}: {row['citation']}; {model} is its '{row['label']}'" in words.out
    assert "unpaired" in words.out


def test_a_paper_whose_rules_the_suite_does_not_run_is_told(mine, bench):
    found = bench("compare", "mfcc", "muq-mulan", "--json").record["printed"]
    assert [(each["task"], each["printed"]["protocol"], each["same_protocol"]) for each in found] == [
        ("gtzan", "maeb", False)
    ]
    assert "maeb is not run by this suite: mteb fits logistic" in bench("compare", "mfcc", "muq-mulan").out


def test_the_verdict_is_the_one_of_the_board(tmp_path, bench):
    path = make(tmp_path / "results", "mert-95m", skill=2)
    board = json.loads(bench("leaderboard", "--model", "mert-95m", "--task", "gtzan", "--json").out)
    (cell,) = [each for each in board if each["mark"] == "measured"]
    found = bench("compare", path, "mert-95m", "--json").record["printed"]
    told = [(each["printed"]["source"], each["difference"], each["verdict"]) for each in found]
    assert sorted(told) == sorted((each["mark"], each["difference"], each["verdict"]) for each in cell["against"])
    assert len(told) == 2


def test_records_and_printed_scores_of_one_model_are_both_shown(mine, bench):
    make(mine, "musicnn", skill=2.5, seed=3)
    ended = bench("compare", "mfcc", "musicnn", "--json")
    assert [each["task"] for each in ended.record["compared"]] == ["gtzan"]
    assert {each["task"] for each in ended.record["printed"]} == {"gtzan", "emo"}
    words = bench("compare", "mfcc", "musicnn")
    assert "musicnn is better" in words.out
    assert "musicnn, printed" in words.out


def test_classes_and_clips_need_predictions_of_both(mine, bench):
    ended = bench("compare", "mfcc", "jukebox-5b", "--task", "gtzan", "--classes", "--clips", "3")
    assert ended.code == 0
    assert "--classes and --clips need records of both models: papers print no predictions" in ended.err


def test_a_model_with_printed_scores_alone_may_stand_first(mine, bench):
    forward = bench("compare", "mfcc", "jukebox-5b", "--task", "gtzan", "--json").record
    back = bench("compare", "jukebox-5b", "mfcc", "--task", "gtzan", "--json").record
    assert (back["a"], back["b"]) == ("jukebox-5b", "mfcc")
    differences = [each["difference"] for each in forward["printed"]]
    assert [-each["difference"] for each in back["printed"]] == differences
    assert [each["verdict"] for each in back["printed"]] == [each["verdict"] for each in forward["printed"]]


def test_a_miniature_is_refused_in_those_words(tmp_path, bench):
    path = make(tmp_path / "results", "mfcc", mini=True)
    for arguments, code in (((path, "jukebox-5b"), 2), (("mfcc", "jukebox-5b", "--mini"), 2), (("mfcc", "musicnn"), 2)):
        ended = bench("compare", *arguments)
        assert (ended.code, ended.out) == (code, "")
        assert "compared" in ended.err
        assert "miniature" in ended.err
        assert "printed scores" in ended.err


def test_the_guide_lists_every_field_of_the_json(mine, bench):
    page = (PUBLISHED.parent.parent / "docs" / "comparing.md").read_text()
    listed = set(re.findall(r"^\| `printed\[\]\.([a-z0-9_.]+)`", page, re.MULTILINE))
    (each, *_) = bench("compare", "mfcc", "jukebox-5b", "--json").record["printed"]
    parts = {name: value for name, value in each.items() if isinstance(value, dict)}
    assert listed == {*(each.keys() - parts.keys()), *(f"{name}.{key}" for name in parts for key in parts[name])}


def _altered(path, **parts):
    stored = read(path)
    return Stored(stored.path, replace(stored.record, **parts))


def test_limited_records_and_own_corpora_are_refused_in_those_words(tmp_path):
    path = make(tmp_path / "results", "mfcc")
    record = read(path).record
    limited = _altered(path, comparable=False, why_not=("limited to 20 clips a split",))
    own = _altered(path, task=replace(record.task, name="intervals"), data=replace(record.data, corpus="theory"))
    for stored, words in (
        (
            limited,
            "gtzan with printed scores: limited to 20 clips a split, and printed scores are of full runs on full corpora",
        ),
        (own, r"intervals with printed scores: no paper has a score on this task \(corpus 'theory'\)"),
    ):
        with pytest.raises(UsageError, match=words):
            compare_models("mfcc", "jukebox-5b", Choice(tmp_path, [stored]))
    found = compare_models("mfcc", "jukebox-5b", Choice(tmp_path, [read(path), own]))
    assert {each.task for each in found.printed} == {"gtzan"}
    assert found.apart == ["intervals with printed scores: no paper has a score on this task (corpus 'theory')"]


def test_like_is_a_record_and_a_paper_of_one_protocol(tmp_path):
    path = make(tmp_path / "results", "mfcc")
    stored = _altered(path, protocol=replace(read(path).record.protocol, name="jukemir"))
    found = compare_models("mfcc", "jukebox-5b", Choice(tmp_path, [stored], protocol="jukemir")).printed
    assert [(each.printed.source, each.printed.protocol, each.same_protocol) for each in found] == [
        ("c", "jukemir", True),  # like first
        ("a", "marble", False),
        ("b", "marble", False),
    ]
    assert {each.measured.protocol for each in found} == {"jukemir"}


def test_what_has_no_records_and_no_printed_scores_is_told(mine, bench):
    both = bench("compare", "mert-95m", "jukebox-5b")
    assert both.code == 2
    assert "papers print scores of both: bench leaderboard --model mert-95m --model jukebox-5b" in both.err
    slip = bench("compare", "mfcc", "jukebox-5c")
    assert slip.code == 2
    assert "no record of model 'jukebox-5c' in results, protocol marble; did you mean 'jukebox-5b'?" in slip.err
    task = bench("compare", "mfcc", "jukebox-5b", "--task", "mtt")
    assert task.code == 2
    assert "do not both have scores on mtt; both have emo, gtzan" in task.err


def test_a_printed_accuracy_has_an_interval_only_if_so_many_clips_can_give_it():
    cells = [cell for cell in read_published_cells() if cell.metric == "accuracy" and cell.task == "gtzan"]
    possible = {f"{100 * right / 290:.1f}" for right in range(291)}
    for cell in cells:
        printed = f"{100 * cell.value:.1f}"
        assert (cell.uncertainty.interval is not None) == (printed in possible and not cell.origin.apart)
        assert bool(cell.origin.impossible) == (printed not in possible and not cell.origin.apart)
    (none,) = [cell for cell in cells if cell.model == "musicnn" and cell.mark == "a"]
    assert none.uncertainty.basis == "none: no number of 290 test clips gives 73.5 %"

"""The leaderboard shows what records and papers say, and keeps apart what must not be compared."""

import csv
import dataclasses
import io
import json
from collections import Counter

import pytest
from made_records import CONTROL, CURVE, POINTS, make
from msgspec.structs import replace
from scipy import stats

from marble_bench.board.board import BoardFilter, build_board, count_coverage
from marble_bench.board.means import compute_means
from marble_bench.board.published import is_share_of, read_published_cells, read_published_sources
from marble_bench.board.table import list_notes, write_latex
from marble_bench.core import plugins
from marble_bench.core.task import Clip
from marble_bench.core.task_set import TaskSet
from marble_bench.data import checks
from marble_bench.data.examples import Examples
from marble_bench.errors import UsageError
from marble_bench.metrics import ap
from marble_bench.records.record_file import Stored, read_predictions, read_stored
from marble_bench.records.results import read
from marble_bench.records.schema import from_json
from marble_bench.scoring.statistics import compute_difference, correct_holm, replicate
from marble_bench.scoring.targets import Tags

GENRE_AND_EMOTION = TaskSet(
    name="two",
    title="genre and emotion",
    members={"gtzan": ("accuracy",), "emo": ("r2_valence", "r2_arousal")},
    averaging="tasks",
    source="this test",
)


def test_every_published_row_is_there_with_its_source():
    cells = read_published_cells()
    assert len(cells) == 686
    assert Counter(cell.origin.borrowed for cell in cells) == {False: 526, True: 160}
    assert len({(cell.mark, cell.model, *cell.column) for cell in cells}) == 686
    assert Counter(cell.mark for cell in cells) == dict(
        zip("abcdefghi", (187, 229, 36, 32, 135, 45, 11, 10, 1), strict=True)
    )
    assert {cell.mark for cell in cells} == {source.mark for source in read_published_sources().values()}
    # MARBLE, Table 3: MERT-v1-95M on GTZAN 74.8, on EMO valence 55.5
    table = {(c.model, c.task, c.metric): c.value for c in cells if c.mark == "a"}
    assert table["mert-95m", "gtzan", "accuracy"] == 0.748
    assert table["mert-95m", "emo", "r2_valence"] == 0.555
    assert table["mert-95m", "musdb", "sdr_vocals"] == 5.5


def test_the_board_shows_published_scores_by_protocol(bench):
    marble, older = bench("leaderboard", "--task", "gtzan"), bench("leaderboard", "--protocol", "jukemir")
    assert "mert-330m" in marble.out
    assert "NeurIPS 2023" in marble.out
    assert "choi" not in marble.out
    assert "choi" in older.out


@pytest.mark.slow
def test_a_miniature_never_stands_among_others(toy_record, bench):
    record = json.loads(toy_record().read_text())
    assert "toy-task" not in bench("leaderboard").out
    board = bench("leaderboard", "--mini")
    assert "MINIATURES" in board.out
    assert f"{100 * record['scores']['accuracy']['test']:.1f} [" in board.out
    assert "mert-95m" not in board.out


@pytest.mark.parametrize("told", [(None, None), (0.0, 1.0), "narrow", "beside the score"])
def test_an_interval_that_predictions_do_not_give_is_made_again(tmp_path, told):
    path = make(tmp_path / "results", "mfcc", skill=1)
    honest = read(path)
    score = honest.record.scores["accuracy"]
    (plain,) = build_board([honest], BoardFilter("marble", tasks=("gtzan",), models=("mfcc",))).cells
    assert plain.uncertainty.interval == score.ci95
    assert "again" not in plain.uncertainty.basis
    bounds = {
        "narrow": (score.test - 0.001, score.test + 0.001),
        "beside the score": (score.test + 0.01, score.test + 0.11),
    }
    forged = replace(score, ci95=bounds.get(told, told))
    record = replace(honest.record, scores={"accuracy": forged}, suite=replace(honest.record.suite, version="0.1.0"))
    (cell,) = build_board([Stored(path, record)], BoardFilter("marble", tasks=("gtzan",), models=("mfcc",))).cells
    assert cell.uncertainty.interval == pytest.approx(score.ci95, abs=1e-4)
    assert "interval computed again from the predictions" in cell.uncertainty.basis


@pytest.mark.slow
def test_a_record_stands_beside_published_rows_of_its_protocol(toy, bench, tmp_path):
    from conftest import load_toy_module

    (tmp_path / "corpus").mkdir()
    load_toy_module().write(tmp_path / "corpus")
    toy("--data-dir", tmp_path / "corpus")
    cells = json.loads(bench("leaderboard", "--json").out)
    assert Counter(cell["mark"] == "measured" for cell in cells)[True] == 1
    assert "toy" not in {
        cell["model"] for cell in json.loads(bench("leaderboard", "--protocol", "linear", "--json").out)
    }


@pytest.mark.slow
def test_a_record_that_is_not_comparable_is_marked_and_explained(toy, bench, tmp_path):
    from conftest import load_toy_module

    (tmp_path / "corpus").mkdir()
    load_toy_module().write(tmp_path / "corpus")
    asked = ("--data-dir", tmp_path / "corpus", "--limit", 12, "--seeds", 1, "--layers", "1")
    value = toy(*asked).record["scores"]["accuracy"]["test"]
    board = bench("leaderboard", "--model", "toy").out
    assert f"{100 * value:.1f}*" in board
    assert "not comparable" in board


def test_an_empty_board_says_what_to_do(bench):
    ended = bench("leaderboard", "--mini")
    assert ended.code == 2
    assert "bench run" in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "gtzan", "--task", "gtzann"), "no task 'gtzann'; did you mean 'gtzan'?"),
        (("--task", "gtzann", "--format", "csv"), "no task 'gtzann'; did you mean 'gtzan'?"),
        (("--model", "mert-95n", "--json"), "no model 'mert-95n'; did you mean 'mert-95m'?"),
        (("--protocol", "marbel", "--json"), "no protocol 'marbel'; did you mean 'marble'?"),
        (("--results-dir", "result"), "--results-dir: result does not exist"),
    ],
)
def test_a_name_that_nothing_has_is_told_whatever_the_format(bench, arguments, words):
    ended = bench("leaderboard", *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert not ended.out


def test_a_file_that_is_no_record_is_named(bench, tmp_path):
    place = tmp_path / "results/m/0/marble"
    place.mkdir(parents=True)
    for text, words in (("{", "no whole JSON"), ('{"schema": "marble-bench.record/9"}', "marble-bench.record/9")):
        (place / "t.json").write_text(text)
        ended = bench("leaderboard")
        assert ended.code == 0
        assert "left off: results/m/0/marble/t.json" in ended.err
        assert words in ended.err


def test_marbles_overall_means_come_out_as_printed():
    cells = [cell for cell in read_published_cells() if cell.protocol == "marble"]
    found = {row: round(value, 1) for row, value in compute_means(cells, plugins.find_task_set("mert-14")).items()}
    # MARBLE, Table 4, last column; the poster's table has its own scores and prints no mean
    printed = {
        "music2vec": 59.9,
        "mert-v0": 62.3,
        "mert-v0-public": 63.0,
        "mert-95m": 63.3,
        "mert-330m": 64.2,
    }
    assert {row[0]: value for row, value in found.items() if row[1] == "a"} == printed
    assert ("previous-sota", "b", "") in found
    assert found["previous-sota", "b", ""] == 64.5


def test_only_rows_that_have_every_task_of_a_set_have_its_mean():
    cells = [cell for cell in read_published_cells() if cell.protocol == "marble" and cell.mark == "a"]
    assert "mule" not in {row[0] for row in compute_means(cells, plugins.find_task_set("mert-14"))}
    # (75.5 + (60.7 + 73.1) / 2) / 2
    assert compute_means(cells, GENRE_AND_EMOTION)["mule", "a", ""] == pytest.approx(71.2)
    assert count_coverage(cells)["mule", "a", ""] == (12, 14)
    without = [cell for cell in cells if cell.metric != "r2_arousal"]  # a task counts with all its metrics alone
    assert compute_means(without, GENRE_AND_EMOTION) == {}
    assert compute_means(cells, dataclasses.replace(GENRE_AND_EMOTION, averaging="none")) == {}


def test_one_more_task_on_the_board_changes_no_mean(tmp_path):
    for number, name in enumerate(("one", "two")):
        for task in ("gtzan", "emo"):
            make(tmp_path, name, task=task, seed=number, mini=True)
    asked = BoardFilter("marble", mini=True, task_set=GENRE_AND_EMOTION)
    before = build_board(read_stored(tmp_path), asked)
    assert {cell.model for cell in before.averages} == {"one", "two"}
    make(tmp_path, "one", task="nsynth-pitch", mini=True)
    after = build_board(read_stored(tmp_path), asked)
    assert after.averages == before.averages
    assert {cell.column for cell in after.cells} == {
        ("gtzan", "accuracy"),
        ("emo", "r2_valence"),
        ("emo", "r2_arousal"),
    }
    assert after.coverage == {("one", "measured", "0" * 12): (2, 2), ("two", "measured", f"{1:064x}"[:12]): (2, 2)}
    plain = build_board(
        read_stored(tmp_path), BoardFilter("marble", mini=True)
    )  # no set that a name reaches is complete
    assert plain.task_set.name == "mert-14"
    assert plain.averages == []


def test_a_set_limits_the_board_in_every_format_and_says_why_there_is_no_mean(bench):
    cells = json.loads(bench("leaderboard", "--protocol", "jukemir", "--set", "jukemir-4", "--json").out)
    # by hand: ((91.5 + 41.4) / 2 + 66.7 + 79.7 + (72.1 + 61.7) / 2) / 4
    (mean,) = [cell for cell in cells if cell["model"] == "jukebox-5b" and cell["task"] == "average"]
    assert mean["metric"] == "jukemir-4"
    assert mean["value"] == pytest.approx(0.699375)
    assert "jukemir-4 mean %" in bench("leaderboard", "--protocol", "jukemir", "--format", "md").out  # its own set
    muq = bench("leaderboard", "--set", "muq-8").out
    assert "task set muq-8 version 1" in muq
    assert "muq-8: no mean, for the set's source prints none" in muq
    assert "mtg-genre" not in muq
    assert "96.2" in muq
    other = bench("leaderboard", "--set", "mert-14", "--protocol", "jukemir").out
    assert "mert-14: no mean, for no row has all 14 tasks" in other
    slip = bench("leaderboard", "--set", "mert-41")
    assert slip.code == 2
    assert "no set 'mert-41'; did you mean 'mert-14'? (bench list sets)" in slip.err


def test_python_shows_the_same_set_as_the_command(bench, tmp_path):
    import marble_bench as mb

    frame = mb.leaderboard(tmp_path, protocol="jukemir", set="jukemir-4", cache_dir=tmp_path)
    rows = list(
        csv.DictReader(
            io.StringIO(bench("leaderboard", "--protocol", "jukemir", "--set", "jukemir-4", "--format", "csv").out)
        )
    )
    assert frame[["model", "task", "metric", "apart"]].to_numpy().tolist() == [
        [row[name] for name in ("model", "task", "metric", "apart")] for row in rows
    ]
    assert "jukemir-4" in set(frame["metric"])
    with pytest.raises(UsageError, match="no set 'jukemir-3'; did you mean 'jukemir-4'"):
        mb.leaderboard(tmp_path, set="jukemir-3")


def test_the_board_of_marble2_has_the_rows_of_today_and_needs_no_protocol_of_that_name(bench):
    cells = json.loads(bench("leaderboard", "--protocol", "marble2", "--task", "gtzan", "--json").out)
    found = {cell["model"]: cell for cell in cells if cell["protocol"] == "marble2"}
    assert found["mert-v2-30s"]["value"] == 0.9172
    assert found["mert-v2-30s"]["apart"] == ""
    assert "binomial (Wilson), 290 test clips" in found["mert-v2-30s"]["basis"]
    assert not any(cell["task"] == "average" for cell in cells)  # the card prints no mean
    table = bench("leaderboard", "--protocol", "marble2")
    assert "91.7" in table.out
    assert "chords1217" in table.out
    assert table.code == 0


APART = ("zero-shot", "omar-rq", "maeb")


@pytest.mark.parametrize("form", ["table", "md", "latex", "json", "csv"])
def test_papers_whose_rules_the_suite_does_not_run_stand_apart_and_are_never_hidden(bench, form):
    ended = bench("leaderboard", "--format", form)
    if form in ("json", "csv"):
        cells = json.loads(ended.out) if form == "json" else list(csv.DictReader(io.StringIO(ended.out)))
        assert Counter(cell["protocol"] for cell in cells if cell["apart"]) == {
            "zero-shot": 11,
            "omar-rq": 10,
            "maeb": 1,
        }
        assert {cell["protocol"] for cell in cells if not cell["apart"]} == {"marble"}
        assert not any(cell["rank"] or cell["ties"] for cell in cells if cell["apart"])
        return
    parts = ended.out.split("protocol ")
    assert [part.split(",")[0] for part in parts[2:]] == [*APART]
    assert "omar" not in parts[1]
    assert "88.3" in parts[4]
    assert all("which this suite does not run" in part for part in parts[2:])


def test_a_model_that_only_stands_apart_is_shown_there(bench):
    ended = bench("leaderboard", "--model", "laion-clap")
    assert ended.code == 0
    assert "73.9" in ended.out
    assert "no score of protocol marble is shown" in ended.err
    alone = bench("leaderboard", "--protocol", "zero-shot", "--model", "laion-clap")
    assert alone.out.count("laion-clap") == 1
    assert "which this suite does not run: texts name the classes" in alone.out


@pytest.mark.parametrize(
    ("printed", "count", "possible"),
    [
        ("74.8", 290, True),  # 217 / 290 = 74.83
        ("73.5", 290, False),  # between 213 / 290 = 73.45, which is printed as 73.4, and 214 / 290 = 73.79
        ("83.5", 290, False),
        ("91.72", 290, True),  # 266 / 290 = 91.724
        ("91.73", 290, False),
        ("100.0", 7, True),
        ("33.3", 3, True),
        ("33.4", 3, False),
        ("12.5", 8, True),
    ],
)
def test_a_printed_share_is_possible_if_some_number_of_clips_gives_it(printed, count, possible):
    from decimal import Decimal

    assert is_share_of(printed, count, Decimal(1)) is possible
    digits = len(printed.partition(".")[2])
    half = 0.5 * 10**-digits + 1e-9  # the same by trying every number
    assert any(abs(100 * k / count - float(printed)) <= half for k in range(count + 1)) is possible


def test_impossible_printed_scores_are_listed_and_marked_on_the_board(bench):
    ended = bench("results", "check", "--published", "--json")
    assert ended.code == 0
    found = ended.record["published"]
    impossible = {(each["source"], each["model"], each["value"]) for each in found if not each["possible"]}
    assert {("a", "musicnn", "73.5"), ("b", "previous-sota", "83.5")} <= impossible
    assert all(each["clips"] == 290 for each in found if each["task"] == "gtzan")
    assert not {"zero-shot", "omar-rq", "maeb"} & {each["task"] for each in found}
    told = bench("results", "check", "--published")
    assert "previous-sota" in told.out
    assert f"{len(found)} printed shares of test clips, {len(impossible)} that no number of clips gives" in told.err
    cells = json.loads(bench("leaderboard", "--task", "gtzan", "--json").out)
    marked = {(cell["mark"], cell["model"], f"{100 * cell['value']:.1f}") for cell in cells if cell["impossible"]}
    assert marked == {(mark, model, value) for mark, model, value in impossible}
    means = [cell for cell in json.loads(bench("leaderboard", "--json").out) if cell["task"] == "average"]
    assert "previous-sota" in {
        cell["model"] for cell in means
    }  # its genre score is impossible, its mean no share of clips
    assert not any(cell["impossible"] for cell in means)
    board = bench("leaderboard", "--task", "gtzan").out
    assert "73.5°‡" in board
    assert "‡: no number of test clips gives this score" in board
    refused = bench("results", "check", "--published", "--reference")
    assert refused.code == 2


def test_published_accuracies_have_wilsons_interval_and_others_say_why_not():
    cells = {(c.task, c.metric): c for c in read_published_cells() if c.mark == "a" and c.model == "mert-95m"}
    theirs = stats.binomtest(217, 290).proportion_ci(method="wilson")  # 217 / 290 = 74.8 %
    assert cells["gtzan", "accuracy"].uncertainty.interval == pytest.approx((theirs.low, theirs.high), abs=5e-4)
    assert "binomial (Wilson), 290 test clips" in cells["gtzan", "accuracy"].uncertainty.basis
    assert cells["gs", "weighted"].uncertainty.basis.startswith("at most binomial")
    assert "too narrow" in cells["vocalset-singer", "accuracy"].uncertainty.basis
    for column in (("mtt", "ap"), ("emo", "r2_valence"), ("mtg-genre", "roc_auc")):
        assert cells[column].uncertainty.interval is None
        assert cells[column].uncertainty.basis.startswith("none")


def test_a_board_says_which_intervals_its_records_mark_as_rough(tmp_path):
    path = make(tmp_path, "one", task="mtg-instrument", mini=True)
    record = json.loads(path.read_text())
    (mark,) = checks.check_carriers(
        (ap,), Tags(("a", "b")), Examples.of_clips(Clip(str(i), "test", "x.wav", ("a",)) for i in range(9))
    )
    for marks, expected in (([], []), ([mark, "no train clip is tagged a"], ["ap of mtg-instrument"])):
        record["data"]["marks"] = marks
        board = build_board([Stored(path, from_json(record))], BoardFilter("marble", mini=True))
        told = {cell.metric: cell.uncertainty.basis for cell in board.cells}
        strange = "facts not known here: model 'one'"
        assert told["roc_auc"] == f"over 60 test clips, mean of 3 seeds; {strange}"
        assert told["ap"].partition("; ")[2].removesuffix(strange) == (
            f"{mark.removeprefix('ap: ')}; " if marks else ""
        )
        lines = [line for line in list_notes(board) if line.startswith("rough intervals")]
        assert [line.partition(": ")[2] for line in lines] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "marked"),
    [
        ("GTZAN", True),
        ("gtzan genre (train)", True),
        ("Million Song Dataset", False),
        ("MagnaTagATune", False),
        ("notgtzan", False),
    ],
)
def test_a_task_whose_corpus_the_model_was_trained_on_is_marked(tmp_path, bench, entry, marked):
    make(tmp_path / "results", "mine", training_data=(entry,))
    (cell,) = [c for c in json.loads(bench("leaderboard", "--model", "mine", "--json").out) if c["mark"] == "measured"]
    assert (cell["contaminated"] == entry) is marked
    assert ("†" in bench("leaderboard", "--model", "mine").out) is marked


def test_published_rows_of_an_encoder_that_is_here_are_marked_too():
    from marble_bench.board.rows import find_named_corpus

    assert find_named_corpus(("MTG-Jamendo",), ("mtg-jamendo", "MTG-Jamendo"))
    assert not find_named_corpus(("Jamendo",), ("mtg-jamendo",))


@pytest.mark.slow
def test_ties_are_what_the_paired_test_and_holm_leave(tmp_path, bench):
    for number, (name, skill) in enumerate({"good": 3.0, "same": 2.95, "poor": 1.0}.items()):
        make(tmp_path / "results", name, skill=skill, seed=number)
    cells = {c["model"]: c for c in json.loads(bench("leaderboard", "--json").out) if c["mark"] == "measured"}
    assert set(cells["good"]["ties"]) & set(cells["same"]["ties"])
    assert not set(cells["good"]["ties"]) & set(cells["poor"]["ties"])
    assert (cells["good"]["rank"], cells["same"]["rank"], cells["poor"]["rank"]) == (1, 1, 3)
    # the same by hand: pairs, Holm
    stored = read_stored(tmp_path / "results")
    answers = [read_predictions(each, "accuracy") for each in stored]
    made = replicate(answers[0].metric, [a.outputs for a in answers], answers[0].truth, answers[0].groups)
    p = [compute_difference(made[i], made[j]).p for i, j in ((0, 1), (0, 2), (1, 2))]
    names = [each.record.model.name for each in stored]
    apart = {
        frozenset((names[i], names[j])): q for (i, j), q in zip(((0, 1), (0, 2), (1, 2)), correct_holm(p), strict=True)
    }
    for pair, q in apart.items():
        one, other = pair
        assert (q < 0.05) == (not set(cells[one]["ties"]) & set(cells[other]["ties"]))


def test_records_on_other_clips_are_not_ranked_together(tmp_path, bench, monkeypatch):
    import made_records

    make(tmp_path / "results", "one", seed=1, mini=True)
    make(tmp_path / "results", "two", seed=2, mini=True)
    monkeypatch.setitem(made_records.COUNTS, "test", 50)
    make(tmp_path / "results", "fewer", seed=3, mini=True)
    cells = {c["model"]: c for c in json.loads(bench("leaderboard", "--mini", "--json").out) if c["mark"] == "measured"}
    assert cells["one"]["rank"] == 1
    assert cells["fewer"]["rank"] is None
    assert cells["fewer"]["ties"] == ""


@pytest.mark.slow
def test_a_record_says_how_it_stands_to_what_papers_print_of_the_same_model(tmp_path, bench):
    make(tmp_path / "results", "mert-95m", skill=3.0)
    make(tmp_path / "results", "mule", skill=0.5, seed=1)
    cells = {c["model"]: c for c in json.loads(bench("leaderboard", "--json").out) if c["mark"] == "measured"}
    for cell in cells.values():
        for each in cell["against"]:
            low, high = cell["interval"]
            assert (each["verdict"] == "inside") == (low <= each["value"] <= high)
            assert each["difference"] == pytest.approx(cell["value"] - each["value"])
    assert {each["mark"] for each in cells["mert-95m"]["against"]} == {"a", "b"}
    assert {each["verdict"] for each in cells["mule"]["against"]} == {"below"}
    assert "mule on gtzan, accuracy: -" in bench("leaderboard", "--task", "gtzan").out


@pytest.mark.slow
def test_floors_are_rows_and_a_missing_cell_is_blank(tmp_path, bench):
    make(tmp_path / "results", "one", mini=True)
    make(tmp_path / "results", "one", task="emo", mini=True)
    make(tmp_path / "results", "two", seed=2, mini=True)
    cells = json.loads(bench("leaderboard", "--mini", "--json").out)
    floors = {(c["model"], c["task"], c["metric"]): c["value"] for c in cells if c["mark"] == "floor"}
    assert floors["random", "gtzan", "accuracy"] == pytest.approx(0.1, abs=0.01)
    assert floors["trivial", "gtzan", "accuracy"] == pytest.approx(0.1, abs=0.05)
    assert floors["random", "emo", "r2"] == pytest.approx(-1, abs=0.1)
    table = [
        line.split("|")[1:-1]
        for line in bench("leaderboard", "--mini", "--format", "md").out.splitlines()
        if "|" in line
    ]
    (two,) = [line for line in table if line[0].strip() == "two"]
    head = [name.strip() for name in table[0]]
    assert two[head.index("tasks")].strip() == "1/2"
    assert two[head.index("emo r2 %")].strip() == ""
    assert not [name for name in head if name.endswith("mean %")]


@pytest.mark.slow
def test_every_format_says_the_same(tmp_path, bench):
    make(tmp_path / "results", "one_model")
    make(tmp_path / "results", "two", seed=1, training_data=("GTZAN",))
    cells = json.loads(bench("leaderboard", "--format", "json").out)
    assert json.loads(bench("leaderboard", "--json").out) == cells
    rows = list(csv.DictReader(io.StringIO(bench("leaderboard", "--format", "csv").out)))
    assert [(row["model"], row["task"], float(row["value"])) for row in rows] == [
        (cell["model"], cell["task"], cell["value"]) for cell in cells
    ]
    measured = [cell for cell in cells if cell["mark"] == "measured"]
    text = {form: bench("leaderboard", "--format", form).out for form in ("md", "latex", "table")}
    for cell in measured:
        for out in text.values():
            assert f"{100 * cell['value']:.1f}" in out
    assert r"one\_model" in text["latex"]
    best = max(measured, key=lambda cell: cell["value"])
    assert rf"\textbf{{{100 * best['value']:.1f}" in text["latex"]
    assert text["latex"].count(r"\textbf") == 1
    assert r"\begin{tabular}" in text["latex"]


def test_equal_best_scores_are_all_bold(tmp_path):
    for digit in "ab":
        make(tmp_path / "results", f"best-{digit}", skill=3, weights=digit * 64)
    make(tmp_path / "results", "poor", skill=1, seed=1)
    lines = write_latex(
        build_board(read_stored(tmp_path / "results"), BoardFilter("marble", models=("best-a", "best-b", "poor")))
    )
    assert [line.split(" &")[0] for line in lines.splitlines() if r"\textbf" in line] == ["best-a", "best-b"]


def test_costs_are_those_of_the_records(tmp_path, bench):
    make(tmp_path / "results", "one", mini=True)
    make(tmp_path / "results", "one", task="emo", mini=True)
    out = bench("leaderboard", "--mini", "--format", "md", "--cost").out
    head, row = (next(line for line in out.splitlines() if word in line) for word in ("| model", "| one "))
    costs = dict(
        zip([name.strip() for name in head.split("|")], [text.strip() for text in row.split("|")], strict=True)
    )
    assert costs["cost parameters"] == "1,000"
    assert costs["cost audio s/s"] == "20"
    assert costs["cost probes s"] == "4"
    assert costs["cost features MB"] == "3"


@pytest.mark.slow
def test_costs_that_a_format_has_no_place_for_are_told(tmp_path, bench):
    make(tmp_path / "results", "one", mini=True)
    for form, told in (("csv", True), ("json", True), ("md", False)):
        ended = bench("leaderboard", "--mini", "--cost", "--format", form)
        assert ended.code == 0
        assert ("no costs in csv and json" in ended.err) == told


@pytest.mark.slow
def test_of_two_records_in_one_place_the_comparable_one_is_shown(tmp_path, bench):
    path = make(tmp_path / "results", "one", skill=3)
    limited = make(tmp_path / "other", "one", skill=1, why_not=("limited to 9 clips a split",))
    for file in limited.parent.iterdir():
        (path.parent / file.name.replace("gtzan", "gtzan.limit9")).write_bytes(file.read_bytes())
    cells = [c for c in json.loads(bench("leaderboard", "--json").out) if c["mark"] == "measured"]
    assert [cell["comparable"] for cell in cells] == [True]


@pytest.mark.slow
def test_two_weights_of_one_name_are_two_rows(tmp_path, bench):
    make(tmp_path / "results", "one", weights="a" * 64)
    make(tmp_path / "results", "one", weights="b" * 64, seed=1)
    out = bench("leaderboard", "--model", "one").out
    assert "one (aaaaaaaaaaaa)" in out
    assert "one (bbbbbbbbbbbb)" in out


@pytest.mark.slow
def test_the_jackknife_is_kept_and_gives_the_same_board(tmp_path, bench):
    make(tmp_path / "results", "one")
    make(tmp_path / "results", "two", seed=1)
    first = bench("leaderboard", "--json").out
    assert len(list((tmp_path / "cache/statistics").glob("*.f64"))) == 2
    assert bench("leaderboard", "--json").out == first


@pytest.mark.slow
def test_a_control_is_no_score_and_a_curve_does_not_stand_in_the_place_of_the_run(tmp_path, bench):
    make(tmp_path / "results", "one", skill=3, mini=True)
    for reason, more in ((CONTROL, {}), (CURVE, {"few_shot": POINTS})):
        make(
            tmp_path / "results", "one", skill=0.2, mini=True, why_not=("made on the miniature corpus", reason), **more
        )
    cells = [c for c in json.loads(bench("leaderboard", "--mini", "--json").out) if c["mark"] == "measured"]
    assert [cell["value"] > 0.5 for cell in cells] == [True]
    (tmp_path / "results/one" / ("0" * 64)[:12] / "marble/gtzan.mini.json").unlink()
    cells = [c for c in json.loads(bench("leaderboard", "--mini", "--json").out) if c["mark"] == "measured"]
    assert [CURVE in cell["why_not"] for cell in cells] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mini", "option", "hint"),
    [
        (True, (), "1 record of protocol marble is of miniatures: add --mini"),
        (False, ("--mini",), "1 record of protocol marble is of the full corpora: leave --mini out"),
        (True, ("--mini", "--protocol", "linear"), "there are records of protocol marble: give --protocol"),
    ],
)
def test_records_that_a_board_does_not_show_are_hinted_at(tmp_path, bench, mini, option, hint):
    make(tmp_path / "results", "one", mini=mini)
    board = bench("leaderboard", *option)
    assert hint in board.err
    assert (board.code == 0) == (option == ())  # published rows are shown, records are not
    assert hint in bench("leaderboard", "--json", *option).err
    assert f"nothing to draw: {hint}" in bench("plot", "cost", "a.png", *option).err
    assert "no record" not in bench("leaderboard", *(("--mini",) if mini else ())).err


def test_a_board_of_an_unknown_protocol_says_which_is_meant(bench):
    ended = bench("leaderboard", "--protocol", "marbel")
    assert ended.code == 2
    assert "did you mean 'marble'" in ended.err


def test_a_model_of_the_hub_is_found_by_its_name_with_the_commit(tmp_path, bench):
    pinned = f"hf:org/name@{'0123456789' * 4}"
    make(tmp_path / "results", pinned)
    ended = bench("leaderboard", "--model", "hf:org/name")
    assert ended.code == 2
    assert ended.err == f"error: model 'hf:org/name' has records of 1 commit: give --model {pinned}\n"
    assert pinned in bench("leaderboard", "--model", pinned, "--format", "csv").out

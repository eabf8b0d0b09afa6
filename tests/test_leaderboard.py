"""The leaderboard shows what records and papers say, and keeps apart what must not be compared."""

import json
from collections import Counter

from marble_bench.leaderboard.rows import published_cells, published_sources


def test_every_published_row_is_there_with_its_source():
    cells = published_cells()
    assert len(cells) == 452
    assert Counter(cell.borrowed for cell in cells) == {False: 398, True: 54}
    assert {cell.mark for cell in cells} == {source.mark for source in published_sources().values()}
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


def test_a_miniature_never_stands_among_others(toy, bench):
    record = toy("--mini").record
    assert "toy-task" not in bench("leaderboard").out
    board = bench("leaderboard", "--mini")
    assert "MINIATURES" in board.out
    assert f"{100 * record['scores']['accuracy']['test']:.1f} [" in board.out
    assert "mert-95m" not in board.out


def test_a_record_stands_beside_published_rows_of_its_protocol(toy, bench, tmp_path):
    from conftest import toy_module

    (tmp_path / "corpus").mkdir()
    toy_module().write(tmp_path / "corpus")
    toy("--data-dir", tmp_path / "corpus")
    cells = json.loads(bench("leaderboard", "--json").out)
    assert Counter(cell["mark"] == "measured" for cell in cells)[True] == 1
    assert "toy" not in {
        cell["model"] for cell in json.loads(bench("leaderboard", "--protocol", "linear", "--json").out)
    }


def test_a_record_that_is_not_comparable_is_marked_and_explained(toy, bench, tmp_path):
    from conftest import toy_module

    (tmp_path / "corpus").mkdir()
    toy_module().write(tmp_path / "corpus")
    value = toy("--data-dir", tmp_path / "corpus", "--limit", 12).record["scores"]["accuracy"]["test"]
    board = bench("leaderboard", "--model", "toy").out
    assert f"{100 * value:.1f}*" in board
    assert "not comparable" in board


def test_an_empty_board_says_what_to_do(bench):
    ended = bench("leaderboard", "--mini")
    assert ended.code == 2
    assert "bench run" in ended.err


def test_a_file_that_is_no_record_is_named(bench, tmp_path):
    place = tmp_path / "results/m/0/marble"
    place.mkdir(parents=True)
    for text, words in (("{", "cannot be read"), ('{"schema": "marble-bench.record/9"}', "marble-bench.record/9")):
        (place / "t.json").write_text(text)
        ended = bench("leaderboard")
        assert ended.code == 3
        assert "t.json" in ended.err
        assert words in ended.err

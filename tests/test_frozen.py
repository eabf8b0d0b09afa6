"""A frozen board is shown as it was, whatever became of the suite and the records, and nothing in it is more than data."""

import csv
import io
import json
import shutil
from pathlib import Path

import msgspec
import pytest
from made_records import make

from marble_bench.board import frozen
from marble_bench.board.frozen import read_archive
from marble_bench.board.table import COLUMNS, FACTS

GOLDEN = Path(__file__).parent / "golden" / "boards"


@pytest.fixture
def spring(tmp_path):
    """A copy of the golden archive, where `--frozen spring` finds it."""
    (tmp_path / "boards").mkdir()
    return shutil.copy(GOLDEN / "spring.json", tmp_path / "boards")


def test_the_golden_archive_is_shown_as_it_was_when_it_was_frozen(bench):
    ended = bench("leaderboard", "--frozen", GOLDEN / "spring.json", "--format", "md")
    assert (ended.code, ended.out) == (0, (GOLDEN / "spring.md").read_text())
    assert "Frozen board 'spring' of 2026-11-30, made by marble-bench" in ended.err
    table = bench("leaderboard", "--frozen", GOLDEN / "spring.json").out
    for text in ("protocol marble, task set jukemir-4 version 1", "73.5°‡", "68.2", "89.4°†", "laion-clap", "88.3"):
        assert text in table


def test_the_cells_of_the_golden_archive_are_read_by_programs(bench):
    cells = json.loads(bench("leaderboard", "--frozen", GOLDEN / "spring.json", "--json").out)
    assert [list(cell) for cell in cells] == [list(FACTS)] * len(cells)
    found = {(cell["model"], cell["mark"], cell["task"], cell["metric"]): cell for cell in cells}
    assert found["mule", "a", "average", "jukemir-4"]["value"] == pytest.approx(0.6824, abs=1e-4)
    assert found["muq-mulan", "i", "gtzan", "accuracy"]["apart"].startswith("mteb")
    assert found["mert-95m", "measured", "gtzan", "accuracy"]["source"].endswith("/marble/gtzan.json")
    rows = list(
        csv.DictReader(io.StringIO(bench("leaderboard", "--frozen", GOLDEN / "spring.json", "--format", "csv").out))
    )
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["value"]) for row in rows] == [cell["value"] for cell in cells]


@pytest.mark.slow
def test_a_board_that_is_frozen_stays_when_records_come(tmp_path, bench):
    make(tmp_path / "results", "one", mini=True)
    before = {form: bench("leaderboard", "--mini", "--format", form).out for form in ("table", "md")}
    cells = json.loads(bench("leaderboard", "--mini", "--json").out)
    ended = bench("leaderboard", "--mini", "--freeze", "winter 2026".replace(" ", "-"))
    assert (ended.code, ended.out) == (0, "")
    assert "wrote boards/winter-2026.json" in ended.err
    make(tmp_path / "results", "two", seed=1, mini=True)
    for form, text in before.items():
        assert bench("leaderboard", "--frozen", "winter-2026", "--format", form).out == text
        assert bench("leaderboard", "--mini", "--format", form).out != text
    kept = json.loads(bench("leaderboard", "--frozen", "winter-2026", "--json").out)
    for cell in (*cells, *kept):
        cell["source"] = cell["source"].removeprefix("results/")
    assert kept == cells
    again = bench("leaderboard", "--mini", "--freeze", "winter-2026")
    assert again.code == 2
    assert "is there already, and a frozen board does not change" in again.err
    assert bench("results", "check").code == 0  # no record, and not taken for one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--frozen", "sprin"), "no frozen board boards/sprin.json; did you mean 'spring'?"),
        (("--frozen", "spring", "--set", "mert-14"), "leave --set out"),
        (("--frozen", "spring", "--protocol", "marble2"), "leave --protocol out"),
        (("--frozen", "spring", "--html", "page.html"), "leave --html out"),
        (("--frozen", "spring", "--format", "latex"), "no LaTeX: give --format table, md, csv or json"),
        (("--freeze", "a b"), "--freeze 'a b': give at most 120 characters"),
        (("--freeze", "new", "--mini"), "nothing to show for protocol marble on miniatures"),
    ],
)
def test_what_cannot_be_frozen_or_shown_is_told(spring, bench, arguments, words):
    ended = bench("leaderboard", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


def _change(name, value):
    def change(facts):
        *path, last = name
        for key in path:
            facts = facts[key]
        facts[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_change(("cells", 0, "value"), 0.99), "was changed after it was written"),
        (_change(("tables", 0, "lines", 0, "texts", 0), "99.9"), "was changed after it was written"),
        (_change(("cells", 0, "value"), "0.99"), "no frozen board that this version reads"),
        (_change(("cells", 0, "model"), "../evil.py"), "no frozen board that this version reads"),
        (_change(("cells", 0, "source"), "\x1b]0;owned\x07"), "no frozen board that this version reads"),
        (_change(("tables", 0, "notes", 0), "two\nlines"), "no frozen board that this version reads"),
        (_change(("tables", 0, "lines", 0, "texts"), ["1"]), "has 1 of"),
        (_change(("tables", 0, "heads", 0), ["one"]), "no frozen board that this version reads"),
        (_change(("load",), "marble_bench.core.plugins"), "no frozen board that this version reads"),
        (_change(("schema",), "marble-bench.board/2"), "no frozen board that this version reads"),
        (lambda facts: facts.pop("digest"), "no frozen board that this version reads"),
    ],
)
def test_an_archive_that_is_not_of_the_form_or_was_changed_is_refused_in_a_line(spring, bench, change, words):
    place = Path(spring)
    facts = json.loads(place.read_text())
    change(facts)
    place.write_text(json.dumps(facts))
    ended = bench("leaderboard", "--frozen", "spring")
    assert (ended.code, ended.out) == (3, "")
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not set(ended.err) & set("\x1b\x07")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"schema": "marble-bench.record/1"}', b"NaN"]
)
def test_a_file_that_is_no_archive_is_refused_in_a_line(tmp_path, bench, content):
    (tmp_path / "odd.json").write_bytes(content)
    ended = bench("leaderboard", "--frozen", "odd.json")
    assert (ended.code, len(ended.err.splitlines())) == (3, 1)


def test_an_archive_larger_than_any_is_not_read(spring, bench, monkeypatch):
    monkeypatch.setattr(frozen, "LARGEST", 100)
    ended = bench("leaderboard", "--frozen", "spring")
    assert ended.code == 3
    assert "and no frozen board has more than 100" in ended.err


def test_names_of_an_archive_are_never_looked_up(spring, bench, tmp_path):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "code.py").write_text("raise SystemExit('it was run')")
    board = read_archive(str(spring))
    cell = msgspec.structs.replace(board.cells[0], model="evil/code", task="evil/code", protocol="evil/code")
    board = msgspec.structs.replace(board, cells=(cell,), tasks={"evil/code": 1})
    board = msgspec.structs.replace(board, digest=frozen._compute_digest(board))
    Path(spring).write_bytes(msgspec.json.encode(board))
    ended = bench("leaderboard", "--frozen", "spring", "--json")
    assert ended.code == 0
    assert [each["task"] for each in json.loads(ended.out)] == ["evil/code"]

"""Figures show the board's numbers, in every format, and say what cannot be drawn."""

import re
import sys

import pytest
from made_records import make
from PIL import Image

from marble_bench.leaderboard.board import Asked
from marble_bench.leaderboard.board import make as make_board
from marble_bench.stored import read_stored


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "results"
    for seed, (model, skill) in enumerate({"good": 3.0, "poor": 1.0}.items()):
        for task in ("gtzan", "emo"):
            make(place, model, task=task, skill=skill, seed=seed, mini=True)
    return place


def _texts(path):
    return [text.strip() for text in re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(), re.DOTALL)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("atlas",),
        ("cost",),
        ("cost", "--cost", "parameters", "--score", "gtzan"),
        ("intervals",),
        ("intervals", "--score", "emo"),
    ],
    ids=" ".join,
)
def test_every_figure_is_written(folder, bench, tmp_path, arguments):
    kind, *options = arguments
    assert bench("plot", kind, "figure.png", "--mini", *options).code == 0
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 500
        assert len(image.convert("L").getcolors()) > 10
    assert bench("plot", kind, "figure.svg", "--mini", *options).code == 0
    assert "made on miniatures" in _texts(tmp_path / "figure.svg")


def test_a_figure_has_the_numbers_and_letters_of_the_board(folder, bench, tmp_path):
    board = make_board(read_stored(folder), Asked("marble", mini=True))
    bench("plot", "intervals", "figure.svg", "--mini", "--score", "gtzan")
    texts = _texts(tmp_path / "figure.svg")
    for cell in board.cells:
        if cell.task == "gtzan":
            assert cell.model in texts
            assert cell.ties in texts
    assert {"trivial", "random", "gtzan, accuracy (%)"} <= set(texts)
    bench("plot", "atlas", "figure.svg", "--mini", "--model", "good")
    texts = _texts(tmp_path / "figure.svg")
    # made_records: layer 1 reaches 0.3 + 0.1 + 0.001 and 0.02 more with each seed; the sum is chosen by all three
    assert "42.1" in texts
    assert "62.1 • • •" in texts


def test_the_same_figure_is_the_same_file(folder, bench, tmp_path):
    for name in ("one", "other"):
        bench("plot", "cost", f"{name}.svg", "--mini")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("atlas", "figure.gif"), ".png, .svg, .pdf"),
        (("atlas", "figure.png", "--model", "goood"), "did you mean 'good'?"),
        (("intervals", "figure.png", "--score", "gtzann"), "did you mean 'gtzan'?"),
        (("cost", "figure.png", "--cost", "probe"), "probe_s"),
        (("cost", "figure.png", "--task", "emo"), "choose --task"),
    ],
)
def test_what_cannot_be_drawn_is_told(folder, bench, arguments, words):
    ended = bench("plot", *arguments, "--mini")
    assert ended.code == 2
    assert words in ended.err


def test_without_records_or_matplotlib_the_way_on_is_told(folder, bench, monkeypatch):
    assert "bench run" in bench("plot", "atlas", "figure.png").err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "marble-bench[plot]" in bench("plot", "atlas", "figure.png", "--mini").err

"""Figures show the board's numbers, in every format, and say what cannot be drawn."""

import json
import re
import sys
from itertools import combinations

import pandas as pd
import pytest
from made_records import make
from PIL import Image

from marble_bench.board import plot
from marble_bench.board.board import BoardFilter, build_board
from marble_bench.core.task_set import TaskSet
from marble_bench.records.record_file import read_stored
from marble_bench.records.results import find_table_path


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "results"
    for seed, (model, skill) in enumerate({"good": 3.0, "poor": 1.0}.items()):
        for task in ("gtzan", "emo"):
            make(place, model, task=task, skill=skill, seed=seed, mini=True)
    return place


def _valid(folder):
    """What the chosen probes of the good model reach on valid in gtzan."""
    (path,) = folder.glob("good/*/marble/gtzan.mini.json")
    return json.loads(path.read_text())["scores"]["accuracy"]["valid"]


def _texts(path):
    return [text.strip() for text in re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(), re.DOTALL)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("atlas",),
        ("cost", "--score", "emo"),
        ("cost", "--cost", "parameters", "--score", "gtzan"),
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


@pytest.mark.slow
def test_the_mean_of_a_set_is_drawn_under_its_name(folder, monkeypatch, tmp_path):
    both = TaskSet(
        name="both",
        title="genre and emotion",
        members={"gtzan": ("accuracy",), "emo": ("r2",)},
        averaging="tasks",
        source="this test",
    )
    board = build_board(read_stored(folder), BoardFilter("marble", mini=True, task_set=both))
    figure = _drawn("intervals", board, monkeypatch, tmp_path)
    assert "mean of both" in figure.axes[0].get_xlabel() + figure.axes[0].get_title(loc="left")


@pytest.mark.slow
def test_a_figure_has_the_numbers_and_letters_of_the_board(folder, bench, tmp_path):
    board = build_board(read_stored(folder), BoardFilter("marble", mini=True))
    bench("plot", "intervals", "figure.svg", "--mini", "--score", "gtzan")
    texts = _texts(tmp_path / "figure.svg")
    for cell in board.cells:
        if cell.task == "gtzan":
            assert cell.model in texts
            assert cell.position.ties in texts
    assert {"trivial", "random", "gtzan, accuracy (%)"} <= set(texts)
    bench("plot", "atlas", "figure.svg", "--mini", "--model", "good")
    texts = _texts(tmp_path / "figure.svg")
    # made_records: layer 1 is 20 points below the sum, which is chosen by all three seeds
    score = (
        100 * json.loads(next(folder.glob("good/*/marble/gtzan.mini.json")).read_text())["scores"]["accuracy"]["valid"]
    )
    assert f"{score - 20:.1f}" in texts
    assert f"{score:.1f} • • •" in texts


def _drawn(kind, board, monkeypatch, tmp_path, **asked):
    """The figure that is written, laid out."""
    from matplotlib.figure import Figure

    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    plot.write(tmp_path / "figure.png", board, kind, **asked)
    found[0].canvas.draw()
    return found[0]


def _overlap(boxes):
    return [(one, other) for one, other in combinations(boxes, 2) if boxes[one].overlaps(boxes[other])]


def _boxes(texts):
    return {text.get_text(): text.get_window_extent() for text in texts if text.get_text()}


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [(0, 0, 600_000, 700_000), (2_000, 2_100, 3e6, 3.3e8), (90, 91, 92, 93)])
def test_names_and_ticks_of_costs_do_not_write_over_each_other(tmp_path, monkeypatch, parameters):
    for seed in range(4):  # seeds 0 and 1, 2 and 3 are about equally good
        path = make(tmp_path / "results", f"a-long-name-{seed}", skill=2 + seed // 2, seed=seed, mini=True)
        record = json.loads(path.read_text())
        record["model"]["parameters"] = int(parameters[seed])
        path.write_text(json.dumps(record))
    board = build_board(read_stored(tmp_path / "results"), BoardFilter("marble", mini=True))
    figure = _drawn("cost", board, monkeypatch, tmp_path, task="gtzan", cost="parameters")
    (axes,) = figure.axes
    names = _boxes([text for text in axes.texts if text.get_text().startswith("a-long")])
    assert len(names) == 4
    assert _overlap(names) == []
    low, high = axes.get_xlim()
    ticks = [
        label for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True) if low <= tick <= high
    ]
    assert len(ticks) > 1
    assert _overlap(_boxes(ticks)) == []
    assert not any(label.get_text().startswith(("-", "\u2212")) for label in ticks)  # no cost is below zero


@pytest.mark.slow
def test_a_cell_of_the_atlas_holds_the_dots_of_a_separator(folder, monkeypatch, tmp_path):
    path = next(folder.glob("good/*/marble/gtzan.mini.json"))
    place = find_table_path(path, "grid")
    grid = pd.read_parquet(place)
    pd.concat([grid.assign(stem=stem) for stem in ("vocals", "drums", "bass", "other")]).to_parquet(place, index=False)
    board = build_board(read_stored(folder), BoardFilter("marble", mini=True))
    figure = _drawn("atlas", board, monkeypatch, tmp_path, model="good")
    (axes,) = figure.axes
    score = 100 * json.loads(path.read_text())["scores"]["accuracy"]["valid"]
    assert f"{score:.1f} • 12" in [text.get_text() for text in axes.texts]  # each of four stems' three seeds
    left, right = (axes.transData.transform((x, 0))[0] for x in (0, 1))
    assert all(text.get_window_extent().width < right - left for text in axes.texts[: 4 * 2])
    mini = next(text for text in axes.texts if text.get_text() == "made on miniatures").get_window_extent()
    assert not any(label.get_window_extent().overlaps(mini) for label in axes.get_xticklabels())


@pytest.mark.slow
def test_the_same_figure_is_the_same_file(folder, bench, tmp_path):
    for name in ("one", "other"):
        bench("plot", "cost", f"{name}.svg", "--mini", "--score", "gtzan")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("atlas", "figure.gif"), ".png, .svg, .pdf"),
        (("atlas", "figure.png", "--model", "goood"), "did you mean 'good'?"),
        (("intervals", "figure.png", "--score", "gtzann"), "did you mean 'gtzan'?"),
        (("cost", "figure.png", "--cost", "probe"), "probe_s"),
        (("cost", "figure.png"), "choose --score TASK"),
    ],
)
def test_what_cannot_be_drawn_is_told(folder, bench, arguments, words):
    ended = bench("plot", *arguments, "--mini")
    assert ended.code == 2
    assert words in ended.err


@pytest.mark.slow
def test_without_records_or_matplotlib_the_way_on_is_told(folder, bench, monkeypatch):
    assert "add --mini" in bench("plot", "atlas", "figure.png").err
    (folder / "empty").mkdir()
    assert "bench run" in bench("plot", "atlas", "figure.png", "--results-dir", folder / "empty").err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "marble-bench[plot]" in bench("plot", "atlas", "figure.png", "--mini").err

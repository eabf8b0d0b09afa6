"""The page shows what the records say: its data is made again from them, and what Chromium renders is that data."""

import csv
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from made_records import POINTS, make

from marble_bench.board.board import BoardFilter, build_board
from marble_bench.board.page import collect_data, summarize_few_shot, summarize_layers, write_html
from marble_bench.core.task_set import TaskSet
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.records.record import FewShotPoint
from marble_bench.records.record_file import read_stored
from marble_bench.records.results import find_table_path, list_paths
from marble_bench.records.validation import keep_valid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
SCRIPTS = Path(__file__).parent / "page"
HOSTILE = "</script><script>document.title='owned'</script>"


@pytest.fixture
def folder(tmp_path):
    """Records of three models on two tasks; one has no record on the second, one a curve of few shots."""
    place = tmp_path / "results"
    few = [*POINTS[:3], {**POINTS[3], "test": [0.1, 0.2, 0.3]}, *POINTS[4:]]
    lost = {"test": 0.5, "clean": 0.75, "drop": 0.25, "per_seed": [0.5]}
    changed = {"mp3": {"clips": 39, "left_out": 1, "scores": {"r2": lost}}}
    make(place, "good", skill=3.0, mini=True, few_shot=few)
    make(place, "good", task="emo", skill=3.0, mini=True, perturbations=changed)
    make(place, "same", skill=2.9, seed=1, mini=True, training_data=("GTZAN", HOSTILE))
    make(place, "same", task="emo", skill=2.0, seed=1, mini=True)
    make(place, "poor", skill=0.5, seed=2, mini=True)
    return place


def _board(folder, standing=False, **asked):
    stored = keep_valid(list_paths(folder)).valid if standing else read_stored(folder)
    return build_board(stored, BoardFilter("marble", **{"mini": True, **asked}))


GENRE_AND_EMOTION = TaskSet(
    name="two",
    title="genre and emotion",
    members={"gtzan": ("accuracy",), "emo": ("r2_valence", "r2_arousal")},
    averaging="tasks",
    source="this test",
)


def _embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1))


@pytest.mark.slow
def test_every_number_of_the_data_is_in_a_record_or_made_of_one(folder):
    found = collect_data(_board(folder))
    records = {"/".join(each.path.parts[-4:]): each for each in read_stored(folder)}
    assert {each["id"] for each in found["records"]} == set(records)
    cells = 0
    for row in found["rows"]:
        for column, cell in row["cells"].items():
            if row["kind"] != "measured":
                continue
            task, metric = column.split("/")
            score = records[cell["record"]].record.scores[metric]
            assert records[cell["record"]].record.task.name == task
            assert cell["v"] == pytest.approx(100 * score.test)
            assert cell["t"] == f"{100 * score.test:.1f}"
            assert cell["ci"] == pytest.approx([100 * bound for bound in score.ci95])
            assert cell["ci_t"] == [f"{100 * bound:.1f}" for bound in score.ci95]
            assert cell["sd_t"] == f"{100 * pd.Series(score.per_seed).std():.1f}"
            cells += 1
        if row["kind"] == "floor" and row["model"] == "trivial":
            for column, cell in row["cells"].items():
                task, metric = column.split("/")
                assert cell["t"] in {
                    f"{100 * each.record.scores[metric].trivial:.1f}".replace("-0.0", "0.0")
                    for each in records.values()
                    if each.record.task.name == task
                }
    assert cells == 3 * 1 + 2 * 3
    by_model = {row["model"]: row for row in found["rows"]}
    assert all(row["means"] == {} for row in found["rows"])  # no set that a name reaches is complete
    assert by_model["poor"]["covers"] == [1, 2]
    good = by_model["good"]["cells"]
    expected = (good["gtzan/accuracy"]["v"] + (good["emo/r2_arousal"]["v"] + good["emo/r2_valence"]["v"]) / 2) / 2
    asked = collect_data(_board(folder, task_set=GENRE_AND_EMOTION))
    means = {row["model"]: row["means"] for row in asked["rows"]}
    assert means["good"]["two"]["v"] == pytest.approx(expected)
    assert means["poor"] == {}
    assert [(each["name"], each["mean"]) for each in asked["sets"]] == [("two", True)]


@pytest.mark.slow
def test_costs_grids_and_layers_are_those_of_the_records(folder):
    found = collect_data(_board(folder))
    for each in found["records"]:
        path = folder / each["id"]
        grid = pd.read_parquet(find_table_path(path, "grid"))
        assert each["grid"]["valid"] == pytest.approx(grid["valid"].tolist(), rel=1e-5)
        assert each["record"] == json.loads(path.read_text())
        best = grid.groupby(["layer", "seed"])["valid"].max().groupby("layer").agg(["mean", "std"])
        for layer in each["layers"]:
            assert layer["valid"] == pytest.approx(best.loc[layer["layer"], "mean"], rel=1e-5)
            assert layer["sd"] == pytest.approx(best.loc[layer["layer"], "std"], rel=1e-4)
        chosen = [one["layer"] for one in each["record"]["selection"]["per_seed"]]
        assert {layer["layer"]: layer["chosen"] for layer in each["layers"] if layer["chosen"]} == {
            name: chosen.count(name) for name in chosen
        }
    costs = {row["model"]: row["cost"] for row in found["rows"] if row["kind"] == "measured"}
    assert costs["good"]["probe_s"] == 4
    assert costs["poor"]["real_time_factor"] == pytest.approx(60 / 5)


def test_a_layer_whose_probes_all_diverged_has_no_score():
    grid = pd.DataFrame({"layer": ["0", "0", "1"], "seed": [0, 0, 0], "valid": [math.nan, math.nan, 0.5]})
    assert summarize_layers(grid) == [
        {"layer": "0", "valid": None, "sd": None, "chosen": 0},
        {"layer": "1", "valid": 0.5, "sd": None, "chosen": 1},
    ]


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([], []),
        ([(44, [0.25, 0.75, None])], [(44, 0.5, [0.25, 0.75])]),
        ([(9, [0.5]), (3, [0.25]), (1, [None])], [(3, 0.25, None), (9, 0.5, None)]),
    ],
)
def test_few_shot_curves_are_read_where_there_are_any(folder, held, expected):
    points = tuple(FewShotPoint(share=0.1, clips=clips, valid=test, test=test) for clips, test in held)
    record = msgspec.structs.replace(read_stored(folder)[0].record, few_shot=points)
    assert [(point["n"], point["v"], point["ci"]) for point in summarize_few_shot(record)] == expected


@pytest.mark.slow
def test_the_page_is_one_file_that_asks_no_network_for_anything(folder, bench):
    ended = bench("leaderboard", "--mini", "--html", "out/board.html")
    assert ended.code == 0, ended.err
    text = (folder.parent / "out/board.html").read_text()
    assert _embedded(text) == json.loads(json.dumps(collect_data(_board(folder, standing=True))))
    assert "/* " not in re.sub(r"/\* [A-Z].*?\*/", "", re.search("<style>(.*?)</style>", text, re.DOTALL).group(1))
    assert "default-src 'none'" in text
    for pattern in (
        r"<link\b",
        r"<script[^>]+src=",
        r"<img\b",
        r"@import",
        r"url\(",
        r"\bfetch\(",
        r"XMLHttpRequest",
        r"\bimport\(",
    ):
        assert not re.search(pattern, text), pattern
    assert set(re.findall(r"https?://[^\s\"'<)]+", re.sub(r'id="data">.*?</script>', "", text, flags=re.DOTALL))) == {
        "http://www.w3.org/2000/svg"
    }
    assert HOSTILE not in text


@pytest.mark.slow
def test_a_page_of_miniatures_has_what_papers_print_in_a_table_of_its_own(folder):
    found = collect_data(_board(folder))
    assert {row["kind"] for row in found["rows"]} == {"measured", "floor"}
    beside = {
        (row["model"], row["mark"], column, cell["t"])
        for row in found["papers"]["rows"]
        for column, cell in row["cells"].items()
    }
    with (Path(__file__).parents[1] / "results/published/published.csv").open(encoding="utf-8", newline="") as file:
        printed = [row for row in csv.DictReader(file) if row["model"] == "mert-330m" and row["task"] == "gtzan"]
    assert printed
    for row in printed:
        assert any(each[0] == "mert-330m" and each[3] == f"{float(row['value']):.1f}" for each in beside)
    assert {row["kind"] for row in found["papers"]["rows"]} == {"published"}
    assert all(cell.get("ties") is None for row in found["papers"]["rows"] for cell in row["cells"].values())
    assert set("ab") <= set(found["sources"])
    only = collect_data(_board(folder, tasks=("emo",)))
    assert [task["name"] for task in only["papers"]["tasks"]] == ["emo"]
    assert collect_data(_board(folder, models=("good",)))["papers"] is None
    assert collect_data(build_board([], BoardFilter("marble")))["papers"] is None


def test_a_page_of_published_rows_alone_is_whole(bench, tmp_path):
    assert bench("leaderboard", "--html", "board.html").code == 0
    found = _embedded((tmp_path / "board.html").read_text())
    assert found["records"] == []
    assert len(found["tasks"]) == 15  # with the one that MuQ's paper adds
    assert [(each["protocol"], bool(each["apart"])) for each in found["beside"]] == [
        ("jukemir", False),
        ("marble2", False),
        ("zero-shot", True),
        ("omar-rq", True),
        ("maeb", True),
    ]
    assert found["own"] == "mert-14"
    emo = next(task for task in found["tasks"] if task["name"] == "emo")
    assert [column["lead"] for column in emo["columns"]] == [True, True]
    assert "citation" not in found["sources"]
    assert "NeurIPS 2023" in found["sources"]["a"]


class _Dom(HTMLParser):
    """Cells of the board by (row, column): the texts of their parts by class; and all text of elements with an id."""

    def __init__(self):
        super().__init__()
        self.cells, self.here, self.classes, self.ids, self.sort = {}, None, [], [], []
        self.texts = {}

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        if tag in ("meta", "link", "input", "br", "path", "line", "circle"):
            return
        if tag == "td" and "data-column" in facts:
            self.here = (facts["data-row"], facts["data-column"])
            self.cells[self.here] = {}
        if tag == "th" and "aria-sort" in facts:
            self.sort.append(facts["aria-sort"])
        self.classes.append(facts.get("class", ""))
        self.ids.append(facts.get("id"))

    def handle_endtag(self, tag):
        if tag in ("meta", "link", "input", "br", "path", "line", "circle") or not self.classes:
            return
        if tag == "td":
            self.here = None
        self.classes.pop()
        self.ids.pop()

    def handle_data(self, text):
        if self.here is not None and self.classes:
            held = self.cells[self.here]
            held[self.classes[-1]] = held.get(self.classes[-1], "") + text
        for name in filter(None, self.ids):
            self.texts[name] = self.texts.get(name, "") + text


def _rendered(text, tmp_path, script="", width=1280):
    """The page's DOM after its script, and after `script`, ran in headless Chromium."""
    path = tmp_path / "shown.html"
    does = (SCRIPTS / script).read_text() if script else ""
    path.write_text(text.replace("</body>", f"<script>{does}</script></body>"))
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", f"--window-size={width},900", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    dom = _Dom()
    dom.feed(done.stdout)
    assert 'data-ready="yes"' in done.stdout, "the page's script did not come to its end"
    return dom, done.stdout


@pytest.mark.slow
@in_chromium
def test_chromium_renders_each_score_where_it_belongs_and_leaves_the_rest_blank(folder, tmp_path):
    found = collect_data(_board(folder, task_set=GENRE_AND_EMOTION))
    dom, text = _rendered(write_html(found), tmp_path)
    lead = [column["id"] for task in found["tasks"] for column in task["columns"] if column["lead"]]
    assert lead == ["emo/r2_arousal", "emo/r2_valence", "gtzan/accuracy"]
    for row in found["rows"]:
        for column in ["mean", *lead]:
            cell = row["means"].get("two") if column == "mean" else row["cells"].get(column)
            shown = dom.cells[row["id"], column]
            if cell is None:
                assert shown == {"live": "no score"}
                continue
            assert shown["score"] == cell["t"]
            assert shown.get("ties", "") == cell.get("ties", "")
            assert shown.get("ci", "") == (" to ".join(cell["ci_t"]) if row["kind"] == "measured" else "")
            assert ("†" in shown.get("marks", "")) == ("contaminated" in cell)
    for row in found["papers"]["rows"]:
        for task in found["papers"]["tasks"]:
            for column in [each["id"] for each in task["columns"] if each["lead"]]:
                cell, shown = row["cells"].get(column), dom.cells[row["id"], column]
                assert shown.get("score") == (cell["t"] if cell else None)
    assert "ranked with" in dom.texts["printed"]
    assert "Made on miniatures." in dom.texts["mini"]
    assert re.search(r'<section id="few"[^>]*>', text).group(0).find("hidden") == -1
    assert "<title>marble-bench leaderboard</title>" in text  # the hostile name is text


@pytest.mark.slow
@in_chromium
def test_the_board_sorts_filters_and_opens_records_by_buttons_that_say_what_they_do(folder, tmp_path):
    found = collect_data(_board(folder))
    dom, _ = _rendered(write_html(found), tmp_path, "use.js")
    seen = json.loads(dom.texts["report"])
    rows = {row["model"]: row for row in found["rows"] if row["kind"] == "measured"}
    by_score = sorted(rows, key=lambda name: -rows[name]["cells"]["gtzan/accuracy"]["v"])
    assert seen["down"] == by_score
    assert seen["up"] == by_score[::-1]
    assert seen["sort"] == ["none", "none", "descending"]
    assert seen["sortUp"][2] == "ascending"
    assert seen["focus"]
    assert seen["emo"][-1] == "poor"  # what has no score stays below
    assert seen["names"] == ["good", "poor", "same"]
    assert seen["live"] == "Sorted by model, ascending"
    assert (seen["before"], seen["after"]) == (3, 5)
    assert seen["found"] == ["good"]
    assert seen["open"]
    assert seen["closed"]
    assert seen["probes"] == 72
    assert not seen["markup"]
    assert "Validation score by layer and learning rate, mean over 3 seeds." in seen["detail"]
    assert re.search("Changed test clips.*mp3r275.050.025.039 .1 left out", seen["detail"])
    assert seen["label"].endswith("Open the record")
    assert seen["theme"] == "dark"
    assert seen["pressed"] == ["false", "false", "true"]
    assert seen["unnamed"] == []
    assert seen["scopes"]
    assert seen["title"] == "marble-bench leaderboard"
    assert seen["reachable"]  # what scrolls can be scrolled with keys
    assert (seen["asked"], seen["askedTheme"], seen["noTheme"]) == (True, "light", "light")


@pytest.mark.slow
@in_chromium
def test_a_reader_chooses_a_set_and_finds_the_other_protocols_below(bench, tmp_path):
    assert bench("leaderboard", "--html", "board.html").code == 0
    dom, _ = _rendered((tmp_path / "board.html").read_text(), tmp_path, "sets.js")
    seen = json.loads(dom.texts["report"])
    assert seen["choices"] == ["", "jukemir-4", "marble2-10", "mert-14", "muq-8"]
    four, none, eight = seen["sets"]["jukemir-4"], seen["sets"][""], seen["sets"]["muq-8"]
    assert four["heads"] == [
        "Modelsource",
        "jukemir-4mean %",
        "emoV %",
        "emoA %",
        "gskey %",
        "gtzanacc %",
        "mttAUC %",
        "mttAP %",
    ]
    # MARBLE's MULE: ((60.7 + 73.1) / 2 + 64.9 + 75.5 + (91.2 + 40.1) / 2) / 4
    assert four["means"]["mule/a/"] == "68.2"
    assert ["mule", "published, a, 4 of 4 tasks"] in four["rows"]
    assert [name for name, _ in four["rows"]][:2] == ["previous-sota", "muq-160k-iter"]  # best first: 72.8, 71.4
    assert four["says"].startswith("Task set jukemir-4, version 1.")
    assert none["means"]["mert-95m/a/"] == "63.3"  # MARBLE's Table 4
    assert none["says"] == ""
    assert eight["means"] == {}
    assert "No mean, for the set's source prints none" in eight["says"]
    assert ["muq-160k", "published, f, 8 of 8 tasks"] in eight["rows"]
    assert [each["title"] for each in seen["others"]] == ["Protocol jukemir", "Protocol marble2"]
    assert ["mert-v2-30s/d/", "gtzan/accuracy", "91.7"] in seen["others"][1]["cells"]
    assert ["jukebox-5b/c/", "mean", "69.9"] in seen["others"][0]["cells"]
    assert [each["title"] for each in seen["apart"]] == [
        f"Protocol {name}" for name in ("zero-shot", "omar-rq", "maeb")
    ]
    assert ["muq-mulan/g/", "mtt/ap", "29.3"] in seen["apart"][0]["cells"]  # every score, not each task's main one
    assert all(each["says"].startswith("Not run by this suite: ") for each in seen["apart"])
    assert not any(each["buttons"] for each in seen["others"] + seen["apart"])


@pytest.mark.slow
@in_chromium
@pytest.mark.parametrize("width", [500, 1440])
def test_every_text_has_contrast_in_light_and_dark_and_the_page_does_not_scroll_sideways(folder, tmp_path, width):
    dom, _ = _rendered(write_html(collect_data(_board(folder))), tmp_path, "contrast.js", width)
    seen = json.loads(dom.texts["report"])
    assert seen["light"] == []  # WCAG 2.1, 1.4.3: 4.5 to 1
    assert seen["dark"] == []
    assert seen["wide"]


@pytest.mark.slow
@in_chromium
@pytest.mark.parametrize("width", [500, 1440])
def test_a_board_wider_than_the_window_scrolls_by_itself_and_not_the_page(bench, tmp_path, width):
    assert bench("leaderboard", "--html", "board.html").code == 0  # published rows on 14 tasks
    dom, _ = _rendered((tmp_path / "board.html").read_text(), tmp_path, "contrast.js", width)
    assert json.loads(dom.texts["report"]) == {"light": [], "dark": [], "wide": True}


@pytest.mark.slow
@in_chromium
def test_charts_cut_no_name_and_their_axes_and_grids_have_the_numbers_that_vary(tmp_path):
    place = tmp_path / "results"
    for seed in (0, 1):  # 20 and 15 seconds of audio a second: between them no 1, 2 or 5 but one
        path = make(place, f"model-{seed}", task="nsynth-instrument", seed=seed, weights=str(seed) * 64, mini=True)
    grid = pd.read_parquet(find_table_path(path, "grid"))
    solved = grid.assign(weight_decay=grid["learning_rate"] * 7, learning_rate=1.0)
    solved.to_parquet(find_table_path(place / "model-0" / ("0" * 12) / "marble" / path.name, "grid"), index=False)
    found = collect_data(_board(place))
    for each in found["records"][1]["record"]["selection"]["per_seed"]:
        each["stem"] = "vocals"
    for ask, dots in (("model-0", "3 of 3 seeds"), ("model-1", "3 of 3 probes, one for each seed and stem")):
        found["rows"].sort(key=lambda row: row["model"] != ask)
        dom, _ = _rendered(write_html(found), tmp_path, "charts.js")
        seen = json.loads(dom.texts["report"])
        assert seen["cut"] == []
        assert len(seen["costs"]) > 1
        assert min(seen["ink"]) >= 4.5  # WCAG 2.1, 1.4.3, on every shade of the heat
        assert f"chosen by {dots}" in seen["dots"]
        if ask == "model-0":
            assert seen["across"] == [
                "Layer",
                *(np.format_float_positional(7 * rate) for rate in MARBLE.learning_rates),
            ]
            assert "by layer and weight decay, mean over 3 seeds." in seen["detail"]
        else:
            assert seen["across"] == ["Layer", *(np.format_float_positional(rate) for rate in MARBLE.learning_rates)]


def test_a_record_without_its_grid_is_shown_without_it(folder):
    for each in read_stored(folder):
        find_table_path(each.path, "grid").unlink()
    found = collect_data(_board(folder))
    assert all(each["grid"] is None and each["layers"] is None for each in found["records"])

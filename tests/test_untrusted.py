"""Records, tables and names that somebody made up: none is code, none is believed, none ends a board."""

import csv
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TOY_MODEL, TOY_TASK
from made_records import CURVE, POINTS, make
from marble_bench.probes.few_shot import count_clips

from marble_bench.board.board import Board, BoardFilter, count_coverage
from marble_bench.board.rows import Cell, MetricReading, Provenance
from marble_bench.errors import DataError, UsageError
from marble_bench.files import names
from marble_bench.metrics import accuracy
from marble_bench.records import claims, comparable, results, validation
from marble_bench.records.escape import escape_line
from marble_bench.records.record_file import _pad_rows, find_metric, load_table
from marble_bench.records.schema import build_schema, from_json

COMMANDS = (
    ("list", "results"),
    *(("leaderboard", "--mini", "--format", form) for form in ("table", "csv", "json", "latex", "md")),
    ("leaderboard", "--mini", "--html", "board.html"),
    ("plot", "atlas", "figure.svg", "--mini"),
    ("compare", "good", "evil", "--mini"),
)


def _forge(path, record=None, grid=None, predictions=None):
    """Edit a record and its tables as a careful forger does: with every digest made again."""
    facts = json.loads(path.read_text())
    if record:
        record(facts)
    for kind, change in (("grid", grid), ("predictions", predictions)):
        place = results.find_table_path(path, kind)
        if change:
            change(pd.read_parquet(place)).to_parquet(place, index=False)
        facts["digests"][kind] = hashlib.sha256(place.read_bytes()).hexdigest()
    facts["digests"]["record"] = results.compute_digest(facts)
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["{folder}/notes.py", "notes.py:TOY"])
def test_a_name_that_is_a_path_is_never_opened(tmp_path, bench, name):
    make(tmp_path / "results", "good", mini=True)
    evil = []
    for seed, field in enumerate(("task", "model", "protocol"), 1):
        path = make(tmp_path / "results", f"evil-{field}", mini=True, seed=seed)
        for folder in (tmp_path, path.parent):
            (folder / "notes.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').close()\n")
        to = name.format(folder=path.parent.relative_to(tmp_path))
        _forge(path, lambda record, field=field, to=to: record[field].update(name=to))
        evil.append(path)
    assert bench("results", "check").code == 3
    for command in COMMANDS:
        ended = bench(*command)
        assert "internal error" not in ended.err, command
        assert ended.err.count("left off: results/evil") == 3, command
    for path in evil:
        assert bench("reproduce", path).code == 3
        assert bench("compare", path, path).code == 3
    assert not (tmp_path / "RAN").exists()


def test_a_name_that_is_registered_nowhere_is_valid_and_shown_as_unknown(tmp_path, bench):
    path = make(tmp_path / "results", "hf:somebody/model@v1", mini=True)
    assert path.relative_to(tmp_path).parts[1] == "hf%3Asomebody%2Fmodel%40v1"
    ended = bench("results", "check")
    assert ended.code == 0
    assert "facts not known here: model 'hf:somebody/model@v1'" in ended.out
    assert "facts not known here, as the record says them: model" in bench("leaderboard", "--mini").out


def test_no_two_names_share_a_folder_and_none_leaves_it():
    able = [each for each in ("a/b", "a_b", "a.b", "a+b", "a@b", "a:b", "a-b", "ab") if names.is_name(each)]
    assert len(able) == 8
    assert len({names.name_folder(each) for each in able}) == 8
    assert not any("/" in names.name_folder(each) for each in able)
    assert results.name_file_stem("gtzan.mini") != "gtzan.mini"  # else one task's full run is another's miniature


@pytest.mark.parametrize(
    "line",
    [
        "TASK = replace(TASK, metrics=(replace(accuracy, name='a b'),))",
        "TASK = replace(TASK, group_name='../x')",
        "TASK = replace(TASK, corpus=replace(TASK.corpus, name='c.py'))",
        "TASK = replace(TASK, target=replace(TASK.target, names=('low', 'hi\\x1b[31mgh')))",
    ],
)
def test_a_task_file_that_names_what_no_record_may_say_is_refused_before_any_work(tmp_path, bench, line):
    imports = "from dataclasses import replace\nfrom marble_bench.metrics import accuracy\n"
    (tmp_path / "mine.py").write_text(f"{Path(TOY_TASK).read_text()}\n{imports}{line}\n")
    ended = bench("run", "--task", "mine.py", "--model", TOY_MODEL, "--mini")
    assert ended.code == 2
    assert "cannot be used in a record" in ended.err or "without control characters" in ended.err
    assert "\x1b" not in ended.err


def test_a_plug_in_file_with_a_name_that_no_record_may_say_is_refused_before_any_work(tmp_path, bench):
    (tmp_path / "my task.py").write_text(Path(TOY_TASK).read_text())
    ended = bench("run", "--task", "my task.py", "--model", TOY_MODEL, "--mini")
    assert ended.code == 2
    assert "'my task' is not allowed" in ended.err
    np.save(tmp_path / "x.npy", np.zeros((1, 4)))
    for name in ("../x", "a b", "~x", "x.py", "mfcc"):
        ended = bench("run", "--task", TOY_TASK, "--features", "x.npy", "--model", name)
        assert ended.code == 2, name
        assert "--model" in ended.err


def _score_of_all(grid):
    return grid.assign(valid=grid["valid"] + 0.3, history=[[value + 0.3] for value in grid["valid"]])


def _chosen(record):
    for choice in record["selection"]["per_seed"]:
        choice["valid"] += 0.3


def _fewer(record):
    record["selection"]["probes"] -= 18


def _curve(record, place=3, **changes):
    """Gives a record a few-shot curve, the run's scores at every share but for one point's changes, and its reason."""
    of_run = {
        "valid": [choice["valid"] for choice in record["selection"]["per_seed"]],
        "test": record["scores"]["accuracy"]["per_seed"],
    }
    train = record["data"]["clips"]["train"]
    curve = [{**point, "clips": count_clips(point["share"], train), **of_run} for point in POINTS]
    curve[place].update(changes)
    record.update(few_shot=curve, why_not=[CURVE], comparable=False)
    return curve


def _interval(record, width):
    """Gives a record an interval of this width around its score, or none and a reason."""
    score = record["scores"]["accuracy"]
    score["ci95"] = [None, None] if width is None else [score["test"] - width / 2, score["test"] + width / 2]
    record["data"].update(marks=["accuracy: no interval, as I say"] if width is None else [])


ANOTHER = "0.dev351+gaaaaaaa"  # a version that is not the one here
CLAIMS = {
    "license": ("facts", lambda r: r["model"].update(license="CC0-1.0"), None, None),
    "training data": ("facts", lambda r: r["model"].update(training_data=[]), None, None),
    "parameters": ("facts", lambda r: r["model"].update(parameters=1), None, None),
    "width": ("facts", lambda r: r["model"].update(width=9), None, None),
    "rate": ("facts", lambda r: r["model"].update(sample_rate_hz=16000), None, None),
    "frame rate": ("facts", lambda r: r["model"].update(frame_rate_hz=1.0), None, None),
    "no weights": ("facts", lambda r: r["model"].update(source="none"), None, None),
    "brought features": ("facts", lambda r: r["model"].update(source="features:mine"), None, None),
    "version": ("old model", lambda r: r["model"].update(version=9), None, None),
    "corpus": ("facts", lambda r: r["data"].update(corpus="emo"), None, None),
    "fault": ("facts", lambda r: r["data"].update(faults=[{"clip": "blues.00000", "why": "damaged"}]), None, None),
    "task hash": ("old task", lambda r: r["task"].update(hash="sha256:" + "0" * 64), None, None),
    "task version": ("old task", lambda r: r["task"].update(version=2), None, None),
    "protocol hash": ("old protocol", lambda r: r["protocol"].update(hash="sha256:" + "0" * 64), None, None),
    "trivial": ("scores", lambda r: r["scores"]["accuracy"].update(trivial=0.0123), None, None),
    "precision": ("impossible", lambda r: r["environment"].update(dtype="float16"), None, None),
    "seeds": ("counts", lambda r: r["selection"]["per_seed"][2].update(seed=7), None, None),
    "clips": ("counts", lambda r: r["data"]["clips"].update(train=444), None, None),
    "grid rate": ("choice", lambda r: r["selection"]["per_seed"][0].update(learning_rate=0.5), None, None),
    "valid of all probes": ("scores", _chosen, _score_of_all, None),
    "valid without history": ("choice", _chosen, lambda g: g.assign(valid=g["valid"] + 0.3), None),
    "layers left out": ("counts", _fewer, lambda g: g[g["layer"] != "3"], None),
    "a probe twice": ("counts", None, lambda g: pd.concat([g.iloc[1:], g.iloc[1:2]]), None),
    "layer": ("choice", None, lambda g: g.assign(layer=g["layer"].replace("1", "my own")), None),
    "truth by seed": (
        "counts",
        None,
        None,
        lambda p: p.assign(truth=[[(t[0] + s) % 10] for t, s in zip(p["truth"], p["seed"], strict=True)]),
    ),
    "group by seed": ("counts", None, None, lambda p: p.assign(group=p["clip"] + p["seed"].astype(str))),
    "clips of a few-shot share": ("counts", lambda r: _curve(r, clips=4), None, None),
    "few-shot shares that do not ascend": ("counts", lambda r: r.update(few_shot=_curve(r) * 2), None, None),
    "a few-shot score": ("impossible", lambda r: _curve(r, test=[0.1, 7, 0.1]), None, None),
    "a few-shot curve of one point": ("counts", lambda r: r.update(few_shot=_curve(r)[:1]), None, None),
    "a few-shot share that no run has": ("counts", lambda r: _curve(r, share=0.2, clips=89), None, None),
    "a few-shot score of all clips": ("scores", lambda r: _curve(r, 6, test=[1.0, 1.0, 1.0]), None, None),
    "a few-shot score of half clips": ("scores", lambda r: _curve(r, test=[0.123456, 0.1, 0.1]), None, None),
    "no few-shot score": ("scores", lambda r: _curve(r, valid=[None, None, None]), None, None),
    "a setting of no decoder": ("choice", lambda r: r["selection"]["per_seed"][0].update(setting=0.5), None, None),
    "an ensemble of no score": (
        "impossible",
        lambda r: r["selection"]["per_seed"][0].update(ensemble="vote"),
        None,
        None,
    ),
    "an axis that is not tried": (
        "choice",
        lambda r: [choice.update(standardize=True) for choice in r["selection"]["per_seed"]],
        lambda g: g.assign(standardize=True),
        None,
    ),
    "stems of no separation": (
        "impossible",
        lambda r: [choice.update(stem="vocals") for choice in r["selection"]["per_seed"]],
        lambda g: g.assign(stem="vocals"),
        None,
    ),
    "an oracle of no separation": ("impossible", lambda r: r["scores"]["accuracy"].update(oracle=0.9), None, None),
    "no identity": ("facts", lambda r: r.pop("identity"), None, None),
    "key of the features": ("facts", lambda r: r["identity"].update(features="sha256:" + "0" * 64), None, None),
    "key of the run": ("facts", lambda r: r["identity"].update(run="sha256:" + "0" * 64), None, None),
    "no normalize": ("facts", lambda r: r["model"].pop("normalize"), None, None),
    "no version": ("facts", lambda r: r["suite"].update(version="my own"), None, None),
    "a reason that is none": ("facts", lambda r: r.update(comparable=False, why_not=["x"]), None, None),
    "praise as a warning": ("facts", lambda r: r["data"].update(marks=["accuracy: fine, ranked first"]), None, None),
    "a warning that is not so": (
        "impossible",
        lambda r: r["data"].update(marks=["accuracy: no interval, there is no score"]),
        None,
        None,
    ),
    "a narrow interval": ("scores", lambda r: _interval(r, 0.01), None, None),
    "an interval taken away": ("scores", lambda r: _interval(r, None), None, None),
    "an interval beside its score": (
        "impossible",
        lambda r: (r["scores"]["accuracy"].update(ci95=[0.0, 0.001]), r["suite"].update(version=ANOTHER)),
        None,
        None,
    ),
    "an interval of everything": (
        "scores",
        lambda r: (r["scores"]["accuracy"].update(ci95=[0.0, 1.0]), r["suite"].update(version=ANOTHER)),
        None,
        None,
    ),
    "code named twice": (
        "facts",
        lambda r: (
            r["identity"]["sources"].append(r["identity"]["sources"][0]),
            r["identity"].update(features="sha256:" + "0" * 64, run="sha256:" + "0" * 64),
        ),
        None,
        None,
    ),
    "no score of any probe": ("choice", None, lambda g: g.assign(valid=np.nan), None),
    "an epoch behind all rounds": (
        "choice",
        lambda r: [choice.update(epoch=10**9) for choice in r["selection"]["per_seed"]],
        lambda g: g.assign(best_epoch=10**9),
        None,
    ),
    "no rounds told": ("tables", None, lambda g: g.drop(columns="history"), None),
    "more rounds than the task has": (
        "choice",
        None,
        lambda g: g.assign(history=[[*h, *[-3.0] * 99] for h in g.history]),
        None,
    ),
    "fewer rounds than the task waits": ("choice", None, lambda g: g.assign(history=[h[:9] for h in g.history]), None),
    "a whole training that diverged": (
        "choice",
        lambda r: r["selection"].update(diverged=r["selection"]["probes"]),
        lambda g: g.assign(diverged=True),
        None,
    ),
    "a score on valid that none is": ("impossible", None, lambda g: g.assign(valid=[*g.valid[:-1], -0.5]), None),
    "columns of another task": ("tables", None, None, lambda p: p.assign(beats=[[1.0, 2.0]] * len(p))),
    "outputs of no class": ("tables", None, None, lambda p: p.assign(outputs=[[*row, -99.0] for row in p.outputs])),
    "a truth of three values": ("tables", None, None, lambda p: p.assign(truth=[[*row, 5.0, 6.0] for row in p.truth])),
    "speed": ("facts", lambda r: r["cost"].update(real_time_factor=1e6), None, None),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return make(tmp_path_factory.mktemp("honest") / "results", "mert-95m", skill=2)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_careful_forger_claims_is_compared_with_what_the_suite_knows(tmp_path, honest, claim):
    kind, record, grid, predictions = CLAIMS[claim]
    shutil.copytree(honest.parents[3], tmp_path / "results")
    path = tmp_path / "results" / honest.relative_to(honest.parents[3])
    assert [each.kind for each in validation.check([path])] == ["ok"]
    found = validation.check([_forge(path, record, grid, predictions)])
    assert kind in {each.kind for each in found if not each.is_valid}, found
    assert "edited" not in {each.kind for each in found}


def test_the_intervals_of_all_scores_are_made_again(tmp_path):
    path = make(tmp_path / "results", "mfcc", task="emo", mini=True)
    assert [each.kind for each in validation.check([path])] == ["ok"]

    def narrow(record):
        score = record["scores"]["r2_arousal"]
        score["ci95"] = [score["test"] - 0.001, score["test"] + 0.001]

    (found,) = validation.check([_forge(path, narrow)])
    assert found.kind == "scores"
    assert "interval of r2_arousal" in found.words


@pytest.mark.slow
def test_a_miniature_that_calls_itself_full_is_off_the_board_with_invented_faults_or_another_hash(tmp_path, bench):
    path = make(tmp_path / "mini", "mfcc", mini=True)
    place = tmp_path / "results" / "/".join(path.parts[-4:-1]) / "gtzan.json"
    place.parent.mkdir(parents=True)
    for kind in results.TABLES:
        results.find_table_path(place, kind).write_bytes(results.find_table_path(path, kind).read_bytes())
    place.write_text(path.read_text())

    def full(record):
        record["data"].update(mini=False, faults=[{"clip": f"x{i}", "why": "known fault"} for i in range(800)])
        record.update(comparable=True, why_not=[])

    for change in (full, lambda record: record["task"].update(hash="sha256:" + "0" * 64)):
        _forge(place, change)
        assert bench("results", "check").code == 3
        ended = bench("leaderboard")
        assert ended.code == 0
        assert "mfcc" not in ended.out
        assert len(ended.err.splitlines()) == 2  # one for the record


HOSTILE = "a[/b]|<img src=x>$x$ \x1b[31m\n=1+1&\\_`@x"


def test_a_hostile_text_is_shown_as_text_in_every_output():
    from rich.console import Console

    from marble_bench.board import table as printing
    from marble_bench.board.page import collect_data, write_html

    cells = [
        Cell(HOSTILE, "measured", "marble", f"task{HOSTILE}", f"{HOSTILE}", 0.5, MetricReading("fraction"), weights="0" * 12,
             mini=True, origin=Provenance(f"=cmd|{HOSTILE}", why_not=(HOSTILE,)))
    ]  # fmt: skip
    board = Board(BoardFilter("marble", True), cells, coverage=count_coverage(cells))
    out = io.StringIO()
    console = Console(file=out, width=300, force_terminal=False)
    for each in printing.build_tables(printing.build_matrix(board), 300):
        console.print(each)
    assert "a[/b]|<img src=x>$x$ \\x1b[31m\\n=1+1" in out.getvalue()
    row = next(csv.DictReader(io.StringIO(printing.as_csv(board))))
    assert row["source"].startswith("'=cmd")
    assert not any(value.startswith(("=", "+", "-", "@")) for value in row.values())
    cells = printing.write_markdown(board).splitlines()[4]
    assert "\\<img src=x\\>\\$x\\$" in cells
    assert cells.replace("\\|", "").count("|") == printing.write_markdown(board).splitlines()[3].count("|")
    latex = printing.write_latex(board)
    assert r"\textbar{}\textless{}img src=x\textgreater{}\$x\$" in latex
    assert len(latex.splitlines()) == len(printing.write_latex(board).replace("\\n", "").splitlines())
    for text in (
        out.getvalue(),
        printing.as_csv(board),
        printing.write_markdown(board),
        latex,
        printing.as_json(board),
    ):
        assert "\x1b" not in text
    page = write_html(collect_data(board))
    assert "<img src=x>" not in page
    assert page.count("</script>") == write_html({}).count("</script>")


@pytest.mark.slow
def test_no_word_of_a_record_controls_a_terminal_or_is_markup(tmp_path, bench):
    path = make(tmp_path / "results", "good", mini=True)
    _forge(path, lambda record: record["model"].update(license="a[/b] $x_{$ [red]"))
    for command in (("results", "check"), *COMMANDS[:-1]):
        assert bench(*command).code == 0, command
    for text in ("\x1b]0;owned\x07", "two\nlines", "\u202egnp.exe", "x" * 5000):
        _forge(path, lambda record, text=text: record["model"].update(license=text))
        ended = bench("results", "check")
        assert ended.code == 3
        assert "is no text" in ended.out
        assert not set(ended.out + ended.err) & set("\x1b\x07\u202e")


@pytest.mark.slow
def test_a_dollar_in_a_name_is_a_dollar_in_a_figure(tmp_path, bench):
    path = make(tmp_path / "results", "good", mini=True)

    def layer(record):
        for choice in record["selection"]["per_seed"]:
            choice["layer"] = "$\\frac{1}$"

    _forge(path, layer, lambda grid: grid.assign(layer=grid["layer"].replace("sum", "$\\frac{1}$")))
    assert bench("plot", "atlas", "figure.svg", "--mini").code == 0
    assert "$\\frac{1}$" in (tmp_path / "figure.svg").read_text()


TABLES = {
    "no column": ("grid", lambda f: f.drop(columns="valid")),
    "one more column": ("grid", lambda f: f.assign(extra=1)),
    "text for numbers": ("grid", lambda f: f.assign(valid="x")),
    "infinity": ("grid", lambda f: f.assign(valid=np.inf)),
    "lists for numbers": ("grid", lambda f: f.assign(learning_rate=[[1.0]] * len(f))),
    "a long text": ("grid", lambda f: f.assign(layer="x" * 10_000)),
    "an escape": ("grid", lambda f: f.assign(layer="\x1b[31m")),
    "nothing": ("grid", lambda f: f.assign(seed=[None] * len(f)).astype({"seed": "Int64"})),
    "no rows": ("predictions", lambda f: f.iloc[:0]),
    "lists of lists": ("predictions", lambda f: f.assign(outputs=[[[1.0]]] * len(f))),
    "text for lists": ("predictions", lambda f: f.assign(outputs="x")),
    "ragged": ("predictions", lambda f: f.assign(outputs=[row[: 3 + i % 2] for i, row in enumerate(f["outputs"])])),
    "a truth beyond the labels": ("predictions", lambda f: f.assign(truth=[[99]] * len(f))),
    "infinite outputs": ("predictions", lambda f: f.assign(outputs=[[np.inf] * 10] * len(f))),
}


@pytest.mark.slow
@pytest.mark.parametrize("broken", TABLES)
def test_one_bad_table_is_one_line_and_the_next_record_is_shown(tmp_path, bench, broken):
    make(tmp_path / "results", "good", mini=True)
    path = make(tmp_path / "results", "evil", mini=True, seed=1)
    kind, change = TABLES[broken]
    _forge(path, **{kind: change})
    for command in (COMMANDS[0], COMMANDS[6], COMMANDS[7]):
        ended = bench(*command)
        assert ended.code == 0, ended.err
        assert ended.err.count("left off: results/evil") == 1
    assert "good" in bench("list", "results").out


def test_columns_twice_are_a_line(tmp_path, bench):
    path = make(tmp_path / "results", "evil", mini=True)
    place = results.find_table_path(path, "grid")
    held = pq.read_table(place)
    pq.write_table(pa.Table.from_arrays([*held.columns, held["valid"]], names=[*held.column_names, "valid"]), place)
    _forge(path)
    assert "column 'valid' twice" in bench("list", "results").err


@pytest.mark.parametrize(("seeds", "variant"), [(3, ""), (5, ""), (2, "seeds2")])
def test_more_seeds_than_the_protocol_asks_for_are_comparable_and_fewer_are_a_variant(seeds, variant):
    apart = comparable.Departures(seeds=seeds, asked=3)
    assert apart.variant() == variant
    assert bool(apart.list_reasons()) == bool(variant)


def test_a_run_of_more_seeds_has_the_name_of_the_full_run_and_stands(toy, bench, tmp_path):
    assert toy("--mini", "--seeds", "4", "--layers", "1").code == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    assert path.name == "toy-task.mini-layers-1.json"
    assert bench("results", "check").code == 0


def _bomb(rows, values):
    """Predictions of `rows` rows, one of which has `values` numbers: all the same, so that they take no room."""
    lists = pa.ListArray.from_arrays([0, *[values] * rows], pa.array(np.zeros(values)))
    text = pa.array(["test"] * rows)
    columns = [text, pa.array(np.zeros(rows, np.int64)), text, text, lists, lists]
    return pa.Table.from_arrays(columns, names=["split", "seed", "clip", "group", "truth", "outputs"])


@pytest.mark.parametrize(("rows", "values", "words"), [(200_000, 10, "200,000 rows"), (10, 3_000_000, "6,000,0")])
def test_a_table_that_unpacks_to_far_more_than_its_record_tells_of_is_refused_unread(
    tmp_path, monkeypatch, rows, values, words
):
    path = make(tmp_path / "results", "evil", mini=True)
    pq.write_table(_bomb(rows, values), results.find_table_path(path, "predictions"))
    _forge(path)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(Exception, match=words):
        load_table(results.read(path), "predictions")


def test_a_long_text_in_a_thousand_rows_is_held_once(tmp_path):
    path = make(tmp_path / "results", "evil", mini=True)
    place, held = results.find_table_path(path, "grid"), pq.read_table(results.find_table_path(path, "grid"))
    many = held.take([0] * 1000)
    many = many.set_column(many.column_names.index("layer"), "layer", pa.array(["x" * 200_000] * 1000))
    pq.write_table(many, place)
    assert place.stat().st_size < 300_000
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(DataError, match=r"column layer has 'xxx.* is no text on one line"):
            load_table(results.read(path), "grid")
        assert pool.max_memory() < 20e6  # bytes; 200 million were taken
    finally:
        pa.set_memory_pool(before)


@pytest.mark.parametrize(("columns", "groups"), [(1001, 1), (1, 101)])
def test_a_table_of_very_many_columns_or_groups_is_refused_unread(tmp_path, columns, groups):
    path = make(tmp_path / "results", "evil", mini=True)
    held = pa.table({f"c{index}": pa.array([], pa.int8()) for index in range(columns)})
    with pq.ParquetWriter(results.find_table_path(path, "grid"), held.schema) as writer:
        for _ in range(groups):
            writer.write_table(held)
    with pytest.raises(DataError, match=r"columns in .* groups of rows"):
        load_table(results.read(path), "grid")


def test_a_table_that_is_larger_than_any_is_refused_unread(tmp_path, monkeypatch):
    path = make(tmp_path / "results", "evil", mini=True)
    os.truncate(results.find_table_path(path, "grid"), 3 << 30)  # a sparse file takes no room
    monkeypatch.setattr(results, "digest", lambda place: pytest.fail("it was read") if "grid" in place.name else "")
    found = validation.check([path])
    assert any(each.kind == "tables" and "has 3.22 GB" in each.words for each in found)


def test_one_long_truth_among_many_is_refused_before_the_others_are_filled_up():
    with pytest.raises(ValueError, match="one of 901 items has 400,000 values"):
        _pad_rows([[0.0] * 400_000, *[[0.0]] * 900])
    assert _pad_rows([[0.0] * 300, *[[0.0]] * 900]).shape == (901, 300)


def test_no_constant_answer_is_tried_of_very_many_classes(monkeypatch):
    import torch

    truth, width = torch.zeros(30, dtype=torch.long), 20_000
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda *_: pytest.fail("it was tried"))
    assert claims.is_trivial_possible(accuracy, width, truth, 0.123)


def test_a_folder_whose_name_is_not_utf_8_has_records_as_any_other(tmp_path):
    path = make(tmp_path / os.fsdecode(b"bad\xff") / "results", "good", mini=True)
    assert [each.kind for each in validation.check([path])] == ["ok"]


@pytest.mark.slow
def test_the_name_of_a_file_that_is_written_controls_no_terminal(tmp_path, bench):
    make(tmp_path / "results", "good", mini=True)
    for command in (
        ("leaderboard", "--mini", "--html", "a\x1b[31m.html"),
        ("plot", "atlas", "a\x1b[31m.svg", "--mini"),
    ):
        ended = bench(*command)
        assert ended.code == 0
        assert "wrote a\\x1b[31m" in ended.err
        assert "\x1b" not in ended.out + ended.err


def test_more_seeds_or_metrics_than_a_record_holds_are_refused_before_any_work(tmp_path, toy, bench):
    ended = toy("--mini", "--seeds", "1001")
    assert ended.code == 2
    assert "1001 seeds are too many: a record holds at most 1000" in ended.err
    more = "from dataclasses import replace\nTASK = replace(TASK, metrics=TASK.metrics * 199)\n"
    (tmp_path / "mine.py").write_text(f"{Path(TOY_TASK).read_text()}\n{more}")
    ended = bench("run", "--task", "mine.py", "--model", TOY_MODEL, "--mini")
    assert ended.code == 2
    assert "metrics: give at most 198" in ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 1, "schema": 2}', "twice"),
        ('{"a": 1e999}', "no number"),
        ('{"a": ' + "9" * 5000 + "}", "no number"),
        ("[" * 200_000, "deeper"),
        ('{"a": "' + "x" * (17 << 20) + '"}', "16 MB"),
    ],
)
def test_json_that_readers_read_apart_or_cannot_hold_is_named(tmp_path, bench, text, words):
    place = tmp_path / "results/m/0/marble"
    place.mkdir(parents=True)
    (place / "t.json").write_text(text)
    ended = bench("results", "check")
    assert ended.code == 3
    assert words in ended.out


def test_the_sdr_of_somebodys_own_stems_is_made_again_from_what_is_stored(tmp_path):
    facts = json.loads(make(tmp_path, "one", mini=True).read_text())
    facts["task"]["name"] = "my-stems"
    (first, *_) = facts["selection"]["per_seed"]
    facts["selection"]["per_seed"] = [first | {"stem": stem} for stem in ("voice", "rest")]
    record = from_json(facts)
    for name, score in (("sdr", 2.5), ("sdr_voice", 2.0), ("museval_sdr_rest", 7.0)):
        import torch

        metric, view = find_metric(record, name)
        assert view == "clip"
        outputs = torch.tensor([[[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]]])
        assert float(metric.compute(outputs, torch.zeros(2, 0))[0]) == score
    assert find_metric(record, "sdr_drums") is None


UNSEEN = ("mfcc\u200b", "\ufeffmfcc", "mfcc\U000e0041\U000e007f", "a\u2060b", "e" + "\u0301" * 3000, "e" + "\u0e47" * 9)
SEEN = ("Beyonce\u0301", "a\u0302\u0323", "می\u200cخواهم", "क्\u200dष", "🎸")


def test_names_in_the_schema_are_those_of_the_rule():
    import jsonschema

    defined = build_schema()["$defs"]
    name = jsonschema.Draft202012Validator({"$ref": "#/$defs/name", "$defs": defined})
    text = jsonschema.Draft202012Validator({"$ref": "#/$defs/text", "$defs": defined})
    tried = [
        "mert-95m",
        "a\n",
        "a.py",
        "a.PY",
        "../x",
        "a..b",
        "~a",
        "a/b",
        "/a",
        ".x",
        "é",
        "x" * 121,
        "",
        "a b",
        "\x1b",
    ]
    assert [name.is_valid(each) for each in tried] == [names.is_name(each) for each in tried]
    tried += ["\u202e", "\x85", "\u2028", "é 音", "x" * 5000, *UNSEEN, *SEEN]
    assert [text.is_valid(each) for each in tried] == [names.is_text(each) for each in tried]
    assert [names.is_text(each) for each in (*UNSEEN, *SEEN)] == [False] * len(UNSEEN) + [True] * len(SEEN)
    assert all(escape_line(each).isascii() for each in UNSEEN)


def test_a_folder_that_is_no_name_is_refused_by_the_api():
    from marble_bench.core.plugins import (
        find_registered_encoder,
        find_registered_head,
        find_registered_protocol,
        find_registered_task,
    )

    for find in (find_registered_task, find_registered_encoder, find_registered_protocol, find_registered_head):
        with pytest.raises(UsageError, match=r"no (task|model|protocol|head)"):
            find(TOY_TASK)


def test_a_clip_that_no_record_can_name_is_refused_before_any_work(tmp_path, bench):
    line = "TASK = replace(TASK, clips=lambda root, of=TASK.clips: [replace(c, id=c.id + '\\x1b') for c in of(root)])"
    text = f"{Path(TOY_TASK).read_text()}\nfrom dataclasses import replace\n{line}\n"
    (tmp_path / "mine.py").write_text(text)
    ended = bench("run", "--task", "mine.py", "--model", TOY_MODEL, "--mini")
    assert ended.code == 2
    assert "with control characters" in ended.err
    assert "\x1b" not in ended.err


@pytest.mark.slow
def test_a_plan_reads_the_pace_of_whole_records_alone(tmp_path, bench):
    place = tmp_path / "results/toy/0/marble"
    place.mkdir(parents=True)
    cost = {"real_time_factor": "fast", "peak_memory_mb": [], "probe_s": None}
    facts = {"schema": results.SCHEMA, "cost": cost, "environment": {"device": "cpu", "dtype": "float32"}}
    (place / "t.json").write_text(json.dumps(facts))
    ended = bench("plan", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--device", "cpu", "--json")
    assert ended.code == 0, ended.err
    assert "records in" not in ended.record["each"][0]["rate_from"]

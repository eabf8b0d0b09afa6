"""Protocols, heads, metrics and task sets are files found by name, and every mistake in one is told at once."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOY_MODEL, TOY_TASK

import marble_bench.metrics
from marble_bench import Head, Metric, TaskSet
from marble_bench.board.published import read_published_cells
from marble_bench.core import hashes, keys, plugins, shipped, sources
from marble_bench.core.keys import FeatureKey, RunKey
from marble_bench.errors import UsageError
from marble_bench.protocols.marble import PROTOCOL as MARBLE

RULES = """
from marble_bench import Protocol

PROTOCOL = Protocol(
    name="mine",
    version=1,
    description="one layer, few rates",
    head="mlp",
    hidden=16,
    dropout=0.2,
    layer_sum=False,
    standardize=True,
    learning_rates=(1e-3, 1e-2),
    seeds=1,
)
"""
OWN_HEAD = """
from marble_bench import Head


def init(width, hidden, outputs, generator):
    import torch

    return {"weight": torch.zeros(width, outputs), "bias": torch.zeros(1, outputs)}


HEAD = Head(name="from-zero", description="one linear layer that starts at zero", init=init, hidden_layer=False)
"""
# What these were before protocols, heads and metrics had files of their own. A key that moves loses kept caches.
HASHES = {
    "jukemir": "9b88b4dcfcefc019cbbc4b1b44f0e6f1c943061ee12cd57477e62835b579d258",
    "linear": "7773576985c93501c5236a11546fa0352c25b2ee9e4e27effe0b575d2743d223",
    "marble": "278050cd90ea647d3663b3a1eee3358225f3b08aa0fa9fa9ea511ecab3879028",
    "marble-bidirectional": "a166743bfd1a19f28b309790cb8c9f2f94a552c7ceb78fc567b2aa14c0dd9a71",
    "retrieval": "f9ad5bd348cadb3f8fd96ee62f59a1f86707fd700db8ce190b8a8c832b2c0ce9",
    "marble2": "db393c5b4e12bde2d5ef2b4d0a2e8e6087be809cad412c379ccc25178ceae61a",
    "marble2-shipped": "0b63014ccf79715cc9c37cc6fa434f69c3ef304e8b06a8a30e8d4b288729f99a",
}
RUN_KEYS = {
    ("emo", "jukemir"): "213187489c6ef3ad2e5a19fa1b4b1c6d47fdc02d81d0d28a45ab568bf92f8772",
    ("gs", "marble"): "eb8c45f8a207c10a3b8711577e9b07a7b6585aee88cec9240eaabe9662fd1992",
    ("gtzan", "marble"): "207a5231f9c3896bbd95279672ffbc312061a3f6c2df9b13c815621b2e5d5a51",
    ("gtzan-rhythm", "marble"): "adc3566fc8b18c747872ffbb3badd37764ac82abfc619ed5cc1b1f0b9d6f684d",
    ("mtt", "linear"): "6736bc82bd4d3e953da192e7f7a794118a7cfca11d44d9e7db8e05d76c6e5b29",
    ("musdb", "marble"): "b245beada02ab88b461151fe1737bdfd1523e14d8e622347026089c67eb3b9e8",
}


@pytest.fixture
def told(bench, tmp_path):
    """What `bench run` says of a protocol's or a head's file with this text."""

    def call(text, option="--protocol", name="own.py", more=()):
        (tmp_path / name).write_text(text)
        ended = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", option, name, *more)
        assert ended.code == 2, ended.err
        assert "Traceback" not in ended.err
        return ended.err

    return call


# Keys.


def test_protocols_keep_their_hashes():
    assert {name: rules.hash.removeprefix("sha256:") for name, rules in plugins.find_protocols().items()} == HASHES


@pytest.mark.slow
@pytest.mark.parametrize(("task", "protocol"), RUN_KEYS)
def test_keys_of_shipped_plug_ins_are_those_of_before_they_had_files_of_their_own(task, protocol, monkeypatch):
    entered = shipped.add_entries(hashes.load_digests(), shipped.list_shipped())
    monkeypatch.setattr(hashes, "load_digests", lambda: entered)
    named, rules = plugins.find_task(task), plugins.find_protocol(protocol)
    origins = sources.list_run_origins(named, plugins.find_encoder("mfcc"), rules)
    key = RunKey(
        features=["x"],
        layers=["0"],
        summable=[0],
        corpus="c",
        spans="s",
        task=keys.hash_task(named),
        sources=keys.group_by_kind(each for each in origins if each.kind != "encoder"),
        seeds=3,
        variant="",
    )
    assert key.digest == RUN_KEYS[task, protocol]


def test_the_key_of_features_is_that_of_before():
    encoder = plugins.find_encoder("mfcc")
    key = FeatureKey.of(encoder, "0" * 64, clip_normalize="none", kind="pooled", pooling="mean", dtype="float32")
    assert key.digest == "943a7f331dfb26d9c7c7b7d63a3897c3a4df674f2bc298f7621d6e8040665d4b"


# Names and files.


def test_every_kind_is_listed(bench):
    names = {
        "protocols": {"marble", "marble-bidirectional", "jukemir", "linear", "retrieval"},
        "heads": {"mlp", "linear"},
        "metrics": {"accuracy", "weighted", "ap", "roc_auc", "r2", "f1", "cmlt", "downbeat_f1", "sdr", "museval_sdr"},
        "sets": {"mert-14", "marble2-10", "jukemir-4", "muq-8"},
    }
    for what, expected in names.items():
        rows = bench("list", what, "--json").record
        assert expected <= {row["name"] for row in rows}
        assert all(row["version"] >= 1 for row in rows)


def test_what_is_shipped_is_found_under_the_name_that_it_states():
    for found in (plugins.find_protocols(), plugins.find_heads(), plugins.find_task_sets(), plugins.find_metrics()):
        assert found
        assert all(each.name == name for name, each in found.items())


@pytest.mark.parametrize("name", sorted(plugins.find_metrics()))
def test_a_metric_is_imported_under_the_name_that_records_have(name):
    scope = {}
    exec(f"from marble_bench.metrics import {name}", scope)
    assert isinstance(scope[name], Metric)
    assert scope[name].name == name


def test_type_checkers_know_every_metric_but_those_of_stems():
    known = set(marble_bench.metrics.__annotations__) if hasattr(marble_bench.metrics, "__annotations__") else set()
    text = Path(marble_bench.metrics.__file__).read_text()
    known |= {line.strip().partition(":")[0] for line in text.splitlines() if line.strip().endswith(": Metric")}
    assert known == {name for name, metric in plugins.find_metrics().items() if metric.kind != "stems"}


@pytest.mark.parametrize(("old", "new"), marble_bench.metrics.OLD_NAMES.items())
def test_an_old_name_of_a_metric_works_and_warns(old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}"):
        assert getattr(marble_bench.metrics, old) is getattr(marble_bench.metrics, new)
    with pytest.raises(ImportError, match="accuracyy"):
        exec("from marble_bench.metrics import accuracyy")


@pytest.mark.parametrize(
    ("package", "file", "text", "find"),
    [
        ("marble_bench.protocols", "mine.py", RULES, lambda: plugins.find_protocols()["mine"]),
        ("marble_bench.probes.heads", "from_zero.py", OWN_HEAD, lambda: plugins.find_heads()["from-zero"]),
    ],
)
def test_a_file_in_the_folder_is_the_registration(package, file, text, find, tmp_path, monkeypatch):
    room = importlib.import_module(package)
    (tmp_path / file).write_text(text)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    assert find().name == file.removesuffix(".py").replace("_", "-")
    kind = "head" if find().name == "from-zero" else "protocol"
    assert sources.find_origin(kind, find().name if kind == "head" else find()).shipped
    sys.modules.pop(f"{package}.{file.removesuffix('.py')}")
    (tmp_path / "other.py").write_text(text)
    with pytest.raises(UsageError, match=r"other.py: \w+ is called .*: rename it to 'other', or the file"):
        find()
    sys.modules.pop(f"{package}.other")
    sys.modules.pop(f"{package}.{file.removesuffix('.py')}", None)


def test_a_metrics_file_without_a_metric_and_a_name_that_stands_twice_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(marble_bench.metrics, "__path__", [*marble_bench.metrics.__path__, str(tmp_path)])
    (tmp_path / "empty.py").write_text("METRIC = 3\n")
    with pytest.raises(UsageError, match=r"empty.py must define METRIC = Metric\(...\), or a tuple of them; it has 3"):
        plugins.find_metrics()
    (tmp_path / "empty.py").unlink()
    (tmp_path / "twice.py").write_text("from marble_bench.metrics import accuracy as METRIC\n")
    with pytest.raises(UsageError, match="another file declares a metric 'accuracy' too"):
        plugins.find_metrics()
    for name in ("empty", "twice"):
        sys.modules.pop(f"marble_bench.metrics.{name}")


def test_a_name_that_is_not_there_has_the_closest(bench):
    for option, words in (
        ("--protocol", "protocol 'marbel'; did you mean 'marble'"),
        ("--head", "head 'mpl'; did you mean 'mlp'"),
    ):
        asked = words.split("'")[1]
        ended = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", option, asked)
        assert ended.code == 2
        assert f"no {words}?" in ended.err
        ended = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", option, "not/there.py")
        assert f"no {option[2:]} file not/there.py" in ended.err


# A user's own.


@pytest.mark.slow
def test_a_protocol_of_ones_own_is_run_and_its_record_stands_off_the_boards(bench, tmp_path):
    (tmp_path / "rules.py").write_text(RULES)
    run = ("--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--device", "cpu", "--protocol", "rules.py")
    ended = bench("run", *run, "--json")
    assert ended.code == 0, ended.err
    assert ended.record["protocol"]["name"] == "mine"
    assert ended.record["selection"]["probes"] == 3 * 2
    (source,) = (each for each in ended.record["identity"]["sources"] if each["kind"] == "protocol")
    assert (source["name"], source["shipped"]) == ("mine", False)
    checked = bench("results", "check")
    assert checked.code == 0, checked.out
    assert "facts not known here: protocol 'mine'" in checked.out
    assert not [each for each in bench("leaderboard", "--mini", "--json").record if each["model"] == "toy"]
    (record,) = (tmp_path / "results").rglob("*.mini.json")
    refused = bench("reproduce", record, "--task", TOY_TASK, "--model", TOY_MODEL)
    assert refused.code == 2
    assert "no protocol 'mine'" in refused.err
    assert "if it is one of your own, give its file: --protocol NAME or FILE.py" in refused.err
    again = bench("reproduce", record, "--task", TOY_TASK, "--model", TOY_MODEL, "--protocol", "rules.py")
    assert again.code == 0, again.err


def test_a_record_never_opens_the_file_that_its_protocol_is_called_after(bench, tmp_path):
    (tmp_path / "rules").write_text("raise SystemExit('opened')")
    with pytest.raises(UsageError, match="no protocol"):
        plugins.find_registered_protocol(str(tmp_path / "rules"))
    (tmp_path / "rules.py").write_text("open('opened', 'w')")
    with pytest.raises(UsageError, match="no head"):
        plugins.get_head(replace(plugins.find_registered_protocol("marble"), head=str(tmp_path / "rules.py")))
    for name in ("marble+rules.py", f"marble+{tmp_path / 'rules.py'}", f"{tmp_path / 'rules.py'}+mlp"):
        with pytest.raises(UsageError, match=r"no (protocol|head)"):
            plugins.find_recorded_protocol(name)
    assert not (tmp_path / "opened").exists()


def test_a_record_names_a_protocol_with_another_head_and_both_are_looked_up(tmp_path):
    (tmp_path / "zero.py").write_text(OWN_HEAD)
    for protocol, head in (("marble", "linear"), ("marble-bidirectional", "linear"), ("marble", "mlp")):
        asked = plugins.find_protocol(protocol, head)
        assert plugins.find_recorded_protocol(asked.name) == asked
    with pytest.raises(UsageError, match=r"no head 'from-zero' \(bench list heads\)"):
        plugins.find_recorded_protocol(plugins.find_protocol("marble", str(tmp_path / "zero.py")).name)
    with pytest.raises(UsageError, match="which only training by gradient fits"):
        plugins.find_recorded_protocol("linear+mlp")


@pytest.mark.slow
def test_a_head_that_is_trained_by_gradient_replaces_the_protocols_own(toy, bench, tmp_path):
    (tmp_path / "zero.py").write_text(OWN_HEAD)
    record = toy("--mini", "--head", tmp_path / "zero.py", "--seeds", 1).record
    assert record["protocol"]["name"] == "marble+from-zero"
    shipped_head = toy("--mini", "--head", "linear", "--seeds", 1).record
    assert shipped_head["protocol"]["name"] == "marble+linear"
    (head,) = (each for each in shipped_head["identity"]["sources"] if each["kind"] == "head")
    assert (head["name"], head["shipped"]) == ("linear", True)
    again = ("--task", TOY_TASK, "--model", TOY_MODEL)
    (path,) = (tmp_path / "results").rglob("marble%2Blinear/*.json")
    ended = bench("reproduce", path, *again)
    assert ended.code == 0, ended.err
    (path,) = (tmp_path / "results").rglob("marble%2Bfrom-zero/*.json")
    ended = bench("reproduce", path, *again)
    assert ended.code == 2
    assert "give its file: --protocol NAME or FILE.py, --head NAME or FILE.py" in ended.err
    assert bench("reproduce", path, *again, "--protocol", "marble", "--head", "zero.py").code == 0
    assert plugins.find_protocol("marble", "mlp") == plugins.find_registered_protocol("marble")
    assert plugins.find_protocol("linear", "linear") == plugins.find_registered_protocol("linear")
    first, moved = (plugins.find_protocol("marble", str(tmp_path / "zero.py")) for _ in range(2))
    assert first.hash == moved.hash


def test_a_head_in_a_protocols_file_is_known_by_that_files_bytes(tmp_path):
    text = OWN_HEAD + RULES.replace('head="mlp"', "head=HEAD").replace("hidden=16", "hidden=0").replace(
        "dropout=0.2", "dropout=0.0"
    )
    (tmp_path / "rules.py").write_text(text)
    one = plugins.find_protocol(str(tmp_path / "rules.py"))
    (tmp_path / "rules.py").write_text(text.replace("torch.zeros(width", "torch.ones(width"))
    other = plugins.find_protocol(str(tmp_path / "rules.py"))
    assert one.hash != other.hash
    assert sources.find_origin("head", one.head).digest != sources.find_origin("head", other.head).digest
    assert not sources.find_origin("head", one.head).shipped
    borrowed = "from marble_bench.probes.heads.mlp import HEAD\n" + RULES.replace('head="mlp"', "head=HEAD")
    (tmp_path / "rules.py").write_text(borrowed)
    assert plugins.find_protocol(str(tmp_path / "rules.py")).head == "mlp"


# Mistakes.


def test_all_mistakes_of_a_protocol_are_told_at_once(told):
    text = RULES
    for old, new in (
        ('"mine"', '"my rules"'),
        ("version=1", "version=0"),
        ("dropout=0.2", "dropout=1.5"),
        ("learning_rates=(1e-3, 1e-2)", "learning_rates=()"),
        ("seeds=1", "seeds=1, solver='newton'"),
        ('head="mlp"', "head=3"),
    ):
        assert old in text
        text = text.replace(old, new)
    printed = told(text)
    for words in (
        "own.py:",
        "name 'my rules' cannot be used in a record",
        "version is 0: give a whole number from 1 on",
        "dropout is 1.5: give shares from 0 to below 1",
        "learning_rates is empty",
        "solver is 'newton': give 'adam', 'exact' or 'none'",
        "head is 3: give a name (bench list heads) or a Head",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("learning_rates=", "learning_rate=", "Protocol has no 'learning_rate'; did you mean 'learning_rates'?"),
        ("PROTOCOL =", "RULES =", "own.py must define PROTOCOL = Protocol(...); it has nothing of that name"),
        ("seeds=1,", "seeds=1, solver='exact',", "penalties is empty: give what the solver 'exact' is tried with"),
        (
            "seeds=1,",
            "seeds=1, solver='exact', penalties=(1.0,),",
            "head 'mlp' has a hidden layer, which only training by",
        ),
        (
            "layer_sum=False",
            "layer_sum=True, solver='exact'",
            "layer_sum is True: a weighted sum of layers is trained by",
        ),
        ('"mine"', '"marble"', "protocol 'marble' is one of the suite's: give yours another name"),
        ('"mlp"', '"linear"', "head 'linear' has no hidden layer: give hidden=0 and no hiddens"),
        ('"mlp"', '"mpl"', "no head 'mpl'; did you mean 'mlp'? (bench list heads)"),
        ("hidden=16,", "", "TypeError: Protocol.__init__() missing 1 required keyword-only argument: 'hidden'"),
    ],
)
def test_a_mistake_in_a_protocol_is_told_with_what_is_right(told, old, new, words):
    assert old in RULES
    assert words in told(RULES.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("init=init", "fit=init", "head 'from-zero': it has fit: give init, or fit and predict"),
        ("init=init", "init=3", "head 'from-zero': init is 3: give a function"),
        ("init=init, ", "", "head 'from-zero': it has no function: give init, or fit and predict"),
        ('"from-zero"', '"mlp"', "head 'mlp' is one of the suite's: give yours another name"),
        ("init=init", "inits=init", "Head has no 'inits'; did you mean 'init'?"),
        ("HEAD =", "OTHER =", "own.py must define HEAD = Head(...); it has nothing of that name"),
    ],
)
def test_a_mistake_in_a_head_is_told_with_what_is_right(told, old, new, words):
    assert old in OWN_HEAD
    assert words in told(OWN_HEAD.replace(old, new), "--head")


WRONG = {  # a field of a protocol -> values of it that no grid can be made of
    "name": (7, None, ["q"], "x" * 121),
    "description": (7, "", "two\nlines", "\ud800"),
    "version": (True, 0, 2**70, "1"),
    "seeds": (True, 0, 1.0, 10**9),
    "batch_size": (0, "a"),
    "hidden": (-1, 10**12),
    "layer_sum": ("no", 1),
    "standardize": ("yes", None),
    "both_ways": (1,),
    "dropout": ("a", float("nan"), 1.0, True),
    "plateau_factor": (float("nan"), -3, 0, 1.0, "a"),
    "solver": (["exact"], "newton"),
    "learning_rates": (
        (),
        5,
        (0.1,) * 2,
        (-1.0,),
        (0.0,),
        ("a",),
        (True,),
        (float("inf"),),
        (10**5000,),
        range(2),
        np.ones(2),
    ),
    "weight_decays": ((), (-1.0,), ("a",), (float("nan"),), torch.zeros(2)),
    "penalties": ((0.0,), (-1.0,), ("x",), (float("nan"),)),
    "hiddens": (("a",), (-1,), (1.5,)),
    "batch_sizes": ((0,), (64, 64)),
    "dropouts": ((1.0,), ("a",)),
    "standardizing": (("x",), (1,), (True, True)),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_protocol_with_a_value_that_no_grid_can_be_made_of_is_refused_where_it_is_declared(field, value):
    with pytest.raises(UsageError) as caught:
        replace(MARBLE, **{field: value})
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    assert f": {field} " in lines[0] or (field == "seeds" and "6,000,000,000 probes for each layer" in lines[0])
    assert len(lines[0]) < 500
    assert "give" in lines[0]


def test_a_grid_is_bounded_before_it_is_made_with_the_seeds_that_were_asked_for(bench):
    rates = tuple(1e-6 * (1 + index) for index in range(2000))
    with pytest.raises(UsageError, match=r"its grid has 12,000 probes for each layer.*at most 10,000"):
        replace(MARBLE, learning_rates=rates, seeds=6)
    assert replace(MARBLE, learning_rates=rates, seeds=5).hash
    ended = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--protocol", "jukemir", "--seeds", 60)
    assert ended.code == 2
    assert "12,960 probes for each layer, all seeds together: give at most 10,000, or fewer --seeds" in ended.err


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("strengths", value) for value in (5, ("a",), (float("nan"),), (-1.0,), (1, 1.0), tuple(range(10**6)))),
        *(("losses", value) for value in ("cross_entropy", ("hinge",), (3,), (["a"],), ("squared_error",) * 2, ())),
        *(("version", value) for value in (True, "1", 2**70)),
        ("hidden_layer", 0),
        ("name", 7),
        ("description", 7),
    ],
)
def test_a_head_with_a_value_that_no_probe_can_be_made_of_is_refused_where_it_is_declared(field, value):
    with pytest.raises(UsageError) as caught:
        Head(**{"name": "a", "description": "b", "init": abs, field: value})
    assert f": {field} " in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["marble+linear", "linear+mlp", "mine+"])
def test_a_protocols_file_has_no_name_that_the_option_head_makes(told, name):
    assert "has a name as --head makes them" in told(RULES.replace('"mine"', f'"{name}"'))


RAISING = """
class Odd({base}):
    def __str__(self):
        raise RuntimeError("no")


raise Odd("x")
"""
FITTING = """
import torch
from marble_bench import Head

HEAD = Head(
    name="odd",
    description="b",
    fit=lambda data: {fit},
    predict=lambda state, x: torch.zeros(len(x), 2),
)
"""


@pytest.mark.parametrize("base", ["Exception", "BaseException", "ImportError"])
def test_whatever_a_file_raises_is_told_with_the_file(told, base):
    printed = told(RAISING.format(base=base))
    assert "own.py" in printed
    assert "its text cannot be read" in printed


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ("__import__('sys').exit(0)", "own.py line 8, in <lambda>: it ends Python (SystemExit: 0)"),
        ("{'a': torch.eye(3).to_sparse()}", "fit returned 'a' as a tensor of layout sparse_coo: make it dense"),
        ("{'a': torch.zeros(1).expand(10**15)}", "fit returned 4,000,000,000 MB of tensors"),
    ],
)
def test_a_fit_that_ends_python_or_keeps_what_cannot_be_kept_is_told_with_the_head(told, fit, words):
    printed = told(FITTING.replace("{fit}", fit), "--head", more=("--protocol", "linear"))
    assert words in printed


@pytest.mark.parametrize(
    ("losses", "is_refused"), [("'squared_error', 'binary_cross_entropy'", True), ("'cross_entropy',", False)]
)
@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_a_target_that_a_head_does_not_learn_is_refused_before_any_work(toy, tmp_path, losses, is_refused, dry):
    text = FITTING.replace("{fit}", "{'a': torch.zeros(1)}").replace("zeros(len(x), 2)", "ones(len(x), 3)")
    (tmp_path / "own.py").write_text(text.replace("fit=", f"losses=({losses}), fit="))
    ended = toy("--mini", "--protocol", "linear", "--head", tmp_path / "own.py", *dry)
    assert ended.code == (2 if is_refused else 0), ended.err
    words = "head 'odd' learns squared_error and binary_cross_entropy, and the target of task 'toy-task' is Classes"
    assert (words in ended.err) is is_refused
    if is_refused:
        assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_a_head_with_a_hidden_layer_is_refused_where_problems_are_solved(told):
    printed = told(OWN_HEAD.replace(", hidden_layer=False", ""), "--head", more=("--protocol", "linear"))
    assert "solves its problem exactly, and head 'from-zero' has a hidden layer" in printed


# Task sets.


def test_the_fourteen_tasks_of_the_table_have_the_metrics_that_it_prints():
    (found,) = (each for each in plugins.find_task_sets().values() if each.name == "mert-14")
    printed = {}
    for cell in read_published_cells():
        if cell.model == "mert-95m" and cell.mark == "b":
            printed.setdefault(cell.task, set()).add(cell.metric)
    assert len(found.members) == 14
    assert {task: set(metrics) for task, metrics in found.members.items()} == printed


@pytest.mark.parametrize(
    ("name", "marks", "models"),
    [("marble2-10", "d", {"mert-v2-30s"}), ("muq-8", "f", {"muq-160k"}), ("jukemir-4", "c", {"choi"})],
)
def test_the_sets_of_other_tables_have_the_scores_that_these_print(name, marks, models):
    found, printed = plugins.find_task_set(name), {}
    for cell in read_published_cells():
        if cell.model in models and cell.mark in marks and cell.task != "harmonix-structure":  # of MuQ's second table
            printed.setdefault(cell.task, set()).add(cell.metric)
    assert {task: set(metrics) for task, metrics in found.members.items()} == printed


def test_members_of_sets_are_tasks_here_or_papers_score_them():
    scored = {cell.column for cell in read_published_cells()}
    for each in plugins.find_task_sets().values():
        assert all((task, metric) in scored for task in each.absent for metric in each.members[task])
        assert each.averaging == "none" or not each.absent  # a mean that no record can have is no mean


def test_a_run_and_a_plan_take_the_tasks_of_a_set(bench):
    ended = bench("run", "--model", "mfcc", "--set", "jukemir-4", "--mini", "--dry-run", "--json")
    assert [json.loads(line)["task"] for line in ended.out.splitlines()] == ["mtt", "gs", "gtzan", "emo"]
    both = bench(
        "run", "--model", "mfcc", "--set", "jukemir-4", "--task", "gs,nsynth-pitch", "--mini", "--dry-run", "--json"
    )
    assert [json.loads(line)["task"] for line in both.out.splitlines()] == ["gs", "nsynth-pitch", "mtt", "gtzan", "emo"]
    for command in (("run", "--dry-run"), ("plan",), ("features", "extract"), ("leaderboard",)):
        slip = bench(*command, "--model", "mfcc", "--set", "jukemir-5")
        assert (slip.code, slip.out) == (2, "")
        assert "no set 'jukemir-5'; did you mean 'jukemir-4'? (bench list sets)" in slip.err


def test_a_task_of_a_set_that_is_not_here_is_told_and_left_out(bench, monkeypatch, tmp_path):
    import marble_bench.tasks.sets as room

    text = Path(room.__file__).with_name("marble2_10.py").read_text()
    own, theirs = 'protocol="marble2",', 'absent=("chords-of-mars",),'
    (tmp_path / "theirs.py").write_text(
        text.replace("marble2-10", "theirs").replace("chords1217", "chords-of-mars").replace(own, theirs)
    )
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    ended = bench("run", "--model", "mfcc", "--set", "theirs", "--mini", "--dry-run", "--json")
    sys.modules.pop("marble_bench.tasks.sets.theirs")
    assert ended.code == 0
    assert len(ended.out.splitlines()) == 9
    assert "set 'theirs': there is no task chords-of-mars here, so its records are left out" in ended.err


def test_a_mean_over_metrics_of_both_directions_is_refused(tmp_path, monkeypatch):
    import marble_bench.tasks.sets as room

    text = Path(room.__file__).with_name("jukemir_4.py").read_text().replace("jukemir-4", "both")
    (tmp_path / "both.py").write_text(text.replace('"gtzan": ("accuracy",)', '"gtzan": ("accuracy", "errors")'))
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    gtzan = plugins.find_registered_task("gtzan")
    errors = replace(gtzan.task.metrics[0], name="errors", higher_is_better=False)
    backward = replace(gtzan, task=replace(gtzan.task, metrics=(*gtzan.task.metrics, errors)))
    find = plugins.find_registered_task
    monkeypatch.setattr(plugins, "find_registered_task", lambda name: backward if name == "gtzan" else find(name))
    with pytest.raises(UsageError, match=r"set 'both' has a mean over metrics of both directions \(errors\)"):
        plugins.find_task_set("both")
    sys.modules.pop("marble_bench.tasks.sets.both")


def test_a_set_that_names_what_is_not_there_or_mixes_units_in_silence_is_refused(tmp_path, monkeypatch):
    import marble_bench.tasks.sets as room

    text = Path(room.__file__).with_name("mert_14.py").read_text().replace("mert-14", "other")
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    changed = text.replace('"gs": ("weighted",)', '"gs": ("wieghted",)').replace('"gtzan":', '"gtzann":')
    (tmp_path / "other.py").write_text(changed.replace("mixed_units=True,", ""))
    with pytest.raises(UsageError) as caught:
        plugins.find_task_sets()
    sys.modules.pop("marble_bench.tasks.sets.other")
    for words in (
        "set 'other': no task 'gtzann'; did you mean 'gtzan'?",
        "set 'other': task 'gs' has no metric 'wieghted'; did you mean 'weighted'?",
        "set 'other' has a mean over dB and fraction: give averaging='none', or mixed_units=True",
    ):
        assert words in str(caught.value)


def test_all_mistakes_of_a_set_a_head_and_a_metric_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        Metric("my score", "ranks", 3, abs, "x", version=0)  # type: ignore[arg-type]
    for words in ("name 'my score'", "kind is 'ranks'", "compute is 3", "version is 0"):
        assert words in str(caught.value)
    with pytest.raises(UsageError) as caught:
        TaskSet(name="a b", title="", members={"gs": "weighted"}, averaging="median", source="x", version=0)
    for words in (
        "name 'a b'",
        "title is empty",
        "members['gs'] is 'weighted'",
        "averaging is 'median'",
        "version is 0",
    ):
        assert words in str(caught.value)
    with pytest.raises(UsageError) as caught:
        Head(name="", description="", strengths=(), version=0)
    for words in ("name ''", "description is empty", "no function", "strengths is empty", "version is 0"):
        assert words in str(caught.value)
    with pytest.raises(UsageError, match=r"absent has 'gtzann', which is no member; did you mean 'gtzan'"):
        TaskSet(name="a", title="b", members={"gtzan": ("x",)}, averaging="none", source="x", absent=("gtzann",))
    with pytest.raises(UsageError, match="members is empty"):
        TaskSet(name="a", title="b", members={}, averaging="none", source="x")

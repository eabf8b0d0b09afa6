"""The typed record: its schema, its migrations, what is refused, and that nobody reads it by string keys."""

import ast
import copy
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import msgspec
import pandas as pd
import pytest
from made_records import POINTS, make

from marble_bench.errors import BenchError, DataError
from marble_bench.files.names import NAME_PATTERN
from marble_bench.records import claims, origins, results, schema, validation
from marble_bench.records import record as classes
from marble_bench.records.record import Record, to_json
from marble_bench.records.schema import InvalidRecord, from_json
from marble_bench.runs.reproduce import _check_perturbed_scores, find_differences

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
KEPT = sorted(
    (GOLDEN / "records").glob("*.json")
)  # one of each form that records have had, made by the code of its day
NEWEST = KEPT[-1]
STRANGE = (None, True, -1, 0, 0.5, 2, "", "x" * 5000, "a\x1b[31m", "../x.py", "a\n", [], {}, [None], "sha256:1")


def _leaves(value, place=()):
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inside is not None and place:
        yield place
    if inside is None:
        yield place
    for key, each in inside or ():
        if key not in (1, 2):  # of a list, the first stands for all
            yield from _leaves(each, (*place, key))


def _at(facts, place):
    for key in place:
        facts = facts[key]
    return facts


def _mutations():
    """JSON that is a record but for one change: another value, a key less, a key more."""
    full = json.loads(NEWEST.read_text())
    full["few_shot"] = [{"share": 0.1, "clips": 4, "valid": [0.1], "test": [0.1]}]
    lost = {"test": 0.5, "clean": 0.75, "drop": 0.25, "drop_ci95": [0.2, 0.3], "per_seed": [0.5]}
    full["perturbations"] = {"mp3": {"clips": 9, "left_out": 1, "scores": {"accuracy": lost}}}
    full["data"] |= {"absent": 1, "marks": ["odd"], "faults": [{"clip": "a", "why": "b"}]}
    full["model"]["files"] = {"model.safetensors": "0" * 64}
    full["selection"]["per_seed"][0] |= {
        "hidden": 8, "batch_size": 4, "dropout": 0.1, "standardize": True, "stem": "bass", "ensemble": "vote",
    }  # fmt: skip
    full["scores"]["accuracy"]["oracle"] = 0.9
    yield full
    for place in _leaves(full):
        for value in STRANGE:
            changed = copy.deepcopy(full)
            _at(changed, place[:-1])[place[-1]] = value
            yield changed
        changed = copy.deepcopy(full)
        del _at(changed, place[:-1])[place[-1]]
        yield changed
        if isinstance(_at(full, place), dict):
            changed = copy.deepcopy(full)
            _at(changed, place)["extra"] = 1
            yield changed


def test_the_schema_is_generated_from_the_classes():
    assert schema.FILE.read_text() == schema.format_schema()  # python -m marble_bench.records.schema writes it
    jsonschema.Draft202012Validator.check_schema(schema.build_schema())


_ABOVE_ZERO = {"exclusiveMinimum": 0, "items": {"exclusiveMinimum": 0}}
# What records of no version had, and is refused since.
REFUSED_SINCE = {
    "suite": {"git": {"pattern": "^[0-9a-f]{40}$"}},
    "model": {
        "parameters": {"minimum": 0},
        "width": {"minimum": 1, "items": {"minimum": 1}},
        "sample_rate_hz": {"minimum": 1},
        "frame_rate_hz": _ABOVE_ZERO,
    },
    "cost": {"real_time_factor": {"minimum": 0}},
}


# Fields that records have gained since.
GAINED = {
    "model": {
        "files": {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1000,
            "propertyNames": {"pattern": NAME_PATTERN, "minLength": 1, "maxLength": 120},
            "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        }
    }
}


def _allow_rankings(facts):
    """What records of rankings have, or lack, since; which of it belongs together is not of the form (`claims`)."""
    selection = facts["properties"]["selection"]["properties"]
    selection["split"] = {"enum": ["valid", "halves"]}
    selection["probes"]["minimum"] = 0
    choice = selection["per_seed"]["items"]
    choice["required"] = [name for name in choice["required"] if name not in ("learning_rate", "weight_decay", "epoch")]
    facts["$defs"]["score"]["properties"]["unit"]["enum"].append("rank")


def _by_hand():
    """The last schema before it was generated, with what is refused and what is there since."""
    facts = json.loads((GOLDEN / "record.schema.by-hand.json").read_text())
    for part, fields in GAINED.items():
        facts["properties"][part]["properties"] |= fields
    _allow_rankings(facts)
    more = {part: {"properties": fields} for part, fields in REFUSED_SINCE.items()}
    return jsonschema.Draft202012Validator({**facts, "allOf": [*facts.get("allOf", []), {"properties": more}]})


@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_what_the_schema_written_by_hand_refused_the_classes_refuse(every):
    """The last schema before it was generated, with `REFUSED_SINCE`, is the authority: the classes take the same JSON."""
    by_hand = _by_hand()
    counts = {True: 0, False: 0}
    for facts in itertools.islice(_mutations(), 0, None, every):
        # an empty curve is in no record that a run wrote, which leaves an empty part out
        right = by_hand.is_valid(facts) and facts.get("few_shot") != []
        assert (not schema.find_faults(facts)) == right, (
            schema.find_faults(facts) or next(by_hand.iter_errors(facts)).message
        )
        counts[right] += 1
    assert counts[False] > 1000 / every
    assert counts[True] > 100 / every


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["task"].update(name="../x.py"), "task.name: '../x.py' is no name: at most 120 characters"),
        (lambda r: r["model"].update(license="a\x1b[31m"), r"model.license: 'a\x1b[31m' is no text: one line"),
        (lambda r: r["data"]["clips"].update(train=-1), "data.clips.train: -1 is less than the minimum of 0"),
        (lambda r: r["data"]["clips"].update(train="x"), "data.clips.train: 'x' is not of type 'integer'"),
        (lambda r: r["data"]["clips"].update(train=3.0), "data.clips.train: Expected `int`, got `float`"),
        (
            lambda r: r["scores"]["accuracy"].update(test="1"),
            "scores.accuracy.test: '1' is not of type 'number', 'null'",
        ),
        (lambda r: r["model"].update({"\ud800": 1}), r"model: Additional properties are not allowed ('\ud800' was"),
        (lambda r: r.update(extra=1), "Additional properties are not allowed ('extra' was unexpected)"),
        (lambda r: r.pop("cost"), "the record: 'cost' is a required property"),
        (lambda r: r["scores"].update({"a b": r["scores"]["accuracy"]}), "scores: 'a b' is no name"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_by_field_and_value(change, words):
    facts = json.loads(NEWEST.read_text())
    change(facts)
    assert any(words in line for line in schema.find_faults(facts))


def test_every_fault_of_a_record_is_told_at_once():
    facts = json.loads(NEWEST.read_text())
    facts["data"]["mini"] = "no"
    facts["cost"]["probe_s"] = -1
    assert [line.partition(":")[0] for line in schema.find_faults(facts)] == ["cost.probe_s", "data.mini"]


# Records of older versions.


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_record_of_every_version_is_read_in_the_form_of_today(path):
    facts = json.loads(path.read_text())
    stored = results.read(path)
    made = to_json(stored.record)
    assert list(results.list_differences(facts, {key: made[key] for key in facts})) == [
        f"scores.accuracy.std: none -> {statistics.stdev(score['per_seed']):.4g}"
        for score in facts["scores"].values()
        if "std" not in score
    ]
    assert [key for key in made if key in facts] == list(facts)  # in the same order
    assert made.keys() <= facts.keys() | {"few_shot", "perturbations", "identity", "digests"}
    if "digests" in facts:
        assert stored.digest == facts["digests"]["record"]  # a migration is no edit


def test_the_kept_records_are_of_different_forms():
    held = [json.loads(path.read_text()) for path in KEPT]
    forms = [
        (
            "digests" in each,
            "normalize" in each["model"],
            "std" in each["scores"]["accuracy"],
            tuple(sorted(next(iter(each["perturbations"].values()))["scores"]["accuracy"]))
            if "perturbations" in each
            else (),
            "absent" in each["data"],
            "identity" in each,
        )
        for each in held
    ]
    assert len(set(forms)) == len(forms) >= 7


def test_the_newest_form_is_written_byte_for_byte_as_it_was():
    assert results.format_json(results.read(NEWEST).record) == NEWEST.read_text()


def test_a_record_from_before_absent_clips_were_counted_counts_those_it_names():
    facts = json.loads(KEPT[0].read_text())
    facts["data"]["missing"] = ["a.wav", "b.wav"]
    facts["why_not"] = ["incomplete corpus (2 entries in data.missing)", "made on the miniature corpus"]
    found = from_json(facts)
    assert found.data.absent == 2
    assert found.why_not == ("incomplete corpus (2 clips absent)", "made on the miniature corpus")
    assert from_json(facts | {"data": facts["data"] | {"absent": 5}}).data.absent == 5


@pytest.mark.parametrize("value", [None, 3, [], {}, {"scores": 3}, {"scores": {"a": 3}}, {"data": [], "why_not": 1}])
def test_a_migration_leaves_what_is_no_record_to_the_check(value):
    with pytest.raises(InvalidRecord):
        from_json(value)


# What is written.


def _tables():
    return pd.DataFrame({"layer": ["0"]}), pd.DataFrame({"clip": ["a"]})


def test_no_part_of_a_record_can_be_changed():
    record = results.read(NEWEST).record
    parts = [record, record.data, record.data.clips, record.scores["accuracy"], record.selection.per_seed[0]]
    for part in parts:
        for name in type(part).__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(part, name, None)


def test_saving_gives_the_record_its_digests_and_leaves_the_one_it_was_given(tmp_path):
    record = msgspec.structs.replace(results.read(NEWEST).record, digests=msgspec.UNSET)
    path = tmp_path / "m/w/p/t.json"
    saved, written = results.save(path, record, *_tables())
    assert written
    assert record.digests is msgspec.UNSET
    assert results.read(path).record == saved
    assert saved.digests.record == results.read(path).digest
    assert results.save(path, record, *_tables()) == (saved, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"license": "two\nlines"}, "model.license"),
        ({"parameters": 10**20}, "no number"),
        ({"width": float("nan")}, "not JSON compliant"),
    ],
)
def test_a_run_that_no_record_can_hold_writes_nothing(tmp_path, change, words):
    record = results.read(NEWEST).record
    wrong = msgspec.structs.replace(record, model=msgspec.structs.replace(record.model, **change))
    with pytest.raises(BenchError, match=f"mfcc on gtzan is not valid, and nothing was written: .*{words}"):
        results.save(tmp_path / "t.json", wrong, *_tables())
    assert not list(tmp_path.iterdir())


def test_a_record_that_is_none_is_not_replaced_in_silence(tmp_path):
    path = tmp_path / "t.json"
    facts = json.loads(NEWEST.read_text())
    facts["data"]["mini"] = "no"
    path.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"data\.mini.*Nothing was written"):
        results.save(path, results.read(NEWEST).record, *_tables())


# How it is read.


def test_valid_records_are_read_without_jsonschema():
    code = (
        "import sys\nfrom pathlib import Path\nfrom marble_bench.records import results\n"
        f"results.read(Path({str(NEWEST)!r}))\nassert 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_board_reads_each_record_once(tmp_path, monkeypatch):
    place = tmp_path / "mfcc/0/marble/t.json"
    place.parent.mkdir(parents=True)
    shutil.copy(NEWEST, place)
    read = []
    text_of = results.read_text
    monkeypatch.setattr(results, "read_text", lambda path: read.append(path) or text_of(path))
    validation.keep_valid([place])
    assert read == [place]


def _keys_read(source):
    """Lines where a record, or a part of one, is read by a string key.

    A record is what is called `record`, or is declared as a class that is imported from `marble_bench.records`; a part is
    reached from one by attributes and subscripts.
    """
    tree = ast.parse(source)
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("marble_bench.records")
        for alias in node.names
    }
    known, names = imported & {*_class_names(), "Stored"}, {"record"}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            declared = ast.unparse(node.annotation).split(" | ")
            if known.intersection(declared):
                names.add(node.arg if isinstance(node, ast.arg) else getattr(node.target, "id", ""))

    def is_record(node):
        if isinstance(node, ast.Name):
            return node.id in names
        if isinstance(node, ast.Attribute):
            return node.attr == "record" or is_record(node.value)
        if isinstance(node, ast.Call):
            return getattr(node.func, "id", "") == "to_json"
        return isinstance(node, ast.Subscript) and is_record(node.value)

    for node in ast.walk(tree):
        key = getattr(node.slice, "value", None) if isinstance(node, ast.Subscript) else None
        if isinstance(key, str) and is_record(node.value):
            yield node.lineno
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr in ("get", "pop") and is_record(called.value):
            yield node.lineno


def _class_names():
    return [name for name, each in vars(classes).items() if isinstance(each, type) and issubclass(each, msgspec.Struct)]


@pytest.mark.slow
def test_no_record_is_read_by_string_keys_outside_records():
    found = {}
    for path in [
        *(ROOT / "marble_bench").rglob("*.py"),
        *(ROOT / "tasks").rglob("*.py"),
        *(ROOT / "probes").rglob("*.py"),
    ]:
        if "records" not in path.relative_to(ROOT).parts and (lines := list(_keys_read(path.read_text()))):
            found[str(path)] = lines
    assert not found
    assert not hasattr(Record, "__getitem__")


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('record["task"]["name"]', 2),
        ('each.record["cost"]', 1),
        ('def f(old: Record): return old["data"]', 1),
        ('def f(choice: Choice): return choice.get("stem")', 1),
        ('to_json(outcome.record)["scores"]', 1),
        ('record.scores["accuracy"].test', 1),
        ("record.scores[name].test", 0),
        ('frame["seed"]', 0),
    ],
)
def test_the_count_of_string_keys_sees_what_it_looks_for(source, count):
    imports = "from marble_bench.records.record import Choice, Record, to_json\n"
    assert len(list(_keys_read(imports + source))) == count


@pytest.mark.parametrize("version", ["\u00b2", "9" * 5000])
def test_a_schema_of_an_odd_version_is_one_line(tmp_path, version):
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"schema": f"marble-bench.record/{version}"}))
    (verdict,) = validation.check([path])
    assert verdict.kind in ("no record", "newer schema")
    assert len(verdict.words) < 1000


@pytest.mark.parametrize("depth", [900, 960, 970, 980, 990])
def test_values_nested_as_deep_as_can_be_read_are_one_line(depth):
    facts = json.loads(NEWEST.read_text())
    deep: list = []
    for _ in range(depth):
        deep = [deep]
    facts["data"]["missing"] = deep
    with pytest.raises(InvalidRecord):
        from_json(facts)


def test_a_key_twice_among_many_is_found_at_once():
    many = ",".join(f'"k{index}":1' for index in range(100_000))
    started = time.process_time()
    with pytest.raises(ValueError, match="the key 'k7' twice"):
        results.parse_json(f'{{{many},"k7":1}}')
    assert time.process_time() - started < 5  # seconds; it took hours


def test_a_perturbation_that_nobody_has_is_a_fact_that_is_not_so():
    facts = json.loads(NEWEST.read_text())
    facts["perturbations"] = {"x": {"clips": 0, "left_out": 40, "scores": {}}}
    assert any("no perturbation is called 'x'" in words for _, words in claims.find_disagreements(from_json(facts)))


def test_the_digest_of_an_encoder_without_weights_is_that_of_its_facts():
    facts = json.loads(NEWEST.read_text())
    assert facts["model"]["name"] == "mfcc"
    assert not [words for _, words in origins.find_disagreements(from_json(facts), None) if "weights_sha256" in words]
    facts["model"]["weights_sha256"] = "ab" * 32
    assert [
        kind for kind, words in origins.find_disagreements(from_json(facts), None) if "weights_sha256" in words
    ] == ["facts"]


def _kinds(facts):
    return {kind for kind, _ in origins.find_disagreements(from_json(facts), None)}


def test_a_record_without_identity_is_a_warning_of_old_versions_alone():
    facts = json.loads(NEWEST.read_text())
    facts.pop("identity", None)
    assert _kinds(facts) == {"no identity"}
    facts["suite"]["version"] = "0.dev350+g1a2b3c4"
    assert _kinds(facts) == {"facts"}


@pytest.mark.parametrize(
    ("version", "kinds"),
    [
        ("99", {"later version"}),
        ("0.1.1.dev3+g1a2b3c4.dirty", {"later version"}),
        ("0", set()),
        ("v1", {"facts"}),
        ("", {"facts"}),
    ],
)
def test_the_version_of_a_record_is_compared_with_the_one_that_is_here(version, kinds):
    facts = json.loads(NEWEST.read_text())
    facts["suite"]["version"] = version
    found = origins.find_disagreements(from_json(facts), None)
    assert {kind for kind, words in found if kind == "later version" or "suite.version" in words} == kinds


def test_reasons_of_a_later_version_are_not_judged():
    facts = json.loads(NEWEST.read_text())
    facts["why_not"].append("a reason of tomorrow")
    assert "facts" in {kind for kind, _ in claims.find_disagreements(from_json(facts))}
    facts["suite"]["version"] = "99"
    assert "facts" not in {kind for kind, _ in claims.find_disagreements(from_json(facts))}


def test_a_few_shot_curve_and_keys_that_a_rerun_does_not_give_are_named(tmp_path):
    paths = [make(tmp_path / name, "mfcc", mini=True, few_shot=copy.deepcopy(POINTS)) for name in ("record", "rerun")]
    old, again = (results.read(path) for path in paths)
    assert not find_differences(old, again)
    point, *others = old.record.few_shot
    for changed, kind in (
        ({"few_shot": (msgspec.structs.replace(point, test=(0.1, 0.2, 0.1)), *others)}, "few-shot"),
        ({"few_shot": (msgspec.structs.replace(point, clips=5), *others)}, "few-shot"),
        ({"few_shot": (point, point, *others)}, "few-shot"),
        ({"identity": msgspec.structs.replace(old.record.identity, run="sha256:" + "1" * 64)}, "identity"),
    ):
        forged = results.Stored(old.path, msgspec.structs.replace(old.record, **changed))
        assert {each.kind for each in find_differences(forged, again)} == {kind}


def _point(share):
    return {"share": share, "clips": 4, "valid": [0.1], "test": [0.1]}


MANY = {
    "choices": lambda r, more: r["selection"].update(per_seed=r["selection"]["per_seed"][:1] * (1000 + more)),
    "scores of seeds": lambda r, more: r["scores"]["accuracy"].update(per_seed=[0.5] * (1000 + more)),
    "scores": lambda r, more: r["scores"].update({f"m{i}": r["scores"]["accuracy"] for i in range(199 + more)}),
    "marks": lambda r, more: r["data"].update(marks=["a"] * (100_000 + more)),
    "points of a curve": lambda r, more: r.update(few_shot=[_point(0.1)] * (20 + more)),
    "perturbations": lambda r, more: r.update(
        perturbations={f"p{i}": {"clips": 0, "left_out": 0, "scores": {}} for i in range(20 + more)}
    ),
}


@pytest.mark.parametrize("what", MANY)
def test_a_record_tells_of_no_more_than_can_be_asked_about(what):
    facts = json.loads(NEWEST.read_text())
    MANY[what](facts, 0)
    assert schema.find_faults(facts) == []
    MANY[what](facts, 1)
    (line,) = schema.find_faults(facts)
    assert "of them, and no record has more" in line


def test_of_a_long_record_the_first_fault_is_told_and_jsonschema_is_not_asked(monkeypatch):
    monkeypatch.setattr(schema, "_build_validator", lambda: pytest.fail("it would take minutes"))
    facts = json.loads(NEWEST.read_text())
    facts["data"]["missing"] = ["a"] * 30_000 + ["\x1b"]
    assert schema.find_faults(facts) == ["data.missing[30000]: a name, text or digest that no record has"]


def test_a_perturbed_score_is_a_score_of_the_record():
    facts = json.loads(NEWEST.read_text())
    lost = {"test": 0.5, "clean": 0.75, "drop": 0.25, "per_seed": [0.5]}
    facts["perturbations"] = {"noise": {"clips": 9, "left_out": 0, "scores": {"super": lost}}}
    record = from_json(facts)
    words = "super is scored on changed clips, and is no score of the record"
    assert [kind for kind, told in claims.find_disagreements(record) if words in told] == ["impossible"]
    with pytest.raises(DataError, match="super on changed clips, but no such plain score"):
        _check_perturbed_scores(record)


def test_of_many_faults_of_one_kind_the_first_are_told_and_the_others_counted():
    found = list(validation._shorten([("counts", str(i)) for i in range(40_000)] + [("facts", "x")] * 2))
    assert found == [*(("counts", str(i)) for i in range(5)), ("facts", "x"), ("counts", "and 39,995 more")]

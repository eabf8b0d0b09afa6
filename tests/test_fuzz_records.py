"""A short run of the fuzz of records and tables; `benchmarks/fuzz_records.py` runs five hundred."""

import importlib.util
from pathlib import Path

import pytest
from made_records import make

from marble_bench.records.results import TABLES, find_table_path


def _fuzz():
    path = Path(__file__).parent.parent / "benchmarks/fuzz_records.py"
    spec = importlib.util.spec_from_file_location("fuzz_records", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_mutated_records_end_nothing_and_nothing_comes_through_in_silence(tmp_path):
    for seed, (model, task) in enumerate((("one", "gtzan"), ("mfcc", "emo"), ("two", "gs"))):
        make(tmp_path, model, task=task, seed=seed, mini=True)
    outcomes, _, bad = _fuzz().run_fuzz(tmp_path, 12, 1, figures=12)
    assert bad == []
    assert outcomes["told"] > 6


def test_the_fuzz_itself_can_fail(tmp_path, monkeypatch):
    fuzz = _fuzz()
    for seed in range(2):
        make(tmp_path, f"model-{seed}", seed=seed, mini=True)

    def silent(path, draw):
        record = path.read_text()
        path.write_text(record.replace("made on the", "made on a"))
        for kind in TABLES:
            assert find_table_path(path, kind).is_file()
        return "value", "why_not.0"

    monkeypatch.setattr(fuzz, "mutate", silent)
    monkeypatch.setattr(fuzz, "check_everywhere", lambda *_: ("ok", []))
    outcomes, _, bad = fuzz.run_fuzz(tmp_path, 1, 0)
    assert outcomes == {"bad": 1}
    assert bad[0].endswith("it came through in silence")

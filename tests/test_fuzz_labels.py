"""A short form of `benchmarks/fuzz_labels.py`: mutated label files of every corpus are refused by name, or read the same."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _module():
    path = Path(__file__).parent.parent / "benchmarks" / "fuzz_labels.py"
    spec = importlib.util.spec_from_file_location("fuzz_labels", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_labels"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_no_mutation_of_a_label_file_passes_in_silence(tmp_path):
    fuzz = _module()
    tally = fuzz.run_fuzz(tmp_path, count=60, seed=7)
    assert not tally.bad
    assert sum(tally.by_corpus.values()) == 60
    outcomes = {
        outcome: sum(n for (_, other), n in tally.by_corpus.items() if other == outcome) for outcome in fuzz.OUTCOMES
    }
    assert outcomes["refused"] > 30
    assert outcomes["same"] > 0


def test_the_fuzz_sees_a_reader_that_lets_things_pass(tmp_path, monkeypatch):
    """One that ends in another exception, and one that takes what is in no cell of a row for nothing."""
    fuzz = _module()
    mtt = fuzz._load_module("magnatagatune")
    made = fuzz.make_magnatagatune(tmp_path)
    sound = {"mtt": fuzz.read(made, made.tasks[0])}
    strict = mtt.read_table
    monkeypatch.setattr(mtt, "read_table", lambda *_, **__: [].missing)
    told = fuzz.judge(made, sound, [], made.labels[0], "rows")
    assert told == ("bad", "AttributeError: 'list' object has no attribute 'missing'")

    def lax(path, **options):
        for row in strict(path, **options):
            row.cells["mp3_path"] = row.cells["mp3_path"].replace("song_1-", "song_2-")
            yield row

    (tmp_path / "mp3/1/artist-album-01-song_2-0-29.mp3").hardlink_to(tmp_path / "mp3/0/artist-album-00-song_0-0-29.mp3")
    monkeypatch.setattr(mtt, "read_table", lax)
    told = fuzz.judge(made, sound, fuzz.look(made), made.labels[0], "rows")
    assert told == ("bad", "mtt has other clips, and nothing was said")

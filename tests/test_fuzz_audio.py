"""A few mutated sound files; `benchmarks/fuzz_audio.py` has the many."""

import importlib.util
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent.parent / "benchmarks" / "fuzz_audio.py"


@pytest.mark.slow
def test_mutated_sound_files_are_refused_or_read_as_they_were(tmp_path):
    spec = importlib.util.spec_from_file_location("fuzz_audio", FUZZ)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    outcomes, bad, _ = module.run_fuzz(60, 7, tmp_path)
    assert not bad
    verdicts = {
        verdict: sum(n for (_, v), n in outcomes.items() if v == verdict) for verdict in ("refused", "unchanged")
    }
    assert sum(outcomes.values()) == 60
    assert verdicts["refused"] > 20
    assert verdicts["unchanged"] > 2

"""No honest record is spoken against: a short form of benchmarks/honest_records.py, which makes a hundred."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "honest_records.py"


@pytest.mark.slow
def test_honest_records_of_own_tasks_and_encoders_give_no_false_alarm(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--count", "12", "--reproduce", "2", "--cache-dir", tmp_path / "cache"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parent.parent)},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "12 honest records, 2 of them run again: 0 false alarms" in done.stdout

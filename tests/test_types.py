"""mypy sees through the border of `marble_bench.probes` and `marble_bench.tasks`, which stand at the root of a checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parent.parent
LINKS = ROOT / ".typed" / "marble_bench"
NONSENSE = """
from marble_bench.core.protocol import Protocol
from marble_bench.probes import rng, trainer
from marble_bench.tasks import gtzan
from marble_bench.tasks.corpora import gtzan as corpus

def right(protocol: Protocol) -> list[trainer.Probe]:
    return trainer.build_grid(protocol, [0, 1], False, 3)

trainer.build_grid(42, 'nonsense', sedes=3)
rng.make_generators("seven")
gtzan.TASK.metrics + 1
corpus.CORPUS.nonsense
"""


def test_the_links_lead_to_the_folders_at_the_root():
    for folder in ("probes", "tasks"):
        assert (LINKS / folder).resolve() == (ROOT / folder).resolve()
    assert {path.name for path in LINKS.iterdir()} - {"__pycache__"} == {"__init__.py", "probes", "tasks"}


@pytest.mark.slow
def test_a_nonsense_call_over_the_border_is_an_error(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(NONSENSE)
    done = subprocess.run([sys.executable, "-m", "mypy", script], cwd=ROOT, capture_output=True, text=True)
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    lines = NONSENSE.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.startswith(("trainer", "rng", "gtzan", "corpus"))}
    assert len(wrong) == 4
    assert found == wrong, done.stdout

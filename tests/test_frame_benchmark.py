"""A short run of `benchmarks/frame_probes.py`."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest


def _benchmark():
    path = Path(__file__).parent.parent / "benchmarks/frame_probes.py"
    spec = importlib.util.spec_from_file_location("frame_probes", path)
    module = sys.modules["frame_probes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_frame_probes_are_timed_against_a_loop(monkeypatch, tmp_path, capsys):
    benchmark = _benchmark()
    monkeypatch.setattr(sys, "argv", ["frame_probes", *"--quick --seeds 1 --sampled 2 --folder".split(), str(tmp_path)])
    benchmark.main()
    shown = capsys.readouterr().out
    assert shown.startswith("20 clips of 4 s at 25 Hz in 3 layers, 32 wide: 0.00 GB")
    assert "72 probes, one epoch" in shown
    (share,) = re.findall(r"its data path takes ([\d.]+)% of the loop's", shown)
    assert 0 < float(share) < 60  # each layer is read once where the loop reads it 12 times
    assert not list(tmp_path.iterdir())


def test_the_products_of_the_loops_probe_are_those_that_are_counted():
    """By torch's own counter, forward and backward, of a single layer and of a sum."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    benchmark = _benchmark()
    size = benchmark.Size(clips=1, length_s=8.0, layers=3, width=32)
    parts = (benchmark.ClassPart("class", tuple(map(str, range(benchmark.CLASSES)))),)
    recipe = benchmark.framewise.Recipe(benchmark.MARBLE, benchmark.Schedule(1, 3, 10), parts, 10.0, (0, 1, 2))
    for layer, layers in ((0, 1), (None, 3)):
        probe = benchmark.trainer.Probe(layer, 1e-3, 0.0, 0)
        x = torch.randn(layers, size.frames, size.width)
        with FlopCounterMode(display=False) as counted:
            benchmark.Plain(probe, recipe, size.width)(x).sum().backward()
        assert benchmark.count_operations([probe], recipe, size) == pytest.approx(counted.get_total_flops())

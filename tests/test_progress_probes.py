"""What is said while probes train."""

from marble_bench.cli import progress


def test_a_line_tells_probes_alive_the_best_score_and_the_time_that_is_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress("mfcc gtzan", quiet=False) as shown:
        for seconds, done, best, alive in ((20, 6, float("-inf"), 12), (20, 12, 0.5, 6), (30, 42, 0.625, 3)):
            now[0] += seconds
            shown.probes(done, 72, best, alive)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "mfcc gtzan probes: 6/72 probes, 12 alive, best valid none",  # done in an earlier run: no rate yet
        "mfcc gtzan probes: 12/72 probes, 6 alive, best valid 0.500, 3 min 20 s left",
        "mfcc gtzan probes: 42/72 probes, 3 alive, best valid 0.625, 42 s left",
    ]

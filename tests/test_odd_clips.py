"""Whatever goes wrong with one file counts as that file, from plan to record; what is odd about a sound is a warning."""

import numpy as np
import pytest
import soundfile
from conftest import THREE_EPOCHS, TOY_MODEL, TOY_TASK, load_toy_module

from marble_bench import audio
from marble_bench.features import oddities
from marble_bench.features.jobs import Cost, Shard
from marble_bench.features.store import Span


@pytest.fixture
def hums(tmp_path):
    """The toy's corpus as a folder of the user's, which is no miniature."""
    folder = tmp_path / "hums_corpus"
    folder.mkdir()
    load_toy_module().write(folder)
    return folder


@pytest.mark.slow
def test_a_clip_of_ten_ms_is_found_by_plan_and_check_and_left_out_of_a_run(toy, bench, hums):
    soundfile.write(hums / "hums/train03.wav", 0.1 * np.random.default_rng(0).normal(size=80), 8000)
    planned = bench("plan", "--model", TOY_MODEL, "--task", TOY_TASK, "--data-dir", hums, "--json")
    assert planned.record["each"][0]["unreadable"] == 1
    printed = bench("plan", "--model", TOY_MODEL, "--task", TOY_TASK, "--data-dir", hums)
    assert "clip 'train03' gives a window of 0.010 s" in printed.err
    checked = bench("check", TOY_TASK, "--data-dir", hums)
    assert "0.010 s (train03)" in checked.out + checked.err
    stopped = toy("--data-dir", hums)
    assert stopped.code == 3
    assert "1 of 51 clips cannot be used" in stopped.err
    allowed = toy("--data-dir", hums, "--allow-missing", *THREE_EPOCHS)
    assert allowed.code == 0
    assert allowed.record["data"]["missing"] == ["hums/train03.wav"]


@pytest.mark.slow
def test_a_cut_file_and_one_of_another_rate_are_told_by_their_own_cause_before_a_run(toy, bench, hums):
    cut, other = hums / "hums/train03.wav", hums / "hums/test04.wav"
    cut.write_bytes(cut.read_bytes()[: 44 + 160])  # of a second; what is left is also shorter than the encoder takes
    soundfile.write(other, 0.1 * np.random.default_rng(0).normal(size=8000), 16000)
    causes = (
        f"{cut} is truncated: 8,000 samples promised, 80 found",
        f"{other} has 16,000 Hz; the corpus has 8,000 Hz",
    )
    asked = ("--model", TOY_MODEL, "--task", TOY_TASK, "--data-dir", hums)
    planned = bench("plan", *asked)
    assert planned.code == 0, planned.err
    ended = (planned, bench("check", TOY_TASK, "--data-dir", hums), toy("--data-dir", hums))
    for each in ended:
        assert all(cause in each.err for cause in causes)
        assert "window" not in each.err
    assert bench("plan", *asked, "--json").record["each"][0]["unreadable"] == 2


@pytest.mark.slow
def test_a_file_that_may_not_be_opened_is_one_clip(toy, hums, monkeypatch):
    read = audio.digest

    def refused(path):
        if path.name == "test04.wav":
            raise audio.files.DataError(f"{path} cannot be read: Permission denied")
        return read(path)

    monkeypatch.setattr(audio, "digest", refused)
    stopped = toy("--data-dir", hums)
    assert stopped.code == 3
    assert "1 of 51 clips cannot be used" in stopped.err
    assert "test04.wav cannot be read: Permission denied" in stopped.err
    allowed = toy("--data-dir", hums, "--allow-missing", *THREE_EPOCHS)
    assert allowed.code == 0
    assert allowed.record["data"]["missing"] == ["hums/test04.wav"]


@pytest.mark.slow
def test_what_is_odd_about_sounds_is_a_mark_of_every_record_made_of_them(toy, hums):
    for name in ("train00", "train01"):
        sound, rate = soundfile.read(hums / f"hums/{name}.wav")
        wrong = np.stack([sound, -sound + np.random.default_rng(0).integers(-2, 3, len(sound)) / 32768], axis=1)
        soundfile.write(hums / f"hums/{name}.wav", wrong, rate, subtype="PCM_16")
    sound, rate = soundfile.read(hums / "hums/test00.wav")
    soundfile.write(hums / "hums/test00.wav", 32768 * sound, rate, subtype="FLOAT")
    first = toy("--data-dir", hums, *THREE_EPOCHS)
    marks = first.record["data"]["marks"]
    assert any(mark.startswith("2 clips whose channels cancel") and "train00, train01" in mark for mark in marks)
    assert any(mark.startswith("1 clip with samples beyond 10") and "test00" in mark for mark in marks)
    again = toy("--data-dir", hums, "--overwrite", *THREE_EPOCHS)
    assert again.record["cost"]["cached"]
    assert again.record["data"]["marks"] == marks


@pytest.mark.slow
def test_a_plan_of_frames_leaves_out_a_file_that_is_no_audio(bench, tmp_path):
    """As one of whole clips does: the plan counts it, a dry run goes on."""
    folder = tmp_path / "rhythm"
    assert bench("data", "mini", "gtzan-rhythm", folder).code == 0
    (folder / "genres/blues/blues.00000.au").write_bytes(b"no audio")
    asked = ("--model", "mfcc", "--task", "gtzan-rhythm", "--data-dir", folder, "--json")
    planned = bench("plan", *asked)
    assert planned.code == 0, planned.err
    (row,) = planned.record["each"]
    assert (row["clips"], row["unreadable"]) == (40, 1)
    assert bench("run", *asked, "--dry-run").record["probes"] == row["probes"] > 0


def test_a_line_that_a_kill_cut_off_takes_no_other_with_it(tmp_path):
    span = Span("a" * 64, "0:")
    file = tmp_path / "audio/oddities.jsonl"
    file.parent.mkdir()
    file.write_text('5\n["bbbb')
    shard = Shard([span], lambda _: [], [])
    oddities.save_before(tmp_path, Cost(odd={span: ("quiet",)}), lambda _: None)(shard)
    assert oddities.load(tmp_path, [span]) == {span: ("quiet",)}

"""VocalSet: where a voice begins, the zip's folders, and chunks counted from there."""

import importlib
import shutil

import numpy as np
import pytest

from marble_bench import audio
from marble_bench.core import plugins
from marble_bench.data import corpus

CORPORA = "marble_bench.tasks.corpora"
# Where torchaudio 2.9.1's `vad` begins on `_voice(case)`, run once; None where it finds no voice.
TORCHAUDIO = [
    46305, 35280, 5600, None, 70560, 59535, None, 20957, 19845, 48510, None, None,
    None, 63945, 22400, 24266, 39690, None, 4800, 11030, None, 41895, None, 25369,
]  # fmt: skip


def _voice(case):
    """Three and a half seconds at one of three rates: noise, perhaps a faint burst, then a voice of eight harmonics."""
    random = np.random.default_rng(case)
    rate = (44100, 44100, 16000, 22050)[case % 4]
    lead, samples = random.uniform(0, 1.8), int(rate * 3.5)
    time = np.arange(samples) / rate
    hz = random.uniform(100, 500)
    voice = sum(np.sin(2 * np.pi * hz * k * time + random.uniform(0, 6)) * 0.5**k for k in range(1, 9))
    sound = np.where(time > lead, voice * random.uniform(0.05, 0.6), 0)
    if case % 3 == 0:
        sound = sound + ((time > lead - 0.35) & (time < lead - 0.25)) * voice * 0.05
    if case % 5 == 0:
        sound = sound * (0.5 + 0.5 * np.sin(2 * np.pi * 5 * time))
    return (sound + random.normal(size=samples) * 10 ** random.uniform(-5, -2.2)).astype(np.float32), rate


@pytest.fixture(scope="module")
def vocalset():
    return importlib.import_module(f"{CORPORA}.vocalset")


@pytest.fixture(scope="module")
def mini(miniatures, vocalset):
    return corpus.ensure_mini(vocalset.VOCALSET, miniatures)


@pytest.mark.parametrize("case", range(len(TORCHAUDIO)))
def test_a_voice_begins_where_torchaudios_vad_says(case):
    voice_start = importlib.import_module(f"{CORPORA}.voice_start").voice_start
    assert voice_start(*_voice(case)) == TORCHAUDIO[case]


def test_silence_and_hiss_have_no_voice():
    voice_start = importlib.import_module(f"{CORPORA}.voice_start").voice_start
    assert voice_start(np.zeros(44100, np.float32), 44100) is None
    assert voice_start(np.random.default_rng(0).normal(size=44100).astype(np.float32) * 1e-4, 44100) is None


@pytest.mark.slow
def test_chunks_follow_each_other_from_where_the_voice_begins(vocalset, mini):
    there = corpus.find_on_disk(plugins.find_task("vocalset-singer"), mini)
    by_recording = {}
    for clip, path in zip(there.clips, there.paths, strict=True):
        by_recording.setdefault((clip.group, path), []).append(clip)
    longest = max(by_recording.values(), key=len)
    assert len(longest) == 2
    for (_, path), clips in list(by_recording.items())[::20]:
        whole = audio.read(path, sample_rate_hz=vocalset.RATE_HZ)
        lead = np.flatnonzero(np.abs(whole) > 0.02)[0]
        assert abs(clips[0].start_s * vocalset.RATE_HZ - lead) < 0.3 * vocalset.RATE_HZ
        for number, clip in enumerate(clips):
            assert clip.start_s == pytest.approx(clips[0].start_s + number * 132_000 / 44_100)
            assert clip.duration_s == 132_000 / 44_100


@pytest.mark.slow
def test_both_tasks_share_the_chunks_of_a_recording(mini):
    spans = []
    for name in ("vocalset-technique", "vocalset-singer"):
        there = corpus.find_on_disk(plugins.find_task(name), mini)
        spans.append({clip.id: (clip.audio, clip.start_s) for clip in there.clips})
    shared = spans[0].keys() & spans[1].keys()
    assert len(shared) > 50
    assert all(spans[0][clip] == spans[1][clip] for clip in shared)


@pytest.mark.slow
def test_files_without_their_singer_and_regrouped_ones_are_found(vocalset, mini, tmp_path):
    bare = next(path for path in (mini / "FULL").rglob("*.wav") if path.stem.startswith("row"))
    singer = bare.parts[-4][0] + bare.parts[-4].lstrip("femal")
    name = f"{bare.parent.name}/{singer}_{bare.stem}"
    assert vocalset.locate(mini, f"{name}.wav") == bare
    (tmp_path / bare.parent.name).mkdir()
    regrouped = tmp_path / f"{name}.wav"
    shutil.copy(bare, regrouped)
    assert vocalset.locate(tmp_path, f"{name}.wav") == regrouped
    assert vocalset.locate(tmp_path, "belt/f1_nothing.wav") is None


def test_the_zips_second_copies_are_not_read(vocalset, mini, tmp_path):
    file = next((mini / "FULL").rglob("f*_*.wav"))
    copy = tmp_path / "data_by_technique" / file.parent.name / file.name
    copy.parent.mkdir(parents=True)
    shutil.copy(file, copy)
    assert vocalset.locate(tmp_path, f"{file.parent.name}/{file.name}") is None

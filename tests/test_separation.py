"""Separation: BSSEval against museval, the network and the Wiener step against open-unmix, spectra against torch.

`golden/openunmix.npz` was made once with openunmix 1.3.0 (PyPI, MIT): `OpenUnmix(nb_bins=17, hidden_size=8)` with drawn
weights, both ways, and `filtering.wiener(niter=1, softmask=False, residual=True)` on a drawn block in double precision.
"""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from marble_bench.probes import grid
from museval_alone import load_museval_measures

from marble_bench.core.task import Clip, Separation
from marble_bench.data.examples import Example, Examples
from marble_bench.errors import DataError, UsageError
from marble_bench.metrics import stem_metrics
from marble_bench.metrics._bsseval import (
    MEASURES,
    bss_eval,
    bss_eval_systems,
    global_sdr,
    median_of_medians,
)
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.runs.kinds import stems as separation
from marble_bench.separation.mixing import Chunks, Track

RATE = 8000
RULES = Separation(
    sample_rate_hz=8000, n_fft=256, hop=80, chunk_s=0.5, hidden=12, batch_size=4, max_epochs=6, learning_rates=(1e-2,)
)


@pytest.fixture(scope="module")
def probe():
    return importlib.import_module("marble_bench.separation.probe")


@pytest.fixture(scope="module")
def spectra():
    return importlib.import_module("marble_bench.separation.spectra")


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "openunmix.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _stems(random, sources=2, seconds=4.3):
    """References and estimates `(sources, samples, 2)`: leaking, filtered, noisy."""
    true = random.normal(size=(sources, round(seconds * RATE), 2)) * 0.1
    leaking = 0.7 * true + 0.2 * true.sum(axis=0)
    guess = np.apply_along_axis(lambda x: np.convolve(x, [1, 0.5, 0.2])[: len(x)], 1, leaking)
    return true, guess + 0.02 * random.normal(size=true.shape)


def _museval(true, guess):
    values = load_museval_measures().bss_eval(true, guess, window=RATE, hop=RATE, compute_permutation=False)
    return dict(zip(MEASURES, values[:4], strict=True))


@pytest.mark.slow
def test_bss_eval_by_blocks_is_musevals():
    random = np.random.default_rng(0)
    true, guess = _stems(random)
    true[1, RATE : 2 * RATE + 50] = 0  # silent through a window
    guess[0, 3 * RATE : 4 * RATE] = 0
    ours, theirs = bss_eval(true.astype(np.float32), guess, RATE), _museval(true.astype(np.float32), guess)
    for name in MEASURES:
        assert np.isnan(theirs[name]).all(axis=0).tolist() == [False, True, False, True]
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-9)


@pytest.mark.slow
def test_several_systems_at_once_get_what_each_gets_alone():
    random = np.random.default_rng(1)
    true, first = _stems(random)
    second = first + 0.1 * random.normal(size=true.shape)
    silent = first.copy()
    silent[1] = 0
    for ours, guess in zip(bss_eval_systems(true, [first, second, silent], RATE), (first, second, silent), strict=True):
        alone = bss_eval(true, guess, RATE)
        for name in MEASURES:
            np.testing.assert_allclose(ours[name], alone[name], atol=1e-9)
    assert np.isnan(bss_eval(true, silent, RATE)["sdr"][1]).all()


@pytest.mark.slow
def test_a_stem_that_is_silent_all_through_is_left_out_and_the_others_are_measured_without_it():
    true, guess = _stems(np.random.default_rng(2), sources=3, seconds=2)
    true[1] = 0
    ours, theirs = bss_eval(true, guess, RATE), _museval(true[[0, 2]], guess[[0, 2]])
    for name in MEASURES:
        assert np.isnan(ours[name][1]).all()
        np.testing.assert_allclose(ours[name][[0, 2]], theirs[name], atol=1e-9)


@pytest.mark.slow
def test_a_song_shorter_than_a_window_is_one_window():
    true, guess = _stems(np.random.default_rng(3), seconds=0.6)
    np.testing.assert_allclose(bss_eval(true, guess, RATE)["sdr"], _museval(true, guess)["sdr"], atol=1e-9)


def test_equal_channels_make_the_equations_singular_and_are_measured_all_the_same():
    random = np.random.default_rng(4)
    true, guess = _stems(random, seconds=2)
    true[:, :, 1] = true[:, :, 0]
    found = bss_eval(true, guess, RATE)
    direct = [
        [global_sdr(t[a : a + RATE], g[a : a + RATE]) for a in (0, RATE)] for t, g in zip(true, guess, strict=True)
    ]
    np.testing.assert_allclose(found["sdr"], direct, atol=1e-5)
    assert np.isfinite(found["sar"]).all()


def test_global_sdr_is_its_formula_and_undefined_for_silence():
    random = np.random.default_rng(0)
    true = random.normal(size=(2, 5000)).astype(np.float32)
    noise = random.normal(size=true.shape).astype(np.float32)
    by_hand = 10 * math.log10(float((true.astype(float) ** 2).sum() / ((0.1 * noise.astype(float)) ** 2).sum()))
    assert global_sdr(true, true + np.float32(0.1) * noise) == pytest.approx(by_hand, abs=1e-4)
    assert global_sdr(true, np.zeros_like(true)) == pytest.approx(0, abs=1e-9)
    assert math.isnan(global_sdr(np.zeros_like(true), noise))
    with pytest.raises(UsageError, match="alike"):
        global_sdr(true, noise[:, 1:])


def test_medians_and_means_leave_out_what_is_not_there():
    tracks = [np.array([[1.0, 2, 9], [np.nan] * 3]), np.array([[5.0, 5, 5], [4, np.nan, 8]])]
    assert median_of_medians(tracks).tolist() == [3.5, 6.0]
    metrics = {metric.name: metric for metric in stem_metrics(("a", "b"))}
    rows = torch.tensor([[[1.0, 2.0, 1.0, math.nan], [3.0, math.nan, 4.0, 6.0], [5.0, 8.0, 9.0, 8.0]]])
    got = {name: float(metric.compute(rows, torch.zeros(3, 0))) for name, metric in metrics.items()}
    assert got == {
        "sdr": 4.0,
        "sdr_a": 3.0,
        "sdr_b": 5.0,
        "museval_sdr": 5.5,
        "museval_sdr_a": 4.0,
        "museval_sdr_b": 7.0,
    }
    assert metrics["sdr"].per_clip(rows, torch.zeros(3, 0)).tolist() == [[1.5, 3.0, 6.5]]


def test_the_wiener_step_is_open_unmixs(spectra, golden):
    mixture = torch.view_as_complex(golden["wiener:mixture"])  # channels are alike in one bin
    single = torch.view_as_real(spectra.filter_wiener(golden["wiener:magnitude"], mixture))
    torch.testing.assert_close(single.double(), golden["wiener:stem"], atol=1e-5, rtol=1e-6)
    double = torch.view_as_real(
        spectra.filter_wiener(golden["wiener:magnitude"].double(), mixture.to(torch.complex128))
    )
    # open-unmix's own pi has single precision
    torch.testing.assert_close(double, golden["wiener:stem"], atol=1e-5, rtol=1e-6)


def test_where_the_mixture_is_silent_so_is_the_stem(spectra, golden):
    mixture = torch.view_as_complex(golden["wiener:mixture"]).clone()
    mixture[4], mixture[7, 2, 0] = 0, 0
    magnitude = golden["wiener:magnitude"] * (mixture.abs().sum(dim=-1) > 0)
    stem = spectra.filter_wiener(magnitude, mixture)
    assert (stem[4] == 0).all()
    assert torch.view_as_real(stem).isfinite().all()


def _state(golden, tag, probe):
    """Open-unmix's weights under our names."""
    state = {}
    for name, value in golden.items():
        if not name.startswith(f"{tag}/"):
            continue
        part, _, leaf = name.removeprefix(f"{tag}/").partition(".")
        if part == "lstm":
            kind, layer, *back = leaf.replace("weight_", "").replace("bias_", "b").split("_")
            kind = {"bih": "bi", "bhh": "bh"}.get(kind, kind)
            state[f"lstm{layer[1:]}{'_back' if back else ''}.{kind}"] = value
        elif part.startswith("bn"):
            state[f"{part}.{leaf.removeprefix('running_')}"] = value.clone()
        else:
            state[part] = value
    return state


@pytest.mark.parametrize("tag", ["one", "two"])
def test_the_network_is_open_unmixs(probe, golden, tag):
    rules = Separation(n_fft=32, hidden=8, bidirectional=tag == "two")
    state = _state(golden, tag, probe)
    assert set(state) == set(probe.init_state(17, 0, rules, torch.Generator().manual_seed(0)))
    x = golden[f"{tag}:input"].transpose(1, 2)
    for mode in ("eval", "train"):
        squashed = probe.encode_frames(state, x, training=mode == "train")
        made = probe.mask(state, probe.run_lstm(state, squashed, rules), training=mode == "train") * x
        torch.testing.assert_close(made.transpose(1, 2), golden[f"{tag}:{mode}"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state["bn1.mean"], golden[f"{tag}:bn1_after"], atol=1e-6, rtol=1e-5)


def test_pieces_of_a_spectrogram_and_the_way_back_are_torchs(spectra):
    sound = torch.randn(2, 9001, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(RULES.n_fft)
    whole = torch.stft(sound, RULES.n_fft, RULES.hop, window=window, return_complex=True)
    parts = list(spectra.compute_spectra(sound, RULES, 37))
    torch.testing.assert_close(torch.cat(parts), whole.permute(2, 1, 0))
    torch.testing.assert_close(spectra.compute_magnitudes(sound, RULES), whole.abs().mean(dim=0).T)
    scaled = [part * 0.5 for part in parts]
    back, first = spectra.Resynthesis(9001, 2, RULES, "cpu"), 0
    for part in scaled:
        back.add(first, part)
        first += len(part)
    theirs = torch.istft(0.5 * whole, RULES.n_fft, RULES.hop, window=window, length=9001)
    torch.testing.assert_close(back.finish()[:, :8960], theirs[:, :8960], atol=1e-6, rtol=1e-5)


class Frames:
    """Frames in memory, as the store hands them out: one array `(frames, width)` per layer and item."""

    def __init__(self, layers, rates):
        self.layers, self.rates = layers, rates
        self.widths = [layer[0].shape[1] for layer in layers]

    def length(self, layer, item):
        return len(self.layers[layer][item])

    def read(self, layer, item, first, count):
        return self.layers[layer][item][first : first + count]


def test_features_are_put_on_the_spectrograms_frames_by_time(probe):
    ramp = np.arange(60, dtype=np.float16)[:, None]
    frames = Frames([[ramp], [ramp[:25]]], [100.0, 40.0])
    # 100 frames a second on both sides; beyond the last one it is repeated
    assert probe.align_frames(frames, 0, 0, 55, 63, RULES)[:, 0].tolist() == [55, 56, 57, 58, 59, 59, 59, 59]
    assert probe.align_frames(frames, 1, 0, 0, 7, RULES)[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(DataError, match="no frames in layer 0"):
        probe.align_frames(Frames([[ramp[:0]]], [100.0]), 0, 0, 0, 5, RULES)


@pytest.fixture(scope="module")
def material(probe, spectra, tmp_path_factory):
    """Two stems, a low and a high noise, whose loudness two layers of features give away; the second is clearer."""
    folder, random = tmp_path_factory.mktemp("material"), np.random.default_rng(0)

    def sound(samples):
        parts = []
        for sign in (1, -1):
            white = random.normal(size=(2, samples + 1))
            level = np.repeat(random.random(samples // 800 + 1), 800)[:samples]
            parts.append(0.1 * level * (white[:, 1:] + sign * white[:, :-1]))
        return np.stack(parts).astype(np.float32)

    def features(stems):
        loud = np.log(spectra.compute_magnitudes(torch.from_numpy(stems), RULES).mean(dim=2).T.numpy() + 1e-3)
        noisy = loud + random.normal(size=loud.shape)
        return noisy.astype(np.float16), loud.astype(np.float16)

    chunks = [sound(RULES.chunk) for _ in range(12)]
    np.stack(chunks).astype(np.float16).tofile(folder / "chunks")
    songs, tracks = [sound(6400) for _ in range(2)], []
    for index, stems in enumerate(songs):
        np.concatenate([stems.sum(axis=0, keepdims=True), stems]).tofile(folder / f"track{index}")
        tracks.append(Track(folder / f"track{index}", f"song{index}", ("mixture", "low", "high"), 6400))
    sides = [[list(layer) for layer in zip(*map(features, part), strict=True)] for part in (chunks, songs)]
    train, valid = (Frames(side, [100.0, 100.0]) for side in sides)
    return probe.TrainingData(Chunks(folder / "chunks", 12, 2, RULES), train, tracks, valid, (0, 1))


@pytest.fixture(scope="module")
def fitted(probe, material):
    probes = grid.build_grid(replace(MARBLE, learning_rates=RULES.learning_rates), [0, 1], True, 2, 2)
    return probes, probe.fit(probes, material, RULES)


@pytest.mark.slow
def test_separators_learn_what_the_features_say(probe, material, fitted):
    _, every = fitted
    mixture = np.mean([global_sdr(t.read("low"), t.read("mixture")) for t in material.tracks])
    chosen = probe.choose(every, 2, 2)
    assert all(one.valid > mixture + 3 for row in chosen for one in row)
    assert [one.probe.seed for row in chosen for one in row] == [0, 0, 1, 1]
    assert [one.probe.stem for row in chosen for one in row] == [0, 1, 0, 1]
    for one in every:
        assert one.valid == max(one.history) == one.history[one.best_epoch]
        assert len(one.history) <= RULES.max_epochs


@pytest.mark.slow
def test_a_separator_alone_is_what_it_is_in_the_grid(probe, material, fitted):
    probes, every = fitted
    index = probes.index(grid.Probe(1, 1e-2, 0.0, 1, stem=1))
    (alone,) = probe.fit([probes[index]], material, RULES)
    assert alone.history == pytest.approx(every[index].history, abs=1e-6)
    other = every[probes.index(grid.Probe(1, 1e-2, 0.0, 0, stem=1))]
    assert other.history != pytest.approx(alone.history, abs=1e-3)


@pytest.mark.slow
def test_a_sum_of_layers_has_learnt_weights(probe, fitted):
    _, every = fitted
    sums = [one for one in every if one.probe.layer is None]
    assert len(sums) == 4
    assert all(one.state["mix"].shape == (2,) and math.isfinite(one.valid) for one in sums)
    assert not any("mix" in one.state for one in every if one.probe.layer is not None)


def test_targets_are_the_same_kept_in_memory_or_made_anew(probe, material, monkeypatch):
    kept = probe._Targets(material.chunks, "cpu")
    monkeypatch.setattr(probe, "CACHE_BYTES", 0)
    anew = probe._Targets(material.chunks, "cpu")
    assert kept.cached is not None
    assert anew.cached is None
    for _ in range(2):
        assert torch.equal(kept.batch([3, 1]), anew.batch([3, 1]))


def test_separating_goes_piece_by_piece_without_a_seam(probe, material, fitted, monkeypatch):
    _, every = fitted
    mixture = torch.from_numpy(material.tracks[0].read("mixture"))
    found = []
    for piece in (600, 17):
        monkeypatch.setattr(probe, "PIECE", piece)
        found.append(probe.separate(every[0].state, mixture, material.valid, (0,), 0, RULES, False))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert found[0].shape == mixture.shape


def test_a_bidirectional_separator_trains_too(probe, material):
    rules = replace(RULES, bidirectional=True, max_epochs=1)
    (one,) = probe.fit([grid.Probe(1, 1e-2, 0.0, 0, stem=0)], material, rules)
    assert math.isfinite(one.valid)
    assert one.state["lstm0_back.hh"].shape == (24, 6)


def test_separators_that_all_diverge_are_an_error(probe):
    lost = grid.TrainedProbe(grid.Probe(0, 1e-3, 0.0, 0, stem=0), math.nan, -1, (), True, {})
    with pytest.raises(DataError, match="diverged in its first steps"):
        probe.choose([lost], 1, 1)


def test_songs_counted_by_weight_score_as_songs_repeated():
    from marble_bench.metrics import stem_metrics

    rows = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 1, 0] = torch.nan
    weights = torch.tensor([[2, 0, 1, 1, 1], [0, 3, 0, 1, 1]])
    for metric in stem_metrics(("vocals", "drums")):
        assert metric.smooth == ("museval" not in metric.name)
        if metric.smooth:
            found = metric.weighted(rows, torch.zeros(5), weights)
            for replicate, counts in zip(found, weights, strict=True):
                drawn = rows[:, torch.arange(5).repeat_interleave(counts)]
                assert torch.allclose(replicate, metric.compute(drawn, torch.zeros(drawn.shape[1])))


def test_a_song_that_could_not_be_read_a_moment_ago_is_not_used_without_its_digest(monkeypatch):
    """Its file is read twice, and the digest, by which features and mixtures are known, is of the first time."""
    found = Examples([Example(Clip("song", "train", "song.stem.mp4", None), Path("song.stem.mp4"), "")])
    monkeypatch.setattr(separation.stems, "digest", lambda *_: "0" * 64)
    monkeypatch.setattr(separation.stems, "open_song", lambda *_: "open")
    assert separation._open_songs(found, ("drums",)) == (
        {},
        {"song": "song.stem.mp4 could not be read a moment ago: run again"},
    )

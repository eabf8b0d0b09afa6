"""How fast features are made, side by side in one run, in seconds of audio a second.

python benchmarks/extract.py [--only musicnn-mtt mert-95m-random mfcc] [--device cpu|cuda]

ours       files to stored features, as `bench` makes them (digests of the files, decoding, encoding, writing)
(a) loop   the common loop: librosa.load, one file at a time, float32, every hidden state to the host, its mean over time,
           one .npy a file. It gets all windows of a file in one batch, which published suites do not all do, and it calls
           our encoder: what makes an encoder itself faster (BLAS at one thread for `mfcc`) serves the loop too
(b) alone  the encoder on tensors that are ready, in our batches, pooled, the result to the host
decode     reading, resampling and cutting alone, in as many threads as ours

The lower of (b) and decode is a ceiling that ours can only reach where encoding and decoding do not share cores. `both` is
what is left where they share all of them: 1 / (1 / alone + 1 / decode). Encoders are loaded, and have run once, before any
clock. Rounds take turns, so that a change of the machine's speed meets all four; medians are printed. The audio is made
here: 30 s of stereo noise and tones at 44.1 kHz, half wav, half mp3. A second line has the same by the processor time of all
threads, which says how much work it is, also on a machine that others use: what threads cost each other shows there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

CLIP_S, RATE_HZ = 30.0, 44100


@dataclass(frozen=True)
class Case:
    """An encoder, how it is loaded, the window, and how many clips a round takes."""

    encoder: Any
    weights: Any
    window_s: float
    clips: int


def write_audio(folder: Path, clips: int) -> list[Path]:
    """Half wav, half mp3."""
    import numpy as np
    import soundfile

    random = np.random.default_rng(0)
    time_s = np.arange(round(CLIP_S * RATE_HZ)) / RATE_HZ
    paths = []
    for index in range(clips):
        tone = 0.2 * np.sin(2 * np.pi * 110 * 2 ** (index / 12) * time_s)
        noise = 0.05 * random.standard_normal((len(time_s), 2))
        paths.append(folder / f"{index:03}.{'wav' if index % 2 else 'mp3'}")
        soundfile.write(paths[-1], (tone[:, None] + noise).astype(np.float32), RATE_HZ)
    return paths


def build_mert() -> Any:
    """A HubertModel of the size of MERT-v1-95M (12 layers of 768, 320 samples a frame at 24 kHz), random weights."""
    from marble_bench.core.encoder import Encoder, stack

    def load(path: Path | None, device: str) -> Any:
        import torch
        from transformers import HubertConfig, HubertModel

        torch.manual_seed(0)
        model = HubertModel(HubertConfig(num_feat_extract_layers=7)).eval().to(device)
        blocks = model.encoder.layers

        def encode(waveforms: Any, pool: Any) -> Any:
            found: list[Any] = []
            hooks = [blocks[0].register_forward_pre_hook(lambda _, x: found.append(pool(x[0])))]
            hooks += [
                block.register_forward_hook(lambda _, x, y: found.append(pool(y[0] if isinstance(y, tuple) else y)))
                for block in blocks
            ]
            try:
                model(waveforms)
            finally:
                for hook in hooks:
                    hook.remove()
            return found

        return encode

    return Encoder(
        name="mert-95m-random",
        description="MERT-95M's graph with random weights",
        sample_rate_hz=24000,
        layers=stack(13, 768, 75.0),
        load=load,
        license="none",
        citation="Li et al., MERT, ICLR 2024",
        min_s=0.1,
        normalize="zscore",
    )


def list_cases(cache: Path, only: list[str], share: float) -> list[Case]:
    """What is measured. MusiCNN's weights come from PyPI, once."""
    from marble_bench.core import plugins
    from marble_bench.encoders import weights

    found = []
    for name, window_s, clips in (("musicnn-mtt", 10.0, 16), ("mert-95m-random", 5.0, 2), ("mfcc", 10.0, 32)):
        if name in only:
            encoder = build_mert() if name == "mert-95m-random" else plugins.find_encoder(name)
            found.append(Case(encoder, weights.resolve(encoder, cache), window_s, max(1, round(share * clips))))
    return found


def measure_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that something takes by the clock, and of processor time in all threads."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def run_loop(encode: Any, encoder: Any, window_s: float, paths: list[Path], folder: Path, device: str) -> None:
    """The common loop."""
    import librosa
    import numpy as np
    import torch

    length = round(window_s * encoder.sample_rate_hz)
    for path in paths:
        wave, _ = librosa.load(path, sr=encoder.sample_rate_hz, mono=True)
        if encoder.normalize == "peak":
            wave = wave / np.abs(wave).max()
        if encoder.normalize == "zscore":
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        windows = torch.from_numpy(wave[: len(wave) // length * length].reshape(-1, length).astype(np.float32))
        with torch.inference_mode():
            states = [layer.cpu().numpy() for layer in encode(windows.to(device), lambda frames: frames)]
        np.save(folder / f"{path.stem}.npy", np.concatenate([state.mean(axis=1) for state in states], axis=1))


def measure(case: Case, rounds: int, work: Path, device: str) -> dict[str, tuple[float, float]]:
    """Median seconds of audio a second of one encoder, by the clock and by processor time."""
    import torch

    from marble_bench.core.task import Clip, Window
    from marble_bench.features import pooled, runner
    from marble_bench.features.precision import average_over_time

    paths = write_audio(work, case.clips)
    encoder, window = case.encoder, Window(length_s=case.window_s)
    encode = encoder.load(case.weights.path, device)
    ready = replace(encoder, load=lambda *_: encode)
    clips = [Clip(path.stem, "train", path.name, "x") for path in paths]
    audio_s = case.clips * CLIP_S

    def ours(cache: Path, most: int | None = None) -> None:
        found = zip(clips[:most], paths[:most], pooled.compute_digests(paths[:most]), strict=True)
        pooled.extract([pooled.Item(*each, None) for each in found], ready, case.weights, window, cache, device)

    items = [pooled.Item(clip, path, "", None) for clip, path in zip(clips, paths, strict=True)]

    def decode() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(partial(pooled._cut_windows, encoder=encoder, window=window), items):
                pass

    waves = torch.cat([torch.from_numpy(pooled._cut_windows(item, encoder, window)[0]) for item in items])
    step = int(runner.BATCH_S // case.window_s)

    def alone() -> None:
        with torch.inference_mode():
            for batch in torch.split(waves, step):
                for layer in encode(batch.to(device), average_over_time):
                    layer.cpu().numpy()

    (work / "npy").mkdir()
    ours(work / "warm", 1)  # imports and compiles what all need
    run_loop(encode, encoder, case.window_s, paths[:1], work / "npy", device)
    taken: dict[str, list[tuple[float, float]]] = {"ours": [], "loop": [], "alone": [], "decode": []}
    for number in range(rounds):
        taken["ours"].append(measure_seconds(partial(ours, work / f"cache{number}")))
        taken["alone"].append(measure_seconds(alone))
        taken["decode"].append(measure_seconds(decode))
        taken["loop"].append(
            measure_seconds(partial(run_loop, encode, encoder, case.window_s, paths, work / "npy", device))
        )
    middle = {name: [statistics.median(each) for each in zip(*runs, strict=True)] for name, runs in taken.items()}
    return {name: (audio_s / wall, audio_s / used) for name, (wall, used) in middle.items()}


def main() -> None:
    """Measure and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["musicnn-mtt", "mert-95m-random", "mfcc"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="this part of the clips, for a busy machine")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    from marble_bench.files.cache import find_cache_root

    print(
        f"{asked.device}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads; audio s/s"
    )
    heads = ("ours", "(a) loop", "(b) alone", "decode", "ours/(a)", "of the lower", "of both")
    print(f"{'':26}" + "".join(f"{head:>13}" for head in heads))
    for case in list_cases(find_cache_root(), asked.only, asked.share):
        work = Path(tempfile.mkdtemp(prefix="bench-extract-"))
        try:
            rates = measure(case, asked.rounds, work, asked.device)
        finally:
            shutil.rmtree(work)
        for index, by in enumerate(("clock", "processor")):
            rate = {name: each[index] for name, each in rates.items()}
            lower = min(rate["alone"], rate["decode"])
            both = 1 / (1 / rate["alone"] + 1 / rate["decode"])
            shown = [f"{rate[name]:.1f}" for name in ("ours", "loop", "alone", "decode")]
            shown += [
                f"{rate['ours'] / rate['loop']:.2f} x",
                f"{rate['ours'] / lower:.0%}",
                f"{rate['ours'] / both:.0%}",
            ]
            print(f"{case.encoder.name:16}{by:10}" + "".join(f"{each:>13}" for each in shown), flush=True)


if __name__ == "__main__":
    main()

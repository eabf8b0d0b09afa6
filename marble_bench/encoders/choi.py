"""CHOI: a small tagger on mel spectrograms, of which the average after each of five blocks is taken.

Source: Choi, Fazekas, Sandler and Cho, "Transfer learning for music classification and regression tasks" (ISMIR 2017);
weights in github.com/keunwoochoi/transfer_learning_music, for Keras 1.2.2 on Theano. The five published files hold the
same numbers, the later ones more blocks; the last alone is read. The layer `all` is the feature that JukeMIR takes.

Front end: 12 kHz mono, power spectrogram (512 samples, hop 256, periodic Hann, zeros beyond the ends), 96 Slaney mel
bands to 6 kHz, in decibels below the stretch's loudest bin, cut at -80. (The STFT kernels and the mel matrix stored with
the weights are these, to 4e-8 and 4e-9, and are not read.) Five times: convolution 3x3 of 32 channels, batch
normalisation, ELU, max pooling. Theano turns kernels round, the STFT's too, so they are stored turned and its frames begin
a sample earlier.

The network takes 29 s. A longer window is cut into stretches of 29 s, and what remains is dropped; a shorter one is
repeated until it fills 29 s, as JukeMIR does it (the authors fill up with silence): the last pooling has nothing to pool
below 27.3 s. A layer has one frame a stretch.

That they are turned is measured (`benchmarks/choi_kernels.py`): the weights come with a head of fifty tags, which on 96
excerpts of GTZAN tells genres by their own tags (jazz by "jazz") with a mean ROC AUC of 0.75 if the kernels are turned,
and of 0.51 if not.

Departures: the network normalises by the statistics of whatever batch it is given, also when it is used (Keras calls
it mode 2), and sets the decibels' zero by the batch's loudest bin; the stored running statistics are of no use. Here
features do not depend on what else is encoded, in one of two ways, and zero is each stretch's loudest bin.

- `choi`: each stretch by its own statistics, as if it were alone, which is how the authors' easy_feature_extraction.py runs.
- `choi-fixed`: every stretch by the same statistics, measured once on 323 excerpts of music, which comes near to JukeMIR's
  batches of 256 shuffled files. A stretch's own statistics take away how it differs from others: on 499
  excerpts the tags' mean AUC is 0.89 with fixed statistics as with batches of 64, and 0.71 with a stretch's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.encoders._choi_statistics import STATISTICS
from marble_bench.encoders._mel import banded
from marble_bench.encoders.tensors import read_exactly
from marble_bench.errors import DataError, UsageError
from marble_bench.files.locks import one_at_a_time

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "Mapping[str, torch.Tensor]"

SAMPLE_RATE_HZ = 12000
WINDOW, HOP, BANDS = 512, 256, 96  # samples, samples, mel bands
STRETCH = 29 * SAMPLE_RATE_HZ  # samples
CHANNELS = 32
POOLING = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))  # (bands, frames), block by block
EPSILON = 1e-3  # of the normalisation: Keras 1.2's default
FLOOR_DB, LEAST_POWER = -80.0, 1e-10
AT_ONCE = 8  # stretches that go through the network together, which bounds its memory
COMMIT = "e1f83c389ff32ce48551f916414ae869cbe7f6e6"
FILE = "weights_layer4_theano.hdf5"
GROUP = "ConvBNEluDr"
STORED = {  # what the file calls the parts of a block
    "weight": "convolution2d_{block}_W",
    "bias": "convolution2d_{block}_b",
    "gamma": "batchnormalization_{block}_gamma",
    "beta": "batchnormalization_{block}_beta",
}

SHAPES = {
    f"{block}.{part}": shape
    for block in range(1, 6)
    for part, shape in (
        ("weight", (CHANNELS, 1 if block == 1 else CHANNELS, 3, 3)),
        ("bias", (CHANNELS,)),
        ("gamma", (CHANNELS,)),
        ("beta", (CHANNELS,)),
    )
}


def mel_filters(device: str) -> torch.Tensor:
    """The 96 Slaney mel filters `(96, 257)`."""
    import librosa
    import torch

    with one_at_a_time():
        filters = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=WINDOW, n_mels=BANDS, fmin=0, fmax=6000)
    return torch.from_numpy(filters).to(device)


def decibels(waveforms: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Waveforms `(stretches, samples)` at 12 kHz to `(stretches, 96, ceil(samples / 256))`, 0 dB being the loudest bin."""
    import torch
    from torch.nn import functional as F

    frames = -(-waveforms.shape[1] // HOP)
    padded = F.pad(waveforms, (WINDOW // 2 + 1, WINDOW // 2 - 1))
    window = torch.hann_window(WINDOW, device=waveforms.device)
    spectra = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)[..., :frames]
    level = 10 * torch.log10(banded(filters, spectra.abs().square()).clamp(min=LEAST_POWER))
    return (level - level.amax(dim=(1, 2), keepdim=True)).clamp(min=FLOOR_DB)


def averages(level: torch.Tensor, tensors: Tensors) -> list[torch.Tensor]:
    """Mel spectrograms `(stretches, 96, frames)` in decibels to the average after each block, five `(stretches, 32)`.

    A block is normalised by `N.mean` and `N.variance` if they are among the tensors, else each stretch by its own.
    """
    from torch.nn import functional as F

    x, found = level.unsqueeze(1), []
    for block, pooling in enumerate(POOLING, start=1):
        weight, bias, gamma, beta = (tensors[f"{block}.{part}"] for part in ("weight", "bias", "gamma", "beta"))
        x = F.conv2d(x, weight, bias, padding=1)
        if f"{block}.mean" in tensors:
            x = F.batch_norm(
                x, tensors[f"{block}.mean"], tensors[f"{block}.variance"], weight=gamma, bias=beta, eps=EPSILON
            )
        else:  # batch normalisation of a batch of one
            x = F.instance_norm(x, weight=gamma, bias=beta, eps=EPSILON)
        x = F.max_pool2d(F.elu(x), pooling)
        found.append(x.mean(dim=(2, 3)))
    return found


def _load(fixed: bool, weights: Path | None, device: str) -> Encode:
    import torch

    assert weights is not None
    tensors, filters = dict(read_exactly(weights, SHAPES, device, of="CHOI")), mel_filters(device)
    if fixed:
        for block, (mean, variance) in enumerate(STATISTICS, start=1):
            tensors[f"{block}.mean"] = torch.tensor(mean, device=device)
            tensors[f"{block}.variance"] = torch.tensor(variance, device=device)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        with torch.inference_mode():
            windows, samples = waveforms.shape
            count = max(samples // STRETCH, 1)
            filled = waveforms.repeat(1, -(-STRETCH // samples))
            stretches = filled[:, : count * STRETCH].reshape(windows * count, STRETCH)
            parts = [averages(decibels(each, filters), tensors) for each in torch.split(stretches, AT_ONCE)]
            blocks = [torch.cat(block).reshape(windows, count, CHANNELS) for block in zip(*parts, strict=True)]
            return [pool(layer) for layer in (*blocks, torch.cat(blocks, dim=2))]

    return encode


def _convert(downloaded: Path, path: Path) -> None:
    """Write the blocks, kernels turned as Theano applies them. `downloaded`: the last block's file, or its folder."""
    import numpy as np
    from safetensors.numpy import save_file

    try:
        import h5py
    except ImportError as error:
        raise UsageError("CHOI's weights are HDF5: pip install marble-bench[choi]") from error
    place = downloaded / FILE if downloaded.is_dir() else downloaded
    found = {}
    try:
        with h5py.File(place, "r") as file:
            for name, shape in SHAPES.items():
                block, _, part = name.partition(".")
                values = _values(file, f"{GROUP}/{STORED[part].format(block=block)}", shape)
                found[name] = values[:, :, ::-1, ::-1] if part == "weight" else values
    except KeyError as error:
        raise DataError(f"{place} lacks {error}; give {FILE}, which holds all five blocks") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # what h5py makes of a damaged file
        raise DataError(f"{place} cannot be read as HDF5: {error}; get it again") from error
    save_file({name: np.ascontiguousarray(each, dtype=np.float32) for name, each in found.items()}, path)


def _values(file: Any, name: str, shape: tuple[int, ...]) -> Any:
    """One array of an HDF5 file, its shape compared before anything is read, so that no file asks for more memory.

    Raises DataError for another shape or type, and for numbers that lie in other files, which HDF5 allows.
    """
    found = file[name]
    if getattr(found, "shape", None) != shape or found.dtype.kind != "f":
        what = f"{getattr(found, 'dtype', 'a group')} {getattr(found, 'shape', '')}".strip()
        raise DataError(f"{file.filename} holds {name} as {what}; floating-point numbers {shape} are expected")
    if found.file.filename != file.filename or found.is_virtual or found.external:
        raise DataError(f"{file.filename} takes {name} from another file; give {FILE} as its makers publish it")
    return found[()]


_RATE_HZ = SAMPLE_RATE_HZ / STRETCH


def _encoder(name: str, fixed: bool, how: str) -> Encoder:
    return Encoder(
        name=name,
        description=f"Five small convolutions on a mel spectrogram, trained to tag music, normalised by {how}",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=(
            *(Layer(f"block{block}", CHANNELS, _RATE_HZ) for block in range(1, 6)),
            Layer("all", 5 * CHANNELS, _RATE_HZ),
        ),
        load=partial(_load, fixed),
        license="none stated",
        citation="Choi et al., Transfer learning for music classification and regression tasks, ISMIR 2017",
        min_s=1.0,
        stretch_s=STRETCH / SAMPLE_RATE_HZ,
        parameters=37632,
        gflop_per_s=0.3,
        training_data=("Million Song Dataset", "GTZAN (statistics of its sound)")
        if fixed
        else ("Million Song Dataset",),
        weights=Source(
            url=f"https://github.com/keunwoochoi/transfer_learning_music/raw/{COMMIT}/weights_transfer/{FILE}",
            file=FILE,
            revision=COMMIT,
            sha256="caf89f811415691fbb245be7eef394b9cebd787d7e3f78e29695972141cf2a08",
            size_bytes=1329264,
            note="no licence is stated; needs the extra marble-bench[choi]",
        ),
        convert=_convert,
    )


ENCODERS = (
    _encoder("choi", False, "each stretch's own statistics"),
    _encoder("choi-fixed", True, "the same statistics for all"),
)

"""MusiCNN and the VGG baseline: four small taggers trained on mel spectrogram patches of three seconds.

Sources: Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging" (ISMIR 2019 late
breaking); the weights are those of the PyPI package `musicnn` 0.1.0 (ISC licence), and MSD_musicnn_big, which only the
repository github.com/jordipons/musicnn holds. Its `mean_max_pool`, 4194 numbers, is the feature that JukeMIR and MARBLE
take, `musicnn` in the published tables; here it is `musicnn` and `musicnn-msd-big`, one encoder by two names.

Front end: 16 kHz mono, power spectrogram (512 samples, hop 256, periodic Hann, centred, reflected at the ends), 96
Slaney mel bands to 8 kHz, rounded to half floats, log10(10000 x + 1). A window is cut into patches of 187 frames
(2.992 s) without overlap; the remainder is dropped. Frames of a window's patches follow one another in time.

MusiCNN layers: `timbral`, `temporal`, `cnn1`, `cnn2`, `cnn3` at 62.5 frames a second; `mean_pool`, `max_pool`, both
together as `mean_max_pool`, and `penultimate`, one frame a patch. A window shorter than one patch is taken whole as a
shorter patch, which MusiCNN allows (the package offers other lengths for it too). VGG layers: the five max-pooled maps
averaged over frequency; its patches are of one length only. The trained VGG graphs pool otherwise than the package's
Python code says; what is written here is what the graphs do.

`random-musicnn` is the graph of `musicnn-mtt`, front end and all, with weights from a seed: what of MusiCNN is its
architecture. That untrained convolutions shaped after music are features worth a comparison is known from Pons and Serra,
"Randomly weighted CNNs for (music) audio classification" (ICASSP 2019). Kernels are uniform with the variance 2 / inputs
(He et al. 2015), biases are 0, and every batch normalisation has mean 0, variance 1, scale 1 and offset 0, so that it
changes nothing but for its epsilon: statistics would have to be learnt from some corpus. The paper's networks and
classifiers are others, so that its numbers are not to be looked for here.

Departs from the package: NumPy 2 keeps `10000 * half` in half precision, where loud bins overflow to infinity. Here the
half floats are widened first, as NumPy 1 did and as the networks were trained.
"""

from __future__ import annotations

import math
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.encoders import _random
from marble_bench.encoders._mel import banded
from marble_bench.encoders.tensors import read_exactly
from marble_bench.errors import DataError, listing
from marble_bench.files.archives import LARGEST_READ, tar_of
from marble_bench.files.locks import one_at_a_time

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "Mapping[str, torch.Tensor]"
Activations: TypeAlias = "dict[str, torch.Tensor]"

SAMPLE_RATE_HZ = 16000
WINDOW, HOP, BANDS = 512, 256, 96  # samples, samples, mel bands
PATCH = 187  # frames
PATCH_RATE_HZ = SAMPLE_RATE_HZ / (PATCH * HOP)
AT_ONCE = 32  # patches that go through a network together, which bounds its memory whatever a window's length
NORM_EPSILON = 1e-3  # TensorFlow's default, which the networks were trained with
TAGS = 50
LARGEST = 1 << 27  # bytes of a checkpoint's file that are read; the largest, MSD_musicnn_big's, has 96 million
MOST = 1 << 30  # bytes of an archive that are gone through; the package's has 29 million packed
RANDOM_SEED = 0
FRONT = 561  # channels of the first two layers together
SMALL, BIG = (64, 200), (512, 500)  # channels of the middle, width of the penultimate layer
# The VGGs' max pooling, block by block: (size, stride), each as (frames, bands).
MTT_POOLING = (((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4)))
MSD_POOLING = (((4, 1), (4, 1)), ((1, 4), (1, 4)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4)))
Pooling: TypeAlias = "tuple[tuple[tuple[int, int], tuple[int, int]], ...]"


@dataclass(frozen=True)
class Network:
    """One trained network: its checkpoint's folder in the package, its tensors' shapes, and what computes it.

    activations: `(patches (patches, frames, 96), tensors)` -> every layer by name and the tags' `logits`
        `(patches, 50)`. A layer is `(patches, frames, width)`, `(patches, width)` or `(patches, frames, bands, width)`.
    """

    folder: str
    shapes: Mapping[str, tuple[int, ...]]
    activations: Callable[[torch.Tensor, Tensors], Activations]

    @property
    def parameters(self) -> int:
        """Trained numbers; the moving means and variances of the batch normalisations are not among them."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if "/moving_" not in name)


def _shapes(kernels: Mapping[str, tuple[int, ...]], norms: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names as in the checkpoint, shapes in PyTorch's order: (out, in, frames, bands) and (out, in)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in kernels.items():
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = shape, shape[:1]
    for index, width in enumerate(norms):
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{_numbered('batch_normalization', index)}/{part}"] = (width,)
    return shapes


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name


def _conv(x: torch.Tensor, tensors: Tensors, name: str, norm: int, padding: tuple[int, int]) -> torch.Tensor:
    """Convolution `(patches, channels, frames, bands)`, ReLU, batch normalisation, in this order."""
    from torch.nn import functional as F

    y = F.conv2d(x, tensors[f"{name}/kernel"], tensors[f"{name}/bias"], padding=padding)
    return _normed(F.relu(y), tensors, norm)


def _normed(x: torch.Tensor, tensors: Tensors, index: int) -> torch.Tensor:
    from torch.nn import functional as F

    parts = ("moving_mean", "moving_variance", "gamma", "beta")
    mean, variance, gamma, beta = (tensors[f"{_numbered('batch_normalization', index)}/{part}"] for part in parts)
    return F.batch_norm(x, mean, variance, gamma, beta, eps=NORM_EPSILON)


def musicnn_activations(patches: torch.Tensor, tensors: Tensors) -> Activations:
    """MusiCNN on log-mel patches `(patches, frames, 96)`: every layer and the logits, as `Network` says."""
    import torch
    from torch.nn import functional as F

    x = _normed(patches.unsqueeze(1), tensors, 0)
    timbral = torch.cat([_conv(x, tensors, _numbered("conv2d", i), 1 + i, (3, 0)).amax(3) for i in (0, 1)], 1)
    rhythms = []
    for index in (2, 3, 4):
        frames = tensors[f"conv2d_{index}/kernel"].shape[2]
        # TensorFlow's SAME: of an even kernel's padding the smaller half comes first.
        padded = F.pad(x, (0, 0, (frames - 1) // 2, frames // 2))
        rhythms.append(_conv(padded, tensors, f"conv2d_{index}", 1 + index, (0, 0)).amax(3))
    temporal = torch.cat(rhythms, 1)

    front = torch.cat([timbral, temporal], 1)
    cnn1 = _middle(front, tensors, 5)
    cnn2 = _middle(cnn1, tensors, 6) + cnn1
    cnn3 = _middle(cnn2, tensors, 7) + cnn2

    every = torch.cat([front, cnn1, cnn2, cnn3], 1)
    mean_pool, max_pool = every.mean(2), every.amax(2)
    pooled = _normed(torch.stack([max_pool, mean_pool], 2).flatten(1), tensors, 9)  # interleaved, channel by channel
    dense = F.relu(F.linear(pooled, tensors["dense/kernel"], tensors["dense/bias"]))
    penultimate = _normed(dense, tensors, 10)
    framewise = {"timbral": timbral, "temporal": temporal, "cnn1": cnn1, "cnn2": cnn2, "cnn3": cnn3}
    return {
        **{name: layer.transpose(1, 2) for name, layer in framewise.items()},
        "mean_pool": mean_pool,
        "max_pool": max_pool,
        "mean_max_pool": torch.cat([mean_pool, max_pool], 1),
        "penultimate": penultimate,
        "logits": F.linear(penultimate, tensors["dense_1/kernel"], tensors["dense_1/bias"]),
    }


def _middle(x: torch.Tensor, tensors: Tensors, index: int) -> torch.Tensor:
    """One block over time alone, `(patches, channels, frames)`: the channels are the width of the kernel's map."""
    y = _conv(x.transpose(1, 2).unsqueeze(1), tensors, f"conv2d_{index}", 1 + index, (3, 0))
    return y.squeeze(3)


def vgg_activations(pooling: Pooling, patches: torch.Tensor, tensors: Tensors) -> Activations:
    """The VGG on log-mel patches `(patches, 187, 96)`: `pool1` .. `pool5` and the logits, as `Network` says."""
    from torch.nn import functional as F

    x = _normed(patches.unsqueeze(1), tensors, 0)
    named: Activations = {}
    for block, (size, stride) in enumerate(pooling, start=1):
        x = F.max_pool2d(_conv(x, tensors, f"{block}CNN", block, (1, 1)), size, stride)
        named[f"pool{block}"] = x.permute(0, 2, 3, 1)
    named["logits"] = F.linear(named["pool5"].flatten(1), tensors["dense/kernel"], tensors["dense/bias"])
    return named


def mel_filters(device: str) -> torch.Tensor:
    """The 96 Slaney mel filters `(96, 257)`."""
    import librosa
    import torch

    with one_at_a_time():
        filters = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=WINDOW, n_mels=BANDS)
    return torch.from_numpy(filters).to(device)


def log_mel(waveforms: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Waveforms `(windows, samples)` at 16 kHz to `(windows, 1 + samples // 256, 96)`."""
    import torch

    # Reflected at both ends as by librosa up to 0.9, the package's; since 0.10 librosa pads with zeros. Only a window's
    # first and last frame differ; the reference run on a real clip agrees with both, as that clip begins softly.
    window = torch.hann_window(WINDOW, device=waveforms.device)
    spectra = torch.stft(waveforms, WINDOW, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    mel = banded(filters, spectra.abs().square()).transpose(1, 2)
    return torch.log10(10000 * mel.to(torch.float16).to(torch.float32) + 1)


def read_tensors(path: Path, network: Network, device: str) -> Tensors:
    """A network's tensors from a safetensors file. Raises DataError unless exactly those of its shapes are there."""
    return read_exactly(path, network.shapes, device, of=network.folder)


def _load(network: Network, layers: tuple[Layer, ...], weights: Path | None, device: str) -> Encode:
    assert weights is not None
    return _encoding(network, layers, read_tensors(weights, network, device), device)


def random_tensors(network: Network, device: str) -> Tensors:
    """Weights from RANDOM_SEED, of a network's names and shapes."""
    return {name: tensor.to(device) for name, tensor in _random.draw(network.shapes, RANDOM_SEED).items()}


def _load_random(network: Network, layers: tuple[Layer, ...], weights: Path | None, device: str) -> Encode:
    return _encoding(network, layers, random_tensors(network, device), device)


def _encoding(network: Network, layers: tuple[Layer, ...], tensors: Tensors, device: str) -> Encode:
    import torch

    filters = mel_filters(device)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        with torch.inference_mode():
            mel = log_mel(waveforms, filters)
            windows, frames, _ = mel.shape
            length = min(PATCH, frames)
            count = frames // length
            patches = mel[:, : count * length].reshape(windows * count, length, BANDS)
            parts = [network.activations(chunk, tensors) for chunk in torch.split(patches, AT_ONCE)]
            return [
                pool(torch.cat([_framewise(part[layer.name]) for part in parts]).reshape(windows, -1, layer.width))
                for layer in layers
            ]

    return encode


def _framewise(layer: torch.Tensor) -> torch.Tensor:
    """`(patches, width)` or `(patches, frames, bands, width)` to `(patches, frames, width)`."""
    if layer.ndim == 2:
        return layer.unsqueeze(1)
    return layer.mean(2) if layer.ndim == 4 else layer


def _checkpoint(place: Path, folder: str) -> tuple[bytes, bytes]:
    """The index and the data of a checkpoint, from the package's source archive, its folder, or the checkpoint's own."""
    names = [f"{folder}/.index", f"{folder}/.data-00000-of-00001"]
    if place.is_dir():
        home = place / folder if (place / folder).is_dir() else place
        try:
            for name in (".index", ".data-00000-of-00001"):
                _check_size(place, name, (home / name).stat().st_size)
            return (home / ".index").read_bytes(), (home / ".data-00000-of-00001").read_bytes()
        except OSError as error:
            raise DataError(f"{place} must hold {' and '.join(names)}: {error}") from error
    try:
        with tar_of(place, MOST) as archive:
            found = []
            for name in names:
                member = next((each for each in archive if each.isfile() and each.name.endswith(f"/{name}")), None)
                if member is None:
                    raise DataError(f"{place} has no {name}; give the source archive of the package musicnn 0.1.0")
                _check_size(place, name, member.size)
                content = archive.extractfile(member)
                assert content is not None  # a plain file
                parts = iter(lambda: content.read(LARGEST_READ), b"")  # noqa: B023, used up before the next name
                found.append(b"".join(parts))
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise DataError(f"{place} cannot be read as a tar archive: {error}") from error
    return found[0], found[1]


def _check_size(place: Path, name: str, size: int) -> None:
    """Refuse a file that is larger than any of these networks, before it is read: an archive of kilobytes can hold it."""
    if size > LARGEST:
        raise DataError(f"{place} holds {name} of {size:,} bytes; MusiCNN's have fewer than {LARGEST:,}")


def _convert(network: Network, downloaded: Path, path: Path) -> None:
    """Write the network's tensors, kernels turned to PyTorch's order. Raises DataError for anything else's archive."""
    import numpy as np
    from safetensors.numpy import save_file

    from marble_bench.encoders.tf_bundle import read_bundle

    bundle = read_bundle(*_checkpoint(downloaded, network.folder))
    missing = [name for name in network.shapes if name not in bundle]
    if missing:
        raise DataError(f"{network.folder} in {downloaded} lacks {listing(missing)}")
    turned = {2: (1, 0), 4: (3, 2, 0, 1)}
    tensors = {name: bundle[name].transpose(turned.get(bundle[name].ndim)) for name in network.shapes}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)


def _musicnn_shapes(width: int, dense: int) -> dict[str, tuple[int, ...]]:
    """Of a MusiCNN whose middle has `width` channels and whose penultimate layer has `dense`."""
    pooled = 2 * (FRONT + 3 * width)
    return _shapes(
        {
            "conv2d": (204, 1, 7, 38),
            "conv2d_1": (204, 1, 7, 67),
            "conv2d_2": (51, 1, 128, 1),
            "conv2d_3": (51, 1, 64, 1),
            "conv2d_4": (51, 1, 32, 1),
            "conv2d_5": (width, 1, 7, FRONT),
            "conv2d_6": (width, 1, 7, width),
            "conv2d_7": (width, 1, 7, width),
            "dense": (dense, pooled),
            "dense_1": (TAGS, dense),
        },
        norms=(1, 204, 204, 51, 51, 51, width, width, width, pooled, dense),
    )


_VGG_SHAPES = _shapes(
    {"1CNN": (128, 1, 3, 3), **{f"{block}CNN": (128, 128, 3, 3) for block in range(2, 6)}, "dense": (TAGS, 256)},
    norms=(1, 128, 128, 128, 128, 128),
)


def _musicnn_layers(width: int, dense: int) -> tuple[Layer, ...]:
    every = FRONT + 3 * width
    framewise = (("timbral", 408), ("temporal", 153), ("cnn1", width), ("cnn2", width), ("cnn3", width))
    pooled = (("mean_pool", every), ("max_pool", every), ("mean_max_pool", 2 * every), ("penultimate", dense))
    return (
        *(Layer(name, size, SAMPLE_RATE_HZ / HOP) for name, size in framewise),
        *(Layer(name, size, PATCH_RATE_HZ) for name, size in pooled),
    )


def _vgg_layers(pooling: Pooling) -> tuple[Layer, ...]:
    """The five pools; a patch gives each of them a whole number of frames."""
    frames, layers = PATCH, []
    for block, ((size, _), (stride, _)) in enumerate(pooling, start=1):
        frames = (frames - size) // stride + 1
        layers.append(Layer(f"pool{block}", 128, frames * PATCH_RATE_HZ))
    return tuple(layers)


MTT_MUSICNN = Network("MTT_musicnn", _musicnn_shapes(*SMALL), musicnn_activations)
MSD_MUSICNN = Network("MSD_musicnn", _musicnn_shapes(*SMALL), musicnn_activations)
MSD_MUSICNN_BIG = Network("MSD_musicnn_big", _musicnn_shapes(*BIG), musicnn_activations)
MTT_VGG = Network("MTT_vgg", _VGG_SHAPES, partial(vgg_activations, MTT_POOLING))
MSD_VGG = Network("MSD_vgg", _VGG_SHAPES, partial(vgg_activations, MSD_POOLING))


def _encoder(
    name: str,
    network: Network,
    layers: tuple[Layer, ...],
    trained_on: str,
    description: str,
    min_s: float,
    weights: Source,
    gflop_per_s: float,
) -> Encoder:
    return Encoder(
        name=name,
        description=f"{description} trained to tag {trained_on}",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=layers,
        load=partial(_load, network, layers),
        license="ISC",
        citation="Pons and Serra, musicnn: pre-trained convolutional neural networks for music audio tagging, 2019",
        min_s=min_s,
        stretch_s=PATCH * HOP / SAMPLE_RATE_HZ,
        parameters=network.parameters,
        gflop_per_s=gflop_per_s,
        training_data=(trained_on,),
        weights=weights,
        convert=partial(_convert, network),
    )


_MUSICNN = "Convolutions shaped after timbre and rhythm, on mel spectrograms,"
_VGG = "Small square convolutions on mel spectrograms,"
_MTT, _MSD = "MagnaTagATune", "Million Song Dataset"
_FULL_PATCH_S = (PATCH - 1) * HOP / SAMPLE_RATE_HZ

_PACKAGE = Source(
    url="pypi:musicnn==0.1.0",
    revision="0.1.0",
    sha256="674ccc1fb638e6894f99197cfc2794b90d96444292ea28cedee96de0f74c4abd",
    size_bytes=29272610,
)
_COMMIT = "516acb2a0ff5ef73f64547898e018e793152c506"
_REPOSITORY = Source(
    url=f"https://github.com/jordipons/musicnn/raw/{_COMMIT}/musicnn/MSD_musicnn_big",
    files=(".index", ".data-00000-of-00001"),
    revision=_COMMIT,
    digests=(  # git's ids of these files in that commit
        (".index", "879aed424637e59e5928e8395070778494d3d304"),
        (".data-00000-of-00001", "8797b12a184750ac483685d294a715259922b1b4"),
    ),
)


def _musicnn(name: str, network: Network, size: tuple[int, int], trained_on: str, weights: Source) -> Encoder:
    return _encoder(
        name, network, _musicnn_layers(*size), trained_on, _MUSICNN, 1.0, weights, 1.6 if size == BIG else 0.94
    )


def _vgg(name: str, network: Network, pooling: Pooling, trained_on: str) -> Encoder:
    return _encoder(name, network, _vgg_layers(pooling), trained_on, _VGG, _FULL_PATCH_S, _PACKAGE, 0.59)


def _random_musicnn() -> Encoder:
    layers = _musicnn_layers(*SMALL)
    return Encoder(
        name="random-musicnn",
        description="The graph of musicnn-mtt with random weights: the floor under MusiCNN",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=layers,
        load=partial(_load_random, MTT_MUSICNN, layers),
        license="MIT",
        citation="Pons and Serra, Randomly weighted CNNs for (music) audio classification, ICASSP 2019",
        min_s=1.0,
        stretch_s=PATCH * HOP / SAMPLE_RATE_HZ,
        parameters=MTT_MUSICNN.parameters,
        gflop_per_s=0.94,
    )


ENCODERS = (
    _musicnn("musicnn-mtt", MTT_MUSICNN, SMALL, _MTT, _PACKAGE),
    _musicnn("musicnn-msd", MSD_MUSICNN, SMALL, _MSD, _PACKAGE),
    _musicnn("musicnn-msd-big", MSD_MUSICNN_BIG, BIG, _MSD, _REPOSITORY),
    _musicnn("musicnn", MSD_MUSICNN_BIG, BIG, _MSD, _REPOSITORY),
    _vgg("vgg-mtt", MTT_VGG, MTT_POOLING, _MTT),
    _vgg("vgg-msd", MSD_VGG, MSD_POOLING, _MSD),
    _random_musicnn(),
)

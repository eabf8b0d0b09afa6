"""What an encoder must return, tried on noise: by `bench check`, and by a run before it stores anything of a user's encoder.

The noise is normalised as the encoder declares. Layers may be float32 or float64; what is stored is rounded to half
precision, so what a run of pooled features would store, the mean over time, must lie in its range.

Each problem is told with what usually causes it: a model in training mode, `pool` left out, axes in another order, a mean
taken by the encoder itself, half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from marble_bench.audio import normalize
from marble_bench.core.encoder import Encode, Encoder, Layer, check_layers, encode_valid
from marble_bench.errors import UsageError

if TYPE_CHECKING:
    import torch

WINDOWS = 2
HALF_MAX = 65504.0  # the largest number of half precision, in which features are stored
FRAMES_LOST, SHARE_LOST = 2, 0.02  # frames more or fewer than the rate says that a layer may have, and their share
CPU_APART, GPU_APART = 1e-3, 1e-2  # of a layer's largest value: other batch sizes take other kernels on a GPU


def require(encoder: Encoder, encode: Encode, device: str) -> None:
    """Try an encoder on noise of its shortest window. Raises UsageError naming everything that is not as declared."""
    problems, _ = try_on_noise(encoder, encode, device, encoder.min_s)
    refuse(encoder.name, problems)


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise UsageError with every problem once, if there are any."""
    if problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(problems))
        raise UsageError(f"encoder '{name}':\n{lines}")


def make_noise(windows: int, samples: int) -> torch.Tensor:
    """White noise that an encoder is tried on, the same every time: `(windows, samples)` float32, standard deviation 0.1."""
    import torch

    return 0.1 * torch.randn(windows, samples, generator=torch.Generator().manual_seed(0))


def try_on_noise(
    encoder: Encoder, encode: Encode, device: str, length_s: float
) -> tuple[list[str], Sequence[torch.Tensor]]:
    """What is wrong with an encoder on noise of `length_s` seconds, and its layers, `(2, frames, width)` if all is well.

    Raises UsageError for what is not even a list of tensors.
    """
    import torch

    samples = -int(-length_s * encoder.sample_rate_hz // 1)
    waves = make_noise(WINDOWS, samples).numpy()
    noise = torch.stack([torch.from_numpy(normalize(wave, encoder.normalize)) for wave in waves]).to(device)

    def layers_of(windows: torch.Tensor, pool: object) -> Sequence[torch.Tensor]:
        with torch.inference_mode():
            return check_layers(encoder.name, encoder.layers, encode(windows, pool))

    frames = layers_of(noise, lambda each: each)
    again = layers_of(noise, lambda each: each)
    alone = layers_of(noise[:1], lambda each: each.float().mean(dim=1))
    problems = _masking_problems(encoder, encode, noise, alone, device) if encoder.masks else []
    for layer, value, second, one in zip(encoder.layers, frames, again, alone, strict=True):
        expected = 1 if layer.frame_rate_hz is None else layer.frame_rate_hz * encoder.compute_counted_s(length_s)
        problem = (
            _find_shape_problem(layer, tuple(value.shape), expected, length_s)
            or _find_value_problem(layer, value, length_s)
            or _find_calling_problem(layer, value, second, one, CPU_APART if device == "cpu" else GPU_APART)
        )
        problems += [problem] if problem else []
    return problems, frames


def _find_calling_problem(
    layer: Layer, value: torch.Tensor, again: torch.Tensor, alone: torch.Tensor, apart: float
) -> str:
    """What is wrong with a layer's frames in a second call, or pooled for the first window alone; empty if nothing is."""
    if not _is_near(value, again, apart):
        return (
            f"layer '{layer.name}' is another when the same windows are encoded again: call eval() on the model in load "
            "(dropout is on), or draw nothing at random"
        )
    if tuple(alone.shape) != (1, layer.width):
        return (
            f"layer '{layer.name}' is {tuple(alone.shape)} for one window and `pool` the mean over time, "
            f"declared (1, {layer.width}): apply `pool` to its frames"
        )
    if not _is_near(value[:1].float().mean(dim=1), alone, apart):
        return (
            f"layer '{layer.name}' depends on what else is in the batch: call eval() on the model in load (batch norm "
            "is in training), and normalise each window by itself"
        )
    return ""


def _masking_problems(
    encoder: Encoder, encode: Encode, noise: torch.Tensor, alone: Sequence[torch.Tensor], device: str
) -> list[str]:
    """What is wrong with layers of a window in front of padding, with its mask. alone: the window's layers, pooled."""
    import torch

    samples = noise.shape[1]
    most = 2 * samples if encoder.max_s is None else min(2 * samples, int(encoder.max_s * encoder.sample_rate_hz))
    padded, valid = torch.nn.functional.pad(noise, (0, most - samples)), torch.tensor([samples, most])
    with torch.inference_mode():
        found = encode_valid(encoder, encode, padded, lambda each: each.float().mean(dim=1), valid)
    return [
        f"layer '{layer.name}' of a window depends on the padding after its valid samples: mask it, and pool valid "
        "frames alone"
        for layer, one, masked in zip(
            encoder.layers, alone, check_layers(encoder.name, encoder.layers, found), strict=True
        )
        if not _is_near(one, masked[:1], CPU_APART if device == "cpu" else GPU_APART)
    ]


def _is_near(value: torch.Tensor, other: torch.Tensor, apart: float) -> bool:
    value, other = value.float(), other.float()
    return value.shape == other.shape and float((value - other).abs().max()) <= apart * (1 + float(value.abs().max()))


def _find_shape_problem(layer: Layer, shape: tuple[int, ...], expected: float, length_s: float) -> str:
    """What is wrong with the shape of a layer's frames, with what usually is the cause; empty if it is as declared."""
    named, declared = f"layer '{layer.name}' is {shape}", f"declared ({WINDOWS}, frames, {layer.width})"
    if shape == (WINDOWS, layer.width):
        how = "pool(vectors[:, None])" if layer.frame_rate_hz is None else "pool(frames), and take no mean yourself"
        return f"{named}, {declared}: it has no axis of frames: return {how}"
    if len(shape) == 3 and shape[2] != layer.width and layer.width in shape:
        at = shape.index(layer.width)
        order = (1, 2) if at == 1 else (0, 2)
        return f"{named}, {declared}: its axes are in another order: transpose{order} it before `pool`"
    if len(shape) == 3 and shape[1] == WINDOWS and shape[0] != WINDOWS:
        return f"{named}, {declared}: its axes are in another order: transpose(0, 1) it before `pool`"
    if len(shape) != 3 or shape[0] != WINDOWS or shape[2] != layer.width:
        return f"{named}, {declared}"
    if abs(shape[1] - expected) > FRAMES_LOST + SHARE_LOST * expected:
        return (
            f"layer '{layer.name}' has {shape[1]} frames in {length_s:.2f} s, declared {expected:.1f}: "
            "correct its frame rate, or raise min_s if frames are lost at the edges of a short window"
        )
    return ""


def _find_value_problem(layer: Layer, value: torch.Tensor, length_s: float) -> str:
    import torch

    if value.is_meta:
        return f"layer '{layer.name}' lies on the device meta and holds no values: load the model's weights in load"
    if value.dtype in (torch.float16, torch.bfloat16):
        return f"layer '{layer.name}' holds {value.dtype} without being asked to: return float32 (.float())"
    if not bool(torch.isfinite(value).all()):
        return f"layer '{layer.name}' has NaN or infinity on noise of {length_s:.2f} s"
    largest = float(value.mean(dim=1).abs().max())
    if not largest <= HALF_MAX:
        return (
            f"layer '{layer.name}' reaches {largest:.3g} on noise of {length_s:.2f} s, and features are stored in half "
            f"precision, which ends at {HALF_MAX:g}: scale the layer down"
        )
    return ""

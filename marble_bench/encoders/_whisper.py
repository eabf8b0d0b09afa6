"""The front end of Whisper, which later models took over: 16 kHz to a log-mel spectrogram, 100 frames a second.

400 samples of a periodic Hann window, hop 160, Slaney mel bands of equal area, log10 from -10 up, no more than 8 below the
loudest, (x + 4) / 4. The waveform is followed by silence, the last frame is left away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from marble_bench.encoders._hooks import Tap
from marble_bench.encoders._mel import mel_power

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16000
PIECE = 30 * SAMPLE_RATE_HZ  # samples that Whisper takes, no more and no less
WINDOW, HOP = 400, 160
FRAME = 2 * HOP  # samples: the second convolution halves time
# What a preprocessor must say of the spectrogram, as far as it says it.
FRONT = {"sampling_rate": SAMPLE_RATE_HZ, "n_fft": WINDOW, "hop_length": HOP}


def make_front_end(bands: int, device: str) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """`(windows, samples)` and a length in samples, at least theirs -> `(windows, bands, length / 160)`."""
    mel_of = mel_power(
        sample_rate_hz=SAMPLE_RATE_HZ, window=WINDOW, hop=HOP, bands=bands,
        low_hz=0.0, high_hz=SAMPLE_RATE_HZ / 2, slaney=True, device=device,
    )  # fmt: skip

    def log_mel(waveforms: torch.Tensor, length: int) -> torch.Tensor:
        from torch.nn.functional import pad

        power = mel_of(pad(waveforms, (0, length - waveforms.shape[1])))[..., :-1]
        log = power.clamp(min=1e-10).log10()
        found: torch.Tensor = (log.maximum(log.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        return found

    return log_mel


def count_frames(samples: int) -> int:
    """How many frames at 50 Hz hold `samples` samples of audio: a frame counts if a part of it is audio.

    >>> count_frames(30 * 16000), count_frames(16000), count_frames(16000 + 100)
    (1500, 50, 51)
    """
    return (-(-samples // HOP) - 1) // 2 + 1


def taps_of(model: Any, last: torch.nn.Module) -> list[Tap]:
    """What to take of an encoder: what goes into its first layer, what comes out of each, the last one's behind `last`."""
    return [(model.layers[0], "in"), *((layer, "out") for layer in model.layers[:-1]), (last, "out")]

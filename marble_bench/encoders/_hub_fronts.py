"""How windows go into transformers' audio models and which of the frames that come out are of what was heard.

Each function takes a model and its feature extractor, and gives an `encode` for windows of one length. Features
are those of transformers' own extractors, window by window. A model of a fixed input gets its maker's own padding, and a
mask where its maker's forward takes one; frames of the padding are left out before anything is pooled. A window that is
longer than the model takes is cut into pieces, one after another; a last piece below a second is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Pool
from marble_bench.encoders._hooks import Tap, collect
from marble_bench.encoders._pieces import in_pieces
from marble_bench.encoders._whisper import HOP, count_frames
from marble_bench.encoders.qwen2_audio import attention_mask

if TYPE_CHECKING:
    import torch

# Of the spectrograms that follow Kaldi, at 16 kHz; transformers' extractors have both as constants.
KALDI_WINDOW, KALDI_HOP = 400, 160


def _features(extractor: Any, waveforms: torch.Tensor, **options: Any) -> dict[str, Any]:
    """What transformers' extractor gives for windows `(windows, samples)`, on their device; in float32 under autocast."""
    import torch

    given = [window.numpy() for window in waveforms.float().cpu()]
    with torch.autocast("cpu", enabled=False):
        found = extractor(given, sampling_rate=extractor.sampling_rate, return_tensors="pt", **options)
    return {
        name: (value.float() if value.is_floating_point() else value).to(waveforms.device)
        for name, value in found.items()
    }


def _layer_taps(layers: Sequence[Any], last: Any = None) -> list[Tap]:
    """What goes into the first layer and what comes out of each. last: a norm, of which the last state is taken."""
    ends = [*layers[:-1], last if last is not None else layers[-1]]
    return [(layers[0], "in"), *((each, "out") for each in ends)]


def _first(pool: Pool, valid: int) -> Callable[[Any], Any]:
    """A pool over the first frames."""
    return lambda frames: pool(frames[:, :valid])


def of_waveforms(model: Any, extractor: Any) -> Encode:
    """A model that takes the waveform and pads nothing."""
    if hasattr(model, "layers"):
        taps = _layer_taps(model.layers, model.layer_norm)
    else:
        inner = getattr(model, "wrapped_encoder", None) or model.encoder
        taps = _layer_taps(inner.layers if hasattr(inner, "layers") else inner.encoder.layer)
    return lambda waveforms, pool: collect(taps, lambda: model(waveforms), pool)


def of_w2v_bert(model: Any, extractor: Any) -> Encode:
    """Pairs of mel frames; an odd one is filled up, and masked."""
    taps = _layer_taps(model.encoder.layers)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        given = _features(extractor, waveforms, return_attention_mask=True)
        valid = int(given["attention_mask"][0].sum())
        return collect(taps, lambda: model(given["input_features"], given["attention_mask"]), _first(pool, valid))

    return encode


def of_speech_to_text(model: Any, extractor: Any) -> Encode:
    """Mel frames, normed over the window as the extractor does it, and halved in number by each of some convolutions."""
    taps = _layer_taps(model.layers, model.layer_norm)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        return collect(taps, partial(model, _features(extractor, waveforms)["input_features"]), pool)

    return encode


def of_parakeet(model: Any, extractor: Any) -> Encode:
    """Mel frames, halved in number by each of some convolutions; the extractor masks its last frame."""
    taps, config = _layer_taps(model.layers), model.config
    kernel, stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        given = _features(extractor, waveforms)
        valid = int(given["attention_mask"][0].sum())
        for _ in range(config.subsampling_factor.bit_length() - 1):
            valid = (valid + (kernel - 1) // 2 * 2 - kernel) // stride + 1
        return collect(taps, lambda: model(given["input_features"], given["attention_mask"]), _first(pool, valid))

    return encode


def of_spectrogram_transformer(model: Any, extractor: Any) -> Encode:
    """Patches of a spectrogram of fixed length, filled up; a frame is the mean of the patches that begin at one time.

    Frames that begin behind what was heard are left out, and so are the two tokens that are no patches. A piece is so long
    that its frames follow those of the piece before.
    """
    config, taps = model.config, _layer_taps(model.layers)
    times = (config.max_length - config.patch_size) // config.time_stride + 1

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        given = _features(extractor, waveforms)["input_values"]
        mel = (waveforms.shape[1] - KALDI_WINDOW) // KALDI_HOP + 1
        valid = min(times, -(-mel // config.time_stride))

        def frames(tokens: torch.Tensor) -> torch.Tensor:
            patches = tokens[:, 2:].reshape(len(tokens), -1, times, tokens.shape[2])
            return pool(patches.mean(dim=1)[:, :valid])

        return collect(taps, lambda: model(given), frames)

    return _pieces(piece, times * config.time_stride * KALDI_HOP, extractor.sampling_rate)


def _pieces(run: Callable[[torch.Tensor, Pool], list[torch.Tensor]], longest: int, least: int) -> Encode:
    return lambda waveforms, pool: in_pieces(waveforms, longest, min(least, longest), run, pool)


def _whole_length(extractor: Any, waveforms: torch.Tensor) -> tuple[Any, int]:
    """The log-mel of windows, filled up to the fixed length, and how many of its frames begin in what was heard."""
    given = _features(extractor, waveforms, padding="max_length", return_attention_mask=True)
    return given["input_features"], int(given["attention_mask"][0].sum())


def _count_heard(mel: int) -> int:
    """How many of a Whisper's frames hold audio, of so many mel frames, whatever the extractor's hop."""
    return count_frames(mel * HOP)


def of_whisper(model: Any, extractor: Any) -> Encode:
    """A spectrogram filled up with silence, to which the model attends, as its maker's does; its frames are left out."""
    taps = _layer_taps(model.layers, model.layer_norm)

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        given, mel = _whole_length(extractor, waveforms)
        return collect(taps, lambda: model(given), _first(pool, _count_heard(mel)))

    return _pieces(piece, extractor.n_samples, extractor.sampling_rate)


def of_qwen2_audio(model: Any, extractor: Any) -> Encode:
    """As Whisper, but nothing attends to the silence, and the last state is averaged in pairs."""
    positions = model.config.max_source_positions

    def run(given: torch.Tensor, mel: int) -> Any:
        return model(given, attention_mask=attention_mask(_count_heard(mel), positions, given.device))

    return _averaged_in_pairs(model, extractor, run)


def of_audio_flamingo(model: Any, extractor: Any) -> Encode:
    """As Qwen2-Audio, but the model makes its mask of the spectrogram's."""

    def run(given: torch.Tensor, mel: int) -> Any:
        import torch

        mask = torch.arange(given.shape[2], device=given.device) < mel
        return model(given, input_features_mask=mask.expand(len(given), -1))

    return _averaged_in_pairs(model, extractor, run)


def _averaged_in_pairs(model: Any, extractor: Any, run: Callable[[torch.Tensor, int], Any]) -> Encode:
    """run: (log-mel of the fixed length, how many of its frames are of what was heard) -> what the model gives."""
    taps, positions = _layer_taps(model.layers, model.layer_norm), model.config.max_source_positions

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        given, mel = _whole_length(extractor, waveforms)
        heard = _count_heard(mel)

        def without_silence(frames: torch.Tensor) -> torch.Tensor:
            return pool(frames[:, : heard // 2 if frames.shape[1] < positions else heard])

        return collect(taps, lambda: run(given, mel), without_silence)

    return _pieces(piece, extractor.n_samples, extractor.sampling_rate)


def of_qwen2_5_omni(model: Any, extractor: Any) -> Encode:
    """Mel frames without any padding, which the model cuts into blocks of two seconds that see themselves alone."""
    taps = _layer_taps(model.layers)

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        import torch

        # the extractor would fill up to five minutes; frames of what was heard see no further than one of its windows
        room = min(extractor.n_samples, waveforms.shape[1] + extractor.n_fft)
        given = _features(extractor, waveforms, padding="max_length", max_length=room, return_attention_mask=True)
        heard = int(given["attention_mask"][0].sum())
        mel = given["input_features"][:, :, :heard]
        lengths = torch.full((len(mel),), heard, device=mel.device)

        def one_each(states: torch.Tensor) -> torch.Tensor:
            return pool(states.reshape(len(mel), -1, states.shape[1]))

        packed = mel.transpose(0, 1).flatten(1)
        return collect(taps, lambda: model(packed, feature_lens=lengths), one_each)

    return _pieces(piece, extractor.n_samples, extractor.sampling_rate)


def of_clap(model: Any, extractor: Any) -> Encode:
    """A spectrogram of fixed length, of a shorter window repeated as the extractor does it: a frame of every layer."""
    audio = model.audio_model.audio_encoder
    taps: list[Tap] = [(audio.layers[0], "in"), *((stage, "out") for stage in audio.layers)]
    taps += [(audio, "out"), (model.audio_projection, "out")]

    def one_frame(value: Any) -> Any:
        vector = getattr(
            value, "pooler_output", value
        )  # the encoder gives a structure, stages maps, the projection vectors
        return (vector.mean(dim=1) if vector.ndim == 3 else vector)[:, None]

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        given = _features(extractor, waveforms)["input_features"]
        found = collect(taps, lambda: model(input_features=given), one_frame)
        return [pool(frame) for frame in found]

    return lambda waveforms, pool: in_pieces(waveforms, extractor.nb_max_samples, extractor.nb_max_samples, piece, pool)


def of_codec(model: Any, front: Any) -> Encode:
    """A codec's encoder before quantisation."""
    return _latent(model, model.encoder, int(model.config.hop_length))


def of_xcodec(model: Any, front: Any) -> Encode:
    """The acoustic and the semantic encoder, brought together by one layer."""
    return _latent(model, model.fc, int(model.config.hop_length), time_last=False)


def of_mimi(model: Any, front: Any) -> Encode:
    """The encoder, its transformer, and a convolution that takes every second frame, wherever this transformers has it."""
    (last,) = (each for name, each in model.named_modules() if name.endswith("downsample"))
    return _latent(model, last, round(model.config.sampling_rate / model.config.frame_rate))


def _latent(model: Any, last: torch.nn.Module, hop: int, time_last: bool = True) -> Encode:
    """What comes out of the last module before the quantiser, on whole frames: a window is cut to them."""
    import torch

    taps: list[Tap] = [(last, "out")]

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        def frames(latent: torch.Tensor) -> torch.Tensor:
            return pool(latent.transpose(1, 2) if time_last else latent)

        whole = waveforms[:, None, : waveforms.shape[1] // hop * hop]
        # one window at a time: the first layers hold dozens of channels of every sample
        return [torch.cat([collect(taps, partial(model.encode, one), frames)[0] for one in torch.split(whole, 1)])]

    return encode

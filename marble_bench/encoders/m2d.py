"""M2D and MATPAC++: vision transformers on patches of a spectrogram, trained to predict another network's latents.

Sources:
- M2D: Niizumi et al., "Masked Modeling Duo: Towards a Universal Audio Pre-training Framework", TASLP 2024. The model
  is M2D/0.7 trained on AudioSet, `m2d_vit_base-80x608p16x16-221006-mr7_enconly`. Its repository has an evaluation
  licence of NTT's.
- MATPAC++: Quelennec et al., "MATPAC++: Enhanced Masked Latent Prediction for Self-Supervised Audio Representation
  Learning", 2025. The model is the one trained on music, `matpac_plus_music_6s_2048_enconly`. Its repository states
  no licence.
MATPAC++ has the graph of M2D. The code here is this suite's own; its states equal those of MATPAC's own code, and for
M2D those of timm's blocks and nnAudio's spectrogram (tests/golden/vit).

Conventions: 16 kHz mono, no normalisation of the waveform. The spectrogram has 80 Slaney mel bands from 50 to 8,000
Hz (400 samples, hop 160). Its power plus 1.2e-7 is taken to the natural logarithm and standardised by one mean and
one deviation. M2D's are in the checkpoint, or -7.1 and 4.2 where a checkpoint of 2022 has none; MATPAC++'s are -7.056
and 4.193. M2D centres the first window on the first sample and reflects the ends. MATPAC++ begins the first window
there and reads nothing beyond the ends.

A patch is 16 bands by 16 frames. The last patch in time is filled up with zeros after standardising, as both makers
do. A window is encoded in pieces of 608 mel frames (6.08 s). A shorter piece takes the first positions in time. The
five patches of one moment are concatenated, low bands first: 3,840 numbers, 6.25 times a second. The class token is
left out.

State 0 is what enters the first block: patches with their positions. State i leaves block i, the last one after the
final norm. MATPAC's own code returns states 1 to 12, M2D's portable code only state 12.

The shapes of a checkpoint's tensors decide its size. M2D's own code reads size, patch and sampling rate from the name
of the folder. Here a name that contradicts the conventions above is refused, because a model at 32 kHz has the same
shapes. MATPAC's own code takes any path that contains `as`, as in `dataset`, for a model of longer pieces. Here its
name decides nothing.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from marble_bench import Encode, Encoder, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._checkpoint import find_checkpoint, keep_exactly, name_tensors, read_float
from marble_bench.encoders._mel import banded, mel_power
from marble_bench.encoders._pieces import in_pieces
from marble_bench.encoders._vit import Blocks, Tensors
from marble_bench.encoders.torch_file import Stored, read_torch_file
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import torch

Front: TypeAlias = "Callable[[torch.Tensor, Tensors], torch.Tensor]"

SAMPLE_RATE_HZ = 16000
WINDOW, HOP, BANDS, LOW_HZ = 400, 160, 80, 50.0
PATCH = 16  # bands, and mel frames
STATISTICS = "norm_stats"
FIRST_STATISTICS = (-7.1, 4.2)  # of M2D's models of 2022
MATPAC_STATISTICS = (-7.056, 4.193)
M2D_NAME, MATPAC_NAME = "m2d_vit_base-80x608p16x16-221006-mr7_enconly", "matpac_plus_music_6s_2048_enconly"
CHECKPOINT = "checkpoint-300.pth"  # in M2D's zip
PREFIXES = ("backbone.", "module.ar.runtime.backbone.")  # where M2D's other programs put the encoder
SIZE = re.compile(r"-(\d+)x(\d+)p(\d+)x(\d+)(?:p(\d+k))?")  # in the name of a folder of M2D's


@dataclass(frozen=True)
class Graph:
    """The encoder. frames: mel frames of a piece. statistics: whether mean and deviation are among the tensors."""

    blocks: Blocks
    frames: int = 608
    statistics: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the checkpoint by its name."""
        width, patches = self.blocks.width, (BANDS // PATCH) * (self.frames // PATCH)
        return {
            **({STATISTICS: (2,)} if self.statistics else {}),
            "cls_token": (1, 1, width),
            "pos_embed": (1, patches + 1, width),
            "patch_embed.proj.weight": (width, 1, PATCH, PATCH),
            "patch_embed.proj.bias": (width,),
            **self.blocks.shapes(),
        }

    def holds(self, name: str) -> bool:
        """Whether a tensor of this name would be of the encoder, and not of what it was trained with."""
        own = (f"{self.blocks.prefix}blocks.", f"{self.blocks.prefix}norm.", "patch_embed.")
        return name.startswith(own) or name in ("cls_token", "pos_embed", STATISTICS)

    def encode(self, mel: torch.Tensor, tensors: Tensors, pool: Pool) -> list[torch.Tensor]:
        """Every state of standardised mel frames `(windows, frames, 80)`, a multiple of 16 of them, through `pool`."""
        import torch

        weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
        patches = torch.nn.functional.conv2d(mel.transpose(1, 2)[:, None], weight, bias, stride=PATCH)
        windows, width, rows, times = patches.shape
        positions = tensors["pos_embed"]
        in_time = positions[:, 1:].reshape(1, rows, -1, width)[:, :, :times].flatten(1, 2)
        token = (tensors["cls_token"] + positions[:, :1]).expand(windows, -1, -1)
        tokens = torch.cat([token, patches.flatten(2).transpose(1, 2) + in_time], dim=1)

        def side_by_side(state: torch.Tensor) -> torch.Tensor:
            return state[:, 1:].reshape(windows, rows, times, width).transpose(1, 2).flatten(2)

        return [pool(side_by_side(state)) for state in self.blocks.states(tokens, tensors)]


def log_standardised(power: torch.Tensor, mean: torch.Tensor | float, deviation: torch.Tensor | float) -> torch.Tensor:
    """`(windows, bands, frames)` of power -> `(windows, frames, bands)`, with zeros after it up to a whole patch."""
    import torch
    from torch.nn.functional import pad

    mel = ((power + torch.finfo(torch.float32).eps).log() - mean) / deviation
    return pad(mel, (0, -mel.shape[-1] % PATCH)).transpose(1, 2)


def make_m2d_front(device: str) -> Front:
    """M2D's spectrogram: `(waveforms, tensors)` -> mel frames, samples // 160 + 1 and what fills the last patch up."""
    mel_of = mel_power(
        sample_rate_hz=SAMPLE_RATE_HZ, window=WINDOW, hop=HOP, bands=BANDS,
        low_hz=LOW_HZ, high_hz=SAMPLE_RATE_HZ / 2, slaney=True, device=device,
    )  # fmt: skip
    return lambda waveforms, tensors: log_standardised(mel_of(waveforms), *tensors[STATISTICS])


def make_matpac_front(device: str) -> Front:
    """MATPAC's spectrogram: `(waveforms, tensors)` -> mel frames, (samples - 400) // 160 + 1 and what fills up."""
    import torch
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        WINDOW // 2 + 1, BANDS, LOW_HZ, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    bands, hann = torch.from_numpy(bank.T).float().to(device), torch.hann_window(WINDOW).to(device)

    def front(waveforms: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        spectrum = torch.stft(waveforms, WINDOW, HOP, window=hann, center=False, return_complex=True)
        return log_standardised(banded(bands, spectrum.real.square() + spectrum.imag.square()), *MATPAC_STATISTICS)

    return front


def load(graph: Graph, make_front: Callable[[str], Front], of: str, weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights; `of` names whose they are."""
    assert weights is not None
    tensors, front = read_float(weights, graph.shapes(), device, of=of), make_front(device)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        import torch

        with torch.inference_mode():
            mel = front(waveforms, tensors)
            return in_pieces(mel, graph.frames, PATCH, lambda piece, pool: graph.encode(piece, tensors, pool), pool)

    return encode


def convert_matpac(graph: Graph, found: Path, path: Path) -> None:
    """Keep the encoder of a file of tensors by name, as MATPAC's makers release it."""
    file = read_torch_file(found)
    named = {name: tensor for name, tensor in name_tensors(file.content).items() if graph.holds(name)}
    keep_exactly(file, named, graph.shapes(), path, of="MATPAC++")


def convert_m2d(graph: Graph, found: Path, path: Path) -> None:
    """Keep the encoder of M2D's released zip, of the folder that it unpacks to, or of a checkpoint in it."""
    import torch

    with tempfile.TemporaryDirectory(prefix=".m2d-", dir=path.parent) as scratch:
        checkpoint, lay = find_checkpoint(found, CHECKPOINT, Path(scratch))
        check_names(lay, graph)
        file = read_torch_file(checkpoint)
        named = {name: tensor for name, tensor in _of_the_encoder(file.content).items() if graph.holds(name)}
        wanted = {name: shape for name, shape in graph.shapes().items() if name in named or name != STATISTICS}
        copied = Path(scratch) / "copied.safetensors"
        keep_exactly(file, named, wanted, copied, of="M2D")
        _, tensors = _hub.load(copied)
        tensors.setdefault(STATISTICS, torch.tensor(FIRST_STATISTICS))
        _hub.save({}, tensors, path)


def _of_the_encoder(content: object) -> dict[str, Stored]:
    """The tensors of a checkpoint, without what M2D's other programs put before their names."""
    whole = content.get("model", content) if isinstance(content, dict) else {}
    named = name_tensors(whole)
    for prefix in PREFIXES:
        if inside := {name.removeprefix(prefix): t for name, t in named.items() if name.startswith(prefix)}:
            named = inside
    return named


def check_names(lay: str, graph: Graph) -> None:
    """Raise DataError if a name in a checkpoint's path says another size, patch or sampling rate than this graph's."""
    expected = (str(BANDS), str(graph.frames), str(PATCH), str(PATCH), f"{SAMPLE_RATE_HZ // 1000}k")
    for *sides, rate in SIZE.findall(lay)[-1:]:  # the innermost folder's: others may be the user's own
        size = (*sides, rate or expected[4])
        if size != expected:
            raise DataError(
                f"{lay} is named after a model of {size[0]} bands by {size[1]} mel frames, in patches of {size[2]} by "
                f"{size[3]}, at {size[4]}Hz; this one takes {expected[0]} by {expected[1]} in patches of {PATCH} by "
                f"{PATCH}, at {expected[4]}Hz"
            )


GRAPH = Graph(Blocks(768, 12, 12), statistics=True)
MATPAC_GRAPH = Graph(Blocks(768, 12, 12, "student_encoder."))
FREQUENCIES = BANDS // PATCH
LAYERS = stack(GRAPH.blocks.depth + 1, FREQUENCIES * GRAPH.blocks.width, SAMPLE_RATE_HZ / HOP / PATCH)

ENCODERS = (
    Encoder(
        name="m2d",
        description="Masked prediction of a second network's representation, on patches of general audio (M2D/0.7)",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=LAYERS,
        load=partial(load, GRAPH, make_m2d_front, "M2D"),
        license="NTT evaluation licence, non-commercial",
        citation="Niizumi et al., Masked Modeling Duo: Towards a Universal Audio Pre-training Framework, TASLP 2024",
        min_s=WINDOW / SAMPLE_RATE_HZ,
        parameters=85_400_832,
        training_data=("AudioSet",),
        gflop_per_s=5.59,
        weights=Source(
            url=f"https://github.com/nttcslab/m2d/releases/download/v0.1.0/{M2D_NAME}.zip",
            revision="v0.1.0",
            note=f"holds {CHECKPOINT}; no digest is known",
        ),
        convert=partial(convert_m2d, GRAPH),
    ),
    Encoder(
        name="matpac-pp",
        description="Masked prediction of latents with several hypotheses, on patches of music (MATPAC++)",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=LAYERS,
        load=partial(load, MATPAC_GRAPH, make_matpac_front, "MATPAC++"),
        license="none stated",
        citation=(
            "Quelennec et al., MATPAC++: Enhanced Masked Latent Prediction for Self-Supervised Audio Representation "
            "Learning, 2025"
        ),
        min_s=WINDOW / SAMPLE_RATE_HZ,
        parameters=85_400_832,
        training_data=("music, not named in its repository",),
        gflop_per_s=5.59,
        weights=Source(
            url=f"https://github.com/aurianworld/matpac/releases/download/MATPAC%2B%2B/{MATPAC_NAME}.pt",
            revision="MATPAC++",
            note="no digest is known",
        ),
        convert=partial(convert_matpac, MATPAC_GRAPH),
    ),
)

"""What runs on frames share: what they cannot do, and which of an encoder's layers they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marble_bench.core.encoder import Encoder
from marble_bench.core.protocol import Protocol
from marble_bench.errors import UsageError
from marble_bench.features.frames import Frames, check_framewise, find_framewise_layers, find_summable_layers
from marble_bench.runs.config import RunConfig
from marble_bench.runs.inputs import Inputs
from marble_bench.runs.layers import asks_concat, check_fixed, choose_layers

OF_CLIPS = ("pool", "standardize", "train_share")  # variants that only runs on whole clips have


@dataclass(frozen=True)
class Layers:
    """Which of the encoder's layers a run reads, by index. single: those with probes of their own. summed: those of the
    weighted sum; none without one."""

    single: tuple[int, ...]
    summed: tuple[int, ...]

    @property
    def stored(self) -> list[int]:
        """All of them, in order: the layers of a run's `Frames`."""
        return sorted({*self.single, *self.summed})

    @property
    def places(self) -> list[int]:
        """The places of those with probes of their own among the stored ones."""
        return [self.stored.index(index) for index in self.single]

    @property
    def summable(self) -> tuple[int, ...]:
        """The places of those of the weighted sum among the stored ones."""
        return tuple(self.stored.index(index) for index in self.summed)


def check(config: RunConfig) -> None:
    """Raise UsageError for what is for whole clips alone: a record must not tell of what was not done."""
    name, control = config.data.named.name, config.probes.control
    asked = {"--few-shot": config.probes.few_shot, f"--control {control}": control}
    unmet = [option for option, given in asked.items() if given]
    unmet += [flag for fact, flag in config.probes.variants.flags().items() if fact in OF_CLIPS]
    if unmet:
        raise UsageError(
            f"{unmet[0]} is only for tasks of whole clips, but task '{name}' is answered frame by frame: leave it out"
        )
    if config.features.encoder is None:
        raise UsageError(
            f"task '{name}' is answered frame by frame, but --features brings one vector for each window: give --model"
        )


def choose_frame_layers(config: RunConfig) -> Layers:
    """The layers that a run on frames reads. Raises UsageError before any work if it cannot be made."""
    probes, protocol = config.probes, config.probes.changed_protocol
    check_protocol(protocol)
    encoder = config.features.encoder
    assert encoder is not None  # see `check`
    names = [layer.name for layer in encoder.layers]
    if asks_concat(probes.layers, protocol, len(names)):
        raise UsageError("--layers concat is for tasks of whole clips: choose layers by name")
    single, with_sum = choose_layers(probes.layers, names, protocol, encoder.summable)
    check_fixed(probes, len(single) + with_sum)
    return select_layers(encoder, single, with_sum, probes.layers == "all")


def select_layers(encoder: Encoder, single: Sequence[int], with_sum: bool, everything: bool) -> Layers:
    """The layers of a run out of those asked for; with `everything`, those of them that have frames.

    Raises UsageError for a layer without frames, and for an encoder that has none.
    """
    able = find_framewise_layers(encoder.layers)
    chosen = [index for index in single if index in able] if everything else list(single)
    summed = find_summable_layers(encoder) if with_sum else ()
    if with_sum and not summed and not everything:
        raise UsageError(f"--layers sum: {encoder.name} has no two layers with frames of one width and rate to sum")
    if not summed or chosen:
        check_framewise(encoder, chosen)
    return Layers(tuple(chosen), summed)


def list_names(encoder: Encoder, layers: Layers) -> list[str]:
    """What probes read, for people: the single layers' names, and `sum`."""
    return [encoder.layers[index].name for index in layers.single] + ["sum"] * bool(layers.summed)


def check_protocol(protocol: Protocol) -> None:
    """Raise UsageError for a protocol that has no probe for frames."""
    if not protocol.framewise:
        raise UsageError(f"protocol '{protocol.name}' has no probe that answers frame by frame; use --protocol marble")


def get_frames(inputs: Inputs) -> Frames:
    """The features of a run that has frames."""
    assert isinstance(inputs.features, Frames)
    return inputs.features

"""Probes of heads that fit themselves: one after another, each by the head's own `fit` and `predict`.

The head is somebody else's code: what it returns is looked at before it is used, and an error names the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from marble_bench.core.head import Head, State, TrainingSet
from marble_bench.core.plugins import get_head
from marble_bench.errors import UsageError
from marble_bench.scoring.scores import average_windows

from .grid import Form, Probe, Recipe, Split, TrainedProbe
from .inputs import Moments, read_chunk
from .memory import free_bytes

if TYPE_CHECKING:
    import torch

    from .inputs import Features

ROWS = 8192  # windows at once that a head answers for
RESERVED = {"mean", "spread"}  # what features are scaled by is beside a head's own tensors under these names


def solve(members: Sequence[Probe], features: Features, recipe: Recipe) -> list[TrainedProbe]:
    """Every probe of one layer, in the order given. A probe whose outputs or score are not finite is diverged."""
    import torch

    head, layer = get_head(recipe.protocol), members[0].layer
    assert isinstance(layer, int)
    scaled = Form.of(members[0], recipe.protocol).standardize
    rows = torch.arange(features.windows)
    x, truth = features.take(layer, rows, scaled), features.truth(rows)
    starts = range(0, len(features.valid_clip), ROWS)
    found = []
    for probe in members:
        data = TrainingSet(x, truth, recipe.outputs, recipe.loss, probe.weight_decay, probe.seed)
        state = _fit(head, data)
        valid = (features.chunk(layer, start, ROWS, scaled) for start in starts)
        answers = _predict(head, state, valid, recipe.outputs)
        outputs = average_windows(answers[None], features.valid_clip.cpu(), len(features.valid_truth))
        score = float(recipe.score(outputs, features.valid_truth.cpu())[0])
        good = bool(outputs.isfinite().all()) and score == score
        weights = {**state, **(_compute_moments(features, layer) if scaled else {})} if good else {}
        weights = {name: _detach(value) for name, value in weights.items()}
        history = (score,) if good else ()
        found.append(TrainedProbe(probe, score if good else float("nan"), len(history) - 1, history, not good, weights))
    return found


def predict_windows(fitted: TrainedProbe, split: Split, recipe: Recipe, device: str) -> torch.Tensor:
    """`(windows, outputs)` float32 on the CPU: one trained probe's outputs."""
    head, layer = get_head(recipe.protocol), fitted.probe.layer
    assert isinstance(layer, int)
    state = {name: value.to(device) for name, value in fitted.state.items() if name not in RESERVED}

    def windows() -> Iterator[torch.Tensor]:
        for start in range(0, len(split.clip), ROWS):
            x = read_chunk(split.layers[layer], split.rows, start, ROWS).to(device).float()
            if "mean" in fitted.state:
                x = Moments(*(fitted.state[name][0].to(device) for name in ("mean", "spread"))).standardize(x)
            yield x

    return _predict(head, state, windows(), recipe.outputs)


def _compute_moments(features: Features, layer: int) -> State:
    """What the features of a layer are scaled by, `(1, width)` float32."""
    import torch

    moments = features.moments(layer, torch.float32)
    return {"mean": moments.mean[None], "spread": moments.spread[None]}


def _detach(value: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU that shares no memory with another probe's, as files of tensors ask for."""
    import torch

    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _fit(head: Head, data: TrainingSet) -> State:
    """What a head keeps of a training set. Raises UsageError for what is no state."""
    import torch

    assert head.fit is not None
    state = head.fit(data)
    if not isinstance(state, dict) or not state or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise UsageError(
            f"head '{head.name}': fit returned {_describe(state)}: return a dict of tensors by their names"
        )
    if taken := RESERVED & set(state):
        raise UsageError(f"head '{head.name}': fit returned a tensor called '{min(taken)}': give it another name")
    if other := [name for name, value in state.items() if value.layout != torch.strided]:
        kind = str(state[other[0]].layout).removeprefix("torch.")
        raise UsageError(f"head '{head.name}': fit returned '{other[0]}' as a tensor of layout {kind}: make it dense")
    needed, free = sum(value.numel() * value.element_size() for value in state.values()), free_bytes("cpu")
    if needed > free:  # a view may be of any size, and is written out before it is kept
        raise UsageError(
            f"head '{head.name}': fit returned {needed / 1e6:,.0f} MB of tensors, and {free / 1e6:,.0f} MB are free: "
            "return only what predict needs"
        )
    return state


def _predict(head: Head, state: State, batches: Iterator[torch.Tensor], outputs: int) -> torch.Tensor:
    """`(windows, outputs)` float32 on the CPU. Raises UsageError for answers of another shape or kind."""
    import torch

    assert head.predict is not None
    parts = []
    for x in batches:
        with torch.inference_mode():
            found = head.predict(state, x)
        if not isinstance(found, torch.Tensor) or found.shape != (len(x), outputs) or not found.is_floating_point():
            raise UsageError(
                f"head '{head.name}': predict returned {_describe(found)} for {len(x)} windows: return floating-point "
                f"numbers (windows, outputs), here {(len(x), outputs)}"
            )
        parts.append(found.float().cpu())
    return torch.cat(parts)


def _describe(value: object) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(sorted({type(each).__name__ for each in value.values()})) or 'nothing'}"
    return type(value).__name__

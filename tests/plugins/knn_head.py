"""The classes of the nearest training windows, counted: a head without any parameter but how many neighbours it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marble_bench import Head, TrainingSet

if TYPE_CHECKING:
    import torch

WINDOWS = 1024  # whose distances are in memory at once


def fit(data: TrainingSet) -> dict[str, torch.Tensor]:
    """All that there is to learn: the windows themselves, and what is true of each."""
    import torch

    truth = data.truth
    if data.loss == "cross_entropy":
        truth = torch.nn.functional.one_hot(truth, data.outputs)
    return {"windows": data.x, "truth": truth.float(), "neighbours": torch.tensor(round(data.strength))}


def predict(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`(windows, outputs)`: the mean truth of each window's nearest neighbours by Euclidean distance."""
    import torch

    count = min(int(state["neighbours"]), len(state["windows"]))
    near = [torch.cdist(part, state["windows"]).topk(count, largest=False).indices for part in x.split(WINDOWS)]
    return state["truth"][torch.cat(near)].mean(dim=1)


HEAD = Head(
    name="knn",
    description="the mean truth of the nearest training windows",
    fit=fit,
    predict=predict,
    strengths=(1, 3, 5, 9),
)

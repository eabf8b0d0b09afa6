"""Linear probes solved to their end instead of trained: logistic regression by L-BFGS, ridge in closed form.

Classes: multinomial logistic regression; tags: one logistic regression each; scalars: ridge regression. The problem is
mean loss + penalty / 2 * |weights|^2 over the training windows (for scalars half the squared error), the intercept
without penalty: scikit-learn's `LogisticRegression(C=1 / (penalty * windows))` and `Ridge(alpha=penalty * windows)`. From
the strongest penalty to the weakest, each starts where the last one ended. Which penalty is best, validation says.

Sources: scikit-learn's user guide, "Linear models"; Liu and Nocedal (1989) for L-BFGS, by SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import network
from .block import validated
from .grid import Fitted, Form, Probe, Recipe
from .product import product

if TYPE_CHECKING:
    import torch

    from marble_bench.targets import Loss

    from .features import Features

GRADIENT = 1e-6  # largest entry of the mean loss's gradient at which L-BFGS ends
NEAR = 1e-4  # the noise of float32 products may end it a little earlier; beyond this it has not converged
MOST_ITERATIONS = 1000


def solve(members: Sequence[Probe], features: Features, recipe: Recipe) -> list[Fitted]:
    """Every penalty of one layer, in the order given. What is not finite, or not at its end, is marked as diverged."""
    import torch

    layer = members[0].layer
    assert layer is not None
    scaled = Form.of(members[0], recipe.protocol).standardize
    x = features.take(layer, torch.arange(features.windows), scaled)
    y = features.truth(torch.arange(features.windows))
    found: dict[Probe, dict[str, torch.Tensor]] = {}
    ended = dict.fromkeys(members, True)
    if recipe.loss == "squared_error":
        found = dict(zip(members, ridge(x, y, [probe.weight_decay for probe in members]), strict=True))
    else:
        start = {
            "weight": x.new_zeros(recipe.outputs, features.width),
            "bias": x.new_zeros(recipe.outputs, 1),
        }
        for probe in sorted(members, key=lambda probe: -probe.weight_decay):
            start, ended[probe] = logistic(x, y, probe.weight_decay, recipe.loss, start)
            found[probe] = start
    parameters = {name: torch.stack([found[probe][name] for probe in members]) for name in ("weight", "bias")}
    outputs = validated(parameters, features, recipe, [(layer, members[0].seed, scaled, 0.0)], [len(members)])
    scores = recipe.score(outputs, features.valid_truth).tolist()
    finite = outputs.isfinite().flatten(1).all(dim=1).tolist()
    fitted = []
    for probe, score, sound in zip(members, scores, finite, strict=True):
        good = sound and score == score and ended[probe]
        state = {name: value.cpu() for name, value in network.turned(found[probe]).items()} if good else {}
        state = features.with_moments(state, (layer,) if scaled else ())
        history = (score,) if good else ()
        fitted.append(Fitted(probe, score if good else float("nan"), len(history) - 1, history, not good, state))
    return fitted


def ridge(x: torch.Tensor, y: torch.Tensor, penalties: Sequence[float]) -> list[dict[str, torch.Tensor]]:
    """`weight (outputs, width)` and `bias (outputs, 1)` for each penalty, by one decomposition in float64."""
    import torch

    wide, truth = x.double(), y.double()
    center, middle = wide.mean(dim=0), truth.mean(dim=0)
    wide -= center
    values, vectors = torch.linalg.eigh(wide.T @ wide / len(x))
    slope = vectors.T @ (wide.T @ (truth - middle) / len(x))
    found = []
    for penalty in penalties:
        weight = (vectors @ (slope / (values.clamp(min=0) + penalty)[:, None])).T
        found.append({"weight": weight.float(), "bias": (middle - weight @ center)[:, None].float()})
    return found


def logistic(
    x: torch.Tensor, y: torch.Tensor, penalty: float, loss: Loss, start: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], bool]:
    """`weight (outputs, width)` and `bias (outputs, 1)` at the minimum, and whether it was reached.

    x: `(windows, width)`. y: as in `Split.truth`. start: where to begin, of the same shapes.
    """
    import numpy as np
    import torch
    from scipy.optimize import minimize

    outputs, width = start["weight"].shape
    # network.slopes gives the mean over tags too; each tag's problem is one of its own
    share = outputs if loss == "binary_cross_entropy" else 1

    wide = torch.float32 if x.device.type == "mps" else torch.float64  # which MPS has not
    truth = (y if loss == "cross_entropy" else y.to(wide))[None]

    def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.from_numpy(flat).to(wide).to(x.device)
        weight, bias = values[: outputs * width].view(outputs, width), values[outputs * width :, None]
        # products in float32; what is summed from them in float64, or its noise would end the search early
        outputs_now = (product(weight.float(), x).to(wide) + bias)[None]
        value, slope = network.slopes(outputs_now, truth, loss, None)
        slope = slope[0] * share
        total = float(value[0] * share + penalty / 2 * weight.square().sum())
        by_weight = product(slope.float(), x.T).to(wide) + penalty * weight
        gradient = torch.cat([by_weight.flatten(), slope.sum(dim=1)])
        return total, gradient.double().cpu().numpy()

    flat = torch.cat([start["weight"].flatten(), start["bias"].flatten()]).double().cpu().numpy()
    options = {"maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS, "gtol": GRADIENT, "ftol": 1e-12, "maxcor": 20}
    ended = minimize(both, flat, jac=True, method="L-BFGS-B", options=options)
    values = torch.from_numpy(ended.x).to(x.device, torch.float32)
    reached = bool(np.abs(ended.jac).max() < NEAR)
    return {"weight": values[: outputs * width].view(outputs, width), "bias": values[outputs * width :, None]}, reached

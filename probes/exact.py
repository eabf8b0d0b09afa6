"""Linear probes solved to their end instead of trained: logistic regression by Newton's method, ridge in closed form.

Classes: multinomial logistic regression, of two classes binomial; tags: one binomial logistic regression each; scalars:
ridge regression. The problem is mean loss + penalty / 2 * |weights|^2 over the training windows (for scalars half the
squared error), the intercept without penalty: scikit-learn's `LogisticRegression(C=1 / (penalty * windows))` and
`Ridge(alpha=penalty * windows)`, whose answers these are to 1e-6. Which penalty is best, validation says.

All of it is in float64. The windows are rotated to the axes in which they vary, min(windows, width) of them: the best
weights lie in the space that the windows span, and along its axes the curvature is almost diagonal. Each Newton step is
solved by conjugate gradients behind that diagonal and taken as far as the slope along it is falling. From the strongest
penalty to the weakest, each problem starts where the last one ended. While it runs torch has one thread, so that sums
have one order and a machine with more cores finds the same probe.

A class or tag that no training window has would drift to an output of minus infinity: it has `ABSENT` instead, a
probability of 0 to the last bit, and a tag that every window has has a probability of 1.

Sources: scikit-learn's user guide, "Linear models"; Nocedal and Wright, Numerical Optimization (2006), section 7.1 for
Newton's method with conjugate gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marble_bench.errors import BenchError

from . import network
from .block import validate
from .grid import Form, Probe, Recipe, TrainedProbe
from .kernels import multiply_linear

if TYPE_CHECKING:
    import torch

    from .inputs import Features

ABSENT = (
    -1000.0
)  # exp(-1000) is 0 in float64; the outputs of the classes that are there have a mean of 0, so one is above
END = 1e-11  # Newton ends where its gradient, in units of the curvature, is no longer than this
ROUNDED = 1e-8  # where rounding keeps a gradient from falling further, this is near enough; more is a fault
NEAR, NEAREST = 0.1, 1e-4  # how much of a gradient a Newton step may leave; float32 products reach no further
LONGEST = 4.0  # times a Newton step; where rounding hides a slope there would be no end
MOST_STEPS, MOST_INNER, MOST_SLOPES = 200, 1000, 60
TINY = 1e-30  # the least curvature that is divided by
ROWS = 8192  # windows at once where a product needs a copy of them


def choose_device(device: str) -> str:
    """Where a problem is solved that shall run on a device: on MPS there is no float64."""
    return "cpu" if device == "mps" else device


def solve(members: Sequence[Probe], features: Features, recipe: Recipe) -> list[TrainedProbe]:
    """Every penalty of one layer, in the order given. Only features that are not finite make a probe diverge."""
    import torch

    layer = members[0].layer
    assert isinstance(layer, int)
    scaled = Form.of(members[0], recipe.protocol).standardize
    rows = torch.arange(features.windows)
    y = features.truth(rows)
    x = features.take(layer, rows, scaled, torch.float64)
    if not x.isfinite().all():
        return [TrainedProbe(probe, float("nan"), -1, (), True, {}) for probe in members]
    ordered = sorted(members, key=lambda probe: -probe.weight_decay)
    penalties = [probe.weight_decay for probe in ordered]
    if recipe.loss == "masked_binary_cross_entropy":
        solutions = solve_masked_tags(x, y.double(), penalties)
    elif recipe.loss == "squared_error":
        solutions = solve_ridge(Rotated.of(x), y.double(), penalties)
    elif recipe.loss == "binary_cross_entropy":
        solutions = solve_tags(Rotated.of(x), y.double(), penalties)
    else:
        solutions = solve_classes(Rotated.of(x), y, recipe.outputs, penalties)
    found = dict(zip(ordered, solutions, strict=True))
    parameters = {name: torch.stack([found[probe][name] for probe in members]) for name in ("weight", "bias")}
    outputs = validate(parameters, features, recipe, [(layer, members[0].seed, scaled, 0.0)], [len(members)])
    scores = recipe.score(outputs, features.valid_truth).tolist()
    finite = outputs.isfinite().flatten(1).all(dim=1).tolist()  # the valid windows may not be
    fitted = []
    for probe, score, sound in zip(members, scores, finite, strict=True):
        good = sound and score == score
        state = {name: value.cpu() for name, value in network.transpose(found[probe]).items()} if good else {}
        state = features.with_moments(state, (layer,) if scaled else ())
        history = (score,) if good else ()
        fitted.append(TrainedProbe(probe, score if good else float("nan"), len(history) - 1, history, not good, state))
    return fitted


@dataclass(frozen=True)
class Rotated:
    """Training windows along the axes in which they vary.

    x: `(windows, rank + 1)` float64, centred, rank the lesser of windows and width; the last column is 1, for the
    intercept. axes: `(width, rank)`, orthonormal. centre: `(width,)`. variances: `(rank,)` of the columns.
    """

    x: torch.Tensor
    axes: torch.Tensor
    centre: torch.Tensor
    variances: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> Rotated:
        """x: `(windows, width)` float64, finite, which is overwritten."""
        import torch

        windows, width = x.shape
        centre = x.mean(dim=0)
        x -= centre
        # an orthonormal basis of all directions, or of those that the windows span: no rank is guessed
        basis = torch.linalg.qr(x.T).Q if windows < width else None
        if basis is not None:
            x = x @ basis
        variances, vectors = torch.linalg.eigh(x.T @ x / windows)
        along = x.new_ones(windows, len(variances) + 1)
        for start in range(0, windows, ROWS):
            along[start : start + ROWS, :-1] = x[start : start + ROWS] @ vectors
        return cls(along, vectors if basis is None else basis @ vectors, centre, variances.clamp(min=0))

    def probe(self, solution: torch.Tensor) -> dict[str, torch.Tensor]:
        """`weight (outputs, width)` and `bias (outputs, 1)` of `solution (outputs, rank + 1)`."""
        weight = solution[:, :-1] @ self.axes.T
        return {"weight": weight, "bias": solution[:, -1:] - weight @ self.centre[:, None]}


def solve_ridge(data: Rotated, y: torch.Tensor, penalties: Sequence[float]) -> list[dict[str, torch.Tensor]]:
    """The probe of each penalty, by one decomposition. y: `(windows, outputs)` float64."""
    import torch

    middle = y.mean(dim=0)
    slope = (y - middle).T @ data.x[:, :-1] / len(y)
    return [
        data.probe(torch.cat([slope / (data.variances + penalty), middle[:, None]], dim=1)) for penalty in penalties
    ]


def solve_classes(
    data: Rotated, y: torch.Tensor, outputs: int, penalties: Sequence[float]
) -> list[dict[str, torch.Tensor]]:
    """The probe of each penalty, which fall. y: `(windows,)` int64. The outputs of the classes there have a mean of 0."""
    import torch

    there, index = torch.unique(y, return_inverse=True)  # sorted
    if len(there) == 1:
        found = [data.x.new_zeros(1, data.x.shape[1]) for _ in penalties]
    elif len(there) == 2:
        path = _solve_path(data.x, index[None].double(), penalties, joint=False)
        found = [each * each.new_tensor([[-0.5], [0.5]]) for each in path]
    else:
        target = torch.nn.functional.one_hot(index).T.double().contiguous()
        found = [each - each.mean(dim=0) for each in _solve_path(data.x, target, penalties, joint=True)]
    return [_scatter(data.probe(each), there, [ABSENT] * outputs) for each in found]


def solve_tags(data: Rotated, y: torch.Tensor, penalties: Sequence[float]) -> list[dict[str, torch.Tensor]]:
    """The probe of each penalty, which fall. y: `(windows, outputs)` float64 of 0 and 1."""
    carried = y.mean(dim=0)
    both = ((carried > 0) & (carried < 1)).nonzero()[:, 0]
    certain = [ABSENT if share == 0 else -ABSENT for share in carried.tolist()]
    target = y[:, both].T.contiguous()
    return [_scatter(data.probe(each), both, certain) for each in _solve_path(data.x, target, penalties, joint=False)]


def solve_masked_tags(x: torch.Tensor, y: torch.Tensor, penalties: Sequence[float]) -> list[dict[str, torch.Tensor]]:
    """The probe of each penalty, which fall: of each tag that of the windows judged for it; without any it is absent.

    x: `(windows, width)` float64. y: `(windows, outputs)` float64, 1 or 0, or below 0 where nobody judged.
    """
    import torch

    by_tag = []
    for column in y.T:
        judged = column >= 0
        some = judged if judged.any() else torch.ones_like(judged)
        own = column[some].clamp(min=0)[:, None]
        by_tag.append(solve_tags(Rotated.of(x[some].clone()), own, penalties))
    return [
        {name: torch.cat([each[place][name] for each in by_tag]) for name in ("weight", "bias")}
        for place in range(len(penalties))
    ]


def _scatter(
    probe: dict[str, torch.Tensor], which: torch.Tensor, elsewhere: Sequence[float]
) -> dict[str, torch.Tensor]:
    """The probe's outputs at the places `which`; the other outputs are the constants `elsewhere`."""
    weight = probe["weight"].new_zeros(len(elsewhere), probe["weight"].shape[1])
    bias = probe["bias"].new_tensor(list(elsewhere))[:, None]
    weight[which], bias[which] = probe["weight"], probe["bias"]
    return {"weight": weight, "bias": bias}


def _solve_path(x: torch.Tensor, target: torch.Tensor, penalties: Sequence[float], joint: bool) -> list[torch.Tensor]:
    """The solution `(outputs, rank + 1)` at each penalty, each begun at the one before."""
    found, start, single = [], x.new_zeros(len(target), x.shape[1]), x.float()
    for penalty in penalties:
        start = solve_logistic(x, target, penalty, joint, start, single)
        found.append(start)
    return found


def solve_logistic(
    x: torch.Tensor, target: torch.Tensor, penalty: float, joint: bool, start: torch.Tensor, single: torch.Tensor
) -> torch.Tensor:
    """`(outputs, rank + 1)` at the minimum of mean loss + penalty / 2 * |all but the last column|^2.

    x: `(windows, rank + 1)`. target: `(outputs, windows)`. joint: whether the outputs are the classes of one problem, with
    a softmax over them; else each is a problem of its own. single: x in float32. Raises BenchError if the minimum is not
    reached.
    """
    import torch

    solution, todo = start.clone(), torch.arange(len(target), device=x.device)
    before = x.new_full((1 if joint else len(todo),), math.inf)
    for _ in range(MOST_STEPS):
        if not len(todo):
            return solution
        problem = _Problem.at(x, single, target[todo], penalty, joint, solution[todo])
        gradient_norm = problem.compute_gradient_norm()
        done = (gradient_norm <= END) | ((gradient_norm <= ROUNDED) & (gradient_norm >= before / 2))
        if done.any():
            keep = (~done).nonzero()[:, 0]
            todo, before = (todo[:0] if joint else todo[keep]), before[keep]
            continue
        before = gradient_norm
        solution[todo] = problem.search_line(problem.compute_newton_step(gradient_norm))
    raise BenchError(
        f"logistic regression at penalty {penalty:g} is {float(before.max()):.1g} from its end after {MOST_STEPS} steps: "
        "give a stronger penalty, or report it with the task and the encoder if a protocol of the suite asks for this one"
    )


@dataclass(frozen=True)
class _Problem:
    """Logistic regressions that share their windows, at one solution `(outputs, rank + 1)`; see `solve_logistic`.

    penalty: `(rank + 1,)`, 0 for the intercept. outputs, probabilities, curve: `(outputs, windows)`; curve is
    probability * (1 - probability) / windows. gradient, diagonal: `(outputs, rank + 1)`, the latter of the second
    derivative.
    """

    x: torch.Tensor
    single: torch.Tensor
    target: torch.Tensor
    penalty: torch.Tensor
    joint: bool
    solution: torch.Tensor
    outputs: torch.Tensor
    probabilities: torch.Tensor
    curve: torch.Tensor
    gradient: torch.Tensor
    diagonal: torch.Tensor

    @classmethod
    def at(
        cls,
        x: torch.Tensor,
        single: torch.Tensor,
        target: torch.Tensor,
        penalty: float,
        joint: bool,
        solution: torch.Tensor,
    ) -> _Problem:
        by_column = x.new_full((x.shape[1],), penalty)
        by_column[-1] = 0
        outputs = solution @ x.T
        probabilities = _compute_probabilities(outputs, joint)
        curve = probabilities * (1 - probabilities) / len(x)
        gradient = (probabilities - target) @ x / len(x) + by_column * solution
        diagonal = by_column.expand_as(gradient).clone()
        for first in range(0, len(x), ROWS):
            part = single[first : first + ROWS].square()
            diagonal += multiply_linear(curve[:, first : first + ROWS].float(), part.T)
        diagonal.clamp_(min=TINY)
        return cls(x, single, target, by_column, joint, solution, outputs, probabilities, curve, gradient, diagonal)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """`(problems,)`: the sum over columns, and over the outputs of one problem."""
        return values.sum()[None] if self.joint else values.sum(dim=1)

    def compute_gradient_norm(self) -> torch.Tensor:
        """`(problems,)`: of the gradient, each entry in units of the root of its curvature."""
        return self.total(self.gradient.square() / self.diagonal).sqrt()

    def multiply_curvature(self, step: torch.Tensor) -> torch.Tensor:
        """The second derivative times a step, both `(outputs, rank + 1)`, to float32's precision."""
        moved = multiply_linear(step.float(), self.single)
        if self.joint:
            weighed = self.probabilities * moved
            by_output = (weighed - self.probabilities * weighed.sum(dim=0)) / len(self.x)
        else:
            by_output = self.curve * moved
        return multiply_linear(by_output.float(), self.single.T) + self.penalty * step

    def compute_newton_step(self, gradient_norm: torch.Tensor) -> torch.Tensor:
        """The step `(outputs, rank + 1)` to the minimum of the local parabola, the nearer the shorter the gradient is."""
        import torch

        near = gradient_norm * gradient_norm.clamp(NEAREST, NEAR)
        step = torch.zeros_like(self.gradient)
        left = -self.gradient
        scaled = left / self.diagonal
        way = scaled.clone()
        was = self.total(left * scaled)
        going = torch.ones_like(near, dtype=torch.bool)
        for _ in range(MOST_INNER):
            curved = self.multiply_curvature(way)
            bent = self.total(way * curved)
            going &= bent > 0  # rounding: along the intercepts of all classes together there is no curvature
            size = torch.where(going, was / bent, 0)[:, None]
            step += size * way
            left -= size * curved
            scaled = left / self.diagonal
            now = self.total(left * scaled)
            going &= now.sqrt() > near
            if not going.any():
                break
            way = scaled + torch.where(going, now / was, 0)[:, None] * way
            was = now
        return step

    def search_line(self, step: torch.Tensor) -> torch.Tensor:
        """The solution after as much of a step as takes the slope along it to a half or less; the loss is convex."""
        import torch

        by_output, along = step @ self.x.T, self.penalty * step

        def slope(times: torch.Tensor) -> torch.Tensor:
            apart = _compute_probabilities(self.outputs + times[:, None] * by_output, self.joint) - self.target
            by_penalty = self.total(along * (self.solution + times[:, None] * step))
            return self.total(apart * by_output) / len(self.x) + by_penalty

        times = torch.ones_like(self.compute_gradient_norm())
        low, high = torch.zeros_like(times), torch.full_like(times, 2 * LONGEST)
        steepest = slope(low).abs() / 2
        for _ in range(MOST_SLOPES):
            now = slope(times)
            flat = (now.abs() <= steepest) | ((now < 0) & (times >= LONGEST))
            if flat.all():
                break
            low, high = torch.where(now < 0, times, low), torch.where(now < 0, high, times)
            middle = torch.where(high > LONGEST, 2 * times, (low + high) / 2)
            times = torch.where(flat, times, middle)
        return self.solution + times[:, None] * step


def _compute_probabilities(outputs: torch.Tensor, joint: bool) -> torch.Tensor:
    """Probabilities of classes, whose sum is 1, or of tags, each for itself; `(outputs, windows)`."""
    return outputs.softmax(dim=0) if joint else outputs.sigmoid()

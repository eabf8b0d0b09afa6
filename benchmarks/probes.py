"""A whole grid at once, against one probe at a time in plain torch, and against what the machine can do at all.

python benchmarks/probes.py [--quick] [--device cpu|cuda] [--only gtzan,mtt,jukemir-768,jukemir-160]
    [--epochs N] [--layers N]

Features are synthetic, of the sizes that the lines name. The loop is torch.nn, torch.optim.Adam and torch's scheduler,
with the same batches, masks and stopping, so that its scores can be compared with ours probe by probe. It is timed on some
probes of the grid; its time for all of them is its time for a round times the rounds that ours trained. Bounds: the grid's
multiplications at the rate of a large product; the optimiser's bytes at the rate of a copy of memory that does not fit the
cache; dropout's random numbers, once for each seed, batch size and hidden size; the rows of the batches, once for each layer
beside these; and all of them one after the other, all measured in this run. "Own shapes": the products of the first layer
again, at the rate of products as small as the blocks have.

On the CPU all times are core-seconds, what the process had of the processors, so that other programs on the machine do
not count; the loop runs on one core, which is its best case, for it loses nothing to waiting. The wall clock is beside ours.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from marble_bench.probes import rng, trainer
from marble_bench.probes.block import group_of
from marble_bench.probes.kernels import multiply_linear

from marble_bench.core.plugins import find_head
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Schedule
from marble_bench.metrics import accuracy, roc_auc
from marble_bench.protocols.jukemir import PROTOCOL as JUKEMIR
from marble_bench.protocols.marble import PROTOCOL as MARBLE

ADAM_BYTES = 28  # of a float32 parameter in one step: itself, gradient and moments read, itself and moments written
SHORT_S, TRIES = 2.0, 5  # below so many seconds both ways are timed so often, and the fastest counts, as for the bounds
LOSSES = {"cross_entropy": torch.nn.CrossEntropyLoss(), "binary_cross_entropy": torch.nn.BCEWithLogitsLoss()}


@dataclass(frozen=True)
class Case:
    """One grid on features of one size. sampled: how many probes the loop trains. rounds: how many it trains each."""

    name: str
    protocol: Protocol
    schedule: Schedule
    clips: tuple[int, int]
    layers: int
    width: int
    outputs: int
    tags: bool
    sampled: int
    rounds: int | None
    wanted: Callable[[trainer.Probe], bool] = lambda probe: True


def list_cases(quick: bool) -> dict[str, list[Case]]:
    """The grids to time, by the names of `--only`."""
    gtzan = Schedule(4 if quick else 100, 6, 20)
    found = {
        "gtzan": [Case("marble, GTZAN", MARBLE, gtzan, (443, 197), 13, 768, 10, False, 3 if quick else 6, None)],
        "mtt": [
            Case("marble, MTT", MARBLE, Schedule(1, 3, 10), (18706, 1825), 2 if quick else 13, 768, 50, True, 3, None)
        ],
    }
    rules = replace(JUKEMIR, max_evaluations=4 if quick else 20)
    for width in (768, 160):
        found[f"jukemir-{width}"] = [
            Case(
                f"jukemir, {half}, {width} wide",
                rules,
                gtzan,
                (443, 197),
                1,
                width,
                10,
                False,
                4,
                None,
                lambda probe, hidden=hidden: probe.hidden == hidden,
            )
            for half, hidden in (("MLP half", 512), ("linear half", 0))
        ]
    return found


def make_features(case: Case) -> tuple[trainer.Split, trainer.Split]:
    """Half-precision features in which a class or tags can be heard, more in the middle layers."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(case.outputs, case.width, generator=generator)
    splits = []
    for clips in case.clips:
        if case.tags:
            truth = (torch.rand(clips, case.outputs, generator=generator) < 0.06).float()
            truth[: case.outputs] += torch.eye(case.outputs)  # every tag at least once
            truth.clamp_(max=1)
        else:
            truth = torch.randint(0, case.outputs, (clips,), generator=generator)
        heard = truth @ centers if case.tags else centers[truth]
        layers = [
            (
                4 * torch.randn(clips, case.width, generator=generator) + heard / (1 + abs(index - case.layers // 2))
            ).half()
            for index in range(case.layers)
        ]
        splits.append(trainer.Split(layers, torch.arange(clips), truth))
    return splits[0], splits[1]


class Plain(torch.nn.Module):
    """One probe as torch.nn writes it, started from the same numbers as the grid's. layers: float32."""

    def __init__(self, probe: trainer.Probe, recipe: trainer.Recipe, train: list[torch.Tensor]) -> None:
        super().__init__()
        self.form, self.recipe = trainer.Form.of(probe, recipe.protocol), recipe
        self.order, self.noise, init = rng.make_generators(probe.seed)
        head = find_head("mlp" if self.form.hidden else "linear")
        values = list(head.init(train[0].shape[1], self.form.hidden, recipe.outputs, init).values())
        self.linears = torch.nn.ModuleList()
        for weight, bias in zip(values[::2], values[1::2], strict=True):
            linear = torch.nn.Linear(*weight.shape)
            linear.weight.data, linear.bias.data = weight.T.contiguous(), bias[0].clone()
            self.linears.append(linear)
        self.mix = torch.nn.Parameter(torch.randn(len(train), generator=init)) if probe.layer is None else None

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        mask = torch.rand(*x.shape, generator=self.noise).to(x.device) >= self.form.dropout
        return x * (mask.to(x.dtype) / (1 - self.form.dropout))

    def forward(self, read: list[torch.Tensor]) -> torch.Tensor:
        x = read[0] if self.mix is None else torch.einsum("l,lbw->bw", self.mix.softmax(0), torch.stack(read))
        if self.recipe.protocol.input_dropout:
            x = self.dropped(x)
        x = self.linears[0](x)
        return x if len(self.linears) == 1 else self.linears[1](self.dropped(x.relu()))


def run_loop(
    probe: trainer.Probe,
    train: trainer.Split,
    valid: trainer.Split,
    recipe: trainer.Recipe,
    device: str,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, list[float], torch.Tensor]:
    """Seconds of training one probe, its validation score after each round, its best outputs for the valid split."""
    indices = recipe.summable if probe.layer is None else (probe.layer,)
    x, held = ([split.layers[index].to(device, dtype) for index in indices] for split in (train, valid))
    form, rules = trainer.Form.of(probe, recipe.protocol), recipe.rules
    if form.standardize:
        scales = [(each.mean(dim=0), each.std(dim=0, correction=0)) for each in x]
        x, held = ([(e - m) / s for e, (m, s) in zip(of, scales, strict=True)] for of in (x, held))
    truth, answers = train.truth.to(device), valid.truth.to(device)
    truth = truth.to(dtype) if truth.is_floating_point() else truth
    model = Plain(probe, recipe, x).to(device, dtype)
    optimizer = torch.optim.Adam(model.parameters(), probe.learning_rate, weight_decay=probe.weight_decay)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=recipe.protocol.plateau_factor, patience=rules.lr_patience or 0
    )
    history: list[float] = []
    best = torch.empty(0)
    windows, every = len(truth), recipe.protocol.validate_steps
    started = read_clock(device)
    while rules.max_rounds is None or len(history) < rules.max_rounds:
        model.train()
        batches = rng.draw_epoch(windows, form.batch_size, model.order) if not every else []
        if every and history:
            batches = [rng.sample(windows, form.batch_size, model.order) for _ in range(every)]
        for rows in batches:
            place = rows.to(device)
            loss = LOSSES[recipe.loss](model([each[place] for each in x]), truth[place])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs = model(held)
        history.append(float(recipe.score(outputs[None], answers)))
        if len(history) == 1 or history[-1] > max(history[:-1]):
            best = outputs
        if rules.lr_patience is not None:
            scheduler.step(history[-1])
        if len(history) - 1 - history.index(max(history)) >= rules.stop_patience:
            break
    return read_clock(device) - started, history, best.float().cpu()


def read_clock(device: str) -> float:
    """Seconds: of all cores together on the CPU, on the wall once a GPU has done its work."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def time_fastest(action: Callable[[], object], device: str, tries: int = 7) -> float:
    """Seconds of the fastest of some tries."""
    found = []
    for _ in range(tries):
        started = read_clock(device)
        action()
        found.append(read_clock(device) - started)
    return min(found)


def measure_ceilings(device: str) -> dict[str, float]:
    """Operations and bytes per second, of one core or a GPU: a large product, by oneDNN and by `mm`, and a copy."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    size = 1536 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    old, new = (torch.zeros(64 << 20, device=device) for _ in range(2))
    found = {
        "product": 2 * size**3 / time_fastest(lambda: multiply_linear(a, b), device),
        "mm": 2 * size**3 / time_fastest(lambda: torch.mm(a, b), device),
        "bytes": 2 * old.nbytes / time_fastest(lambda: new.copy_(old), device),
        "draws": 1e6 / time_fastest(lambda: torch.rand(10**6), "cpu"),  # always drawn there
    }
    rows = torch.randint(1 << 15, (256,), device=device)
    read = torch.zeros(1 << 15, 768, dtype=torch.float16, device=device)
    found["rows"] = 256 * 768 / time_fastest(lambda: read.index_select(0, rows).float(), device)
    torch.set_num_threads(cores)
    return found


def count_work(fitted: list[trainer.TrainedProbe], case: Case, recipe: trainer.Recipe) -> tuple[float, float]:
    """Operations of all products of the grid as it was trained, and bytes of all its optimiser steps."""
    operations = nbytes = 0.0
    for one in fitted:
        form = trainer.Form.of(one.probe, recipe.protocol)
        rounds = len(one.history)
        inner = form.hidden or case.outputs
        first = 2.0 * case.width * inner
        last = 2.0 * form.hidden * case.outputs
        if recipe.protocol.validate_steps:
            steps = (rounds - 1) * recipe.protocol.validate_steps
            trained = steps * min(form.batch_size, case.clips[0])
        else:
            steps, trained = rounds * -(-case.clips[0] // form.batch_size), rounds * case.clips[0]
        mixing = 2.0 * case.width * len(recipe.summable) if one.probe.layer is None else 0.0
        more = first + 2 * mixing if one.probe.layer is None else 0.0  # the gradient by the input, and by the shares
        operations += trained * (2 * first + 3 * last + more) + rounds * case.clips[1] * (first + last + mixing)
        nbytes += (
            steps * ADAM_BYTES * ((case.width + 1) * inner + (form.hidden + 1) * (case.outputs if form.hidden else 0))
        )
    return operations, nbytes


def count_shared(fitted: list[trainer.TrainedProbe], case: Case, recipe: trainer.Recipe) -> tuple[float, float]:
    """Random numbers that dropout needs, and values of batches, each once for all probes that share them."""
    drawn: dict[tuple[int, int, int], float] = {}
    read: dict[tuple[int | None, int, int, int], float] = {}
    for one in fitted:
        form = trainer.Form.of(one.probe, recipe.protocol)
        rounds, every, size = len(one.history), recipe.protocol.validate_steps, form.batch_size
        windows = (rounds - 1) * every * min(size, case.clips[0]) if every else rounds * case.clips[0]
        width = form.hidden + (case.width if recipe.protocol.input_dropout else 0)
        key = (one.probe.seed, size, form.hidden)
        drawn[key] = max(drawn.get(key, 0.0), windows * width * (form.dropout > 0))
        layers = len(recipe.summable) if one.probe.layer is None else 1
        place = (one.probe.layer, *key)
        read[place] = max(read.get(place, 0.0), layers * windows * case.width)
    return sum(drawn.values()), sum(read.values())


def time_own_shapes(
    fitted: list[trainer.TrainedProbe],
    blocks: list[list[trainer.Probe]],
    case: Case,
    recipe: trainer.Recipe,
    device: str,
    rate: float,
) -> float:
    """Seconds that the first layer's products of all steps, as large as the blocks have them and with nothing between
    them, take beyond what they would at `rate`, operations a second."""
    rounds = {one.probe: len(one.history) for one in fitted}
    found, known = 0.0, {}
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    for block in blocks:
        for _, group in groupby(block, lambda probe: group_of(probe, recipe)):
            members = list(group)
            form = trainer.Form.of(members[0], recipe.protocol)
            every, size = recipe.protocol.validate_steps, min(form.batch_size, case.clips[0])
            longest = max(rounds[probe] for probe in members)
            steps = (longest - 1) * every if every else longest * case.clips[0] / size
            shape = (len(members) * (form.hidden or case.outputs), size)
            if shape not in known:
                left, x = torch.randn(shape[0], case.width, device=device), torch.randn(size, case.width, device=device)
                slope = torch.randn(shape, device=device)
                known[shape] = time_fastest(lambda x=x, left=left: multiply_linear(left, x), device, 50)
                known[shape] += time_fastest(lambda x=x, slope=slope: multiply_linear(slope, x.T), device, 50)
                known[shape] -= 4 * shape[0] * shape[1] * case.width / rate
            found += steps * known[shape]
    torch.set_num_threads(cores)
    return found


def run(case: Case, top: dict[str, float], device: str) -> None:
    """Time one grid both ways and print what came of it."""
    train, valid = make_features(case)
    recipe = trainer.Recipe(
        case.protocol,
        case.schedule,
        case.outputs,
        "binary_cross_entropy" if case.tags else "cross_entropy",
        roc_auc.compute if case.tags else accuracy.compute,
        tuple(range(1, case.layers)) if case.layers > 1 else (),
    )
    with_sum = case.protocol.layer_sum and len(recipe.summable) > 1
    whole = trainer.build_grid(case.protocol, range(case.layers), with_sum, case.protocol.seeds)
    probes = [probe for probe in whole if case.wanted(probe)]
    trainer.fit(probes[:1], train, valid, replace(recipe, schedule=replace(case.schedule, max_epochs=1)), device)
    ours_s = wall_s = math.inf
    tries = 0
    while tries < 1 or (tries < TRIES and ours_s < SHORT_S):
        wall, started = time.perf_counter(), read_clock(device)
        fitted = trainer.fit(probes, train, valid, recipe, device, states="best")
        ours_s, wall_s = min((ours_s, wall_s), (read_clock(device) - started, time.perf_counter() - wall))
        tries += 1
    rounds = sum(len(one.history) for one in fitted)
    sampled = [fitted[(2 * index + 1) * len(fitted) // (2 * case.sampled)] for index in range(case.sampled)]
    trainer_s, loop_rounds, apart_scores, noise_scores, apart_outputs = 0.0, 0, 0.0, 0.0, []
    cores = torch.get_num_threads()
    for one in sampled:
        torch.set_num_threads(1)
        runs = [run_loop(one.probe, train, valid, recipe, device) for _ in range(tries)]
        seconds, history, outputs = min(runs, key=lambda each: each[0])
        _, exact, sound = run_loop(one.probe, train, valid, recipe, device, torch.float64)
        torch.set_num_threads(cores)
        trainer_s, loop_rounds = trainer_s + seconds, loop_rounds + len(history)
        apart_scores = max(apart_scores, abs(max(history) - one.valid))
        noise_scores = max(noise_scores, abs(max(history) - max(exact)))
        (alone,) = trainer.fit([one.probe], train, valid, recipe, device)
        theirs = trainer.predict_windows(alone, valid, recipe, device)
        apart_outputs += [
            f"{float((one - other).square().mean().sqrt() / sound.square().mean().sqrt()):.0e}"
            for one, other in ((theirs, outputs), (theirs, sound), (outputs, sound))
        ]
    loop_s = trainer_s / loop_rounds * rounds
    operations, nbytes = count_work(fitted, case, recipe)
    flop_s, byte_s = operations / top["product"], nbytes / top["bytes"]
    drawn, read = count_shared(fitted, case, recipe)
    draw_s, read_s = drawn / top["draws"], read / top["rows"]
    bound_s = flop_s + byte_s + draw_s + read_s
    more_s = time_own_shapes(
        fitted, trainer.make_blocks(probes, train, valid, recipe, device), case, recipe, device, top["product"]
    )
    what = "evaluations" if case.protocol.validate_steps else "epochs"
    print(
        f"\n{case.name} ({'/'.join(map(str, case.clips))} x {case.layers} x {case.width}): {len(fitted)} probes, "
        f"{rounds} {what} of probes\n"
        f"  ours   {ours_s:9.2f} s   {operations / ours_s / 1e9:.0f} GFLOP/s; {wall_s:.2f} s on the wall\n"
        f"  loop   {loop_s:9.2f} s   {len(sampled)} probes timed for {loop_rounds} {what}, {trainer_s:.2f} s, times "
        f"{rounds}/{loop_rounds}: ours is {loop_s / ours_s:.1f} x as fast\n"
        f"  bounds {flop_s:9.2f} s of products, {byte_s:.2f} s of optimiser bytes, {flop_s + byte_s:.2f} s one after the "
        f"other: {loop_s / (flop_s + byte_s):.0f} x the loop; ours is at {(flop_s + byte_s) / ours_s:.0%} of that, "
        f"{flop_s / ours_s:.0%} of the products alone\n"
        f"         {draw_s:.2f} s of dropout's draws, {read_s:.2f} s of batches; with them {bound_s:.2f} s: "
        f"{loop_s / bound_s:.0f} x the loop; ours is at {bound_s / ours_s:.0%}\n"
        f"         {more_s:.2f} s more for products in own shapes; with them {bound_s + more_s:.2f} s: "
        f"{loop_s / (bound_s + more_s):.0f} x the loop; ours is at {(bound_s + more_s) / ours_s:.0%}\n"
        f"  apart  best validation scores by at most {apart_scores:.1e} (the loop from itself in float64: "
        f"{noise_scores:.1e}); outputs, relative root mean square:\n"
        f"         ours from the loop {', '.join(apart_outputs[0::3])}; ours from the loop in float64 "
        f"{', '.join(apart_outputs[1::3])}; the loop from that {', '.join(apart_outputs[2::3])}",
        flush=True,
    )


def main() -> None:
    """Measure the machine, then each grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and layers")
    parser.add_argument("--epochs", type=int, help="at most so many, or so many evaluations, of each probe")
    parser.add_argument("--layers", type=int, help="of the marble grids, instead of 13")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="gtzan,mtt,jukemir-768,jukemir-160")
    asked = parser.parse_args()
    top = measure_ceilings(asked.device)
    print(
        f"{asked.device}, {torch.get_num_threads()} threads, torch {torch.__version__}; of one core or the GPU: products "
        f"{top['product'] / 1e9:.0f} GFLOP/s (torch.mm {top['mm'] / 1e9:.0f}), memory {top['bytes'] / 1e9:.0f} GB/s",
        flush=True,
    )
    known = list_cases(asked.quick)
    for name in asked.only.split(","):
        for each in known[name]:
            case = each
            if asked.epochs and case.protocol.validate_steps:
                case = replace(case, protocol=replace(case.protocol, max_evaluations=asked.epochs))
            elif asked.epochs:
                case = replace(case, schedule=replace(case.schedule, max_epochs=asked.epochs))
            if asked.layers and case.layers > 1:
                case = replace(case, layers=asked.layers)
            run(case, top, asked.device)


if __name__ == "__main__":
    main()

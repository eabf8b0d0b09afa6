"""Variants of a run: what a user changes of the rules of its protocol and of its task.

A record names its protocol and its task as they are declared, and its variants beside them. What trains, and what is
encoded, follows from both together: `adapt_protocol` and `adapt_window`. A run without variants has no trace of them, so
that keys and records of old stay as they are. A run with one is never ranked: see `marble_bench.records.comparable`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marble_bench.core.declared import is_number, shorten_repr
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Window
from marble_bench.errors import UsageError, suggest_name

POOLS = ("mean", "mean+std", "max")  # what is taken of a window's frames
STATISTICS = ("mean", "std", "max")  # the numbers that these are made of
GRID, VALIDATION, FIXED = "grid", "validation", "fixed"


def format_value(value: float) -> str:
    """A number as flags, reasons and file names have it: short, and exact.

    >>> format_value(0.0001), format_value(5.0), format_value(0.12345678)
    ('0.0001', '5', '0.12345678')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


@dataclass(frozen=True, kw_only=True)
class Variants:
    """What sets the rules of a run apart from those of its protocol and task; at its defaults nothing does.

    pool: what is taken of the frames of a window, one of `POOLS`; a standard deviation is that of the frames themselves,
    divided by their number. window_s: length of the windows in seconds, in place of the task's.
    learning_rate: the only one. fixed: layer and learning rate were given, so validation chooses neither; each probe still
    stops, and keeps its best epoch, by validation. standardize: features are z-scored by the training windows.
    train_share: of the training clips, drawn by each seed as `probes.few_shot.take_share` does.
    """

    pool: str = "mean"
    window_s: float | None = None
    learning_rate: float | None = None
    fixed: bool = False
    standardize: bool = False
    train_share: float | None = None

    def facts(self) -> dict[str, Any]:
        """What is not at its default, as keys and records have it."""
        found = {
            "pool": "" if self.pool == "mean" else self.pool,
            "window_s": self.window_s,
            "learning_rate": self.learning_rate,
            "select": FIXED if self.fixed else None,
            "standardize": self.standardize,
            "train_share": self.train_share,
        }
        return {name: value for name, value in found.items() if value}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Variants:
        """The variants of what `facts` gave."""
        own = {name: value for name, value in facts.items() if name != "select"}
        return cls(**own, fixed=facts.get("select") == FIXED)

    def list_training_facts(self) -> dict[str, Any]:
        """Those facts that decide how probes are trained; pooling and window decide features, whose keys have them."""
        return {name: value for name, value in self.facts().items() if name not in ("pool", "window_s")}

    def flags(self) -> dict[str, str]:
        """The options that give them, by the name of the fact."""
        words = {
            "pool": f"--pool {self.pool}",
            "window_s": f"--window {_format(self.window_s)}",
            "learning_rate": f"--select {FIXED}" if self.fixed else f"--lr {_format(self.learning_rate)}",
            "select": f"--select {FIXED}",
            "standardize": "--standardize",
            "train_share": f"--train-share {_format(self.train_share)}",
        }
        return {name: words[name] for name in self.facts()}

    def list_reasons(self) -> list[str]:
        """Why a record with them is not comparable, a line each."""
        words = {
            "pool": f"features pooled by {self.pool}, not by the mean",
            "window_s": f"windows of {_format(self.window_s)} s, not those of the task",
            "learning_rate": f"only learning rate {_format(self.learning_rate)}",
            "select": "layer and learning rate given, not chosen by validation",
            "standardize": "features standardised, which the protocol does not do",
            "train_share": f"trained on a share of {_format(self.train_share)} of the training clips",
        }
        return [words[name] for name in self.facts()]

    def list_name_parts(self) -> list[str]:
        """What a record's file is called after them."""
        words = {
            "pool": f"pool-{self.pool}",
            "window_s": f"window{_format(self.window_s)}",
            "learning_rate": f"lr{_format(self.learning_rate)}",
            "select": FIXED,
            "standardize": "standardized",
            "train_share": f"share{_format(self.train_share)}",
        }
        return [words[name] for name in self.facts()]

    def adapt_protocol(self, protocol: Protocol) -> Protocol:
        """The protocol as probes are trained by it, under its own name. Raises UsageError for what it has not."""
        if self.learning_rate is not None:
            if protocol.solver != "adam":
                raise UsageError(
                    f"{self.flags()['learning_rate']}: protocol '{protocol.name}' trains by no learning rate: leave it out, "
                    "or choose another protocol (bench list protocols)"
                )
            protocol = replace(protocol, learning_rates=(self.learning_rate,))
        if self.fixed and (axes := _list_other_axes(protocol)):
            raise UsageError(
                f"--select {FIXED}: protocol '{protocol.name}' also chooses {' and '.join(axes)} by validation: choose a "
                "protocol whose grid has layers and learning rates alone, such as marble"
            )
        return _standardize(protocol) if self.standardize else protocol

    def adapt_window(self, window: Window) -> Window:
        """How clips are cut. Raises UsageError for windows that are longer than what a task takes of a clip."""
        if self.window_s is None:
            return window
        if window.first_s is not None and self.window_s > window.first_s:
            raise UsageError(
                f"--window {_format(self.window_s)}: only the first {window.first_s:g} s of each clip are used: give at "
                "most that"
            )
        return replace(window, length_s=self.window_s)


def _format(value: float | None) -> str:
    return "" if value is None else format_value(value)


def _list_other_axes(protocol: Protocol) -> list[str]:
    """The axes of a grid, beside layers and learning rates, of which validation chooses."""
    axes = ("weight_decays", "hiddens", "dropouts", "batch_sizes", "standardizing")
    return [name for name in axes if len(getattr(protocol, name)) > 1]


def _standardize(protocol: Protocol) -> Protocol:
    """The same rules on standardised features, which the grid then says of each probe."""
    if not protocol.trains:
        raise UsageError(f"--standardize is of probes, and protocol '{protocol.name}' trains none: leave it out")
    if protocol.standardize and not protocol.standardizing:
        raise UsageError(f"--standardize: protocol '{protocol.name}' standardises already: leave it out")
    if protocol.layer_concat:
        raise UsageError(
            f"--standardize: protocol '{protocol.name}' trains on the concatenation of layers, which takes features as they "
            "are: choose another protocol (bench list protocols)"
        )
    return replace(protocol, standardizing=(True,))


@dataclass(frozen=True, kw_only=True)
class AskedVariants:
    """What `--pool` and its like ask for, read once.

    layers: as `--layers` is written, or the layer that `--select` fixes. pools: a run each, whose features come of one pass.
    shared: the variants of all runs, but for the pooling.
    """

    layers: str
    pools: tuple[str, ...]
    shared: Variants

    def list_all(self) -> list[Variants]:
        """The variants of each run."""
        return [replace(self.shared, pool=pool) for pool in self.pools]


def parse_variants(
    *,
    layers: str = "all",
    pool: str | Sequence[str] = "mean",
    window: float | None = None,
    lr: str | float = GRID,
    select: str = VALIDATION,
    standardize: bool = False,
    train_share: float | None = None,
) -> AskedVariants:
    """What the options of these names ask for. Raises UsageError naming option, value and next step."""
    rate = _parse_rate(lr)
    fixed = select != VALIDATION
    if fixed:
        layer, given = _parse_fixed(select)
        if layers != "all" or rate is not None:
            other = "--layers" if layers != "all" else "--lr"
            raise UsageError(f"--select {select} names layer and learning rate: leave {other} out")
        layers, rate = layer, given
    if window is not None and not (is_number(window) and window > 0):
        raise UsageError(f"--window {shorten_repr(window)}: give a number of seconds above 0, or leave it out")
    if train_share is not None and not (is_number(train_share) and 0 < train_share < 1):
        raise UsageError(
            f"--train-share {shorten_repr(train_share)}: give a share above 0 and below 1, such as 0.1, or leave it out"
        )
    if not isinstance(standardize, bool):
        raise UsageError(f"--standardize {shorten_repr(standardize)}: give True or False")
    shared = Variants(
        window_s=None if window is None else float(window),
        learning_rate=rate,
        fixed=fixed,
        standardize=standardize,
        train_share=None if train_share is None else float(train_share),
    )
    return AskedVariants(layers=layers, pools=_parse_pools(pool), shared=shared)


def _parse_pools(asked: str | Sequence[str]) -> tuple[str, ...]:
    names = asked.split(",") if isinstance(asked, str) else list(asked)
    if strange := [name for name in names if name not in POOLS]:
        hint = suggest_name(str(strange[0]), POOLS) or f"; choose from {', '.join(POOLS)}"
        raise UsageError(f"--pool {shorten_repr(strange[0])}: no such choice{hint}")
    if not names:
        raise UsageError(f"--pool is empty: give one or more of {', '.join(POOLS)}, with commas between them")
    return tuple(dict.fromkeys(names))


def _parse_rate(asked: str | float) -> float | None:
    """The learning rate that `--lr` names; None for the protocol's grid."""
    if asked == GRID:
        return None
    return _parse_positive(asked, f"--lr {shorten_repr(asked)}: give 'grid', or a learning rate above 0, such as 0.001")


def _parse_fixed(asked: object) -> tuple[str, float]:
    """Layer and learning rate of `fixed:LAYER,LR`."""
    words = (
        f"--select {shorten_repr(asked)}: give 'validation', or 'fixed:LAYER,LR' with the name of one layer, sum, concat or "
        "last, and a learning rate above 0, such as fixed:5,0.001"
    )
    if not isinstance(asked, str) or not asked.startswith(f"{FIXED}:"):
        raise UsageError(words)
    layer, _, rate = asked.removeprefix(f"{FIXED}:").rpartition(",")
    if not layer or "," in layer or layer == "all":
        raise UsageError(words)
    return layer, _parse_positive(rate, words)


def _parse_positive(asked: object, words: str) -> float:
    """A finite number above 0. words: what is said of anything else."""
    try:
        value = float(asked) if isinstance(asked, (str, int, float)) and not isinstance(asked, bool) else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(words)
    return value

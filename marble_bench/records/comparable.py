"""The rule that says whether a record is comparable, why not, and what its file is called. One rule for run and check.

A record is comparable if it is of the full corpus, of all layers, of float32 features, of true training labels, and has at
least as many seeds as its protocol asks for: more seeds say the same with less noise, and are the same file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from marble_bench.audio import perturb
from marble_bench.core.choices import Control, words_of
from marble_bench.core.encoder import NOT_STATED, Encoder
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Window
from marble_bench.core.variants import Variants
from marble_bench.records.record import Record

BROUGHT = "features:"  # so begins a record's `model.source`, where the features were brought
BROUGHT_FACTS: dict[str, Any] = {  # what a record says of their model, of which nobody knows more
    "version": 1,
    "revision": "",
    "parameters": None,
    "sample_rate_hz": None,
    "frame_rate_hz": None,
    "license": NOT_STATED,
    "training_data": [],
}
CONTROLS = words_of(Control)  # what may be done to training labels
UNNAMED = "the layers of the features have no names: write layers.json beside the arrays"


HEARD = "zeros that pad a window are heard by this encoder"
MASKED = "zeros that pad a window are not heard by this encoder, which is told the valid samples"


def list_departures(protocol: Protocol, window: Window, encoder: Encoder | None) -> tuple[str, ...]:
    """Where a run departs from what its protocol is named for: as the protocol says, and what its padding becomes.

    encoder: None where features were brought, of which nobody knows.
    """
    if window.min_ratio is None or encoder is None:
        return protocol.departures
    return (*protocol.departures, MASKED if encoder.masks else HEARD)


@dataclass(frozen=True)
class Departures:
    """What sets a run apart from the full run that a ranking is made of; at its defaults nothing does.

    limit: clips of each split at most. missing: how many published clips the corpus lacks. unnamed: several layers were
    brought without names. seeds: how many the run has, asked: how many its protocol asks for, None where that is not known
    here. perturbed: the names of the changes of test clips. variants: what was changed of the rules of protocol and task.
    """

    mini: bool = False
    limit: int | None = None
    missing: int = 0
    unnamed: bool = False
    layers: str = "all"
    seeds: int = 1
    asked: int | None = None
    dtype: str = "float32"
    control: str = ""
    few_shot: bool = False
    perturbed: tuple[str, ...] = ()
    variants: Variants = Variants()

    @property
    def fewer_seeds(self) -> bool:
        """Whether the run has fewer seeds than its protocol asks for."""
        return self.asked is not None and self.seeds < self.asked

    def list_reasons(self) -> list[str]:
        """Why the record is not comparable, a line each; none for a comparable one."""
        lines = {
            "made on the miniature corpus": self.mini,
            f"limited to {self.limit} clips a split": self.limit,
            f"incomplete corpus ({self.missing} clips absent)": self.missing,
            UNNAMED: self.unnamed,
            f"only layers {self.layers}": self.layers != "all",
            f"{self.seeds} seeds, the protocol asks for {self.asked}": self.fewer_seeds,
            f"features in {self.dtype}": self.dtype != "float32",
            f"a control: training labels by {self.control}": self.control,
            "made for a few-shot curve; the full run is a record of its own": self.few_shot,
            f"made for perturbations ({', '.join(self.perturbed)}); the full run is a record of its own": self.perturbed,
        }
        return [*(line for line, holds in lines.items() if holds), *self.variants.list_reasons()]

    def variant(self) -> str:
        """What the record's file is called after its task's name; empty for a comparable record."""
        changes = "" if set(self.perturbed) == set(perturb.CHANGES) else f"-{'+'.join(self.perturbed)}"
        parts = {
            "mini": self.mini,
            f"limit{self.limit}": self.limit,
            "partial": self.missing,
            "unnamed-layers": self.unnamed,
            f"layers-{self.layers}".replace(",", "+"): self.layers != "all",
            f"seeds{self.seeds}": self.fewer_seeds,
            self.dtype: self.dtype != "float32",
            f"control-{self.control}": self.control,
            "few-shot": self.few_shot,
            f"perturbed{changes}": self.perturbed,
        }
        return "-".join([*(part for part, holds in parts.items() if holds), *self.variants.list_name_parts()])


def find_variants(record: Record) -> Variants:
    """What was changed of the rules of a record's protocol and task."""
    return Variants.of_facts(msgspec.to_builtins(record.variants)) if record.variants else Variants()


def changes_rules(record: Record) -> bool:
    """Whether a record was made by other rules than its protocol's and its task's: by variants, or on some layers alone."""
    return bool(record.variants) or find_departures(record, None).layers != "all"


def find_departures(record: Record, asked: int | None) -> Departures:
    """What sets a record apart by what it holds; limit, layers and control, which it holds nowhere else, by its `why_not`.

    asked: the seeds that its protocol asks for, None where the protocol is not known here.
    """

    def find_reason(pattern: str) -> str:
        found = (re.fullmatch(pattern, reason) for reason in record.why_not)
        return next((match.group(1) for match in found if match), "")

    limit = find_reason(r"limited to ([1-9][0-9]{0,8}) clips a split")
    by_protocol = find_reason(r"\d+ seeds, the protocol asks for ([1-9][0-9]{0,5})")
    return Departures(
        mini=record.data.mini,
        limit=int(limit) if limit else None,
        missing=record.data.absent,
        unnamed=UNNAMED in record.why_not,
        layers=find_reason(r"only layers (.+)") or "all",
        seeds=record.selection.seeds,
        asked=int(by_protocol) if asked is None and by_protocol else asked,
        dtype=record.environment.dtype,
        control=find_reason(rf"a control: training labels by ({'|'.join(CONTROLS)})"),
        few_shot=bool(record.few_shot),
        perturbed=tuple(record.perturbations),
        variants=find_variants(record),
    )

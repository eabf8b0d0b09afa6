"""What chosen probes answer, beside what is right, and the table of it beside a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marble_bench.data.examples import Examples
from marble_bench.scoring.scores import Answers

if TYPE_CHECKING:
    import pandas as pd
    import torch


@dataclass(frozen=True)
class Windows:
    """What probes answer to windows: outputs `(seeds, windows, width)`; clip: `(windows,)`, each window's clip."""

    outputs: torch.Tensor
    clip: torch.Tensor


@dataclass(frozen=True)
class Predictions:
    """What each seed's probe answers for some clips.

    split: as the table names them, `test` or `test:mp3`. outputs: `(seeds, clips, width)`, what metrics read. truth:
    `(clips,)` or `(clips, width)`. shown: the table's column `truth` where that is something else. columns: of each seed
    what else the table has, by name. windows: where clips have several.
    """

    split: str
    examples: Examples
    outputs: torch.Tensor
    truth: torch.Tensor
    shown: Sequence[list[Any]] | None = None
    columns: Sequence[Mapping[str, Sequence[Any]]] = ()
    windows: Windows | None = None

    @property
    def groups(self) -> list[str]:
        """What is drawn together in a bootstrap."""
        return self.examples.groups

    def tables(self) -> list[pd.DataFrame]:
        """A table for each seed, a row for each clip."""
        import pandas as pd

        shown = self.shown if self.shown is not None else [row.reshape(-1).tolist() for row in self.truth]
        return [
            pd.DataFrame(
                {
                    "split": self.split,
                    "seed": seed,
                    "clip": self.examples.ids,
                    "group": self.groups,
                    "truth": shown,
                    "outputs": values.tolist(),
                    **(self.columns[seed] if self.columns else {}),
                }
            )
            for seed, values in enumerate(self.outputs)
        ]


def build_table(found: Iterable[Predictions]) -> pd.DataFrame:
    """The table beside a record: a row for each split, seed and clip."""
    import pandas as pd

    return pd.concat([part for each in found for part in each.tables()], ignore_index=True)


def make_answers(found: Mapping[str, Predictions]) -> Answers:
    """The valid and test splits as scores are made of them."""
    return Answers(
        {split: each.outputs for split, each in found.items()},
        {split: each.truth for split, each in found.items()},
        found["test"].groups,
    )

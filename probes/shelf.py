"""Finished blocks of probes, kept on disk until the record stands: a run that dies goes on after the last of them.

A shelf is a folder named by a digest of everything that decides its probes: data, protocol, schedule, device, versions
and the code in this folder. A block is one safetensors file, written whole, named by its probes: the weights that were
asked for, and scores and history as JSON in its header.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core.keys import digest_with_arrays
from marble_bench.disk import write_whole
from marble_bench.errors import BenchError, DataError

from .grid import Fitted, Probe

if TYPE_CHECKING:
    from .grid import Split


def digest(facts: Mapping[str, Any], *splits: Split) -> str:
    """16 hex digits over what is told of a run, the labels and windows of its splits, and torch."""
    import torch

    held = [values for split in splits for values in (split.clip, split.truth, split.rows) if values is not None]
    arrays = (values.contiguous().numpy() for values in held)
    return digest_with_arrays({**facts, "torch": torch.__version__}, arrays)[:16]


class Folder:
    """A shelf on disk: `<root>/<key>/<probes>.safetensors`."""

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root / key

    def _path(self, probes: Sequence[Probe]) -> Path:
        names = json.dumps([asdict(probe) for probe in probes])
        return self.folder / f"{hashlib.sha256(names.encode()).hexdigest()[:16]}.safetensors"

    def get(self, probes: Sequence[Probe]) -> list[Fitted] | None:
        """The block of these probes, or None if it is not there. Raises DataError naming a damaged file."""
        from safetensors import SafetensorError, safe_open

        path = self._path(probes)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                kept = json.loads(file.metadata()["fitted"])
                states: list[dict[str, Any]] = [{} for _ in kept]
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    index, name = key.split(".", 1)
                    states[int(index)][name] = file.get_tensor(key)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise DataError(f"kept probes {path} are damaged ({error}); delete the file and run again") from error
        return [
            Fitted(
                probe,
                float("nan") if one["valid"] is None else one["valid"],
                one["best_epoch"],
                tuple(one["history"]),
                one["diverged"],
                state,
            )
            for probe, one, state in zip(probes, kept, states, strict=True)
        ]

    def put(self, fitted: Sequence[Fitted]) -> None:
        """Keep a block. Raises BenchError if the disk refuses."""
        from safetensors.torch import save

        facts = [
            {
                "valid": one.valid if one.valid == one.valid else None,
                "best_epoch": one.best_epoch,
                "history": one.history,
                "diverged": one.diverged,
            }
            for one in fitted
        ]
        tensors = {f"{i}.{name}": v.contiguous() for i, one in enumerate(fitted) for name, v in one.state.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path([one.probe for one in fitted]), save(tensors, {"fitted": json.dumps(facts)}))
        except OSError as error:
            raise BenchError(f"finished probes cannot be kept in {self.folder}: {error.strerror}") from error

    def clear(self) -> None:
        """Take the shelf away: the record stands."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

"""Finished blocks of probes, kept on disk until the record is saved: a run that dies goes on after the last of them.

A probe cache is identified by a digest of everything that decides its probes: data, protocol, schedule, device, versions
and the code in this folder. A block is one safetensors file, written whole, named by the cache's key and by its probes. It
holds the weights that were asked for, and in its header, as JSON, scores, history, the seconds it took, and a digest of all
this.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core.keys import digest_with_arrays
from marble_bench.errors import BenchError, DataError
from marble_bench.files.atomic import REFUSED, sweep_leftovers, write_whole

from .grid import Probe, TrainedProbe

if TYPE_CHECKING:
    import torch

    from .grid import Split


def digest(facts: Mapping[str, Any], *splits: Split) -> str:
    """16 hex digits over what is told of a run, the labels and windows of its splits, and torch."""
    import torch

    held = [values for split in splits for values in (split.clip, split.truth, split.rows) if values is not None]
    arrays = (values.contiguous().numpy() for values in held)
    return digest_with_arrays({**facts, "torch": torch.__version__}, arrays)[:16]


class ProbeCacheFolder:
    """A probe cache on disk: files `<root>/<key>-<probes>.safetensors`, each written whole, so that processes that share one
    never see half a block; of two that write the same one, the last stays.

    earlier_s: seconds that training the blocks took that were found here. say: is told where the folder cannot be written.
    """

    def __init__(self, root: Path, key: str, say: Callable[[str], None] | None = None) -> None:
        self.root, self.key, self.say = root, key, say
        self.earlier_s = 0.0
        self._spent: dict[Path, float] = {}  # by block found here: the seconds it took
        self._since = time.perf_counter()  # when the last block ended
        self._lock = threading.Lock()
        self._closed = False

    def _path(self, probes: Sequence[Probe]) -> Path:
        names = json.dumps([asdict(probe) for probe in probes])
        return self.root / f"{self.key}-{hashlib.sha256(names.encode()).hexdigest()[:16]}.safetensors"

    def get(self, probes: Sequence[Probe]) -> list[TrainedProbe] | None:
        """The block of these probes, or None if it is not there. Raises DataError naming a damaged file."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._path(probes)
        try:
            content = (
                path.read_bytes()
            )  # at once: safetensors opens a file twice, and between that it may be another one
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            entries, tensors = json.loads(metadata["fitted"]), load(content)
            if metadata["sha256"] != _digest_content(metadata["fitted"], metadata["seconds"], tensors):
                raise ValueError("its digest differs")
            states: list[dict[str, Any]] = [{} for _ in entries]
            for key, tensor in tensors.items():
                index, name = key.split(".", 1)
                states[int(index)][name] = tensor
            seconds = float(metadata["seconds"])
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"kept probes {path} are damaged ({error}); delete the file and run again") from error
        with self._lock:
            self._spent[path] = seconds
            self.earlier_s += seconds
        return [
            TrainedProbe(
                probe,
                float("nan") if one["valid"] is None else one["valid"],
                one["best_epoch"],
                tuple(one["history"]),
                one["diverged"],
                state,
            )
            for probe, one, state in zip(probes, entries, states, strict=True)
        ]

    def put(self, fitted: Sequence[TrainedProbe]) -> None:
        """Keep a block, with the time since the block before it. Raises BenchError if the disk refuses.

        Where the folder cannot be written at all, that is said once, and nothing is kept.
        """
        from safetensors.torch import save

        path = self._path([one.probe for one in fitted])
        with self._lock:
            if self._closed:
                return
            seconds = self._spent.get(path)
            if seconds is None:
                now = time.perf_counter()
                seconds, self._since = now - self._since, now
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
        metadata = {"fitted": json.dumps(facts), "seconds": f"{seconds:.6f}"}
        metadata["sha256"] = _digest_content(metadata["fitted"], metadata["seconds"], tensors)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(path, save(tensors, metadata))
        except OSError as error:
            if self.say is None or error.errno not in REFUSED:
                raise BenchError(f"finished probes cannot be stored in {self.root}: {error.strerror}") from error
            with self._lock:
                was_closed, self._closed = self._closed, True
            if not was_closed:
                self.say(f"finished probes are not stored, because {self.root} cannot be written: {error.strerror}")

    def map_kept(self, fitted: Sequence[TrainedProbe]) -> list[TrainedProbe]:
        """A block that was put here, with its weights mapped from the file, which the system can take from memory.

        The block as it is where the file is not there, or another process has put other weights in its place.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            mapped = load_file(self._path([one.probe for one in fitted]))
        except (SafetensorError, OSError):
            return list(fitted)
        held = {f"{index}.{name}": value for index, one in enumerate(fitted) for name, value in one.state.items()}
        if mapped.keys() != held.keys() or not all(value.equal(mapped[key]) for key, value in held.items()):
            return list(fitted)
        return [
            replace(one, state={name: mapped[f"{index}.{name}"] for name in one.state})
            for index, one in enumerate(fitted)
        ]

    def clear(self) -> None:
        """Delete the blocks: the record is saved. What cannot be removed is left; it has no use and does no harm."""
        for path in self.root.glob(f"{self.key}-*.safetensors"):
            with suppress(OSError):
                path.unlink()
        sweep_leftovers(self.root)


def _digest_content(fitted: str, seconds: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over what a block holds."""
    total = hashlib.sha256(f"{fitted}\n{seconds}\n".encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.cpu().numpy().reshape(-1).view("uint8").data)
    return total.hexdigest()

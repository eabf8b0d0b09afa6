"""What an encoder gives for two fixed signals, stored beside its features: does it still give what is stored?

Weights that `load` reads from somewhere, or draws at random, are in no key. So each store has a fingerprint: every layer's
mean and root mean square over time, in float32, for noise and for chords of one second, or of `min_s` where that is longer
(the mean alone may be nothing but rounding, where a layer is normalised over time). Whenever an encoder is loaded it is made
again and compared, layer by layer: the relative error |now - then| / |then| may be at most what `get_tolerance` says.
A change that is smaller is not seen.

An encoder of this suite whose features are all stored is not loaded: its code and its weights have digests. A user's is
always loaded and compared. Before the first features of a user's encoder are stored, it is loaded twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import audio
from marble_bench.core import contract
from marble_bench.core.encoder import Encode, Encoder, check_callable, check_layers
from marble_bench.errors import BenchError, DataError, UsageError, format_error
from marble_bench.features.precision import force_exact

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.features.store import Store

FILE = "fingerprint.safetensors"
LENGTH_S = 1.0
SAME_DEVICE, OTHER_DEVICE = 1e-3, 1e-2  # relative error per layer of the same encoder; see `get_tolerance`
ASIDE = "aside"  # folder in the cache root for stores that were set aside


@dataclass(frozen=True)
class Fingerprint:
    """What an encoder gave. layers: by name, `(2 signals x 2 x width,)` float32. made: when, in UTC. device: on which kind.

    half: whether a layer was computed in half precision.
    """

    layers: Mapping[str, NDArray[np.float32]]
    made: str
    device: str
    half: bool = False


def make_signals(sample_rate_hz: int, samples: int) -> NDArray[np.float32]:
    """`(2, samples)` float32: noise, and two chords one after the other; the same on every machine."""
    import numpy as np

    # SplitMix64 of the sample's index: a library's generator may give other numbers in its next version
    mixed = np.arange(1, samples + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    noise = (mixed >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    seconds = np.arange(samples) / sample_rate_hz
    chords = np.zeros(samples)
    for place, notes in enumerate(((261.63, 329.63, 392.0), (220.0, 261.63, 329.63))):
        part = slice(place * samples // 2, (place + 1) * samples // 2)
        for hz in notes:
            chords[part] += sum(np.sin(2 * np.pi * hz * partial * seconds[part]) / partial for partial in (1, 2, 3))
    return np.stack([0.4 * noise, 0.1 * chords]).astype(np.float32)


def compute(encoder: Encoder, encode: Encode, device: str) -> Fingerprint:
    """The fingerprint of an encoder that was loaded."""
    import numpy as np
    import torch

    length_s = max(LENGTH_S, encoder.min_s)
    if encoder.max_s is not None:
        length_s = min(length_s, encoder.max_s)
    rate = encoder.sample_rate_hz
    kinds = set()

    def moments(frames: torch.Tensor) -> torch.Tensor:
        kinds.add(frames.dtype)
        values = frames.float()
        return torch.cat([values.mean(dim=1), values.square().mean(dim=1).sqrt()], dim=-1)

    run = check_callable(encoder.name, encode, encoder.masks)
    found = []
    with name_mps_faults(encoder, device), force_exact(device), torch.inference_mode():
        for wave in make_signals(rate, round(length_s * rate)):  # one by one: two may not fit a memory that one fits
            batch = torch.from_numpy(audio.normalize(wave, encoder.normalize))[None].to(device)
            try:
                found.append(check_layers(encoder.name, encoder.layers, run(batch, moments)))
            except torch.OutOfMemoryError as error:
                raise BenchError(
                    f"{encoder.name}: one window of {length_s:.1f} s does not fit the memory of {device}: "
                    "use a larger device, or --device cpu"
                ) from error
    half = bool({torch.float16, torch.bfloat16} & kinds)
    named = {
        layer.name: np.concatenate([each.float().cpu().numpy().reshape(-1) for each in both])
        for layer, *both in zip(encoder.layers, *found, strict=True)
    }
    return Fingerprint(named, datetime.now(timezone.utc).isoformat(), torch.device(device).type, half)


@contextmanager
def name_mps_faults(encoder: Encoder, device: str) -> Iterator[None]:
    """Raise UsageError for what an encoder cannot do on MPS, where some operations and double precision are missing."""
    try:
        yield
    except BenchError:
        raise
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if device != "mps":
            raise
        said = format_error(error).partition("\n")[0].rstrip(".")
        raise UsageError(f"{encoder.name} does not run on MPS ({said}); give --device cpu") from error


def get_tolerance(one: Fingerprint, other: Fingerprint) -> float:
    """How far the same encoder's layers may be apart: 0.001 in float32 on one kind of device, else 0.01."""
    same = one.device == other.device and not (one.half or other.half)
    return SAME_DEVICE if same else OTHER_DEVICE


def compare(now: Fingerprint, then: Fingerprint) -> tuple[str, float] | None:
    """The first layer that differs by more than is allowed, and its relative error; None if none does."""
    import numpy as np

    for name, old in then.layers.items():
        new = now.layers.get(name)
        error = float("inf")
        if new is not None and new.shape == old.shape and np.isfinite(old).all() and np.isfinite(new).all():
            apart, size = (float(np.linalg.norm(each.astype(np.float64))) for each in (new - old, old))
            error = apart / size if size else (float("inf") if apart else 0.0)
        if not error <= get_tolerance(now, then):
            return name, error
    return None


def read(folder: Path) -> Fingerprint | None:
    """The fingerprint in a store's folder; None if there is none. Raises DataError naming a file that is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        facts = json.loads(_read_metadata(content)["fingerprint"])
        layers = load(content)
        digest = facts.pop("digest")
        if digest != _digest(facts, layers):
            raise ValueError("its digest is another")
        if facts["store"] != folder.name:
            raise ValueError(f"it belongs to {facts['store']}")
        return Fingerprint(
            {name: layers[name] for name in facts["layers"]}, facts["made"], facts["device"], facts["half"]
        )
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): delete {folder} and run again") from error


def _read_metadata(content: bytes) -> dict[str, str]:
    """The texts in a safetensors file's header."""
    size = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
    return found


def pack(store: str, found: Fingerprint, names: Sequence[str]) -> bytes:
    """The file of some layers of a fingerprint, for the folder of the store of that name."""
    from safetensors.numpy import save

    layers = {name: found.layers[name] for name in names}
    facts: dict[str, Any] = {"layers": list(names), "made": found.made, "device": found.device, "half": found.half}
    facts["store"] = store
    facts["digest"] = _digest(facts, layers)
    packed: bytes = save(layers, {"fingerprint": json.dumps(facts)})
    return packed


def _digest(facts: Mapping[str, Any], layers: Mapping[str, NDArray[np.float32]]) -> str:
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in facts["layers"]:
        total.update(layers[name].tobytes())
    return total.hexdigest()


@dataclass
class Guard:
    """Sees that an encoder gives what its stores hold; one for all stores of a run, so that nothing is loaded for each.

    load: makes the encoder ready; on_cpu: the same on the CPU, with which an encoder on MPS is compared. fresh_before:
    stores made before that, in seconds since 1970, are set aside when they are opened; None for none. say: is told where
    they are then.
    """

    encoder: Encoder
    load: Callable[[], Encode]
    device: str
    fresh_before: float | None = None
    say: Callable[[str], None] | None = None
    on_cpu: Callable[[], Encode] | None = None
    now: Fingerprint | None = field(default=None, init=False)

    @property
    def is_users(self) -> bool:
        """Whether the encoder is of a user's file, whose weights no key may know."""
        return bool(self.encoder.code)

    def check_before_encoding(self, stores: Sequence[Store]) -> None:
        """Load a user's encoder once and try its contract, if nothing is stored yet that it could be compared with.

        What gives the stored fingerprint again has been tried when that was made.
        """
        if self.is_users and self.now is None and any(not store.rows or read(store.folder) is None for store in stores):
            self._load()

    def check_loaded(self, stores: Sequence[Store], now: Fingerprint) -> None:
        """Compare an encoder that was loaded with an earlier load, and with what is stored; keep it where nothing is.

        Raises BenchError naming the layer, the error, both dates, and what can be done; UsageError for an encoder that gives
        something else at every load.
        """
        if self.now is not None and (found := compare(now, self.now)):
            raise UsageError(describe_unsteady(self.encoder.name, *found))
        self._check_mps(now)
        self.now = now
        for store in stores:
            then = read(store.folder)
            if then is None or not store.rows:  # the latter was left by a run that was killed before its first shard
                self._check_siblings(store, now)
                store.put_beside(FILE, pack(store.folder.name, now, [name for name, _ in store.layers]))
            elif found := compare(now, then):
                raise BenchError(
                    f"{_describe_change(self.encoder, now, then, *found)}, or run with --fresh-features, which moves "
                    f"{store.folder} away and computes its features again"
                )

    def _check_siblings(self, store: Store, now: Fingerprint) -> None:
        """Compare a user's encoder, of which a store is to be made, with its features of other windows, layers or sounds.

        Without it, two tasks could be scored with different weights under one name and digest. Fresh features are compared
        with nothing that was stored before.
        """
        for folder in store.find_siblings() if self.is_users else ():
            then = read(folder)
            if then is None or (self.fresh_before is not None and (_get_seconds(then) or 0.0) < self.fresh_before):
                continue
            if found := compare(now, then):
                raise BenchError(
                    f"{_describe_change(self.encoder, now, then, *found)}, or delete {folder}, its features in other "
                    "windows or of other sounds"
                )

    def check_stored(self, stores: Sequence[Store]) -> None:
        """Compare a user's encoder, of which everything is stored, with what is stored; nothing is written."""
        if self.is_users:
            compared = [store for store in stores if read(store.folder) is not None]
            self.check_loaded(compared, self.now or self._load())

    def _load(self) -> Fingerprint:
        with name_mps_faults(self.encoder, self.device):
            encode = check_callable(self.encoder.name, self.load(), self.encoder.masks)
        if self.is_users:  # its mistakes in plain words, before anything is compared
            with force_exact(self.device):
                contract.require(self.encoder, encode, self.device)
        self.now = compute(self.encoder, encode, self.device)
        return self.now

    def _check_mps(self, now: Fingerprint) -> None:
        """Compare an encoder on MPS with itself on the CPU, once. Raises UsageError naming the layer and the error."""
        if now.device != "mps" or self.on_cpu is None:
            return
        if found := compare(now, compute(self.encoder, self.on_cpu(), "cpu")):
            raise UsageError(
                f"{self.encoder.name} gives other features on MPS than on the CPU: layer '{found[0]}' differs by "
                f"{_format_error(found[1])}, allowed is {OTHER_DEVICE:g}; give --device cpu"
            )
        self.on_cpu = None

    def set_aside(self, root: Path, name: str) -> None:
        """Set a store's folder aside, if features are to be fresh and it is older than that."""
        folder = root / name
        if self.fresh_before is None or not folder.is_dir():
            return
        then = _get_seconds(read(folder))
        if then is not None and then >= self.fresh_before:
            return
        stamp = time.strftime("%Y%m%d-%H%M%S")
        place = root.parent / ASIDE / stamp / root.name / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, place)
        except OSError as error:
            raise BenchError(f"{folder} cannot be set aside as {place}: {error.strerror}") from error
        if self.say:
            self.say(f"set aside: {place} (bench features ls --cache-dir {place.parents[1]})")


def _get_seconds(found: Fingerprint | None) -> float | None:
    if found is None:
        return None
    return datetime.fromisoformat(found.made).timestamp()


def read_date(folder: Path) -> str:
    """When the features in a store's folder were first made; empty where that is not known."""
    found = read(folder)
    return found.made if found else ""


def describe_unsteady(name: str, layer: str, error: float) -> str:
    """What is said of an encoder that gave other features when it was loaded again."""
    return (
        f"{name}: loaded twice, layer '{layer}' differs by {_format_error(error)} for the same audio. Features cannot be "
        "reproduced if every load draws new random weights, or if dropout is on: read weights from a file or draw them with "
        "a fixed seed, and call model.eval()"
    )


def _describe_change(encoder: Encoder, now: Fingerprint, then: Fingerprint, layer: str, error: float) -> str:
    return (
        f"{encoder.name} gives other features than those that are stored: layer '{layer}' differs by {_format_error(error)} "
        f"between {then.made[:19]} on {then.device} and {now.made[:19]} UTC on {now.device}; at most "
        f"{get_tolerance(now, then):g} is allowed. Name, version, code and declared weights are unchanged, so something "
        "else has changed, such as weights that load reads from a path. If this is intended, raise the encoder's version "
        f"(it is {encoder.version})"
    )


def _format_error(error: float) -> str:
    return "its shape, or by values that are not numbers" if error == float("inf") else f"{error:.2g} (relative)"

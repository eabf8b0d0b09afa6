"""Features that a user computed elsewhere, keyed by track, so that an encoder of any framework can be scored.

A folder holds `<track>.npy`, each `(width,)`, `(layers, width)` or `(windows, layers, width)`, with the same layers and
widths everywhere. A Parquet file has a column `track`, optionally `window` (order within the track), and one list
column per layer. A track is a clip's id, such as `blues.00000`. Only tracks that the task asks for are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.errors import DataError, UsageError, did_you_mean
from marble_bench.features.table import Features

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_own(place: Path, tracks: Sequence[str]) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    """The features `(windows, layers, width)` float32 of each track that is there, and the layers' names.

    Raises UsageError for a place that holds no features, DataError
    naming the file or track for a wrong shape, NaN or infinity.
    """
    if place.is_dir():
        found, names = _from_folder(place, tracks)
    elif place.is_file() and place.suffix == ".parquet":
        found, names = _from_parquet(place, tracks)
    else:
        raise UsageError(f"no features at {place}: give a folder of <track>.npy files or a .parquet file")
    if not found:
        hint = f" (the task's tracks are named like '{tracks[0]}')" if tracks else ""
        raise DataError(f"{place} has features of none of the task's {len(tracks)} tracks{hint}")
    return found, names


def digest_of(found: dict[str, NDArray[np.float32]]) -> str:
    """sha256 over tracks and values: what stands in for a weights digest."""
    total = hashlib.sha256()
    for track in sorted(found):
        total.update(f"{track} {found[track].shape}\n".encode())
        total.update(found[track].tobytes())
    return total.hexdigest()


def as_features(found: dict[str, NDArray[np.float32]], names: tuple[str, ...], tracks: Sequence[str]) -> Features:
    """The features of some tracks, in their order."""
    import numpy as np

    clip = np.repeat(np.arange(len(tracks)), [len(found[track]) for track in tracks])
    layers = [np.concatenate([found[track][:, index] for track in tracks]) for index in range(len(names))]
    return Features(names, layers, clip)


def _sound(array: Any, what: str) -> NDArray[np.float32]:
    """An array in the form `(windows, layers, width)`, or DataError."""
    import numpy as np

    if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} holds {array.dtype}; features are numbers")
    if array.ndim not in (1, 2, 3) or 0 in array.shape:
        raise DataError(f"{what} has shape {array.shape}; give (width,), (layers, width) or (windows, layers, width)")
    full: NDArray[np.float32] = array.reshape((1,) * (3 - array.ndim) + array.shape).astype(np.float32)
    bad = ~np.isfinite(full).all(axis=(0, 2))
    if bad.any():
        raise DataError(f"{what} has NaN or infinity in layer {int(bad.argmax())} ({int(bad.sum())} layers in all)")
    return full


def _from_folder(folder: Path, tracks: Sequence[str]) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    import numpy as np

    found: dict[str, NDArray[np.float32]] = {}
    shape: tuple[int, ...] = ()
    for track in tracks:
        path = folder / f"{track}.npy"
        if not path.is_file():
            continue
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path} cannot be read as an array: {error}") from error
        found[track] = _sound(array, str(path))
        shape = shape or found[track].shape[1:]
        if found[track].shape[1:] != shape:
            raise DataError(
                f"{path} has (layers, width) = {found[track].shape[1:]}, the others have {shape}; all must be alike"
            )
    return found, tuple(str(index) for index in range(shape[0] if shape else 0))


def _from_parquet(path: Path, tracks: Sequence[str]) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    if "track" not in table.column_names:
        raise DataError(f"{path} has no column 'track'{did_you_mean('track', table.column_names)}")
    if "window" in table.column_names:
        table = table.sort_by([("track", "ascending"), ("window", "ascending")])
    names = tuple(
        field.name
        for field in table.schema
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type)
    )
    if not names:
        raise DataError(f"{path} has no list column; give one per layer, each row the layer's values of one window")
    owners = [str(track) for track in table.column("track").to_pylist()]
    wanted = set(tracks)
    rows: dict[str, list[int]] = {}
    for row, owner in enumerate(owners):
        if owner in wanted:
            rows.setdefault(owner, []).append(row)
    layers = []
    for name in names:
        values = table.column(name).to_pylist()
        widths = {len(value) for value in values if value is not None}
        if len(widths) != 1 or None in values:
            raise DataError(f"{path} column '{name}' has rows of {sorted(widths)} values or empty ones; give one width")
        layers.append(np.array(values, np.float32))
    if len({layer.shape[1] for layer in layers}) > 1:
        given = {name: layer.shape[1] for name, layer in zip(names, layers, strict=True)}
        raise DataError(f"{path} has layers of different widths: {given}; give layers of one width")
    stacked = np.stack(layers, axis=1)
    return {track: _sound(stacked[index], f"{path} track '{track}'") for track, index in rows.items()}, names

"""Features that a user computed elsewhere, keyed by track, so that an encoder of any framework can be scored.

A folder holds `<track>.npy`, each `(width,)`, `(layers, width)` or `(windows, layers, width)`, with the same layers and
widths everywhere. A Parquet file has a column `track`, optionally `window` (order within the track), and one list
column per layer, each of its own width. A folder with `data/*.parquet`, as `bench features export` makes it, is read as
one such file. A track is a clip's id, such as `blues.00000`. Only tracks that the task asks for are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.errors import DataError, UsageError, did_you_mean
from marble_bench.features.table import Features

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Layers: TypeAlias = "list[NDArray[np.float32]]"  # of a track: each (windows, width)


def read_own(place: Path, tracks: Sequence[str]) -> tuple[dict[str, Layers], tuple[str, ...]]:
    """The layers of each track that is there, and the layers' names.

    Raises UsageError for a place that holds no features, DataError
    naming the file or track for a wrong shape, NaN or infinity.
    """
    parts = sorted((place / "data").glob("*.parquet"))
    if parts:
        found, names = _from_parquet(place, parts, tracks)
    elif place.is_dir():
        found, names = _from_folder(place, tracks)
    elif place.is_file() and place.suffix == ".parquet":
        found, names = _from_parquet(place, [place], tracks)
    else:
        raise UsageError(f"no features at {place}: give a folder of <track>.npy files or a .parquet file")
    if not found:
        hint = f" (the task's tracks are named like '{tracks[0]}')" if tracks else ""
        raise DataError(f"{place} has features of none of the task's {len(tracks)} tracks{hint}")
    return found, names


def digest_of(found: dict[str, Layers]) -> str:
    """sha256 over tracks and values: what stands in for a weights digest."""
    total = hashlib.sha256()
    for track in sorted(found):
        total.update(f"{track} {[layer.shape for layer in found[track]]}\n".encode())
        for layer in found[track]:
            total.update(layer.tobytes())
    return total.hexdigest()


def as_features(found: dict[str, Layers], names: tuple[str, ...], tracks: Sequence[str]) -> Features:
    """The features of some tracks, in their order."""
    import numpy as np

    clip = np.repeat(np.arange(len(tracks)), [len(found[track][0]) for track in tracks])
    layers = [np.concatenate([found[track][index] for track in tracks]) for index in range(len(names))]
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


def _from_folder(folder: Path, tracks: Sequence[str]) -> tuple[dict[str, Layers], tuple[str, ...]]:
    import numpy as np

    found: dict[str, Layers] = {}
    shape: tuple[int, ...] = ()
    for track in tracks:
        path = folder / f"{track}.npy"
        if not path.is_file():
            continue
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path} cannot be read as an array: {error}") from error
        sound = _sound(array, str(path))
        shape = shape or sound.shape[1:]
        if sound.shape[1:] != shape:
            raise DataError(
                f"{path} has (layers, width) = {sound.shape[1:]}, the others have {shape}; all must be alike"
            )
        found[track] = [np.ascontiguousarray(sound[:, index]) for index in range(shape[0])]
    return found, tuple(str(index) for index in range(shape[0] if shape else 0))


def _from_parquet(
    place: Path, paths: Sequence[Path], tracks: Sequence[str]
) -> tuple[dict[str, Layers], tuple[str, ...]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{place} cannot be read as Parquet: {error}") from error
    if "track" not in table.column_names:
        raise DataError(f"{place} has no column 'track'{did_you_mean('track', table.column_names)}")
    names = tuple(
        field.name
        for field in table.schema
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type)
    )
    if not names:
        raise DataError(f"{place} has no list column; give one per layer, each row the layer's values of one window")
    table = table.set_column(table.column_names.index("track"), "track", pc.cast(table.column("track"), pa.string()))
    table = table.filter(pc.is_in(table.column("track"), pa.array(tracks, pa.string())))
    owners = np.array(table.column("track").to_pylist(), object)
    order = np.arange(len(owners))
    if "window" in table.column_names:
        order = np.argsort(table.column("window").to_numpy(), kind="stable")
    rows: dict[str, list[int]] = {}
    for row in order:
        rows.setdefault(owners[row], []).append(int(row))
    layers = [_layer(table.column(name), f"{place} column '{name}'") for name in names]
    found = {}
    for track, its in rows.items():
        for name, layer in zip(names, layers, strict=True):
            if not np.isfinite(layer[its]).all():
                raise DataError(f"{place} track '{track}' has NaN or infinity in layer {name}")
        found[track] = [layer[its] for layer in layers]
    return found, names


def _layer(column: Any, what: str) -> NDArray[np.float32]:
    """A list column as `(rows, width)`. Raises DataError unless every row has as many values."""
    import numpy as np
    import pyarrow.compute as pc

    if not len(column):
        return np.zeros((0, 1), np.float32)
    widths = set(pc.unique(pc.list_value_length(column)).to_pylist())
    whole = column.combine_chunks()
    values = pc.list_flatten(whole)
    if len(widths) != 1 or None in widths or values.null_count:
        shown = sorted(width for width in widths if width is not None)
        raise DataError(f"{what} has rows of {shown} values or empty ones; give one width")
    flat = values.to_numpy(zero_copy_only=False)
    if not np.issubdtype(flat.dtype, np.number):
        raise DataError(f"{what} holds {values.type}; features are numbers")
    made: NDArray[np.float32] = flat.astype(np.float32).reshape(len(whole), -1)
    return made

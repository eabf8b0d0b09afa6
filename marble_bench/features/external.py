"""Features that a user computed elsewhere, keyed by track, so that an encoder of any framework can be scored.

A folder holds `<track>.npy`, each `(width,)`, `(layers, width)` or `(windows, layers, width)`, with the same layers and
widths everywhere, and `layers.json`, a list of the layers' names. An array does not say which of its axes is which: `(time,
width)` looks like as many layers as there are moments, and `(layers, time, width)` like windows. The names do: where there
is more than one layer and no `layers.json`, the axes are read as above, this is said, and the record is not comparable.

A Parquet file has a column `track`, optionally `window` (order within the track), and one list column per layer, each of its
own width, whose name is the layer's. A folder with `data/*.parquet`, as `bench features export` makes it, is read as one
such file. A track is a clip's id, such as `blues.00000`. Only tracks that the task asks for are read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.errors import DataError, UsageError, listing, suggest_name
from marble_bench.features.types import Features
from marble_bench.files.names import is_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Layers: TypeAlias = "list[NDArray[np.float32]]"  # of a track: each (windows, width)


NAMES = "layers.json"
MOST_UNNAMED = 100  # layers that are believed without names; Jukebox, the deepest of the published encoders, has 73


@dataclass(frozen=True)
class BroughtFeatures:
    """The layers of each track that is there, the layers' names, and how they were read.

    named: whether somebody gave the names, or there is one layer only. unread: arrays of other tracks beside them.
    """

    tracks: dict[str, Layers]
    names: tuple[str, ...]
    named: bool
    unread: int = 0

    def describe(self) -> str:
        """How the arrays were read, for the user and the record: layers, windows of a track, width."""
        first = next(iter(self.tracks.values()))
        counts = {len(layers[0]) for layers in self.tracks.values()}
        windows = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        widths = list(dict.fromkeys(layer.shape[1] for layer in first))
        names = listing(self.names) if self.named else f"without names, as {NAMES} is missing"
        layers = f"{len(self.names)} layer{'s' * (len(self.names) > 1)} ({names})"
        rest = f"; {self.unread} arrays of other tracks were not read" if self.unread else ""
        return (
            f"features of {len(self.tracks)} tracks were read as {layers} x {windows} windows a track x "
            f"{' or '.join(map(str, widths))} values{rest}"
        )


def read_brought(place: Path, tracks: Sequence[str]) -> BroughtFeatures:
    """The features of those of the tracks that are there.

    Raises UsageError for a place that holds no features, DataError
    naming the file or track for a wrong shape, NaN or infinity.
    """
    parts = sorted((place / "data").glob("*.parquet"))
    if parts:
        found = _from_parquet(place, parts, tracks)
    elif place.is_dir():
        found = _from_folder(place, tracks)
    elif place.is_file() and place.suffix == ".parquet":
        found = _from_parquet(place, [place], tracks)
    else:
        raise UsageError(f"no features at {place}: give a folder of <track>.npy files or a .parquet file")
    if not found.tracks:
        hint = f" (the task's tracks are named like '{tracks[0]}')" if tracks else ""
        raise DataError(f"{place} has features of none of the task's {len(tracks)} tracks{hint}")
    return found


def digest_of(found: dict[str, Layers]) -> str:
    """sha256 over tracks and values, used in place of a weights digest."""
    total = hashlib.sha256()
    for track in sorted(found):
        total.update(f"{track} {[layer.shape for layer in found[track]]}\n".encode())
        for layer in found[track]:
            total.update(layer.tobytes())
    return total.hexdigest()


def stack_tracks(found: dict[str, Layers], names: tuple[str, ...], tracks: Sequence[str]) -> Features:
    """The features of some tracks, in their order."""
    import numpy as np

    clip = np.repeat(np.arange(len(tracks)), [len(found[track][0]) for track in tracks])
    layers = [np.concatenate([found[track][index] for track in tracks]) for index in range(len(names))]
    return Features(names, layers, clip)


def _check_array(array: Any, what: str) -> NDArray[np.float32]:
    """An array in the form `(windows, layers, width)`, or DataError."""
    import numpy as np

    if array.dtype.kind not in "fiu":  # a timedelta counts as an integer for numpy
        raise DataError(f"{what} holds {array.dtype}; features are numbers")
    if array.ndim not in (1, 2, 3) or 0 in array.shape:
        raise DataError(f"{what} has shape {array.shape}; give (width,), (layers, width) or (windows, layers, width)")
    exact = array.reshape((1,) * (3 - array.ndim) + array.shape)
    with np.errstate(over="ignore"):
        full: NDArray[np.float32] = exact.astype(np.float32)
    bad = ~np.isfinite(full).all(axis=(0, 2))
    if bad.any():
        kind = "NaN or infinity" if not np.isfinite(exact).all() else f"values that float32 has not ({exact.dtype})"
        raise DataError(f"{what} has {kind} in layer {int(bad.argmax())} ({int(bad.sum())} layers in all)")
    return full


def _read_names(folder: Path) -> tuple[str, ...] | None:
    """The names in `layers.json`; None where there is none. Raises DataError if it is not a list of different names."""
    path = folder / NAMES
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    is_right = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
    if not is_right or len(set(names)) != len(names):
        raise DataError(f'{path} must be a list of the layers\' names, all different, such as ["conv1", "conv2"]')
    _check_names(names, str(path))
    return tuple(names)


def _check_names(names: Sequence[str], what: str) -> None:
    """Raise DataError for names of layers that no record can hold, or that mean something else in it."""
    for name in names:
        if not name or not is_text(name) or name in ("sum", "concat"):
            raise DataError(
                f"{what} names a layer {ascii(name)[:80]}: give one line of text, and not 'sum' or 'concat', "
                "which mean several layers"
            )


def _map_array(path: Path) -> Any:
    """The array in a file, mapped and not read: a header may promise more than there is."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path} is an archive of arrays (.npz); save one array with numpy.save")
    return array


def _from_folder(folder: Path, tracks: Sequence[str]) -> BroughtFeatures:
    import numpy as np

    names = _read_names(folder)
    found: dict[str, Layers] = {}
    shape: tuple[int, ...] = ()
    for track in tracks:
        path = folder / f"{track}.npy"
        if not path.is_file():
            continue
        array = _map_array(path)
        sound = _check_array(array, str(path))
        shape = shape or sound.shape[1:]
        if sound.shape[1:] != shape:
            raise DataError(
                f"{path} has (layers, width) = {sound.shape[1:]}, the others have {shape}; all must be alike. "
                "Time is not a layer: save several frames of a layer as (windows, 1, width), or their mean as (width,)"
            )
        if names is not None and len(names) != shape[0]:
            raise DataError(
                f"{path} has shape {array.shape}, which is {shape[0]} layers; {folder / NAMES} names {len(names)}. "
                "Save (windows, layers, width), with one name for each layer"
            )
        if names is None and shape[0] > MOST_UNNAMED:
            raise DataError(
                f"{path} has shape {array.shape}, which would be {shape[0]} layers without names. If that axis is time, "
                f"save the mean over it, x.mean(axis=0); if it is one of layers, name them in {folder / NAMES}"
            )
        found[track] = [np.ascontiguousarray(sound[:, index]) for index in range(shape[0])]
    others = sum(path.suffix == ".npy" for path in folder.iterdir()) - len(found)
    numbers = tuple(str(index) for index in range(shape[0] if shape else 0))
    return BroughtFeatures(found, names or numbers, names is not None or len(numbers) < 2, others)


def _from_parquet(place: Path, paths: Sequence[Path], tracks: Sequence[str]) -> BroughtFeatures:
    import numpy as np

    table, names = _read_table(place, paths, tracks)
    owners = np.array(table.column("track").to_pylist(), object)
    order = np.arange(len(owners))
    if "window" in table.column_names:
        order = np.argsort(_read_window_numbers(place, table.column("window"), owners), kind="stable")
    rows: dict[str, list[int]] = {}
    for row in order:
        rows.setdefault(owners[row], []).append(int(row))
    layers = [_read_layer(table.column(name), f"{place} column '{name}'") for name in names]
    found = {}
    for track, its in rows.items():
        for name, layer in zip(names, layers, strict=True):
            if not np.isfinite(layer[its]).all():
                raise DataError(f"{place} track '{track}' has NaN or infinity in layer {name}")
        found[track] = [layer[its] for layer in layers]
    return BroughtFeatures(found, names, True)


def _read_table(place: Path, paths: Sequence[Path], tracks: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """The rows of some tracks, whose names are texts in the column `track`, and the names of the layers' columns."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{place} cannot be read as Parquet: {error}") from error
    if "track" not in table.column_names:
        raise DataError(f"{place} has no column 'track'{suggest_name('track', table.column_names)}")
    names = tuple(
        field.name
        for field in table.schema
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type)
    )
    if not names:
        raise DataError(f"{place} has no list column; give one per layer, each row the layer's values of one window")
    _check_names(names, str(place))
    try:
        named = pc.cast(table.column("track"), pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{place} column 'track' holds {table.column('track').type}; give the tracks' names") from error
    table = table.set_column(table.column_names.index("track"), "track", named)
    return table.filter(pc.is_in(named, pa.array(tracks, pa.string()))), names


def _read_window_numbers(place: Path, window: Any, owners: NDArray[Any]) -> NDArray[Any]:
    """Each row's place within its track. Raises DataError unless they are numbers, none twice in a track."""
    import numpy as np
    import pyarrow as pa

    if window.null_count:
        raise DataError(f"{place} has rows without a number in the column 'window'")
    if not (pa.types.is_integer(window.type) or pa.types.is_floating(window.type)):  # texts sort by their letters
        raise DataError(f"{place} column 'window' holds {window.type}; give numbers")
    values: NDArray[Any] = window.to_numpy()
    if np.isnan(values).any():
        raise DataError(f"{place} has rows without a number in the column 'window'")
    pairs = Counter(zip(owners.tolist(), values.tolist(), strict=True))
    if twice := [pair for pair, count in pairs.items() if count > 1]:
        raise DataError(f"{place} has window {twice[0][1]} of track '{twice[0][0]}' more than once")
    return values


def _read_layer(column: Any, what: str) -> NDArray[np.float32]:
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
    if flat.dtype.kind not in "fiu":
        raise DataError(f"{what} holds {values.type}; features are numbers")
    with np.errstate(over="ignore"):  # what float32 has not is infinite, and told with its track
        rows: NDArray[np.float32] = flat.astype(np.float32).reshape(len(whole), -1)
    return rows

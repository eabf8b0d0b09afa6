"""BSSEval window by window: the table that a separation run leaves beside its record, and museval's own files made of it.

`<task>.bsseval.parquet` has a row for each seed, test song and stem, and the windows' SDR, ISR, SIR and SAR in decibels as
lists; a value is NaN where a reference or an estimate is silent. The medians that score are in the predictions, so a
record is whole without this table, and the table is verified against them when it is read.

`export_museval` writes what `museval.TrackStore.save` writes: a JSON for each song under `test/`, by the schema that museval
ships, values to five decimals, infinity as NaN. `museval.EvalStore().add_eval_dir(FOLDER)` and `MethodStore` read it.
"""

from __future__ import annotations

import json
import math
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.errors import BenchError, DataError, listing
from marble_bench.files.atomic import write_whole
from marble_bench.files.names import name_folder
from marble_bench.metrics._bsseval import MEASURES, median_of_medians
from marble_bench.records import results
from marble_bench.records.claims import LOUDEST_DB
from marble_bench.records.record_file import Stored, load_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

KIND = "bsseval"
WINDOW_S = 1.0  # length and distance of BSSEval's windows
DECIMALS = 5  # of museval's files
CLOSE_DB = 1e-9
NO_FILE_NAME = re.compile(r'[/\\:*?"<>|]')


def make_table(
    songs: Sequence[str], stems: Sequence[str], measured: dict[str, list[list[NDArray[Any]]]]
) -> pd.DataFrame:
    """The table of a run. measured: by measure `[seed][song]`, each `(stems, windows)` in dB."""
    import pandas as pd

    rows = []
    for seed in range(len(measured[MEASURES[0]])):
        for item, song in enumerate(songs):
            for place, stem in enumerate(stems):
                values = {name: measured[name][seed][item][place].tolist() for name in MEASURES}
                rows.append({"seed": seed, "clip": song, "stem": stem, **values})
    return pd.DataFrame(rows)


def save_table(path: Path, frame: pd.DataFrame) -> None:
    """Write the table beside the record at `path`. Raises BenchError where it cannot be written."""
    place = results.find_table_path(path, KIND)
    try:
        write_whole(place, frame.to_parquet(index=False))
    except OSError as error:
        raise BenchError(
            f"the table {place} cannot be written: {error.strerror}; its record is written; run again to write the table"
        ) from error


def read_table(stored: Stored) -> pd.DataFrame:
    """The table beside a record. Raises DataError where there is none, or where it is another run's."""
    path, frame = results.find_table_path(stored.path, KIND), load_table(stored, KIND)
    if frame is None:
        raise DataError(
            f"{path} does not exist: the run separated no songs, or is older than this table, or its record was "
            "copied without it. Run the same `bench run` again to write the table beside the record"
        )
    if wrong := find_disagreement(stored, frame):
        raise DataError(f"{path} is not the table of this record: {wrong}; run the same `bench run` again to write it")
    return frame


def find_disagreement(stored: Stored, frame: pd.DataFrame) -> str:
    """What of the table cannot be of the record's run: its rows, its windows, or the medians; empty if nothing."""
    predictions, stems = load_table(stored, "predictions"), stored.record.selection.stems
    if predictions is None:
        return "the predictions that it is verified against are not there"
    test = predictions[predictions["split"] == "test"]
    scored = {
        (seed, song, stem): outputs[len(stems) + place]
        for seed, song, outputs in zip(test["seed"], test["clip"], test["outputs"], strict=True)
        if len(outputs) == 2 * len(stems)
        for place, stem in enumerate(stems)
    }
    found = {(seed, song, stem): row for seed, song, stem, *row in _iterate_rows(frame)}
    if len(found) < len(frame) or found.keys() != scored.keys():
        return "its seeds, songs and stems are not those of the record and its predictions"
    windows: dict[str, int] = {}
    for (seed, song, stem), row in found.items():
        of_song = windows.setdefault(song, len(row[0]))
        if wrong := _find_wrong_windows(row, of_song, scored[seed, song, stem]):
            return f"of {stem} in '{song}' (seed {seed}) {wrong}"
    return ""


def _iterate_rows(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Seed, song, stem and the windows of each measure; of a column in which all is unknown, Parquet gives None for NaN."""
    import numpy as np

    measured = ([np.asarray(values, dtype=np.float64) for values in frame[name]] for name in MEASURES)
    return zip(frame["seed"], frame["clip"], frame["stem"], *measured, strict=True)


def _find_wrong_windows(row: Sequence[NDArray[Any]], windows: int, scored_db: float) -> str:
    """What is wrong with a stem's windows; empty if nothing is.

    row: `(windows,)` of each measure in dB. windows: how many the song has. scored_db: the median SDR that was scored.
    """
    import numpy as np

    if lengths := [
        f"{len(values)} of {name}" for name, values in zip(MEASURES, row, strict=True) if len(values) != windows
    ]:
        return f"there are {listing(lengths)}, and the song has {windows} windows"
    for name, values in zip(MEASURES, row, strict=True):
        loud = values[np.isfinite(values) & (np.abs(values) > LOUDEST_DB)]
        if len(loud):
            return f"{name} is {loud[0]:.4g} dB in a window, beyond double precision ({LOUDEST_DB} dB)"
        if (np.isnan(values) != np.isnan(row[0])).any():
            return f"{name} and {MEASURES[0]} are not unknown in the same windows"
    median = float(median_of_medians([row[0][None]])[0])
    if not np.isclose(median, scored_db, rtol=0, atol=CLOSE_DB, equal_nan=True):
        return f"the median SDR is {median:.6g} dB, and {scored_db:.6g} dB was scored"
    return ""


def export_museval(stored: Stored, folder: Path) -> list[Path]:
    """Write museval's file of every test song, in a folder for each seed; returns those folders.

    `<folder>/<model>-seed<N>/test/<song>.json`. Raises DataError without the table of windows, BenchError where another
    evaluation exists already, before anything is written.
    """
    frame = read_table(stored)
    model = results.name_file_stem(stored.record.model.name)  # museval takes a folder's name up to its last dot
    files: dict[Path, bytes] = {}
    for (seed, song), rows in frame.groupby(["seed", "clip"], sort=True):
        files[folder / f"{model}-seed{seed}" / "test" / f"{name_file(str(song))}.json"] = write_museval_json(
            rows
        ).encode()
    for path, content in files.items():
        if path.is_file() and path.read_bytes() != content:
            raise BenchError(f"{path} holds another evaluation; nothing was written: give another folder")
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
    except OSError as error:
        raise BenchError(f"museval's files cannot be written to {folder}: {error.strerror}; give another") from error
    return list(dict.fromkeys(path.parent.parent for path in files))


def write_museval_json(rows: pd.DataFrame) -> str:
    """The text of a song's file. rows: of one seed and song, a stem each."""
    targets = []
    for _, _, stem, *measured in _iterate_rows(rows):
        windows = [
            {name.upper(): _round(value) for name, value in zip(MEASURES, values, strict=True)}
            for values in zip(*measured, strict=True)
        ]
        frames = [{"time": at * WINDOW_S, "duration": WINDOW_S, "metrics": each} for at, each in enumerate(windows)]
        targets.append({"name": stem, "frames": frames})
    return json.dumps({"targets": targets, "museval_version": version("museval")}, indent=2)


def _round(value: float) -> float:
    return round(value, DECIMALS) if math.isfinite(value) else math.nan


def name_file(song: str) -> str:
    """The name of a song's file, which museval takes for the song's: as it is, escaped where that is no file's name.

    >>> name_file("Angels In Amplifiers - I'm Alright"), name_file("../a")
    ("Angels In Amplifiers - I'm Alright", '..%2Fa')
    """
    return name_folder(song) if NO_FILE_NAME.search(song) else song

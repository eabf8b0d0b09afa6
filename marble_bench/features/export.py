"""Features for others: a Parquet file, or the folder of a Hugging Face dataset, that `bench run --features` reads back.

Columns: `track` (the clip's id), `split`, `window` (its place within the clip), and one fixed-width list column of half
floats for each layer, named as the encoder names it. Written clip after clip, a few hundred at a time, whatever the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marble_bench.core.task import HUB_SPLITS, SPLITS, Clip
from marble_bench.errors import BenchError, UsageError
from marble_bench.features.store import Span, Store
from marble_bench.files.atomic import open_atomic_path, walk

AT_ONCE = 256  # clips in a row group
TRACK, SPLIT, WINDOW = "track", "split", "window"


def to_parquet(store: Store, clips: Sequence[Clip], spans: Sequence[Span], path: Path) -> int:
    """Write one file, whole or not at all; returns its rows. Raises BenchError if the disk refuses."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    taken = {name for name, _ in store.layers} & {TRACK, SPLIT, WINDOW}
    if taken:
        raise UsageError(f"layer '{min(taken)}' has the name of a column that identifies tracks; rename the layer")
    fields = [(TRACK, pa.string()), (SPLIT, pa.string()), (WINDOW, pa.int32())]
    fields += [(name, pa.list_(pa.float16(), width)) for name, width in store.layers]
    rows = 0
    with _open_writing(path) as temporary, pq.ParquetWriter(temporary, pa.schema(fields)) as writer:
        for start in range(0, len(clips), AT_ONCE):
            some, places = clips[start : start + AT_ONCE], spans[start : start + AT_ONCE]
            counts = [store.rows[span].count for span in places]
            columns: list[Any] = [
                pa.array(np.repeat([clip.id for clip in some], counts), pa.string()),
                pa.array(np.repeat([clip.split for clip in some], counts), pa.string()),
                pa.array(np.concatenate([np.arange(count, dtype=np.int32) for count in counts])),
            ]
            for index, (_, width) in enumerate(store.layers):
                flat = pa.array(store.read(index, places).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
            writer.write_table(pa.table(columns, schema=pa.schema(fields)))
            rows += sum(counts)
    return rows


@contextmanager
def _open_writing(path: Path) -> Iterator[Path]:
    """As `open_atomic_path`, its folder made. Raises BenchError if the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror or error}") from error


def to_dataset(
    store: Store, clips: Sequence[Clip], spans: Sequence[Span], folder: Path, about: dict[str, Any]
) -> dict[str, int]:
    """Write the folder of a dataset: `data/<split>.parquet` and the card `README.md`. Returns rows by split.

    about: what the card says of the features; see `write_card`.
    """
    rows = {}
    for split in SPLITS:
        chosen = [index for index, clip in enumerate(clips) if clip.split == split]
        if chosen:
            there = [clips[index] for index in chosen], [spans[index] for index in chosen]
            rows[split] = to_parquet(store, *there, folder / "data" / f"{split}.parquet")
    with _open_writing(folder / "README.md") as temporary:
        temporary.write_text(write_card(about, rows), encoding="utf-8")
    return rows


def write_card(about: dict[str, Any], rows: dict[str, int]) -> str:
    """A dataset card: what was computed of what by what, under which terms, and how it is used."""
    files = "".join(f"  - split: {HUB_SPLITS[split]}\n    path: data/{split}.parquet\n" for split in rows)
    facts = "".join(f"| {name} | {value} |\n" for name, value in about.items())
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}tags:\n- music\n- marble-bench\n---\n"
        f"# Features of {about['encoder']} on {about['task']}\n\n"
        "Every layer's mean over time, a row for each window, in half precision. No audio and no labels are here. The terms "
        "of the encoder and of the corpus hold for what was computed from them.\n\n"
        f"| | |\n|---|---|\n{facts}\n"
        f"Rows: {json.dumps(rows)}. Score them without a GPU:\n\n"
        f"```\nbench run --task {about['task']} --features FOLDER\n```\n"
    )


def push(folder: Path, destination: str, say: Callable[[str], None], quiet: bool = False) -> str:
    """Upload a dataset's folder: to a Hugging Face dataset repository, `hf:OWNER/NAME`, or to a place fsspec knows, such as
    `s3://bucket/path` or `file:///path`. Returns where it is now. Raises BenchError naming the place if that fails.

    quiet: without the progress bars of the hub's client.
    """
    if destination.startswith("hf:"):
        with _hide_bars(quiet):
            return _push_to_hub(folder, destination.removeprefix("hf:").removeprefix("//"))
    if "://" not in destination:
        raise UsageError(f"push to '{destination}': give hf:OWNER/NAME, or a URL such as s3://bucket/path")
    import fsspec

    try:
        files, place = fsspec.url_to_fs(destination)
        for path in walk(folder):
            target = f"{place.rstrip('/')}/{path.relative_to(folder).as_posix()}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            files.put_file(str(path), target)
            if files.size(target) != path.stat().st_size:
                raise BenchError(
                    f"{target} has {files.size(target)} bytes after the upload, but {path} has another size: push again"
                )
            say(f"pushed {target}")
    except BenchError:
        raise
    except Exception as error:  # each file system has exceptions of its own; see `remote`
        raise BenchError(f"features cannot be pushed to {destination}: {type(error).__name__}: {error}") from error
    return destination


@contextmanager
def _hide_bars(quiet: bool) -> Iterator[None]:
    """Hide the progress bars of the hub's client, if that is asked for and the user has not done it already."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    change = quiet and not are_progress_bars_disabled()
    if change:
        disable_progress_bars()
    try:
        yield
    finally:
        if change:
            enable_progress_bars()


def _push_to_hub(folder: Path, repository: str) -> str:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repository, repo_type="dataset", exist_ok=True)
        found = hub.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder)
    except (
        HfHubHTTPError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # RuntimeError: of a large file, with its cause
        why = f"{error} ({error.__cause__})" if error.__cause__ is not None else str(error)
        raise BenchError(f"features cannot be pushed to hf:{repository}: {why}; see `hf auth login`") from error
    return str(found)

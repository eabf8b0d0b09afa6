"""Fetches a corpus: resumable, checked by digest, unpacked without ever leaving its folder.

`<folder>/.fetch` holds partial downloads, whole archives, what is being unpacked, and `ARCHIVE.unpacked`, the list of what
came out of one. Nothing that fails is left looking whole.

An archive is a stranger's: it may hold no more files and bytes than MOST_FILES and `compute_largest` say, no link, no
device, nothing outside of its folder, and none of the names by which this suite knows its own folders.
"""

from __future__ import annotations

import filecmp
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from marble_bench.core.task import Corpus
from marble_bench.data.corpus import MARKER
from marble_bench.errors import DataError, UsageError, listing, suggest_name
from marble_bench.files.archives import tar_of
from marble_bench.files.atomic import write_whole
from marble_bench.files.download import (
    PART,
    DownloadCallbacks,
    check_protected,
    convert_hub_errors,
    download,
    fetch_size,
    find_partial,
    is_stated,
    list_stated_digests,
    name_of,
)
from marble_bench.files.source import Source

__all__ = ["DownloadCallbacks", "describe_manual_steps", "get", "unpack"]

UNPACKED = 2.2  # how much larger than its archive a corpus is expected to get
# What an archive may hold: files, and bytes for each of its own or in all. NSynth's training set has 289,205 files; texts
# are packed to a twentieth and less, but are small.
MOST_FILES, TIMES, SMALL = 500_000, 20, 1 << 28
OWN = (MARKER, ".fetch")  # names by which this suite knows its own files
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError)

AGAIN = "delete it, with its parts if it was joined from some, and fetch again"


def get(
    corpus: Corpus, folder: Path, callbacks: DownloadCallbacks, mirror: str = "", offline: bool = False
) -> list[Path]:
    """Fetch a corpus's public sources of one mirror ("" is the makers' own) into a folder; returns the archives or files.

    Raises DataError where nothing public is there (with every source and what to do by hand), where there is no room, and
    where a server or the bytes are not as they should be.
    """
    sources = _choose_sources(corpus, mirror)
    if offline:
        raise DataError(f"{corpus.title} is not fetched offline; put it into {folder} by hand: {corpus.layout}")
    web = [source for source in sources if not source.url.startswith("hf:")]
    try:
        _check_room(corpus, web, folder, callbacks)
        got = [
            download(each, _find_target(each, folder), folder / ".fetch", callbacks, describe_manual_steps(corpus))
            for each in web
        ]
        for joined in dict.fromkeys(source.joined for source in web if source.joined):
            parts = [path for source, path in zip(web, got, strict=True) if source.joined == joined]
            _unpack_once(_join(parts, folder / ".fetch" / joined), folder, callbacks)
        for source, path in zip(web, got, strict=True):
            if source.unpack and not source.joined:
                _unpack_once(path, folder, callbacks)
    except OSError as error:  # what the network did is told where it happens; this is the disk
        raise DataError(
            f"{folder} cannot be written: {error}; solve this, and run the same command again, which continues"
        ) from error
    return got + [_from_hub(corpus, source, folder, callbacks) for source in sources if source not in web]


def _choose_sources(corpus: Corpus, mirror: str) -> list[Source]:
    mirrors = dict.fromkeys(source.mirror for source in corpus.sources)
    if mirror not in mirrors and mirror:
        named = ", ".join(name for name in mirrors if name) or "none"
        raise UsageError(f"{corpus.name} has no mirror '{mirror}'{suggest_name(mirror, mirrors)} (mirrors: {named})")
    chosen = [source for source in corpus.sources if source.mirror == mirror and source.status == "public"]
    if not chosen:
        raise DataError(f"{corpus.title} cannot be fetched from there. {describe_manual_steps(corpus)}")
    for source in chosen:
        if source.url.partition(":")[0] not in ("http", "https", "hf"):
            raise UsageError(f"{corpus.name} names {source.url}: a corpus is fetched from https:, http: or hf:")
        check_protected(source)
    names = [name_of(source) for source in chosen if not source.url.startswith("hf:")]
    if "" in names or len(set(names)) < len(names):
        raise UsageError(f"{corpus.name} saves as {names}: give each Source a file name of its own (file=)")
    return chosen


def describe_manual_steps(corpus: Corpus) -> str:
    """Every source of a corpus with its state, and what to do oneself, for a message."""
    lines = []
    for source in corpus.sources:
        how = f"bench data get {corpus.name}" + (f" --from {source.mirror}" if source.mirror else "")
        note = f"; {source.note}" if source.note else ""
        lines.append(f"  {source.status}: {source.url}{note}" + (f" ({how})" if source.status == "public" else ""))
    every = "\n".join(lines)
    return (
        f"Download it from:\n{every}\nA copy from elsewhere is read where it lies: --data-dir DIR with {corpus.layout}"
    )


def _from_hub(corpus: Corpus, source: Source, folder: Path, callbacks: DownloadCallbacks) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    name = source.url.removeprefix("hf:")
    callbacks.say(f"fetching {name} from the hub")
    try:
        with convert_hub_errors(name, "datasets/"):
            found = HfApi().dataset_info(name, revision=source.revision or None, files_metadata=True)
            names = [each.rfilename for each in found.siblings or ()]
            if own := [each for each in names if _is_own(each)]:
                raise DataError(f"it holds {listing(own)}, a name that this suite keeps for its own files")
            place = Path(snapshot_download(name, repo_type="dataset", revision=found.sha, local_dir=folder))
        for file, stated in list_stated_digests(found.siblings or ()).items():
            if (place / file).is_file() and not is_stated(place / file, stated):
                (place / file).unlink()
                raise DataError(f"{file} has other bytes than the hub states ({stated}); it was not kept")
    except DataError as error:
        raise DataError(f"{source.url} cannot be fetched: {error}. {describe_manual_steps(corpus)}") from error
    return place


def _is_packed(source: Source) -> bool:
    return source.unpack or bool(source.joined)


def _find_target(source: Source, folder: Path) -> Path:
    """Where a download ends: archives stay in `.fetch`, plain files go into the folder."""
    return (folder / ".fetch" if _is_packed(source) else folder) / name_of(source)


def _check_room(corpus: Corpus, sources: Sequence[Source], folder: Path, callbacks: DownloadCallbacks) -> None:
    """Raise DataError if what is still to fetch, to join and to unpack does not fit."""
    needed = 0
    for source in sources:
        target, partial = _find_target(source, folder), find_partial(source, folder / ".fetch")
        archive = folder / ".fetch" / source.joined if source.joined else target
        if target.is_file():
            size, left = target.stat().st_size, 0
        else:
            size = source.size_bytes or fetch_size(source, callbacks) or 0
            left = max(size - (partial.stat().st_size if partial.is_file() else 0), 0)
        joining = size if source.joined and not archive.is_file() else 0
        unpacking = UNPACKED * size if _is_packed(source) and not _is_unpacked(archive, folder) else 0
        needed += left + joining + int(unpacking)
    if not needed:
        return
    free = _free(folder)
    if free < needed:
        raise DataError(
            f"{corpus.title} needs about {needed:,} bytes in {folder} and {free:,} are free; nothing was fetched. "
            "Make room, or choose another folder with --data-dir"
        )


def _join(parts: Sequence[Path], archive: Path) -> Path:
    """The parts of a split archive as one file, made anew when a part is."""
    newest, size = max(part.stat().st_mtime_ns for part in parts), sum(part.stat().st_size for part in parts)
    if archive.is_file() and archive.stat().st_size == size and archive.stat().st_mtime_ns >= newest:
        return archive
    temporary = archive.with_name(f"{archive.name}.joining")
    with temporary.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, PART)
        whole.flush()
        os.fsync(whole.fileno())
    os.replace(temporary, archive)
    return archive


def _unpack_once(archive: Path, folder: Path, callbacks: DownloadCallbacks) -> None:
    if not _is_unpacked(archive, folder):
        callbacks.say(f"unpacking {archive.name}")
        names = unpack(archive, folder)
        # written last, so its existence means that everything was in its place
        write_whole(_find_marker(archive), "\n".join([_find_version(archive), *names]).encode())


def _is_unpacked(archive: Path, folder: Path) -> bool:
    """Whether every file of this very archive was put into the folder and is still there."""
    marker = _find_marker(archive)
    if not (marker.is_file() and archive.is_file()):
        return False
    version, *names = marker.read_text(encoding="utf-8").split("\n")
    return version == _find_version(archive) and all((folder / name).is_file() for name in names)


def _find_marker(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.unpacked")


def _find_version(archive: Path) -> str:
    found = archive.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack a zip or tar into a folder; returns the names of its files.

    All is unpacked into a folder in `<folder>/.fetch` first, and moved in file by file once everything is whole. Raises
    DataError, with nothing put into its place, for a member that would leave the folder, a link or a device; for a damaged
    archive; and for a file that is there already with other bytes. Raises OSError for what the disk does.
    """
    scratch = folder / ".fetch" / f"{archive.name}.unpacking"
    if scratch.exists():
        shutil.rmtree(scratch)  # of a run that was killed
    try:
        names = (
            _extract_zip(archive, scratch, folder)
            if zipfile.is_zipfile(archive)
            else _extract_tar(archive, scratch, folder)
        )
        for name in names:
            if (folder / name).exists() and not filecmp.cmp(folder / name, scratch / name, shallow=False):
                raise DataError(
                    f"{folder / name} exists already and differs from the file in {archive}; move it away first"
                )
        for name in names:
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / name, folder / name)
    except DAMAGED as error:
        raise DataError(f"{archive} is damaged ({error}); {AGAIN}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{archive} is damaged ({error}); {AGAIN}") from error  # as gzip and bz2 tell it
    finally:
        if scratch.exists():
            shutil.rmtree(scratch)
    return names


def compute_largest(archive: Path) -> int:
    """How many bytes may come out of an archive: TIMES its own size, or SMALL."""
    return max(TIMES * archive.stat().st_size, SMALL)


def _extract_zip(archive: Path, scratch: Path, folder: Path) -> list[str]:
    with zipfile.ZipFile(archive) as packed:
        infos = {info.filename: info for info in packed.infolist() if not info.is_dir()}
        for name, info in infos.items():
            _require_inside(name, stat.S_ISLNK(info.external_attr >> 16), archive)
            if info.flag_bits & 1:
                raise DataError(f"{archive} holds '{name}', which is encrypted; unpack it by hand")
        size = sum(info.file_size for info in infos.values())
        _check_amount(archive, len(infos), size)
        _check_free(archive, size, folder)
        for name, info in infos.items():
            with packed.open(info) as member:
                _write(scratch / name, member)
    return list(infos)


def _extract_tar(archive: Path, scratch: Path, folder: Path) -> list[str]:
    with tar_of(archive, compute_largest(archive)) as packed:
        entries: dict[str, tarfile.TarInfo] = {}
        count, size = 0, 0
        for entry in packed:
            count, size = count + 1, size + entry.size
            _check_amount(archive, count, size)
            if not entry.isdir():
                _require_inside(entry.name, not entry.isfile(), archive)
                entries[entry.name] = entry
        _check_free(archive, size, folder)
        assert packed.fileobj is not None
        while packed.fileobj.read(PART):
            pass  # gzip's checksum lies behind the tar's own end, and is compared only if it is read
        for name, entry in entries.items():
            content = packed.extractfile(entry)
            assert content is not None  # a plain file, as was seen to above
            _write(scratch / name, content)
    return list(entries)


def _check_amount(archive: Path, count: int, size: int) -> None:
    """Raise DataError for more files or bytes than an archive of a corpus has."""
    if count > MOST_FILES or size > compute_largest(archive):
        raise DataError(
            f"{archive} of {archive.stat().st_size:,} bytes holds {count:,} files of {size:,} bytes or more; at most "
            f"{MOST_FILES:,} of {compute_largest(archive):,} are unpacked, and nothing was. If that is meant, unpack it "
            "by hand"
        )


def _check_free(archive: Path, size: int, folder: Path) -> None:
    if size > (free := _free(folder)):
        raise DataError(
            f"{archive} holds {size:,} bytes and {free:,} are free in {folder}; make room, nothing was unpacked"
        )


def _free(folder: Path) -> int:
    there = folder
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _is_own(name: str) -> bool:
    """Whether a part of a path is a name that this suite keeps for itself, also where a disk tells no case apart."""
    parts = name.replace("\\", "/").casefold().split("/")
    return any(own.casefold() in parts for own in OWN)


def _require_inside(name: str, special: bool, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if (
        special
        or not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or ":" in path.parts[0]
        or not name.isprintable()
    ):
        raise DataError(
            f"{archive} holds {name!r}, which would leave its folder or is no plain file; nothing was unpacked"
        )
    if _is_own(name):
        raise DataError(
            f"{archive} holds {name!r}, a name that this suite keeps for its own files; nothing was unpacked"
        )


def _write(path: Path, content: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, PART)

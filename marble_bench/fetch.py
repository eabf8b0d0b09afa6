"""Fetches a corpus: resumable, checked by digest, unpacked without ever leaving its folder.

Partial downloads lie in `<folder>/.fetch` and go on where they stopped. Nothing is retried without a word, and nothing
that fails is left looking whole.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from marble_bench.errors import DataError, UsageError, did_you_mean
from marble_bench.source import Source
from marble_bench.task import Corpus

TRIES = 5
PART = 1 << 20
UNPACKED = 2.2  # how much larger than its archive a corpus may get
PASSING = (429, 500, 502, 503, 504)  # answers that may be better a little later


@dataclass(frozen=True)
class Talk:
    """Who is told what happens, and how long is waited between tries (a test does not wait)."""

    say: Callable[[str], None]
    progress: Callable[[str, int, int | None], None]
    wait: Callable[[float], None] = time.sleep


def get(corpus: Corpus, folder: Path, talk: Talk, mirror: str = "", offline: bool = False) -> list[Path]:
    """Fetch a corpus's public sources of one mirror ("" is the makers' own) into a folder; returns the archives or files.

    Raises DataError where nothing public is there (with every source and what to do by hand), where there is no room, and
    where a server or the bytes are not as they should be.
    """
    sources = _chosen(corpus, mirror)
    if offline:
        raise DataError(f"{corpus.title} is not fetched offline; put it into {folder} by hand: {corpus.layout}")
    hubs = [source for source in sources if source.url.startswith("hf:")]
    for source in hubs:
        _from_hub(source, folder, talk)
    web = [source for source in sources if source not in hubs]
    waiting = [source for source in web if not _target(source, folder).is_file()]
    _check_room(corpus, waiting, folder, talk)
    got = [_download(source, folder, talk) for source in web]
    for joined in dict.fromkeys(source.joined for source in web if source.joined):
        parts = [path for source, path in zip(web, got, strict=True) if source.joined == joined]
        _unpack_once(_join(parts, folder / ".fetch" / joined), folder, talk)
    for source, path in zip(web, got, strict=True):
        if source.unpack and not source.joined:
            _unpack_once(path, folder, talk)
    return got


def _chosen(corpus: Corpus, mirror: str) -> list[Source]:
    mirrors = dict.fromkeys(source.mirror for source in corpus.sources)
    if mirror not in mirrors and mirror:
        named = ", ".join(name for name in mirrors if name) or "none"
        raise UsageError(f"{corpus.name} has no mirror '{mirror}'{did_you_mean(mirror, mirrors)} (mirrors: {named})")
    chosen = [source for source in corpus.sources if source.mirror == mirror and source.status == "public"]
    if not chosen:
        raise DataError(f"{corpus.title} cannot be fetched from there. {by_hand(corpus)}")
    return chosen


def by_hand(corpus: Corpus) -> str:
    """Every source of a corpus with its state, and what to do oneself, for a message."""
    lines = []
    for source in corpus.sources:
        how = f"bench data get {corpus.name}" + (f" --from {source.mirror}" if source.mirror else "")
        note = f"; {source.note}" if source.note else ""
        lines.append(f"  {source.status}: {source.url}{note}" + (f" ({how})" if source.status == "public" else ""))
    every = "\n".join(lines)
    return f"It is had from:\n{every}\nA copy had otherwise is read where it lies: --data-dir DIR with {corpus.layout}"


def _from_hub(source: Source, folder: Path, talk: Talk) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = source.url.removeprefix("hf:")
    talk.say(f"fetching {name} from the hub")
    try:
        snapshot_download(name, repo_type="dataset", revision=source.revision or None, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"{source.url} cannot be fetched: {error}. {source.note}") from error


def _name(source: Source) -> str:
    return source.file or PurePosixPath(urllib.parse.urlparse(source.url).path).name


def _target(source: Source, folder: Path) -> Path:
    """Where a download ends: archives stay in `.fetch`, plain files go into the folder."""
    return (folder / ".fetch" if source.unpack else folder) / _name(source)


def _check_room(corpus: Corpus, sources: Sequence[Source], folder: Path, talk: Talk) -> None:
    needed = 0
    for source in sources:
        size = source.size_bytes or _size_of(source, talk)
        needed += int((size or 0) * (1 + (UNPACKED if source.unpack else 0) + (1 if source.joined else 0)))
    if not needed:
        return
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{corpus.title} needs about {needed:,} bytes in {folder} and {free:,} are free; nothing was fetched. "
            "Make room, or choose another folder with --data-dir"
        )


def _size_of(source: Source, talk: Talk) -> int | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(source.url, method="HEAD"), timeout=60) as answer:
            length = answer.headers.get("Content-Length")
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        talk.say(f"the size of {source.url} is not known beforehand ({error})")
        return None
    return int(length) if length else None


def _download(source: Source, folder: Path, talk: Talk) -> Path:
    """One file, whole and checked."""
    target = _target(source, folder)
    if target.is_file():
        _verify(source, target)
        return target
    partial = folder / ".fetch" / f"{_name(source)}.part"
    partial.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(source, partial, talk)
            break
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code not in PASSING:
                raise DataError(
                    f"{source.url} answers {error.code} {error.reason}. {source.note}".rstrip()
                    + " (bench data list shows other sources)"
                ) from error
            why = f"{error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            why = str(error) or type(error).__name__
        if attempt == TRIES:
            raise DataError(f"{source.url} broke off {TRIES} times, last: {why}; the same command goes on from there")
        talk.say(f"{source.url}: {why}; trying again ({attempt} of {TRIES - 1})")
        talk.wait(2.0**attempt)
    _verify(source, partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)
    return target


def _fetch(source: Source, partial: Path, talk: Talk) -> None:
    """Go on with a partial file; start anew where the server does not do ranges."""
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            error.close()
            return  # nothing behind what is there: it is whole, as its digest or size will say
        raise
    with answer:
        going_on = answer.status == 206
        length = answer.headers.get("Content-Length")
        total = int(length) + (have if going_on else 0) if length else source.size_bytes
        with partial.open("ab" if going_on else "wb") as file:
            while part := answer.read(PART):
                file.write(part)
                talk.progress(_name(source), file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
            found = file.tell()
    if total is not None and found < total:
        raise ConnectionError(f"the connection broke off at {found:,} of {total:,} bytes")


def _verify(source: Source, path: Path) -> None:
    """Raise DataError, with the file set aside as `.bad`, if its size or digest is not the published one."""
    found: list[tuple[str, str, str]] = []
    if source.size_bytes is not None:
        found.append(("bytes", str(source.size_bytes), str(path.stat().st_size)))
    for kind, published in (("sha256", source.sha256), ("md5", source.md5)):
        if published:
            found.append((kind, published, _digest(path, kind)))
    for kind, published, had in found:
        if published != had:
            bad = path.with_name(f"{_name(source)}.bad")
            os.replace(path, bad)
            raise DataError(f"{source.url} gave {kind} {had}, published is {published}; it was set aside as {bad}")


def _digest(path: Path, kind: str) -> str:
    total = hashlib.new(kind)
    with path.open("rb") as file:
        while part := file.read(PART):
            total.update(part)
    return total.hexdigest()


def _join(parts: Sequence[Path], archive: Path) -> Path:
    """The parts of a split archive as one file."""
    if not archive.is_file():
        temporary = archive.with_name(f".{archive.name}.{uuid.uuid4().hex[:8]}")
        with temporary.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole, PART)
        os.replace(temporary, archive)
    return archive


def _unpack_once(archive: Path, folder: Path, talk: Talk) -> None:
    done = archive.with_name(f"{archive.name}.unpacked")
    if not done.exists():
        talk.say(f"unpacking {archive.name}")
        unpack(archive, folder)
        done.touch()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar into a folder, file by file, each whole or not at all.

    Raises DataError, before anything is written, for a member that would leave the folder, a link or a device; for a
    damaged archive; and for a file that stands there already with other bytes.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                infos = [info for info in packed.infolist() if not info.is_dir()]
                for info in infos:
                    _inside(info.filename, stat.S_ISLNK(info.external_attr >> 16), archive)
                for info in infos:
                    with packed.open(info) as member:
                        _place(folder / info.filename, member)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed_tar:
                entries = [entry for entry in packed_tar.getmembers() if not entry.isdir()]
                for entry in entries:
                    _inside(entry.name, not entry.isfile(), archive)
                for entry in entries:
                    content = packed_tar.extractfile(entry)
                    assert content is not None  # a plain file, as was seen to above
                    _place(folder / entry.name, content)
        else:
            raise DataError(f"{archive} is neither a zip nor a tar; delete it and fetch again")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}); delete it and fetch again") from error


def _inside(name: str, special: bool, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if special or path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise DataError(
            f"{archive} holds '{name}', which would leave its folder or is no plain file; nothing was unpacked"
        )


def _place(path: Path, content: IO[bytes]) -> None:
    """Write one member beside its place, compare with what stands there, and move it in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            shutil.copyfileobj(content, file, PART)
        if path.exists():
            if path.stat().st_size != temporary.stat().st_size or path.read_bytes() != temporary.read_bytes():
                raise DataError(f"{path} stands there with other bytes than the archive's; move it away first")
            return
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

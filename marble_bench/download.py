"""The one door to the network: a file from a web address, files of a hub repository; resumable and checked by digest.

A download goes on in `<scratch>/NAME.part`, with the server's mark of its version beside it in `NAME.part.tag`. Nothing
is retried without a word, and nothing that fails is left looking whole.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath

from marble_bench.errors import DataError
from marble_bench.source import Source

TRIES = 5
PART = 1 << 20
PASSING = (429, 500, 502, 503, 504)  # answers that may be better a little later
INDEX = "model.safetensors.index.json"  # names the shard of every tensor in a hub repository


class _BrokenOff(Exception):
    """The network failed, not this machine; another try may do."""


@dataclass(frozen=True)
class Talk:
    """Who is told what happens, and how long is waited between tries (a test does not wait)."""

    say: Callable[[str], None]
    progress: Callable[[str, int, int | None], None]
    wait: Callable[[float], None] = time.sleep


def in_lines(say: Callable[[str], None], every_s: float = 10.0) -> Talk:
    """A Talk without bars: now and then a line of how far a download is."""
    last = [time.monotonic()]

    def progress(name: str, done: int, total: int | None) -> None:
        if time.monotonic() - last[0] > every_s:
            last[0] = time.monotonic()
            say(f"{name}: {done / 1e6:,.0f}" + (f" of {total / 1e6:,.0f} MB" if total else " MB"))

    return Talk(say, progress)


def name_of(source: Source) -> str:
    """The file name that a source is saved under: the declared one, else the last part of its address."""
    return source.file or PurePosixPath(urllib.parse.unquote(urllib.parse.urlparse(source.url).path)).name


def partial_of(source: Source, scratch: Path) -> Path:
    """Where a download is kept until it is whole."""
    return scratch / f"{name_of(source)}.part"


def size_of(source: Source, talk: Talk) -> int | None:
    """The size that the server gives, in bytes; None, with a word why, where it gives none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(source.url, method="HEAD"), timeout=60) as answer:
            length = _length(answer.headers)
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        talk.say(f"the size of {source.url} is not known beforehand ({error})")
        return None
    if length is None:
        talk.say(f"the size of {source.url} is not known beforehand (the server does not say)")
    return length


def download(source: Source, target: Path, scratch: Path, talk: Talk, by_hand: str = "") -> Path:
    """One file of a web address, whole and checked, at `target`; what stands there is checked, and not fetched again.

    by_hand: what to do if it cannot be had, for the error. Raises DataError for what the server does or for bytes that
    are not the published ones, OSError for what the disk does.
    """
    if target.is_file():
        _verify(source, target, scratch)
        return target
    partial = partial_of(source, scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(source, partial, talk)
            break
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code not in PASSING:
                raise DataError(f"{source.url} answers {error.code} {error.reason}. {by_hand}".rstrip(". ")) from error
            why = f"{error.code} {error.reason}"
        except _BrokenOff as error:
            why = str(error)
        if attempt == TRIES:
            raise DataError(f"{source.url} broke off {TRIES} times, last: {why}; the same command goes on from there")
        talk.say(f"{source.url}: {why}; trying again ({attempt} of {TRIES - 1})")
        talk.wait(2.0**attempt)
    _tag(partial).unlink(missing_ok=True)
    _verify(source, partial, scratch)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)
    return target


def _tag(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.tag")


def _fetch(source: Source, partial: Path, talk: Talk) -> None:
    """Go on with a partial file; start anew where the server does not do ranges or has another version by now."""
    have, tag = partial.stat().st_size if partial.is_file() else 0, _tag(partial)
    if have and not tag.is_file() and not (source.sha256 or source.md5):
        talk.say(f"{source.url}: nothing tells whether {partial} is of the server's present file; starting anew")
        have = 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.is_file():
        headers["If-Range"] = tag.read_text(encoding="latin-1")
    try:
        answer = urllib.request.urlopen(urllib.request.Request(source.url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if error.headers.get("Content-Range", f"bytes */{have}") == f"bytes */{have}":
            return  # nothing behind what is there, so it is whole; a digest will say
        raise _start_over(partial, f"the {have:,} bytes that were there are no part of the server's file") from error
    except (http.client.HTTPException, OSError) as error:
        raise _BrokenOff(str(error) or type(error).__name__) from error
    with answer:
        total = _length(answer.headers)
        if going_on := answer.status == 206:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _start_over(partial, f"the server sent another range than the asked one from {have:,} on")
            total = None if total is None else total + have
        else:
            partial.unlink(missing_ok=True)  # before its tag, which must never stand beside bytes of another version
            _keep_tag(answer.headers, tag)
        total = source.size_bytes if total is None else total
        with partial.open("ab" if going_on else "wb") as file:
            for part in _parts(answer):
                file.write(part)
                talk.progress(name_of(source), file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
            found = file.tell()
    if total is not None and found < total:
        raise _BrokenOff(f"the connection broke off at {found:,} of {total:,} bytes")


def _start_over(partial: Path, why: str) -> _BrokenOff:
    partial.unlink()
    return _BrokenOff(f"{why}; starting anew")


def _length(headers: Message) -> int | None:
    said = headers.get("Content-Length", "")
    return int(said) if said.isdecimal() else None


def _keep_tag(headers: Message, tag: Path) -> None:
    """Keep what tells this version of the file from others, for If-Range, which takes no weak ETag."""
    etag = headers.get("ETag", "")
    version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    if version:
        tag.write_text(version, encoding="latin-1")
    else:
        tag.unlink(missing_ok=True)


def _parts(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            part = answer.read(PART)
        except (http.client.HTTPException, OSError) as error:
            raise _BrokenOff(str(error) or type(error).__name__) from error
        if not part:
            return
        yield part


def _verify(source: Source, path: Path, scratch: Path) -> None:
    """Raise DataError if a file's size or digest is not the published one; one of `scratch` is set aside as `.bad`."""
    found: list[tuple[str, str, str]] = []
    if source.size_bytes is not None:
        found.append(("bytes", str(source.size_bytes), str(path.stat().st_size)))
    for kind, published in (("sha256", source.sha256), ("md5", source.md5)):
        if published:
            found.append((kind, published, digest(path, kind)))
    for kind, published, had in found:
        if agrees(published, had):
            continue
        if path.parent != scratch:  # it stood there before, and may be the user's own
            raise DataError(
                f"{path} has {kind} {had}, {source.url} published {published}; move it away and fetch again"
            )
        bad = scratch / f"{name_of(source)}.bad"
        os.replace(path, bad)
        raise DataError(
            f"{source.url} gave {kind} {had}, published is {published}; it was set aside as {bad}. "
            "The same command fetches it again"
        )


def digest(path: Path, kind: str = "sha256") -> str:
    """A file's digest as hex."""
    total = hashlib.new(kind)
    with path.open("rb") as file:
        while part := file.read(PART):
            total.update(part)
    return total.hexdigest()


def agrees(published: str, found: str) -> bool:
    """Whether a digest is the published one, of which only the ends may be known.

    >>> agrees("ab..ef", "abcdef"), agrees("ab..ef", "abcdee"), agrees("abc", "abcdef")
    (True, False, False)
    """
    head, gap, tail = published.partition("..")
    return found.startswith(head) and found.endswith(tail) if gap else found == published


@contextmanager
def hub_errors() -> Iterator[None]:
    """Make a DataError of whatever the hub's library raises.

    Seen of huggingface_hub 2.4 on httpx2: HfHubHTTPError (an OSError) for 401, 403 and 404, LocalEntryNotFoundError (an
    OSError) without a network, offline or after five answers of 500, the HTTP library's own errors where a connection
    breaks, and ValueError for a name that cannot be and for an answer that is no JSON. Which HTTP library it is changed
    twice; its errors are the bases of the hub's.
    """
    from huggingface_hub.errors import HfHubHTTPError

    of_http = [kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)]
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, *of_http)
    try:
        yield
    except kinds as error:
        said = [part.strip() for part in re.split(r"\.\s|\n", str(error)) if part.strip() and "Request ID" not in part]
        raise DataError(", ".join(said[:2]) or type(error).__name__) from error  # what failed and why; advice follows


def from_hub(source: Source, offline: bool) -> tuple[Path, str]:
    """The declared files of a hub's model: their folder in the hub's cache (HF_HOME), and the commit that they are of.

    offline: only what that cache has. Raises DataError with the hub's reason or the file that is not there.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    name, revision = source.url.removeprefix("hf:"), source.revision or None
    there: Callable[[str], bool]
    with hub_errors():
        if offline:

            def there(file: str) -> bool:
                return isinstance(try_to_load_from_cache(name, file, revision=revision), str)
        else:
            found = HfApi().model_info(name, revision=revision)
            revision, names = found.sha, {each.rfilename for each in found.siblings or ()}
            there = names.__contains__
        chosen = []
        for entry in source.files or (source.file,):
            file = next((each for each in entry.split("|") if there(each)), None)
            if file is None:
                raise DataError(f"{'the cache' if offline else name} has no {entry.replace('|', ' or ')}")
            chosen.append(file)
        if (
            not offline
        ):  # under the name that was asked for, by which the cache finds the commit again without a network
            hf_hub_download(name, chosen[0], revision=source.revision or None)
        paths = [Path(hf_hub_download(name, file, revision=revision, local_files_only=offline)) for file in chosen]
        if source.tensors and INDEX in chosen:
            shards = json.loads(paths[chosen.index(INDEX)].read_text(encoding="utf-8"))["weight_map"]
            for file in sorted({file for tensor, file in shards.items() if tensor.startswith(source.tensors)}):
                hf_hub_download(name, file, revision=revision, local_files_only=offline)
    return paths[0].parent, paths[0].parent.name

"""The one door to the network: a file from a web address, files of a hub repository; resumable and checked by digest.

A download goes on in `<scratch>/NAME.part`, with the server's mark of its version beside it in `NAME.part.tag`. Nothing
is retried without a word, and nothing that fails is left looking whole.

What protects the bytes: a source needs https or a digest; a redirect to another host is told, one away from https is
refused; no more bytes are taken than the source declares. Of the hub, every file is compared with the digest that its server
states (sha256 of a large file, git's blob id of a small one), and with the declared one where that is known.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any

from marble_bench.errors import DataError, UsageError
from marble_bench.files.source import Source

TRIES = 5
EVERY_S = 10.0  # between two lines of how far a download is
PART = 1 << 20
PASSING = (429, 500, 502, 503, 504)  # answers that may be better a little later
INDEX = "model.safetensors.index.json"  # names the shard of every tensor in a hub repository


HOME = ("127.0.0.1", "::1", "localhost")  # from where no byte passes a network


class _BrokenOff(Exception):
    """The network failed, not this machine; another try may do."""


@dataclass(frozen=True)
class DownloadCallbacks:
    """Who is told what happens, and how long is waited between tries (a test does not wait)."""

    say: Callable[[str], None]
    progress: Callable[[str, int, int | None], None]
    wait: Callable[[float], None] = time.sleep


def make_line_callbacks(say: Callable[[str], None]) -> DownloadCallbacks:
    """Callbacks without bars: now and then a line of how far a download is."""
    last = [time.monotonic()]

    def progress(name: str, done: int, total: int | None) -> None:
        if time.monotonic() - last[0] > EVERY_S:
            last[0] = time.monotonic()
            say(f"{name}: {done / 1e6:,.0f}" + (f" of {total / 1e6:,.0f} MB" if total else " MB"))

    return DownloadCallbacks(say, progress)


def name_of(source: Source) -> str:
    """The file name that a source is saved under: the declared one, else the last part of its address."""
    return source.file or PurePosixPath(urllib.parse.unquote(urllib.parse.urlparse(source.url).path)).name


def find_partial(source: Source, scratch: Path) -> Path:
    """Where a download is kept until it is whole."""
    return scratch / f"{name_of(source)}.part"


def check_protected(source: Source) -> None:
    """Raise UsageError for a source whose bytes anybody on the way could change: http without a digest."""
    address = urllib.parse.urlparse(source.url)
    if address.scheme == "http" and not (source.sha256 or source.md5) and address.hostname not in HOME:
        raise UsageError(
            f"{source.url} is http and has no digest, so its bytes could be changed in transit: declare its sha256, "
            "or its https address"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, tells of another host, and never leaves https for http."""

    def __init__(self, callbacks: DownloadCallbacks) -> None:
        self.callbacks = callbacks

    def redirect_request(  # type: ignore[no-untyped-def]
        self, req, fp, code, msg, headers, newurl
    ) -> urllib.request.Request | None:
        was, will = urllib.parse.urlparse(req.full_url), urllib.parse.urlparse(newurl)
        if will.scheme not in ("http", "https") or (was.scheme == "https" and will.scheme == "http"):
            fp.close()
            raise DataError(
                f"{req.full_url} redirects to {newurl}, which is not followed: from there on only https is allowed"
            )
        if was.netloc != will.netloc:
            self.callbacks.say(f"{was.netloc} redirects {req.full_url} to {will.scheme}://{will.netloc}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request, callbacks: DownloadCallbacks) -> http.client.HTTPResponse:
    """The answer to a request, after redirects."""
    # with an instance of its own, build_opener leaves the usual handler of redirects away
    found: http.client.HTTPResponse = urllib.request.build_opener(_Redirects(callbacks)).open(request, timeout=60)
    return found


def fetch_size(source: Source, callbacks: DownloadCallbacks) -> int | None:
    """The size that the server gives, in bytes; None, with a word why, where it gives none."""
    try:
        with _open(urllib.request.Request(source.url, method="HEAD"), callbacks) as answer:
            length = _read_length(answer.headers)
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        callbacks.say(f"the size of {source.url} is not known beforehand ({_describe_error(error)})")
        return None
    if length is None:
        callbacks.say(f"the size of {source.url} is not known beforehand (the server does not say)")
    return length


def download(source: Source, target: Path, scratch: Path, callbacks: DownloadCallbacks, by_hand: str = "") -> Path:
    """One file of a web address, whole and checked, at `target`; what is there is checked, and not fetched again.

    by_hand: what to do if it cannot be downloaded, for the error. Raises DataError for what the server does or for bytes
    that are not the published ones, OSError for what the disk does.
    """
    if target.is_file():
        _verify(source, target, scratch)
        return target
    check_protected(source)
    partial = find_partial(source, scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(source, partial, callbacks)
            break
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code not in PASSING:
                raise DataError(f"{source.url} answers {error.code} {error.reason}. {by_hand}".rstrip(". ")) from error
            why = f"{error.code} {error.reason}"
        except _BrokenOff as error:
            why = str(error)
        if attempt == TRIES:
            raise DataError(f"{source.url} broke off {TRIES} times, last: {why}; the same command continues from there")
        callbacks.say(f"{source.url}: {why}; trying again ({attempt} of {TRIES - 1})")
        callbacks.wait(2.0**attempt)
    _tag(partial).unlink(missing_ok=True)
    _verify(source, partial, scratch)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)
    return target


def _tag(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.tag")


def _fetch(source: Source, partial: Path, callbacks: DownloadCallbacks) -> None:
    """Go on with a partial file; start anew where the server does not do ranges or has another version by now."""
    have, tag = partial.stat().st_size if partial.is_file() else 0, _tag(partial)
    if have and not tag.is_file() and not (source.sha256 or source.md5):
        callbacks.say(
            f"{source.url}: it is unknown whether {partial} belongs to the server's current file; starting again"
        )
        have = 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.is_file():
        headers["If-Range"] = tag.read_text(encoding="latin-1")
    try:
        answer = _open(urllib.request.Request(source.url, headers=headers), callbacks)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if error.headers.get("Content-Range", f"bytes */{have}") == f"bytes */{have}":
            return  # nothing behind what is there, so it is whole; a digest will say
        raise _start_over(partial, f"the {have:,} bytes that were there are no part of the server's file") from error
    except (http.client.HTTPException, OSError) as error:
        raise _BrokenOff(_describe_error(error)) from error
    except ValueError as error:  # an address that it redirects to
        raise DataError(f"{source.url} gives an answer that cannot be read: {_describe_error(error)}") from error
    with answer:
        total = _read_length(answer.headers)
        if going_on := answer.status == 206:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _start_over(partial, f"the server sent another range than the asked one from {have:,} on")
            total = None if total is None else total + have
        else:
            partial.unlink(missing_ok=True)  # before its tag, which must never lie beside bytes of another version
            _keep_tag(answer.headers, tag)
        _write(answer, source, partial, "ab" if going_on else "wb", total, callbacks)


def _write(
    answer: Any, source: Source, partial: Path, mode: str, total: int | None, callbacks: DownloadCallbacks
) -> None:
    """Write an answer's bytes to a partial file. total: what the file is to have; None where the server does not tell."""
    most = source.size_bytes
    if most is not None and total is not None and total > most:
        raise _explain_too_large(source, partial, total)
    total = most if total is None else total
    with partial.open(mode) as file:
        for part in _read_parts(answer):
            if most is not None and file.tell() + len(part) > most:
                raise _explain_too_large(source, partial, file.tell() + len(part))
            file.write(part)
            callbacks.progress(name_of(source), file.tell(), total)
        file.flush()
        os.fsync(file.fileno())
        found = file.tell()
    if total is not None and found < total:
        raise _BrokenOff(f"the connection broke off at {found:,} of {total:,} bytes")


def _explain_too_large(source: Source, partial: Path, found: int) -> DataError:
    partial.unlink(missing_ok=True)
    _tag(partial).unlink(missing_ok=True)
    return DataError(
        f"{source.url} gives {found:,} bytes or more, {source.size_bytes:,} are declared: it is another file, and nothing "
        "of it was kept"
    )


def _start_over(partial: Path, why: str) -> _BrokenOff:
    partial.unlink(missing_ok=True)
    return _BrokenOff(f"{why}; starting anew")


def _describe_error(error: Exception) -> str:
    """What an error says, which may be the server's own bytes: on one short line, without control characters."""
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)


def _read_length(headers: Message) -> int | None:
    header = headers.get("Content-Length", "")
    return int(header) if header.isdecimal() and len(header) < 19 else None


def _keep_tag(headers: Message, tag: Path) -> None:
    """Keep what tells this version of the file from others, for If-Range, which takes no weak ETag."""
    etag = headers.get("ETag", "")
    version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    if version:
        tag.write_text(version, encoding="latin-1")
    else:
        tag.unlink(missing_ok=True)


def _read_parts(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            part = answer.read(PART)
        except (http.client.HTTPException, OSError) as error:
            raise _BrokenOff(_describe_error(error)) from error
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
        if is_published(published, had):
            continue
        if path.parent != scratch:  # it was there before, and may be the user's own
            raise DataError(
                f"{path} has {kind} {had}, {source.url} published {published}; move it away and fetch again"
            )
        bad = scratch / f"{name_of(source)}.bad"
        os.replace(path, bad)
        raise DataError(
            f"{source.url} gave {kind} {had}, published is {published}; it was set aside as {bad}. "
            "The same command fetches it again"
        )


def digest(path: Path, kind: str = "sha256", before: bytes = b"") -> str:
    """A file's digest as hex; `before`: what is hashed first."""
    total = hashlib.new(kind, before)
    with path.open("rb") as file:
        while part := file.read(PART):
            total.update(part)
    return total.hexdigest()


def is_published(published: str, found: str) -> bool:
    """Whether a digest is the published one, of which only the ends may be known.

    >>> is_published("ab..ef", "abcdef"), is_published("ab..ef", "abcdee"), is_published("abc", "abcdef")
    (True, False, False)
    """
    head, gap, tail = published.partition("..")
    return found.startswith(head) and found.endswith(tail) if gap else found == published


class Gated(DataError):
    """The hub hands something out only to accounts that it lets in."""


@contextmanager
def convert_hub_errors(name: str, page: str = "") -> Iterator[None]:
    """Make a DataError of whatever the hub's library raises for the repository `name`, of the page `page` below the hub's.

    Seen of huggingface_hub 2.4 on httpx2: HfHubHTTPError (an OSError) for 401, 403 and 404, LocalEntryNotFoundError (an
    OSError) without a network, offline or after five answers of 500, the HTTP library's own errors where a connection
    breaks, and ValueError for a name that cannot be and for an answer that is no JSON. Which HTTP library it is changed
    twice; its errors are the bases of the hub's. Raises Gated where an account or a token is asked for.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    of_http = [kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)]
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, *of_http)
    try:
        yield
    except kinds as error:
        gated = isinstance(error, GatedRepoError)
        code = getattr(getattr(error, "response", None), "status_code", 0)
        if gated or code in (401, 403):
            where = f"{constants.ENDPOINT}/{page}{name}"
            why = "it is gated" if gated else f"the hub answers {code}: it is private, or its name is wrong"
            token = "the token in use has no access" if get_token() else "no token is set"
            how = f"accept its terms at {where} with your account" if gated else f"see {where}"
            raise Gated(
                f"{why}, and {token}; {how}, then set HF_TOKEN to a token of that account that may read it"
            ) from error
        sentences = [
            part.strip() for part in re.split(r"\.\s|\n", str(error)) if part.strip() and "Request ID" not in part
        ]
        raise DataError(
            ", ".join(sentences[:2]) or type(error).__name__
        ) from error  # what failed and why; advice follows


def list_stated_digests(siblings: Iterable[Any]) -> dict[str, str]:
    """File -> the digest that the hub states for it: sha256 of a large file, else git's id of its blob."""
    found = {}
    for each in siblings:
        stated = each.lfs.sha256 if each.lfs else each.blob_id
        if stated:
            found[str(each.rfilename)] = str(stated)
    return found


def is_stated(path: Path, stated: str) -> bool:
    """Whether a file has a digest that was stated for it: 64 digits of sha256, or 40 of git's id of a file.

    A proxy in front of the hub may state plain sha1. What has another length is no digest, and compared with nothing.
    """
    if re.fullmatch("[0-9a-f]{64}", stated):
        return digest(path) == stated
    if re.fullmatch("[0-9a-f]{40}", stated):
        return stated in (digest(path, "sha1", f"blob {path.stat().st_size}\0".encode()), digest(path, "sha1"))
    return True


def from_hub(source: Source, offline: bool) -> tuple[Path, str, list[str]]:
    """The declared files of a hub's model: their folder in the hub's cache (HF_HOME), their commit, and their names.

    offline: only what that cache has. Raises DataError with the hub's reason, the file that is not there or the one whose
    bytes are not those that the hub states.
    """
    from huggingface_hub import HfApi, hf_hub_download

    name, revision = source.url.removeprefix("hf:"), source.revision or None
    stated: dict[str, str] = {}
    there: Callable[[str], bool] = functools.partial(_is_in_cache, name, revision, stated)
    with convert_hub_errors(name):
        if not offline:
            found = HfApi().model_info(name, revision=revision, files_metadata=True)
            revision, names = found.sha, {each.rfilename for each in found.siblings or ()}
            stated = list_stated_digests(found.siblings or ())
            there = names.__contains__
        chosen = _choose_files(source, there, stated, "the cache" if offline else name)
        if not offline:
            # under the name that was asked for, by which the cache finds the commit again without a network
            hf_hub_download(name, chosen[0], revision=source.revision or None)

        def have(file: str) -> Path:
            path = Path(hf_hub_download(name, file, revision=revision, local_files_only=offline))
            _check_hub_file(path, stated.get(file, ""), offline)
            return path

        paths = [have(file) for file in chosen]
        if INDEX in chosen:
            shards = _list_shards(paths[chosen.index(INDEX)], source.tensors)
            for file in shards:
                have(file)
            chosen += shards
    return paths[0].parent, paths[0].parent.name, chosen


def cached_ids() -> list[str]:
    """The models in the hub's cache, as `owner/name`."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    return sorted(each.name.removeprefix("models--").replace("--", "/", 1) for each in folders)


def _is_in_cache(name: str, revision: str | None, stated: dict[str, str], file: str) -> bool:
    """Whether the hub's cache has a file of a model; its digest is noted in `stated`."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, file, revision=revision)
    if isinstance(cached, str):
        stated[file] = Path(cached).resolve().name  # the cache calls a file by its digest
    return isinstance(cached, str)


def _list_shards(index: Path, tensors: str) -> list[str]:
    """The files that hold the tensors whose names begin with `tensors`, `a|b` with either, by a repository's index."""
    of_tensor = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return sorted({file for tensor, file in of_tensor.items() if tensor.startswith(tuple(tensors.split("|")))})


def _choose_files(source: Source, there: Callable[[str], bool], stated: dict[str, str], place: str) -> list[str]:
    """The files to take: of each `a|b` the one that has the declared digest, else the first that is there."""
    chosen = []
    for entry in source.files or (source.file,):
        found = [each for each in entry.split("|") if there(each)]
        declared = [each for each in found if source.sha256 and is_published(source.sha256, stated.get(each, ""))]
        if not found:
            raise DataError(f"{place} has no {entry.replace('|', ' or ')}")
        chosen.append((declared or found)[0])
    return chosen + [file for file in source.optional if there(file)]


def _check_hub_file(path: Path, stated: str, offline: bool) -> None:
    """Compare a file of the hub's cache with the digest that its server states, and with the one that the cache calls it by.

    One that differs is taken out of the cache, so that the next call fetches it again.
    """
    blob = path.resolve()
    for expected in dict.fromkeys((stated, blob.name if blob.parent.name == "blobs" else "")):
        if is_stated(path, expected):
            continue
        what = f"{path.name} has other bytes than the hub states ({expected})"
        if offline:
            raise DataError(f"{what}: delete {blob} and run again with a connection")
        path.unlink()
        blob.unlink(missing_ok=True)
        raise DataError(f"{what}; it was not kept")

"""Fetching a corpus from a server of our own that misbehaves in every way that servers do."""

import gzip
import hashlib
import io
import os
import tarfile
import threading
import tracemalloc
import urllib.request
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hub_server import HubServer

from marble_bench.core.task import Corpus
from marble_bench.data import fetch
from marble_bench.errors import DataError, UsageError
from marble_bench.files import download
from marble_bench.files.source import Source

MUSIC = os.urandom(300_000)


def _zip(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in members.items():
            packed.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def _tar(*members):
    """(name, content or None for a link to /etc/passwd) -> a tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                packed.addfile(info)
            else:
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Server:
    """Files by path; `drops`: how often a path's connection breaks halfway; `fails`: (code, how often) by path.

    `tags`: a path's ETag; it sends no other mark of a version. `off`: by how much the ranges it sends are wrong.
    `moved`: where a path is redirected to.
    """

    def __init__(self):
        self.files, self.drops, self.fails, self.no_ranges = {}, Counter(), {}, set()
        self.tags, self.off, self.says_size = {}, 0, True
        self.moved, self.says_length = {}, True
        self.asked: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body):
                outer.asked.append((self.command, self.path, self.headers.get("Range", "")))
                if self.path in outer.moved:
                    self.send_response(302)
                    self.send_header("Location", outer.moved[self.path])
                    self.end_headers()
                    return
                code, left = outer.fails.get(self.path, (0, 0))
                if left or self.path not in outer.files:
                    outer.fails[self.path] = (code, max(left - 1, 0))
                    self.send_error(code if left else 404)
                    return
                content, first, tag = outer.files[self.path], 0, outer.tags.get(self.path, "")
                same = self.headers.get("If-Range", tag) == tag
                if self.headers.get("Range") and self.path not in outer.no_ranges and same:
                    first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                    if first >= len(content):
                        self.send_response(416)
                        if outer.says_size:
                            self.send_header("Content-Range", f"bytes */{len(content)}")
                        self.end_headers()
                        return
                    first += outer.off
                self.send_response(206 if first else 200)
                if outer.says_length:
                    self.send_header("Content-Length", str(len(content) - first))
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                if tag:
                    self.send_header("ETag", tag)
                self.end_headers()
                if with_body:
                    body = content[first:]
                    if outer.drops[self.path]:
                        outer.drops[self.path] -= 1
                        body = body[: len(body) // 2]
                    self.wfile.write(body)

            def log_message(self, *_):
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server():
    started = Server()
    yield started
    started.close()


@pytest.fixture
def said():
    return []


@pytest.fixture
def get(said, tmp_path):
    def call(*sources, mirror="", offline=False):
        corpus = Corpus(
            name="made", title="Made", home="here", license="CC0", citation="none", layout="x.wav", mini=_never,
            sources=sources,
        )  # fmt: skip
        talk = fetch.DownloadCallbacks(said.append, lambda *_: None, wait=lambda _: None)
        return fetch.get(corpus, tmp_path / "made", talk, mirror, offline)

    return call


def _never(_):
    raise AssertionError("no miniature is asked for")


def _sha(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_checked_and_not_fetched_again(server, get):
    server.files["/a.csv"] = MUSIC
    source = Source(
        url=server.url("/a.csv"), sha256=_sha(MUSIC), md5=hashlib.md5(MUSIC).hexdigest(), size_bytes=len(MUSIC)
    )
    (path,) = get(source)
    assert path.read_bytes() == MUSIC
    before = len(server.asked)
    assert get(source) == [path]
    assert len(server.asked) == before


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(server, get, said, ranges):
    server.files["/a.csv"], server.drops["/a.csv"] = MUSIC, 3
    if not ranges:
        server.no_ranges.add("/a.csv")
    (path,) = get(Source(url=server.url("/a.csv"), sha256=_sha(MUSIC)))
    assert path.read_bytes() == MUSIC
    assert len([line for line in said if "trying again" in line]) == 3
    asked = [wanted for command, _, wanted in server.asked if command == "GET"]
    assert asked[0] == ""
    assert all(wanted.startswith("bytes=") for wanted in asked[1:])


def test_a_partial_file_of_an_earlier_run_is_gone_on_with(server, get, tmp_path):
    server.files["/a.csv"] = MUSIC
    (tmp_path / "made/.fetch").mkdir(parents=True)
    (tmp_path / "made/.fetch/a.csv.part").write_bytes(MUSIC[:123_456])
    (path,) = get(Source(url=server.url("/a.csv"), sha256=_sha(MUSIC)))
    assert path.read_bytes() == MUSIC
    assert ("GET", "/a.csv", "bytes=123456-") in server.asked


def test_a_partial_file_that_is_whole_is_only_checked(server, get, tmp_path):
    server.files["/a.csv"] = MUSIC
    (tmp_path / "made/.fetch").mkdir(parents=True)
    (tmp_path / "made/.fetch/a.csv.part").write_bytes(MUSIC)
    assert get(Source(url=server.url("/a.csv"), sha256=_sha(MUSIC)))[0].read_bytes() == MUSIC


def test_a_connection_that_always_breaks_is_given_up_and_keeps_what_came(server, get, tmp_path):
    server.files["/a.csv"], server.drops["/a.csv"], server.tags["/a.csv"] = MUSIC, 99, '"1"'
    with pytest.raises(DataError, match="broke off 5 times"):
        get(Source(url=server.url("/a.csv")))
    assert (tmp_path / "made/.fetch/a.csv.part").stat().st_size > len(MUSIC) / 2
    assert not (tmp_path / "made/a.csv").exists()


@pytest.fixture
def half(server, tmp_path):
    """A server's file with its first 100,000 bytes already there."""
    scratch = tmp_path / "made/.fetch"
    scratch.mkdir(parents=True)
    (scratch / "a.csv.part").write_bytes(MUSIC[:100_000])
    server.files["/a.csv"] = MUSIC
    return scratch


def _ranges(server):
    return [wanted for command, _, wanted in server.asked if command == "GET"]


@pytest.mark.parametrize(("kept", "begins"), [('"1"', 100_000), ('"2"', 0)], ids=["same", "another"])
def test_a_partial_file_is_gone_on_with_only_if_the_server_has_the_same_version(server, get, half, kept, begins):
    server.tags["/a.csv"] = '"1"'
    (half / "a.csv.part.tag").write_text(kept)
    (half / "a.csv.part").write_bytes((MUSIC if begins else os.urandom(100_000))[:100_000])
    (path,) = get(Source(url=server.url("/a.csv")))
    assert path.read_bytes() == MUSIC
    assert _ranges(server) == ["bytes=100000-"]
    assert not list(half.iterdir())


def test_a_partial_file_that_nothing_identifies_is_fetched_anew(server, get, half, said):
    (path,) = get(Source(url=server.url("/a.csv")))
    assert path.read_bytes() == MUSIC
    assert _ranges(server) == [""]
    assert any("starting again" in line for line in said)


def test_a_range_that_was_not_asked_for_is_not_appended(server, get, half, said):
    server.off = 7
    (path,) = get(Source(url=server.url("/a.csv"), sha256=_sha(MUSIC)))
    assert path.read_bytes() == MUSIC
    assert any("another range than the asked one from 100,000 on" in line for line in said)


@pytest.mark.parametrize("says_size", [True, False])
def test_a_partial_file_longer_than_the_servers_is_no_part_of_it(server, get, half, says_size):
    server.files["/a.csv"], server.says_size = MUSIC[:50_000], says_size
    source = Source(url=server.url("/a.csv"), sha256=_sha(MUSIC[:50_000]))
    if says_size:
        assert get(source)[0].read_bytes() == MUSIC[:50_000]
    else:  # the digest tells, and the next call begins anew
        with pytest.raises(DataError, match="set aside"):
            get(source)
        assert get(source)[0].read_bytes() == MUSIC[:50_000]


def test_a_server_of_weak_tags_is_asked_by_date_or_not_at_all(server, get, half):
    server.tags["/a.csv"], server.drops["/a.csv"] = 'W/"1"', 1
    assert get(Source(url=server.url("/a.csv")))[0].read_bytes() == MUSIC
    assert _ranges(server) == ["", ""]


def test_a_file_that_stood_there_with_other_bytes_is_the_users_and_stays(server, get, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/a.csv").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"a\.csv has sha256 .* move it away and fetch again"):
        get(Source(url=server.url("/a.csv"), sha256=_sha(MUSIC)))
    assert (tmp_path / "made/a.csv").read_bytes() == b"mine"
    assert not server.asked


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (["ftp://x.example/a.csv"], "is fetched from https:, http: or hf:"),
        (["file:///etc/passwd"], "is fetched from https:, http: or hf:"),
        (["http://x.example/a.csv"], "is http and has no digest, .*: declare its sha256, or its https address"),
        (["https://x.example/1/a.csv", "https://x.example/2/a.csv"], "give each Source a file name of its own"),
        (["https://x.example/"], "give each Source a file name of its own"),
    ],
)
def test_a_source_that_cannot_be_saved_is_told_before_anything_is_asked(get, urls, message):
    with pytest.raises(UsageError, match=message):
        get(*(Source(url=url) for url in urls))


def test_what_the_disk_does_is_told(server, get, tmp_path):
    server.files["/a.csv"] = MUSIC
    (tmp_path / "made").write_text("a file, where a folder is to be")
    with pytest.raises(DataError, match=r"made cannot be written: .*; solve this, and run the same command again"):
        get(Source(url=server.url("/a.csv")))


def test_a_disk_that_fills_up_is_told_and_keeps_what_came(server, get, tmp_path, monkeypatch):
    server.files["/a.csv"] = MUSIC

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        get(Source(url=server.url("/a.csv")))
    assert (tmp_path / "made/.fetch/a.csv.part").read_bytes() == MUSIC
    assert not (tmp_path / "made/a.csv").exists()


def test_an_archive_is_unpacked_again_only_if_it_or_what_came_of_it_changed(server, get, said, tmp_path):
    server.files["/x.zip"] = _zip(a="A", b__c="C")
    source = Source(url=server.url("/x.zip"), unpack=True)

    def unpacked():
        said.clear()
        get(source)
        return any("unpacking" in line for line in said)

    assert unpacked()
    assert not unpacked()
    (tmp_path / "made/b/c").unlink()
    assert unpacked()
    assert (tmp_path / "made/b/c").read_text() == "C"
    (tmp_path / "made/.fetch/x.zip").write_bytes(_zip(a="A", d="D"))
    assert unpacked()
    assert (tmp_path / "made/d").read_text() == "D"


def test_wrong_bytes_are_set_aside_and_told(server, get, tmp_path):
    server.files["/a.csv"] = MUSIC
    with pytest.raises(DataError) as caught:
        get(Source(url=server.url("/a.csv"), sha256="0" * 64))
    assert _sha(MUSIC) in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert not (tmp_path / "made/a.csv").exists()
    assert (tmp_path / "made/.fetch/a.csv.bad").read_bytes() == MUSIC


def test_a_file_that_is_gone_is_told_at_once(server, get, said):
    with pytest.raises(DataError) as caught:
        get(Source(url=server.url("/gone.zip"), note="ask the makers"))
    assert "404" in str(caught.value)
    assert "ask the makers" in str(caught.value)
    assert len([1 for command, *_ in server.asked if command == "GET"]) == 1


@pytest.mark.parametrize("says_length", [True, False])
def test_no_more_bytes_are_taken_than_are_declared(server, get, tmp_path, says_length):
    server.files["/a.csv"], server.says_length = MUSIC, says_length
    source = Source(url=server.url("/a.csv"), size_bytes=5, sha256=_sha(MUSIC))
    with pytest.raises(
        DataError, match=r"gives .* bytes or more, 5 are declared: it is another file, and nothing of it"
    ):
        get(source)
    assert not [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert len(_ranges(server)) == 1


def test_a_redirect_to_another_host_is_told(server, get, said):
    server.files["/b.csv"], server.moved["/a.csv"] = b"here", server.url("/b.csv").replace("127.0.0.1", "localhost")
    assert get(Source(url=server.url("/a.csv"), size_bytes=4))[0].read_bytes() == b"here"
    assert any(f"redirects {server.url('/a.csv')} to http://localhost:" in line for line in said)


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/a.csv", "file:///etc/passwd"])
def test_a_redirect_to_another_kind_of_address_is_not_followed(server, get, place):
    server.moved["/a.csv"] = place
    with pytest.raises(DataError, match=f"redirects to {place}, which is not followed|{place}' is not allowed"):
        get(Source(url=server.url("/a.csv"), size_bytes=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("302 Found\r\nLocation: http://[bad", "gives an answer that cannot be read: Invalid IPv6 URL"),
        ("206 Partial\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5", "the server sent another range"),
        (f"200 OK\r\nContent-Length: {'9' * 5000}", "gave sha256"),
    ],
)
def test_an_answer_of_nonsense_is_told_of_its_address(tmp_path, answer, words):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(f"HTTP/1.1 {answer}\r\n\r\n12345".encode())
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = Source(url=f"http://127.0.0.1:{server.server_port}/a.csv", sha256="0" * 64)
        talk = fetch.DownloadCallbacks(lambda _: None, lambda *_: None, lambda _: None)
        with pytest.raises(DataError, match=words):
            download.download(source, tmp_path / "a.csv", tmp_path / "scratch", talk)
        server.shutdown()


def test_what_a_server_says_is_shown_as_text():
    assert download._describe_error(ValueError("\x1b[31mred\nline" + "x" * 500)) == "\\x1b[31mred line" + "x" * 187


def test_https_is_not_left_for_http():
    request = urllib.request.Request("https://x.example/a.csv")
    redirects = download._Redirects(fetch.DownloadCallbacks(lambda _: None, lambda *_: None))
    with pytest.raises(
        DataError, match=r"https://x\.example/a\.csv redirects to http://x\.example/a\.csv, which is not"
    ):
        redirects.redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://x.example/a.csv")
    assert redirects.redirect_request(request, io.BytesIO(), 302, "Found", {}, "https://x.example/b.csv")


def test_every_public_source_has_https_or_a_digest():
    """Of the corpora and of the encoders: on the way, nobody can change what is fetched."""
    from marble_bench.core import plugins

    corpora = [plugins.find_task(name).task.corpus.sources for name in plugins.list_task_names()]
    weights = [encoder.weights for encoder in plugins.find_encoders().values() if encoder.weights]
    for source in (*(each for sources in corpora for each in sources), *weights):
        if source.status == "public":
            download.check_protected(source)


def test_a_busy_server_is_asked_again(server, get, said):
    server.files["/a.csv"], server.fails["/a.csv"] = b"here", (503, 3)  # the first is the question for its size
    assert get(Source(url=server.url("/a.csv")))[0].read_bytes() == b"here"
    assert any("503" in line for line in said)


def test_archives_are_unpacked_and_a_split_one_is_joined(server, get, tmp_path):
    whole = _zip(mp3__0__a="A", mp3__f__b="B")
    server.files |= {"/mp3.zip.001": whole[:100], "/mp3.zip.002": whole[100:], "/x.tar.gz": _tar(("c/d.txt", b"D"))}
    parts = [Source(url=server.url(f"/mp3.zip.00{n}"), unpack=True, joined="mp3.zip") for n in (1, 2)]
    get(*parts, Source(url=server.url("/x.tar.gz"), unpack=True))
    root = tmp_path / "made"
    assert (root / "mp3/0/a").read_text() == "A"
    assert (root / "mp3/f/b").read_text() == "B"
    assert (root / "c/d.txt").read_text() == "D"
    get(*parts, Source(url=server.url("/x.tar.gz"), unpack=True))


@pytest.mark.parametrize(
    "archive",
    [
        _zip(**{"fine.txt": "x", "..__..__evil.txt": "x"}),
        _zip(**{"__etc__evil.txt": "x"}),
        _tar(("fine.txt", b"x"), ("../evil.txt", b"x")),
        _tar(("fine.txt", b"x"), ("/etc/evil.txt", b"x")),
        _tar(("fine.txt", b"x"), ("link", None)),
    ],
    ids=["zip up", "zip absolute", "tar up", "tar absolute", "tar link"],
)
def test_an_archive_that_would_leave_its_folder_is_not_unpacked_at_all(tmp_path, archive):
    (tmp_path / "a").write_bytes(archive)
    with pytest.raises(DataError, match="nothing was unpacked"):
        fetch.unpack(tmp_path / "a", tmp_path / "into/deep")
    assert not (tmp_path / "into").exists()
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("name", ["MINIATURE.txt", "deep/miniature.TXT", ".fetch/x.unpacked", "a/.fetch/b"])
@pytest.mark.parametrize("packed", ["zip", "tar"])
def test_an_archive_writes_none_of_our_own_names(tmp_path, name, packed):
    """MINIATURE.txt in a corpus's folder would make a miniature of it, and `.fetch` holds what was unpacked."""
    content = _zip(**{name.replace("/", "__"): "x"}) if packed == "zip" else _tar((name, b"x"))
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match="a name that this suite keeps for its own files; nothing was unpacked"):
        fetch.unpack(tmp_path / "a", tmp_path / "into")
    assert not (tmp_path / "into").exists()


def _sparse_tar(size):
    """A tar of 10 kB whose one file has `size` zeros, as a hole: GNU's old format of sparse files."""
    info = tarfile.TarInfo("hole.wav")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386 : 386 + 24] = b"%011o\0%011o\0" % (size, 0)  # one entry: nothing at its end
    header[483:495] = b"%011o\0" % size  # the size it has when unpacked
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(10240 - 512)


def _bomb(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("a.wav", "w") as member:
            for _ in range(30):
                member.write(bytes(1 << 20))
        return buffer.getvalue()
    if kind == "sparse tar":
        return _sparse_tar(3 << 30)
    if kind == "tar.gz":
        with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
            info = tarfile.TarInfo("a.wav")
            info.size = 30 << 20
            packed.addfile(info, io.BytesIO(bytes(info.size)))
        return buffer.getvalue()
    name = tarfile.TarInfo("././@LongLink")  # a header whose name has 1 GB
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with gzip.GzipFile(fileobj=buffer, mode="w") as out:
        out.write(name.tobuf(tarfile.GNU_FORMAT))
        out.write(bytes(20 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "sparse tar", "tar.gz", "long name"])
def test_an_archive_of_a_few_bytes_does_not_fill_the_disk_or_the_memory(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(fetch, "SMALL", 16 << 20)
    (tmp_path / "a").write_bytes(_bomb(kind))
    assert (tmp_path / "a").stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"holds .* files of .* bytes or more; at most|holds too much"):
            fetch.unpack(tmp_path / "a", tmp_path / "into")
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "into").exists()


def test_an_archive_of_too_many_files_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_FILES", 3)
    for archive in (_zip(a="", b="", c="", d=""), _tar(*((name, b"") for name in "abcd"))):
        (tmp_path / "a").write_bytes(archive)
        with pytest.raises(DataError, match=r"holds 4 files of .*; at most 3"):
            fetch.unpack(tmp_path / "a", tmp_path / "into")


def test_a_sparse_file_of_a_fair_size_is_unpacked(tmp_path):
    (tmp_path / "a").write_bytes(_sparse_tar(5000))
    assert fetch.unpack(tmp_path / "a", tmp_path / "into") == ["hole.wav"]
    assert (tmp_path / "into/hole.wav").read_bytes() == bytes(5000)


def test_what_does_not_fit_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: _Usage())
    for archive in (_zip(a="a" * 50), _tar(("a", b"a" * 50))):
        (tmp_path / "a").write_bytes(archive)
        with pytest.raises(DataError, match="holds 50 bytes and 10 are free"):
            fetch.unpack(tmp_path / "a", tmp_path / "into")


def _flipped(content, at):
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


DAMAGED = {
    "zip without its end": _zip(a="x" * 5000)[:-30],
    "zip with a wrong byte": _flipped(_zip(a="A", b="x" * 5000), 3000),
    "tar cut off": _tar(("a", MUSIC))[:-5000],
    "tar without gzip's checksum": _tar(("a", b"A"), ("b", MUSIC))[:-4],
    "tar with another checksum": _flipped(_tar(("a", MUSIC)), -6),
    "none": b"no archive",
    "empty": b"",
}


@pytest.mark.parametrize("archive", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_archive_is_told_and_leaves_no_half_file(tmp_path, archive):
    (tmp_path / "a").write_bytes(archive)
    with pytest.raises(DataError, match="fetch again"):
        fetch.unpack(tmp_path / "a", tmp_path / "into")
    assert not [path for path in tmp_path.rglob("into/*") if path.is_file()]


def test_a_file_that_stands_there_is_kept_if_equal_and_told_if_not(tmp_path):
    (tmp_path / "a.zip").write_bytes(_zip(a="A", b="B"))
    (tmp_path / "into").mkdir()
    (tmp_path / "into/a").write_text("A")
    fetch.unpack(tmp_path / "a.zip", tmp_path / "into")
    (tmp_path / "into/b").write_text("another")
    with pytest.raises(DataError, match="differs from the file in"):
        fetch.unpack(tmp_path / "a.zip", tmp_path / "into")
    assert (tmp_path / "into/b").read_text() == "another"


def test_a_disk_too_small_is_told_before_the_first_byte(server, get, monkeypatch, tmp_path):
    server.files["/a.zip"] = _zip(a="A")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: _Usage())
    with pytest.raises(DataError, match="are free; nothing was fetched"):
        get(Source(url=server.url("/a.zip"), unpack=True))
    assert not (tmp_path / "made").exists()
    assert [command for command, *_ in server.asked] == ["HEAD"]


class _Usage:
    free = 10


def test_a_corpus_that_is_gated_or_gone_tells_what_to_do_by_hand(get):
    sources = (
        Source(url="http://dead.example/x", status="dead", note="gone since 2022"),
        Source(url="http://gated.example/x", status="gated", note="needs an account"),
        Source(url="hf:somebody/made", mirror="hub"),
    )
    with pytest.raises(DataError) as caught:
        get(*sources)
    for words in ("gone since 2022", "needs an account", "bench data get made --from hub", "--data-dir DIR with x.wav"):
        assert words in str(caught.value)


def test_a_mirror_is_asked_by_its_name(server, get):
    server.files["/m.csv"] = b"mirror"
    sources = (Source(url=server.url("/gone.csv")), Source(url=server.url("/m.csv"), mirror="attic"))
    assert get(*sources, mirror="attic")[0].read_bytes() == b"mirror"
    with pytest.raises(UsageError, match="did you mean 'attic'"):
        get(*sources, mirror="atic")


def test_nothing_is_fetched_offline(server, get):
    with pytest.raises(DataError, match="offline"):
        get(Source(url=server.url("/a.csv")), offline=True)
    assert not server.asked


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer() as started:
        started.use(monkeypatch, tmp_path / "home")
        yield started


TRACKS = {"a.wav": b"a sound" * 1000, "labels.csv": b"a,rock"}


@pytest.mark.parametrize("name", TRACKS)
def test_a_corpus_of_the_hub_is_compared_with_what_the_hub_states(hub, get, tmp_path, name):
    hub.publish("datasets/owner/made", TRACKS)
    hub.flips.add(name)
    with pytest.raises(DataError, match=f"{name} has other bytes than the hub states .*; it was not kept"):
        get(Source(url="hf:owner/made"))
    assert not (tmp_path / "made" / name).exists()
    hub.flips.clear()
    assert get(Source(url="hf:owner/made")) == [tmp_path / "made"]
    for each, content in TRACKS.items():
        assert (tmp_path / "made" / each).read_bytes() == content


def test_a_corpus_of_the_hub_writes_none_of_our_own_names(hub, get, tmp_path):
    hub.publish("datasets/owner/made", {**TRACKS, "MINIATURE.txt": b"x"})
    with pytest.raises(DataError, match=r"it holds MINIATURE\.txt, a name that this suite keeps for its own files"):
        get(Source(url="hf:owner/made"))
    assert not (tmp_path / "made").exists()


def test_a_gated_corpus_names_its_page_and_the_token(hub, get):
    hub.publish("datasets/owner/made", TRACKS)
    hub.gated.add("datasets/owner/made")
    with pytest.raises(DataError) as caught:
        get(Source(url="hf:owner/made"))
    assert f"accept its terms at {hub.url}/datasets/owner/made with your account, then set HF_TOKEN" in str(
        caught.value
    )


def test_the_command_tells_the_manual_steps_and_ends_with_3(bench):
    ended = bench("data", "get", "gtzan")
    assert ended.code == 3
    assert "Kaggle account" in ended.err
    assert bench("data", "get", "emomusic", "--offline").code == 3

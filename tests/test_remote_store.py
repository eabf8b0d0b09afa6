"""Shards kept at a URL too: a folder, and an S3 server of this machine where moto and s3fs are installed."""

import shutil

import pytest
from test_pipeline import _bytes, _extract, _items, batches

from marble_bench.errors import BenchError, DataError, UsageError


@pytest.fixture
def items(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "SHARD_S", 4.0)
    return _items(tmp_path / "audio")


def _moves(items, tmp_path, url):
    """A pass that is stopped on one machine goes on at another that has nothing but the URL."""
    _extract(items, tmp_path / "whole")

    def stop(done, todo, audio_s):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _extract(items, tmp_path / "first", remote_url=url, progress=stop)
    begun = len(_bytes(tmp_path / "first"))
    assert 0 < begun < 4
    shutil.rmtree(tmp_path / "first")
    _, _, cost = _extract(items, tmp_path / "second", remote_url=url)
    assert 0 < cost.audio_s < 16
    assert _bytes(tmp_path / "second") == _bytes(tmp_path / "whole")
    _, _, cost = _extract(items, tmp_path / "third", remote_url=url)
    assert cost.audio_s == 0
    assert _bytes(tmp_path / "third") == _bytes(tmp_path / "whole")


def test_a_folder_keeps_the_shards_for_the_next_machine(items, tmp_path):
    _moves(items, tmp_path, f"file://{tmp_path}/far")
    assert _bytes(tmp_path / "far") == _bytes(tmp_path / "whole")
    assert not list((tmp_path / "far").rglob("*.tmp"))


def test_what_was_made_without_it_is_sent_later(items, tmp_path):
    _extract(items, tmp_path / "here")
    _, _, cost = _extract(items, tmp_path / "here", remote_url=f"file://{tmp_path}/far")
    assert cost.audio_s == 0
    assert _bytes(tmp_path / "far") == _bytes(tmp_path / "here")


def test_a_place_that_cannot_be_had_is_named(items, tmp_path):
    with pytest.raises(UsageError, match="'far' is no place"):
        _extract(items, tmp_path, remote_url="far")
    with pytest.raises(BenchError, match=r"stored at nosuch://far: ValueError"):
        _extract(items, tmp_path, remote_url="nosuch://far")


def _damage(shard):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)


def test_a_shard_that_is_damaged_there_is_not_fetched_and_one_damaged_here_is_not_sent(items, tmp_path):
    url = f"file://{tmp_path}/far"
    _extract(items, tmp_path / "here", remote_url=url)
    there = sorted((tmp_path / "far").rglob("*.arrow"))
    _damage(there[0])
    with pytest.raises(DataError, match=rf"delete {url}/.*{there[0].name} and run again"):
        _extract(items, tmp_path / "other", remote_url=url)
    assert there[0].name not in _bytes(tmp_path / "other")
    shutil.rmtree(tmp_path / "far")
    here = sorted((tmp_path / "here").rglob("*.arrow"))
    _damage(here[1])
    with pytest.raises(DataError, match=rf"nothing was sent.*{here[1].name} is not what was written"):
        _extract(items, tmp_path / "here", remote_url=url)
    assert here[1].name not in _bytes(tmp_path / "far")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_s3_bucket_keeps_the_shards(items, tmp_path, monkeypatch):
    reason = "moto's server and s3fs are not installed"
    server = pytest.importorskip("moto.server", reason=reason)
    s3fs = pytest.importorskip("s3fs", reason=reason)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    try:
        host, port = running.get_host_and_port()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ):
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        _moves(items, tmp_path, "s3://bucket/features")
    finally:
        running.stop()


def test_an_exception_that_only_one_file_system_knows_is_told_too(items, tmp_path, monkeypatch):
    """botocore's connection errors, for one, are no OSError."""

    class Unreachable(Exception):
        pass

    def refused(*arguments):
        raise Unreachable("could not connect")

    monkeypatch.setattr("fsspec.url_to_fs", refused)
    with pytest.raises(BenchError, match=r"stored at s3://far/x: Unreachable: could not connect"):
        _extract(items, tmp_path, remote_url="s3://far/x")

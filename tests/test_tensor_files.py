"""Files of tensors from strangers: what leads outside of a file, or would fill the memory, is refused with a next step."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from marble_bench.encoders import _hub, choi, clmr, musicnn, tf_bundle, torch_file
from marble_bench.errors import DataError
from marble_bench.files import tensor_file


class _Stored:
    def __init__(self, key, kind, count):
        self.key, self.kind, self.count = key, kind, count


class _Tensor:
    """Pickles as torch.save does a tensor, with whatever place, shape and strides."""

    def __init__(self, storage, offset, shape, stride):
        self.args = (storage, offset, shape, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


class _Pickler(pickle.Pickler):
    def persistent_id(self, found):
        if isinstance(found, _Stored):
            return ("storage", found.kind, found.key, "cpu", found.count)
        return None


def _torch_zip(path, content, numbers=64, **storages):
    """A file as torch.save writes it, of storages with `numbers` floats 0, 1, ...; `content` is pickled as it is."""
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for key in ("0", *storages):
            archive.writestr(f"archive/data/{key}", np.arange(numbers, dtype="<f4").tobytes())
    return path


FLOATS = _Stored("0", torch.FloatStorage, 64)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (4, 4), (4, 1)),
        (3, (4, 4), (1, 4)),
        (0, (3, 8), (0, 1)),
        (64, (0, 5), (5, 1)),
        (5, (), ()),
    ],
    ids=["plain", "turned", "repeated", "empty", "a number"],
)
def test_a_tensor_that_lies_in_its_storage_is_read(tmp_path, offset, shape, stride):
    path = _torch_zip(tmp_path / "a", {"x": _Tensor(FLOATS, offset, shape, stride)})
    found = torch_file.read_torch_file(path)
    torch_file.write_safetensors(tmp_path / "out", {"x": (found, found.content["x"])})
    (_, tensors) = _hub.load(tmp_path / "out")
    expected = torch.as_strided(torch.arange(64.0), shape, stride, offset)
    assert torch.equal(tensors["x"], expected)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (4, 4), (-4, 1)),
        (40, (4, 4), (4, -9)),
        (-8, (4,), (1,)),
        (0, (-4,), (1,)),
        (0, (4, 4), (4,)),
        (0, (65,), (1,)),
        (60, (4, 2), (1, 4)),
        (0, (1 << 20, 1 << 20), (0, 0)),
        (0, (1 << 40,), (0,)),
        (0, (1 << 62, 4), (1 << 62, 1)),
        (2.0, (4,), (1,)),
        (0, ("4",), (1,)),
        (0, (True,), (1,)),
    ],
)
def test_a_tensor_that_leads_outside_of_its_storage_is_refused(tmp_path, offset, shape, stride):
    """As `as_strided` would take it: a negative stride reads what lies before the numbers in memory."""
    path = _torch_zip(tmp_path / "a", {"x": [{"deep": _Tensor(FLOATS, offset, shape, stride)}]})
    with pytest.raises(DataError, match=r"a is damaged or cut short: .*; get it again"):
        torch_file.read_torch_file(path)


def test_one_storage_is_of_one_kind(tmp_path):
    """Else its numbers would be counted by one kind and read by the other, beyond their end."""
    halves = _Stored("0", torch.HalfStorage, 128)
    content = {"a": _Tensor(FLOATS, 0, (64,), (1,)), "b": _Tensor(halves, 0, (128,), (1,))}
    with pytest.raises(DataError, match="is named as FloatStorage and as HalfStorage"):
        torch_file.read_torch_file(_torch_zip(tmp_path / "a", content))


def test_a_checkpoint_that_holds_itself_or_doubles_forty_times_is_read_in_a_moment(tmp_path):
    content = {"x": _Tensor(FLOATS, 0, (2,), (1,))}
    content["self"] = content
    doubled = [content]
    for _ in range(40):
        doubled = [doubled, doubled]
    found = torch_file.read_torch_file(_torch_zip(tmp_path / "a", {"all": doubled, "x": content["x"]}))
    assert found.content["x"].shape == (2,)


def test_a_legacy_checkpoint_with_a_storage_of_negative_length_is_refused(tmp_path):
    torch.save({"x": torch.ones(4)}, tmp_path / "a", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a").read_bytes()
    for count in (-4, 1 << 60):
        (tmp_path / "b").write_bytes(content[:-24] + struct.pack("<q", count) + content[-16:])
        with pytest.raises(DataError, match=r"b is .*damaged"):
            torch_file.read_torch_file(tmp_path / "b")


def test_a_small_file_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(tmp_path, monkeypatch):
    """Its data.pkl is deflated."""
    monkeypatch.setattr(torch_file, "LARGEST_PICKLE", 10 << 20)
    with (
        zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as out,
    ):
        for _ in range(20):
            out.write(bytes(1 << 20))
    assert (tmp_path / "a").stat().st_size < 30_000
    with pytest.raises(DataError, match=r"compressed members \(archive/data\.pkl\), which torch\.save does not write"):
        _hub.unpickled(tmp_path / "a")
    with pytest.raises(DataError, match=r"its data\.pkl has 20,971,520 bytes"):
        torch_file.read_torch_file(tmp_path / "a")


def test_a_pickle_of_other_things_is_refused_in_our_own_words(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a")
    with pytest.raises(DataError) as caught:
        _hub.unpickled(tmp_path / "a")
    message = str(caught.value)
    assert "holds more than tensors (torch.nn.modules.linear.Linear)" in message
    assert "safetensors" in message
    assert "weights_only" not in message


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(90)])
def test_what_is_no_file_of_tensors_is_told(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    for read in (_hub.unpickled, torch_file.read_torch_file):
        with pytest.raises(DataError, match=r"damaged|not tensors"):
            read(tmp_path / "a")


def test_a_tensor_that_repeats_its_numbers_without_end_is_refused(tmp_path):
    torch.save({"x": torch.ones(1).expand(1 << 40)}, tmp_path / "a")
    with pytest.raises(DataError, match=r"x \(1099511627776,\), which repeats fewer numbers"):
        _hub.unpickled(tmp_path / "a")
    torch.save({"x": torch.ones(3, 4).to_sparse()}, tmp_path / "a")
    with pytest.raises(DataError, match="plain tensors by name are read"):
        _hub.unpickled(tmp_path / "a")


def _safetensors(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_the_digest_is_of_the_tensors_alone(tmp_path):
    from safetensors.torch import save_file

    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.float16)}
    save_file(tensors, tmp_path / "one")
    save_file(dict(reversed(tensors.items())), tmp_path / "two", metadata={"format": "pt", "more": "words"})
    rows = {
        "a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]},
    }
    body = tensors["a"].numpy().tobytes() + tensors["b"].numpy().tobytes()
    _safetensors(tmp_path / "three", rows, body)
    digests = {tensor_file.compute_tensors_sha256(tmp_path / name) for name in ("one", "two", "three")}
    assert len(digests) == 1
    for name, other in (
        ("value", {**tensors, "a": -tensors["a"]}),
        ("shape", {**tensors, "b": tensors["b"].reshape(3, 2)}),
        ("type", {**tensors, "a": tensors["a"].view(torch.int16)}),
        ("name", {"c": tensors["a"], "b": tensors["b"]}),
    ):
        save_file(other, tmp_path / name)
        digests.add(tensor_file.compute_tensors_sha256(tmp_path / name))
    assert len(digests) == 5
    (tmp_path / "none").write_bytes(b"no tensors")
    assert tensor_file.compute_tensors_sha256(tmp_path / "none") == ""


@pytest.mark.parametrize(
    "header",
    [
        b"{" * 50_000,
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62, 0], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}},
        {"a": 3},
    ],
)
def test_a_header_that_leads_outside_of_its_file_is_refused(tmp_path, header):
    path = _safetensors(tmp_path / "a.safetensors", header, bytes(8))
    with pytest.raises(DataError, match=r"is damaged: .*; get it again"):
        tensor_file.compute_tensors_sha256(path)
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        _hub.load(path)


def test_a_header_that_is_said_to_be_longer_than_its_file_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(DataError, match="its header is said to have 1,152,921,504,606,846,976 bytes"):
        tensor_file.compute_tensors_sha256(tmp_path / "a")


@pytest.mark.parametrize("config", ["[" * 100_000, "[1, 2]", "3"])
def test_a_configuration_in_a_file_of_tensors_is_read_with_care(tmp_path, config):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "a", metadata={"config": config})
    with pytest.raises(DataError, match=r"cannot be read as safetensors|in place of a configuration"):
        _hub.load(tmp_path / "a")


def _varint(number):
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def _block(entries):
    """A block of a table: (shared, unshared key, value) each, one restart, uncompressed, with its checksum."""
    body = b"".join(_varint(s) + _varint(len(k)) + _varint(len(v)) + k + v for s, k, v in entries)
    body += struct.pack("<II", 0, 1) + b"\0"
    return body + struct.pack("<I", tf_bundle._masked_crc32c(body))


def _index(entries):
    block = _block(entries)
    handle = _varint(0) + _varint(len(block) - 5)
    second = _block([(0, b"z", handle)])
    footer = _varint(0) + _varint(0) + _varint(len(block)) + _varint(len(second) - 5)
    return block + second + footer.ljust(40, b"\0") + struct.pack("<Q", tf_bundle._MAGIC)


def _entry(shape, size, checksum, kind=1):
    dims = b"".join(b"\x12" + _varint(len(d)) + d for d in (b"\x08" + _varint(n) for n in shape))
    message = b"\x08" + _varint(kind) + b"\x12" + _varint(len(dims)) + dims + b"\x28" + _varint(size)
    return message + b"\x35" + struct.pack("<I", checksum)


def test_a_checkpoint_of_tensorflow_is_read():
    data = np.arange(6, dtype="<f4").tobytes()
    found = tf_bundle.read_bundle(_index([(0, b"x", _entry((2, 3), 24, tf_bundle._masked_crc32c(data)))]), data)
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([(0, b"x", _entry((1 << 32, 1 << 32), 0, 0))], r"'x' \(4294967296, 4294967296\) is damaged"),
        ([(0, b"x", _entry((1,) * 9, 4, 0))], "'x' .* is damaged"),
        ([(3, b"x", b"")], "index is damaged behind the entry ''"),
        ([(0, b"x" * 400, b""), (400, b"x" * 400, b"")], "index is damaged behind the entry 'xxx"),
        ([(0, b"x", b"\x12\x05\x12\x03\x0a\x01a")], "an axis is no number"),
        ([(0, b"x", b"\x12\x7f")], "index is damaged at tensor 'x'"),
        ([(0, b"x", b"\x08" + b"\x80" * 60 + b"\x01")], "a number of more than 64 bits"),
    ],
    ids=["overflow", "many axes", "shared of nothing", "long name", "axis of text", "cut field", "long number"],
)
def test_a_checkpoint_of_tensorflow_that_is_not_what_it_says_is_refused(entries, words):
    with pytest.raises(DataError, match=words):
        tf_bundle.read_bundle(_index(entries), b"")


def test_an_index_of_gigabytes_is_not_gone_through():
    with pytest.raises(DataError, match="the checkpoint's index has 5,000,000 bytes"):
        tf_bundle.read_bundle(bytes(5_000_000), b"")


@pytest.mark.slow
def test_a_sparse_archive_of_musicnn_is_not_read_into_memory(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        for name in (".index", ".data-00000-of-00001"):
            info = tarfile.TarInfo(f"musicnn-0.1.0/musicnn/MTT_musicnn/{name}")
            info.size = 0 if name == ".index" else 200 << 20
            packed.addfile(info, _Zeros(info.size))
    with pytest.raises(DataError, match=r"holds MTT_musicnn/\.data-00000-of-00001 of 209,715,200 bytes"):
        musicnn._convert(musicnn.MTT_MUSICNN, tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_name_of_a_gigabyte_in_an_archive_of_musicnn_is_not_read(tmp_path):
    import gzip
    import tarfile

    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb") as out:
        out.write(name.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(DataError, match="holds too much: a header of gigabytes"):
        musicnn._convert(musicnn.MTT_MUSICNN, tmp_path / "a.tar.gz", tmp_path / "out")


class _Zeros:
    def __init__(self, left):
        self.left = left

    def read(self, size):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def _choi_file(path, **other):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, shape in choi.SHAPES.items():
            block, _, part = name.partition(".")
            stored = f"{choi.GROUP}/{choi.STORED[part].format(block=block)}"
            if stored not in other:
                file[stored] = np.zeros(shape, "<f4")
        for stored, make in other.items():
            make(file, stored)
    return path


NAME = f"{choi.GROUP}/convolution2d_3_W"


@pytest.mark.parametrize("how", ["huge", "another type", "group", "external", "link", "virtual"])
def test_an_hdf5_file_that_asks_for_memory_or_other_files_is_refused(tmp_path, how):
    h5py = pytest.importorskip("h5py")
    shape = choi.SHAPES["3.weight"]
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones(shape, "<f4")
    (tmp_path / "secret").write_bytes(bytes(4 * 32 * 32 * 9))
    makes = {
        "huge": lambda f, n: f.create_dataset(n, (1 << 20, 1 << 20), "<f4", chunks=(1, 1 << 10)),
        "another type": lambda f, n: f.create_dataset(n, data=np.zeros(shape, "S8")),
        "group": lambda f, n: f.create_group(n),
        "external": lambda f, n: f.create_dataset(
            n, shape, "<f4", external=[(str(tmp_path / "secret"), 0, 4 * 32 * 32 * 9)]
        ),
        "link": lambda f, n: f.__setitem__(n, h5py.ExternalLink(str(tmp_path / "other.h5"), "x")),
        "virtual": lambda f, n: f.create_virtual_dataset(n, _layout(h5py, tmp_path / "other.h5", shape)),
    }
    path = _choi_file(tmp_path / choi.FILE, **{NAME: makes[how]})
    with pytest.raises(DataError, match=r"floating-point numbers .* are expected|takes .* from another file"):
        choi._convert(path, tmp_path / "out")


def _layout(h5py, path, shape):
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[...] = h5py.VirtualSource(str(path), "x", shape)
    return layout


def test_a_checkpoint_of_clmr_of_other_shapes_or_too_large_is_refused(tmp_path, monkeypatch):
    state = {clmr.PREFIX + name: torch.zeros(shape) for name, shape in clmr.SHAPES.items()}
    first = next(iter(state))
    torch.save({"state_dict": {**state, first: torch.zeros(7)}}, tmp_path / "a.ckpt")
    with pytest.raises(DataError, match=r"has sequential\.0\.0\.weight \(7,\), not \(128, 1, 3\); give CLMR's release"):
        clmr._convert(tmp_path / "a.ckpt", tmp_path / "out")
    torch.save({"state_dict": state}, tmp_path / "b.ckpt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "b.ckpt", clmr.CHECKPOINT)
    clmr._convert(tmp_path / "a.zip", tmp_path / "out")
    monkeypatch.setattr(clmr, "LARGEST", 1000)
    with pytest.raises(DataError, match=r"holds clmr_epoch=10000\.ckpt of .* bytes; CLMR's has fewer"):
        clmr._convert(tmp_path / "a.zip", tmp_path / "out")

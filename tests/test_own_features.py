"""Features that a user brings: every accepted form gives the same scores, every fault is named."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import TOY_TASK, load_toy_module


@pytest.fixture
def arrays():
    """Per track `(windows, layers, width)`: noise, with the label in the second layer."""
    random = np.random.default_rng(0)
    module = load_toy_module()
    found = {}
    for clip in module.clips(None):
        values = random.normal(size=(2, 3, 8)).astype(np.float32)
        values[:, 1, module.REGISTERS.index(clip.target)] += 2
        found[clip.id] = values
    return found


def _folder(path, arrays, form=lambda values: values, names=None):
    path.mkdir()
    if names is not None:
        (path / "layers.json").write_text(json.dumps(names))
    for track, values in arrays.items():
        np.save(path / f"{track}.npy", form(values))
    return path


def _run(bench, place, *arguments):
    return bench("run", "--task", TOY_TASK, "--features", place, "--json", "--quiet", *arguments)


@pytest.mark.slow
def test_a_folder_of_arrays_is_scored_without_any_audio(bench, tmp_path, arrays):
    ended = _run(bench, _folder(tmp_path / "mine", arrays, names=["low", "1", "high"]), "--model", "my-encoder")
    assert ended.code == 0, ended.err
    record = ended.record
    assert record["model"]["name"] == "my-encoder"
    assert record["model"]["states"] == 3
    assert record["model"]["width"] == 8
    assert {choice["layer"] for choice in record["selection"]["per_seed"]} <= {"1", "sum"}
    assert record["scores"]["accuracy"]["test"] > 0.6
    assert record["comparable"]


@pytest.mark.slow
def test_folder_and_parquet_give_the_same_scores(bench, tmp_path, arrays):
    rows = [
        {"track": track, "window": window, **{f"l{layer}": values[window, layer].tolist() for layer in range(3)}}
        for track, values in reversed(arrays.items())
        for window in (1, 0)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    one = _run(bench, _folder(tmp_path / "folder", arrays)).record
    other = _run(bench, tmp_path / "mine.parquet").record
    assert json.dumps(one["scores"]) == json.dumps(other["scores"])
    assert one["model"]["weights_sha256"] == other["model"]["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "states"), [(lambda v: v[0, 1], 1), (lambda v: v[0], 3), (lambda v: v, 3)])
def test_every_form_of_array_is_read(bench, tmp_path, arrays, form, states):
    record = _run(bench, _folder(tmp_path / "mine", arrays, form)).record
    assert record["model"]["states"] == states
    assert record["scores"]["accuracy"]["test"] > 0.6


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (np.zeros((2, 3, 9)), "(3, 9), the others have (3, 8)"),
        (np.zeros((1, 2, 3, 4)), "has shape (1, 2, 3, 4)"),
        (np.full((2, 3, 8), np.nan), "NaN or infinity in layer 0"),
        (np.array(["a"]), "features are numbers"),
        (np.full((2, 3, 8), 1e200), "values that float32 has not (float64) in layer 0"),
        (np.zeros((2, 3, 8), object), "cannot be read as an array"),
        (np.zeros((0, 3, 8)), "has shape (0, 3, 8)"),
    ],
)
def test_a_faulty_array_is_named(bench, tmp_path, arrays, fault, words):
    folder = _folder(tmp_path / "mine", arrays)
    np.save(folder / "valid03.npy", fault)
    ended = _run(bench, folder)
    assert ended.code == 3
    assert "valid03" in ended.err
    assert words in ended.err
    assert not list((tmp_path / "results").rglob("*.json"))


def _loud(record):
    return " | ".join(record["data"]["marks"])


@pytest.mark.slow
def test_moments_are_not_taken_for_layers_in_silence(bench, tmp_path, arrays):
    """Of `(time, width)` nothing says that the first axis is no layer: the record is not comparable until something does."""
    folder = _folder(tmp_path / "mine", arrays, lambda values: np.repeat(values[0, 1:2], 20, axis=0))
    ended = _run(bench, folder)
    assert not ended.record["comparable"]
    assert "no names: write layers.json" in " ".join(ended.record["why_not"])
    assert "20 layers (without names, as layers.json is missing) x 1 windows a track x 8 values" in _loud(ended.record)
    (folder / "layers.json").write_text('["only"]')
    refused = _run(bench, folder)
    assert refused.code == 3
    assert "has shape (20, 8), which is 20 layers" in refused.err
    assert "names 1" in refused.err


@pytest.mark.slow
def test_frames_are_not_trained_on_as_hundreds_of_layers(bench, tmp_path, arrays):
    folder = _folder(tmp_path / "mine", arrays, lambda values: np.repeat(values[0, 1:2], 646, axis=0))
    refused = _run(bench, folder)
    assert refused.code == 3
    assert "has shape (646, 8), which would be 646 layers without names" in refused.err
    assert "If that axis is time, save the mean over it" in refused.err
    (folder / "layers.json").write_text(json.dumps([f"moment {index}" for index in range(646)]))
    assert _run(bench, folder, "--layers", "moment 3").code == 0


@pytest.mark.slow
def test_moments_of_several_layers_are_not_taken_for_windows_in_silence(bench, tmp_path, arrays):
    folder = _folder(
        tmp_path / "mine", arrays, lambda v: np.repeat(v.mean(axis=0)[:, None], 5, axis=1), ["a", "b", "c"]
    )
    refused = _run(bench, folder)  # (layers, moments, width)
    assert refused.code == 3
    assert "has shape (3, 5, 8), which is 5 layers" in refused.err
    right = _run(bench, _folder(tmp_path / "right", arrays, names=["a", "b", "c"])).record
    assert right["comparable"]
    assert "3 layers (a, b, c) x 2 windows a track x 8 values" in _loud(right)
    assert "51 of 51 tracks have other windows than the task cuts: 'train00' 2, not 1" in _loud(right)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "cannot be read as JSON"), ('["a", "a", "b"]', "all different"), ("[1, 2, 3]", "names")]
)
def test_a_faulty_list_of_names_is_told(bench, tmp_path, arrays, text, words):
    folder = _folder(tmp_path / "mine", arrays)
    (folder / "layers.json").write_text(text)
    ended = _run(bench, folder)
    assert ended.code == 3
    assert "layers.json" in ended.err
    assert words in ended.err


def test_an_array_whose_header_promises_too_much_is_refused_before_memory_is_taken(bench, tmp_path, arrays):
    folder = _folder(tmp_path / "mine", arrays)
    with (folder / "valid03.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20, 8)}
        np.lib.format.write_array_header_1_0(file, header)
    ended = _run(bench, folder)
    assert ended.code == 3
    assert "valid03.npy cannot be read as an array" in ended.err
    np.savez(folder / "valid03", arrays["valid03"])
    (folder / "valid03.npz").rename(folder / "valid03.npy")
    assert "valid03.npy is an archive of arrays" in _run(bench, folder).err


def test_a_window_given_twice_is_named(bench, tmp_path):
    pd.DataFrame({"track": ["train00"] * 2, "window": [1, 1], "l": [[1.0], [2.0]]}).to_parquet(tmp_path / "m.parquet")
    ended = _run(bench, tmp_path / "m.parquet")
    assert ended.code == 3
    assert "window 1 of track 'train00' more than once" in ended.err


def test_a_file_that_is_no_array_is_named(bench, tmp_path, arrays):
    folder = _folder(tmp_path / "mine", arrays)
    (folder / "train00.npy").write_bytes(b"no array")
    assert "train00.npy cannot be read" in _run(bench, folder).err


@pytest.mark.slow
def test_missing_tracks_stop_the_run_by_name_unless_allowed(bench, tmp_path, arrays):
    del arrays["test07"]
    folder = _folder(tmp_path / "mine", arrays)
    stopped = _run(bench, folder)
    assert stopped.code == 3
    assert "1 of the task's 51 tracks: test07" in stopped.err
    allowed = _run(bench, folder, "--allow-missing")
    assert allowed.code == 0
    assert allowed.record["data"]["missing"] == ["test07"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"trak": ["train00"], "l": [[1.0]]}, "no column 'track'; did you mean 'trak'?"),
        ({"track": ["train00"], "l": [1.0]}, "no list column"),
        ({"track": ["train00", "train01"], "l": [[1.0], [1.0, 2.0]]}, "rows of [1, 2] values"),
        ({"track": ["train00"], "a": [[1.0, None]]}, "rows of [2] values or empty ones"),
        ({"track": ["train00"], "a": [[float("inf")]]}, "track 'train00' has NaN or infinity"),
        ({"track": ["other"], "a": [[1.0]]}, "none of the task's 51 tracks"),
        ({"track": ["train00"], "a": [[1e300]]}, "track 'train00' has NaN or infinity"),
        ({"track": ["train00"], "a": [np.zeros(2, "m8[s]")]}, "holds duration[s]; features are numbers"),
        ({"track": [["train00"]], "a": [[1.0]]}, "column 'track' holds list<element: string>; give the tracks' names"),
        ({"track": [{"a": 1}], "a": [[1.0]]}, "column 'track' holds struct<a: int64>; give the tracks' names"),
        ({"track": [b"\xff"], "a": [[1.0]]}, "column 'track' holds binary; give the tracks' names"),
        ({"track": ["train00"] * 2, "window": ["10", "9"], "a": [[1.0], [2.0]]}, "string; give numbers"),
        ({"track": ["train00"], "window": [[1]], "a": [[1.0]]}, "column 'window' holds list<element: int64>"),
        ({"track": ["train00"], "sum": [[1.0]]}, "names a layer 'sum'"),
        ({"track": ["train00"], "a\x1b[31m": [[1.0]]}, "names a layer 'a\\x1b[31m'"),
    ],
)
def test_a_faulty_parquet_file_is_told(bench, tmp_path, table, words):
    pd.DataFrame(table).to_parquet(tmp_path / "mine.parquet")
    ended = _run(bench, tmp_path / "mine.parquet")
    assert ended.code == 3
    assert words in ended.err


def test_a_place_without_features_is_a_wrong_request(bench, tmp_path):
    ended = _run(bench, tmp_path / "nowhere")
    assert ended.code == 2
    assert "nowhere" in ended.err

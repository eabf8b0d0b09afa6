"""Every fenced block of the documents runs, or says why not: corpora by miniatures, the hub by a server of this test."""

import dataclasses
import json
import re
from pathlib import Path

import made_records
import pytest
from docs_blocks import PAGES, ROOT, read_blocks, run_block
from hub_server import HubServer

BLOCKS = {page.name: [block for block in read_blocks(page) if not block.is_site_markup] for page in PAGES}
# pages whose blocks another test runs, which also looks at what they give
ELSEWHERE = {
    "hub-models.md": "test_docs_hub_models.py",
    "python.md": "test_docs_python.py",
    "sharing.md": "test_sharing.py",
}
PAGES_THAT_RUN = [
    name for name, blocks in BLOCKS.items() if name not in ELSEWHERE and any(not block.mark for block in blocks)
]


def test_every_block_runs_or_says_why_not():
    for block in (block for blocks in BLOCKS.values() for block in blocks):
        assert block.language in ("bash", "sh", "python", "toml", "text"), f"{block}: name the language"
        if block.language == "text":
            assert block.mark == "output", f"{block}: say of what: <!-- output: of ... -->"
        else:
            assert block.mark in ("", "not run"), f"{block}: it is code"
        assert bool(block.mark) == bool(block.reason), f"{block}: give the reason"
    assert len([block for blocks in BLOCKS.values() for block in blocks if block.mark == "not run"]) <= 5
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / "tests" / test).read_text()


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory, miniatures):
    """A cache for all pages, with the shared miniatures: features that two pages need are made once."""
    folder = tmp_path_factory.mktemp("docs") / "cache"
    folder.mkdir()
    (folder / "mini").symlink_to(miniatures / "mini")
    return folder


@pytest.fixture
def places(shared_cache, tmp_path, monkeypatch):
    """The folder in which a page is run, with the shared cache; estimates of speed take no three seconds each."""
    from marble_bench.runs import plan

    monkeypatch.setenv("BENCH_CACHE", str(shared_cache))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "MEASURE_S", 0.1)
    return tmp_path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub, with a small MERT in its makers' format where `mert-95m` is downloaded from."""
    from test_mert import GOLDEN, _tiny

    from marble_bench.encoders import mert

    files = {path.name: path.read_bytes() for path in (GOLDEN / "mert-tiny-95m").iterdir() if path.suffix != ".npz"}
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "hub")
        commit, small = server.publish("m-a-p/MERT-v1-95M", files), _tiny("95m")
        small = dataclasses.replace(small, weights=dataclasses.replace(small.weights, revision=commit, digests=()))
        others = tuple(each for each in mert.ENCODERS if each.name != "mert-95m")
        monkeypatch.setattr(mert, "ENCODERS", (*others, small))
        yield server


def shorten(command: str) -> tuple[str, ...]:
    """What makes a command of the documents short enough for a test."""
    seeds = ("--seeds", "1") if re.match(r"run (?!-h)", command) else ()
    few = re.match(r"(run|features extract) .*(--task gtzan-rhythm|nsynth-pitch|--config)", command)
    return (*seeds, *(("--limit", "2") if few else ()))


def write_sounds(folder: Path) -> None:
    """What the guide to tasks assumes: a folder of sounds with a table of labels, and a table without splits."""
    import numpy as np

    from marble_bench.audio import synth

    (folder / "my-sounds").mkdir()
    rows, songs = ["id,split,file,label"], ["id,label,song"]
    for label, hz in (("house", 440), ("waltz", 880)):
        for number, split in enumerate(["train"] * 12 + ["valid"] * 4 + ["test"] * 4):
            name = f"{label}{number}"
            tone = 0.1 * np.sin(2 * np.pi * (hz + 5 * number) * np.arange(22050) / 22050)
            synth.write(folder / "my-sounds" / f"{name}.wav", tone, 22050)
            rows.append(f"{name},{split},{name}.wav,{label}")
            songs.append(f"{name},{label},{label} song {number // 2}")
    (folder / "my-sounds" / "labels.csv").write_text("\n".join(rows))
    (folder / "labels.csv").write_text("\n".join(songs))


def write_checkpoint(folder: Path) -> None:
    """What the guide to encoders assumes: the checkpoint of one convolution."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torch.nn.Conv1d(1, 16, 1024, stride=512).state_dict(), folder / "checkpoint.pt")


def write_records(folder: Path) -> None:
    """What comparisons assume: records of the full corpus, beside which papers print scores, and of the miniature."""
    made_records.make(folder / "results", "mfcc")
    for seed, model in enumerate(("mfcc", "logmel")):
        made_records.make(folder / "results", model, seed=seed, mini=True)


def write_full_record(folder: Path) -> None:
    """What the comparison with papers in README assumes: a record of the full corpus."""
    made_records.make(folder / "results", "mfcc")


def run_before_the_board(bench):
    """What the page of the leaderboard assumes: two records."""

    def run(folder: Path) -> None:
        for model, seeds in (("mfcc", 3), ("mert-95m", 1)):
            ended = bench("run", "--task", "gtzan", "--mini", "--quiet", "--model", model, "--seeds", seeds)
            assert ended.code == 0, ended.err

    return run


def check_tasks(records: dict[str, dict]) -> None:
    assert 0.5 < records["loops"]["scores"]["accuracy"]["test"] <= 1
    assert records["sounds"]["scores"]["accuracy"]["test"] == 1


def check_encoders(records: dict[str, dict]) -> None:
    assert {record["model"]["name"] for record in records.values()} == {"bands", "my-net"}


def check_plug_ins(records: dict[str, dict]) -> None:
    assert {record["protocol"]["name"] for record in records.values()} == {"quick", "linear+centroid", "marble+linear"}
    for record in records.values():
        assert record["scores"]["accuracy"]["test"] > record["scores"]["accuracy"]["trivial"]


def check_frames(records: dict[str, dict]) -> None:
    score = records["drums"]["scores"]["drums_f1"]
    assert score["trivial"] < 0.7 < score["test"] <= 1
    assert records["drums"]["selection"]["per_seed"][0]["setting"] in (0.2, 0.35, 0.5, 0.65)


CHECKS = {
    "adding-a-task.md": check_tasks,
    "adding-an-encoder.md": check_encoders,
    "adding-plug-ins.md": check_plug_ins,
    "frame-by-frame.md": check_frames,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_the_blocks_of_a_page_run(page, bench, hub, places):
    prepare = {
        "adding-a-task.md": write_sounds,
        "adding-an-encoder.md": write_checkpoint,
        "comparing.md": write_records,
        "leaderboard.md": run_before_the_board(bench),
        "README.md": write_full_record,
    }
    prepare.get(page, lambda folder: None)(places)
    for block in BLOCKS[page]:
        if not block.mark:
            run_block(block, bench, places, shorten)
    found = [json.loads(path.read_text()) for path in (places / "results").rglob("*.json")]
    by_task = {record["task"]["name"]: record for record in found}
    unique = by_task if len(by_task) == len(found) else {str(number): record for number, record in enumerate(found)}
    CHECKS.get(page, lambda records: None)(unique)


@pytest.mark.slow
def test_the_readme_shows_what_the_demo_prints(bench, places):
    """Every line but the progress; numbers may differ a little on another processor."""
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    printed = []
    for line in recipe.splitlines():
        words = line.replace("$(BIN)/", "").replace("$(DEMO)", ".venv/demo").split()
        ended = bench(*words[1:])
        assert (words[0], ended.code) == ("bench", 0), ended.err
        printed += [*ended.err.splitlines(), *ended.out.splitlines()]
    (shown,) = [block.code.splitlines() for block in BLOCKS["README.md"] if block.language == "text"]
    printed = [line for line in printed if not re.search(r" gtzan (features|probes): ", line)]
    number = re.compile(r"(?<![\w.])\d+\.\d(?![\w.])")
    assert sorted(number.sub("#", line).split() for line in printed) == sorted(
        number.sub("#", line).split() for line in shown
    )
    values = [[float(each) for line in sorted(lines) for each in number.findall(line)] for lines in (printed, shown)]
    assert values[0] == pytest.approx(values[1], abs=5)

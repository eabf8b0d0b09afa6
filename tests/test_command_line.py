"""Conventions of the command line: each is what docs/command-line.md says of it."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer.main
from conftest import THREE_EPOCHS, TOY_MODEL, TOY_TASK

from marble_bench.cli import progress
from marble_bench.cli.app import LISTED, app
from marble_bench.core import plugins
from marble_bench.core.selection import select_names
from marble_bench.data import inspection
from marble_bench.errors import UsageError, suggest_name
from marble_bench.runs import devices
from marble_bench.runs.config import RunConfig, list_pairs

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/command-line.md").read_text()
OF_TOY = ("--task", TOY_TASK, "--model", TOY_MODEL)


def _walk(command, path=()):
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _walk(below, (*path, name))


COMMANDS = dict(_walk(typer.main.get_command(app)))
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def _words(text):
    return {word.strip("`") for word in re.split(r"[\s│]+", text)}


# help


@pytest.mark.slow
def test_help_is_short_too_and_breaks_no_word_at_80_columns(bench, monkeypatch):
    assert len(LEAVES) > 30
    assert bench("run", "-h").out == bench("run", "--help").out
    monkeypatch.setenv("COLUMNS", "80")
    for path, command in COMMANDS.items():
        ended = bench(*path, "-h")
        assert (ended.code, max(map(len, ended.out.splitlines()))) <= (0, 80), path
        sources = [command.help or ""]
        for parameter in command.params:
            sources += [parameter.help or "", parameter.metavar or ""]
            sources += [option for option in parameter.opts if option.startswith("-")]
        found = _words(ended.out)
        missing = {word for source in sources for word in _words(source)} - found
        assert not missing, (path, missing)
        assert all(word.endswith(">") for word in found if re.match("<[a-z]+[|]", word)), path  # types


@pytest.mark.slow
def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "marble_bench", "-h"], capture_output=True, text=True, check=True)
    assert "Usage: bench [OPTIONS] COMMAND [ARGS]..." in done.stdout


# lists


@pytest.mark.slow
def test_no_list_breaks_a_word_at_80_columns(bench, narrow):
    for what in set(LISTED) - {"results", "features"}:
        rows = json.loads(bench("list", what, "--json").out)
        found = _words(bench("list", what).out)
        for row in rows:
            sources = [str(value) for key, value in row.items() if what != "data" or key in ("name", "license")]
            assert {word for source in sources for word in _words(source)} <= found, (what, row)


@pytest.mark.slow
def test_no_board_and_no_comparison_breaks_a_word_at_80_columns(bench, monkeypatch, toy_record):
    record = toy_record(*THREE_EPOCHS)
    calls = [
        ("leaderboard", "--task", "mtg-*", "--model", "mert-*"),
        ("leaderboard", "--mini", "--protocol", "three-epochs", "--cost"),
        ("compare", record, record),
        ("results", "check", record),
        ("features", "ls"),
    ]
    for call in calls:
        found = []
        for columns in ("400", "80"):
            monkeypatch.setenv("COLUMNS", columns)
            ended = bench(*call)
            assert ended.code == 0, (call, ended.err)
            found.append({word for word in re.split(r"[\s│┃]+", ended.out) if not re.search("[─━═]", word)})
        assert found[0] - found[1] <= {"key", "model"}, call  # the first heading, where a row is a block
        assert "…" not in ended.out, call


def test_a_table_breaks_no_word_and_cuts_none_whatever_the_width(monkeypatch, capsys):
    from marble_bench.cli.show import print_table

    rows = [
        {"name": "a-rather-long-name", "what": "words of some length", "items": ["first one", "second"], "n": 1.5},
        {"name": "b", "what": "https://example.org/" + 60 * "x", "items": [], "n": 12.25},
    ]
    words = _words(" ".join(str(each) for row in rows for each in (row["name"], row["what"]))) | {"1.5000", "12.2500"}
    for columns in (*range(30, 140, 7), None):
        if columns:
            monkeypatch.setenv("COLUMNS", str(columns))
        else:
            monkeypatch.delenv("COLUMNS")
        print_table(rows, right=("n",))
        out = capsys.readouterr().out
        assert words | {"first", "second"} <= _words(out), columns
        assert "first one" in out


@pytest.mark.parametrize("what", LISTED)
def test_a_list_is_reached_both_ways(what, bench):
    if what == "data":
        assert bench("list", "data", "--json").out == bench("data", "list", "--json").out
    for form in ((), ("--json",)):
        one, other = bench("list", what, *form), bench(what, "list", *form)
        assert (one.code, one.out, one.err) == (0, other.out, other.err)
    assert one.out.startswith("[")


def test_a_list_that_is_none_is_told_with_the_closest(bench):
    ended = bench("list", "Modles")
    assert (ended.code, ended.err) == (2, "error: no list 'Modles'; did you mean 'models'?\n")


# names


def test_several_names_and_globs_are_pairs_in_the_order_given_each_once():
    pairs = list_pairs(["mfcc,chroma", "mf*", "logmel"], ["gs,vocalset-*", "gs", "gtzan"], None, None)
    models, tasks = ["mfcc", "chroma", "logmel"], ["gs", "vocalset-singer", "vocalset-technique", "gtzan"]
    assert [(model, named.name) for model, _, named in pairs] == [(m, t) for m in models for t in tasks]
    every = list_pairs(["mfcc"], ["gtzan,all"], None, None)
    assert [named.name for _, _, named in every] == ["gtzan", *(t for t in plugins.list_task_names() if t != "gtzan")]


def test_a_path_with_a_comma_is_one_name(tmp_path):
    (tmp_path / "a,b.py").touch()
    (tmp_path / "c,d").mkdir()
    words = [str(tmp_path / "a,b.py"), f"{tmp_path / 'a,b.py'}:NAME", f"hf:{tmp_path / 'c,d'}", "e,f"]
    assert select_names(words, [], "model") == [*words[:3], "e", "f"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mtg-x*"], "no task matches 'mtg-x*'"),
        (["GT*"], "no task matches 'GT*'"),
        (["gtzan,"], "--task 'gtzan,' has an empty name beside a comma"),
    ],
)
def test_a_glob_without_a_match_and_an_empty_name_are_refused(words, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        select_names(words, plugins.list_task_names(), "task")


@pytest.mark.slow
def test_boards_and_stores_take_several_names_too(bench, toy_record):
    toy_record(*THREE_EPOCHS)
    board = ("leaderboard", "--json", "--protocol", "marble")
    found = bench(*board, "--task", "gtzan,mtg-g*", "--model", "mert-*,mule").record
    assert {row["task"] for row in found} - {"average"} == {"gtzan", "mtg-genre"}
    assert {row["model"].split("-")[0] for row in found} == {"mert", "mule"}
    assert bench(*board, "--task", "Gtzan").err.startswith("error: no task 'Gtzan'; did you mean 'gtzan'?")
    assert [row["encoder"] for row in bench("features", "ls", "--model", "t*,toy", "--json").record] == ["toy"]
    assert bench("features", "ls", "--model", "x*").err == "error: no model matches 'x*' (bench list models)\n"


def test_the_closest_name_is_found_whatever_its_case():
    assert suggest_name("MERT-95m", ["mert-330m", "mert-95m"]) == "; did you mean 'mert-95m'?"
    assert suggest_name("openmuq/muq", ["OpenMuQ/MuQ", "mfcc"]) == "; did you mean 'OpenMuQ/MuQ'?"


HEAVY = (
    "import sys\nfrom marble_bench.cli import main\n"
    "try: main()\nexcept SystemExit as end: code = end.code\n"
    "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
    "print(code, sorted(heavy), file=sys.stderr)"
)


def _call_alone(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", HEAVY, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        "run --model mfcc --task GTZANN --protocol linear",
        "run --model mfcc --task gtzan --device gpu",
        "plan --model mfcc --task mtg-x*",
        "features extract --model mfc --task gtzan",
        "reproduce nowhere.json",
    ],
)
def test_a_wrong_name_is_refused_before_torch_is_imported(call):
    done = _call_alone(*call.split())
    assert done.stderr.splitlines()[-1] == ("3 []" if "reproduce" in call else "2 []"), done.stderr


# completion


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("bench run --task gtzan-", ["gtzan-rhythm"]),
        ("bench plan --task gs,vocalset-", ["gs,vocalset-singer", "gs,vocalset-technique"]),
        ("bench run --model mfc", ["mfcc"]),
        ("bench run --protocol lin", ["linear"]),
        ("bench list prot", ["protocols"]),
    ],
)
def test_a_shell_completes_names_and_nothing_heavy_is_imported(typed, expected):
    asked = {"_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = _call_alone(**asked)
    assert done.stdout.split() == expected
    assert done.stderr.splitlines()[-1] == "0 []"


def test_the_script_of_a_shell_is_printed(bench, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))  # whoever runs the tests
    ended = bench("--show-completion")
    assert (ended.code, "_BENCH_COMPLETE=complete_bash" in ended.out) == (0, True)


# a file of flags


@pytest.fixture
def config(tmp_path):
    """Writes `run.toml` and gives its name."""

    def write(text):
        (tmp_path / "run.toml").write_text(text)
        return "run.toml"

    return write


def _seen(monkeypatch):
    """The configurations of runs that are built; no run is made."""
    from marble_bench.runs import run as running

    seen = []
    monkeypatch.setattr(running, "plan", lambda config: seen.append(config) or {})
    return seen


def test_a_file_holds_flags_and_the_command_line_goes_before_it(bench, config, monkeypatch):
    seen = _seen(monkeypatch)
    top = f'task = "{TOY_TASK}"\nmini = true\nbatch_size = 7\n'
    file = config(f'{top}[run]\nmodel = ["mfcc", "chroma"]\nseeds = 2\ndry-run = true\n[plan]\nmodel = "none"\n')
    assert bench("run", "--config", file).code == 0
    assert [(each.features.model, each.probes.seeds, each.features.batch_size) for each in seen] == [
        ("mfcc", 2, 7),
        ("chroma", 2, 7),
    ]
    assert all(each.data.mini for each in seen)
    seen.clear()
    assert bench("run", "--config", file, "--model", "logmel", "--seeds", 1, "--protocol", "linear").code == 0
    assert [(each.features.model, each.probes.seeds, each.probes.protocol.name) for each in seen] == [
        ("logmel", 1, "linear")
    ]


def test_the_closest_table_wins_and_a_group_has_one(bench, config, monkeypatch):
    from marble_bench.runs import plan as prepare

    seen = []
    monkeypatch.setattr(prepare, "extract", lambda config, progress: seen.append(config) or {"stores": []})
    file = config('model = "mfcc"\njson = true\n[features]\nmodel = "chroma"\n[features.extract]\nworkers = 3\n')
    assert bench("features", "extract", "--config", file, "--task", "gtzan", "--mini").code == 0
    assert [(each.features.model, each.features.workers) for each in seen] == [("chroma", 3)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run]\nsedes = 1", "run.toml: no flag 'sedes' in [run]; did you mean 'seeds'? (bench run --help)"),
        ("Batch-Sice = 1", "run.toml: no flag 'Batch-Sice'; did you mean 'batch-size'? (bench --help)"),
        ("[features.extrakt]", "run.toml: [features.extrakt]: bench has no such command; did you mean 'extract'?"),
        ("config = 'b.toml'", "run.toml: no flag 'config'"),
        ("[run]\nseeds = 'x'", "run.toml: seeds: "),
        ("[run]\nseeds = 0", "run.toml: seeds: "),
        ("[run]\ncontrol = 'shufle'", "run.toml: control: "),
        ("protocol = ['a', 'b']", "run.toml: protocol has several values, and --protocol takes one"),
        ("seeds = true", "run.toml: seeds: --seeds takes a text or a number, not true"),
        ("data-dir = false", "run.toml: data-dir: --data-dir takes a text or a number, not false"),
        ("seeds = 1.0", "run.toml: seeds: '1.0' is no whole number from 1 on"),
        ("seeds = {n = 1}", "run.toml: seeds: --seeds takes a value, not a table"),
        ("[run.control]", "run.toml: run.control: --control takes a value, not a table"),
        ("[[model]]", "run.toml: model: --model takes a text or a number, not a table"),
        ("task = ['gtzan', ['emo']]", "run.toml: task: --task takes a text or a number, not a list"),
        ("protocol = 2020-01-01", "run.toml: protocol: --protocol takes a text or a number, not a date or time"),
        ("mini = 1", "run.toml: mini: --mini takes true or false, not 1"),
        ("mini = 'yes'", "run.toml: mini: --mini takes true or false, not 'yes'"),
        ("mini = [true]", "run.toml: mini: --mini takes true or false, not a list"),
        ("seeds = ", "--config: run.toml is not TOML: Invalid value (at "),
    ],
)
def test_a_mistake_in_the_file_is_told_with_file_and_key(text, said, bench, config):
    ended = bench("run", "--config", config(text), *OF_TOY, "--mini", "--dry-run")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {said}"), ended.err


def test_a_file_that_is_not_there_is_told(bench):
    assert "nowhere.toml cannot be read: No such file" in bench("run", "--config", "nowhere.toml").err


def test_every_flag_may_stand_in_the_file(bench, config):
    assert all(any("--config" in each.opts for each in command.params) for command in LEAVES.values())
    with pytest.raises(UsageError):  # with --debug an error is raised, so that Python shows the traceback
        bench("run", "--config", config("debug = true"), "--model", "mfc", "--task", "gtzan")


@pytest.mark.slow
def test_the_file_of_the_page_is_read(bench, config, monkeypatch):
    seen = _seen(monkeypatch)
    file = config(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL).group(1))
    assert bench("run", "--config", file, "--dry-run").code == 0
    assert [each.title for each in seen] == ["mfcc gtzan", "mfcc nsynth-pitch"]
    assert {each.probes.protocol.name for each in seen} == {"linear"}


# devices


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as torch tells it. Those that became current, in order, from the first on."""
    current = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda device: (current[-1], current.append(device))[0])
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda device: (current[-1], current.append(device))[0])
    return current


def test_a_gpu_is_chosen_by_its_number(two_gpus):
    assert devices.resolve_device("cuda:1") == "cuda:1"
    assert two_gpus == [0]
    assert [devices.resolve_device(each) for each in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    with pytest.raises(UsageError, match="--device cuda:2: no such GPU; this machine has cuda:0, cuda:1"):
        devices.resolve_device("cuda:2")


def test_a_gpu_is_current_only_while_it_is_worked_on(two_gpus):
    config = SimpleNamespace(features=SimpleNamespace(device="cuda:1"))
    assert devices.using_its_device(lambda config, more: (more, torch.cuda.current_device()))(config, "x") == ("x", 1)
    assert torch.cuda.current_device() == 0
    with pytest.raises(ZeroDivisionError), devices.use_device("cuda:1"):
        raise ZeroDivisionError
    assert two_gpus == [0, 1, 0, 1, 0]
    for device in ("cpu", "cuda", "mps"):
        with devices.use_device(device):
            assert len(two_gpus) == 5


def test_extract_computes_while_its_gpu_is_the_current_one(two_gpus, monkeypatch):
    import marble_bench as mb
    from marble_bench import api
    from marble_bench.features import direct

    monkeypatch.setattr(api, "_load", lambda *_: None)
    monkeypatch.setattr(direct, "encode_waveform", lambda *_: [torch.cuda.current_device()] * 2)
    assert mb.extract_layers("mfcc", [0.0], sample_rate_hz=8000, device="cuda:1") == {"frames": 1, "statistics": 1}
    assert torch.cuda.current_device() == 0


def test_the_device_of_a_live_module_is_compared_by_its_number(two_gpus):
    from marble_bench.encoders.live import _same_device

    assert _same_device("cuda:0", "cuda")
    two_gpus.append(1)
    assert _same_device("cuda:1", "cuda")
    assert not _same_device("cuda:0", "cuda")
    assert not _same_device("cuda:0", "cuda:10")
    assert _same_device("mps:0", "mps")


@pytest.mark.parametrize(
    "asked", ["cuda:", "cuda:x", "cuda:01", "cuda:\u0661", "cuda:" + 5000 * "1", "cpu:0", "mps:0", "cude", "CUDA", ""]
)
def test_what_is_no_device_is_refused(asked):
    with pytest.raises(UsageError, match=re.escape(f"--device {asked}: no such device")):
        devices.resolve_device(asked)


def test_mps_is_not_chosen_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.resolve_device("mps") == "mps"
    if not torch.cuda.is_available():
        assert devices.resolve_device("auto") == "cpu"


def test_a_record_holds_the_kind_of_device_and_probes_train_beside_mps_on_the_cpu():
    from marble_bench.runs import build_record

    named, rules = plugins.find_task(TOY_TASK), plugins.find_protocol("linear")
    for device, probes, recorded in (("cuda:1", "cuda:1", "cuda"), ("mps", "cpu", "mps"), ("cpu", "cpu", "cpu")):
        config = RunConfig.of(
            named=named, protocol=rules, encoder=None, model="m", cache=Path(), results=Path(), device=device
        )
        assert config.probes.device == probes
        assert build_record._build_environment(config).device == recorded


def test_ray_chooses_its_gpus_itself(bench, two_gpus):
    ended = bench("run", *OF_TOY, "--mini", "--engine", "ray", "--device", "cuda:1")
    assert (ended.code, "Ray chooses the GPUs" in ended.err) == (2, True)


@pytest.fixture
def on_mps():
    """A guard of the toy encoder on MPS, and what the encoder gives on the CPU, as if MPS had given it."""
    from marble_bench.features import fingerprint

    encoder = plugins.find_encoder(TOY_MODEL)
    loads = []

    def on_cpu():
        loads.append("cpu")
        return encoder.load(None, "cpu")

    guard = fingerprint.Guard(encoder, lambda: None, "mps", on_cpu=on_cpu)
    return guard, replace(fingerprint.compute(encoder, encoder.load(None, "cpu"), "cpu"), device="mps"), loads


def test_an_encoder_on_mps_is_compared_with_the_cpu_once(on_mps):
    guard, now, loads = on_mps
    guard.check_loaded([], now)
    guard.check_loaded([], now)
    assert loads == ["cpu"]


def test_an_encoder_that_mps_computes_otherwise_is_refused_in_one_line(on_mps):
    guard, now, _ = on_mps
    layers = {name: values * np.float32(1.02 if name == "1" else 1.005) for name, values in now.layers.items()}
    with pytest.raises(UsageError) as told:
        guard.check_loaded([], replace(now, layers=layers))
    assert str(told.value) == (
        "toy gives other features on MPS than on the CPU: layer '1' differs by 0.02 (relative), allowed is 0.01; "
        "give --device cpu"
    )


def test_an_operation_that_mps_lacks_is_told_in_one_line():
    from marble_bench.features.fingerprint import name_mps_faults

    encoder = plugins.find_encoder(TOY_MODEL)
    with (
        pytest.raises(
            UsageError, match=r"^toy does not run on MPS \(The operator 'aten::x' is missing\); give --device"
        ),
        name_mps_faults(encoder, "mps"),
    ):
        raise NotImplementedError("The operator 'aten::x' is missing.\nAnd more")
    with pytest.raises(NotImplementedError), name_mps_faults(encoder, "cpu"):
        raise NotImplementedError


# how features are made


def test_a_batch_has_as_many_windows_as_asked_for_and_half_when_memory_ends():
    from test_cuda_order import KIND, SMALL

    from marble_bench.features.jobs import Cost, Settings
    from marble_bench.features.runner import Runner

    said = []
    runner = Runner(SMALL, lambda *_: [], KIND, Settings("cpu", batch_size=5), Cost(), said.append)
    assert [runner.step(length) for length in (1, 20, 10**9)] == [5, 5, 5]
    runner._shrink(5, 20, torch.OutOfMemoryError())
    assert runner.step(20) == 2
    assert said == ["cpu ran out of memory: batches of 2 windows from here on"]


@pytest.mark.slow
def test_workers_batch_size_and_store_are_of_every_command_that_makes_features(bench, toy, tmp_path, monkeypatch):
    from marble_bench.features.runner import Runner

    for path in (("run",), ("plan",), ("reproduce",), *(("features", each) for each in ("extract", "export", "push"))):
        opts = {option for parameter in LEAVES[path].params for option in parameter.opts}
        assert {"--workers", "--batch-size", "--store"} <= opts, path
    sizes = []
    launched = Runner.launch
    monkeypatch.setattr(Runner, "launch", lambda self, batch: sizes.append(len(batch.windows)) or launched(self, batch))
    how = ("--mini", *THREE_EPOCHS, "--workers", 1, "--batch-size", 4, "--store", f"file://{tmp_path}/store")
    first = toy(*how, "--perturb", "gain")
    assert first.code == 0, first.err
    assert max(sizes) == 4
    assert set(sizes) > {4}  # the end of a shard
    assert len(list((tmp_path / "store").iterdir())) == 2  # with the changed clips
    again = toy(*how, "--perturb", "gain", "--cache-dir", tmp_path / "other", "--results-dir", tmp_path / "again")
    assert again.record["cost"]["cached"]
    assert again.record["scores"] == first.record["scores"]
    planned = ("plan", *OF_TOY, "--mini", "--cache-dir", tmp_path / "third", "--json", "--device", "cpu")
    assert bench(*planned).record["total"]["passes"] == 1
    assert bench(*planned, "--store", f"file://{tmp_path}/store").record["total"]["passes"] == 0


@pytest.mark.parametrize("option", ["--workers", "--batch-size", "--store"])
def test_features_that_are_brought_are_not_made(option, bench, tmp_path):
    (tmp_path / "own").mkdir()
    value = "file:///x" if option == "--store" else 2
    ended = bench("run", "--task", TOY_TASK, "--mini", "--features", "own", option, value)
    assert (ended.code, f"{option} says how features are made" in ended.err) == (2, True)


# progress


def _clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_of_the_recent_pace_without_the_start(monkeypatch, capsys):
    now = _clock(monkeypatch)
    with progress.Progress("mert-95m gtzan", quiet=False) as shown:
        now[0] = 120.0  # weights were loaded
        shown.features(0, 1000, 0.0)
        for _ in range(100):  # a slow stretch that is long ago
            now[0] += 10
            shown.features(round(now[0] - 120) // 10, 1000, 30 * (now[0] - 120) / 10)
        capsys.readouterr()
        for step in range(1, 101):  # ten times as fast
            now[0] += 5
            shown.features(100 + 5 * step, 1000, 30 * (100 + 5 * step))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "mert-95m gtzan features: 595/1000 clips, 30 s/s, 6 min 45 s left"  # 405 clips at one a second


def test_one_bar_is_shown_at_a_time(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes what is written to for a terminal
    with progress.Progress("mfcc gtzan", quiet=False) as shown:
        assert not shown.bars.disable
        for stage in ("features", "probes", "features"):
            for done in (1, 2):
                _ = shown.features(done, 9, 1.0) if stage == "features" else shown.probes(done, 9, 0.5, 3)
                assert [bar.description for bar in shown.bars.tasks if bar.visible] == [f"mfcc gtzan {stage}"]
    with progress.Transfers(quiet=False) as shown:
        for name in ("a.zip", "b.zip"):
            shown.show_transfer(name, 10, 100)
            assert [bar.description for bar in shown.bars.tasks] == [name]


# plan


def test_a_plan_tells_the_time_of_probes_by_the_rounds_of_a_first_block(bench, monkeypatch):
    from marble_bench.probes import block

    from marble_bench.runs import plan, probe_time

    monkeypatch.setattr(plan, "MEASURE_S", 0.01)
    now, rounds = [0.0], []

    def run_round(self, stopped):
        rounds.append(len(self.alive))
        now[0] += 2.0 if len(rounds) > 1 else 50.0  # the first makes much ready

    monkeypatch.setattr(block.Block, "run_round", run_round)
    monkeypatch.setattr(block, "count_threads", lambda device: 1)
    monkeypatch.setattr(probe_time.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(plan, "_estimate_throughput", lambda *_: plan.Throughput(100.0, "a guess", 1.0, True))
    row = bench("plan", *OF_TOY, "--mini", "--json", "--device", "cpu").record["each"][0]
    blocks = row["probes"] / rounds[0]
    assert blocks == 12  # three layers and their sum, for each of three seeds
    assert row["probe_bound"] == "at most"
    assert row["probe_hours"] == pytest.approx(blocks * 40 * 2.0 / 3600, abs=1e-4)  # the task has 40 epochs


def test_the_time_of_probes_of_frames_is_of_the_epochs_after_the_first(monkeypatch, tmp_path):
    from marble_bench.probes import framewise, trainer

    from marble_bench.data import corpus
    from marble_bench.data.examples import find
    from marble_bench.runs import probe_time

    named, encoder = (
        plugins.find_task(str(ROOT / "tests/plugins/frames/toy_frames.py")),
        plugins.find_encoder(TOY_MODEL),
    )
    config = RunConfig.of(
        named=named, protocol=plugins.find_protocol("marble"), encoder=encoder, model="toy", cache=tmp_path,
        results=tmp_path, mini=True, seeds=1,
    )  # fmt: skip
    found = find(named, corpus.ensure_mini(named.task.corpus, tmp_path)).examples
    now = [0.0]

    def fit(probes, train, valid, recipe, device, progress):
        assert recipe.schedule.max_epochs == probe_time.EPOCHS
        for epoch in range(probe_time.EPOCHS):
            now[0] += 3.0 if epoch else 60.0
            assert train.truth(0, epoch).shape[0] == train.features.length(0, epoch)
            progress(0, len(probes), 0.0, len(probes))

    monkeypatch.setattr(framewise, "fit", fit)
    monkeypatch.setattr(probe_time.time, "perf_counter", lambda: now[0])
    taken = probe_time.measure(config, found, [3.0] * len(found), True)
    blocks = len(framewise.group_probes(trainer.build_grid(config.probes.protocol, range(3), True, 1), "cpu"))
    part = min(1.0, probe_time.MOST_CLIPS / len(found.of("train")))
    epochs = (named.task.mini_schedule or named.task.schedule).max_epochs
    assert taken.bound == "at most"
    assert taken.hours == pytest.approx(3.0 / part * epochs * blocks / 3600, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "bound"), [("marble", "at most"), ("linear", "about"), ("jukemir", "at least")])
def test_the_time_of_probes_has_a_bound(protocol, bound, bench, monkeypatch):
    from marble_bench.runs import plan, probe_time

    monkeypatch.setattr(plan, "MEASURE_S", 0.01)
    monkeypatch.setattr(probe_time, "MEASURE_S", 0.01)
    row = bench("plan", *OF_TOY, "--mini", "--json", "--device", "cpu", "--protocol", protocol).record["each"][0]
    assert (row["probe_bound"], row["probe_hours_from"]) == (bound, "a first block trained on noise")
    assert 0 < row["probe_hours"] < 1


# output for programs

ROWS = re.findall(r"^\| (`[^|]+) \| (lines|an array|an object)[^|]* \| ([^|]+) \|$", PAGE, re.MULTILINE)
DOCUMENTED = {
    call: (form, re.findall(r"`([a-z_0-9]+)`", keys))
    for calls, form, keys in ROWS
    for call in re.findall(r"`([^`]+)`", calls)
}


def test_the_page_names_every_command_that_prints_json():
    printing = {" ".join(path) for path, each in LEAVES.items() if any("--json" in p.opts for p in each.params)}
    lists = {f"{what} list" for what in LISTED} - {"data list"}
    assert printing - lists - {"list"} == {call for call in DOCUMENTED if not call.startswith(("list", "run --"))}
    assert {call for call in DOCUMENTED if call.startswith("list ")} == {f"list {what}" for what in LISTED}


def _agrees(call, ended):
    form, keys = DOCUMENTED[call]
    assert ended.code == 0, ended.err
    if form == "lines":
        parts = [json.loads(line) for line in ended.out.splitlines()]
        assert len(parts) == 2
    else:
        found = json.loads(ended.out)
        assert isinstance(found, dict if form == "an object" else list)
        parts = [found] if form == "an object" else found
    assert parts, call
    assert all(set(keys) <= set(part) for part in parts), (call, set(keys) - set(parts[0]))


def test_a_line_is_there_at_once_and_stays_when_a_later_pair_fails(bench, tmp_path, monkeypatch):
    from marble_bench.cli.show import print_line
    from marble_bench.runs import plan as prepare

    class Pipe(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Pipe())
        print_line({"a": 1})
        assert sys.stdout.flushed == '{"a": 1}\n'

    def extract(config, progress):
        if config.features.model == "chroma":
            raise UsageError("not today")
        return {"model": config.features.model}

    monkeypatch.setattr(prepare, "extract", extract)
    ended = bench("features", "extract", "--model", "mfcc,chroma,logmel", "--task", TOY_TASK, "--mini", "--json")
    assert [json.loads(line) for line in ended.out.splitlines()] == [{"model": "mfcc"}, {"model": "logmel"}]
    assert (ended.code, ended.err) == (4, "error: chroma on toy-task: not today\n")


@pytest.mark.slow
def test_what_json_prints_is_what_the_page_says(bench, tmp_path, monkeypatch):
    from marble_bench.runs import plan, probe_time

    monkeypatch.setattr(plan, "MEASURE_S", 0.01)
    monkeypatch.setattr(probe_time, "MEASURE_S", 0.01)
    twice = tmp_path / "twin_task.py"
    twice.write_text(Path(TOY_TASK).read_text())
    two = (*OF_TOY, "--task", twice, "--mini", "--device", "cpu", "--json")
    _agrees("run --dry-run", bench("run", *two, "--dry-run"))
    _agrees("run", bench("run", *two, *THREE_EPOCHS))
    _agrees("features extract", bench("features", "extract", *two))
    _agrees("plan", bench("plan", *two))
    for what in LISTED:
        _agrees(f"list {what}", bench("list", what, "--json"))
    for call in ("data list", "features ls", "features verify"):
        _agrees(call, bench(*call.split(), "--json"))
    assert set(DOCUMENTED["data check"][1]) <= {field.name for field in fields(inspection.Report)} | {"valid"}
    _agrees("models get", bench("models", "get", "mfcc", "--json"))
    _agrees("models verify", replace(bench("models", "verify", "mert-95m", "--json"), code=0))  # 3: it is not here
    record = next((tmp_path / "results").rglob("toy-task.mini.json"))
    _agrees("results check", bench("results", "check", "--json", record, "--task", TOY_TASK))
    _agrees("leaderboard", bench("leaderboard", "--task", "gtzan", "--json"))
    _agrees("compare", bench("compare", record, record, "--json"))
    again = ("--task", TOY_TASK, "--model", TOY_MODEL, *THREE_EPOCHS)
    _agrees("reproduce", bench("reproduce", record, *again, "--json"))
    assert DOCUMENTED["results export"] == ("an object", ["museval"])  # tests/test_bsseval_table.py has a record for it


PATHS = {
    (" ".join(path), option)
    for path, command in LEAVES.items()
    for each in command.params
    for option in each.opts
    if option.startswith("--") and (option.endswith("-dir") or each.metavar == "PATH")
}


def test_no_option_takes_an_empty_path(bench):
    assert {("leaderboard", "--cache-dir"), ("compare", "--results-dir"), ("data get", "--data-dir")} <= PATHS
    given = {"data get": ["gtzan"], "data check": ["gtzan"], "data croissant": ["gtzan", "x"], "compare": ["a", "b"],
             "plot": ["cost", "x.png"], "features export": ["x"], "features push": ["hf:a/b"], "reproduce": ["x.json"],
             "results export": ["x.json"], "models get": ["mfcc"], "check": ["mfcc"], "list": ["results"]}  # fmt: skip
    for name, option in sorted(PATHS):
        ended = bench(*name.split(), *given.get(name, ()), option, "")
        assert ended.code == 2, (name, option)
        assert "the path is empty" in ended.err, (name, option, ended.err)


@pytest.mark.parametrize("word", ["dtype", "engine", "control"])
def test_python_and_the_command_line_take_the_same_words(bench, monkeypatch, word):
    """The words that the help shows are those that Python names in its refusal."""
    from marble_bench.api import run

    monkeypatch.setenv("COLUMNS", "200")
    (line,) = (each for each in bench("run", "--help").out.splitlines() if f" --{word} " in each)
    with pytest.raises(UsageError) as refused:
        run(model="mfcc", task="gtzan", **{word: "zzzzzz"})
    named = str(refused.value).partition("choose from ")[2].split(", ")
    assert set(named) <= set(re.findall(r"\w+", line))
    ended = bench("run", "--model", "mfcc", "--task", "gtzan", f"--{word}", "zzzzzz")
    assert ended.code == 2
    assert all(each in ended.err for each in named)

"""The guide to sharing is true: its commands and its code run in its order, beside a local hub."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from hub_server import HubServer
from made_records import make

from marble_bench.core import plugins
from marble_bench.data import corpus

PAGE = Path(__file__).parent.parent / "docs" / "sharing.md"


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>':DeprecationWarning"
)  # of the hub's client, to its own transport
def test_the_commands_of_the_guide_do_what_it_says(tmp_path, bench, monkeypatch, own_cache_with_miniatures):
    make(tmp_path / "results", "mfcc")
    gtzan = corpus.ensure_mini(plugins.find_task("gtzan").task.corpus, own_cache_with_miniatures)
    # the miniature that other tests share, for one more takes seconds
    monkeypatch.setattr(corpus, "write_mini", lambda _, folder: shutil.copytree(gtzan, folder))
    with HubServer() as hub:
        hub.writers = {"secret"}
        hub.use(monkeypatch, tmp_path / "home", "secret")
        for line in "".join(_blocks("bash")).splitlines():
            ended = bench(*shlex.split(line)[1:])
            assert ended.code == 0, f"{line}\n{ended.err}"
        assert set(hub.heads) == {"datasets/OWNER/NAME"}
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "my-model/.eval_results/marble-bench-marble-gtzan.yaml",
        "gtzan-croissant/croissant.json",
        "gtzan-croissant/clips.parquet",
    } <= made
    reading, shown = _blocks("python")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        found: dict = {}
        exec(shown, found)
    assert found["clip"]["id"].startswith(found["labels"].int2str(found["clip"]["target"]))
    assert Path(found["clip"]["audio"]["path"]).is_relative_to("gtzan-mini")
    assert "mlcroissant" in reading


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib's and pandas' old names
def test_the_code_of_the_guide_reads_a_croissant(tmp_path, bench, monkeypatch, capfd):
    pytest.importorskip("mlcroissant", exc_type=ImportError)
    assert bench("data", "croissant", "gtzan", "gtzan-croissant").code == 0
    monkeypatch.chdir(tmp_path)
    exec(_blocks("python")[0], {})
    assert capfd.readouterr().out == "b'blues'\n"

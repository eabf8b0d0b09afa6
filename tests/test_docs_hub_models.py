"""The page of models by their hub id: its commands run against the local hub, and it names every model that is run."""

import re
import shlex
from pathlib import Path

import pytest
from hub_folders import CASES
from hub_server import HubServer

from marble_bench.core import plugins, sources, trees
from marble_bench.encoders._hub_families import FAMILIES

PAGE = (Path(__file__).parent.parent / "docs/hub-models.md").read_text()


def _blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_names_every_model_type_that_is_run():
    table = PAGE.partition("## Which models")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")][1:]
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(FAMILIES)


def test_one_digest_is_of_the_code_of_all_models_by_id(tmp_path):
    digests = set()
    for name in ("wavlm", "whisper"):
        CASES[name].save(tmp_path / name)
        encoder = plugins.find_encoder(f"hf:{tmp_path / name}")
        digests.add(sources.find_origin("encoder", encoder).digest)
        files = trees.find_imported(list(sources.list_files(encoder.load)), trees.find_room("encoder"))
        assert {"_hub.py", "_hub_model.py", "_hub_families.py", "_hub_fronts.py"} <= {file.name for file in files}
    assert len(digests) == 1


@pytest.mark.slow
def test_the_pages_commands_run(bench, tmp_path, monkeypatch, own_cache_with_miniatures):
    monkeypatch.setenv("BENCH_CACHE", str(own_cache_with_miniatures))
    CASES["wavlm"].save(tmp_path / "my-checkpoint")
    commands = [shlex.split(line)[1:] for block in _blocks("sh") for line in block.splitlines()]
    assert len(commands) == 4
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "home")
        server.publish(
            "microsoft/wavlm-base", {each.name: each.read_bytes() for each in (tmp_path / "my-checkpoint").iterdir()}
        )
        for command in commands:
            done = bench(*command, *(("--limit", 4) if command[0] == "run" else ()))  # as it stands it takes a minute
            assert done.code == 0, done.err


def test_the_pages_masked_encoder_keeps_the_contract(bench, tmp_path):
    (block,) = _blocks("python")
    (tmp_path / "masked.py").write_text(block)
    done = bench("check", "masked.py:MASKED")
    assert done.code == 0, done.err
    (tmp_path / "masked.py").write_text(block.replace(":count]", ":]"))
    done = bench("check", "masked.py:MASKED")
    assert done.code == 2
    assert "depends on the padding after its valid samples" in done.err

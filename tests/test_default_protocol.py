"""A task names the protocol that a run takes where none is asked for."""

from dataclasses import replace

import pytest
from conftest import TOY_MODEL, TOY_TASK

from marble_bench.core import keys, plugins
from marble_bench.errors import UsageError
from marble_bench.runs.request import build_configs


@pytest.fixture
def linear_by_default(tmp_path):
    """The toy task in a file that declares another default."""
    text = (plugins.find_task(TOY_TASK).path).read_text().replace("    counts=", '    protocol="linear",\n    counts=')
    path = tmp_path / "linear_hums.py"
    path.write_text(text)
    return str(path)


def test_each_task_gets_its_own_protocol_with_its_seeds_unless_one_is_asked_for(linear_by_default):
    found = build_configs([TOY_MODEL], [TOY_TASK, linear_by_default], mini=True, device="cpu")
    assert [(each.probes.protocol.name, each.probes.seeds) for each in found] == [("marble", 3), ("linear", 1)]
    asked = build_configs([TOY_MODEL], [TOY_TASK, linear_by_default], protocol="jukemir", mini=True, device="cpu")
    assert {each.probes.protocol.name for each in asked} == {"jukemir"}


def test_plans_and_runs_take_the_tasks_own_protocol(bench, linear_by_default):
    ended = bench("run", "--model", TOY_MODEL, "--task", linear_by_default, "--mini", "--dry-run", "--json")
    assert ended.record["protocol"] == "linear"
    planned = bench("plan", "--model", TOY_MODEL, "--task", linear_by_default, "--task", TOY_TASK, "--mini")
    assert planned.code == 0, planned.err
    assert "of protocol linear, marble" in planned.out


def test_a_default_that_is_no_name_or_no_protocol_is_refused(tmp_path):
    task = plugins.find_task("gtzan").task
    with pytest.raises(UsageError, match="protocol 'no name' cannot be used in a record"):
        replace(task, protocol="no name")
    path = tmp_path / "strange_hums.py"
    path.write_text(
        plugins.find_task(TOY_TASK).path.read_text().replace("    counts=", '    protocol="marbel",\n    counts=')
    )
    with pytest.raises(UsageError, match="no protocol 'marbel'; did you mean 'marble'"):
        build_configs([TOY_MODEL], [str(path)], mini=True, device="cpu")


def test_a_default_moves_no_hash_of_a_task():
    named = plugins.find_task("gtzan")
    assert keys.hash_task(replace(named, task=replace(named.task, protocol="linear"))) == keys.hash_task(named)

"""What the pipeline asks of CUDA and when, with stand-ins for the calls, so that it is known before there is a GPU."""

import weakref

import numpy as np
import pytest
import torch
from marble_bench.probes import memory

from marble_bench.core.encoder import Encoder, Layer
from marble_bench.features.batches import Batch
from marble_bench.features.jobs import Cost, Kind, Settings
from marble_bench.features.runner import Runner

SMALL = Encoder(
    name="small", description="one layer", sample_rate_hz=10, layers=(Layer("0", 2, 1.0),),
    load=lambda path, device: None, license="MIT", citation="none", min_s=0.1,
)  # fmt: skip
KIND = Kind((0,), lambda x: x, lambda x, _: x, lambda _: 0, 1, 1)


@pytest.fixture
def calls(monkeypatch):
    """What was called, in order; memory as a GPU of 1000 bytes would tell it, 200 used by somebody's encoder."""
    messages, events = [], []

    class Event:
        def __init__(self, blocking):
            self.number = len(events)
            events.append(self)

        def record(self, stream):
            messages.append(f"record {self.number}")

        def synchronize(self):
            messages.append(f"wait {self.number}")

    fake = {
        "Event": Event, "current_stream": lambda device: None, "synchronize": lambda device: messages.append("all"),
        "reset_peak_memory_stats": lambda device: messages.append("reset"), "memory_allocated": lambda device: 200,
        "max_memory_allocated": lambda device: 300, "memory_reserved": lambda device: 260,
        "mem_get_info": lambda device: (740, 1000), "empty_cache": lambda: messages.append("empty"),
    }  # fmt: skip
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return messages


def _runner(calls, encode, batch_s=None):
    runner = Runner(SMALL, encode, KIND, Settings("cpu", batch_s=batch_s), Cost(), calls.append)
    runner.cuda, runner.fitted = True, batch_s is not None
    return runner


def _batch(windows):
    return Batch([np.full(20, 1.0, np.float32)] * windows, [(0, 0, row) for row in range(windows)], ["x"] * windows)


def test_a_batch_is_waited_for_by_its_own_event_after_the_next_was_launched(calls):
    def encode(waveforms, pool):
        calls.append("encode")
        return [waveforms[:, None, :2]]

    made = list(_runner(calls, encode, 60.0).encode_batches([_batch(1), _batch(2), _batch(3)]))
    assert [len(one.layers[0]) for one in made] == [1, 2, 3]
    assert calls == ["encode", "record 0", "encode", "record 1", "wait 0", "encode", "record 2", "wait 1", "wait 2"]


def test_the_batch_is_fitted_by_what_the_first_one_took_and_not_by_what_ran_before(calls):
    runner = _runner(calls, lambda waveforms, pool: [waveforms[:, None, :2]])
    runner.launch(_batch(10))  # 20 s took 100 bytes; 740 + 260 - 200 are to be had, of which 0.6 are taken
    assert runner.batch_s == pytest.approx(0.6 * 800 / 100 * 20)
    assert calls[0] == "reset"


def test_memory_that_ran_out_is_free_again_before_the_cache_is_emptied(calls, monkeypatch):
    seen = []

    def encode(waveforms, pool):
        if len(waveforms) > 1:
            held = torch.zeros(3)
            seen.append(weakref.ref(held))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [waveforms[:, None, :2]]

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(("empty", [ref() is None for ref in seen])))
    _runner(calls, encode, 60.0).launch(_batch(2))
    assert ("empty", [True]) in calls


def test_free_memory_counts_what_torch_holds_unused(calls):
    assert memory.free_bytes("cuda") == 740 + 60

"""Queues in another order: the structure, and what it does to a simulation."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import colocated, disaggregated, poisson_traffic, traffic
from hypothesis import given
from hypothesis import strategies as st
from oracle import SteppingSimulation
from test_oracle import BATCHINGS, assert_same

from simulator.cluster.audit import audit
from simulator.cluster.simulation import RunOptions, Simulation, Traffic, run
from simulator.cluster.workers.lines import OrderedLine
from simulator.deployment import Batching, Deployment
from simulator.errors import ConfigError
from simulator.policies.classes import Classes, ServiceClass
from simulator.policies.queueing import Edf, Fcfs, Key, Priority, Queued, QueueOrder, Sjf, Wspt

ORDERS = {
    "sjf": Sjf(),
    "wspt": Wspt(),
    "edf": Edf(),
    "strict": Priority(),
    "aged": Priority(aging_s=1.0),
}
KINDS = (ServiceClass(ttft_s=0.5), ServiceClass(priority=2, jump=1.0, ttft_s=0.1))
acts = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["front", "first", "leave", "look", "clear"]), st.integers(0, 9)),
    ),
    max_size=40,
)


@given(acts=acts)
def test_a_line_is_a_list_kept_sorted(acts: list[tuple[str, int]]) -> None:
    """Whatever joins, leaves and is put first, it answers as a list that is sorted anew."""
    keys: dict[int, Key] = {}
    line = OrderedLine(lambda request: keys[request])
    front: list[int] = []
    rest: list[int] = []
    for name, (act, number) in enumerate(acts):
        whole = front + rest
        if act in ("join", "front"):
            keys[name] = (number,)
            (line.append if act == "join" else line.appendleft)(name)
            if act == "join":
                rest = sorted([*rest, name], key=lambda each: (*keys[each], each))
            else:
                front.insert(0, name)
        elif act == "clear" and number == 0:
            line.clear()
            front, rest = [], []
        elif whole and act == "first":
            assert line.popleft() == whole[0]
            (front or rest).pop(0)
        elif whole and act == "leave":
            gone = whole[number % len(whole)]
            line.remove(gone)
            (front if gone in front else rest).remove(gone)
        assert list(line) == front + rest
        assert len(line) == len(front + rest)
        for at, each in enumerate(front + rest):
            assert line[at] == each
            assert each in line
        assert name + 1 not in line


def crowd() -> Traffic:
    """Return more prompts than are computed as they come, of two classes."""
    load = poisson_traffic(300, 60, 120, 40)
    return replace(load, classes=Classes(kinds=KINDS, of=bytes([0, 0, 1] * 100)))


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS.keys())
@pytest.mark.parametrize("build", [disaggregated, colocated])
@pytest.mark.parametrize("order", [Sjf(), Priority(aging_s=1.0)], ids=["sjf", "aged"])
def test_leaping_equals_stepping(build: Any, batching: Batching, order: QueueOrder) -> None:
    """Under memory pressure and preemption, whoever comes first now."""
    deployment: Deployment = replace(build(2, batching=batching), queue=order)
    options = RunOptions(sample_interval_s=0.37)
    stepping = SteppingSimulation(deployment, crowd(), options).run()
    assert_same(Simulation(deployment, crowd(), options).run(), stepping)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_laws_hold_at_every_event(order: QueueOrder) -> None:
    """Conservation, causality and KV accounts do not depend on whose turn it is."""
    deployment = replace(colocated(2, batching=BATCHINGS["tight"]), queue=order)
    simulation = Simulation(deployment, crowd(), RunOptions())
    while not simulation.endings.all_over.processed:
        simulation.step()
        audit(simulation, simulation.record(sample=False))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Fcfs(), [0, 1, 2, 3]),
        (Sjf(), [3, 1, 2, 0]),
        (Edf(), [1, 3, 0, 2]),
        (Priority(), [1, 3, 0, 2]),
        (Priority(aging_s=0.0008), [1, 0, 3, 2]),  # 1.25, 2.5 − 2, 3.75, 5 − 2
        (Wspt(), [3, 1, 2, 0]),
    ],
)
def test_prompts_begin_in_their_order(order: QueueOrder, expected: list[int]) -> None:
    """Four prompts wait behind one; each fills a step."""
    batching = Batching(max_num_batched_tokens=64, max_num_seqs=4, chunked_prefill=False)
    deployment = replace(disaggregated(1, 1, batching=batching), queue=order)
    load = traffic([0.0, 0.001, 0.002, 0.003, 0.004], [64, 64, 62, 63, 61], [2] * 5)
    load = replace(load, classes=Classes(kinds=KINDS, of=bytes([0, 0, 1, 0, 1])))
    record = run(deployment, load, RunOptions())
    began = record.requests["prefill_start_s"][1:]
    assert np.argsort(began).tolist() == expected


def test_a_prompt_that_comes_first_wakes_a_worker_that_leaps() -> None:
    """The first in line waits for memory; a short one that goes before it fits at once."""
    batching = Batching(kv_blocks=100, max_num_batched_tokens=2048, max_num_seqs=8)
    load = traffic([0.0, 0.5, 1.0], [900, 1200, 16], [400, 2, 2])
    for order, overtakes in ((Fcfs(), False), (Sjf(), True)):
        deployment = replace(colocated(1, batching=batching), queue=order)
        record = run(deployment, load, RunOptions())
        assert bool(record.requests["prefill_start_s"][2] < 1.1) == overtakes


def test_a_key_that_orders_nothing_is_refused() -> None:
    """A policy of one's own is told what a key is."""

    class Odd:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def key(self, prompt: Queued) -> Any:  # noqa: ARG002
            return self.answer

    for answer in (None, 3.0, (math.nan,), ("a",)):
        deployment = replace(disaggregated(1, 1), queue=Odd(answer))
        with pytest.raises(ConfigError, match="queue Odd: key must be a tuple of numbers but got"):
            run(deployment, traffic([0.0], [5], [5]), RunOptions())


def test_a_deadline_needs_a_target() -> None:
    """One sentence names the key."""
    deployment = replace(disaggregated(1, 1), queue=Edf())
    with pytest.raises(ConfigError, match=r"queue Edf: needs ttft_s .* set slo.ttft_s"):
        run(deployment, traffic([0.0], [5], [5]), RunOptions())

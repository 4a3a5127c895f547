"""Engines' rules of dividing memory: what each leaves for KV, by hand and beside their logs."""

import dataclasses
from typing import Any

import pytest

from hardware.gpu import GPU
from simulator.cli import compose
from simulator.cluster.pools.wiring import worker_spec
from simulator.errors import CapacityError, ConfigError
from simulator.latency.engine import known, load
from simulator.layout import Layout, Memory, MemoryBudget, Precision, plan_memory, weights_bytes
from simulator.memory import GIB, MemoryRule
from simulator.model import Model
from simulator.validation import capacities, capacity
from simulator.validation.names import Catalogue
from tests.shipped import shipped

BARE: dict[str, Any] = {"context_bytes": 0.0, "communicator_bytes": 0.0, "logit_bytes": 0.0}
H100: GPU = shipped("hardware", "h100_sxm")
LLAMA: Model = shipped("model", "llama_3_1_8b")
GPT_OSS: Model = shipped("model", "gpt_oss_120b")


def plan(rule: MemoryRule, share: float = 0.9, tp: int = 1, **more: Any) -> Memory:
    """Plan a Llama-3.1-8B on H100s by a rule."""
    budget = MemoryBudget(block_size=1, memory_utilization=share, rule=rule, **more)
    return plan_memory(LLAMA, Layout(tp=tp), Precision(), H100, budget)


def tokens(room: float) -> int:
    """Return the tokens whose KV a number of bytes holds."""
    return int(room // LLAMA.kv_bytes_per_token(2.0))


# --- by hand --------------------------------------------------------------------------------


def test_what_each_share_is_of() -> None:
    """The same numbers, divided by hand: a share of all, of what is free, of what is left."""
    weights, held, hidden = weights_bytes(LLAMA, Precision()), 2.0 * GIB, 1.0 * GIB
    offered = H100.memory_bytes - hidden
    rules = {
        name: MemoryRule(share_of=name, hidden_bytes=hidden, **BARE | {"context_bytes": held})
        for name in ("total", "unloaded", "loaded")
    }
    step = plan(rules["total"]).reserve_bytes_per_gpu - held
    assert plan(rules["total"]).kv_blocks == tokens(0.9 * offered - weights - held - step)
    assert plan(rules["unloaded"]).kv_blocks == tokens(0.9 * (offered - held) - weights)
    assert plan(rules["loaded"]).kv_blocks == tokens(0.9 * (offered - held - weights - step))


def test_communicators_are_held_by_workers_of_several_gpus() -> None:
    """One GPU has nobody to talk to."""
    rule = MemoryRule(**BARE | {"communicator_bytes": 3.0 * GIB})
    bare = MemoryRule(**BARE)
    one, two = (plan(rule, tp=tp).reserve_bytes_per_gpu for tp in (1, 2))
    assert one == plan(bare).reserve_bytes_per_gpu
    assert two - plan(bare, tp=2).reserve_bytes_per_gpu == pytest.approx(3.0 * GIB)


def test_sampling_after_a_step_or_with_it() -> None:
    """Logits add to a step's activations, or only count where they are the larger."""
    logits = 1024 * LLAMA.vocab * 40.0
    bare = plan(MemoryRule(**BARE), max_num_seqs=1024).reserve_bytes_per_gpu
    for after, expected in ((False, bare + logits), (True, max(bare, logits))):
        rule = MemoryRule(**BARE | {"logit_bytes": 40.0}, sampling_after_step=after)
        assert plan(rule, max_num_seqs=1024).reserve_bytes_per_gpu == pytest.approx(expected)


def test_mxfp4_experts_are_padded() -> None:
    """gpt-oss' experts of 2,880 × 1,440 on two GPUs become 3,072 × 1,536; all others stay."""
    rule = MemoryRule(mxfp4_hidden=256, mxfp4_width=128)
    stored = Precision(weights="mxfp4", attention="bf16")

    def weights(model: Model, precision: Precision, rule: MemoryRule) -> float:
        budget = MemoryBudget(rule=rule)
        return plan_memory(model, Layout(tp=2), precision, H100, budget).weights_bytes_per_gpu

    experts = 36 * 128 * GPT_OSS.expert_params / 2 * stored.weight_bytes
    factor = 3072 * 1536 / (2880 * 1440) - 1
    added = weights(GPT_OSS, stored, rule) - weights(GPT_OSS, stored, MemoryRule())
    assert added == pytest.approx(experts * factor)
    for model, precision in ((GPT_OSS, Precision(weights="int4")), (LLAMA, stored)):
        assert weights(model, precision, rule) == weights(model, precision, MemoryRule())


@pytest.mark.parametrize("name", ["total", "unloaded", "loaded"])
def test_more_share_is_never_less_kv(name: str) -> None:
    """Whatever it is a share of, more of it is more KV, until weights no longer fit."""
    rule = MemoryRule(share_of=name)
    rooms = [plan(rule, share).kv_blocks for share in (0.4, 0.6, 0.8, 1.0)]
    assert rooms == sorted(set(rooms))


def test_too_small_a_share_says_what_it_is_of() -> None:
    """The refusal names the rule's share in its own words."""
    big = shipped("model", "llama_3_1_70b")
    for name, words in (
        ("total", "memory_utilization 0.9 of 85.5 GB leaves 77.0 GB"),
        ("unloaded", "KV gets memory_utilization 0.9 of what is free before loading of 85.5 GB"),
        ("loaded", "KV gets memory_utilization 0.9 of what they leave of 85.5 GB"),
    ):
        budget = MemoryBudget(rule=MemoryRule(share_of=name))
        with pytest.raises(CapacityError, match=words):
            plan_memory(big, Layout(), Precision(), H100, budget)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share_of": "half"}, "memory: share_of must be one of total, unloaded, loaded but got"),
        ({"context_bytes": -1.0}, "memory: context_bytes must be at least 0 bytes but got -1.0"),
        ({"logit_bytes": float("nan")}, "memory: logit_bytes must be at least 0 bytes but got nan"),
        ({"mxfp4_width": 0}, "memory: mxfp4_width must be a whole number ≥ 1 but got 0"),
    ],
)
def test_impossible_rule_is_refused(changes: dict[str, Any], words: str) -> None:
    """A rule that cannot be names the number and what was expected."""
    with pytest.raises(ConfigError, match=words):
        MemoryRule(**changes)


# --- engines --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(known()) - {"generic"}))
def test_an_engine_s_memory_has_its_source(name: str) -> None:
    """Every rule but the generic one says where it is from."""
    assert load(name).memory.source


def test_a_profile_like_another_differs_in_what_it_says() -> None:
    """VLLM before 0.16 is its successor but for what sampling takes."""
    old, new = load("vllm_0_10"), load("vllm")
    for each in dataclasses.fields(new):
        if each.name not in ("name", "versions", "source", "memory"):
            assert getattr(old, each.name) == getattr(new, each.name), each.name
    assert dataclasses.replace(old.memory, logit_bytes=12, source="") == dataclasses.replace(
        new.memory, source=""
    )
    assert load("vllm_0_6").memory == old.memory


@pytest.mark.parametrize("name", known())
def test_a_worker_s_memory_is_its_engine_s(name: str) -> None:
    """``latency.engine`` decides how a simulated worker's memory is divided."""
    deployment = compose([f"latency.engine={name}", "model=llama_3_1_8b"]).deployment
    (pool, *_) = deployment.pools
    spec = worker_spec(deployment, pool)
    budget = MemoryBudget(role=pool.role, rule=load(name).memory)
    expected = plan_memory(deployment.model, pool.layout, pool.precision, deployment.gpu, budget)
    assert spec.memory == expected


# --- beside logs ----------------------------------------------------------------------------


def test_capacity_beside_logs_is_met_or_explained() -> None:
    """Every log is met within 5 %, or its row says why not."""
    rows = capacity.compared(Catalogue.shipped())
    assert len(rows) == len(capacity.LOGS)
    for row in rows:
        assert row.held or row.log.why, row
    assert sum(row.held for row in rows) >= len(rows) - 1


def test_the_report_s_part_is_the_one_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/validation.md holds what the script prints today."""
    assert capacities.main([]) == 0
    printed = capsys.readouterr().out
    assert printed in capacities.REPORT.read_text(encoding="utf-8")


def test_renewing_a_report_keeps_the_rest() -> None:
    """The part is put before the last, then replaced in its place."""
    report = "# A\n\n## B\n\nb\n\n## Z\n\nz\n"
    first = capacities.renewed(report, f"{capacity.TITLE}\n\none")
    again = capacities.renewed(first, f"{capacity.TITLE}\n\ntwo")
    assert first == f"# A\n\n## B\n\nb\n\n{capacity.TITLE}\n\none\n\n## Z\n\nz\n"
    assert again == first.replace("one", "two")

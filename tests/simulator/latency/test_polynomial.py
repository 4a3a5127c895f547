"""The polynomial reproduces Dynamo's mocker formula."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.latency.base import WorkerSpec
from simulator.latency.pieces import at
from simulator.latency.polynomial import Polynomial, PolynomialSteps

CAPACITY = 160_000  # tokens of the test workers' KV
BLOCK = 16


@pytest.fixture(scope="module")
def steps(workers: dict[str, WorkerSpec]) -> PolynomialSteps:
    """Dynamo's step times for a worker of 160,000 KV tokens."""
    return Polynomial().bind(workers["dense"])


def decode_ms(context: float, sequences: int) -> float:
    """Dynamo's decode formula as it is documented, with half-filled last blocks."""
    u = min(1.0, (context + sequences * (BLOCK - 1) / 2) / CAPACITY)
    return max(1.0, -25.74 * u**2 + 54.01 * u + 5.74)


def prefill_ms(tokens: float) -> float:
    """Dynamo's prefill formula as it is documented."""
    return 4.209989e-7 * tokens**2 + 1.518344e-2 * tokens + 16.50142


@given(tokens=st.integers(1, 200_000), past=st.integers(0, 10_000))
def test_prefill_formula(workers: dict[str, WorkerSpec], tokens: int, past: int) -> None:
    """A prefill worker's step is the documented parabola of a prompt's new tokens."""
    steps = Polynomial().bind(replace(workers["dense"], role="prefill"))
    expected = prefill_ms(tokens) * 1e-3
    assert steps.step_seconds(tokens, 5, past, 1, 0, 0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("chunks", "counted"), [([5902, 2290], 8192), ([4096, 4095], 8190), ([1, 2, 3, 4], 8)]
)
def test_several_prompts_count_as_often_as_their_mean(
    workers: dict[str, WorkerSpec], chunks: list[int], counted: int
) -> None:
    """The mean is rounded down, as Dynamo's replay does."""
    steps = Polynomial().bind(replace(workers["dense"], role="prefill"))
    seconds = steps.step_seconds(sum(chunks), 0, 0, len(chunks), 0, 0)
    assert seconds == pytest.approx(prefill_ms(counted) * 1e-3, rel=1e-12)


def test_rounded_means_may_count_a_token_more(workers: dict[str, WorkerSpec]) -> None:
    """⌊(8192 + 8192)/3⌋ − ⌊8192/3⌋ = 2731 tokens of 3 prompts, one of which was begun before."""
    steps = Polynomial().bind(replace(workers["dense"], role="prefill"))
    seconds = steps.step_seconds(8192, 0, 8192, 3, 0, 0)
    assert seconds == pytest.approx(prefill_ms(8193) * 1e-3, rel=1e-12)


@given(context=st.integers(0, 3 * CAPACITY), batch=st.integers(1, 30_000))
def test_decode_formula(steps: PolynomialSteps, context: int, batch: int) -> None:
    """Decode is the documented parabola of KV in use, held beyond the capacity."""
    seconds = steps.step_seconds(0, 0, 0, 0, batch, context)
    assert seconds == at(steps.decode_pieces(batch), context)
    assert seconds == pytest.approx(decode_ms(context, batch) * 1e-3, rel=1e-9)


@given(tokens=st.integers(1, 8192), past=st.integers(0, 9000), context=st.integers(1, CAPACITY))
def test_mixed_is_the_sum(steps: PolynomialSteps, tokens: int, past: int, context: int) -> None:
    """A step that does both takes both times, all KV there counted."""
    seconds = steps.step_seconds(tokens, 0, past, 1, 8, context)
    expected = prefill_ms(tokens) + decode_ms(context + past + tokens, 9)
    assert seconds == pytest.approx(expected * 1e-3, rel=1e-9)


def test_the_end_of_a_prompt_costs_a_decode(workers: dict[str, WorkerSpec]) -> None:
    """With its first token where a co-located step has room left; without, where it is cut."""
    steps = Polynomial().bind(replace(workers["dense"], role="mixed", step_tokens=1000))
    ended = prefill_ms(999) + decode_ms(999, 1)
    assert steps.step_seconds(999, 0, 0, 1, 0, 0) == pytest.approx(ended * 1e-3, rel=1e-12)
    cut = prefill_ms(1000)
    assert steps.step_seconds(1000, 0, 0, 1, 0, 0) == pytest.approx(cut * 1e-3, rel=1e-12)


def test_speedups_divide(workers: dict[str, WorkerSpec], steps: PolynomialSteps) -> None:
    """speedup_ratio divides both phases, decode_speedup_ratio decode once more."""
    fast = Polynomial(speedup_ratio=2.0, decode_speedup_ratio=5.0).bind(workers["dense"])
    decode = (0, 0, 0, 0, 4, 50_000)
    assert fast.step_seconds(*decode) * 10.0 == pytest.approx(steps.step_seconds(*decode))
    alone = replace(workers["dense"], role="prefill")
    args = (1000, 0, 0, 1, 0, 0)
    slow = Polynomial().bind(alone).step_seconds(*args)
    assert Polynomial(speedup_ratio=2.0).bind(alone).step_seconds(*args) * 2.0 == slow


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["speedup_ratio", "decode_speedup_ratio"])
def test_bad_ratio(name: str, value: float) -> None:
    """A ratio that is not a positive number is named."""
    with pytest.raises(ConfigError, match=name):
        Polynomial(**{name: value})


def test_no_capacity(workers: dict[str, WorkerSpec]) -> None:
    """A worker without KV blocks has no share of them in use."""
    worker = workers["dense"]
    with pytest.raises(ConfigError, match="capacity"):
        Polynomial().bind(replace(worker, memory=replace(worker.memory, kv_blocks=0)))

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


@pytest.fixture(scope="module")
def steps(workers: dict[str, WorkerSpec]) -> PolynomialSteps:
    """Dynamo's step times for a worker of 160,000 KV tokens."""
    return Polynomial().bind(workers["dense"])


def decode_ms(context: float) -> float:
    """Dynamo's decode formula as it is documented."""
    u = min(1.0, context / CAPACITY)
    return max(1.0, -25.74 * u**2 + 54.01 * u + 5.74)


@given(tokens=st.integers(1, 200_000))
def test_prefill_formula(steps: PolynomialSteps, tokens: int) -> None:
    """Prefill is the documented parabola of new tokens, whatever else the chunks are."""
    expected = 4.209989e-7 * tokens**2 + 1.518344e-2 * tokens + 16.50142
    assert steps.step_seconds(tokens, 5, 7, 3, 0, 0) == pytest.approx(expected * 1e-3, rel=1e-12)


@given(context=st.integers(0, 3 * CAPACITY), batch=st.integers(1, 512))
def test_decode_formula(steps: PolynomialSteps, context: int, batch: int) -> None:
    """Decode is the documented parabola of KV in use, held beyond the capacity."""
    seconds = steps.step_seconds(0, 0, 0, 0, batch, context)
    assert seconds == at(steps.decode_pieces(batch), context)
    assert seconds == pytest.approx(decode_ms(context) * 1e-3, rel=1e-12)


@given(tokens=st.integers(1, 20_000), context=st.integers(1, CAPACITY))
def test_mixed_is_the_sum(steps: PolynomialSteps, tokens: int, context: int) -> None:
    """A step that does both takes both times."""
    mixed = steps.step_seconds(tokens, 0, 0, 1, 8, context)
    parts = steps.step_seconds(tokens, 0, 0, 1, 0, 0) + steps.step_seconds(0, 0, 0, 0, 8, context)
    assert mixed == parts


def test_speedups_divide(workers: dict[str, WorkerSpec], steps: PolynomialSteps) -> None:
    """speedup_ratio divides both phases, decode_speedup_ratio decode once more."""
    fast = Polynomial(speedup_ratio=2.0, decode_speedup_ratio=5.0).bind(workers["dense"])
    for args, ratio in (((1000, 0, 0, 1, 0, 0), 2.0), ((0, 0, 0, 0, 4, 50_000), 10.0)):
        assert fast.step_seconds(*args) * ratio == pytest.approx(steps.step_seconds(*args))


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

"""A factor on every step's seconds: the same in both engines, and nothing at 1."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.latency.base import LatencyModel, WorkerSpec
from simulator.latency.passes import Load
from simulator.latency.pieces import at
from simulator.latency.polynomial import Polynomial
from simulator.latency.roofline import Roofline
from simulator.latency.scaling import ScaledSteps
from simulator.latency.silicon import Silicon
from simulator.latency.speculative import Speculative
from simulator.latency.table import Table

FACTORS = (0.85, 1.15, 3.0)
STEPS = [(512, 131_328, 0, 1, 0, 0), (300, 45_150, 600, 2, 17, 40_000), (1, 5_001, 5_000, 1, 2, 9)]
"""Steps with prompts, alone and beside decodes, as a step model is asked for them."""
VLLM = {"engine": "vllm"}
DRAFTS = {"speculative": Speculative(draft_tokens=2)}
ROOFLINES: Mapping[str, dict[str, object]] = {"plain": {}, "vllm": VLLM, "drafts": DRAFTS}


@pytest.fixture
def table(tmp_path: Path) -> dict[str, str]:
    """Two small measured tables."""
    decode, prefill = tmp_path / "decode.csv", tmp_path / "prefill.csv"
    decode.write_text("batch,context,seconds\n1,10,0.01\n1,1000,0.02\n8,10,0.02\n8,1000,0.05\n")
    prefill.write_text("tokens,seconds\n16,0.01\n4096,0.3\n")
    return {"decode_path": str(decode), "prefill_path": str(prefill)}


def models(table: dict[str, str], scale: float) -> list[LatencyModel]:
    """Return every model that needs no package of others, with this scale."""
    rooflines = [Roofline(**settings, scale=scale) for settings in ROOFLINES.values()]  # type: ignore[arg-type]
    return [*rooflines, Polynomial(scale=scale), Table(**table, scale=scale)]


@pytest.mark.parametrize("factor", FACTORS)
def test_every_step_takes_the_factor_longer(
    workers: dict[str, WorkerSpec], table: dict[str, str], factor: float
) -> None:
    """Prefill, decode and mixed steps are the factor times those of scale 1, whatever the model."""
    for plain, longer in zip(models(table, 1.0), models(table, factor), strict=True):
        before, after = plain.bind(workers["dense"]), longer.bind(workers["dense"])
        assert after.stages == before.stages
        for step in STEPS:
            assert after.step_seconds(*step) == factor * before.step_seconds(*step)
        for batch, context in ((1, 100), (7, 30_000), (200, 400_000)):
            seconds = after.step_seconds(0, 0, 0, 0, batch, context)
            assert seconds == at(after.decode_pieces(batch), context)
            expected = factor * before.step_seconds(0, 0, 0, 0, batch, context)
            assert seconds == pytest.approx(expected, rel=1e-14)


def test_a_factor_of_one_is_nothing(workers: dict[str, WorkerSpec], table: dict[str, str]) -> None:
    """At 1 the steps are those of before, not even wrapped."""
    for model in models(table, 1.0):
        assert not isinstance(model.bind(workers["dense"]), ScaledSteps)


@pytest.mark.parametrize("settings", ROOFLINES.values(), ids=ROOFLINES.keys())
def test_both_engines_take_the_same_factor(
    workers: dict[str, WorkerSpec], settings: dict[str, object]
) -> None:
    """What explore costs as arrays grows by the factor that the event engine's steps grow by."""
    loads = Load(
        tokens=np.array([0.0, 512.0, 300.0]),
        pairs=np.array([0.0, 131_328.0, 225_150.0]),
        past=np.array([0.0, 0.0, 600.0]),
        prompts=np.array([0.0, 1.0, 2.0]),
        batch=np.array([9.0, 0.0, 17.0]),
        context=np.array([9_000.0, 0.0, 40_000.0]),
    )
    plain, longer = Roofline(**settings), Roofline(**settings, scale=1.15)  # type: ignore[arg-type]
    arrays = [np.asarray(each.pass_seconds(workers["dense"], loads)) for each in (plain, longer)]
    np.testing.assert_array_equal(arrays[1], 1.15 * arrays[0])
    steps = longer.bind(workers["dense"])
    scalar = [steps.step_seconds(*map(int, row)) for row in np.column_stack(list(loads)[:6])]
    np.testing.assert_allclose(scalar, arrays[1], rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_none(table: dict[str, str], value: float) -> None:
    """A factor of 0, below it, infinite or not a number is refused with its name and value."""
    for make in (Roofline, Polynomial, Silicon, lambda **given: Table(**table, **given)):
        with pytest.raises(ConfigError, match=f"scale must be above 0 and finite but got {value}"):
            make(scale=value)

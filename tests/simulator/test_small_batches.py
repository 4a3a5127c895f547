"""FP8 at few sequences: public steps beside ours."""

import pytest

from simulator.validation import small_batches
from simulator.validation.names import Catalogue
from simulator.validation.small_batches import FIGURES, step_ms


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Everything the package ships."""
    return Catalogue.shipped()


@pytest.mark.parametrize("figure", [each for each in FIGURES if each.engine == "trtllm"])
def test_steps_of_few_sequences_are_near_public_ones(
    figure: small_batches.Figure, catalogue: Catalogue
) -> None:
    """No longer two thirds above them, as with products that find their scales first."""
    ours = step_ms(figure, figure.engine, catalogue)
    assert ours / figure.tpot_ms == pytest.approx(1.0, abs=0.2)
    assert ours < step_ms(figure, figure.engine, catalogue, "bf16")


def test_the_section_has_a_line_for_each_figure(catalogue: Catalogue) -> None:
    """Public and ours stand side by side, with their sources."""
    text = small_batches.section(catalogue)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(FIGURES)
    for line, figure in zip(lines[2:], FIGURES, strict=True):
        assert f"| {figure.tpot_ms:.2f} ms |" in line
        assert line.endswith(f"| {figure.source} |")

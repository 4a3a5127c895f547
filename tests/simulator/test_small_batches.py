"""FP8 at few sequences: public steps beside ours, and which kernels are nearer."""

import pytest

from simulator.validation import small_batches
from simulator.validation.names import Catalogue
from simulator.validation.small_batches import FIGURES, step_ms


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Everything the package ships."""
    return Catalogue.shipped()


@pytest.mark.parametrize("figure", FIGURES)
def test_generic_kernels_are_nearer_at_small_batches(
    figure: small_batches.Figure, catalogue: Catalogue
) -> None:
    """That is what the page sends readers to."""
    generic = step_ms(figure, "generic", catalogue)
    own = step_ms(figure, figure.engine, catalogue)
    assert abs(generic / figure.tpot_ms - 1.0) < abs(own / figure.tpot_ms - 1.0)


def test_the_section_has_a_line_for_each_figure(catalogue: Catalogue) -> None:
    """Public and ours stand side by side, with their sources."""
    text = small_batches.section(catalogue)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(FIGURES)
    for line, figure in zip(lines[2:], FIGURES, strict=True):
        assert f"| {figure.tpot_ms:.2f} ms |" in line
        assert line.endswith(f"| {figure.source} |")

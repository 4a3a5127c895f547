"""What goes wrong in a hardware specification."""

import math


class SpecError(ValueError):
    """A GPU, link or fabric was described with a value that cannot be."""


def check_number(
    owner: str,
    field: str,
    value: object,
    unit: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
) -> None:
    """Raise ``SpecError`` unless ``value`` is a finite number ≥ ``least`` and > ``above``."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and value >= least and value > above:  # type: ignore[operator]
        return
    bound = f" > {above:g}" if above > -math.inf else f" ≥ {least:g}"
    raise SpecError(f"{owner}: {field} must be a finite number{bound} {unit} but got {value!r}")

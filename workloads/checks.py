"""One-line checks of settings: each names the owner, the field, the value and what was expected."""

import math
from collections.abc import Sequence

from workloads.errors import TraceError


def number(owner: str, name: str, value: object) -> float:
    """Return ``value`` as a float; raise ``TraceError`` unless it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TraceError(f"{owner}: {name} must be a finite number but got {value!r}")
    return float(value)


def positive(owner: str, name: str, value: object, unit: str = "") -> float:
    """Return ``value``; raise ``TraceError`` unless it is above zero."""
    checked = number(owner, name, value)
    if checked <= 0:
        raise TraceError(f"{owner}: {name} must be above 0{_spaced(unit)} but got {value!r}")
    return checked


def at_least(owner: str, name: str, value: object, least: float, unit: str = "") -> float:
    """Return ``value``; raise ``TraceError`` if it lies below ``least``."""
    checked = number(owner, name, value)
    if checked < least:
        raise TraceError(
            f"{owner}: {name} must be at least {least:g}{_spaced(unit)} but got {value!r}"
        )
    return checked


def whole(owner: str, name: str, value: object, least: int) -> int:
    """Return ``value``; raise ``TraceError`` unless it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TraceError(
            f"{owner}: {name} must be a whole number of at least {least} but got {value!r}"
        )
    return value


def one_of(owner: str, name: str, value: object, known: Sequence[str]) -> None:
    """Raise ``TraceError`` unless ``value`` is among ``known``."""
    if value not in known:
        raise TraceError(f"{owner}: {name} must be one of {', '.join(known)} but got {value!r}")


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""

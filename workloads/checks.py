"""One-line checks of settings: each names the owner, the field, the value and what was expected."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def pair(owner: str, name: str, values: Any) -> tuple[Any, Any]:
    """Return what a method ``name`` of anybody's gave as two; raise ``TraceError`` if it is not."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise TraceError(f"{owner}: {name} must return two arrays but got {values!r}")
    return values[0], values[1]


def numbers(
    owner: str, name: str, values: Any, *, count: int | None = None, kinds: str = "iuf"
) -> NDArray[Any]:
    """Return what anybody's class drew as a plain array of shape (count,).

    ``kinds`` are numpy's of the numbers allowed, those of whole ones being ``iu``.

    Raises:
        TraceError: it is no row of such numbers, finite ones, or one of another length.
    """
    drawn = np.asarray(values)
    sound = drawn.ndim == 1 and drawn.dtype.kind in kinds and bool(np.isfinite(drawn).all())
    if not sound or (count is not None and drawn.size != count):
        size = "" if count is None else f"{count} "
        what = "finite" if "f" in kinds else "whole"
        raise TraceError(
            f"{owner}: {name} must be an array of {size}{what} numbers but got "
            f"{drawn.dtype} of shape {drawn.shape}"
        )
    return drawn


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""

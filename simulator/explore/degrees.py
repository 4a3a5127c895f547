"""Limits of a layout's degrees: which values to look at, and between which bounds."""

from dataclasses import dataclass

from simulator.errors import ConfigError
from simulator.layout import Layout

NAMES = ("tp", "pp", "ep", "attention_dp", "expert_tp")
"""The degrees that can be limited; ``expert_tp`` are the GPUs that share each expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """The degrees to look at: the values listed, at least ``min_…``, at most ``max_…``.

    ``None`` limits nothing. A value listed is looked at whether or not it divides the scale-up
    domain.

    Raises:
        ConfigError: a limit is no whole number ≥ 1, a list is empty, or nothing lies between two.
    """

    tp: tuple[int, ...] | None = None
    min_tp: int | None = None
    max_tp: int | None = None
    pp: tuple[int, ...] | None = None
    min_pp: int | None = None
    max_pp: int | None = None
    ep: tuple[int, ...] | None = None
    min_ep: int | None = None
    max_ep: int | None = None
    attention_dp: tuple[int, ...] | None = None
    min_attention_dp: int | None = None
    max_attention_dp: int | None = None
    expert_tp: tuple[int, ...] | None = None
    min_expert_tp: int | None = None
    max_expert_tp: int | None = None

    def __post_init__(self) -> None:
        self.check_degrees()

    def check_degrees(self) -> None:
        """Refuse limits that are none, or that contradict each other."""
        for name in NAMES:
            listed, low, high = self.listed(name), *self._bounds(name)
            if listed is not None and not listed:
                raise ConfigError(f"explore: {name} must list at least one degree but got none")
            given = {name: listed or (), f"min_{name}": (low,), f"max_{name}": (high,)}
            for key, values in given.items():
                _check_whole(key, values)
            if low is not None and high is not None and low > high:
                raise ConfigError(f"explore: min_{name} {low} must be at most max_{name} {high}")

    def listed(self, name: str) -> tuple[int, ...] | None:
        """Return the values listed for a degree, each once, if any are."""
        values: tuple[int, ...] | None = getattr(self, name)
        return None if values is None else tuple(dict.fromkeys(values))

    def allow(self, layout: Layout) -> bool:
        """Tell whether every degree of a layout is within its limits."""
        return all(self.allows(name, getattr(layout, name)) for name in NAMES)

    def allows(self, name: str, value: int) -> bool:
        """Tell whether a degree may have this value."""
        listed, (low, high) = self.listed(name), self._bounds(name)
        return (
            (listed is None or value in listed)
            and (low is None or value >= low)
            and (high is None or value <= high)
        )

    def __str__(self) -> str:
        """Return the limits in words, an empty text where there are none."""
        words = []
        for name in NAMES:
            listed, (low, high) = self.listed(name), self._bounds(name)
            words += [] if listed is None else [f"{name} in {list(listed)}"]
            words += [] if low is None else [f"{name} ≥ {low}"]
            words += [] if high is None else [f"{name} ≤ {high}"]
        return ", ".join(words)

    def _bounds(self, name: str) -> tuple[int | None, int | None]:
        return getattr(self, f"min_{name}"), getattr(self, f"max_{name}")


def _check_whole(name: str, values: tuple[int | None, ...]) -> None:
    for value in values:
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"explore: {name} must be whole numbers ≥ 1 but got {value!r}")

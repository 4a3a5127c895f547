"""What to look for, how exactly and how surely."""

import math
from dataclasses import dataclass

from simulator.errors import ConfigError

FINDS = ("rate", "gpus")
RATIOS = ("keep", "free")
COSTS = ("gpus", "usd")
MOST_SEEDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to look for the goodput of a deployment.

    ``find`` is ``rate``, the highest one at which the share ``attainment`` of the requests holds
    the targets, or ``gpus``, the fewest that do so at ``rate`` requests/s (``None``: the
    workload's own), on at most ``max_gpus``. With ``ratio`` ``keep`` the pools stand in the
    deployment's own ratio; ``free`` also looks at every other that is cheaper: needs fewer GPUs,
    or with ``by`` ``usd`` costs less an hour at the GPUs' prices.
    Rates are looked for between ``low`` and ``high`` requests/s (``None``: a thousandth and a
    thousand times the workload's own), to within the share ``precision``, on ``seeds`` draws of
    the workload. ``map`` adds how every way of dealing out the workers fares over rates.

    Raises:
        ConfigError: naming the setting, its value and what was expected.
    """

    find: str = "rate"
    attainment: float = 0.9
    seeds: int = 5
    precision: float = 0.02
    low: float | None = None
    high: float | None = None
    rate: float | None = None
    ratio: str = "keep"
    by: str = "gpus"
    max_gpus: int | None = None
    map: bool = False

    def __post_init__(self) -> None:
        _one_of("find", self.find, FINDS)
        _one_of("ratio", self.ratio, RATIOS)
        _one_of("by", self.by, COSTS)
        if not 0 < self.attainment < 1:
            raise ConfigError(
                "goodput: attainment must lie between 0 and 1, as a share of the requests, but got "
                f"{self.attainment!r}"
            )
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ConfigError(f"goodput: seeds must lie in 1..{MOST_SEEDS} but got {self.seeds!r}")
        if not 0.001 <= self.precision <= 0.5:
            raise ConfigError(
                f"goodput: precision must lie in [0.001, 0.5] but got {self.precision!r}"
            )
        self._check_rates()
        self._check_gpus()

    def _check_rates(self) -> None:
        for name in ("low", "high", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(
                    f"goodput: {name} must be above 0 requests/s or null but got {value!r}"
                )
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ConfigError(
                f"goodput: low must be below high, but got {self.low!r} and {self.high!r} "
                "requests/s"
            )

    def _check_gpus(self) -> None:
        if self.max_gpus is not None and self.max_gpus < 1:
            raise ConfigError(f"goodput: max_gpus must be at least 1 but got {self.max_gpus!r}")
        unused = {
            "rate": ("rate", "max_gpus"),
            "gpus": ("low", "high"),
        }[self.find]
        for name in unused:
            if getattr(self, name) is not None:
                other = FINDS[self.find == "rate"]
                raise ConfigError(
                    f"goodput: {name} goes with find={other}, but find is {self.find}"
                )
        if self.by != "gpus" and self.ratio != "free":
            raise ConfigError(f"goodput: by={self.by} goes with ratio=free, but it is {self.ratio}")
        if self.find == "rate" and self.ratio != "keep":
            raise ConfigError(
                f"goodput: ratio={self.ratio} goes with find=gpus; map=true shows other ratios' "
                "rates"
            )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"goodput: {name} must be one of {', '.join(known)} but got {value!r}")

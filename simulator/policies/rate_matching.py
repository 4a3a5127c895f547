"""How many prefill and decode workers keep pace with each other.

``R`` is what one worker sustains in requests/s and ``G`` its GPUs. ``n_p`` prefill and ``n_d``
decode workers serve ``min(n_p·R_p, n_d·R_d)`` requests/s on ``n_p·G_p + n_d·G_d`` GPUs. All rules
take numbers or arrays that broadcast, one entry per pair of design points.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.errors import ConfigError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

TOLERANCE = 0.03
"""The relative difference of the two pools' rates that counts as balanced (arXiv 2506.05508)."""
BLOCK = 8192
"""Pairs matched at a time: their columns stay in the cache."""


class Engine(NamedTuple):
    """Workers of one pool: ``rate`` requests/s and ``gpus`` GPUs of each; numbers or arrays."""

    rate: ArrayLike
    gpus: ArrayLike


class Match(NamedTuple):
    """Worker counts per pair; both 0 (and rate 0.0) where the rule found none.

    ``rate`` is what the whole deployment serves in requests/s, ``gpus`` what it occupies.
    """

    prefill_workers: Counts
    decode_workers: Counts
    gpus: Counts
    rate: Floats


class RateMatcher(Protocol):
    """A pure choice of worker counts."""

    def match(self, prefill: Engine, decode: Engine) -> Match:
        """Return the worker counts of each pair of engines."""
        ...


def matched(rule: RateMatcher, prefill: Engine, decode: Engine) -> Match:
    """Return the rule's match, one entry per pair; anybody's rule may answer anything.

    Raises:
        ConfigError: it is no four arrays of the pairs' shape, or counts are not whole and ≥ 0.
    """
    answer = rule.match(prefill, decode)
    owner = f"rate matching {type(rule).__name__}"
    shape = np.broadcast_shapes(*(np.shape(each) for each in (*prefill, *decode)))
    if not isinstance(answer, tuple) or len(answer) != len(Match._fields):
        raise ConfigError(f"{owner}: match must return a Match but got {answer!r}")
    for name, given in zip(Match._fields, answer, strict=True):
        column = np.asarray(given)
        whole = column.dtype.kind in "iu" or (name == "rate" and column.dtype.kind == "f")
        if column.shape != shape or not whole or not (column >= 0).all():
            raise ConfigError(
                f"{owner}: {name} must be {shape} numbers of at least 0, whole ones but for the "
                f"rate, but got {column.dtype} of shape {column.shape}"
            )
    return Match(*answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """The fewest GPUs whose pools' rates differ by at most ``tolerance`` of the greater.

    That is ``|n_p·R_p − n_d·R_d| ≤ tolerance · max(n_p·R_p, n_d·R_d)`` (arXiv 2506.05508,
    rate matching). Equal GPUs cannot tie: more workers of one pool never need fewer of the other.
    """

    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance)

    def match(self, prefill: Engine, decode: Engine) -> Match:
        """Return the smallest balanced deployment of each pair; there always is one."""
        pairs = _Pairs.of(prefill, decode)
        few, many = np.empty(pairs.size, np.int64), np.empty(pairs.size, np.int64)
        faster_prefill = pairs.prefill_rate >= pairs.decode_rate
        ratio = np.where(
            faster_prefill,
            pairs.prefill_rate / pairs.decode_rate,
            pairs.decode_rate / pairs.prefill_rate,
        )
        for part in _blocks(pairs.size):
            few[part], many[part] = _smallest_pair(ratio[part], self.tolerance)
        return pairs.deploy(
            np.where(faster_prefill, few, many), np.where(faster_prefill, many, few)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WithinBudget:
    """The highest rate on at most ``gpus`` GPUs, then the fewest of them: for small clusters.

    The pools need not balance, and work at the shares ``prefill`` and ``decode`` of their rates; a
    pair of which one worker each does not fit is not matched.
    """

    gpus: int
    prefill: float = 1.0
    decode: float = 1.0

    def __post_init__(self) -> None:
        _check_shares(self.prefill, self.decode)
        if type(self.gpus) is not int or self.gpus < 1:
            raise ConfigError(
                f"rate matching: gpus must be a whole number ≥ 1 but got {self.gpus!r}"
            )

    def match(self, prefill: Engine, decode: Engine) -> Match:
        """Return each pair's best deployment within the budget.

        With ever more prefill workers their rate rises and that of the decode workers beside them
        falls: the best is on either side of where they cross.
        """
        pairs = _Pairs.of(prefill, decode).at(self.prefill, self.decode)
        scarce = self._most_scarce_prefill(pairs)
        best = pairs.none()
        for n_p in (scarce, scarce + 1):
            n_d = self._decode_beside(pairs, n_p)
            fits = (n_p > 0) & (n_d > 0)
            found = pairs.leanest(np.maximum(n_p, 1), np.maximum(n_d, 1))
            better = (found.rate > best.rate) | (
                (found.rate == best.rate) & (found.gpus < best.gpus)
            )
            best = _chosen(fits & better, found, best)
        return best

    def _decode_beside(self, pairs: "_Pairs", n_p: Counts) -> Counts:
        """Return the decode workers for which there is room beside so many of prefill."""
        left: Counts = np.maximum(self.gpus - n_p * pairs.prefill_gpus, 0) // pairs.decode_gpus
        return left

    def _most_scarce_prefill(self, pairs: "_Pairs") -> Counts:
        """Return the most prefill workers that the decode workers beside them keep up with."""
        low = np.zeros(pairs.size, np.int64)
        high = self.gpus // pairs.prefill_gpus + 1
        while (high - low > 1).any():
            middle = (low + high) // 2
            beside = self._decode_beside(pairs, middle)
            scarce = middle * pairs.prefill_rate <= beside * pairs.decode_rate
            low, high = np.where(scarce, middle, low), np.where(scarce, high, middle)
        return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """As many copies of what ``rule`` matches as fit ``gpus`` GPUs; larger ones are not matched."""

    rule: RateMatcher
    gpus: int

    def match(self, prefill: Engine, decode: Engine) -> Match:
        """Return the rule's deployment of each pair, as often as it fits."""
        one = self.rule.match(prefill, decode)
        copies = self.gpus // np.maximum(one.gpus, 1)
        return Match(*(copies * each for each in one))


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Worker counts somebody else chose, for every pair; the slower pool sets the pace."""

    prefill_workers: int
    decode_workers: int

    def __post_init__(self) -> None:
        for name in ("prefill_workers", "decode_workers"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"rate matching: {name} must be a whole number ≥ 1 but got {value!r}"
                )

    def match(self, prefill: Engine, decode: Engine) -> Match:
        """Return the same worker counts for each pair."""
        pairs = _Pairs.of(prefill, decode)
        return pairs.deploy(
            np.full(pairs.size, self.prefill_workers), np.full(pairs.size, self.decode_workers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRatio:
    """The fewest workers whose GPUs stand in the ratio ``n_p·G_p : n_d·G_d`` = ``ratio`` : 1.

    Met within ``tolerance``; the rates play no part, so the slower pool sets the pace.
    """

    ratio: float
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        _check_tolerance(self.tolerance)
        if not 0 < self.ratio < math.inf:
            raise ConfigError(
                f"rate matching: ratio must be a finite number > 0 but got {self.ratio!r}"
            )

    def match(self, prefill: Engine, decode: Engine) -> Match:
        """Return the smallest deployment of each pair that has the ratio."""
        pairs = _Pairs.of(prefill, decode)
        by_gpus = Balanced(tolerance=self.tolerance).match(
            Engine(pairs.prefill_gpus / self.ratio, pairs.prefill_gpus),
            Engine(pairs.decode_gpus.astype(np.float64), pairs.decode_gpus),
        )
        return pairs.deploy(by_gpus.prefill_workers, by_gpus.decode_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded:
    """The most requests per GPU of up to ``max_workers`` a pool, each pool at a share of its rate.

    AIConfigurator's rule: maximise ``min(0.90·n_p·R_p, 0.92·n_d·R_d) / (n_p·G_p + n_d·G_d)``
    (ai-dynamo/aiconfigurator, ``sdk/inference_session.py`` and ``picking.py``). ``rate`` is what
    is left after the shares.
    """

    prefill: float = 0.90
    decode: float = 0.92
    max_workers: int = 32

    def __post_init__(self) -> None:
        _check_shares(self.prefill, self.decode)
        if type(self.max_workers) is not int or self.max_workers < 1:
            raise ConfigError(
                "rate matching: max_workers must be a whole number ≥ 1 but got "
                f"{self.max_workers!r}"
            )

    def match(self, prefill: Engine, decode: Engine) -> Match:
        """Return each pair's best deployment per GPU."""
        pairs = _Pairs.of(prefill, decode).at(self.prefill, self.decode)
        best = pairs.none()
        for n_p in range(1, self.max_workers + 1):
            exact = n_p * pairs.prefill_rate / pairs.decode_rate
            for wanted in (np.floor(exact), np.ceil(exact)):
                n_d = np.clip(wanted, 1, self.max_workers).astype(np.int64)
                found = pairs.deploy(np.full(pairs.size, n_p), n_d)
                better = found.rate * np.maximum(best.gpus, 1) > best.rate * found.gpus
                best = _chosen(better, found, best)
        return best


def bounded(rule: RateMatcher, gpus: int | None) -> RateMatcher:
    """Return the rule for a deployment of at most ``gpus`` GPUs (``None``: the rule itself).

    Where the rule only asks that the pools keep pace, the best counts within the bound do; a rule
    with another demand is met as often as it fits.
    """
    if gpus is None:
        return rule
    if isinstance(rule, WithinBudget):
        return replace(rule, gpus=min(rule.gpus, gpus))
    if isinstance(rule, Balanced):
        return WithinBudget(gpus=gpus)
    if isinstance(rule, Degraded):
        return WithinBudget(gpus=gpus, prefill=rule.prefill, decode=rule.decode)
    return Replicated(rule=rule, gpus=gpus)


class _Pairs(NamedTuple):
    """Every pair of engines, flat."""

    prefill_rate: Floats
    prefill_gpus: Counts
    decode_rate: Floats
    decode_gpus: Counts

    @classmethod
    def of(cls, prefill: Engine, decode: Engine) -> "_Pairs":
        """Return the broadcast pairs, after checking rates (requests/s) and GPUs."""
        rates = [np.asarray(each.rate, np.float64) for each in (prefill, decode)]
        sizes = [np.asarray(each.gpus) for each in (prefill, decode)]
        for pool, rate, gpus in zip(("prefill", "decode"), rates, sizes, strict=True):
            _check_engine(pool, rate, gpus)
        r_p, g_p, r_d, g_d = np.broadcast_arrays(rates[0], sizes[0], rates[1], sizes[1])
        return cls(
            r_p.ravel(), g_p.ravel().astype(np.int64), r_d.ravel(), g_d.ravel().astype(np.int64)
        )

    @property
    def size(self) -> int:
        """The number of pairs."""
        return len(self.prefill_rate)

    def at(self, prefill: float, decode: float) -> "_Pairs":
        """Return the pairs with either pool at a share of its rate."""
        return self._replace(
            prefill_rate=self.prefill_rate * prefill, decode_rate=self.decode_rate * decode
        )

    def leanest(self, n_p: Counts, n_d: Counts) -> Match:
        """Return what is as fast as these worker counts with the fewest of them."""
        rate = np.minimum(n_p * self.prefill_rate, n_d * self.decode_rate) * (1 - 1e-12)
        needed = (np.ceil(rate / each) for each in (self.prefill_rate, self.decode_rate))
        fewest = (np.maximum(each, 1.0).astype(np.int64) for each in needed)
        return self.deploy(*fewest)

    def deploy(self, n_p: Counts, n_d: Counts) -> Match:
        """Return what these worker counts amount to."""
        rate = np.minimum(n_p * self.prefill_rate, n_d * self.decode_rate)
        return Match(n_p, n_d, n_p * self.prefill_gpus + n_d * self.decode_gpus, rate)

    def none(self) -> Match:
        """Return the match of nothing."""
        zero = np.zeros(self.size, np.int64)
        return Match(zero, zero, zero, np.zeros(self.size))


def _smallest_pair(ratio: Floats, tolerance: float) -> tuple[Counts, Counts]:
    """Return the smallest whole n and m with ``|n·ratio − m| ≤ tolerance · max``, ratio ≥ 1.

    For each n the smallest m is ``⌈n·ratio·(1 − tolerance)⌉``; both grow with n, so the first n
    that has one wins. Dirichlet's theorem puts it at or before ``1 / tolerance``.
    """
    few, many = np.empty(len(ratio), np.int64), np.empty(len(ratio), np.int64)
    low, high = ratio * (1 - tolerance), ratio / (1 - tolerance)
    at, n = np.arange(len(ratio)), 0
    while len(at):
        n += 1
        m = np.maximum(np.ceil(n * low * (1 - 1e-12)), 1.0)  # rounding must not cost a worker
        found = m <= n * high * (1 + 1e-12)
        few[at[found]], many[at[found]] = n, m[found].astype(np.int64)
        left = ~found
        at, low, high = at[left], low[left], high[left]
    return few, many


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, size, BLOCK))


def _chosen(where: NDArray[np.bool_], new: Match, old: Match) -> Match:
    return Match(*(np.where(where, n, o) for n, o in zip(new, old, strict=True)))


def _check_tolerance(tolerance: float) -> None:
    if not 0 < tolerance < 1:
        raise ConfigError(f"rate matching: tolerance must lie in (0, 1) but got {tolerance!r}")


def _check_shares(prefill: float, decode: float) -> None:
    for name, share in (("prefill", prefill), ("decode", decode)):
        if not 0 < share <= 1:
            raise ConfigError(f"rate matching: {name} must be a share in (0, 1] but got {share!r}")


def _check_engine(pool: str, rate: Floats, gpus: NDArray[Any]) -> None:
    """Refuse rates that are no positive requests/s and sizes that are no whole GPUs."""
    if not (np.isfinite(rate) & (rate > 0)).all():
        bad = rate[~(np.isfinite(rate) & (rate > 0))].flat[0]
        raise ConfigError(
            f"rate matching: {pool} rate must be a finite number > 0 requests/s but got {bad!r}"
        )
    if not np.issubdtype(gpus.dtype, np.integer) or (gpus < 1).any():
        raise ConfigError(f"rate matching: {pool} gpus must be whole numbers ≥ 1 GPUs per worker")

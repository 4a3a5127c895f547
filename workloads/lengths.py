"""How long prompts and answers are: distributions of token counts, drawn from uniforms.

Each distribution is a quantile function over whole tokens, clipped to [1, ``max``]: one uniform
draw per length, so that two distributions can be correlated and compared on the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from workloads import checks
from workloads.cleaning import Policy
from workloads.errors import TraceError
from workloads.readers import read_trace
from workloads.trace import MAX_TOKENS

Uniforms = NDArray[np.float64]
Tokens = NDArray[np.int32]

DEFAULT_MAX = 131_072
"""Longest length unless told otherwise: the context limit of today's common models."""


OPEN_UNIT = (2.0**-54, 1 - 2.0**-53)
"""Bounds that keep normal scores finite."""


class Lengths(Protocol):
    """A distribution of one length."""

    def quantile(self, u: Uniforms) -> Tokens:
        """Return tokens, at least 1, at the probabilities ``u`` in [0, 1), same shape."""
        ...


class LengthPairs(Protocol):
    """A joint distribution of input and output length."""

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Return input and output tokens, each of shape (n,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Always ``tokens``."""

    tokens: int

    def __post_init__(self) -> None:
        _check_tokens("constant length", "tokens", self.tokens)

    def quantile(self, u: Uniforms) -> Tokens:
        """Return ``tokens`` everywhere."""
        return np.full(u.shape, self.tokens, dtype=np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Every whole number from ``low`` to ``high``, both included, equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_tokens("uniform length", "low", self.low)
        _check_tokens("uniform length", "high", self.high)
        if self.high < self.low:
            raise TraceError(
                f"uniform length: high must be at least low ({self.low}) but got {self.high!r}"
            )

    def quantile(self, u: Uniforms) -> Tokens:
        """Return the lengths at ``u``."""
        steps = np.floor(u * (self.high - self.low + 1))
        lengths: Tokens = np.minimum(self.low + steps, self.high).astype(np.int32)
        return lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometric:
    """1, 2, 3, … each less likely than the one before by the same factor; ``mean`` on average.

    P(k) = (1 − p)^(k − 1)·p with p = 1/``mean``, before clipping: how many turns a chat has, if
    each may be the last.
    """

    mean: float
    max: int = DEFAULT_MAX

    def __post_init__(self) -> None:
        checks.at_least("geometric length", "mean", self.mean, 1)
        _check_tokens("geometric length", "max", self.max)

    def quantile(self, u: Uniforms) -> Tokens:
        """Return the numbers at ``u``."""
        if self.mean == 1:
            return np.ones(u.shape, dtype=np.int32)
        return _rounded(np.ceil(np.log1p(-u) / np.log1p(-1 / self.mean)), self.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal:
    """exp(N(``mu``, ``sigma``²)) tokens, rounded; in place of ``mu``, ``median`` or ``mean``.

    ``mu`` = ln(median) = ln(mean) − sigma²/2. ``mean`` is that of the unclipped distribution.
    """

    sigma: float
    mu: float | None = None
    median: float | None = None
    mean: float | None = None
    max: int = DEFAULT_MAX

    def __post_init__(self) -> None:
        owner = "lognormal length"
        checks.at_least(owner, "sigma", self.sigma, 0)
        given = [name for name in ("mu", "median", "mean") if getattr(self, name) is not None]
        if len(given) != 1:
            raise TraceError(
                f"{owner}: give exactly one of mu, median, mean "
                f"but got {', '.join(given) or 'none'}"
            )
        if self.mu is not None:
            checks.number(owner, "mu", self.mu)
        else:
            checks.positive(owner, given[0], getattr(self, given[0]), "tokens")
        _check_tokens(owner, "max", self.max)

    @property
    def log_median(self) -> float:
        """The parameter mu, however it was given."""
        if self.mu is not None:
            return self.mu
        if self.median is not None:
            return float(np.log(self.median))
        return float(np.log(self.mean) - self.sigma**2 / 2)  # type: ignore[arg-type] # checked

    def quantile(self, u: Uniforms) -> Tokens:
        """Return the lengths at ``u``."""
        logs = self.log_median + self.sigma * ndtri(u)
        return _rounded(np.exp(np.minimum(logs, np.log(self.max) + 1)), self.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormalMixture:
    """A mixture of lognormals: with probability ``weights[i]``, exp(N(``mus[i]``, ``sigmas[i]``²)).

    Weights are scaled to sum to 1.
    """

    weights: tuple[float, ...]
    mus: tuple[float, ...]
    sigmas: tuple[float, ...]
    max: int = DEFAULT_MAX

    def __post_init__(self) -> None:
        owner = "lognormal mixture"
        for name in ("weights", "mus", "sigmas"):
            object.__setattr__(self, name, _numbers(owner, name, getattr(self, name)))
        if not len(self.weights) == len(self.mus) == len(self.sigmas):
            raise TraceError(
                f"{owner}: weights, mus and sigmas must be equally many but are "
                f"{len(self.weights)}, {len(self.mus)} and {len(self.sigmas)}"
            )
        for name in ("weights", "sigmas"):
            for value in getattr(self, name):
                checks.positive(owner, name, value)
        _check_tokens(owner, "max", self.max)

    def cdf(self, tokens: NDArray[np.floating[Any]]) -> Uniforms:
        """Return the probability of at most ``tokens``, before rounding and clipping."""
        logs = np.log(tokens)[..., np.newaxis]
        parts = ndtr((logs - np.array(self.mus)) / np.array(self.sigmas))
        return np.asarray(parts @ (np.array(self.weights) / sum(self.weights)))

    def quantile(self, u: Uniforms) -> Tokens:
        """Return the lengths at ``u``: the least whole k with cdf(k + ½) above it."""
        low = np.ones(u.shape, dtype=np.int64)
        high = np.full(u.shape, self.max, dtype=np.int64)
        for _ in range(int(self.max).bit_length()):
            middle = (low + high) // 2
            above = self.cdf(middle + 0.5) > u
            high = np.where(above, middle, high)
            low = np.where(above, low, np.minimum(middle + 1, high))
        return high.astype(np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Empirical:
    """``values`` tokens drawn with replacement, equally likely or by ``weights``."""

    values: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        owner = "empirical length"
        object.__setattr__(self, "values", _numbers(owner, "values", self.values))
        for value in self.values:
            _check_tokens(owner, "values", value)
        if self.weights is None:
            return
        object.__setattr__(self, "weights", _numbers(owner, "weights", self.weights))
        for weight in self.weights:
            checks.at_least(owner, "weights", weight, 0)
        if len(self.weights) != len(self.values) or sum(self.weights) <= 0:
            raise TraceError(
                f"{owner}: weights must be as many as values ({len(self.values)}) and not all 0 "
                f"but are {len(self.weights)} with the sum {sum(self.weights):g}"
            )

    def quantile(self, u: Uniforms) -> Tokens:
        """Return the lengths at ``u``."""
        order = np.argsort(self.values, kind="stable")
        values = np.asarray(self.values, dtype=np.int32)[order]
        weights = np.ones(values.size) if self.weights is None else np.asarray(self.weights)[order]
        bounds = np.cumsum(weights) / weights.sum()
        last = int(np.flatnonzero(weights)[-1])
        return values[np.minimum(np.searchsorted(bounds, u, side="right"), last)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePairs:
    """Input and output lengths of a trace file, drawn with replacement and together."""

    path: str
    format: str = "auto"
    time_unit: str = "auto"
    zero_output: str = "drop"
    max_context: int | None = None

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Return input and output tokens of ``n`` rows of the trace."""
        policy = Policy(zero_output=self.zero_output, max_context=self.max_context)
        trace = read_trace(self.path, format=self.format, policy=policy, time_unit=self.time_unit)
        rows = rng.integers(len(trace), size=n)
        return trace.column("input_tokens")[rows], trace.column("output_tokens")[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmpiricalPairs:
    """Pairs of ``inputs`` and ``outputs`` tokens, drawn with replacement and together."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        owner = "empirical pairs"
        for name in ("inputs", "outputs"):
            object.__setattr__(self, name, _numbers(owner, name, getattr(self, name)))
            for value in getattr(self, name):
                _check_tokens(owner, name, value)
        if len(self.inputs) != len(self.outputs):
            raise TraceError(
                f"{owner}: inputs and outputs must be as many but are {len(self.inputs)} and "
                f"{len(self.outputs)}"
            )

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Return input and output tokens of ``n`` of the pairs."""
        rows = rng.integers(len(self.inputs), size=n)
        inputs, outputs = (np.asarray(each, np.int32) for each in (self.inputs, self.outputs))
        return inputs[rows], outputs[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndependentPairs:
    """Input and output from their own distributions, tied by a Gaussian copula.

    ``correlation`` in [−1, 1] is that of the normal scores (0: independent; measured traces lie
    between −0.4 and 0.4).
    """

    input: Lengths
    output: Lengths
    correlation: float = 0.0

    def __post_init__(self) -> None:
        checks.number("lengths", "correlation", self.correlation)
        if not -1 <= self.correlation <= 1:
            raise TraceError(f"lengths: correlation must lie in -1..1 but got {self.correlation!r}")

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        """Return input and output tokens; the first k of n requests do not depend on n."""
        u, v = np.clip(rng.random((n, 2)).T, *OPEN_UNIT)
        if self.correlation:
            rho = self.correlation
            v = ndtr(rho * ndtri(u) + np.sqrt(1 - rho**2) * ndtri(v))
        return _drawn("input", self.input, u), _drawn("output", self.output, v)


def _drawn(name: str, lengths: Lengths, u: Uniforms) -> Tokens:
    """Return the lengths at ``u``, which are anybody's to give, as whole numbers."""
    owner = f"{name} length {type(lengths).__name__}"
    return checks.numbers(owner, "quantile", lengths.quantile(u), count=u.size, kinds="iu")


def _rounded(lengths: Uniforms, most: int) -> Tokens:
    return np.clip(np.rint(lengths), 1, most).astype(np.int32)


def _check_tokens(owner: str, name: str, value: object) -> None:
    checks.whole(owner, name, value, 1)
    if isinstance(value, int) and value > MAX_TOKENS:
        raise TraceError(f"{owner}: {name} must be at most {MAX_TOKENS} tokens but got {value!r}")


def _numbers(owner: str, name: str, values: Any) -> tuple[Any, ...]:
    """Return ``values`` as a tuple; raise ``TraceError`` unless it is a list of finite numbers."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise TraceError(f"{owner}: {name} must be a list of numbers but got {values!r}")
    for value in values:
        checks.number(owner, name, value)
    return tuple(values)

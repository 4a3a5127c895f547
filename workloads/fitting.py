"""Generators fitted to a trace: arrival processes and length distributions, with how well they fit.

The goodness is Kolmogorov and Smirnov's distance: the largest difference between the two
cumulative distributions, 0 to 1. It is taken over the trace's own values, gaps of arrivals
included, which for whole seconds or batches of arrivals no continuous process can make small.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma as gamma_function

from workloads.errors import TraceError
from workloads.inspection import dispersion, known_arrivals, rank_correlation
from workloads.trace import Trace

Floats = NDArray[np.float64]
MOST_VALUES = 100_000
"""Values a fit looks at: evenly spaced quantiles of more."""

ROUNDS = 200
MIXTURE_PARTS = 2
LEAST_SIGMA = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One distribution: its ``settings`` as a workload has them, and its ``distance``."""

    name: str
    settings: Mapping[str, Any]
    distance: float
    cdf: Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Every distribution tried, the best of each kind first, and the lengths' rank correlation."""

    arrivals: tuple[Fit, ...]
    input_tokens: tuple[Fit, ...]
    output_tokens: tuple[Fit, ...]
    correlation: float
    requests: int
    dispersion: Mapping[float, float]

    @property
    def workload(self) -> dict[str, Any]:
        """The settings of a synthetic workload of the best of each."""
        return {
            "_target_": "workloads.workload.SyntheticWorkload",
            "arrivals": dict(self.arrivals[0].settings),
            "input_lengths": dict(self.input_tokens[0].settings),
            "output_lengths": dict(self.output_tokens[0].settings),
            "correlation": round(self.correlation, 4),
            "requests": self.requests,
        }


def fit(trace: Trace) -> Fitted:
    """Return what was fitted; raise ``TraceError`` where there is too little to fit to."""
    arrivals = known_arrivals(trace)
    gaps = np.diff(arrivals)
    if gaps.size < 2 or not gaps.sum() > 0:
        raise TraceError(
            f"trace {trace.meta.name!r}: a fit needs three arrivals that are not all at once"
        )
    inputs, outputs = trace.column("input_tokens"), trace.column("output_tokens")
    ranks = rank_correlation(inputs, outputs) or 0.0
    return Fitted(
        arrivals=_best(fit_gaps(gaps)),
        input_tokens=_best(fit_lengths(inputs)),
        output_tokens=_best(fit_lengths(outputs)),
        correlation=float(np.clip(2 * np.sin(np.pi * ranks / 6), -0.999, 0.999)),
        requests=len(trace),
        dispersion=dispersion(arrivals),
    )


def _best(fits: list[Fit]) -> tuple[Fit, ...]:
    return tuple(sorted(fits, key=lambda each: each.distance))


def distance(values: Floats, cdf: Callable[[Floats], Floats]) -> float:
    """Return the largest difference between the values' distribution and ``cdf``."""
    ordered, counts = np.unique(values, return_counts=True)
    after = np.cumsum(counts) / values.size
    before = after - counts / values.size
    told = cdf(ordered)
    return float(np.maximum(np.abs(told - after), np.abs(told - before)).max())


def fit_gaps(gaps: Floats) -> list[Fit]:
    """Return renewal processes of the gaps' mean rate.

    The coefficient of variation of gamma and Weibull gaps is the gaps' own or the likeliest,
    whichever leaves the smaller distance.
    """
    mean, values = float(gaps.mean()), _thinned(gaps)
    settings = {"rate": 1 / mean}
    fits = [_fit("Poisson", "arrivals", settings, values, _stats().expon(scale=mean).cdf)]
    for name, (of_cv, shapes) in RENEWALS.items():
        tried = [
            _fit(name, "arrivals", settings | {"cv": cv}, values, of_cv(cv, mean).cdf)
            for cv in _variations(values, float(gaps.std()) / mean, shapes)
        ]
        fits += sorted(tried, key=lambda each: each.distance)[:1]
    return fits


def _variations(values: Floats, own: float, likeliest: Callable[[Floats], float]) -> list[float]:
    """Return the coefficients of variation to try, those a process can have."""
    found = [own]
    if values[0] > 0:
        found.append(likeliest(values))
    return [each for each in found if CVS[0] <= each <= CVS[1]]


def _gamma(cv: float, mean: float) -> Any:
    return _stats().gamma(cv**-2, scale=mean * cv**2)


def _gamma_cv(values: Floats) -> float:
    """Return the likeliest gamma's, by Minka's first approximation of its shape."""
    spread = float(np.log(values.mean()) - np.log(values).mean())
    if spread <= 0:
        return 0.0
    shape = (3 - spread + np.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)
    return float(shape**-0.5)


def _weibull(cv: float, mean: float) -> Any:
    shape = _weibull_shape(cv)
    return _stats().weibull_min(shape, scale=mean / gamma_function(1 + 1 / shape))


def _weibull_cv(values: Floats) -> float:
    """Return the likeliest Weibull's, by fixed-point steps on its shape."""
    logs, scaled, shape = np.log(values), values / values.max(), 1.0
    for _ in range(100):
        powers = scaled**shape
        new = 1 / float((powers * logs).sum() / powers.sum() - logs.mean() or 1.0)
        shape = float(np.clip((shape + new) / 2, 0.1, 50))
    first, second = gamma_function(1 + 1 / shape), gamma_function(1 + 2 / shape)
    return float(np.sqrt(max(second / first**2 - 1, 0.0)))


CVS = (0.1, 15.0)
"""Coefficients of variation that are tried."""

RENEWALS: Mapping[str, tuple[Callable[[float, float], Any], Callable[[Floats], float]]] = {
    "Gamma": (_gamma, _gamma_cv),
    "Weibull": (_weibull, _weibull_cv),
}


def fit_lengths(tokens: NDArray[Any]) -> list[Fit]:
    """Return length distributions by maximum likelihood, or of the mean, clipped at the longest."""
    values = _thinned(tokens)
    most = int(tokens.max())
    if int(tokens.min()) == most:
        settings = {"tokens": most}
        return [_fit("Constant", "lengths", settings, values, lambda x: (x >= most) * 1.0)]
    logs = np.log(values)
    mu, sigma = float(logs.mean()), max(float(logs.std()), LEAST_SIGMA)
    one = {"mu": mu, "sigma": sigma, "max": most}
    weights, mus, sigmas = _mixture(logs)
    two = {"weights": _rounded(weights), "mus": _rounded(mus), "sigmas": _rounded(sigmas)}
    success = 1 / max(float(values.mean()), 1.0)

    def mixed(x: Floats) -> Floats:
        at = np.log(np.maximum(x + 0.5, 0.5))[:, None]
        return np.asarray((weights * _stats().norm.cdf((at - mus) / sigmas)).sum(axis=1))

    def single(x: Floats) -> Floats:
        return np.asarray(_stats().norm.cdf((np.log(np.maximum(x + 0.5, 0.5)) - mu) / sigma))

    geometric = {"mean": float(values.mean()), "max": most}
    return [
        _fit("LogNormal", "lengths", one, values, single),
        _fit("LogNormalMixture", "lengths", two | {"max": most}, values, mixed),
        _fit("Geometric", "lengths", geometric, values, _stats().geom(success).cdf),
    ]


def _stats() -> Any:
    """Return scipy's distributions, which are slow to import and which few tasks need."""
    from scipy import stats

    return stats


def _fit(
    name: str, module: str, settings: Mapping[str, Any], values: Floats, cdf: Callable[[Any], Any]
) -> Fit:
    plain = {key: _short(value) for key, value in settings.items()}
    target = f"workloads.{module}.{name}"
    return Fit(
        name=name,
        settings={"_target_": target} | plain,
        distance=discrete(values, cdf) if module == "lengths" else distance(values, cdf),
        cdf=cdf,
    )


def discrete(values: Floats, cdf: Callable[[Floats], Floats]) -> float:
    """Return the distance of whole numbers, whose distribution only means something at them."""
    ordered, counts = np.unique(values, return_counts=True)
    after = np.cumsum(counts) / values.size
    before = np.concatenate(([0.0], after[:-1]))
    at, below = cdf(ordered), cdf(ordered - 1)
    return float(np.maximum(np.abs(at - after), np.abs(below - before)).max())


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _rounded(values: Floats) -> list[float]:
    return [float(f"{each:.6g}") for each in values]


def _thinned(values: NDArray[Any]) -> Floats:
    """Return sorted values, evenly spaced quantiles of many."""
    ordered = np.sort(values).astype(float)
    if ordered.size <= MOST_VALUES:
        return ordered
    return ordered[np.linspace(0, ordered.size - 1, MOST_VALUES).round().astype(np.int64)]


def _weibull_shape(cv: float) -> float:
    """Return the shape at which Weibull gaps have this coefficient of variation, by bisection."""
    low, high = 0.05, 50.0
    for _ in range(80):
        middle = np.sqrt(low * high)
        first, second = gamma_function(1 + 1 / middle), gamma_function(1 + 2 / middle)
        low, high = (middle, high) if second / first**2 - 1 > cv**2 else (low, middle)
    return float(np.sqrt(low * high))


def _mixture(logs: Floats) -> tuple[Floats, Floats, Floats]:
    """Return weights, means and deviations of two normals, by expectation and maximisation."""
    mus = np.quantile(logs, [0.25, 0.75])
    sigmas = np.full(MIXTURE_PARTS, max(float(logs.std()), LEAST_SIGMA))
    weights = np.full(MIXTURE_PARTS, 1 / MIXTURE_PARTS)
    if mus[0] == mus[1]:
        mus = np.array([logs.min(), logs.max()])
    last = -np.inf
    for _ in range(ROUNDS):
        each = weights * _stats().norm.pdf(logs[:, None], mus, sigmas)
        total = np.maximum(each.sum(axis=1, keepdims=True), 1e-300)
        share = each / total
        mass = np.maximum(share.sum(axis=0), 1e-9)
        weights = mass / mass.sum()
        mus = (share * logs[:, None]).sum(axis=0) / mass
        spread = (share * (logs[:, None] - mus) ** 2).sum(axis=0) / mass
        sigmas = np.maximum(np.sqrt(spread), LEAST_SIGMA)
        likely = float(np.log(total).mean())
        if likely - last < 1e-7:
            break
        last = likely
    weights = np.array([float(f"{weights[0]:.6g}"), 0.0])
    weights[1] = 1 - weights[0]
    return weights, mus, sigmas

"""Settings corrected by one measured run: what it can tell of a server beyond its shape.

One run can tell how long steps take, from its TPOT, and one constant of TTFT: the way in where
workers do both phases, the hand-over where they are split. Both are fitted to the first half of
the requests and judged on the second.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from simulator.errors import ConfigError
from simulator.experiment import Experiment, simulate
from simulator.measured import MEASURED, STATISTICS, beside
from simulator.results import Results

SCALE, GATEWAY, HANDOVER = "latency.scale", "gateway_s", "transfer.handover_s"
SCALES = (0.2, 5.0)
LONGEST_S = 10.0
"""Bounds of what is fitted: a factor, and seconds."""

MOST_RUNS = 40
CLOSE = 1e-3
FEWEST = 20
"""Requests of a half; fewer say too little of a p90."""

_LABELS = {name: label for name, (label, _) in MEASURED.items()}
JUDGED = ("ttft_s", "tpot_s")
OnRun = Callable[[int, int], None]
Told = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What was fitted, by setting, and how far the simulation is off with and without it.

    ``before`` and ``after`` are :func:`simulator.measured.beside` of the second half of the
    requests, ``error`` their mean absolute log errors, ``runs`` how many simulations it took.
    """

    settings: Mapping[str, float]
    before: Told
    after: Told
    error: tuple[float, float]
    runs: int

    @property
    def helps(self) -> bool:
        """Whether the half that was not fitted comes out better as well."""
        return self.error[1] < self.error[0]

    @property
    def tree(self) -> dict[str, Any]:
        """The settings by group, with six digits each."""
        tree: dict[str, Any] = {}
        for key, value in self.settings.items():
            group, _, name = key.rpartition(".")
            (tree.setdefault(group, {}) if group else tree)[name] = float(f"{value:.6g}")
        return tree

    @property
    def text(self) -> str:
        """The settings as an experiment file, for ``--config-dir DIR experiment=calibrated``."""
        return f"# @package _global_\n{yaml.safe_dump(self.tree, sort_keys=False)}"

    @property
    def answer(self) -> str:
        """What was found, in words and a table of the second half's errors."""
        count = next(iter(self.before.values()))["requests"]
        fitted = ", ".join(f"{key}={value:.4g}" for key, value in self.settings.items())
        without, fitted_with = (f"{100 * np.expm1(error):.1f} %" for error in self.error)
        found = f"Fitted to the first half of the requests: {fitted}."
        if not self.helps:
            return (
                f"{found} The second half ({count:,} requests) comes out no better: a mean error "
                f"of {fitted_with} instead of {without}. Keep the settings as they are."
            )
        heads = "".join(f"{name:>20}" for name in STATISTICS)
        rows = [
            f"{_LABELS[name]:<6}{_row(told, self.after[name])}"
            for name, told in self.before.items()
        ]
        return "\n".join(
            [
                f"{found} On the second half ({count:,} requests) the mean error of TTFT and TPOT "
                f"goes from {without} to {fitted_with}:",
                "",
                f"{'error':<6}{heads}",
                *rows,
            ]
        )


def correct(experiment: Experiment, progress: OnRun | None = None) -> Correction:
    """Return what the traffic's measurements say of the experiment's settings.

    Raises:
        ConfigError: the traffic was not measured, or too little of it.
    """
    from scipy.optimize import minimize  # here: half a second that no other task needs

    fit = _Fit(experiment, progress)
    before = fit.error(fit.start)
    found = minimize(
        fit.error,
        fit.first_guess(),
        method="Nelder-Mead",
        bounds=fit.bounds,
        options={"maxfev": MOST_RUNS, "xatol": CLOSE, "fatol": CLOSE},
    )
    best = found.x if found.fun < before else fit.start
    told = [fit.told(each, fitted=False) for each in (fit.start, best)]
    return Correction(
        settings=fit.settings(best),
        before=told[0],
        after=told[1],
        error=(_error(told[0]), _error(told[1])),
        runs=fit.runs,
    )


class _Fit:
    """The experiment as a function of what is fitted: the log of the scale, and seconds."""

    def __init__(self, experiment: Experiment, progress: OnRun | None) -> None:
        self._experiment, self._progress = experiment, progress
        self._known: dict[tuple[float, ...], Results] = {}
        self.runs = 0
        deployment = experiment.deployment
        split = any(pool.role == "decode" for pool in deployment.pools)
        self._delay = HANDOVER if split else GATEWAY
        self._offset_s = deployment.handover_s if split else deployment.entry_s
        scale = getattr(deployment.latency, "scale", None)
        if not isinstance(scale, float):
            name = type(deployment.latency).__name__
            raise ConfigError(f"task=calibrate: latency {name} has no scale that could be fitted")
        self.start = np.array([np.log(scale), self._offset_s])
        self.bounds = (tuple(np.log(SCALES)), (0.0, LONGEST_S))
        self._check(self.told(self.start, fitted=True))

    def _check(self, told: Told) -> None:
        counts = [told[name]["requests"] for name in JUDGED if name in told]
        if len(counts) < len(JUDGED):
            raise ConfigError(
                "task=calibrate needs traffic whose TTFT and E2E were measured: "
                "workload=trace with a load generator's result, or columns ttft_s and e2e_s"
            )
        if min(counts) < FEWEST:
            raise ConfigError(
                f"task=calibrate fits half of the requests, at least {FEWEST} measured ones with "
                f"two tokens, but that half has {min(counts)}"
            )

    def settings(self, point: Any) -> dict[str, float]:
        """Return what a point stands for, by setting."""
        return {SCALE: float(np.exp(point[0])), self._delay: float(point[1])}

    def first_guess(self) -> Any:
        """Return where the medians would agree if each told of one thing alone."""
        told = self.told(self.start, fitted=True)
        factor = 1 / (1 + told["tpot_s"]["error"]["p50"])
        scaled = self.start + np.array([np.log(factor), 0.0])
        late = self.told(scaled, fitted=True)["ttft_s"]
        delay = scaled[1] + late["measured"]["p50"] - late["simulated"]["p50"]
        low, high = np.transpose(self.bounds)
        return np.clip([scaled[0], delay], low, high)

    def error(self, point: Any) -> float:
        """Return the mean absolute log error of the half that is fitted."""
        return _error(self.told(point, fitted=True))

    def told(self, point: Any, *, fitted: bool) -> Told:
        """Return the errors of one half of the requests, by arrival."""
        scan = self._results(point).scan
        half = scan.select("arrival_s").collect().height // 2
        return beside(scan.head(half) if fitted else scan.slice(half))

    def _results(self, point: Any) -> Results:
        place = tuple(float(each) for each in point)
        if place not in self._known:
            self._known.clear()  # only the last few calls ask twice
            self._known[place] = simulate(self._at(point))
            self.runs += 1
            if self._progress is not None:
                self._progress(self.runs, MOST_RUNS)
        return self._known[place]

    def _at(self, point: Any) -> Experiment:
        said = self.settings(point)
        deployment = self._experiment.deployment
        latency = replace(deployment.latency, scale=said[SCALE])  # type: ignore[type-var]
        changed = replace(deployment, latency=latency)
        if self._delay == GATEWAY:
            changed = replace(changed, gateway_s=said[GATEWAY])
        else:
            transfer = replace(deployment.transfer, handover_s=said[HANDOVER])
            changed = replace(changed, transfer=transfer)
        return replace(self._experiment, deployment=changed)


def _row(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the errors of one metric without and with the correction."""
    cells = (f"{_percent(before, name)} → {_percent(after, name)}" for name in STATISTICS)
    return "".join(f"{cell:>20}" for cell in cells)


def _percent(told: Mapping[str, Any], name: str) -> str:
    error = told["error"][name]
    return "–" if error is None else f"{100 * error:+.1f} %"


def _error(told: Told) -> float:
    """Return the mean absolute log of simulated over measured of TTFT's and TPOT's statistics."""
    ratios = [
        each["simulated"][name] / each["measured"][name]
        for metric in JUDGED
        if (each := told.get(metric)) is not None
        for name in STATISTICS
        if each["measured"][name] > 0
    ]
    return float(np.mean(np.abs(np.log(ratios)))) if ratios else float("inf")

"""What an engine adds to a first token beside its steps, from serving runs at low concurrency.

Nobody waits there, so what measured TTFT exceeds the simulated one by is the engine's: a
co-located row's is its gateway, a disaggregated row's the gateway and the hand-over.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from simulator.errors import ConfigError
from simulator.validation.names import Catalogue, Unmapped
from simulator.validation.serving import Case, Outcome, case_of, engine_of, simulate_case
from simulator.validation.tables import Row, number

MOST_CLIENTS = {"agg": 8, "disagg": 16}
"""Clients of a row at low concurrency, by its mode."""
STEPS_WITHIN = 0.25
"""TPOT must be met this closely: of other rows the shortfall may be the kernels'."""
STARTING_S = 1.0
"""A row short by more has its engine's start (compilation) in its mean."""
FIT_GPUS = ("H200", "B300", "GB200")
JUDGED_GPU = "B200"
RECOMPUTES = ("vllm",)
"""Engines whose decode worker computes the first token itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds of an engine's gateway and hand-over."""

    gateway_s: float = 0.0
    handover_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A measured row at low concurrency: its case, and the seconds it is short by without waits."""

    case: Case
    seed: int
    mode: str
    engine: str
    gpu: str
    measured_s: float
    short_s: float

    def error_s(self, waits: Waits) -> float:
        """Return the seconds by which simulated TTFT misses the measured one with these waits."""
        return abs(self.measured_s - _simulated(self.case, self.engine, waits, self.seed).ttft_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One wait: its seconds, the rows it is the median of, and median errors on unseen rows.

    ``before_s`` and ``after_s`` are of ``judged`` rows with the value that ``fitted`` other rows
    gave, without and with it; where that was no better, the value is of all, and none judge it.
    """

    seconds: float
    rows: int
    gpus: tuple[str, ...]
    unseen: bool = False
    fitted: int = 0
    judged: int = 0
    before_s: float | None = None
    after_s: float | None = None


def sightings(rows: Sequence[Row], catalogue: Catalogue) -> Iterator[Sighting]:
    """Yield the rows at low concurrency whose steps the model meets; others are passed over."""
    for at, row in enumerate(rows):
        found = _sighting(row, at, catalogue)
        if found is not None:
            yield found


def _sighting(row: Row, at: int, catalogue: Catalogue) -> Sighting | None:
    mode, ttft = row["mode"].lower(), number(row.get("ttft_ms", ""))
    if mode not in MOST_CLIENTS or ttft is None:
        return None
    try:
        case = case_of(row, catalogue)
        if case.load.clients is None or case.load.clients > MOST_CLIENTS[mode]:
            return None
        ours = _simulated(case, engine_of(row), Waits(), at)
    except (Unmapped, ConfigError):
        return None
    tpot, short = number(row["tpot_ms"]), ttft * 1e-3 - ours.ttft_s
    met = tpot is None or abs(ours.tpot_s / (tpot * 1e-3) - 1.0) <= STEPS_WITHIN
    if not met or short > STARTING_S:
        return None
    return Sighting(
        case=case,
        seed=at,
        mode=mode,
        engine=engine_of(row),
        gpu=case.deployment.gpu.name.split()[0],
        measured_s=ttft * 1e-3,
        short_s=short,
    )


def _simulated(case: Case, engine: str, waits: Waits, seed: int) -> Outcome:
    deployment = case.deployment
    transfer = replace(
        deployment.transfer, handover_s=waits.handover_s, recomputes=engine in RECOMPUTES
    )
    told = replace(deployment, gateway_s=waits.gateway_s, transfer=transfer)
    return simulate_case(replace(case, deployment=told), seed)


def estimates(seen: Sequence[Sighting]) -> Mapping[str, Estimate]:
    """Return the gateway and the hand-over of one engine's rows, as far as it has rows of them."""
    found: dict[str, Estimate] = {}
    for mode, name in (("agg", "gateway_s"), ("disagg", "handover_s")):
        some = [each for each in seen if each.mode == mode]
        if some:
            known = Waits(**{each: value.seconds for each, value in found.items()})
            found[name] = _estimate(some, name, known)
    return found


def _estimate(seen: Sequence[Sighting], name: str, known: Waits) -> Estimate:
    fit = [each for each in seen if each.gpu in FIT_GPUS]
    judged = [each for each in seen if each.gpu == JUDGED_GPU]
    every = _of(seen, known)
    if not fit or not judged:
        return every
    other = _of(fit, known)
    before, after = (
        median(each.error_s(waits) for each in judged)
        for waits in (known, replace(known, **{name: other.seconds}))
    )
    return replace(
        other if after <= before else every,
        unseen=after <= before,
        fitted=len(fit),
        judged=len(judged),
        before_s=before,
        after_s=after,
    )


def _of(seen: Sequence[Sighting], known: Waits) -> Estimate:
    """Return the median of what is short beyond the gateway that is known, in whole ms."""
    beyond = median(each.short_s for each in seen) - known.gateway_s
    gpus = tuple(sorted({each.gpu for each in seen}))
    return Estimate(seconds=max(0.0, round(beyond, 3)), rows=len(seen), gpus=gpus)

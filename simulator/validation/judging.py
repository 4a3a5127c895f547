"""How a published experiment is judged: its runs, what is read of them, and by which rule it holds.

A study is a shipped experiment under some overrides, over a band of step times; a finding puts what
was published beside what came out. Where it does not hold, assumptions are changed one at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from simulator.results import Results
from simulator.scaling import turns

BAND = (0.85, 1.0, 1.15)
"""Factors on every step's seconds: what errors of the latency model may do."""
POINTS = 3.0
"""Percentage points a published share may lie outside of the band."""
NEAR = 0.06
"""Relative distance a published number of workers, or seconds, may lie outside of the band."""

Runs = Mapping[tuple[str, float], Results]
"""Results by variant and step-time factor."""


class Finding(NamedTuple):
    """One published number beside ours: at each factor of the band, and by which rule it holds."""

    what: str
    published: str
    here: str
    holds: bool
    rule: str
    note: str = ""


class Assumption(NamedTuple):
    """What is tried where numbers do not hold: ``changes`` are overrides of every variant.

    Only findings whose names begin with one of ``of`` are told of it.
    """

    what: str
    changes: tuple[str, ...]
    of: tuple[str, ...]


class Tried(NamedTuple):
    """What came of an assumption: a finding as it would be."""

    what: str
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A published experiment: the shipped one of that ``name``, its variants' overrides, its judge.

    ``caveat`` says what of the description is ours, and ``assumptions`` what is tried where numbers
    do not hold. ``held`` are overrides that keep what was published of the set-up at a factor.
    """

    name: str
    title: str
    source: str
    variants: Mapping[str, tuple[str, ...]]
    judge: Callable[[Runs], Sequence[Finding]]
    band: tuple[float, ...] = BAND
    caveat: str = ""
    assumptions: tuple[Assumption, ...] = ()
    held: Callable[[float], tuple[str, ...]] = lambda _: ()

    def overrides(self, variant: str, factor: float, changes: Sequence[str] = ()) -> list[str]:
        """Return what to compose for a variant at a factor, with an assumption's changes."""
        own = (*self.held(factor), *self.variants[variant], *changes)
        name = next((each for each in own if each.startswith("experiment=")), None)
        rest = [each for each in own if each != name]
        return [
            name or f"experiment=policies/{self.name}",
            f"latency.scale={factor:g}",
            "counterpart=false",
            *rest,
        ]

    @property
    def runs(self) -> tuple[tuple[str, float], ...]:
        """Every variant at every factor."""
        return tuple((variant, factor) for variant in self.variants for factor in self.band)

    def doubted(self, found: Sequence[Finding]) -> tuple[Assumption, ...]:
        """Return the assumptions that could tell why something found does not hold."""
        missed = [each.what for each in found if not each.holds]
        return tuple(
            each for each in self.assumptions if any(name.startswith(each.of) for name in missed)
        )

    def tried(
        self, assumption: Assumption, found: Sequence[Finding], runs: Runs
    ) -> tuple[Tried, ...]:
        """Return the findings that do not hold as they come out under an assumption's runs."""
        missed = {each.what for each in found if not each.holds}
        return tuple(
            Tried(assumption.what, each)
            for each in self.judge(runs)
            if each.what in missed and each.what.startswith(assumption.of)
        )


# --- what is read of a run ---------------------------------------------------------------------


def attainment(results: Results) -> float:
    """Return the share of all arrivals within the SLO, in per cent."""
    return 100 * float(results.summary["slo_attainment"])


def workers(results: Results, until_s: float, *, since: str = "ready_s") -> float:
    """Return the mean number of workers over [0, until_s], from ``since`` of their lives on."""
    lives = results.lives
    starts = lives[since].fill_nan(until_s).fill_null(until_s).clip(0, until_s)
    ends = lives["ended_s"].fill_nan(until_s).clip(0, until_s)
    return float((ends - starts).clip(0).sum()) / until_s


def first_tokens(results: Results, until_s: float) -> pl.Series:
    """Return the TTFT of every request that got its first token by then, seconds."""
    told = results.requests.filter(pl.col("first_token_s") <= until_s)
    return told["first_token_s"] - told["arrival_s"]


def changes(results: Results, pool: str, after_s: float, until_s: float) -> list[int]:
    """Return the steps a pool's desired workers took in a span, in order."""
    rows = results.decisions.filter(
        (pl.col("pool") == pool) & pl.col("at_s").is_between(after_s, until_s)
    )
    steps = (rows["granted"] - rows["before"]).to_list()
    return [step for step in steps if step]


def reversals(results: Results, pool: str, after_s: float, until_s: float) -> int:
    """Return how often a pool turned round, growing after it shrank or the other way."""
    return turns(changes(results, pool, after_s, until_s))


def told(values: Sequence[float], digits: int = 1) -> str:
    """Return the values as the page has them."""
    return " / ".join(f"{value:,.{digits}f}" for value in values)


def outside(published: float, values: Sequence[float]) -> float:
    """Return how far a number lies outside of the values' range."""
    return max(min(values) - published, published - max(values), 0.0)


def over(runs: Runs, variant: str, read: Callable[[Results], float]) -> list[float]:
    """Return what is read of a variant's runs, by factor."""
    return [read(results) for (name, _), results in runs.items() if name == variant]


def near(
    what: str, published: float, values: Sequence[float], digits: int = 1, note: str = ""
) -> Finding:
    """Return a finding that holds within :data:`NEAR` of the band."""
    return Finding(
        what,
        f"{published:,g}",
        told(values, digits),
        outside(published, values) <= NEAR * published,
        f"within {NEAR:.0%} of the band",
        note,
    )


def quantile(values: pl.Series, share: float) -> float:
    """Return a quantile, NaN of nothing."""
    found = values.quantile(share)
    return float("nan") if found is None else float(found)


def mean(values: pl.Series) -> float:
    """Return the mean, NaN of nothing."""
    found = values.mean()
    return float(found) if isinstance(found, float) else float("nan")


def answers(results: Results) -> pl.DataFrame:
    """Return the requests whose answers are complete, of two tokens at least."""
    return results.requests.filter(pl.col("finish_s").is_not_null() & (pl.col("output_tokens") > 1))


def gaps_s(results: Results) -> pl.Series:
    """Return each complete answer's mean gap between tokens, which load generators call its ITL."""
    done = answers(results)
    return (done["finish_s"] - done["first_token_s"]) / (done["output_tokens"] - 1)


def tail_gap_ms(results: Results) -> float:
    """Return the P99 of answers' mean gaps, ms."""
    return 1000 * quantile(gaps_s(results), 0.99)


def mean_gap_ms(results: Results) -> float:
    """Return the mean of answers' mean gaps, ms."""
    return 1000 * mean(gaps_s(results))


def tail_s(results: Results, until_s: float = float("inf")) -> float:
    """Return the P99 of the TTFT of first tokens until then, seconds."""
    return quantile(first_tokens(results, until_s), 0.99)


def most_workers(results: Results, until_s: float) -> float:
    """Return how many workers were ready at once at most, until then."""
    ready = results.lives.filter(pl.col("ready_s").fill_nan(None) <= until_s)
    starts, ends = ready["ready_s"], ready["ended_s"].fill_nan(float("inf"))
    return float(max(((starts <= at) & (ends > at)).sum() for at in starts))
